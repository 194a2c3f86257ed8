"""The architectures of GGUF files that llmconv reads: class, tensors, and config.json's fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmconv.checkpoint.gguf.header import Header
from llmconv.checkpoint.gguf.names import EXPERTS, FUSED, GLM, GLM4, SANDWICH, Names
from llmconv.errors import InputError, shown

ADVICE = "Convert the checkpoint that it was made from."
GEMMA3_27B = 62  # layers; llama.cpp scales queries of this size by the width of a head of the hidden state
PHI3_4K = (4096, 2047)  # positions and window of the models that are older than the key for the window


@dataclass(frozen=True)
class Given:
    """What a file says. keys: the metadata of its architecture, without the architecture's name. shapes: of tensors,
    by GGUF's names. facts: values of the tensors that are facts of the config."""

    keys: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    facts: Mapping[str, list[float]]


Fields = dict[str, Any]


@dataclass(frozen=True)
class Architecture:
    """model_type and class of transformers; tensors; further fields by their keys, which the file must have; fields
    that are always the same; those that are computed, from the file and the fields so far; and those that are true
    where a tensor of the first layer is there. reads: keys that `computed` reads, of those that change the maths. sees:
    whether the model has a tower, in a file of its own, which says which model_type it is."""

    model_type: str
    cls: str
    names: Names = field(default_factory=Names)
    keys: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    computed: Callable[[Given, Fields], Fields] | None = None
    flags: Mapping[str, str] = field(default_factory=dict)
    reads: tuple[str, ...] = ()
    sees: bool = False


def _gemma3(given: Given, config: Fields) -> Fields:
    wide = config["num_hidden_layers"] == GEMMA3_27B
    scalar = config["hidden_size"] // config["num_attention_heads"] if wide else config["head_dim"]
    return {"query_pre_attn_scalar": scalar, "rope_local_base_freq": given.keys.get("rope.freq_base_swa", 10000.0)}


def _phi3(given: Given, config: Fields) -> Fields:
    """The window is 0 in files of models without one, and older files do not name it."""
    positions, window = PHI3_4K
    known = window if config.get("max_position_embeddings") == positions else None
    rotated = given.keys.get("rope.dimension_count", config["head_dim"])
    return {
        "sliding_window": given.keys.get("attention.sliding_window", known) or None,
        "partial_rotary_factor": rotated / config["head_dim"] if isinstance(rotated, int) else 1.0,
    }


def _qwen2_moe(given: Given, config: Fields) -> Fields:
    """Widths that older files do not name are those of the tensors."""
    sizes = {"moe_intermediate_size": "expert_feed_forward_length",
             "shared_expert_intermediate_size": "expert_shared_feed_forward_length"}  # fmt: skip
    tensors = {name: given.shapes.get(f"blk.0.ffn_gate_{part}.weight") for name, part in zip(sizes, ("exps", "shexp"))}
    widths = {name: shape[-2] for name, shape in tensors.items() if shape and len(shape) > 1}
    return widths | {name: given.keys[key] for name, key in sizes.items() if key in given.keys}


