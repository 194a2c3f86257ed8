"""The checkpoint's tokenizer and chat template, from config/, by transformers. The only part of a run that needs it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmconv.errors import InputError

if TYPE_CHECKING:
    import numpy as np

Message = Mapping[str, str]  # role and content
ADVICE = "Put the model's tokenizer files there: tokenizer.json, tokenizer_config.json."
UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what stands for half of a character


class Tokenizer:
    """Reads the files of `folder`. InputError where there is no tokenizer, or one that needs code of its own."""

    def __init__(self, folder: Path):
        from transformers import AutoTokenizer
        from transformers.utils import logging

        logging.set_verbosity_error()
        try:
            self._known: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
            why = str(error).strip().partition("\n")[0]
            raise InputError(f"{folder} has no tokenizer that can be read", why, ADVICE) from None
        if not any((folder / name).is_file() for name in self._known.vocab_files_names.values()):
            raise InputError(f"{folder} has no tokenizer that can be read", "its vocabulary is not there", ADVICE)
        self._template = self._known.chat_template or _older(folder)

    @property
    def chats(self) -> bool:
        """Whether there is a chat template."""
        return bool(self._template)

    def plain(self, text: str) -> np.ndarray:
        """Ids [n] of a text as it is, with the special tokens that the tokenizer begins every text with."""
        return _ids(self._known.encode(text))

    def chat(self, messages: Sequence[Message]) -> np.ndarray:
        """Ids [n] of messages in the chat template, and of the beginning of the answer. InputError where the template
        refuses them."""
        from jinja2.exceptions import TemplateError

        try:
            text = self._known.apply_chat_template(
                [dict(message) for message in messages],
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=True,
            )
        except TemplateError as error:
            what, advice = "the chat template refuses the messages", "Say --plain for a bare text."
            raise InputError(what, str(error), advice) from None
        return _ids(self._known.encode(text, add_special_tokens=False))

    def mark(self, token: int) -> str:
        """The text of a special token; "" where the tokenizer does not have it."""
        return self._known.convert_ids_to_tokens(token) or ""

    def text(self, ids: Sequence[int]) -> str:
        """The text of tokens, special ones left out."""
        return self._known.decode(ids, skip_special_tokens=True)


class Words:
    """The text of tokens that come one by one."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer, self._ids, self._said = tokenizer, [], ""

    def add(self, token: int) -> str:
        """The text that a token adds; "" as long as its last character is not whole."""
        self._ids.append(token)
        text = self._tokenizer.text(self._ids)
        return "" if text.endswith(UNFINISHED) else self._take(text)

    def rest(self) -> str:
        """What was held back."""
        return self._take(self._tokenizer.text(self._ids))

    def _take(self, text: str) -> str:
        new, self._said = text[len(self._said) :], text
        return new


def _ids(found: Sequence[int]) -> np.ndarray:
    import numpy as np

    return np.array(found, int)


def _older(folder: Path) -> str | None:
    """The template of chat_template.json, where processors of earlier versions kept it."""
    try:
        found = json.loads((folder / "chat_template.json").read_text(encoding="utf-8"))["chat_template"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None
