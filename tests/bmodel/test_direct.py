"""Files that are written past the page cache: the same bytes, whatever the file system can."""

import errno
import fcntl
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from llmconv.bmodel.direct import BUFFER, Direct

SIZES = [0, 1, 4095, 4096, 4097, BUFFER - 1, BUFFER, BUFFER + 1, 4 * BUFFER + 5000]
WRITE = os.write


def direct(descriptor: int) -> bool:
    return bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT)


def can(folder: Path) -> bool:
    """Whether files there can be written past the page cache."""
    try:
        os.close(os.open(folder / "probe", os.O_CREAT | os.O_WRONLY | os.O_DIRECT))
    except OSError:
        return False
    return True


def written(path: Path, content: bytes) -> None:
    """Write it in chunks of all sizes."""
    rng, at = random.Random(len(content)), 0
    with path.open("wb", buffering=0) as file, Direct(file.fileno()) as to:
        while at < len(content):
            size = rng.choice([1, 5, 4096, 70_000, BUFFER, 2 * BUFFER + 3])
            to.write(memoryview(content)[at : at + size])
            at += size


@pytest.mark.parametrize("size", SIZES)
def test_bytes_and_how_they_go(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ways: list[tuple[bool, int]] = []

    def recorded(descriptor: int, data: memoryview) -> int:
        ways.append((direct(descriptor), len(data)))
        return WRITE(descriptor, data)

    monkeypatch.setattr(os, "write", recorded)
    content = random.Random(0).randbytes(size)
    written(tmp_path / "file", content)
    assert (tmp_path / "file").read_bytes() == content
    assert sum(n for _, n in ways) == size
    # all whole blocks, if they can; the last bytes of a file that ends within one cannot
    assert sum(n for past, n in ways if past) == (size // 4096 * 4096 if can(tmp_path) else 0)


def refusing(descriptor: int, data: memoryview) -> int:
    """A file system that takes the flag, and then not the write."""
    if direct(descriptor):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return WRITE(descriptor, data)


def short(descriptor: int, data: memoryview) -> int:
    return WRITE(descriptor, data[:4096])


@pytest.mark.parametrize("write", [refusing, short])
@pytest.mark.parametrize("size", [4097, 2 * BUFFER + 5000])
def test_file_systems_that_do_less(size: int, write: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "write", write)
    content = random.Random(1).randbytes(size)
    written(tmp_path / "file", content)
    assert (tmp_path / "file").read_bytes() == content


def test_no_flag_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plain = fcntl.fcntl

    def without(descriptor: int, what: int, *given: int) -> int:
        if what == fcntl.F_SETFL and given[0] & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return plain(descriptor, what, *given)

    monkeypatch.setattr(fcntl, "fcntl", without)
    content = random.Random(2).randbytes(BUFFER + 5000)
    written(tmp_path / "file", content)
    assert (tmp_path / "file").read_bytes() == content


@pytest.mark.parametrize("good", [0, 1, 4])
def test_a_disk_that_is_full(good: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    left, before = [good], threading.active_count()

    def filling(descriptor: int, data: memoryview) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left[0] -= 1
        return WRITE(descriptor, data)

    monkeypatch.setattr(os, "write", filling)
    with pytest.raises(OSError, match="No space left"):
        written(tmp_path / "file", bytes(8 * BUFFER))
    assert threading.active_count() == before


def test_what_fails_elsewhere_is_told(tmp_path: Path):
    """And the descriptor is an ordinary one again."""
    with (tmp_path / "file").open("wb", buffering=0) as file:
        with pytest.raises(ZeroDivisionError), Direct(file.fileno()) as to:
            to.write(bytes(100))
            raise ZeroDivisionError
        assert not direct(file.fileno())
        file.write(b"it can be written to as before")
