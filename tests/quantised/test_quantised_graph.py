"""The nets of quantised checkpoints, as graphs, against transformers' own class on the dequantised weights: every form
and width of their integers, and every family."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from plans import planned
from quantised_checkpoints import How, fp8
from quantised_graphs import LAYER, exact, packed_ops
from safetensors.numpy import load_file, save_file

from llmconv.plan.plan import plan

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
WHATEVER = [How(bits, group, symmetric) for bits in (4, 8) for group in (32, 64, 128, 0) for symmetric in (True, False)]


@pytest.mark.parametrize("how", WHATEVER, ids=str)
@pytest.mark.parametrize("form", ["gptq", "compressed"])
def test_bits_and_groups(form, how, quantised):
    every(form, how, quantised)


@pytest.mark.parametrize("how", [How(4, 64), How(8, 128, True), How(4, 0)], ids=str)
@pytest.mark.parametrize("form", ["gptq_v2", "auto_round", "auto_round:auto_gptq"])
def test_forms_of_gptq(form, how, quantised):
    every(form, how, quantised)


def every(form, how, quantised) -> None:
    method = "gptq" if form[:4] == "gptq" else "compressed" if form == "compressed" else "auto-round"
    more = {"gptq": {"checkpoint_format": form}, "auto-round": {"packing_format": form}}.get(method, {})
    made = planned(quantised(method, how, options=LAYER, **more))
    exact(made, "block_cache")
    (net,) = (net for net in made.nets if net.name == "block_cache_0")
    assert len(packed_ops(net)) == 7 and {bits for bits, _ in packed_ops(net).values()} == {how.bits}
    assert made.job.quantize == f"w{how.bits}bf16" and made.job.q_group_size == how.group and net.flags.mode == "BF16"


@pytest.mark.parametrize("group", [32, 64, 128, 256, 0])
@pytest.mark.parametrize("method", ["awq", "auto-round"])
def test_awq(method, group, quantised):
    more = {"packing_format": "auto_round:auto_awq"} if method == "auto-round" else {}
    exact(planned(quantised(method, How(4, group), options=LAYER, **more)))


@pytest.mark.parametrize("method", ["gptq", "compressed"])
@pytest.mark.parametrize("how", [How(4, 64, True, 1), How(8, 32, False, 2), How(4, 128, False, 3)], ids=str)
def test_mixed_groups(method, how, quantised):
    """desc_act with a g_idx of its own: x is put in the order of the codes, once for all layers that want the same."""
    made = planned(quantised(method, how, options=LAYER))
    exact(made)
    gathers = [
        op.results[0].name
        for op in made.nets[-1].graph.ops
        if op.kind == "Gather" and op.results[0].name.endswith(".ordered")
    ]
    assert gathers == [
        f"model.layers.0.{name}.ordered"
        for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj")
    ]


def test_mixed_groups_of_each_layer_its_own(quantised):
    """q, k and v with different orders take three; a layer whose groups lie in order takes none."""

    def pick(path):
        return (
            None
            if "lm_head" in path
            else How(4, 64, False, {"q_proj": 1, "k_proj": 2, "v_proj": 1}.get(path.rsplit(".", 1)[-1], 0))
        )

    made = planned(quantised("gptq", How(4, 64, False, 1), pick=pick, options=LAYER))
    exact(made)
    gathers = [
        op.results[0].name
        for op in made.nets[-1].graph.ops
        if op.kind == "Gather" and op.results[0].name.endswith(".ordered")
    ]
    assert gathers == [f"model.layers.0.self_attn.{name}.ordered" for name in ("q_proj", "k_proj")]


FAMILIES = (
    ["qwen2", "qwen2_tied", "qwen3", "phi3", "phi3_longrope", "chatglm", "glm", "glm4", "gemma3", "gemma3_text", "granite", "minicpm", "olmo2", "smollm3", "mistral", "ernie4_5", "seed_oss"]
)  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_families(name, quantised):
    """q, k and v out of one tensor, other names, prefixes, biases, norms: whatever a family has."""
    how = How(4, 64) if name != "granite" else How(8, 128, True)

    def pick(path):
        return None if path in ("lm_head", "transformer.output_layer") else how

    exact(planned(quantised("gptq", how, name, pick)))


@pytest.mark.parametrize(
    "method, how", [("awq", How(4, 64)), ("compressed", How(4, 32)), ("gptq", How(4, 64, False, 5))]
)
@pytest.mark.parametrize("name", ["phi3", "chatglm"])
def test_fused_tensors(name, method, how, quantised):
    made = planned(
        quantised(method, how, name, lambda path: None if path in ("lm_head", "transformer.output_layer") else how)
    )
    exact(made)
    assert len(packed_ops(made.nets[-1])) == 7


@pytest.mark.parametrize("method, how", [("gptq", How(4, 64)), ("awq", How(4, 128)), ("compressed", How(8, 64))])
def test_experts(method, how, quantised):
    """Routed experts are parts of wide matrices; the router stays float."""
    made = planned(
        quantised(
            method,
            how,
            "qwen2_moe",
            lambda path: None if path.endswith(("lm_head", "mlp.gate", "shared_expert_gate")) else how,
        )
    )
    exact(made)
    names = packed_ops(next(net for net in made.nets if net.name == "block_0"))
    assert sum("experts" in name for name in names) == 3 and sum("shared_expert." in name for name in names) == 3


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "method, how",
    [("gptq", How(4, 64)), ("gptq", How(8, 128, True, 4)), ("awq", How(4, 64)), ("compressed", How(4, 0, True))],
)
def test_a_quantised_head(method, how, tied, quantised, tmp_path):
    """Also in a model whose config says that the head is the embedding: it is what the checkpoint has."""
    model = quantised(method, how, pick=lambda path: how, options=LAYER, lm_head=True)
    if tied:
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    made = planned(model, do_sample=1)
    exact(made, "lm_head")
    (head,) = (net for net in made.nets if net.kind == "lm_head")
    assert set(packed_ops(head)) == {"lm_head"} and head.flags.mode == "BF16"


def test_mixed_bits_and_layers_in_float(quantised):
    """Layer by layer, as extra_config says."""
    table = {
        "model.layers.0.self_attn.v_proj": How(8, 64),
        "model.layers.1.mlp.up_proj": How(8, 128),
        "model.layers.1.self_attn.q_proj": None,
    }
    extra = {path: {"bits": how.bits, "group_size": how.group} if how else {"bits": 16} for path, how in table.items()}
    extra |= {r".*layers\.0\.mlp\.(gate|up)_proj": {"bits": 4, "group_size": 32}}

    def pick(path):
        if path in table:
            return table[path]
        return (
            None if "lm_head" in path else How(4, 32) if "layers.0.mlp" in path and "down" not in path else How(4, 128)
        )

    made = planned(quantised("auto-round", How(4, 128), pick=pick, extra_config=extra, packing_format="auto_round"))
    exact(made)
    first, second = (packed_ops(net) for net in made.nets if net.kind == "block")
    assert (
        first["model.layers.0.self_attn.v_proj"] == (8, 64)
        and first["model.layers.0.mlp.up_proj"] == (4, 32)
        and len(first) == 7
    )
    assert (
        second["model.layers.1.mlp.up_proj"] == (8, 128)
        and "model.layers.1.self_attn.q_proj" not in second
        and len(second) == 6
    )
    assert any("1 of 8 bits in groups of 64" in note for note in made.notes)


@pytest.mark.parametrize("rule", [r"+:.*\.mlp\..*", r".*layers\.0\.mlp\.down_proj"])
def test_gptqmodels_dynamic(rule, quantised):
    """Patterns of GPTQModel: the first that matches decides, "-:" leaves a layer in float."""
    import re

    def pick(path):
        if "lm_head" in path or "k_proj" in path:
            return None
        return How(8, 32) if re.match(rule.removeprefix("+:"), path) else How(4, 64)

    made = planned(
        quantised(
            "gptq",
            How(4, 64),
            pick=pick,
            options=LAYER,
            dynamic={r"-:.*k_proj": {}, rule: {"bits": 8, "group_size": 32}},
        )
    )
    exact(made)
    assert packed_ops(made.nets[-1])["model.layers.0.mlp.down_proj"] == (8, 32)


def test_compressed_tensors_targets(quantised):
    """A layer's own name goes before patterns, and those before the class."""
    how = {"q_proj": How(8, 32), "k_proj": How(8, 64)}

    def pick(path):
        return None if "lm_head" in path else how.get(path.rsplit(".", 1)[-1], How(4, 128))

    def group(bits, size, *targets):
        return {
            "targets": list(targets),
            "weights": {"num_bits": bits, "type": "int", "symmetric": False, "strategy": "group", "group_size": size},
        }

    groups = {
        "group_0": group(4, 128, "Linear"),
        "group_1": group(8, 64, r"re:.*\.[qk]_proj"),
        "group_2": group(8, 32, "model.layers.0.self_attn.q_proj"),
    }
    made = planned(quantised("compressed", How(4, 128), pick=pick, options=LAYER, config_groups=groups))
    exact(made)
    assert packed_ops(made.nets[-1])["model.layers.0.self_attn.q_proj"] == (8, 32)


