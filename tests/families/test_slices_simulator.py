"""The models that see slice by slice on the chip simulator against transformers, the way a user would: convert, then
verify, with an overview and slices in one prompt. One is verified in every run; all, on every chip, with other
dimensions, options and w4, are marked slow."""

from __future__ import annotations

import json
import shutil

import pytest
from slice_checkpoints import CONFIGS
from test_vision_simulator import worst
from verify_helpers import verify

from llmconv.blocks.vision.sliced import graph as graphs
from llmconv.blocks.vision.sliced import host

pytestmark = [pytest.mark.compiler, pytest.mark.simulator]
SEQ = 96
FEW = {"query_num": 16, "slice_config": {"max_slice_nums": 4, "model_type": "minicpmv"}}  # three slices in a prompt
# sizes of heads 64 and 72, a tower as wide as the language model, another activation and depth, more positions
ODD = {
    "minicpmv_2_6": ({"hidden_size": 256, "num_hidden_layers": 3}, "84,112"),
    "minicpmv_4": ({"num_attention_heads": 2, "image_size": 168, "hidden_act": "gelu"}, "140,112"),
    "minicpmv_4_5": ({"hidden_size": 144, "num_attention_heads": 2, "intermediate_size": 320}, "98,70"),
}
CHIPS = ("bm1684x", "bm1688", "cv186x")
OPTIONS = (
    {"dynamic": 1},
    {"use_block_with_kv": 1, "seq": 192, "max_input_length": 96},
    {"use_history_kv": 1, "chunk_length": 96, "seq": 192},
    {"share_prompt": 1, "seq": 192, "max_input_length": 96},
    {"chunk_length": 64},
    {"batch": 2},
    {"embedding_disk": 1, "do_sample": 1},
    {"quantize": "f16"},
    {"num_device": 3, "distribute_strategy": "pp"},
    {"lora_max_rank": 8},
)


def slices(out) -> int:
    """Launches of the tower, by itself and in the prompt."""
    nets = json.loads((out / "verify.json").read_text())["nets"]
    return next(net for net in nets if net["name"] == "vit")["launches"]


def test_an_overview_and_slices_in_a_prompt(slice_checkpoint, convert):
    vision, pixels = ODD["minicpmv_4_5"]
    model = slice_checkpoint("minicpmv_4_5", vision=vision, seed=1, **FEW)
    out = convert(model, seq=SEQ, max_pixels=pixels, chip="bm1688", quantize="bf16")
    assert verify(out, full=True, tokens=3)
    assert slices(out) == 5 + 2 and worst(out, "vit") < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("quantize", ["bf16", "w4bf16"])
@pytest.mark.parametrize("size", ["golden", "odd"])
def test_everything(name, chip, quantize, size, slice_checkpoint, convert):
    vision, pixels = ODD[name] if size == "odd" else ({}, "112,112")
    model = slice_checkpoint(name, vision=vision, seed=len(chip), **FEW)
    out = convert(model, seq=128, quantize=quantize, chip=chip, max_pixels=pixels)
    assert verify(out, full=True, tokens=6)
    assert slices(out) >= 3 + 3 and worst(out, "vit") < 0.02  # on a slow chip fewer by themselves


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options(name, options, slice_checkpoint, convert):
    vision, pixels = ODD[name]
    # an adapter is two more roundings for every linear: see tests/test_options.py
    model = slice_checkpoint(name, vision=vision, gain=1.0 if "lora_max_rank" in options else 1.5, **FEW)
    out = convert(model, **{"seq": 128, "quantize": "bf16", "chip": "bm1688", "max_pixels": pixels} | options)
    assert verify(out, full=True, tokens=4)


@pytest.mark.slow
def test_the_published_number_of_patches(slice_checkpoint, convert):
    """Patches, places and tokens as published, for slices of every kind of image; a narrow tower of one layer."""
    vision = {"hidden_size": 144, "image_size": 980, "num_attention_heads": 2, "num_hidden_layers": 1}
    out = convert(
        slice_checkpoint("minicpmv_4", vision=vision), seq=64, quantize="bf16", chip="bm1688", max_pixels="448,504"
    )
    assert verify(out, nets=["vit"])
    assert slices(out) >= 3  # of a large net not all trials are launched


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["patch order", "positions", "query, key and value", "keys' positions", "eps"])
def test_faults_are_seen(fault, slice_checkpoint, convert, monkeypatch, tmp_path):
    from safetensors.torch import load_file, save_file

    model = shutil.copytree(slice_checkpoint("minicpmv_4", **FEW), tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    tensors["resampler.kv_proj.weight"] *= 0.01  # so that the eps of the resampler's norms matters
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    right = host.preprocess
    wrong = {
        "patch order": lambda given: {"input_states": given["input_states"][:, ::-1].copy()},
        "positions": lambda given: {"pos_ids": given["pos_embed_ids"]},
        "keys' positions": lambda given: {"pos_embed_ids": 0 * given["pos_embed_ids"]},
    }
    if fault == "eps":
        monkeypatch.setattr(graphs, "EPS", 1e-3)
    if fault == "query, key and value":
        weight = tensors["resampler.attn.in_proj_weight"]
        swapped = tensors | {"resampler.attn.in_proj_weight": weight.roll(len(weight) // 3, 0).contiguous()}
        save_file(swapped, model / "model.safetensors", metadata={"format": "pt"})
    out = convert(model, seq=SEQ, max_pixels="112,112", chip="bm1688", quantize="bf16", jobs=1)
    if fault == "query, key and value":
        save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    if fault in wrong:
        monkeypatch.setattr(host, "preprocess", lambda spec, *given: (made := right(spec, *given)) | wrong[fault](made))
    assert not verify(out, nets=["vit"])
    monkeypatch.undo()
