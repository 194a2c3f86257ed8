"""Negative controls for GLM-4V: its tower, or a layer of its language model, that is wrong in one of the ways that are
easy to get wrong fails its tolerance, on the real chip's numbers.

What the chip gave is right and stays as it is; it is judged with a reference, or with inputs, made wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import numpy as np
import pytest
from negatives import judge, right, with_tensor
from negatives_seeing import Inputs, launched, turned, with_config

from llmconv.verify.session import Session

pytestmark = [pytest.mark.compiler, pytest.mark.simulator]


@pytest.fixture(scope="module")
def runs(vision_checkpoint, compiler, session_cache, tmp_path_factory):
    """The plan, and what the chip gave of a tower with two images, a prefill and a decode block with three different
    positions for every token; by net, and by what is wrong with its inputs."""
    model = _quiet(vision_checkpoint("glm4v", seed=3), tmp_path_factory)
    return launched(model, tmp_path_factory.mktemp("negative"), compiler, session_cache, WRONG_INPUTS)


def _quiet(model, tmp_path_factory):
    """The checkpoint with a projection whose outputs are small, as far as the epsilon of the norm behind it matters."""
    from safetensors.torch import load_file, save_file

    made = shutil.copytree(model, tmp_path_factory.mktemp("models") / "quiet")
    tensors = load_file(made / "model.safetensors")
    tensors["model.visual.merger.proj.weight"] *= 0.02
    save_file(tensors, made / "model.safetensors", metadata={"format": "pt"})
    return made


WRONG_INPUTS: Inputs = {
    "patches column by column": ("vit", "input_states", turned),
    "patches one further": ("vit", "input_states", lambda x: np.roll(x, 1, 0)),
    "places turned": ("vit", "position_ids", lambda x: np.ascontiguousarray(x[:, ::-1])),
    "mask sees the other image": ("vit", "full_attn_mask", lambda x: x * 0),
    "learned positions column by column": ("vit", "pos_embed", turned),
    "no learned positions": ("vit", "pos_embed", lambda x: x * 0),
    "rows for columns": ("block_0", "position_ids", lambda x: x[[0, 2, 1]]),
    "time for all": ("block_0", "position_ids", lambda x: x[[0, 0, 0]]),
    "rows for columns in decode": ("block_cache_0", "position_ids", lambda x: x[[0, 2, 1]]),
}


def _halves(values):
    """The two halves of a tensor's rows swapped."""
    return values.roll(len(values) // 2, 0)


def _channels_last(values):
    """A kernel [out, in, 2, 2] whose numbers are taken for [out, 2, 2, in]."""
    return values.reshape(len(values), 2, 2, -1).permute(0, 3, 1, 2)


LAYER, VISUAL = "model.language_model.layers.0.", "model.visual."
# what is wrong -> (the net that shows it, a tensor, what becomes of it)
WRONG_TENSORS: dict[str, tuple[str, str, Callable]] = {
    "downsample turned": ("vit", f"{VISUAL}downsample.weight", lambda w: w.swapaxes(2, 3)),
    "downsample by channels last": ("vit", f"{VISUAL}downsample.weight", _channels_last),
    "downsample without bias": ("vit", f"{VISUAL}downsample.bias", lambda b: b * 0),
    "table turned": (
        "vit",
        f"{VISUAL}embeddings.position_embedding.weight",
        lambda w: w.reshape(8, 8, -1).swapaxes(0, 1).reshape(64, -1),
    ),
    "no norm behind the patches": ("vit", f"{VISUAL}post_conv_layernorm.weight", lambda w: w * 0 + 1),
    "no last norm": ("vit", f"{VISUAL}post_layernorm.weight", lambda w: w * 0 + 1),
    "projector's norm without bias": ("vit", f"{VISUAL}merger.post_projection_norm.bias", lambda b: b * 0),
    "queries for keys": ("vit", f"{VISUAL}blocks.1.attn.qkv.weight", _halves),
    **{
        f"{name} of one": ("block_0", f"{LAYER}{name}.weight", lambda w: w * 0 + 1)
        for name in ("input_layernorm", "post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm")
    },
    "gate for up": ("block_0", f"{LAYER}mlp.gate_up_proj.weight", _halves),
    "gate for up in decode": ("block_cache_0", f"{LAYER}mlp.gate_up_proj.weight", _halves),
    "q bias dropped": ("block_0", f"{LAYER}self_attn.q_proj.bias", lambda b: b * 0),
    "k bias dropped": ("block_0", f"{LAYER}self_attn.k_proj.bias", lambda b: b * 0),
    "v bias dropped": ("block_cache_0", f"{LAYER}self_attn.v_proj.bias", lambda b: b * 0),
}
# what is wrong -> (the net that shows it, fields of config.json, fields of its vision_config)
WRONG_CONFIG: dict[str, tuple[str, dict, dict]] = {
    "other sections": ("block_0", {"rope_scaling": {"type": "default", "mrope_section": [12, 12, 8]}}, {}),
    "other sections in decode": (
        "block_cache_0",
        {"rope_scaling": {"type": "default", "mrope_section": [12, 8, 12]}},
        {},
    ),
    "rope base": ("block_0", {"rope_theta": 100.0}, {}),
    "eps": ("block_0", {"rms_norm_eps": 0.05}, {}),
    "vision eps": ("vit", {}, {"rms_norm_eps": 0.1}),
    "vision rope base": ("vit", {}, {"rope_parameters": {"rope_type": "axial", "rope_theta": 10.0}}),
}


@pytest.mark.parametrize("net", ["vit", "block_0", "block_cache_0"])
def test_the_net_is_right(net, runs):
    plan, made = runs
    assert right(judge(plan, *made[net]))


@pytest.mark.parametrize("what", WRONG_INPUTS)
def test_wrong_inputs(what, runs):
    plan, made = runs
    assert not right(judge(plan, made[WRONG_INPUTS[what][0]][0], made[what][1]))


@pytest.mark.parametrize("what", WRONG_TENSORS)
def test_wrong_tensors(what, runs, tmp_path):
    plan, made = runs
    net, name, change = WRONG_TENSORS[what]
    assert not right(judge(with_tensor(plan, name, change, tmp_path), *made[net]))


@pytest.mark.parametrize("what", WRONG_CONFIG)
def test_wrong_config(what, runs, tmp_path):
    plan, made = runs
    net, fields, vision = WRONG_CONFIG[what]
    assert not right(judge(with_config(plan, fields, vision, tmp_path), *made[net]))


def test_another_epsilon_of_the_projectors_norm(runs):
    """1e-3 where torch's default of 1e-5 is meant."""
    plan, made = runs
    launch, found = made["vit"]

    class Told:
        def run(self, *_):
            return found

    session = Session(plan, Told())
    for reference in (session.reference, session.half):
        reference.sight.whole.visual.merger.post_projection_norm.eps = 1e-3
    session.launch(launch)
    assert not right(session)
