"""Layers split over devices: each device's coefficients are its share of the model's weights, and a wrong one is
named."""

from __future__ import annotations

import shutil

import pytest
from checkpoints import SPLIT

from llmconv.bmodel.read import BModel
from llmconv.runtime import manifest
from llmconv.verify.device_shares import unlike

LARGE = SPLIT | {"num_hidden_layers": 1}


@pytest.mark.compiler
@pytest.mark.parametrize(("quantize", "devices"), [("bf16", 2), ("w4bf16", 2), ("bf16", 4)])
def test_devices_hold_their_shares(quantize, devices, checkpoint, convert, tmp_path):
    out = convert(checkpoint("qwen2", **LARGE), seq=16, quantize=quantize, num_device=devices)
    built = manifest.read(out)
    (file,) = built.files
    assert unlike(built.plan, file) == []

    model = BModel.read(file)
    at, cascade = next(
        (net, tree["cascade"])
        for tree, net in zip(model.tree["net"], model.nets)
        if tree.get("cascade", {}).get("device_id") == 1 and net.stages[0].coeff.size
    )
    changed = tmp_path / file.name
    shutil.copyfile(file, changed)
    with changed.open("r+b") as f:  # one bit of the second device's first large tensor
        entry = next(e for e in at.stages[0].locations if e.size > 4096)
        place = at.stages[0].coeff.offset + entry.offset + 100
        f.seek(place)
        byte = f.read(1)
        f.seek(place)
        f.write(bytes([byte[0] ^ 1]))
    assert any(problem.startswith(f"{cascade['main_name']}: ") for problem in unlike(built.plan, changed))
