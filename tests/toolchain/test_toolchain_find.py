"""Where the compiler is looked for, in which order, and what a wrong place is told."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from llmconv.errors import InputError, ToolError
from llmconv.toolchain import digests
from llmconv.toolchain.find import find
from llmconv.toolchain.find import find as found_by
from llmconv.toolchain.pinned import FOLDER, GLIBC
from llmconv.user_cache import cache_dir

module = __import__("importlib").import_module("llmconv.toolchain.find")


def _install(monkeypatch: pytest.MonkeyPatch, root: Path | None) -> None:
    spec = SimpleNamespace(submodule_search_locations=[str(root)]) if root else None
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: spec)


def test_cache_dir() -> None:
    assert cache_dir({"LLMCONV_CACHE": "/a"}) == Path("/a")
    assert cache_dir({"XDG_CACHE_HOME": "/x", "HOME": "/h"}) == Path("/x/llmconv")
    assert cache_dir({"XDG_CACHE_HOME": "not/absolute", "HOME": "/h"}) == Path("/h/.cache/llmconv"), (
        "the XDG standard says so"
    )
    assert cache_dir({"HOME": "/h"}) == Path("/h/.cache/llmconv")


def test_order(fake, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, None)
    assert find(own_cache) is None
    own_cache.mkdir()
    fake().root.rename(own_cache / FOLDER)
    assert find(own_cache).root == own_cache / FOLDER
    installed = fake(name="site/tpu_mlir").root
    _install(monkeypatch, installed)
    assert find(own_cache).root == installed
    named = fake(name="named").root
    monkeypatch.setenv("TPUC_ROOT", str(named))
    assert find(own_cache).root == named


def test_a_package_without_programs_is_passed_over(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install(monkeypatch, tmp_path)
    assert find(own_cache) is None


@pytest.mark.parametrize(
    "harm, words",
    [
        (lambda root: root.rename(root.with_name("elsewhere")), "no such folder"),
        (lambda root: (root / "bin/tpuc-opt").unlink(), "bin/tpuc-opt is missing"),
        (lambda root: (root / "bin/tpuc-opt").chmod(0o644), "may not be executed"),
    ],
)
def test_a_wrong_tpuc_root_is_refused(fake, own_cache: Path, harm, words: str) -> None:
    root = fake().root
    harm(root)
    with pytest.raises(InputError, match=words) as caught:
        find(own_cache, {"TPUC_ROOT": str(root)})
    assert "TPUC_ROOT" in str(caught.value) and "\n" not in str(caught.value)


def test_a_compiler_that_does_not_run(fake, own_cache: Path) -> None:
    root = fake("echo 'error while loading shared libraries: libtinfo.so.6: cannot open' >&2; exit 127").root
    with pytest.raises(ToolError, match="libtinfo.so.6"):
        find(own_cache, {"TPUC_ROOT": str(root)})


def test_version(fake, tmp_path: Path, own_cache: Path) -> None:
    root = fake(name="lib/tpu_mlir").root
    assert find(own_cache, {"TPUC_ROOT": str(root)}).version == "unknown"
    with open(root / "bin/tpuc-opt", "ab") as file:
        file.write(b"exit\n\0v1.28.1-20260429\0")
    assert find(own_cache, {"TPUC_ROOT": str(root)}).version == "1.28.1"
    (root.parent / "tpu_mlir-1.30.2.dist-info").mkdir()
    assert find(own_cache, {"TPUC_ROOT": str(root)}).version == "1.30.2"


def test_the_digest_is_remembered_and_follows_content(fake, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, hashed = fake('echo ran >> "$0.runs"').root, []
    true_sha256 = digests.sha256
    monkeypatch.setattr(digests, "sha256", lambda path: hashed.append(path) or true_sha256(path))
    first = found_by(own_cache, {"TPUC_ROOT": str(root)})
    assert hashed and (root / "bin/tpuc-opt.runs").read_text() == "ran\n"
    hashed.clear()
    assert find(own_cache, {"TPUC_ROOT": str(root)}) == first
    assert not hashed and (root / "bin/tpuc-opt.runs").read_text() == "ran\n", "neither hashed nor run again"
    stat = (root / "lib/libppl_host.so").stat()
    (root / "lib/libppl_host.so").write_text("another")
    os.utime(root / "lib/libppl_host.so", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert find(own_cache, {"TPUC_ROOT": str(root)}).digest != first.digest


def test_a_change_that_restores_the_time_is_seen(fake, own_cache: Path) -> None:
    root = fake().root
    first, file = find(own_cache, {"TPUC_ROOT": str(root)}), root / "lib/libppl_host.so"
    before = file.stat()
    file.write_text(file.read_text()[::-1])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert find(own_cache, {"TPUC_ROOT": str(root)}).digest != first.digest


def test_the_digest_does_not_depend_on_the_place(fake, own_cache: Path) -> None:
    one, two = fake(name="one").root, fake(name="two").root
    (two / "lib/libbackend_bm1690.so").write_text("another chip")
    (two / "README").write_text("no part in any net")
    assert find(own_cache, {"TPUC_ROOT": str(one)}).digest == find(own_cache, {"TPUC_ROOT": str(two)}).digest


def test_a_cache_that_cannot_be_written_only_costs_time(fake, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert find(tmp_path / "file" / "cache", {"TPUC_ROOT": str(fake().root)}) is not None


def test_bundled_glibc_is_left_out(fake, own_cache: Path) -> None:
    root = fake().root
    (root / "lib/third_party").mkdir()
    for name in (*GLIBC, "libomp.so.5"):
        (root / "lib/third_party" / name).write_text(name)
    found = find(own_cache, {"TPUC_ROOT": str(root)})
    assert found.root.is_relative_to(own_cache / "shadow")
    assert [p.name for p in (found.root / "lib/third_party").iterdir()] == ["libomp.so.5"]
    assert not (found.root / "bin/tpuc-opt").is_symlink(), "the loader takes $ORIGIN from a program's real path"
    assert (found.root / "cross_toolchains/ppl_compile/bin/ppl-compile").is_file()
    assert find(own_cache, {"TPUC_ROOT": str(root)}) == found


def test_bundled_glibc_and_no_place_for_a_view(fake, tmp_path: Path) -> None:
    root = fake().root
    (root / "lib/third_party").mkdir()
    (root / "lib/third_party/libc.so.6").write_text("")
    (tmp_path / "file").write_text("")
    with pytest.raises(ToolError, match="carries its own glibc"):
        find(tmp_path / "file" / "cache", {"TPUC_ROOT": str(root)})
