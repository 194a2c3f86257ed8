"""The kernels' shared cache: what is published, what never is, and what a new compile sees."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from llmconv.toolchain import jit


def _made(private: Path, key: str) -> None:
    """A kernel as the JIT leaves it."""
    for part in ("build", "lib"):
        (private / key / part).mkdir(parents=True)
    (private / key / "lib" / "libx.so").write_text(key)
    (private / key / "compiled").touch()


def test_publish_and_seed(tmp_path: Path) -> None:
    shared, one, two = tmp_path / "shared", tmp_path / "one", tmp_path / "two"
    jit.seed(shared, one)
    assert (one / "flag.txt").read_text() == ""
    _made(one, "11")
    (one / "flag.txt").write_text("11 0\n12 17\n13 32512\n")
    assert jit.publish(one, shared) == {"13": 32512}
    assert sorted(p.relative_to(shared).as_posix() for p in shared.rglob("*")) == [
        "11",
        "11/compiled",
        "11/lib",
        "11/lib/libx.so",
        "12.unfit",
    ]
    jit.seed(shared, two)
    assert (two / "11" / "lib" / "libx.so").read_text() == "11"
    assert sorted((two / "flag.txt").read_text().splitlines()) == ["11 0", "12 17"], (
        "a broken machine's 32512 is not remembered"
    )
    assert jit.publish(two, shared) == {}


def test_half_made_entries_are_neither_published_nor_seen(tmp_path: Path) -> None:
    shared, one = tmp_path / "shared", tmp_path / "one"
    (shared / "21" / "lib").mkdir(parents=True)  # no `compiled`
    (shared / "part.killed").mkdir()
    jit.seed(shared, one)
    assert [p.name for p in one.iterdir()] == ["flag.txt"]
    (one / "22" / "lib").mkdir(parents=True)
    (one / "flag.txt").write_text("22 0\n")
    jit.publish(one, shared)
    assert not (shared / "22").exists()


def test_an_unwritable_shared_folder_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    jit.seed(tmp_path / "none", tmp_path / "one")
    _made(tmp_path / "one", "31")
    (tmp_path / "one" / "flag.txt").write_text("31 0\n32 17\nodd line\n")
    assert jit.publish(tmp_path / "one", tmp_path / "file" / "shared") == {}


def test_many_publish_the_same_kernel(tmp_path: Path) -> None:
    privates = [tmp_path / f"p{i}" for i in range(8)]
    for private in privates:
        jit.seed(tmp_path / "shared", private)
        for key in ("41", "42"):
            _made(private, key)
        (private / "flag.txt").write_text("41 0\n42 0\n43 17\n")
    threads = [threading.Thread(target=jit.publish, args=(p, tmp_path / "shared")) for p in privates]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(p.name for p in (tmp_path / "shared").iterdir()) == ["41", "42", "43.unfit"]
    assert (tmp_path / "shared/41/lib/libx.so").read_text() == "41"


@pytest.mark.parametrize(
    "path, plain",
    [
        ("/a/b-c_d.e+f@1", True),
        ("/a b", False),
        ("/a'b", False),
        ("/a:b", False),
        ("/a$b", False),
        ("/ä", False),
        ("/a;b", False),
    ],
)
def test_plain(path: str, plain: bool) -> None:
    assert jit.plain(Path(path)) is plain


def test_kernels_are_apart_by_compiler(tmp_path: Path) -> None:
    assert jit.kernels(tmp_path, "1.30.2", "a" * 64) != jit.kernels(tmp_path, "1.30.2", "b" * 64)
