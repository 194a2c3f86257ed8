"""A text as windows of tokens, each read from its beginning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmconv.errors import InputError, shown
from llmconv.runtime.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np

# Lewis Carroll, "Alice's Adventures in Wonderland" (1865), from chapter I. The author died in 1898.
TEXT = Path(__file__).parent / "text.txt"
MOST = 64 << 20  # bytes of a text
LEAST = 2  # tokens of a window: one to read and one to expect


@dataclass(frozen=True)
class Windows:
    """ids: of each window, int [L]. lead: how many of them every window begins with that are not the text's."""

    ids: tuple[np.ndarray, ...]
    lead: int

    @property
    def expected(self) -> int:
        """Tokens that are to be foretold."""
        return sum(len(one) - max(1, self.lead) for one in self.ids)

    @property
    def starts(self) -> list[int]:
        """The row of each window's first token, and that behind the last, where all lie one after the other."""
        found = [0]
        for one in self.ids:
            found.append(found[-1] + len(one))
        return found


def read(file: Path | None) -> str:
    """The text of a file, or the one that comes along. InputError where there is none."""
    path = file or TEXT
    try:
        if path.stat().st_size > MOST:
            raise InputError(f"{path} has more than {MOST >> 20} MiB", "a few pages are enough", "Give a part of it.")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not in UTF-8"
        raise InputError(f"--text {shown(str(path))}", why, "Name a text in UTF-8.") from None


def windows(folder: Path, text: str, tokens: int, length: int, vocab: int) -> Windows:
    """The first `tokens` tokens of a text, in windows of `length`. Each begins as the tokenizer begins every text.

    folder: has the tokenizer's files. InputError for a text that is too short, or a tokenizer of another model.
    """
    import numpy as np

    known = Tokenizer(folder)
    lead = known.plain("")
    whole = known.plain(text)
    ids = whole[len(lead) :] if len(lead) and (whole[: len(lead)] == lead).all() else whole
    lead = lead if len(ids) != len(whole) else lead[:0]
    if len(ids) and max(ids.max(), ids.min()) >= vocab:
        raise InputError(
            f"the tokenizer of {folder} gives token {ids.max()}",
            f"the model has {vocab}",
            "Put the model's own tokenizer there.",
        )
    step, ids = length - len(lead), ids[:tokens]
    cut = [ids[first : first + step] for first in range(0, len(ids), step)]
    cut = [one for one in cut if len(one) + len(lead) >= LEAST]
    if not cut:
        raise InputError("the text has no more than one token", "there is nothing to foretell", "Give a longer one.")
    return Windows(tuple(np.concatenate([lead, one]).astype(np.int64) for one in cut), len(lead))
