"""Negative controls for PaddleOCR-VL: its tower, or a layer of its language model, that is wrong in one of the ways that
are easy to get wrong fails its tolerance, on the real chip's numbers.

What the chip gave is right and stays as it is; it is judged with a reference, or with inputs, made wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import numpy as np
import pytest
from negatives import judge, right, with_tensor
from negatives_seeing import GRIDS, Inputs, launched, turned, with_config

from llmconv.verify.session import Session

pytestmark = [pytest.mark.compiler, pytest.mark.simulator]


@pytest.fixture(scope="module")
def runs(vision_checkpoint, compiler, session_cache, tmp_path_factory):
    """The plan, and what the chip gave of a tower with two images, a prefill and a decode block with three different
    positions for every token; by net, and by what is wrong with its inputs."""
    model = _quiet(vision_checkpoint("paddleocr_vl", seed=3), tmp_path_factory)
    return launched(model, tmp_path_factory.mktemp("negative"), compiler, session_cache, WRONG_INPUTS)


def _quiet(model, tmp_path_factory):
    """The checkpoint with small embeddings of patches, and a last norm whose outputs are small: the epsilons of the
    norms behind them matter; and with larger queries: it matters who looks at whom."""
    from safetensors.torch import load_file, save_file

    made = shutil.copytree(model, tmp_path_factory.mktemp("models") / "quiet")
    tensors = load_file(made / "model.safetensors")
    tensors[f"{VISION}embeddings.patch_embedding.weight"] *= 0.3
    for layer in range(2):
        tensors[f"{VISION}encoder.layers.{layer}.self_attn.q_proj.weight"] *= 2
    for part in ("weight", "bias"):
        tensors[f"{VISION}post_layernorm.{part}"] *= 0.01
    save_file(tensors, made / "model.safetensors", metadata={"format": "pt"})
    return made


def _row_by_row(x: np.ndarray) -> np.ndarray:
    """The patches of two images as the processor leaves them."""
    made, first = x.copy(), 0
    for _, rows, columns in GRIDS:
        cells = x[first : first + rows * columns].reshape(rows // 2, columns // 2, 2, 2, -1)
        made[first : first + rows * columns] = cells.swapaxes(1, 2).reshape(rows * columns, -1)
        first += rows * columns
    return made


def _corners_on_corners(x: np.ndarray) -> np.ndarray:
    """The weights of the table's rows as if its corners lay on the image's: every other patch further along."""
    return np.ascontiguousarray(x[:, [1, 0, 3, 2]])


WRONG_INPUTS: Inputs = {
    "patches row by row": ("vit", "input_states", _row_by_row),
    "patches column by column": ("vit", "input_states", turned),
    "patches one further": ("vit", "input_states", lambda x: np.roll(x, 1, 0)),
    "rope left out": ("vit", "position_ids", lambda x: x * 0),
    "places turned": ("vit", "position_ids", lambda x: np.ascontiguousarray(x[:, ::-1])),
    "places row by row": ("vit", "position_ids", _row_by_row),
    "mask sees the other image": ("vit", "attention_mask", lambda x: x * 0),
    "no learned positions": ("vit", "pos_weight", lambda x: x * 0),
    "nearest learned position": ("vit", "pos_weight", lambda x: (x == x.max(1, keepdims=True)).astype(np.float32)),
    "weights of the taps crossed": ("vit", "pos_weight", _corners_on_corners),
    "taps row by row": ("vit", "pos_idx", _row_by_row),
    "rows for columns": ("block_0", "position_ids", lambda x: x[[0, 2, 1]]),
    "time for all": ("block_0", "position_ids", lambda x: x[[0, 0, 0]]),
    "rows for columns in decode": ("block_cache_0", "position_ids", lambda x: x[[0, 2, 1]]),
}


def _columns_first(w):
    """The projector's first linear for patches of a token column by column."""
    return w.reshape(len(w), 2, 2, -1).swapaxes(1, 2).flatten(1)


LAYER, VISION, PROJECTOR = "model.layers.0.", "visual.vision_model.", "mlp_AR."
BLOCK = f"{VISION}encoder.layers.1."
# what is wrong -> (the net that shows it, a tensor, what becomes of it)
WRONG_TENSORS: dict[str, tuple[str, str, Callable]] = {
    "merged column by column": ("vit", f"{PROJECTOR}linear_1.weight", _columns_first),
    "table turned": (
        "vit",
        f"{VISION}embeddings.position_embedding.weight",
        lambda w: w.reshape(8, 8, -1).swapaxes(0, 1).reshape(64, -1),
    ),
    "table one further": ("vit", f"{VISION}embeddings.position_embedding.weight", lambda w: w.roll(1, 0)),
    "patches without bias": ("vit", f"{VISION}embeddings.patch_embedding.bias", lambda b: b * 0),
    "no last norm": ("vit", f"{VISION}post_layernorm.weight", lambda w: w * 0 + 0.01),
    "projector's norm of one": ("vit", f"{PROJECTOR}pre_norm.weight", lambda w: w * 0 + 1),
    "projector's norm without bias": ("vit", f"{PROJECTOR}pre_norm.bias", lambda b: b * 0),
    "projector without bias": ("vit", f"{PROJECTOR}linear_2.bias", lambda b: b * 0),
    "query heads swapped": ("vit", f"{BLOCK}self_attn.q_proj.weight", lambda w: w.roll(72, 0)),
    "value heads swapped": ("vit", f"{BLOCK}self_attn.v_proj.weight", lambda w: w.roll(72, 0)),
    "attention without bias": ("vit", f"{BLOCK}self_attn.out_proj.bias", lambda b: b * 0),
    **{
        f"{name} of one": ("block_0", f"{LAYER}{name}.weight", lambda w: w * 0 + 1)
        for name in ("input_layernorm", "post_attention_layernorm")
    },
}
# what is wrong -> (the net that shows it, fields of config.json, fields of its vision_config)
WRONG_CONFIG: dict[str, tuple[str, dict, dict]] = {
    "other sections": ("block_0", {"rope_scaling": {"type": "default", "mrope_section": [24, 24, 16]}}, {}),
    "other sections in decode": (
        "block_cache_0",
        {"rope_scaling": {"type": "default", "mrope_section": [24, 16, 24]}},
        {},
    ),
    "rope base": ("block_0", {"rope_theta": 100.0}, {}),
    "eps": ("block_0", {"rms_norm_eps": 0.05}, {}),
    "vision eps": ("vit", {}, {"layer_norm_eps": 0.1}),
    "vision rope base": ("vit", {}, {"rope_parameters": {"rope_type": "axial", "rope_theta": 10.0}}),
    "vision activation": ("vit", {}, {"hidden_act": "silu"}),
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


@pytest.mark.parametrize("what", ["epsilon of the projector's norm", "learned positions corners on corners"])
def test_wrong_constants_of_the_class(what, runs):
    """1e-6, that of the tower's other norms, where 1e-5 is meant; and bilinear interpolation with align_corners."""
    plan, made = runs
    launch, found = made["vit"]

    class Told:
        def run(self, *_):
            return found

    session = Session(plan, Told())
    for reference in (session.reference, session.half):
        whole = reference.sight.whole
        if "epsilon" in what:
            whole.projector.pre_norm.eps = 1e-6
        else:
            whole.visual.vision_model.embeddings.interpolation_align_corners = True
    session.launch(launch)
    assert not right(session)
