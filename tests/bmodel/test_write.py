"""Combining .bmodel files: equal to the vendor's own tool, in one pass, without holding a file in memory."""

import errno
import fcntl
import hashlib
import os
import resource
import signal
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from bmodels import described
from sample_nets import CHIPS, Compile, embedding, linear, token

from llmconv.bmodel import flushing, write
from llmconv.bmodel.arrange import Piece
from llmconv.bmodel.direct import Direct
from llmconv.bmodel.read import BModel
from llmconv.bmodel.write import Part, Produced, combine
from llmconv.errors import ConvertError
from llmconv.toolchain.find import Toolchain
from llmconv.toolchain.model_tool import model_tool

pytestmark = pytest.mark.compiler


@pytest.fixture(scope="module")
def parts(compiled: Compile) -> dict[str, Path]:
    """Parts for bm1684x by short names."""
    return {
        "ids": compiled(embedding()),
        "ids1": compiled(embedding("embedding_cache", length=1)),
        "head": compiled(token(), quant_output=False),
        "a8": compiled(linear("a", rows=8)),
        "a16": compiled(linear("a", rows=16)),
        "a32": compiled(linear("a", rows=32, seed=1)),
        "b": compiled(linear("b", rows=8)),
        "alone8": compiled(linear("alone", rows=8), addr_mode="io_alone"),
        "alone16": compiled(linear("alone", rows=16), addr_mode="io_alone"),
        "dynamic": compiled(linear("dynamic"), dynamic=True),
        "half": compiled(linear("half"), mode="F16"),
        "debug": compiled(linear("debug"), debug=True),
        "tensor_parallel": compiled(linear("two", k=256, n=256), num_device=2),
        "a16_alone": compiled(linear("a", rows=16), addr_mode="io_alone"),
        "a16_dynamic": compiled(linear("a", rows=16), dynamic=True),
        "a16_half": compiled(linear("a", rows=16), mode="F16"),
        "bm1688": compiled(linear("c"), "bm1688"),
    }


EQUAL = [
    "a8",
    "ids head ids1",  # two nets with one table
    "b a8 ids",
    "a16 b a8 a32",  # three stages of one net
    "alone16 alone8",
    "dynamic half head",
    "debug a8",
    "a8 tensor_parallel",
]


def check_equal(compiler: Toolchain, files: list[Path], folder: Path) -> Path:
    ours, theirs = folder / "ours.bmodel", folder / "theirs.bmodel"
    combine(files, ours, 0)
    model_tool(compiler, "--combine", *files, "-o", theirs)
    mine, vendors = BModel.read(ours), BModel.read(theirs)
    vendors.tree["time"] = mine.tree["time"]
    assert described(mine, "Model", mine.tree) == described(vendors, "Model", vendors.tree)
    assert mine.base % 4096 == 0
    assert ours.stat().st_size - mine.base == theirs.stat().st_size - vendors.base
    for option in ("--info", "--print", "--weight"):
        model_tool(compiler, option, ours)
    return ours


@pytest.mark.parametrize("names", EQUAL)
def test_equals_the_vendors_tool(compiler: Toolchain, parts: dict[str, Path], names: str, tmp_path: Path):
    check_equal(compiler, [parts[name] for name in names.split()], tmp_path)


@pytest.mark.parametrize("chip", CHIPS)
def test_equals_the_vendors_tool_on_every_chip(compiler: Toolchain, compiled: Compile, chip: str, tmp_path: Path):
    samples = [embedding(), embedding("embedding_cache", length=1), linear(), linear("other", seed=1)]
    ours = check_equal(compiler, [compiled(sample, chip) for sample in samples], tmp_path)
    (tmp_path / "again").mkdir()
    # what it wrote, it can read again
    one = check_equal(compiler, [ours, compiled(linear(rows=32), chip)], tmp_path / "again")
    assert [len(net.stages) for net in BModel.read(one).nets] == [1, 1, 2, 1]


def test_extract(compiler: Toolchain, parts: dict[str, Path], tmp_path: Path):
    ours = tmp_path / "ours.bmodel"
    combine([parts["b"], parts["ids"]], ours, 0)
    model_tool(compiler, "--extract", ours)
    assert "embedding" in model_tool(compiler, "--info", ours)


