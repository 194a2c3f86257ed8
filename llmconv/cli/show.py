"""An answer on stdout: as text, or with --json as JSON and nothing else."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar

Answer = TypeVar("Answer")

# words at the beginning of a line that call for attention, and their colours on a terminal
COLOURS = {"MISSING": "red", "WARNING": "yellow", "ERROR": "red"}


def answer(made: Answer, text: Callable[[Answer], str], as_json: bool) -> None:
    """Print a query's answer. The text is made of the same data as the JSON: see `data`."""
    if as_json:
        print(json.dumps(data(made), indent=1))
    else:
        show(text(made))


def data(made: Any) -> Any:
    """What JSON has of an answer: its own `to_dict`, or the fields of the dataclass (docs/json.md)."""
    if isinstance(made, (list, tuple)):
        return [data(one) for one in made]
    if isinstance(made, dict):
        return made
    return made.to_dict() if hasattr(made, "to_dict") else asdict(made)


def show(text: str) -> None:
    """Print a text; on a terminal the words of COLOURS have theirs, unless NO_COLOR is set."""
    if not (sys.stdout.isatty() and any(word in text for word in COLOURS)):
        print(text)
        return
    from rich.console import Console
    from rich.text import Text

    shown = Text(text)
    for word, colour in COLOURS.items():
        shown.highlight_regex(rf"(?m)^{word}\b", colour)
    Console(highlight=False).print(shown, soft_wrap=True)
