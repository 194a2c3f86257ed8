"""Which packages (here: rooms) llmconv has, on which floors, and that imports run down only, in no circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOOSE = {
    "__init__",
    "doit_entry",
    "api",
    "doit",
    "ending",
    "front",
    "user_cache",
    "convert",
    "chips",
    "words",
    "numeric",
    "errors",
    "extras",
    "py.typed",
}  # files in llmconv/ itself

# From top to bottom: the rooms of a floor, and why they stand there. A room imports from floors below its own, never
# from its neighbours
FLOORS = (
    ({"dodo"}, "doit opens it; it only opens the door"),
    ({"cli", "doit", "doit_entry", "doit_verbs"}, "front doors: options to one call, errors to exit codes"),
    ({"api", "jobs"}, "the front door for Python, with exceptions; several conversions as one graph"),
    (
        {"convert", "quality"},
        "the one run: it brings request, graph, engine and listeners together; what quantisation costs on a text",
    ),
    (
        {"queries", "report", "tuning"},
        "what is told before and after a build, from the plan and the state of its tasks; graphs that are measured first",
    ),
    ({"tasks"}, "the graph: a plan's nets as tasks, and what each task does"),
    ({"verify"}, "proves what was built, by the plan and by the model's own maths"),
    ({"compile", "runtime"}, "makes one net of a plan; runs what was made"),
    ({"plan"}, "which nets a request comes to, for the family of its checkpoint"),
    ({"families"}, "each model family, out of blocks"),
    (
        {"blocks", "request", "coefficients", "simulator"},
        "parts of models; what is asked; how weights are stored; the chip",
    ),
    ({"hub"}, "brings a checkpoint, and has the table of its tensors before it is there"),
    (
        {"checkpoint", "top", "bmodel", "toolchain", "engine"},
        "files, languages and programs that know nothing of each other",
    ),
    ({"extras"}, "which libraries are installed apart"),
    (
        {"chips", "words", "numeric", "ending", "errors", "front", "user_cache", "llmconv"},
        "facts, wording and arithmetic that anything may use",
    ),
)
LEVEL = {room: level for level, (rooms, _) in enumerate(FLOORS) for room in rooms}


def _modules() -> dict[str, Path]:
    """Every module by its dotted name as it is imported; tasks/ is installed as llmconv.tasks."""
    found = {"dodo": ROOT / "dodo.py"}
    for folder, name in ((ROOT / "llmconv", "llmconv"), (ROOT / "tasks", "llmconv.tasks")):
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join([name, *parts]).removesuffix(".__init__")] = path
    return found


MODULES = _modules()


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Everything in a module, within functions too, but for what only type checkers read."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in node.orelse:
                yield other
                yield from _nodes(other)
            continue
        yield node
        yield from _nodes(node)


def imported(name: str, source: str, package: bool = False) -> set[str]:
    """The modules of ours that a module imports. package: it is the __init__ of one."""
    found = set()
    for node in _nodes(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = name.split(".")[: len(name.split(".")) + package - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in node.names}
    return (found & MODULES.keys()) - {name}


def room(name: str) -> str:
    """llmconv.engine.build is in the room engine."""
    return name.split(".")[1] if "." in name else name


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """Module -> the modules that it imports."""
    return {name: imported(name, path.read_text("utf-8"), path.stem == "__init__") for name, path in MODULES.items()}


def circle(imports: dict[str, set[str]]) -> list[str]:
    """The modules of a circle of imports, in order; [] when there is none."""
    done: set[str] = set()

    def walk(name: str, way: list[str]) -> list[str]:
        if name in way:
            return way[way.index(name) :]
        if name not in done:
            for other in sorted(imports[name]):
                if found := walk(other, [*way, name]):
                    return found
            done.add(name)
        return []

    return next((found for name in sorted(imports) if (found := walk(name, []))), [])


def test_imports_are_read_wherever_they_stand():
    source = """
import llmconv.words
from llmconv import chips, __version__
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from llmconv.plan.plan import Plan
else:
    from . import shapes
def late():
    from ..engine import cache
    from .compile import tasks
"""
    found = {
        "llmconv.words",
        "llmconv.chips",
        "llmconv",
        "llmconv.tasks.shapes",
        "llmconv.engine.cache",
        "llmconv.tasks.compile",
    }
    assert imported("llmconv.tasks.check", source) == found
    assert imported("llmconv.tasks", "from . import check") == {"llmconv"}, (
        "of a module, . is the package that it is in"
    )
    assert imported("llmconv.tasks", "from . import check", package=True) == {"llmconv.tasks.check"}


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": set(), "d": {"b"}}) == []
    assert sorted(circle({"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": {"b"}})) == ["b", "c", "d"]


def test_no_modules_import_each_other_in_a_circle(imports):
    assert circle(imports) == []


def test_every_room_has_its_floor():
    assert {room(name) for name in MODULES} == LEVEL.keys()


def test_arrows_run_down_only(imports):
    upward = {
        f"{name} imports {other}"
        for name, others in imports.items()
        for other in others
        if room(name) != room(other) and LEVEL[room(other)] <= LEVEL[room(name)]
    }
    assert not upward


def test_no_files_lie_loose_in_the_hall():
    assert {path.name.removesuffix(".py") for path in (ROOT / "llmconv").iterdir() if path.is_file()} <= LOOSE
