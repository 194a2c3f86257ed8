"""--slim: the same .bmodel on hardly more disk than it takes, and nothing is built again for it."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from test_rebuild import build, edit_tensor

from llmconv.cli.main import main
from llmconv.request.request import Request

pytestmark = pytest.mark.compiler


def digests(out: Path) -> dict[str, str]:
    """Of every .bmodel."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.glob("*.bmodel")}


def parts(out: Path) -> int:
    """Bytes of coefficients that lie beside the .bmodel."""
    return sum(path.stat().st_size for path in (out / ".llmconv").rglob("*.coeff"))


def test_the_file_is_the_same_and_changes_build_what_they_need(checkpoint, llmconv_env, tmp_path: Path, capsys):
    model, plain, slim = tmp_path / "model", tmp_path / "plain", tmp_path / "slim"
    shutil.copytree(checkpoint("qwen2", num_hidden_layers=4, shards=3), model)
    build(model, plain)
    whole = build(model, slim, slim=1, no_cache=1)
    assert digests(slim) == digests(plain) and parts(plain) > 100_000 and parts(slim) == 0
    nets = [name for name in whole if name.startswith("compile:")]
    for options in ({"slim": 1}, {}, {"no_cache": 1}):
        assert build(model, slim, **options) == []
    assert build(model, plain, slim=1) == [] and parts(plain) == 0
    edit_tensor(model)
    ran = build(model, plain, slim=1)
    assert {"compile:block_1", "compile:block_cache_1", "compile:embedding", "merge"} <= set(ran) and parts(plain) == 0
    ran = build(model, slim, no_cache=1)
    # block_i has its coefficients in the file of block_cache_i, so nothing of it is spent
    theirs = {"compile:block_0", "compile:block_2", "compile:block_3", "compile:embedding_cache"}
    assert {name for name in ran if name.startswith("compile:")} == set(nets) - theirs
    assert digests(slim) == digests(plain) and parts(slim) > 100_000
    capsys.readouterr()
    assert main(["why", str(slim), "block_0"]) == 0 and "is up to date" in capsys.readouterr().out


def test_a_pipeline_moves_the_parts_last(checkpoint, llmconv_env, tmp_path: Path):
    model, options = checkpoint("qwen2"), {"num_device": 3, "distribute_strategy": "pp", "quantize": "bf16"}
    build(model, tmp_path / "plain", **options)
    ran = build(model, tmp_path / "slim", slim=1, no_cache=1, **options)
    found = digests(tmp_path / "plain")
    assert len(found) == 4 and digests(tmp_path / "slim") == found and not parts(tmp_path / "slim")
    assert build(model, tmp_path / "slim", **options) == []
    (device,) = (tmp_path / "slim").glob("*dev1*.bmodel")
    device.unlink()
    again = build(model, tmp_path / "slim", slim=1, **options)
    assert "merge:dev1" in again and "merge:dev0" not in again and "merge:all" not in again
    assert digests(tmp_path / "slim") == found and not parts(tmp_path / "slim") and len(again) < len(ran)


def test_split_layers_are_not_moved_and_that_is_told(tmp_path: Path):
    asked = Request.create({"model": str(tmp_path), "seq": "64", "num_device": "2", "slim": "1"})
    assert asked.notes == ("slim: layers that are split over devices are copied, not moved",)
    assert Request.create({"model": str(tmp_path), "seq": "64", "slim": "1"}).notes == ()
