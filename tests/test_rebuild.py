"""What a change rebuilds: the table in docs/resume.md is made here (pytest tests/test_rebuild.py --update-golden
writes it)."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from llmconv import convert
from llmconv.engine import own_code
from llmconv.request.request import Request

PAGE = Path(__file__).parents[1] / "docs" / "resume.md"
BEGIN, END = "<!-- rebuild table -->\n", "<!-- end of rebuild table -->"
BASE = {"seq": 64, "quantize": "w4bf16", "jobs": 2}


def build(model: Path, out: Path, **options) -> list[str]:
    """Convert, and return the tasks that ran (or came from the cache), in the order of their names."""
    events = out / ".llmconv" / "events.jsonl"
    seen = len(events.read_text().splitlines()) if events.exists() else 0
    given = {k: str(v) for k, v in (BASE | {"model": model, "out": out} | options).items()}
    assert convert.run(Request.create(given)) == 0
    told = [json.loads(line) for line in events.read_text().splitlines()[seen:]]
    return sorted(e["name"] for e in told if e["event"] == "TaskFinished")


def touch(model: Path) -> None:
    for file in model.glob("*.safetensors"):
        os.utime(file)


def download_again(model: Path) -> None:
    for file in model.glob("*.safetensors"):
        shutil.copy(file, file.with_suffix(".new"))
        os.replace(file.with_suffix(".new"), file)


def edit_tensor(model: Path) -> None:
    """One value of layer 1's up projection, in whichever shard has it."""
    for file in model.glob("*.safetensors"):
        tensors = load_file(file)
        if "model.layers.1.mlp.up_proj.weight" in tensors:
            tensors["model.layers.1.mlp.up_proj.weight"][0, 0] += 1
            save_file(tensors, file, metadata={"format": "pt"})


CHANGES = (
    ("nothing", {}, None),
    ("all shards touched", {}, touch),
    ("all shards downloaded again, the same bytes", {}, download_again),
    ("one value of one tensor of layer 1", {}, edit_tensor),
    ("`-g 128` instead of 64", {"q_group_size": 128}, None),
    ("`--symmetric`", {"symmetric": 1}, None),
    ("`--max_input_length 32`", {"max_input_length": 32}, None),
    ("`-s 128` instead of 64", {"seq": 128}, None),
    ("`--do_sample`", {"do_sample": 1}, None),
    ("`--embedding_disk`", {"embedding_disk": 1}, None),
    ("`-q bf16` instead of w4bf16", {"quantize": "bf16"}, None),
)


def describe(ran: list[str]) -> str:
    """Compiled nets by kind, with the layers when they are not all; and whether the .bmodel was merged again."""
    kinds: dict[str, list[int]] = {}
    for name in ran:
        if name.startswith("compile:"):
            match = re.fullmatch(r"(.*?)_(\d+)", name.removeprefix("compile:"))
            kind, layer = (match[1], int(match[2])) if match else (name.removeprefix("compile:"), -1)
            kinds.setdefault(kind, []).append(layer)
    parts = []
    for kind in sorted(kinds):
        layers = sorted(kinds[kind])
        parts.append(
            f"{kind} of layer {', '.join(map(str, layers))}"
            if layers[0] >= 0 and len(layers) < 4
            else f"every {kind}"
            if layers[0] >= 0
            else kind
        )
    if "config" in ran:
        parts.append("config/")
    if not parts:
        return "nothing" + (" (the shards are digested again)" if any(n.startswith("checkpoint:") for n in ran) else "")
    return ", ".join(parts) + ("; merged again" if "merge" in ran else "")


@pytest.mark.compiler
def test_a_change_rebuilds_what_depends_on_it(checkpoint, llmconv_env, tmp_path, request):
    source = checkpoint("qwen2", num_hidden_layers=4, shards=3)
    rows = ["| what changed | what is built again |", "| --- | --- |"]
    base = tmp_path / "base"
    pristine = tmp_path / "model"
    shutil.copytree(source, pristine)
    build(pristine, base)
    for text, options, change in CHANGES:
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(base, out)
        model = pristine
        if change:
            change(model)
        rows.append(f"| {text} | {describe(build(model, out, **options))} |")
        if change is edit_tensor:
            shutil.rmtree(model)
            shutil.copytree(source, model)
    table = "\n".join(rows) + "\n"
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    found, after = rest.split(END)
    if request.config.getoption("--update-golden"):
        PAGE.write_text(before + BEGIN + table + END + after)
        return
    assert found == table


@pytest.mark.compiler
def test_a_shard_that_is_digested_in_runs_rebuilds_the_same_nets(checkpoint, llmconv_env, tmp_path, monkeypatch):
    model = tmp_path / "model"
    shutil.copytree(checkpoint("qwen2", num_hidden_layers=3), model)
    build(model, tmp_path / "whole")
    monkeypatch.setattr("llmconv.checkpoint.runs.RUN", 1 << 16)
    ran = build(model, out := tmp_path / "out")
    assert sum(name.startswith("checkpoint:") for name in ran) > 3
    sums = [(folder / "SHA256SUMS").read_text() for folder in (tmp_path / "whole", out)]
    assert sums[0] == sums[1]
    assert build(model, out) == []
    edit_tensor(model)
    assert describe(build(model, out)).startswith("block of layer 1, block_cache of layer 1; merged again")


@pytest.mark.compiler
def test_an_update_of_llmconv_makes_again_what_it_computed_itself(checkpoint, llmconv_env, tmp_path, monkeypatch):
    """And what showed that it computes right; not what the compiler made alone: embedding and head."""
    model = checkpoint("qwen2", num_hidden_layers=4, shards=3)
    build(model, tmp_path / "out")
    monkeypatch.setattr(own_code, "digest", lambda *packages: "of another version")
    ran = [name.removeprefix("compile:") for name in build(model, tmp_path / "out") if name.startswith("compile:")]
    assert ran == [f"block_{i}" for i in range(4)] + [f"block_cache_{i}" for i in range(4)]
