"""tokenizer.json of a vocabulary of SentencePiece: pieces with scores, and bytes for what is no piece.

SentencePiece joins the two neighbours whose piece has the best score. Byte-pair encoding does the same with all ways in
which two pieces give a third as its merges, the best score first.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # what stands for a space in a piece


def model(
    tokens: Sequence[str], scores: Sequence[float], apart: Collection[int], unknown: str | None, prefix: bool
) -> dict[str, Any]:
    """The parts of tokenizer.json that are the vocabulary's. apart: ids of what is no piece: control tokens, bytes and
    others that a text is searched for first. prefix: whether a text begins with a space of its own."""
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    before = {"type": "Prepend", "prepend": SPACE}
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "normalizer": {"type": "Sequence", "normalizers": [before, spaces]} if prefix else spaces,
        "pre_tokenizer": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": _merges(tokens, scores, apart),
        },
        "decoder": {"type": "Sequence", "decoders": decoders},
    }


def _merges(tokens: Sequence[str], scores: Sequence[float], apart: Collection[int]) -> list[list[str]]:
    known = {token: i for i, token in enumerate(tokens) if i not in apart}
    found = []
    for token, i in known.items():
        for cut in range(1, len(token)):
            first, second = token[:cut], token[cut:]
            if first in known and second in known:
                found.append((-scores[i], known[first], known[second], first, second))
    return [[first, second] for *_, first, second in sorted(found)]