def test_sizes_that_are_no_multiples_of_the_lanes(quantised):
    """Layers of 96 and 160 outputs are matrices of dequantised weights; the others stay packed."""
    sizes = {
        "hidden_size": 256,
        "num_attention_heads": 8,
        "num_key_value_heads": 3,
        "intermediate_size": 416,
        "head_dim": 32,
        **LAYER,
    }
    made = planned(quantised("gptq", How(4, 32), "qwen3", options=sizes | {"num_attention_heads": 6}))
    exact(made)
    assert {name.rsplit(".", 1)[-1] for name in packed_ops(made.nets[-1])} == {"q_proj", "o_proj", "down_proj"}


def test_adapters_sum_with_packed_layers(quantised):
    made = planned(quantised("gptq", How(4, 64, False, 7), options=LAYER), lora_max_rank=8)
    exact(made, "block_cache")


@pytest.mark.parametrize(
    "options", [{"use_block_with_kv": 1, "share_prompt": 1}, {"batch": 2}, {"use_history_kv": 1}, {"chunk_length": 16}]
)
def test_options(options, quantised):
    made = planned(quantised("awq", How(4, 64), options=LAYER), **options)
    blocks = [net for net in made.nets if net.layer is not None]
    assert all(len(packed_ops(net)) == 7 for net in blocks)
    exact(made, *{net.kind for net in blocks} - {"block_cache" if "batch" in options else ""})