def test_the_same_bytes_anywhere_at_any_time(parts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    files = [parts["a8"], parts["ids"]]
    told = combine(files, tmp_path / "1", 1_700_000_000)
    assert told == hashlib.sha256((tmp_path / "1").read_bytes()).hexdigest()
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    combine(files, tmp_path / "2", 1_700_000_000)
    monkeypatch.undo()
    time.tzset()
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    assert BModel.read(tmp_path / "1").tree["time"] == "Tue Nov 14 22:13:20 2023\n"


@pytest.mark.parametrize(
    "names, why",
    [
        ("a8 a8", "another one has the same input shapes"),
        ("a8 a16_alone", "its address mode differs"),
        ("a8 a16_dynamic", "its tensors or its dynamic mark differ"),
        ("a8 a16_half", "its tensors or its dynamic mark differ"),
        ("a8 bm1688", "its chip is BM1688, the other's BM1684X"),
        ("", "nothing to combine"),
    ],
)
def test_what_does_not_belong_together(parts: dict[str, Path], names: str, why: str, tmp_path: Path):
    with pytest.raises(ConvertError, match=why):
        combine([parts[name] for name in names.split()], tmp_path / "out", 0)
    assert not (tmp_path / "out").exists()


def damaged(part: Path, folder: Path) -> Path:
    """A copy with one bit of the coefficients changed."""
    data = bytearray(part.read_bytes())
    data[BModel.read(part).nets[0].stages[0].coeff.offset + 100] ^= 1
    copy = folder / "damaged.bmodel"
    copy.write_bytes(data)
    return copy


def test_damaged_coefficients(parts: dict[str, Path], tmp_path: Path):
    with pytest.raises(ConvertError, match="coeff_mem.binary_coeff is damaged: its sha256 should be"):
        combine([parts["ids"], damaged(parts["a8"], tmp_path)], tmp_path / "out", 0)
    assert not (tmp_path / "out").exists()


def test_stamps(compiler: Toolchain, compiled: Compile, parts: dict[str, Path], tmp_path: Path):
    """A template with another net's name and coefficients is that other net, apart from the time."""
    wanted = BModel.read(compiled(linear("c", rows=8, seed=5)))
    blob = wanted.nets[0].stages[0].coeff
    given = Produced(blob.size, lambda: iter([wanted.content(blob)[:1000], wanted.content(blob)[1000:]]))
    combine([parts["a8"], Part(parts["a8"], "c", given)], tmp_path / "stamped.bmodel", 0)
    combine([parts["a8"], wanted.path], tmp_path / "compiled.bmodel", 0)
    assert (tmp_path / "stamped.bmodel").read_bytes() == (tmp_path / "compiled.bmodel").read_bytes()
    assert (
        BModel.read(tmp_path / "stamped.bmodel").net("c").stages[0].coeff_sha256
        == wanted.nets[0].stages[0].coeff_sha256
    )
    assert "net 1: [c]" in model_tool(compiler, "--info", tmp_path / "stamped.bmodel")


def test_stamps_that_cannot_be(parts: dict[str, Path], tmp_path: Path):
    size = BModel.read(parts["a8"]).nets[0].stages[0].coeff.size
    out = tmp_path / "out"
    with pytest.raises(ConvertError, match=f"its coefficients have {size} bytes, the new ones 5"):
        combine([Part(parts["a8"], "c", Produced(5, lambda: [b"12345"]))], out, 0)
    with pytest.raises(ConvertError, match=f"{size} bytes are expected and there are 5"):
        combine([Part(parts["a8"], "c", Produced(size, lambda: [b"12345"]))], out, 0)
    with pytest.raises(ConvertError, match="its sha256 should be 00"):
        combine([Part(parts["a8"], "c", Produced(size, lambda: [bytes(size)], "00" * 32))], out, 0)
    (tmp_path / "c.coeff").write_bytes(bytes(size))
    with pytest.raises(ConvertError, match=r"its XXH3 should be 11.*Delete .*c\.coeff and run again"):
        combine([Part(parts["a8"], "c", Piece(tmp_path / "c.coeff", 0, size, "00" * 32, "11" * 16))], out, 0)
    combine([parts["a8"], parts["b"]], tmp_path / "two", 0)
    with pytest.raises(ConvertError, match="two cannot be stamped: it has 2 nets"):
        combine([Part(tmp_path / "two", "c")], out, 0)
    assert not out.exists()


def test_equal_blobs_are_stored_once_and_nothing_is_held(compiled: Compile, tmp_path: Path):
    """Eight nets of 32 MiB with two contents: the file has both once, and the memory holds neither."""
    part = compiled(linear("big", rows=1, k=4096, n=4096))
    size = BModel.read(part).nets[0].stages[0].coeff.size
    assert size == 2 * 4096 * 4096

    def content(value: int) -> Produced:
        def chunks() -> Iterator[bytes]:
            for _ in range(size >> 20):
                yield bytes([value]) * (1 << 20)

        return Produced(size, chunks)

    out = tmp_path / "out"
    tracemalloc.start()
    combine([Part(part, f"net{number}", content(number % 2)) for number in range(8)], out, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20
    assert out.stat().st_size < 2 * size + (8 << 20)
    bmodel = BModel.read(out)
    for number, net in enumerate(bmodel.nets):
        coeff = net.stages[0].coeff
        expected = hashlib.sha256(bytes([number % 2]) * size).hexdigest()
        assert bmodel.sha256(coeff) == net.stages[0].coeff_sha256 == expected


def test_padding_is_zero(parts: dict[str, Path], tmp_path: Path):
    """What lies between the blobs is zero, also behind one that is in two places."""
    size = BModel.read(parts["a8"]).nets[0].stages[0].coeff.size
    ones = Produced(size, lambda: [b"\1" * size])
    again = Produced(size, lambda: [b"\1" * size])
    combine([Part(parts["a8"], "x", ones), Part(parts["a8"], "y", again), parts["half"]], tmp_path / "out", 0)
    bmodel = BModel.read(tmp_path / "out")
    data = np.fromfile(tmp_path / "out", np.uint8)
    stages = [net.stages[0] for net in bmodel.nets]
    for blob in [blob for stage in stages for group in stage.commands for blob in (group.bdc, group.gdma)]:
        assert not data[blob.offset + blob.size : blob.offset + blob.size + -blob.size % 4096].any()


def refusing(*_: int) -> int:
    raise OSError(errno.EXDEV, "not between these file systems")


def hesitant(source: int, target: int, size: int, offset: int, place: None) -> int:
    """Copies a part of what it is asked for."""
    return os.write(target, os.pread(source, size // 3, offset))


@pytest.mark.parametrize("copy", [refusing, hesitant, None])
def test_where_the_kernel_does_not_copy(
    parts: dict[str, Path], copy: Callable | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole, other = tmp_path / "whole", tmp_path / "other"
    sha256 = combine([parts["a8"], parts["half"]], whole, 0)
    if copy:
        monkeypatch.setattr(os, "copy_file_range", copy)
    else:  # Pythons that were built with an old glibc have none
        monkeypatch.delattr(os, "copy_file_range")
    assert combine([parts["a8"], parts["half"]], other, 0) == sha256
    assert other.read_bytes() == whole.read_bytes() and hashlib.sha256(other.read_bytes()).hexdigest() == sha256


SHARING = [None, False, True]  # None: too small a file to ask


@pytest.mark.parametrize("sharing", SHARING)
def test_large_files(parts: dict[str, Path], sharing: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """They go past the page cache, but where file systems share blocks: there the kernel copies."""
    asked, copied, past = [], [], []

    def clone(to: int, what: int, given: bytes) -> int:
        assert what == 0x4020940D
        source, offset, size, at = struct.unpack("=qQQQ", given)
        asked.append((offset % 4096, size, at))
        if not sharing:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        os.pwrite(to, os.pread(source, size, offset), at)
        return 0

    def copy(source: int, target: int, size: int, offset: int, place: None) -> int:
        copied.append(size)
        return os.write(target, os.pread(source, size, offset))

    class Recorded(Direct):
        def write(self, chunk: bytes | memoryview) -> None:
            past.append(memoryview(chunk).nbytes)
            super().write(chunk)

    wanted = tmp_path / "wanted"
    sha256 = combine([parts["a8"], parts["half"]], wanted, 0)
    monkeypatch.setattr(write, "LARGE", 1 << 40 if sharing is None else 0)
    monkeypatch.setattr(write, "Direct", Recorded)
    monkeypatch.setattr(fcntl, "ioctl", clone)
    monkeypatch.setattr(os, "copy_file_range", copy)
    assert combine([parts["a8"], parts["half"]], tmp_path / "out", 0) == sha256
    assert (tmp_path / "out").read_bytes() == wanted.read_bytes()
    assert asked == ([] if sharing is None else [(0, 4096, 0)])
    assert bool(copied) == (sharing is not False) and sum(past) == (wanted.stat().st_size if sharing is False else 0)


@pytest.mark.parametrize("past_the_cache", [False, True])
def test_disk_full(past_the_cache: bool, parts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As far as a limit on the file's size can stand for it."""
    monkeypatch.setattr(write, "LARGE", 0 if past_the_cache else 1 << 40)
    out = tmp_path / "out"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(ConvertError, match=f"cannot write {out}: File too large"):
            combine([parts["a8"]], out, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert not out.exists()


def test_a_disk_that_fails_behind_the_writing(parts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whoever syncs is told of it, and nobody after that."""
    synced: list[int] = []

    def failing(descriptor: int) -> None:
        synced.append(descriptor)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(flushing, "STEP", 1)
    monkeypatch.setattr(os, "fdatasync", failing)
    out = tmp_path / "out"
    with pytest.raises(ConvertError, match=f"cannot write {out}: Input/output error"):
        combine([parts["a8"], parts["half"]], out, 0)
    assert synced and not out.exists()


def test_result_is_no_part(parts: dict[str, Path], tmp_path: Path):
    combine([parts["a8"]], tmp_path / "out", 0)
    with pytest.raises(ConvertError, match="cannot be both a part and the result"):
        combine([parts["ids"], tmp_path / "out"], tmp_path / "out", 0)
    assert BModel.read(tmp_path / "out").nets[0].name == "a"


def test_no_folder(parts: dict[str, Path], tmp_path: Path):
    with pytest.raises(ConvertError, match="cannot write .*: No such file"):
        combine([parts["a8"]], tmp_path / "missing" / "out", 0)


def test_leaves_no_file_open(parts: dict[str, Path], tmp_path: Path, nothing_open):
    sha256 = combine([parts["a8"], parts["ids"]], tmp_path / "out", 0)
    assert hashlib.sha256((tmp_path / "out").read_bytes()).hexdigest() == sha256
    assert not [link for link in map(os.path.realpath, Path("/proc/self/fd").iterdir()) if str(tmp_path) in link]
