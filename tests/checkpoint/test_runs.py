"""Runs of tensors, as they are digested."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from plans import planned
from safetensors.numpy import save_file

from llmconv.checkpoint import runs
from llmconv.checkpoint.digest import tensor_digests
from llmconv.checkpoint.files import Checkpoint
from tasks.actions import digest_shard


@pytest.fixture
def shards(tmp_path) -> Checkpoint:
    """Two files: six tensors of 400 bytes and one of 2,000; one of 40."""
    given = {"a": {f"t{i}": 100 for i in range(6)} | {"u": 500}, "b": {"v": 10}}
    index = {}
    for file, sizes in given.items():
        save_file(
            {name: np.full(size, 3, np.float32) for name, size in sizes.items()}, tmp_path / f"{file}.safetensors"
        )
        index |= dict.fromkeys(sizes, f"{file}.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (tmp_path / "config.json").write_text("{}")
    return Checkpoint.open(tmp_path)


def test_runs_hold_every_tensor_once_and_lie_in_one_piece(shards, monkeypatch):
    monkeypatch.setattr(runs, "RUN", 1000)
    found = shards.runs
    assert [run.name for run in found] == ["a.safetensors", *(f"a.safetensors.{i}" for i in (2, 3, 4)), "b.safetensors"]
    assert sorted(name for run in found for name in run.tensors) == sorted(shards.tensors) == sorted(shards.run_of)
    for run in found[:-1]:
        infos = [shards.info(name) for name in run.tensors]
        assert run.nbytes == sum(info.nbytes for info in infos) and (run.nbytes <= 1000 or len(infos) == 1)
        assert run.largest == max(info.nbytes for info in infos)
        assert all(one.offset + one.nbytes == next_.offset for one, next_ in pairwise(infos))
        assert not run.whole and all(shards.run_of[name] is run for name in run.tensors)
    assert found[-1].whole and found[-1].tensors == ("v",)


def test_a_file_with_an_announced_sha256_is_one_run(shards, monkeypatch):
    monkeypatch.setattr(runs, "RUN", 1000)
    found = replace(shards, sha256={"a.safetensors": "00"}).runs
    assert [(run.name, len(run.tensors), run.whole) for run in found] == [
        ("a.safetensors", 7, True),
        ("b.safetensors", 1, True),
    ]


def test_digests_of_runs_are_those_of_the_whole_file(shards, monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "RUN", 1000)
    told: dict[str, str] = {}
    for number, run in enumerate(shards.runs):
        target = tmp_path / f"{number}.json"
        digest_shard(str(shards.path), run.shard.name, [] if run.whole else list(run.tensors), 1, "", {"": str(target)})
        part = json.loads(target.read_text())
        assert not told.keys() & part.keys()
        told |= part
    assert told == {name: digest for shard in shards.shards for name, digest in tensor_digests(shard).items()}


def test_a_net_picks_the_digests_of_its_own_tensors(checkpoint, monkeypatch, tmp_path):
    """Each net depends on the runs that hold its tensors, and a net's runs hold them all."""
    from llmconv.request.output import Layout
    from tasks.shapes import reading

    monkeypatch.setattr(runs, "RUN", 1 << 16)
    made = planned(checkpoint("qwen2"))
    of = made.checkpoint.run_of
    assert len(made.checkpoint.runs) > 3
    for net in made.nets:
        picks = reading(made, Layout(tmp_path), net.tensors)["picks"]
        assert sorted(name for _, names in picks for name in names) == sorted(net.tensors)
        assert all(path.name == f"{of[name].name}.json" for path, names in picks for name in names)
