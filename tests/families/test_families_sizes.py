"""Models of published sizes, by the headers of their shards alone: nothing in them is too large for llmconv, nor for
the memory of a build."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkpoints import headers
from family_checkpoints import BASE, CONFIGS, GEMMA3_TEXT, HYBRIDS, QWEN3_5_MOE_TEXT, tensors
from plans import planned

from llmconv.cli.demo import QWEN2
from llmconv.coefficients.layout import Mode, pieces
from llmconv.coefficients.roles import Linear
from llmconv.coefficients.sources import Source
from llmconv.engine.machine import MODEST
from llmconv.plan.estimate import compile_memory, stamp_memory
from llmconv.plan.forms import form_of
from llmconv.plan.origins import origins


def size(config: dict, hidden: int, intermediate: int, heads: int, kv_heads: int, vocab: int, **more) -> dict:
    names = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "vocab_size")
    return config | dict(zip(names, (hidden, intermediate, heads, kv_heads, vocab))) | {"num_hidden_layers": 3} | more


MODELS = {
    "llama 70B": size(BASE, 8192, 28672, 64, 8, 128256, model_type="llama", rope_theta=5e5),
    "qwen2 72B": size(QWEN2, 8192, 29568, 64, 8, 152064),
    "gemma3 27B": size(GEMMA3_TEXT, 5376, 21504, 32, 16, 262208, head_dim=128),
    "phi3 medium": size(CONFIGS["phi3"], 5120, 17920, 40, 10, 32064),
    "qwen2_moe 57B": size(
        CONFIGS["qwen2_moe"],
        3584,
        18944,
        28,
        4,
        151936,
        num_experts=64,
        moe_intermediate_size=2560,
        shared_expert_intermediate_size=20480,
        mlp_only_layers=[],
    ),
    "qwen3_5_moe 397B": HYBRIDS["qwen3_5_moe"]
    | {
        "text_config": QWEN3_5_MOE_TEXT
        | {"hidden_size": 4096, "num_attention_heads": 32, "head_dim": 256, "vocab_size": 248320}
        | {"linear_num_key_heads": 16, "linear_num_value_heads": 64, "num_experts": 512, "num_experts_per_tok": 10}
        | {"moe_intermediate_size": 1024, "shared_expert_intermediate_size": 1024}
    },
    "glm4 9B": CONFIGS["chatglm"]
    | {
        "hidden_size": 4096,
        "ffn_hidden_size": 13696,
        "num_attention_heads": 32,
        "kv_channels": 128,
        "padded_vocab_size": 151552,
        "num_layers": 3,
    },
}


@pytest.fixture(scope="module")
def hollow(tmp_path_factory: pytest.TempPathFactory):
    """hollow(name) -> a model directory whose shard has a header and no bytes on the disk."""

    def make(name: str) -> Path:
        place = tmp_path_factory.getbasetemp() / f"hollow {name}"
        return place if place.exists() else headers(place, MODELS[name], tensors(MODELS[name]))

    return make


@pytest.mark.parametrize("quantize", ["w4bf16", "w8f16", "bf16", "f16"])
@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_too_large(name, quantize, hollow, tmp_path):
    found = planned(hollow(name), seq=512, quantize=quantize)
    compiled = {
        net_name for net_name, origin in origins(found.nets, found.checkpoint).items() if origin.template is None
    }
    for net in found.nets:
        weights = {weight.name: weight for weight in net.weights}
        pieces(net.roles, weights, Mode.of(net.flags))  # raises where llmconv would leave the net to the compiler
        for role in net.roles:
            Source(weights[role.weight].recipe, found.checkpoint, transposed=isinstance(role, Linear))
        taken = compile_memory(net, form_of(net)) if net.name in compiled else stamp_memory(net)
        assert taken <= MODEST, f"{net.name} takes {taken / 1e9:.2f} GB"
