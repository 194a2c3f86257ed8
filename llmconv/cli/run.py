"""`llmconv run OUT PROMPT` and `llmconv chat OUT`: answers of a finished build, token by token."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from llmconv.errors import InputError
from llmconv.extras import VERIFY, need
from llmconv.request.output import Layout
from llmconv.runtime.answer import Dialogue, Manner, Prompt, answers
from llmconv.runtime.media import Media
from llmconv.runtime.opened import Opened, opened, sampling
from llmconv.runtime.tokenizer import Message, Tokenizer, Words

MOST = 128  # tokens of an answer


@dataclass(frozen=True)
class Wish:
    """What was asked for. on: where it runs; most: tokens of an answer; sample: draw tokens, with this seed; plain:
    texts go to the model as they are, without the chat template; system: what a conversation begins with; media: files
    to show."""

    out: Path
    on: str = "auto"
    most: int = MOST
    sample: bool = False
    seed: int = 0
    plain: bool = False
    system: str = ""
    media: Media = field(default_factory=Media)

    def __post_init__(self) -> None:
        if self.most < 1:
            raise InputError(f"--max_tokens {self.most}", "an answer has at least one", f"Leave it out for {MOST}.")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}", "it is a number of 0 or more", "Leave it out for 0.")

    def begin(self) -> list[Message]:
        """The messages before the first text."""
        return [{"role": "system", "content": self.system}] if self.system else []


@dataclass(frozen=True)
class _Ready:
    """A build that is open, and what prompts are made with. status: shows on a terminal what runs."""

    wish: Wish
    build: Opened
    tokenizer: Tokenizer
    manner: Manner
    status: Status

    def prompt(self, messages: Sequence[Message]) -> Prompt:
        """The whole conversation as tokens. What is shown stands before the first text of the user."""
        shown, text = self.wish.media.shown(self.build.plan, self.tokenizer.mark)
        first = next(n for n, message in enumerate(messages) if message["role"] == "user")
        told = [*messages]
        told[first] = {**told[first], "content": text + told[first]["content"]}
        bare = self.wish.plain or not self.tokenizer.chats
        ids = self.tokenizer.plain(told[-1]["content"]) if bare else self.tokenizer.chat(told)
        for one in shown:
            tower, spec = one.fitted
            found, wanted = int((ids == spec.token).sum()), tower.marks(spec, one.items)
            if found != wanted:
                what = f"{found} of the prompt's tokens are placeholders of {tower.one}"
                raise InputError(what, f"{wanted} stand for it", "Is the tokenizer in config/ the model's own?")
        return Prompt(ids, shown)

    def read(self, messages: Sequence[Message], dialogue: Dialogue) -> None:
        """Read a conversation."""
        prompt = self.prompt(messages)
        with self.status:
            dialogue.read(prompt)


@contextmanager
def _ready(wish: Wish) -> Iterator[_Ready]:
    need(VERIFY, "an answer needs the model's tokenizer")
    console = Console(stderr=True)
    status = console.status("loading")

    def say(line: str) -> None:
        if console.is_terminal:
            status.update(escape(line))

    status.start()
    try:
        with opened(wish.out, wish.on, say) as build:
            tokenizer = Tokenizer(Layout(wish.out).config)
            manner = Manner(wish.most, build.stop, sampling(build) if wish.sample else None, wish.seed)
            status.stop()
            yield _Ready(wish, build, tokenizer, manner, status)
    finally:
        status.stop()


def run(wish: Wish, texts: Sequence[str]) -> int:
    """Answer every text by itself, as many at once as the nets decode; returns the exit code."""
    with _ready(wish) as ready:
        batch = ready.build.runtime.batch
        for first in range(0, len(texts), batch):
            group = texts[first : first + batch]
            dialogues = [Dialogue(ready.build.chip, ready.build.runtime) for _ in group]
            for text, dialogue in zip(group, dialogues):
                ready.read([*wish.begin(), {"role": "user", "content": text}], dialogue)
            _answer(ready, dialogues)
    return 0


def chat(wish: Wish, ask: Callable[[], str | None]) -> int:
    """Answer text after text until `ask` gives None; returns the exit code. What does not fit is told and left out."""
    with _ready(wish) as ready:
        if wish.plain or not ready.tokenizer.chats:
            what = "--plain" if wish.plain else f"{Layout(wish.out).config} has no chat template"
            raise InputError(what, "a chat needs the form of its messages", "Say llmconv run.")
        dialogue, said = Dialogue(ready.build.chip, ready.build.runtime), wish.begin()
        while (text := ask()) is not None:
            if not text.strip():
                continue
            asked: list[Message] = [*said, {"role": "user", "content": text}]
            try:
                ready.read(asked, dialogue)
            except InputError as error:
                print(f"ERROR: {error}", file=sys.stderr)
                continue
            (answer,) = _answer(ready, [dialogue])
            said = [*asked, {"role": "assistant", "content": answer}]
    return 0


def _answer(ready: _Ready, dialogues: Sequence[Dialogue]) -> list[str]:
    """Print the answers: one as it comes, several one behind the other; returns them."""
    words = [Words(ready.tokenizer) for _ in dialogues]
    texts = [""] * len(dialogues)

    def say(number: int, text: str) -> None:
        texts[number] += text
        if len(dialogues) == 1:
            print(text, end="", flush=True)

    for tokens in answers(dialogues, ready.manner):
        for number, token in enumerate(tokens):
            if token is not None:
                say(number, words[number].add(token))
    for number, one in enumerate(words):
        say(number, one.rest())
    print("\n".join(texts) if len(dialogues) > 1 else "", flush=True)
    return texts
