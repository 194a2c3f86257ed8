"""config.json out of a GGUF file's metadata. It is judged like any other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmconv.checkpoint.gguf.architectures import ADVICE, Architecture, Fields, Given, architecture
from llmconv.checkpoint.gguf.header import Header, decimal
from llmconv.checkpoint.gguf.rope import scaling
from llmconv.errors import InputError, shown

# field -> key of the metadata behind the architecture's name
COMMON = {
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
    "head_dim": "attention.key_length",
}
SIZES = ("num_hidden_layers", "hidden_size", "num_attention_heads")  # without which nothing else can be said
# Keys that change a model's maths, and the values with which they do not: only an architecture that has them may
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "attention.sliding_window": (0,),
    "attention.clamp_kqv": (0,),
    "attention.causal": (True,),
    "attention.scale": (0,),
    "attention.temperature_scale": (0,),
    "attn_logit_softcapping": (0,),
    "final_logit_softcapping": (0,),
    "embedding_scale": (0, 1),
    "residual_scale": (0, 1),
    "logit_scale": (0, 1),
    "expert_count": (0,),
    "use_parallel_residual": (False,),
    "rope.dimension_sections": (),  # three positions for every token
    "nextn_predict_layers": (0,),
}


def config(header: Header, shapes: Mapping[str, tuple[int, ...]], facts: Mapping[str, list[float]]) -> Fields:
    """config.json. shapes, facts: as Given has them. InputError for a file that says too little, or that has what its
    architecture does not."""
    made = architecture(header)
    name = str(header.metadata["general.architecture"])
    given = Given(_without(name, header.metadata), shapes, facts)
    _refuse(header, name, made, given)
    found: Fields = {"model_type": made.model_type, "architectures": [made.cls], **made.fixed}
    for key, where in {**COMMON, **made.keys}.items():
        if where in given.keys:
            found[key] = decimal(given.keys[where])
        elif key in made.keys or key in SIZES:
            raise InputError(f"{header.file} lacks the key {name}.{where}", "its model needs it", ADVICE)
    for key in SIZES:
        if not isinstance(found[key], int) or isinstance(found[key], bool) or found[key] < 1:
            why = "a positive number is expected"
            raise InputError(f"{name}.{COMMON[key]} in {header.file} is {shown(str(found[key]))}", why, ADVICE)
    if "token_embd.weight" not in shapes:
        raise InputError(f"{header.file} has no tensor token_embd.weight", "its model needs it", "Download it again.")
    found["vocab_size"] = shapes["token_embd.weight"][0]
    found.setdefault("head_dim", max(1, found["hidden_size"] // found["num_attention_heads"]))
    found["tie_word_embeddings"] = "output.weight" not in shapes
    found |= {field: f"blk.0.{tensor}" in shapes for field, tensor in made.flags.items()}
    if made.computed:
        found |= made.computed(given, found)
    _check_heads(header, given, found)
    scaled = scaling(header, given, found)
    if "rope_scaling" in found and "rope_scaling" in scaled:
        scaled["rope_scaling"] = found["rope_scaling"] | scaled["rope_scaling"]
    return found | scaled


def _without(name: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of an architecture, without its name."""
    return {k[len(name) + 1 :]: v for k, v in metadata.items() if k.startswith(f"{name}.")}


def _refuse(header: Header, name: str, made: Architecture, given: Given) -> None:
    read = {*made.keys.values(), *made.reads}
    for key, values in NEUTRAL.items():
        if key in given.keys and key not in read and given.keys[key] not in values:
            what = f"{header.file} has {name}.{key} {shown(str(given.keys[key]))}"
            raise InputError(what, f"llmconv does not know it in a model of {name}", ADVICE)


def _check_heads(header: Header, given: Given, found: Fields) -> None:
    """Heads whose keys and values have one size, all of it rotated unless the model says how much."""
    heads = {"attention.value_length": found["head_dim"]}
    if "partial_rotary_factor" not in found:
        heads["rope.dimension_count"] = found["head_dim"]
    for key, wanted in heads.items():
        if given.keys.get(key, wanted) != wanted:
            what = f"{key} in {header.file} is {shown(str(given.keys[key]))}"
            raise InputError(what, f"heads have {wanted} elements, and llmconv knows no others here", ADVICE)
