"""`llmconv inspect` of finished builds and of files that somebody else made."""

from __future__ import annotations

import json
import shutil

import pytest

from llmconv.cli.main import main

pytestmark = pytest.mark.compiler


def test_a_build_is_told_with_provenance_and_cycles(checkpoint, convert, capsys):
    out = convert(checkpoint("qwen2", num_hidden_layers=3), seq=64, quantize="w4bf16")
    manifest = json.loads((out / "manifest.json").read_text())
    capsys.readouterr()  # what the conversion said
    assert main(["inspect", str(out / manifest["bmodel"]), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["provenance"] == manifest
    assert [net["name"] for net in made["nets"]] == [net["name"] for net in manifest["nets"]]
    for net, known in zip(made["nets"], manifest["nets"]):
        (stage,) = net["stages"]
        assert stage["cycles"] == known["cycles"] and stage["coefficients"]["sha256"] == known["coefficient_sha256"]
        assert stage["inputs"] == [
            {"name": io["name"], "dtype": io["dtype"], "shape": io["shape"]} for io in known["inputs"]
        ]
        assert stage["estimate_seconds"] == known["cycles"] / 1e9
    assert made["coefficients"]["by_role"]["tpu.A16MatMul.weight"] > 0

    assert main(["inspect", str(out)]) == 0  # the one .bmodel of a directory
    told = capsys.readouterr().out
    assert (
        "block_cache_0 .. block_cache_1 (2 nets)  io_alone" in told
        and "those of block_cache_0 .. block_cache_1" in told
    )
    assert f"w4bf16, sequence 64; llmconv {manifest['llmconv']}" in told and "compiler's estimate" in told


def test_stages_of_a_net_have_cycles_each(checkpoint, convert, capsys):
    out = convert(checkpoint("qwen2"), seq=64, chunk_length=16)
    capsys.readouterr()
    assert main(["inspect", str(out), "--json"]) == 0
    nets = {net["name"]: net["stages"] for net in json.loads(capsys.readouterr().out)["nets"]}
    known = {net["name"]: net["cycles"] for net in json.loads((out / "manifest.json").read_text())["nets"]}
    assert [s["cycles"] for s in nets["block_cache_1"]] == [
        known["block_cache_1"],
        known["block_cache_1_1"],
        known["block_cache_1_2"],
    ]


def test_a_manifest_of_another_build_is_not_believed(checkpoint, convert, tmp_path, capsys):
    out = convert(checkpoint("qwen2"), seq=64)
    (name,) = (p.name for p in out.glob("*.bmodel"))
    other = convert(checkpoint("qwen2", seed=1), seq=64)
    shutil.copyfile(out / name, tmp_path / name)
    assert main(["inspect", str(tmp_path / name)]) == 0
    assert "provenance" not in capsys.readouterr().out
    shutil.copyfile(other / "manifest.json", tmp_path / "manifest.json")
    assert main(["inspect", str(tmp_path / name)]) == 0
    assert "tells of another build of this name" in capsys.readouterr().out
    (tmp_path / "manifest.json").write_text('{"bmodel": 3')
    assert main(["inspect", str(tmp_path / name), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (
        told["provenance"] is None
        and "cannot be read" in told["note"]
        and told["nets"][0]["stages"][0]["cycles"] is None
    )


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "No such file"), (b"", "the file is empty"), (b"#!/bin/sh\n" * 20, "should begin with 0xff55aaee")],
)
def test_what_is_no_bmodel_is_wrong_input(content, why, tmp_path, capsys):
    file = tmp_path / "x.bmodel"
    if content is not None:
        file.write_bytes(content)
    assert main(["inspect", str(file)]) == 2
    told = capsys.readouterr().err
    assert why in told and told.count("\n") == 1


def test_a_directory_without_exactly_one_is_wrong_input(tmp_path, capsys):
    assert main(["inspect", str(tmp_path)]) == 2
    assert "has no .bmodel" in capsys.readouterr().err
