"""The sha256 of a whole file and the digests of its tensors come from one read; what is damaged leaves the cache."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path

import pytest

from llmconv.checkpoint import digest
from llmconv.errors import ConvertError, InputError
from llmconv.hub import Name
from llmconv.hub.damage import digests
from llmconv.hub.errors import Stopped, explained
from llmconv.hub.weights import Meter, bar

WRONG = "0" * 64


@pytest.fixture
def shard(checkpoint, tmp_path) -> Path:
    return Path(shutil.copy(checkpoint("qwen2") / "model.safetensors", tmp_path))


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("piece", [997, 4096, 1 << 30])
def test_both_digests_from_pieces_of_any_size(shard, monkeypatch, piece):
    tensors = digest.tensor_digests(shard)
    monkeypatch.setattr(digest, "CHUNK", piece)
    assert digest.checked_digests(shard, sha256(shard)) == tensors
    with pytest.raises(digest.Damaged, match=sha256(shard)):
        digest.checked_digests(shard, WRONG)


def test_one_read_of_the_file(shard):
    def taken() -> int:
        return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])

    announced, size = sha256(shard), os.path.getsize(shard)
    begin = taken()
    digest.checked_digests(shard, announced)
    assert size <= taken() - begin < 1.5 * size


def test_a_file_that_was_published_with_a_bad_header_is_not_called_damaged(tmp_path):
    file = tmp_path / "x.safetensors"
    file.write_bytes(b"\x05" + bytes(7) + b"{bad}")
    with pytest.raises(InputError, match="not a whole safetensors file"):
        digest.checked_digests(file, sha256(file))
    with pytest.raises(digest.Damaged):
        digest.checked_digests(file, WRONG)


def cached(shard: Path, cache: Path, commits: tuple[str, ...]) -> Path:
    """The shard as huggingface_hub keeps it, with another file, in the commits' snapshots; its path in the first."""
    store = cache / "models--a--b"
    (store / "blobs").mkdir(parents=True)
    shutil.copy(shard, store / "blobs" / WRONG)
    (store / "blobs" / "other").write_text("{}")
    for commit in commits:
        folder = store / "snapshots" / commit
        folder.mkdir(parents=True)
        (folder / shard.name).symlink_to(f"../../blobs/{WRONG}")
        (folder / "config.json").symlink_to("../../blobs/other")
    return store / "snapshots" / commits[0] / shard.name


def test_a_damaged_file_leaves_every_revision_that_shares_it(shard, tmp_path):
    cache = tmp_path / "cache"
    path = cached(shard, cache, ("1" * 40, "2" * 40))
    assert digests(path, sha256(shard)) == digest.tensor_digests(shard)
    with pytest.raises(digest.Damaged, match="removed from the cache"):
        digests(path, WRONG)
    assert [p.name for p in cache.glob("*/blobs/*")] == ["other"] and {
        p.name for p in cache.glob("*/snapshots/*/*")
    } == {"config.json"}


def test_a_cache_that_the_library_does_not_understand(shard, tmp_path):
    path = cached(shard, tmp_path / "cache", ("1" * 40,))
    (path.parents[2] / "refs").mkdir()
    (path.parents[2] / "refs" / "main").write_text("3" * 40)  # of a snapshot that is not there
    with pytest.raises(digest.Damaged) as told:
        digests(path, WRONG)
    assert (
        path.exists()
        and "`rm " in told.value.try_
        and str(path) in told.value.try_
        and str(path.resolve()) in told.value.try_
    )


def test_the_bars_of_a_file_are_counted_once():
    """hf_xet has a bar of what came over the network and one of what is written."""
    meter = Meter(100)
    made = bar(meter, "x")
    network, disk = made(total=80, unit="B"), made(total=80, unit="B", initial=0)
    network.update(30)
    disk.update(20)
    assert meter.done == 30
    disk.update(60)
    http = bar(meter, "y")(total=20, initial=5)
    http.update(5)
    assert meter.done == 90
    http.update(-10)  # the server began anew
    assert meter.done == 80
    meter.stopped = True
    with pytest.raises(Stopped):
        http.update(1)


def test_a_full_disk_is_told_with_what_to_do():
    with (
        pytest.raises(
            ConvertError, match="x of a/b cannot be downloaded: No space left on device. Make room, or set HF_HOME"
        ),
        explained(Name("a/b"), "x of a/b"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
