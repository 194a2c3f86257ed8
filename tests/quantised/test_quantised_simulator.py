"""Quantised checkpoints the way a user would: convert with -q auto, verify on the chip simulator. Every block within
its tolerance.

The reference is torch f32 on the dequantised weights, which llmconv.verify.dequantise reads by itself.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from quantised_checkpoints import How, fp8
from verify_helpers import verify

pytestmark = [pytest.mark.compiler, pytest.mark.simulator]
FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
SEQ = 32
SIZES = {"num_hidden_layers": 1, "dtype": "float16"}
BLOCKS = ["block_0", "block_cache_0"]
QUICK = {
    "gptq": ("gptq", How(4, 64), {}),
    "gptq, desc_act, 8 bits": ("gptq", How(8, 32, False, 1), {}),
    "awq": ("awq", How(4, 128), {}),
    "compressed-tensors by channel": ("compressed", How(4, 0, False), {}),
}


def right(out: Path, quantize: str, nets: list[str] | None = None) -> None:
    """Convert has done what -q auto should, and every block is right."""
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["job"]["quantize"] == quantize
    assert verify(out, nets=nets or BLOCKS)


@pytest.mark.parametrize("chip", [pytest.param("bm1684x", marks=pytest.mark.slow), "bm1688"])
@pytest.mark.parametrize("case", QUICK)
def test_f16(case, chip, quantised, convert):
    method, how, more = QUICK[case]
    model = quantised(method, how, "qwen2", options=SIZES, **more)
    right(convert(model, seq=SEQ, quantize="auto", chip=chip), f"w{how.bits}f16")


@pytest.mark.parametrize("name", ["own", "auto_gptq", "auto_awq", "llm_compressor", "gptq"])
def test_what_autoround_wrote(name, convert):
    """Two layers, of which the second has a layer of 8 bits and one in float."""
    right(
        convert(FIXTURES / "autoround" / name, seq=SEQ, quantize="auto", chip="cv186x"),
        "w4f16",
        ["block_0", "block_1", "block_cache_1"],
    )


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_bf16(method, quantised, convert):
    """The activations' type is the checkpoint's: bf16."""
    right(
        convert(quantised(method, How(4, 64), "qwen3"), seq=SEQ, quantize="auto", chip="bm1688"),
        "w4bf16",
        ["block_0", "block_1", "block_cache_0"],
    )


@pytest.mark.parametrize("name", ["qwen3", pytest.param("qwen3_vl", marks=pytest.mark.slow)])
def test_fp8(name, base, tmp_path, convert):
    right(
        convert(fp8(base(name), tmp_path / "fp8"), seq=SEQ, quantize="auto", chip="bm1688"),
        "bf16",
        ["block_0", "block_cache_1"],
    )


SEEING = {  # as the published ones say that their tower is not quantised
    "qwen2_vl": ("gptq", How(4, 128, True), "w4f16", {}),
    "qwen2_5_vl": ("awq", How(4, 128), "w4bf16", {"modules_to_not_convert": ["visual"]}),
    "qwen3_vl": ("compressed", How(4, 64, True), "w4bf16", {"ignore": ["re:.*visual.*", "lm_head"]}),
    "glm4v": ("auto-round", How(4, 128, True), "w4bf16", {"packing_format": "auto_round:auto_gptq"}),
    "paddleocr_vl": ("awq", How(4, 128), "w4bf16", {"modules_to_not_convert": ["visual", "mlp_AR"]}),
    "minicpmv_4": ("awq", How(4, 128), "w4bf16", {"modules_to_not_convert": ["vpm", "resampler"]}),
}


@pytest.mark.parametrize("name", [n if n == "qwen2_5_vl" else pytest.param(n, marks=pytest.mark.slow) for n in SEEING])
def test_a_model_that_sees(name, quantised, convert):
    """The tower stays in half precision; an image and the tokens that follow are the model's own."""
    method, how, quantize, section = SEEING[name]

    def pick(path):
        return None if any(part in path for part in ("lm_head", "visual", "mlp_AR", "vpm", "resampler")) else how

    more = {"torch_dtype": "float16" if quantize == "w4f16" else "bfloat16"}
    more |= {"query_num": 8} if name == "minicpmv_4" else {}
    out = convert(
        quantised(method, how, name, pick, more, **section),
        seq=48,
        quantize="auto",
        chip="bm1688",
        max_pixels="128,128" if name == "qwen3_vl" else "112,112",
    )
    manifest = json.loads((out / "manifest.json").read_text())
    kinds = {net["name"]: {io["dtype"] for io in net["outputs"]} for net in manifest["nets"]}
    assert manifest["job"]["quantize"] == quantize and kinds["vit"] == kinds["block_0"] == {quantize[2:]}
    assert verify(out, full=True, tokens=4)


