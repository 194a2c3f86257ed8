"""How a GGUF file's rotary frequencies are scaled, as config.json has it."""

from __future__ import annotations

from math import log, pi, sqrt

from llmconv.checkpoint.gguf.architectures import ADVICE, Fields, Given
from llmconv.checkpoint.gguf.header import Header
from llmconv.errors import InputError, shown

LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # as published
YARN = {"beta_fast": "yarn_beta_fast", "beta_slow": "yarn_beta_slow"}
CLOSE = 1e-4  # relative difference of two numbers of which one went through float32


def scaling(header: Header, given: Given, config: Fields) -> Fields:
    """rope_scaling and what goes with it; nothing for a model without. InputError for a kind that llmconv does not
    read."""
    keys = {k.removeprefix("rope.scaling."): v for k, v in given.keys.items() if k.startswith("rope.scaling.")}
    kind, factor, original = (keys.get(key) for key in ("type", "factor", "original_context_length"))
    if factors := given.facts.get("rope_freqs.weight"):
        return {"rope_scaling": _llama3(header, factors, config)}
    if "rope_factors_long.weight" in given.facts:
        return _longrope(header, given, keys, config)
    if kind in (None, "none"):
        return {}
    if kind == "linear":
        return {"rope_scaling": {"rope_type": "linear", "factor": factor}}
    if kind == "yarn":
        more = {name: keys[key] for name, key in YARN.items() if key in keys}
        made = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original, **more}
        return {"rope_scaling": made}
    what = f"{header.file} has rope.scaling.type {shown(str(kind))}"
    raise InputError(what, "llmconv reads none, linear, yarn and longrope of GGUF files", ADVICE)


def _llama3(header: Header, factors: list[float], config: Fields) -> Fields:
    """llama3's parameters, which the file has only as what they come to for each frequency; those that are published
    are tried, and must come to the same."""
    head_dim, theta = config["head_dim"], config.get("rope_theta", 10000.0)
    found = {"rope_type": "llama3", "factor": float(max(factors)), **LLAMA3}
    original, low, high = (
        found[k] for k in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
    )
    wanted = []
    for i in range(head_dim // 2):
        length = 2 * pi * float(theta) ** (2 * i / head_dim)
        smooth = min(1.0, max(0.0, (original / length - low) / (high - low)))
        wanted.append(1 / ((1 - smooth) / found["factor"] + smooth))
    if len(wanted) != len(factors) or any(abs(a - b) > CLOSE * b for a, b in zip(factors, wanted)):
        raise InputError(
            f"rope_freqs.weight in {header.file} is not that of a published Llama 3",
            "the file does not say which parameters it was made with",
            ADVICE,
        )
    return found


def _longrope(header: Header, given: Given, keys: Fields, config: Fields) -> Fields:
    """Phi's: a factor for each frequency of short and of long sequences."""
    original, most = keys.get("original_context_length"), config.get("max_position_embeddings")
    short = given.facts.get("rope_factors_short.weight")
    if not short or not isinstance(original, int) or not isinstance(most, int) or min(original, most) < 2:
        what = f"{header.file} has rope_factors_long.weight"
        raise InputError(what, "its short factors or its lengths are missing", "Download it again.")
    usual = sqrt(1 + log(most / original) / log(original)) if most > original else 1.0
    attention = keys.get("attn_factor", usual)
    if not isinstance(attention, float) or abs(attention - usual) > CLOSE * usual:
        what = f"{header.file} has rope.scaling.attn_factor {shown(str(attention))}"
        raise InputError(what, f"its lengths come to {usual:.7g}, and llmconv knows no other", ADVICE)
    factors = {"long_factor": given.facts["rope_factors_long.weight"], "short_factor": short}
    return {
        "original_max_position_embeddings": original,
        "rope_scaling": {"rope_type": "longrope", "type": "longrope", **factors},
    }
