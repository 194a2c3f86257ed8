"""What llmconv says when something is wrong: one sentence with what, why and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

MOST = 2000  # characters of each part of an error; what it quotes may be of any length


def shown(text: str, most: int = 80) -> str:
    """A name or a text that others wrote, for a message: on one line, without control characters, at most `most`
    characters."""
    clean = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text[: most + 1])
    return clean if len(clean) <= most else f"{clean[: most - 3]}..."


class ConvertError(Exception):
    """A failure that a user can act on.

    what: what is wrong and where (option, tensor, file); why: the rule or the cause; try_: what to do about it.
    `str()` joins them to one line that a terminal can show; `exit_code` is what the command line returns.
    """

    exit_code = 1

    def __init__(self, what: str, why: str = "", try_: str = ""):
        super().__init__(what, why, try_)
        self.what, self.why, self.try_ = what, why, try_

    def __str__(self) -> str:
        what, why, advice = (shown(part, MOST) for part in (self.what, self.why, self.try_))
        head = f"{what}: {why}" if why else what
        return f"{head.rstrip('.')}. {advice}" if advice else head


class InputError(ConvertError):
    """Wrong usage or input, known before any work starts."""

    exit_code = 2


class ToolError(ConvertError):
    """A program that llmconv runs (compiler, simulator) failed; `log` is its full output, where there is one, and
    `lines` are the last of it that mean something.
    """

    def __init__(self, what: str, why: str = "", try_: str = "", log: Path | None = None, lines: Sequence[str] = ()):
        super().__init__(what, why, try_)
        self.log, self.lines = log, tuple(lines)


class NotRight(ToolError):
    """A verification has found something wrong, and has written down what."""
