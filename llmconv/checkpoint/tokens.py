"""The ids of a model's special tokens: what a runtime starts and stops with, and what stands for images."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmconv.checkpoint.config import Config
from llmconv.checkpoint.plain import LARGE, Unreadable, load, regular
from llmconv.errors import InputError

# Fields of config.json for tokens that are no text
_SEEN = re.compile(r"(image|video|vision|audio|boi|eoi)(_\w+)?_token_(id|index)")


@dataclass(frozen=True)
class SpecialTokens:
    """bos, pad: ids, None where no file names one. eos: every id that ends an answer. seen: name in config.json -> id
    of the tokens for images, videos and sound, such as image_token_id.
    """

    bos: int | None = None
    eos: tuple[int, ...] = ()
    pad: int | None = None
    seen: Mapping[str, int] = field(default_factory=dict)


def read(config: Config, model: Path) -> SpecialTokens:
    """Read the ids from generation_config.json, config.json and tokenizer_config.json of a model directory.

    The first file that names a token wins; eos holds every id that any file names. null, -1, and a token that the
    tokenizer's table of added tokens lacks count as no id.

    Raises InputError for a file that is no JSON object.
    """
    text = config.language()
    places = [
        _file(model / "generation_config.json"),
        config,
        text,
        _of_tokenizer(_file(model / "tokenizer_config.json")),
    ]

    def named(key: str) -> tuple[int, ...]:
        return tuple(dict.fromkeys(i for place in places for i in _ids(place.get(key))))

    bos, pad = named("bos_token_id"), named("pad_token_id")
    seen = {key: ids[0] for key, value in config.items() if _SEEN.fullmatch(key) and (ids := _ids(value))}
    return SpecialTokens(bos[0] if bos else None, named("eos_token_id"), pad[0] if pad else None, seen)


def added(model: Path, text: str) -> int | None:
    """The id of an added token by its text, from the tokenizer's files in a model directory; None where none names it.

    Raises InputError for a file that is no JSON object.
    """
    table = _file(model / "added_tokens.json")
    if isinstance(found := table.get(text), int):
        return found
    for part in (_table(_file(model / "tokenizer_config.json")), _listed(_file(model / "tokenizer.json"))):
        if text in part:
            return part[text]
    return None


def _listed(data: Mapping[str, Any]) -> dict[str, int]:
    """Text -> id of the added tokens in a tokenizer.json."""
    entries = data.get("added_tokens")
    return {_text(one): one["id"] for one in (entries if isinstance(entries, list) else ()) if _ids(one.get("id"))}


def special(model: Path, name: str) -> int | None:
    """The id of a token that tokenizer_config.json of a model directory names, such as unk_token; None where it does
    not. Raises InputError for a file that is no JSON object.
    """
    found = _of_tokenizer(_file(model / "tokenizer_config.json"), (name,))
    return next((ids[0] for ids in found.values()), None)


def _ids(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [v for v in values if isinstance(v, int) and not isinstance(v, bool) and 0 <= v < 1 << 31]


def _of_tokenizer(
    data: Mapping[str, Any], names: tuple[str, ...] = ("bos_token", "eos_token", "pad_token")
) -> dict[str, list[int]]:
    """bos_token_id and so on of a tokenizer_config.json, which has the tokens' texts and a table of them."""
    known = _table(data)
    return {f"{key}_id": [known[text]] for key in names if (text := _text(data.get(key))) and text in known}


def _table(data: Mapping[str, Any]) -> dict[str, int]:
    """Text -> id of the added tokens in a tokenizer_config.json."""
    table = data.get("added_tokens_decoder")
    entries = table.items() if isinstance(table, dict) else ()
    return {
        _text(entry): int(number)
        for number, entry in entries
        if number.isascii() and number.isdigit() and len(number) < 10
    }


def _text(token: Any) -> str:
    """A token's text: a string, or an object with its `content`."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else ""


def _file(path: Path) -> dict[str, Any]:
    """The object in a JSON file, {} where there is no file."""
    try:
        if regular(path) is None:
            return {}
        found = load(path, LARGE)
    except Unreadable as error:
        raise InputError(
            f"{path} is not valid JSON", str(error), "Download it again: a runtime reads it on the device."
        ) from None
    if not isinstance(found, dict):
        raise InputError(
            f"{path} is no JSON object",
            f"it holds {type(found).__name__}",
            "Download it again: a runtime reads it on the device.",
        )
    return found