def _glm(given: Given, config: Fields) -> Fields:
    """Rope turns half of a head, as in all published ones, unless the file says otherwise."""
    rotated = given.keys.get("rope.dimension_count", config["head_dim"] // 2)
    return {
        "partial_rotary_factor": rotated / config["head_dim"] if isinstance(rotated, int) else 1.0,
        "attention_bias": any(f"blk.0.{one}.bias" in given.shapes for one in ("attn_qkv", "attn_q")),
    }


def _three_positions(given: Given, config: Fields) -> Fields:
    """How many frequencies each of a token's three positions has; llama.cpp has room for a fourth one."""
    sections = given.keys.get("rope.dimension_sections")
    numbers = isinstance(sections, list) and len(sections) in (3, 4) and all(isinstance(n, int) for n in sections)
    if not isinstance(sections, list) or not numbers or any(sections[3:]):
        raise InputError(f"rope.dimension_sections is {shown(str(sections))}", "three numbers are expected", ADVICE)
    return {"rope_scaling": {"rope_type": "default", "mrope_section": sections[:3]}}


def _interleaved(given: Given, config: Fields) -> Fields:
    return {"rope_scaling": {**_three_positions(given, config)["rope_scaling"], "mrope_interleaved": True}}


SILU = {"hidden_act": "silu"}
SECTIONS = "rope.dimension_sections"
BIASES = {"attention_bias": "attn_q.bias", "mlp_bias": "ffn_gate.bias"}
ARCHITECTURES = {
    "llama": Architecture("llama", "LlamaForCausalLM", Names(permuted=True), fixed=SILU, flags=BIASES),
    "qwen2": Architecture("qwen2", "Qwen2ForCausalLM", fixed=SILU | {"use_sliding_window": False}),
    "qwen2moe": Architecture(
        "qwen2_moe",
        "Qwen2MoeForCausalLM",
        Names(EXPERTS),
        keys={"num_experts": "expert_count", "num_experts_per_tok": "expert_used_count"},
        # what its graph in llama.cpp does
        fixed=SILU | {"norm_topk_prob": False, "decoder_sparse_step": 1, "mlp_only_layers": []},
        computed=_qwen2_moe,
        flags={"qkv_bias": "attn_q.bias"},
    ),
    "qwen3": Architecture(
        "qwen3",
        "Qwen3ForCausalLM",
        fixed=SILU | {"use_sliding_window": False},
        flags={"attention_bias": "attn_q.bias"},
    ),
    "gemma3": Architecture(
        "gemma3_text",
        "Gemma3ForCausalLM",
        Names({**SANDWICH, "ffn_norm": "pre_feedforward_layernorm"}, less=1.0),
        keys={"sliding_window": "attention.sliding_window"},
        fixed={"hidden_activation": "gelu_pytorch_tanh", "sliding_window_pattern": 6},
        computed=_gemma3,
    ),
    "phi3": Architecture(
        "phi3",
        "Phi3ForCausalLM",
        Names(FUSED),
        fixed=SILU,
        computed=_phi3,
        reads=("attention.sliding_window",),
    ),
    "chatglm": Architecture("glm", "GlmForCausalLM", Names(GLM), fixed=SILU, computed=_glm),
    "glm4": Architecture("glm4", "Glm4ForCausalLM", Names(GLM4), fixed=SILU, computed=_glm),
    "granite": Architecture(
        "granite",
        "GraniteForCausalLM",
        Names(permuted=True),
        keys={
            "attention_multiplier": "attention.scale",
            "embedding_multiplier": "embedding_scale",
            "residual_multiplier": "residual_scale",
            "logits_scaling": "logit_scale",
        },
        fixed=SILU,
        flags=BIASES,
    ),
    "olmo2": Architecture("olmo2", "Olmo2ForCausalLM", Names(SANDWICH), fixed=SILU, flags=BIASES),
    "smollm3": Architecture(
        "smollm3",
        "SmolLM3ForCausalLM",
        Names(permuted=True),
        fixed=SILU | {"no_rope_layer_interval": 4, "use_sliding_window": False},
        flags=BIASES,
    ),
    "ernie4_5": Architecture("ernie4_5", "Ernie4_5ForCausalLM", fixed=SILU, flags={"use_bias": "attn_q.bias"}),
    "qwen2vl": Architecture(
        "qwen2_vl",
        "Qwen2VLForConditionalGeneration",
        fixed=SILU | {"use_sliding_window": False},
        computed=_three_positions,
        reads=(SECTIONS,),
        sees=True,
    ),
    "qwen3vl": Architecture(
        "qwen3_vl_text",
        "Qwen3VLForConditionalGeneration",
        Names(base="model.language_model."),
        fixed=SILU,
        computed=_interleaved,
        flags={"attention_bias": "attn_q.bias"},
        reads=(SECTIONS,),
        sees=True,
    ),
}
CLIP = "clip"  # what llama.cpp calls every tower


def architecture(header: Header) -> Architecture:
    """The file's architecture. InputError for one that llmconv does not know."""
    name = header.metadata.get("general.architecture")
    if name == CLIP:
        what = f"{header.file} is the tower of a model that sees or hears"
        raise InputError(what, "its language model is in a file of its own", "Say -m MODEL.gguf --mmproj this file.")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise InputError(
            f"{header.file} is of the architecture {shown(str(name))}",
            f"llmconv reads GGUF files of {', '.join(ARCHITECTURES)}",
            ADVICE,
        )
    return ARCHITECTURES[name]
