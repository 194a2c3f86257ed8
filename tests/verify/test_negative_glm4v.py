"""Negative controls for GLM-4V: its tower, or a layer of its language model, that is wrong in one of the ways that are
easy to get wrong fails its tolerance, on the real chip's numbers.

What the chip gave is right and stays as it is; it is judged with a reference, or with inputs, made wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from negatives import judge, right
from verify_helpers import plan_of

from llmconv.blocks.vision.images import random
from llmconv.verify import beside, launches, state
from llmconv.verify.session import Session

CHIP, SEQ, PIXELS = "cv186x", 64, "112,112"
GRIDS = ((1, 4, 6), (1, 6, 4))
pytestmark = [pytest.mark.compiler, pytest.mark.simulator]


@pytest.fixture(scope="module")
def launched(vision_checkpoint, compiler, session_cache, tmp_path_factory):
    """(the plan, by net: launch, inputs changed: what the chip gave) of a tower with two images, a prefill and a decode
    block with three different positions for every token."""
    from llmconv import convert
    from llmconv.request.request import Request
    from llmconv.simulator.client import Simulator

    out, model = tmp_path_factory.mktemp("negative"), _quiet(vision_checkpoint("glm4v", seed=3), tmp_path_factory)
    given = {"model": str(model), "out": str(out), "seq": str(SEQ), "chip": CHIP, "max_pixels": PIXELS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TPUC_ROOT", str(compiler.root))
        patch.setenv("LLMCONV_CACHE", str(session_cache))
        assert convert.run(Request.create(given)) == 0
    plan = plan_of(model, seq=SEQ, chip=CHIP, max_pixels=PIXELS, out=out)
    (bmodel,) = out.glob("*.bmodel")
    tried = {name: launch for launch in _launches(plan) for name, launch in _variants(launch)}
    with Simulator(bmodel, CHIP, compiler.root) as simulator:
        return plan, {name: (made, simulator.run(made.net.name, made.inputs)) for name, made in tried.items()}


def _quiet(model, tmp_path_factory):
    """The checkpoint with a projection whose outputs are small, as far as the epsilon of the norm behind it matters."""
    from safetensors.torch import load_file, save_file

    made = shutil.copytree(model, tmp_path_factory.mktemp("models") / "quiet")
    tensors = load_file(made / "model.safetensors")
    tensors["model.visual.merger.proj.weight"] *= 0.02
    save_file(tensors, made / "model.safetensors", metadata={"format": "pt"})
    return made


def _launches(plan):
    by_name, rng = {net.name: net for net in plan.nets}, np.random.default_rng(1)
    fitted = plan.towers[0]
    yield launches.tower(by_name["vit"], random(fitted.spec, GRIDS, rng), beside.read(plan, fitted))
    for name, count, past in (("block_0", 41, 0), ("block_cache_0", 1, 37)):
        net = by_name[name]
        hidden = rng.standard_normal(net.inputs[0].shape).astype(np.float32)
        places = rng.integers(0, 60, (3, count))
        yield launches.step(net, hidden, count, past, state.random(net, rng), places=places)


def _turned(images: np.ndarray) -> np.ndarray:
    """The rows of two images, each with the patches of a token in the order of columns."""
    count = sum(rows * columns for _, rows, columns in GRIDS)
    return np.concatenate(
        [images[:count].reshape(-1, 2, 2, *images.shape[1:]).swapaxes(1, 2).reshape(count, -1), images[count:]]
    )


WRONG_INPUTS: dict[str, tuple[str, str, Callable[[np.ndarray], np.ndarray]]] = {
    "patches column by column": ("vit", "input_states", _turned),
    "patches one further": ("vit", "input_states", lambda x: np.roll(x, 1, 0)),
    "places turned": ("vit", "position_ids", lambda x: np.ascontiguousarray(x[:, ::-1])),
    "mask sees the other image": ("vit", "full_attn_mask", lambda x: x * 0),
    "learned positions column by column": ("vit", "pos_embed", _turned),
    "no learned positions": ("vit", "pos_embed", lambda x: x * 0),
    "rows for columns": ("block_0", "position_ids", lambda x: x[[0, 2, 1]]),
    "time for all": ("block_0", "position_ids", lambda x: x[[0, 0, 0]]),
    "rows for columns in decode": ("block_cache_0", "position_ids", lambda x: x[[0, 2, 1]]),
}


def _variants(launch):
    name = launch.net.name
    yield name, launch
    for what, (net, tensor, change) in WRONG_INPUTS.items():
        if net == name:
            yield what, replace(launch, inputs=dict(launch.inputs) | {tensor: change(launch.inputs[tensor])})


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
def test_the_net_is_right(net, launched):
    plan, runs = launched
    assert right(judge(plan, *runs[net]))


@pytest.mark.parametrize("what", WRONG_INPUTS)
def test_wrong_inputs(what, launched):
    plan, runs = launched
    assert not right(judge(plan, runs[WRONG_INPUTS[what][0]][0], runs[what][1]))


@pytest.mark.parametrize("what", WRONG_TENSORS)
def test_wrong_tensors(what, launched, tmp_path):
    from safetensors.torch import load_file, save_file

    plan, runs = launched
    net, name, change = WRONG_TENSORS[what]
    tensors = load_file(plan.job.model_path / "model.safetensors")
    changed = change(tensors[name].float()).to(tensors[name].dtype).contiguous()
    assert changed.shape == tensors[name].shape and not changed.equal(tensors[name])
    save_file(tensors | {name: changed}, tmp_path / "model.safetensors")
    shutil.copy(plan.job.model_path / "config.json", tmp_path)
    other = plan_of(tmp_path, seq=SEQ, chip=CHIP, max_pixels=PIXELS)
    assert not right(judge(replace(plan, checkpoint=other.checkpoint), *runs[net]))


@pytest.mark.parametrize("what", WRONG_CONFIG)
def test_wrong_config(what, launched, tmp_path):
    plan, runs = launched
    net, fields, vision = WRONG_CONFIG[what]
    config = dict(plan.config.data) | fields
    config |= {"vision_config": config["vision_config"] | vision}
    (tmp_path / "config.json").write_text(json.dumps(config))
    shutil.copy(plan.job.model_path / "model.safetensors", tmp_path)
    other = plan_of(tmp_path, seq=SEQ, chip=CHIP, max_pixels=PIXELS)
    assert not right(judge(replace(plan, config=other.config), *runs[net]))


def test_another_epsilon_of_the_projectors_norm(launched):
    """1e-3 where torch's default of 1e-5 is meant."""
    plan, runs = launched
    launch, found = runs["vit"]

    class Told:
        def run(self, *_):
            return found

    session = Session(plan, Told())
    for reference in (session.reference, session.half):
        reference.sight.whole.visual.merger.post_projection_norm.eps = 1e-3
    session.launch(launch)
    assert not right(session)
