"""Nets of one structure share a key; anything else that could change the program does not."""

import json

import pytest
from checkpoints import make
from lower_samples import listed

from llmconv.blocks.decoder import block
from llmconv.blocks.mixer import Step
from llmconv.checkpoint.config import Config
from llmconv.coefficients.roles import roles
from llmconv.coefficients.structure import structure
from llmconv.families import family_of
from llmconv.top.text import render


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    config = Config.read(make(tmp_path_factory.mktemp("models"), "qwen2", num_hidden_layers=12))
    return family_of("qwen2").spec(config)


STEP = Step(64, 128)


def of(spec, layer, step=STEP, rank=0, **flags):
    g = block(f"block_{layer}", spec, layer, step, rank)
    return structure(render(g, "w.npz"), listed(g), {"chip": "bm1684x", **flags})


def test_layers_share_a_key_but_the_last(spec):
    keys = [of(spec, i) for i in range(12)]
    assert len(set(keys[:-1])) == 1
    assert keys[-1] != keys[0]


def test_what_tells_structures_apart(spec):
    first = of(spec, 0)
    assert of(spec, 0, Step(32, 128)) != first
    assert of(spec, 0, Step(64, 256)) != first
    assert of(spec, 0, Step(1, 128, 128, decode=True)) != first
    assert of(spec, 0, rank=8) != first
    assert of(spec, 0, mode="F16") != first


@pytest.mark.parametrize("layer", [0, 8, 10])
def test_lora_paths_follow_the_layer_and_keep_the_rank(spec, layer):
    assert of(spec, 3, rank=8) == of(spec, layer, rank=8) != of(spec, layer, rank=16)


def test_roles_are_json_and_name_every_weight(spec):
    g = block("block_0", spec, 0, Step(1, 128, 128, decode=True, mask_tile=256), 8)
    found = [role.to_json() for role in roles(g)]
    assert json.loads(json.dumps(found)) == found
    used = {r[k] for r in found for k in ("weight", "bias", "scales", "zeros") if r.get(k)}
    assert used == set(g.weights)
    assert not [r for r in found if r["kind"] == "unknown"]
