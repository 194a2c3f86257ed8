"""tokenizer.json of a vocabulary like GPT-2's: merges of bytes, which stand for themselves as printable characters.

A GGUF file names the rule by which text is cut before it is merged (tokenizer.ggml.pre); what each name means is as in
the tokenizer.json of the models that have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SUFFIXES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
WORD = r"[^\r\n\p{L}\p{N}]?"


def _cased(suffix: str, digits: str) -> str:
    """Words that are cut where small letters end; slashes stay with what is before the end of a line."""
    words = f"{WORD}{UPPER}*{LOWER}+{suffix}|{WORD}{UPPER}+{LOWER}*{suffix}"
    return words + "|" + digits + "|" + REST.replace(r"[\r\n]*", r"[\r\n/]*")


@dataclass(frozen=True)
class Cut:
    """pattern: of a piece; "" for GPT-2's own. digits: whether each digit is a piece. whole: whether a piece that is a
    token stays one, whatever its merges come to. bos: whether a text begins with bos, unless the file says. form:
    Unicode's normal form, "" for none."""

    pattern: str = ""
    digits: bool = False
    whole: bool = False
    bos: bool = False
    form: str = ""


GPT2, DIGITS = Cut(), Cut(digits=True)
THREES = Cut(rf"{SUFFIXES}|{WORD}\p{{L}}+|\p{{N}}{{1,3}}|{REST}")
LLAMA3 = Cut(THREES.pattern, whole=True, bos=True)
QWEN2 = Cut(rf"{SUFFIXES}|{WORD}\p{{L}}+|\p{{N}}|{REST}", form="NFC")
GPT4O = Cut(_cased(f"{SUFFIXES}?", r"\p{N}{1,3}"))
TEKKEN = Cut(_cased("", r"\p{N}"), whole=True, bos=True)
CUTS = {
    **dict.fromkeys(("gpt-2", "olmo", "mpt", "phi-2", "exaone4", "trillion", "granite-docling"), GPT2),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), DIGITS),
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "lfm2"), LLAMA3),
    **dict.fromkeys(("dbrx", "smaug-bpe", "glm4", "chatglm-bpe"), THREES),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez"), QWEN2),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2"), GPT4O),
    "tekken": TEKKEN,
}


def model(tokens: Sequence[str], merges: Sequence[str], cut: Cut) -> dict[str, Any]:
    """The parts of tokenizer.json that are the vocabulary's: normalizer, pre_tokenizer, model, decoder."""
    first, byte_level = [], {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    if cut.digits:
        first.append({"type": "Digits", "individual_digits": True})
    if cut.pattern:
        pattern = {"Regex": cut.pattern}
        first.append({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False})
    last = {**byte_level, "use_regex": not cut.pattern}
    return {
        "normalizer": {"type": cut.form} if cut.form else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*first, last]} if first else last,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": cut.whole,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": _pairs(tokens, merges),
        },
        "decoder": {**byte_level, "use_regex": True},
    }


def _pairs(tokens: Sequence[str], merges: Sequence[str]) -> list[list[str]]:
    """Merges as pairs. Those of what is no token, which no text can come to, are left out."""
    known: Mapping[str, None] = dict.fromkeys(tokens)
    found = []
    for merge in merges:
        cut = merge.find(" ", 1)  # a piece may begin with a space
        first, second = merge[:cut], merge[cut + 1 :]
        if cut > 0 and second and first in known and second in known and first + second in known:
            found.append([first, second])
    return found
