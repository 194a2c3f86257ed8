"""Rotary position tables: the inverse frequencies of every published rope type, and their cos and sin.

Formulas: Su et al. 2021 (default), kaiokendev (linear), Peng et al. 2023 (yarn), Ding et al. 2024 (longrope), and Llama
3.1's own scaling. Conventions (defaults, float32 steps, the attention factor on cos and sin) are those of transformers'
modeling_rope_utils.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmconv.checkpoint.plain import told
from llmconv.errors import InputError

if TYPE_CHECKING:
    import numpy as np

NEEDS = {
    "none": (),
    "default": (),
    "linear": ("factor",),
    "dynamic": (),
    "yarn": ("factor",),
    "longrope": ("short_factor", "long_factor"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}


def check(rope: Mapping[str, Any], length: int) -> None:
    """Raise InputError when the parameters (Config.rope's form) cannot give a table for `length` positions."""
    kind = rope["rope_type"]
    if kind not in NEEDS:
        raise InputError(
            f"rope type {told(kind)} in config.json",
            f"llmconv knows {', '.join(NEEDS)}",
            "Convert a model with one of these.",
        )
    for key in NEEDS[kind]:
        if key not in rope:
            raise InputError(
                f"rope type {kind} in config.json lacks {key!r}",
                "its frequencies cannot be computed without it",
                "Repair config.json.",
            )
    for key in ("short_factor", "long_factor"):
        if kind == "longrope" and len(rope[key]) != rope["dim"] // 2:
            raise InputError(
                f"rope {key} in config.json has {len(rope[key])} entries",
                f"{rope['dim'] // 2} rotated pairs need as many",
                "Repair config.json.",
            )
    if kind == "dynamic" and length > rope["max_position"]:
        raise InputError(
            f"seq_length {length} with rope type dynamic",
            f"beyond max_position_embeddings ({rope['max_position']}) its frequencies change with every token, "
            "which a fixed program cannot do",
            f"Use seq_length {rope['max_position']} or less.",
        )


def inverse_frequencies(rope: Mapping[str, Any], length: int) -> tuple[np.ndarray, float]:
    """(float32 [dim/2] radians per position, factor on cos and sin) for sequences of up to `length` positions."""
    import numpy as np

    dim, kind = rope["dim"], rope["rope_type"]
    # float32 exponents, one correct rounding of the power: what torch computes, and unlike NumPy's own float32 power
    # the same on every machine (an ulp here moves bf16 values of the table at high positions)
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    base = (np.float64(rope["rope_theta"]) ** exponents.astype(np.float64)).astype(np.float32)
    plain = 1.0 / base
    if kind == "none":  # nothing turns, and the net stays like that of the other layers
        return np.zeros_like(plain), 1.0
    if kind == "linear":
        return plain / rope["factor"], 1.0
    if kind == "llama3":
        return _llama3(np, rope, plain), 1.0
    if kind == "yarn":
        return _yarn(np, rope, base)
    if kind == "longrope":
        factors = np.asarray(rope[f"{longrope_table(rope, length)}_factor"], np.float32)
        return 1.0 / (factors * base), _longrope_attention(rope)
    return plain, 1.0


def longrope_table(rope: Mapping[str, Any], length: int) -> str:
    """Which factors the table of a net for `length` positions has: "short" or "long"; "" for other rope types.

    transformers takes the long ones as soon as a sequence passes the original length, for all of its positions. A
    compiled net has one table, which is that of its longest sequence.
    """
    if rope["rope_type"] != "longrope":
        return ""
    return "long" if length > rope["original_max_position"] else "short"


def longrope_note(rope: Mapping[str, Any], length: int) -> str:
    """For people: which of longrope's tables a net for `length` positions has, and why; "" for other rope types."""
    taken = longrope_table(rope, length)
    if not taken:
        return ""
    original, than = rope["original_max_position"], "more than" if taken == "long" else "at most"
    told = (
        f"longrope: the nets' table has the {taken} factors, because seq_length {length} is {than} "
        f"original_max_position_embeddings {original}"
    )
    if taken == "short" or rope["short_factor"] == rope["long_factor"]:
        return told
    return (
        f"{told}; transformers takes the short ones for a sequence that stays within these {original}, for which "
        f"seq_length {original} is exact"
    )


def _llama3(np, rope: Mapping[str, Any], plain):
    """Long wavelengths divided by `factor`, short ones kept, a smooth passage between (Llama 3.1)."""
    low, high, original = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position"]
    wavelength = 2 * math.pi / plain
    out = np.where(wavelength > original / low, plain / rope["factor"], plain)
    smooth = (original / wavelength - low) / (high - low)
    mixed = (1 - smooth) * out / rope["factor"] + smooth * out
    middle = ~(wavelength < original / high) & ~(wavelength > original / low)
    return np.where(middle, mixed, out).astype(np.float32)


def _yarn(np, rope: Mapping[str, Any], base):
    """A ramp from interpolated (low) to unchanged (high) frequencies, and a factor on the attention.

    Peng et al. 2023, sections 3.2 to 3.4.
    """
    dim, theta, original = rope["dim"], rope["rope_theta"], rope["original_max_position"]
    factor = rope["factor"]

    def scale(by: float, weight: float = 1.0) -> float:
        return 1.0 if by <= 1 else 0.1 * weight * math.log(by) + 1.0

    attention = rope.get("attention_factor")
    if attention is None:
        mscale, all_dim = rope.get("mscale"), rope.get("mscale_all_dim")
        attention = scale(factor, mscale) / scale(factor, all_dim) if mscale and all_dim else scale(factor)

    def correction(rotations: float) -> float:
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = correction(rope.get("beta_fast") or 32), correction(rope.get("beta_slow") or 1)
    if rope.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001  # as the reference: no division by zero
    ramp = np.clip((np.arange(dim // 2, dtype=np.float32) - low) / (high - low), 0, 1)
    keep = 1 - ramp
    frequencies = 1.0 / (factor * base) * (1 - keep) + 1.0 / base * keep
    return frequencies.astype(np.float32), float(attention)


def _longrope_attention(rope: Mapping[str, Any]) -> float:
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    factor = rope.get("factor") or rope["max_position"] / rope["original_max_position"]
    return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(rope["original_max_position"]))


HALF_COS, HALF_SIN, BOTH = "half_cos", "half_sin", "cos_sin"


def width(rope: Mapping[str, Any], part: str = "") -> int:
    """Sizes of a row of the table."""
    if part == BOTH and "neighbours" in rope:
        return 2 * rope["neighbours"]
    return rope["dim"] // 2 if part in (HALF_COS, HALF_SIN) else rope.get("neighbours") or rope["dim"]


def table(rope: Mapping[str, Any], length: int, part: str) -> np.ndarray:
    """float32 [length, 1, width] of every position. part: cos or sin; half_cos or half_sin, which have each frequency
    once; cos_sin, which has both of these (of neighbours cos and sin).

    The layout is that of rotate-half rope, with both halves alike. If rope["neighbours"] is the head's whole size,
    it is that of pairs of neighbours: every value twice, then no rotation (cos 1, sin 0) for the rest of the head.
    """
    import numpy as np

    if part == BOTH:
        parts = ("cos", "sin") if "neighbours" in rope else (HALF_COS, HALF_SIN)
        return np.concatenate([table(rope, length, one) for one in parts], 2)
    frequencies, attention = inverse_frequencies(rope, length)
    angle = np.outer(np.arange(length, dtype=np.float32), frequencies)
    if part not in (HALF_COS, HALF_SIN):
        angle = np.repeat(angle, 2, 1) if "neighbours" in rope else np.concatenate([angle, angle], 1)
    # float64 inside: correctly rounded, the same on every machine
    turned = (np.cos if part.endswith("cos") else np.sin)(angle.astype(np.float64))
    values = turned.astype(np.float32) * np.float32(attention)
    rest = np.full((length, width(rope, part) - values.shape[1]), part == "cos", np.float32)
    return np.concatenate([values, rest], 1).reshape(length, 1, -1)
