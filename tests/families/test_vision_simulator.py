"""The models that see on the chip simulator against transformers, the way a user would: convert, then verify.

One family is verified in every run, static and dynamic; all, with other dimensions and seeds, on both kinds of chip and
with w4, are marked slow."""

from __future__ import annotations

import json

import pytest
from verify_helpers import SEEING_OPTIONS, verify
from vision_checkpoints import CONFIGS, HYBRIDS

SEQ = 48
# towers of other dimensions than the golden ones: head sizes 64, 48 and 72, another merge, windows of four tokens
ODD = {
    "qwen2_vl": ({"embed_dim": 256, "depth": 3, "mlp_ratio": 2}, "84,112"),
    "qwen2_5_vl": (
        {"hidden_size": 192, "intermediate_size": 320, "window_size": 64, "depth": 2, "fullatt_block_indexes": [1]},
        "140,84",
    ),
    "qwen3_vl": (
        {
            "hidden_size": 288,
            "depth": 2,
            "deepstack_visual_indexes": [1, 0],
            "num_position_embeddings": 100,
            "spatial_merge_size": 3,
        },
        "144,96",
    ),
    "glm4v": (
        {"hidden_size": 288, "num_heads": 4, "depth": 3, "intermediate_size": 320, "image_size": 70},
        "84,112",
    ),
    "paddleocr_vl": (
        {"hidden_size": 192, "num_attention_heads": 3, "num_hidden_layers": 3, "intermediate_size": 320},
        "84,140",
    ),
}
PIXELS = {
    "qwen2_vl": "112,112",
    "qwen2_5_vl": "112,224",
    "qwen3_vl": "128,128",
    "glm4v": "112,112",
    "paddleocr_vl": "112,112",
}
BUILDS = {
    "bf16 on bm1688": ("bf16", "bm1688"),
    "bf16 on cv186x": ("bf16", "cv186x"),
    "w4bf16 on bm1684x": ("w4bf16", "bm1684x"),
    "bf16 on bm1684x": ("bf16", "bm1684x"),
}
OPTIONS = SEEING_OPTIONS
pytestmark = [pytest.mark.compiler, pytest.mark.simulator]


def worst(out, net: str) -> float:
    """The largest relative L2 of a net's outputs in verify.json."""
    nets = {n["name"]: n for n in json.loads((out / "verify.json").read_text())["nets"]}
    return max(output["relative_l2"] for output in nets[net]["outputs"])


@pytest.mark.parametrize(
    "name, options",
    [("qwen3_vl", {}), ("glm4v", {}), ("qwen2_5_vl", {"dynamic": 1}), ("paddleocr_vl", {"dynamic": 1})],
    ids=["qwen3_vl-static", "glm4v-static", "qwen2_5_vl-dynamic", "paddleocr_vl-dynamic"],
)
def test_an_image_and_its_tokens(name, options, vision_checkpoint, convert):
    vision, pixels = ODD[name]
    out = convert(vision_checkpoint(name, vision=vision, seed=1), seq=SEQ, max_pixels=pixels, chip="bm1688", **options)
    assert verify(out, full=True, tokens=4)
    found = json.loads((out / "verify.json").read_text())
    assert next(net for net in found["nets"] if net["name"] == "vit")["launches"] >= 4 and worst(out, "vit") < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("size", ["golden", "odd"])
def test_everything(name, build, size, vision_checkpoint, convert):
    quantize, chip = BUILDS[build]
    vision, pixels = ODD[name] if size == "odd" else ({}, PIXELS[name])
    out = convert(
        vision_checkpoint(name, vision=vision, seed=len(build)),
        seq=SEQ,
        quantize=quantize,
        chip=chip,
        max_pixels=pixels,
    )
    assert verify(out, full=True, tokens=6)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options(name, options, vision_checkpoint, convert):
    vision, pixels = ODD[name]
    out = convert(vision_checkpoint(name, vision=vision), seq=64, chip="bm1688", max_pixels=pixels, **options)
    assert verify(out, full=True, tokens=4)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_an_adapter(name, vision_checkpoint, convert):
    vision, pixels = ODD[name]
    # an adapter is two more roundings for every linear: see tests/test_options.py
    model = vision_checkpoint(name, vision=vision, gain=1.0)
    assert verify(convert(model, seq=SEQ, chip="bm1688", max_pixels=pixels, lora_max_rank=8), full=True, tokens=2)


# always dynamic; heads of 72 as the published towers have them, and towers with other places of the windows
QWEN = (({}, {}, "128,128"), ({"hidden_size": 144, "num_heads": 2, "depth": 2}, {}, "96,160"))
HYBRID_TOWERS = {
    "qwen3_5": QWEN,
    "qwen3_5_moe": QWEN,
    "minicpmv4_6": (
        ({}, {}, "112,168"),
        ({"hidden_size": 144, "num_attention_heads": 2, "num_hidden_layers": 2}, {"insert_layer_id": 0}, "168,112"),
    ),
}


@pytest.mark.parametrize(
    "name, size, chip, options",
    [
        ("minicpmv4_6", 0, "cv186x", {}),
        *(
            pytest.param(name, size, chip, options, marks=pytest.mark.slow)
            for name in HYBRIDS
            for chip in ("cv186x", "bm1688", "bm1684x")
            for size, options in ((0, {}), (1, {"use_history_kv": 1, "chunk_length": 32}))
            if (name, chip, size) != ("minicpmv4_6", "cv186x", 0)
        ),
        *(
            pytest.param(name, 0, "bm1688", options, marks=pytest.mark.slow)
            for name in HYBRIDS
            for options in ({"embedding_disk": 1, "do_sample": 1}, {"num_device": 3, "distribute_strategy": "pp"})
        ),
    ],
    ids=str,
)
def test_hybrids(name, size, chip, options, vision_checkpoint, convert):
    vision, more, pixels = HYBRID_TOWERS[name][size]
    model = vision_checkpoint(name, vision=vision, seed=size, **more)
    out = convert(model, seq=64, chip=chip, max_pixels=pixels, **options)
    assert verify(out, full=True, tokens=4)
    towers = [net for net in json.loads((out / "verify.json").read_text())["nets"] if net["name"].startswith("vit")]
    assert len(towers) == (2 if name == "minicpmv4_6" else 1)
    # on a slow chip fewer by themselves
    assert all(net["launches"] >= 3 and worst(out, net["name"]) < 0.02 for net in towers)
