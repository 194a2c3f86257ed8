"""What is said to the nets in a verification."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from llmconv.plan.plan import Plan
from llmconv.runtime.runtime import Runtime
from llmconv.runtime.seen import Shown
from llmconv.verify import generate
from llmconv.verify.generate import Generation, Speaker, Talker, Turn
from llmconv.verify.prompt import prompt

if TYPE_CHECKING:
    import numpy as np

    from llmconv.verify.session import Session


T = TypeVar("T", bound=Talker)


@dataclass(frozen=True)
class Script:
    """talks: conversations, one after the other, each with what its labels begin with. prompts [n], shown: of several
    sequences that are decoded together instead, with `tokens` for each."""

    talks: tuple[tuple[str, tuple[Turn, ...]], ...] = ()
    prompts: tuple[np.ndarray, ...] = ()
    shown: tuple[tuple[Shown, ...], ...] = ()
    tokens: int = 0

    @classmethod
    def of(cls, plan: Plan, runtime: Runtime, rng: np.random.Generator, tokens: int) -> Script:
        """What the nets are for: one prompt, a conversation in turns, or several sequences at once, of `tokens` tokens
        altogether."""
        if runtime.batch == 1:
            talks = [("", tuple(generate.turns(plan, runtime, rng, tokens)))]
            if any(mixer.across for mixer in plan.spec.mixers):
                talks.append(("nothing shown, ", tuple(generate.blind(plan, runtime, rng))))
            return cls(tuple(talks))
        each = max(2, tokens // runtime.batch)
        longest = runtime.prompt(each)
        made = [prompt(plan, rng, max(1, longest - 3 * b % longest)) for b in range(runtime.batch)]
        return cls((), tuple(ids for ids, _ in made), tuple(seen for _, seen in made), each)

    @property
    def first(self) -> tuple[int, ...]:
        """The token ids that are read first."""
        return tuple(map(int, self.prompts[0] if self.prompts else self.talks[0][1][0].ids))

    def play(self, begin: Callable[[str], T]) -> list[T]:
        """Say all of it. begin: makes a sequence, whose labels begin with that."""
        if self.prompts:
            sequences = [begin(f"sequence {number}, ") for number in range(1, len(self.prompts) + 1)]
            generate.together(sequences, self.prompts, self.shown, self.tokens)
            return sequences
        sequences = []
        for name, said in self.talks:
            sequences.append(begin(name))
            generate.talk(sequences[-1], said)
        return sequences


def speak(session: Session, runtime: Runtime, script: Script) -> Generation:
    """What chip and model make of a script."""
    speakers = script.play(lambda name: Speaker(session, runtime, name))
    return Generation(script.first, tuple(pick for speaker in speakers for pick in speaker.judged))