def test_fp8_is_dequantised(base, tmp_path):
    made = planned(fp8(base("qwen3", **LAYER), tmp_path / "fp8", (64, 96)))
    exact(made)
    assert made.job.quantize == "bf16" and made.notes == (
        "the checkpoint is quantised with fp8: its weights are dequantised to bf16",
    )
    assert planned(tmp_path / "fp8", quantize="w4f16").nets[-1].flags.mode == "W4F16"


@pytest.mark.parametrize("quantize", ["auto", "w8bf16"])
@pytest.mark.parametrize("method", ["gptq", "awq", "auto-round", "compressed", "fp8"])
def test_weights_are_counted_that_the_integers_stand_for(method, quantize, quantised, base, tmp_path):
    """Not the words that hold them, nor scales and zero points."""
    model = (
        fp8(base("llama"), tmp_path / "fp8")
        if method == "fp8"
        else quantised(method, How(4, 64, mixed=1 * (method == "gptq")))
    )
    assert planned(model, quantize=quantize).weights == planned(base("llama")).weights


def test_other_bits_are_dequantised_first(quantised):
    model = quantised("gptq", How(4, 128), options=LAYER)
    for quantize, mode in (("bf16", "BF16"), ("f16", "F16"), ("w8bf16", "W8BF16")):
        made = planned(model, quantize=quantize)
        exact(made)
        assert not packed_ops(made.nets[-1]) and made.nets[-1].flags.mode == mode and "dequantised" in made.notes[0]
    made = planned(model, quantize="w4f16")
    assert len(packed_ops(made.nets[-1])) == 7 and made.nets[-1].flags.mode == "F16"


def test_a_job_of_a_manifest_is_settled_as_it_was(quantised):
    """Verification plans again from the settled job."""
    for method, how in (("gptq", How(4, 0)), ("awq", How(4, 128))):
        made = planned(quantised(method, how, options=LAYER))
        again = plan(made.job)
        assert again.job == made.job and [net.mlir for net in again.nets] == [net.mlir for net in made.nets]


def test_a_bias_of_zeros_where_the_model_has_none_does_not_matter(quantised):
    model = quantised("gptq", How(4, 64), options=LAYER | {"dtype": "float16"})
    tensors = load_file(model / "model.safetensors")
    name = "model.layers.0.mlp.down_proj.bias"
    save_file(tensors | {name: np.zeros(256, np.float16)}, model / "model.safetensors")
    exact(planned(model))
    save_file(tensors | {name: np.ones(256, np.float16)}, model / "model.safetensors")
    with pytest.raises(Exception, match=r"down_proj\.bias .*would not be used"):
        planned(model)


def test_older_autogptqs_file(quantised):
    """quantize_config.json in place of quantization_config."""
    model = quantised("gptq", How(4, 64), options=LAYER)
    config = json.loads((model / "config.json").read_text())
    section = config.pop("quantization_config")
    del section["quant_method"], section["checkpoint_format"]
    (model / "config.json").write_text(json.dumps(config))
    (model / "quantize_config.json").write_text(json.dumps(section))
    made = planned(model)
    assert len(packed_ops(made.nets[-1])) == 7
    exact(made)


def test_autorounds_own_checkpoints():
    for name in ("own", "auto_gptq", "auto_awq", "llm_compressor", "gptq"):
        exact(planned(FIXTURES / "autoround" / name))
