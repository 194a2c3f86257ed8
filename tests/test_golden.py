"""Our nets against what the vendor's own converter makes of the same checkpoints: golden/*.json holds, net by net and
in order, names, shapes, types, sha256 of coefficients and command buffers, and cycle estimates of tpu_mlir 1.30.2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmconv.bmodel.read import digest

GOLDEN = Path(__file__).parent / "golden"
CASES = {
    "qwen2-bf16": ("qwen2", {"quantize": "bf16"}),
    "qwen2_tied-bf16": ("qwen2_tied", {"quantize": "bf16"}),
    "llama-bf16": ("llama", {"quantize": "bf16"}),
    "qwen2-w4bf16": ("qwen2", {"quantize": "w4bf16"}),
    "qwen2-w8bf16": ("qwen2", {"quantize": "w8bf16"}),
    "qwen2-w4bf16-sym-g128": ("qwen2", {"quantize": "w4bf16", "q_group_size": 128, "symmetric": 1}),
    "qwen2-bf16-len64": ("qwen2", {"quantize": "bf16", "max_input_length": 64}),
    "qwen2-bf16-sample": ("qwen2", {"quantize": "bf16", "do_sample": 1}),
    "qwen2-bf16-embdisk": ("qwen2", {"quantize": "bf16", "embedding_disk": 1}),
    "qwen2-w4bf16-bm1688": ("qwen2", {"quantize": "w4bf16", "chip": "bm1688"}),
    "qwen2-bf16-cv186x": ("qwen2", {"quantize": "bf16", "chip": "cv186x"}),
    "qwen3-w4bf16": ("qwen3", {"quantize": "w4bf16", "seq": 256}),
    "llama-bf16-lora": ("llama", {"quantize": "bf16", "lora_max_rank": 8}),
}


def ours(out: Path) -> list[dict]:
    """The .bmodel of an output directory in the form of the golden files."""
    (file,) = out.glob("*.bmodel")
    cycles = {n["name"]: n["cycles"] for n in json.loads((out / "manifest.json").read_text())["nets"]}
    rows = []
    for net in digest(file)["nets"]:
        stages = [
            {
                "inputs": [f"{n} {'x'.join(map(str, shape))} {dtype}" for n, shape, dtype in stage["inputs"]],
                "outputs": [f"{n} {'x'.join(map(str, shape))} {dtype}" for n, shape, dtype in stage["outputs"]],
                "dynamic": stage["dynamic"],
                "subnets": stage["subnets"],
                "cores": stage["core_num"],
                "coefficients": stage["coeff"],
                "bdc": stage["bdc"],
                "gdma": stage["gdma"],
            }
            for stage in net["stages"]
        ]
        rows.append(
            {"name": net["name"], "addr_mode": net["addr_mode"], "cycles": cycles[net["name"]], "stages": stages}
        )
    return rows


@pytest.mark.compiler
@pytest.mark.parametrize("case", CASES)
def test_nets_equal_the_vendors(case, checkpoint, convert):
    name, options = CASES[case]
    golden = json.loads((GOLDEN / f"{case}.json").read_text())["nets"]
    got = ours(convert(checkpoint(name), **({"seq": 128, "graph": "vendor"} | options)))
    assert [n["name"] for n in got] == [n["name"] for n in golden]
    for net, expected in zip(got, golden):
        if expected["cycles"] is None:
            net = net | {"cycles": None}
        assert net == expected
