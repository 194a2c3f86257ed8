"""The light installation: what pyproject.toml's base has converts a checkpoint, and whatever needs more says in one
sentence what to install."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from test_layers import MODULES

from llmconv.extras import DASK, EXTRAS, HUB, VERIFY
from llmconv.queries.machine import Machine, text
from llmconv.toolchain.doctor import ABSENT, Check

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
APART = sorted({module for extra in EXTRAS for module in extra.packages.values()})
MAIN = "import sys; from llmconv.cli.main import main; sys.exit(main())"


def names(requirements: list[str]) -> set[str]:
    return {Requirement(text).name for text in requirements}


@pytest.fixture
def light(llmconv_env, tmp_path):
    """light(*argv, **env): runs `llmconv argv` where no process can import what the extras have."""
    place = tmp_path / "light"
    place.mkdir()
    (place / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({APART!r}))\n")

    def run(*argv: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
        paths = {"PYTHONPATH": f"{place}:{ROOT}"}
        return subprocess.run(
            [sys.executable, "-c", MAIN, *map(str, argv)],
            cwd=tmp_path, env=llmconv_env | paths | env, capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    return run


def test_the_extras_are_those_of_pyproject():
    extras = {name: names(found) for name, found in PROJECT["optional-dependencies"].items()}
    assert {extra.name: {*extra.packages} for extra in EXTRAS} == {
        name: extras[name] for name in ("dask", "gguf", "hub", "verify")
    }
    assert "llmconv[dask,gguf,hub,verify]" in PROJECT["optional-dependencies"]["test"]


def test_every_library_that_is_imported_is_asked_for():
    """At the top of a module only those of the base; within functions those of the extras too."""
    base = {module for module, found in packages_distributions().items() if {*found} & names(PROJECT["dependencies"])}
    for name, path in MODULES.items():
        tree = ast.parse(path.read_text())
        typing = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
        for_types = {id(node) for block in typing for node in ast.walk(block)}
        for node in ast.walk(tree):
            if not isinstance(node, (ast.Import, ast.ImportFrom)) or id(node) in for_types:
                continue
            found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            foreign = {one.partition(".")[0] for one in found} - sys.stdlib_module_names - {"llmconv", "", "tomli"}
            allowed = base if node in tree.body else base.union(APART)
            assert (isinstance(node, ast.ImportFrom) and node.level) or foreign <= allowed, (name, ast.unparse(node))


@pytest.mark.compiler
def test_the_base_converts_a_checkpoint(light, checkpoint, tmp_path):
    model = checkpoint("qwen2")
    for argv in (["plan"], ["convert", "--progress", "plain"]):
        done = light(*argv, "-m", model, "-s", "64", "-o", "out")
        assert done.returncode == 0, done.stdout + done.stderr
    assert list((tmp_path / "out").glob("*.bmodel"))
    for argv in (["why", "out"], ["inspect", "out"], ["bench", "out"], ["diff", "out", "out"], ["doctor", model]):
        done = light(*argv)
        assert (done.returncode, done.stderr) == (0, ""), argv
    measured = ["quality", "-m", model, "-o", "quality"]
    for argv in (["verify", "out"], measured, ["run", "out", "Hello"], ["chat", "out"], ["demo", "demo"]):
        told(light(*argv), VERIFY.command)
    assert not (tmp_path / "demo").exists() and not (tmp_path / "quality").exists()


def told(done: subprocess.CompletedProcess[str], command: str) -> None:
    """One sentence on stderr that says what to run, and exit code 2."""
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(r"ERROR: .*(is|are) not installed\. Run `.*`.*\.", line) and command in line


@pytest.mark.parametrize("model", ["Qwen/Qwen2.5-0.5B-Instruct", f"org/name@{'0' * 40}"])
def test_a_model_of_the_hub_needs_its_library(light, model):
    done = light("plan", "-m", model, "-s", "64")
    told(done, HUB.command)
    assert "name a directory" in done.stderr


@pytest.mark.parametrize("words", [["--scheduler", "tcp://127.0.0.1:1"], ["--cluster", "local:2"]])
def test_a_cluster_needs_its_library(light, checkpoint, words, tmp_path):
    told(light("convert", "-m", checkpoint("qwen2"), "-s", "64", "-o", "out", *words), DASK.command)
    assert not (tmp_path / "out").exists()


def test_a_cache_behind_an_address_needs_its_library(light, checkpoint):
    told(light("plan", "-m", checkpoint("qwen2"), "-s", "64", LLMCONV_CACHE_BELOW="http://127.0.0.1:1"), HUB.command)


def test_doctor_tells_what_is_absent_and_is_content(light):
    done = light("doctor")
    assert done.returncode == 0 and done.stdout.rstrip().endswith("All that a conversion needs is there.")
    for extra in EXTRAS:
        assert re.search(rf"^absent +extra {extra.name} ", done.stdout, re.M) and extra.command in done.stdout


def test_what_is_absent_does_not_hide_what_is_missing():
    found = Machine([Check("make", False, "not found"), Check("extra hub", False, "not installed", lack=ABSENT)])
    assert not found.ready and "is there" not in text(found)


def test_workers_need_not_wait_for_the_plans_modules():
    """They start when options are settled, so what is imported for that has none of these (llmconv.convert.run)."""
    program = "import sys, llmconv.cli.actions, llmconv.convert, llmconv.engine.early; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert {"llmconv.convert", "llmconv.engine.early"} <= {*found}
    late = {
        "llmconv.tasks",
        "llmconv.plan.plan",
        "llmconv.plan.tuned",
        "llmconv.report.summary",
        "llmconv.engine.build",
    }
    assert not late & {*found}
