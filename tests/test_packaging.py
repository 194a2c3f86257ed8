"""Wheel and sdist: built as a release would, installed, and run away from the checkout; and the Python versions that
they name."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
OLDEST, NEWEST = (3, 10), (3, 13)
SOURCES = [
    *sorted(p for folder in ("llmconv", "tasks", "tests", "benchmarks") for p in (ROOT / folder).rglob("*.py")),
    ROOT / "dodo.py",
]


def run(*argv: str | Path, cwd: Path, **env: str) -> str:
    """Run a program without this process's Python settings; returns what it printed."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | env
    done = subprocess.run([str(a) for a in argv], cwd=cwd, env=clean, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{argv} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(wheel, sdist); the wheel is built from the sdist, so it also shows that the sdist has everything."""
    out, source = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("source") / "llmconv"
    # a copy: what an earlier build left in the checkout (a list of files) must not count
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".*", "*.egg-info", "build", "dist", "demo", "__pycache__")
    )
    run(sys.executable, "-m", "build", "--outdir", out, source, cwd=out)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin/ of a fresh environment with the wheel; what llmconv depends on comes from this environment."""
    place = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", place, cwd=place)
    run(
        place / "bin" / "python",
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-index",
        built[0],
        cwd=place,
    )
    (site,) = place.glob("lib/python*/site-packages")
    # a path in a .pth file is not searched for .pth files in turn, so the llmconv of this environment stays out
    (site / "dependencies.pth").write_text("\n".join(p for p in sys.path if p.endswith("-packages")))
    return place / "bin"


def test_the_wheel_has_every_module_and_data_file(built):
    with zipfile.ZipFile(built[0]) as wheel:
        packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
        metadata = Parser().parsestr(wheel.read(next(n for n in wheel.namelist() if n.endswith("/METADATA"))).decode())
    wanted = {f"llmconv/tasks/{p.name}" for p in (ROOT / "tasks").glob("*.py")}
    wanted |= {
        str(p.relative_to(ROOT)) for p in (ROOT / "llmconv").rglob("*") if p.is_file() and "__pycache__" not in p.parts
    }
    assert packed == wanted
    assert metadata["Name"] == "llmconv" and metadata["Requires-Python"] == "<3.14,>=3.10"
    named = {
        c.rpartition(" ")[2]
        for c in metadata.get_all("Classifier")
        if c.startswith("Programming Language :: Python :: 3.")
    }
    assert named == {f"3.{minor}" for minor in range(OLDEST[1], NEWEST[1] + 1)}


def test_the_sdist_is_a_checkout(built):
    with tarfile.open(built[1]) as sdist:
        packed = {name.partition("/")[2] for name in sdist.getnames()}
    locks = {"requirements.lock", "requirements-oldest.lock"}
    words = {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE"}
    words |= {str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md")}
    assert {"run", "dodo.py", "pyproject.toml"} | locks | words <= packed
    assert {*(str(p.relative_to(ROOT)) for p in SOURCES)} <= packed
    assert any(name.startswith("tests/golden/") for name in packed)


def depended_on(wheel: Path) -> list[Requirement]:
    """What the wheel asks of others, its extras too."""
    with zipfile.ZipFile(wheel) as file:
        metadata = Parser().parsestr(file.read(next(n for n in file.namelist() if n.endswith("/METADATA"))).decode())
    asked = [Requirement(text) for text in metadata.get_all("Requires-Dist")]
    return [requirement for requirement in asked if requirement.name != "llmconv"]  # one extra has others


def locked(name: str, minor: int) -> dict[str, Version]:
    """The versions of a lock for Python 3.<minor>; it may have one of each."""
    lines = (ROOT / name).read_text().splitlines()
    machine = {"python_version": f"3.{minor}", "python_full_version": f"3.{minor}.9"}
    machine |= {"sys_platform": "linux", "platform_machine": "x86_64"}
    pins = [Requirement(line) for line in lines if line and line[0] != "#"]
    wanted = [pin for pin in pins if pin.marker is None or pin.marker.evaluate(machine)]
    found = {r.name: Version(str(r.specifier).removeprefix("==")) for r in wanted}
    assert len(found) == len(wanted)
    return found


@pytest.mark.parametrize("minor", range(OLDEST[1], NEWEST[1] + 1))
def test_the_lock_fits(built, minor):
    """Every Python has a version of everything, within the bounds; nothing is for other processors than this one."""
    versions = locked("requirements.lock", minor)
    for requirement in depended_on(built[0]):
        marker = requirement.marker
        if marker and not marker.evaluate({"python_version": f"3.{minor}", "extra": ""}) and "extra" not in str(marker):
            continue  # not for this Python
        assert versions[requirement.name.replace("_", "-")] in requirement.specifier, requirement
    assert not [name for name in versions if name.startswith(("nvidia", "cuda", "triton"))]
    assert f"torch=={versions['torch']}" in (ROOT / "run").read_text()


def test_the_oldest_lock_is_the_lower_bounds(built):
    versions = locked("requirements-oldest.lock", OLDEST[1])
    asked = [r for r in depended_on(built[0]) if not (r.marker and r.marker.evaluate({"extra": "dev"}))]
    for requirement in asked:  # what checks the sources is pinned
        (lowest,) = (Version(s.version) for s in requirement.specifier if s.operator == ">=")
        assert versions[requirement.name.replace("_", "-")] == lowest, requirement
        assert requirement.name == "pip" or any(s.operator == "<" for s in requirement.specifier), requirement


@pytest.mark.compiler
def test_the_wheel_runs_away_from_the_checkout(installed, checkpoint, llmconv_env, tmp_path):
    env = {k: llmconv_env[k] for k in ("TPUC_ROOT", "LLMCONV_CACHE")}
    where = run(
        installed / "python",
        "-c",
        "import llmconv, llmconv.tasks; print(llmconv.__file__, llmconv.tasks.__file__)",
        cwd=tmp_path,
    )
    assert where.count(str(installed.parent)) == 2
    run(
        installed / "llm_convert",
        "-m",
        checkpoint("qwen2"),
        "-s",
        "64",
        "-q",
        "w4bf16",
        "-o",
        "out",
        cwd=tmp_path,
        **env,
    )
    assert (
        len(list((tmp_path / "out").glob("*.bmodel"))) == 1
        and "uPlot" in (tmp_path / "out" / "report.html").read_text()
    )
    made = json.loads(run(installed / "llmconv", "inspect", "out", "--json", cwd=tmp_path, **env))
    assert len(made["nets"]) == 7 and made["provenance"]["job"]["quantize"] == "w4bf16"
    assert "llmconv 0.1.0" in run(installed / "llmconv", "-V", cwd=tmp_path, **env)


def test_the_syntax_is_that_of_the_oldest_python():
    for path in SOURCES:
        ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=OLDEST)


def vermin(*paths: Path) -> subprocess.CompletedProcess[str]:
    """vermin's exit code is 1 when a file needs a newer Python than the oldest, by its syntax or by names of the
    standard library."""
    program = "from vermin import main; main()"
    argv = [
        sys.executable,
        "-c",
        program,
        f"--target={OLDEST[0]}.{OLDEST[1]}-",
        "--no-tips",
        "--violations",
        *map(str, paths),
    ]
    return subprocess.run(argv, capture_output=True, text=True, timeout=600)


def test_nothing_of_a_newer_python_is_used(tmp_path):
    done = vermin(*SOURCES)
    assert done.returncode == 0, done.stdout + done.stderr
    newer = tmp_path / "newer.py"
    newer.write_text("import tomllib\n")
    done = vermin(newer)
    assert done.returncode == 1 and "3.11" in done.stdout, "vermin does not find what it should"
