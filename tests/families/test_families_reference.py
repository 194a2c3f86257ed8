"""The reference runs a family's class layer by layer; in one piece it gives the same, before and behind a cache."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import vision_checkpoints
from family_checkpoints import CONFIGS
from test_families_graph import EXACT, far, planned

from llmconv.blocks.vision.images import random
from llmconv.checkpoint import recipe
from llmconv.runtime.seen import Shown
from llmconv.verify.generate import Own
from llmconv.verify.reference import Reference
from llmconv.verify.weights import Precision

FIRST, ALL = 40, 60  # tokens before the cache, and in all: beyond every window


def whole(made):
    """The class in one piece, with all of its weights: of checkpoints that transformers knows by another name, too."""
    import torch
    import transformers

    oracle = Reference(made, Precision()).oracle
    given = oracle.config(made.config)
    settings = transformers.CONFIG_MAPPING[given["model_type"]].from_dict(deepcopy(dict(given)))
    build = transformers.AutoModelForCausalLM.from_config
    model = build(settings, dtype=torch.float32, attn_implementation="eager").eval()
    tied = {"lm_head.weight"} if made.spec.tied else set()
    values = {
        name: torch.from_numpy(np.ascontiguousarray(recipe.evaluate(oracle.tensor(name, made.spec), made.checkpoint)))
        for name in model.state_dict()
        if name not in tied
    }
    missing, unexpected = model.load_state_dict(values, strict=False)
    assert set(missing) == tied and not unexpected
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_layers_one_by_one_are_the_class_in_one_piece(name, family_checkpoint):
    import torch

    made = planned(family_checkpoint(name, layers=4), 64)
    own, ids = Own(Reference(made, Precision())), np.random.default_rng(1).integers(0, made.spec.vocab, ALL)
    with torch.inference_mode():
        right = whole(made)(torch.from_numpy(ids)[None], output_hidden_states=True)
    found = [own.forward(ids[:FIRST]), own.forward(ids[FIRST:])]
    assert far(np.concatenate(found, 1), right.hidden_states[-1].numpy()) < EXACT
    assert far(np.concatenate([own.reference.logits(part[0]) for part in found]), right.logits[0].numpy()) < EXACT


@pytest.mark.parametrize("name", ["qwen2_moe"])
def test_routing_is_the_class_own(name, family_checkpoint):
    """The router's logits of every layer with experts, in order; None of the others."""
    import torch

    made = planned(family_checkpoint(name, layers=4), 64)
    own, ids = Own(Reference(made, Precision())), np.random.default_rng(1).integers(0, made.spec.vocab, ALL)
    with torch.inference_mode():
        right = whole(made)(torch.from_numpy(ids)[None], output_router_logits=True).router_logits
    own.forward(ids)
    assert len(own.routing) == len(right) == 3  # mlp_only_layers has one of the four
    for ours, theirs in zip(own.routing, right):
        assert far(ours, theirs.numpy()) < EXACT


@pytest.mark.parametrize("name", vision_checkpoints.CONFIGS)
def test_a_prompt_with_images_is_the_class_in_one_piece(name, vision_checkpoint):
    """Tower, places, deepstack and three positions, with two images in the prompt and text behind a cache."""
    import torch

    model = vision_checkpoint(name)
    made = planned(model, max_pixels="112,112" if name != "qwen3_vl" else "128,128")
    tower, rng = made.towers[0].spec, np.random.default_rng(2)
    images = random(tower, ((1, 4, 4), (1, 2, 4)), rng)
    ids = np.array([3, 4, *[tower.token] * 4, 5, *[tower.token] * 2, 6, 7, 8])
    own = Own(Reference(made, Precision()))
    own.look(ids[:-2], [Shown(made.towers[0], images)])
    found = np.concatenate([own.forward(ids[:-2]), own.forward(ids[-2:])], 1)
    given = torch.from_numpy(ids)[None]
    with torch.inference_mode():
        right = vision_checkpoints.whole(model)(
            given,
            pixel_values=vision_checkpoints.pixel_values(model, images.patches),
            image_grid_thw=torch.tensor(images.grids),
            mm_token_type_ids=(given == tower.token).int(),
        )
    assert far(own.reference.logits(found[0]), right.logits[0].numpy()) < EXACT
