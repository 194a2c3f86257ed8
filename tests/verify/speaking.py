"""What tests say to a session, as scripts of a verification."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from llmconv.runtime.runtime import Runtime
from llmconv.verify.generate import Generation, Turn
from llmconv.verify.script import Script, speak
from llmconv.verify.session import Session


def converse(session: Session, runtime: Runtime, said: Iterable[Turn]) -> Generation:
    """One conversation."""
    return speak(session, runtime, Script((("", tuple(said)),)))


def generate(session: Session, runtime: Runtime, prompt: Any, tokens: int) -> Generation:
    """Up to `tokens` tokens behind `prompt` [n]."""
    return converse(session, runtime, [Turn(prompt, tokens)])


def generate_batch(
    session: Session, runtime: Runtime, prompts: Iterable[Any], shown: Iterable[Sequence[Any]], tokens: int
) -> Generation:
    """Up to `tokens` tokens behind each of several prompts, which are decoded together. shown: what the placeholders of
    each stand for."""
    return speak(session, runtime, Script((), tuple(prompts), tuple(shown), tokens))
