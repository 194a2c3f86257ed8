"""What a GGUF file says of its tokens, as the files that HuggingFace has for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llmconv.checkpoint.gguf import bpe, pieces

PREFIX = "tokenizer.ggml."
NORMAL, UNKNOWN, CONTROL, OWN, UNUSED, BYTE = range(1, 7)  # llama.cpp's types of tokens
IDS = {"bos": "bos_token_id", "eos": "eos_token_id", "pad": "padding_token_id", "unk": "unknown_token_id"}
STOPS = ("eos_token_id", "eot_token_id", "eom_token_id")
# control tokens that end an answer wherever they are, as in llama.cpp
ENDS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>", "<|end_of_text|>")
PHI3_STAYS = ("<unk>", "<s>", "<|endoftext|>")  # the tokens of Phi-3 that leave spaces behind them as they are


@dataclass(frozen=True)
class Vocabulary:
    """A file's metadata. Fields that make no sense count as missing."""

    metadata: Mapping[str, Any]

    def _list(self, key: str, kind: type) -> list[Any]:
        """A list with an item for each token, [] where there is none."""
        given = self.metadata.get(PREFIX + key)
        if not isinstance(given, list) or not all(isinstance(item, kind) for item in given):
            return []
        return given if key == "tokens" or len(given) == len(self.tokens) else []

    @cached_property
    def tokens(self) -> list[str]:
        return self._list("tokens", str)

    @cached_property
    def kinds(self) -> list[int]:
        return self._list("token_type", int) or [NORMAL] * len(self.tokens)

    def flag(self, key: str, usual: bool) -> bool:
        value = self.metadata.get(PREFIX + key)
        return value if isinstance(value, bool) else usual

    def id(self, key: str) -> int | None:
        value = self.metadata.get(PREFIX + key)
        good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(self.tokens)
        return value if good else None

    @property
    def ids(self) -> dict[str, int]:
        """bos, eos, pad and unk, as far as the file names them."""
        return {name: i for name, key in IDS.items() if (i := self.id(key)) is not None}

    @property
    def stops(self) -> list[int]:
        """Ids that end an answer."""
        named = [i for key in STOPS if (i := self.id(key)) is not None]
        ends = [i for i, text in enumerate(self.tokens) if text in ENDS and self.kinds[i] == CONTROL]
        return list(dict.fromkeys([*named, *ends]))

    @property
    def added(self) -> dict[int, dict[str, Any]]:
        """Tokens that a text is searched for before it is cut: control tokens, and what the model's makers added."""
        special = {i for i, kind in enumerate(self.kinds) if kind in (CONTROL, UNKNOWN)} | set(self.ids.values())
        own = {i for i, kind in enumerate(self.kinds) if kind == OWN}
        strip = self.metadata.get("general.architecture") == "phi3" and self.kind == "llama"
        return {
            i: {
                "content": self.tokens[i],
                "single_word": False,
                "lstrip": False,
                "rstrip": strip and self.tokens[i] not in PHI3_STAYS,
                "normalized": False,
                "special": i in special,
            }
            for i in sorted(special | own)
        }

    @property
    def kind(self) -> str:
        return str(self.metadata.get(f"{PREFIX}model"))

    @property
    def whole(self) -> dict[str, Any] | None:
        """tokenizer.json; None for a kind of vocabulary that llmconv does not know."""
        if not self.tokens or len(set(self.tokens)) < len(self.tokens):
            return None
        made = self._bytes() if self.kind == "gpt2" else self._pieces() if self.kind == "llama" else None
        if made is None:
            return None
        parts, bos = made
        added = [{"id": i, **entry} for i, entry in self.added.items()]
        post = self._post(bos, parts["decoder"])
        head = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added}
        return {**head, **parts, "post_processor": post}

    def _bytes(self) -> tuple[dict[str, Any], bool] | None:
        """Its parts, and whether texts begin with bos where the file does not say."""
        cut, merges = bpe.CUTS.get(str(self.metadata.get(f"{PREFIX}pre"))), self.metadata.get(f"{PREFIX}merges")
        if cut is None or not isinstance(merges, list) or not all(isinstance(merge, str) for merge in merges):
            return None
        return bpe.model(self.tokens, merges, cut), cut.bos

    def _pieces(self) -> tuple[dict[str, Any], bool] | None:
        scores = self._list("scores", float)
        if not scores:
            return None
        apart = {i for i, kind in enumerate(self.kinds) if kind not in (NORMAL, OWN)}
        unknown = self.ids.get("unk")
        text = None if unknown is None else self.tokens[unknown]
        return pieces.model(self.tokens, scores, apart, text, self.flag("add_space_prefix", True)), True

    def _post(self, bos: bool, decoder: Mapping[str, Any]) -> dict[str, Any] | None:
        """What stands before and behind every text."""
        ends = {"bos": self.flag("add_bos_token", bos), "eos": self.flag("add_eos_token", False)}
        found = {name: self.ids[name] for name, there in ends.items() if there and name in self.ids}
        if not found:
            return dict(decoder) if decoder["type"] == "ByteLevel" else None

        def around(part: str, number: int) -> list[dict[str, Any]]:
            made = {name: {"SpecialToken": {"id": self.tokens[i], "type_id": number}} for name, i in found.items()}
            text = {"Sequence": {"id": part, "type_id": number}}
            return [one for one in (made.get("bos"), text, made.get("eos")) if one]

        special = {
            self.tokens[i]: {"id": self.tokens[i], "ids": [i], "tokens": [self.tokens[i]]} for i in found.values()
        }
        single, pair = around("A", 0), [*around("A", 0), *around("B", 1)]
        return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}


def files(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """tokenizer_config.json, generation_config.json, and tokenizer.json for the kinds of vocabulary that are known."""
    found = Vocabulary(metadata)
    config: dict[str, Any] = {f"{name}_token": found.tokens[i] for name, i in found.ids.items()}
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config["clean_up_tokenization_spaces"] = False
    config["added_tokens_decoder"] = {str(i): entry for i, entry in found.added.items()}
    if isinstance(template := metadata.get("tokenizer.chat_template"), str):
        config["chat_template"] = template
    generation: dict[str, Any] = {f"{name}_token_id": i for name, i in found.ids.items() if name in ("bos", "pad")}
    if stops := found.stops:
        generation["eos_token_id"] = stops[0] if len(stops) == 1 else stops
    made = {"tokenizer_config.json": config, "generation_config.json": generation}
    whole = found.whole
    return made | {"tokenizer.json": whole} if whole else made