def test_a_quantised_head_and_sizes_beside_the_lanes(quantised, convert):
    """lm_head is a layer like others; 96 and 160 outputs are dequantised."""
    sizes = SIZES | {
        "hidden_size": 192,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "intermediate_size": 416,
        "head_dim": 32,
    }
    model = quantised("gptq", How(4, 32), "qwen3", lambda path: How(4, 32), sizes, lm_head=True)
    right(convert(model, seq=SEQ, quantize="auto", chip="bm1688"), "w4f16", [*BLOCKS, "lm_head"])


def test_a_generation(quantised, convert):
    """All nets together, as a runtime uses them."""
    out = convert(
        quantised("gptq", How(4, 128, True), "qwen2_tied", options={"dtype": "float16"}),
        seq=64,
        quantize="auto",
        chip="bm1688",
    )
    assert verify(out, full=True, tokens=8)


def test_a_wrong_zero_point_is_found(quantised, convert, monkeypatch):
    """Verification does not believe the unpacker: with one mistake in that, no block is right."""
    from llmconv.checkpoint.quantised import gptq

    monkeypatch.setattr(gptq, "ONES", {4: 0, 8: 0})
    out = convert(quantised("gptq", How(4, 64), "qwen2", options=SIZES), seq=SEQ, quantize="auto", chip="bm1688")
    assert not verify(out, nets=BLOCKS)
    wrong = [net for net in json.loads((out / "verify.json").read_text())["nets"] if not net["ok"]]
    assert [net["name"] for net in wrong] == BLOCKS


FORMS = {
    "gptq": ("gptq", {}), "gptq_v2": ("gptq", {"checkpoint_format": "gptq_v2"}), "awq": ("awq", {}), "compressed": ("compressed", {}),
    "auto_round": ("auto-round", {"packing_format": "auto_round"}),
    "auto_gptq": ("auto-round", {"packing_format": "auto_round:auto_gptq"}), "auto_awq": ("auto-round", {"packing_format": "auto_round:auto_awq"}),
}  # fmt: skip
HOWS = [How(bits, group, symmetric) for bits in (4, 8) for group in (32, 64, 128, 0) for symmetric in (True, False)]


@pytest.mark.slow
@pytest.mark.parametrize("chip", ["bm1684x", "bm1688"])
@pytest.mark.parametrize("how", [*HOWS, How(4, 128, True, 1), How(8, 64, False, 2)], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_everything(form, how, chip, quantised, convert):
    method, more = FORMS[form]
    if ("awq" in form and (how.bits == 8 or how.mixed)) or (method == "auto-round" and how.mixed):
        pytest.skip("the format has no such layers")
    right(
        convert(quantised(method, how, "qwen2", options=SIZES, **more), seq=SEQ, quantize="auto", chip=chip),
        f"w{how.bits}f16",
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "phi3",
        "phi3_longrope",
        "chatglm",
        "glm",
        "glm4",
        "gemma3",
        "granite",
        "minicpm",
        "olmo2",
        "smollm3",
        "mistral",
        "qwen2_moe",
        "qwen3",
        "llama",
        "ernie4_5",
        "seed_oss",
    ],
)
def test_families(name, quantised, convert):
    """q, k, v out of one tensor; other names; routed experts. The activations are float16, in which the chip is
    exact."""

    def pick(path):
        return None if path.endswith(("lm_head", "output_layer", "mlp.gate", "shared_expert_gate")) else How(4, 64)

    out = convert(quantised("gptq", How(4, 64), name, pick), seq=64, quantize="w4f16", chip="bm1688")
    assert verify(out, nets=["block_0", "block_1", "block_cache_0", "block_cache_1"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"lora_max_rank": 8}, {"share_prompt": 1}, {"use_history_kv": 1}, {"batch": 2}, {"do_sample": 1, "dynamic": 1}],
    ids=str,
)
def test_options(options, quantised, convert):
    out = convert(
        quantised("gptq", How(4, 64, False, 3), "llama", options=SIZES),
        seq=64,
        quantize="auto",
        chip="bm1688",
        **options,
    )
    assert verify(out, full=True, tokens=4)
