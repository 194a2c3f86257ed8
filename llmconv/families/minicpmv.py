"""MiniCPM-V 2.6, 4.0 and 4.5, and what MiniCPM-o sees: a Qwen2, Llama or Qwen3 behind a SigLIP tower with a resampler,
which takes an image slice by slice (llmconv.blocks.vision.sliced). No remote code is run."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace
from typing import Any

from llmconv.blocks.decoder import Decoder
from llmconv.blocks.spec import Spec
from llmconv.blocks.vision.sliced import reference
from llmconv.blocks.vision.sliced.tower import SliceTower
from llmconv.checkpoint.config import Config
from llmconv.errors import InputError
from llmconv.families import llama, minicpm, qwen2, qwen3
from llmconv.families.family import STATIC_DEMO, Family
from llmconv.families.oracle import Oracle

TEXTS = {2.6: "qwen2", 4.0: "llama", 4.5: "qwen3"}  # version of the model -> model_type of its language model
PARTS = ("vision_config", "slice_config", "audio_config", "tts_config", "auto_map", "architectures")
# multiplier -> field, of models whose language model is MiniCPM's own. Llama's form of it has none of them
SCALES = {"embedding_multiplier": "scale_emb", "residual_multiplier": "scale_depth", "logits_scaling": "dim_model_base"}


def text(config: Config) -> str:
    """The model_type of the language model. Raises InputError for a version that is not known."""
    version: Any = config.get("version")
    try:
        return TEXTS[float(version)]  # files have a number, or its text
    except (TypeError, ValueError, KeyError):
        known = ", ".join(f"{number} ({kind})" for number, kind in TEXTS.items())
        raise InputError(
            f"version {version!r} of the {config['model_type']} model in {config.file}",
            f"it tells which language model stands behind the tower, and llmconv knows {known}",
            "Convert one of these, or write the version of the model that this one was made from.",
        ) from None


def scales(config: Config) -> dict[str, float]:
    """The multipliers that config.json has fields for, in Granite's terms."""
    found = minicpm.multipliers(config)
    return {name: found[name] for name, field in SCALES.items() if config.get(field) is not None}


def as_text(config: Config) -> dict[str, Any]:
    """The config.json of the language model alone."""
    kind, given = text(config), {name: value for name, value in config.items() if name not in PARTS}
    more = scales(config)
    if not more:
        return given | {"model_type": kind}
    return minicpm.as_granite(Config(given, config.file)) | dict.fromkeys(SCALES, 1.0) | more


def tensor(name: str, spec: Spec) -> tuple:
    """The parameter `name`, of the language model's class or of the towers' modules, as the checkpoint calls it."""
    seen = name.startswith(("vpm.", "resampler."))
    return ("tensor", name.replace("vpm.vision_model.", "vpm.") if seen else f"llm.{name}")


def behind(base: Decoder, **knobs: Any) -> Decoder:
    """A decoder whose tensors' names begin with llm."""
    return replace(base, prefixes=("llm.model.",), names={**base.names, "head": "llm.lm_head"}, **knobs)


PLAIN = dict.fromkeys(SCALES.values())
DECODERS = {
    "qwen2": behind(qwen2.DECODER, requires=PLAIN),
    "llama": behind(llama.DECODER, fields=scales),
    "qwen3": behind(qwen3.DECODER, requires=PLAIN),
}


def decoder(config: Config, tensors: Container[str]) -> Decoder:
    """That of the model's version. Raises InputError where version and tensors contradict each other too."""
    kind, layer = text(config), "llm.model.layers.0.self_attn."
    if tensors:
        normed, biased = f"{layer}q_norm.weight" in tensors, f"{layer}q_proj.bias" in tensors
        # quantisers add biases of zeros, so one too many says nothing
        if normed != (kind == "qwen3") or (kind == "qwen2" and not biased):
            found = "qwen3" if normed else "qwen2" if biased else "llama"
            raise InputError(
                f"version {config['version']} in {config.file}",
                f"its language model is a {kind}, and the tensors are those of a {found}",
                "Download config.json again, or write the version of the model that this one was made from.",
            )
    return DECODERS[kind]


family = Family(
    model_types=("minicpmv", "minicpmo"),
    decoder=decoder,
    towers=(SliceTower(),),
    reference=Oracle(config=as_text, tensor=tensor, towers=reference.modules),
    left_out=(r"^apm\.", r"^audio_projection_layer\.", r"^tts\."),
    equal_lengths=True,
    demo={**STATIC_DEMO} | {"half": ("bf16",)},
)
