"""Judge the tokens and candidates that heads pick, by the model's logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llmconv.runtime.heads import choice
from llmconv.runtime.launches import Launch
from llmconv.verify import compare
from llmconv.verify.compare import measure
from llmconv.verify.ledger import CHIP, ORIGINAL, Compared, Ledger, Picked
from llmconv.verify.reference import Reference
from llmconv.verify.sampling import Settings

if TYPE_CHECKING:
    import numpy as np


LOGITS = "logits"  # the reference's, with the chip's weights and with the checkpoint's own


def pick(net: str, label: str, found: int, logits: np.ndarray, noise: float) -> Picked:
    """Judge token `found` by the reference's logits [V]."""
    import numpy as np

    second, best = np.sort(np.partition(logits, -2)[-2:]) if len(logits) > 1 else (logits[0], logits[0])
    gap = float(best - logits[found]) if 0 <= found < len(logits) else float("inf")
    return Picked(net, label, found, int(logits.argmax()), gap, float(best - second), noise)


@dataclass(frozen=True)
class Judge:
    """Judges launches of heads, for the ledger. reference, half: the model in float32 and in half precision. original:
    with the checkpoint's own weights, where llmconv quantises the head."""

    reference: Reference
    half: Reference
    ledger: Ledger
    original: Reference | None = None

    def lm_head(self, name: str, launch: Launch, found: Mapping[str, np.ndarray]) -> None:
        """The choice against the reference's logits, and the logits themselves if they are an output.

        Both allow for rounding to half precision.
        """
        (hidden,), (io,) = launch.inputs.values(), launch.net.outputs
        logits = self.reference.logits(hidden)
        if io.dtype != "i32":
            chip, own = (measure(values[None], logits[None]) for values in (found[io.name], self.half.logits(hidden)))
            self.ledger.record(Compared(name, io.name, CHIP, compare.LINEAR, chip, own))
        noise = compare.ULP[launch.net.inputs[0].dtype] * float(abs(logits).max())
        picked = pick(name, launch.label, choice(found), logits[0], noise)
        if self.original:
            own = self.original.logits(hidden)
            lost = measure(logits[None], own[None])
            self.ledger.record(Compared(name, LOGITS, ORIGINAL, compare.ORIGINAL, lost))
            picked = replace(picked, original=int(own[0].argmax()))
        self.ledger.picked.append(picked)

    def greedy_head(self, name: str, launch: Launch, found: Mapping[str, np.ndarray]) -> None:
        """The best of the very logits that went in."""
        (logits,) = launch.inputs.values()
        self.ledger.picked.append(pick(name, launch.label, choice(found), logits[0], 0.0))

    def sample_head(self, name: str, launch: Launch, found: Mapping[str, np.ndarray]) -> None:
        """The candidates and their odds. Candidates are compared by their logits after the penalty, because equal ones
        may change places.
        """
        import numpy as np

        given = launch.inputs
        penalty, temperature, top_p = (float(given[n][0]) for n in ("penalty", "temperature", "top_p"))
        settings = Settings(penalty, temperature, int(given["top_k"][0]), top_p)
        odds, tokens = settings.candidates(given["m_logits"][0], given["input_ids"])
        values = settings.adjusted(given["m_logits"][0], given["input_ids"])
        there = found["token_idx"].ravel()[: len(tokens)].astype(int)
        known = (there >= 0) & (there < len(values))
        logits = np.where(known, values[np.where(known, there, 0)], np.nan)
        same = measure(logits[None, None], values[tokens][None, None])
        self.ledger.record(Compared(name, "token_idx", CHIP, compare.SAME, same))
        right = measure(found["Softmax1"].reshape(1, 1, -1), odds[None, None])
        self.ledger.record(Compared(name, "Softmax1", CHIP, compare.ODDS, right))


JUDGES: dict[str, Callable[[Judge, str, Launch, Mapping[str, np.ndarray]], None]] = {
    "lm_head": Judge.lm_head,
    "greedy_head": Judge.greedy_head,
    "sample_head": Judge.sample_head,
}
