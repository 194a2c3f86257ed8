"""Judge the tokens and candidates that heads pick, by the model's logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmconv.plan.net import Net
from llmconv.verify import compare
from llmconv.verify.compare import measure
from llmconv.verify.launches import Launch
from llmconv.verify.sampling import Settings

if TYPE_CHECKING:
    import numpy as np

    from llmconv.verify.session import Session

CHIP = "chip"  # whose weights the reference has


@dataclass(frozen=True)
class Picked:
    """A token that the chip picked. gap: how far its logit is below the reference's best one; margin: the reference's
    best over its second; noise: the largest gap that half precision explains. A token is wrong when its gap exceeds the
    noise.
    """

    net: str
    label: str
    found: int
    expected: int
    gap: float
    margin: float
    noise: float

    @property
    def ok(self) -> bool:
        return self.gap <= self.noise


def pick(net: str, label: str, found: int, logits: np.ndarray, noise: float) -> Picked:
    """Judge token `found` by the reference's logits [V]."""
    import numpy as np

    second, best = np.sort(np.partition(logits, -2)[-2:]) if len(logits) > 1 else (logits[0], logits[0])
    gap = float(best - logits[found]) if 0 <= found < len(logits) else float("inf")
    return Picked(net, label, found, int(logits.argmax()), gap, float(best - second), noise)


def choice(outputs: Mapping[str, np.ndarray]) -> int:
    """The token that a head's outputs say: its id, or the best of its logits."""
    (values,) = outputs.values()
    return int(values.argmax()) if values.dtype.kind == "f" else int(values.ravel()[0])


def sample(net: Net, logits: np.ndarray, ids: np.ndarray, settings: Settings, whole: bool) -> Launch:
    """A launch of sample_head for logits [1, V] behind the tokens `ids` [n]. whole: at the net's full length, token 0
    in places that are not used, as Qwen2.5's demo does it, penalty on token 0 included; else at the length of the ids,
    as Qwen3's does.
    """
    import numpy as np

    most = next(io.shape for io in net.inputs if io.name == "input_ids")
    given = np.zeros(most if whole else (1, len(ids)), np.int32)
    given[0, : len(ids)] = ids
    inputs = {"m_logits": logits.astype(np.float32), "input_ids": given, "top_k": np.array([settings.top_k], np.int32)}
    inputs |= {name: np.array([getattr(settings, name)], np.float32) for name in ("penalty", "temperature", "top_p")}
    return Launch(net, {io.name: inputs[io.name] for io in net.inputs}, 1, label=str(settings))


def _lm_head(session: Session, launch: Launch, found: Mapping[str, np.ndarray]) -> None:
    """The choice against the reference's logits, and the logits themselves if they are an output.

    Both allow for rounding to half precision.
    """
    (hidden,), (io,) = launch.inputs.values(), launch.net.outputs
    logits, name = session.reference.logits(hidden), session.name(launch.net)
    if io.dtype != "i32":
        own, chip = (measure(values[None], logits[None]) for values in (session.half.logits(hidden), found[io.name]))
        session.record(name, io.name, CHIP, tolerance=compare.LINEAR, difference=chip, torch_half=own)
    noise = compare.ULP[launch.net.inputs[0].dtype] * float(abs(logits).max())
    session.picked.append(pick(name, launch.label, choice(found), logits[0], noise))


def _greedy(session: Session, launch: Launch, found: Mapping[str, np.ndarray]) -> None:
    """The best of the very logits that went in."""
    (logits,) = launch.inputs.values()
    session.picked.append(pick(session.name(launch.net), launch.label, choice(found), logits[0], 0.0))


def _sample(session: Session, launch: Launch, found: Mapping[str, np.ndarray]) -> None:
    """The candidates and their odds. Candidates are compared by their logits after the penalty, because equal ones may
    change places.
    """
    import numpy as np

    given, name = launch.inputs, session.name(launch.net)
    penalty, temperature, top_p = (float(given[n][0]) for n in ("penalty", "temperature", "top_p"))
    settings = Settings(penalty, temperature, int(given["top_k"][0]), top_p)
    odds, tokens = settings.candidates(given["m_logits"][0], given["input_ids"])
    values = settings.adjusted(given["m_logits"][0], given["input_ids"])
    there = found["token_idx"].ravel()[: len(tokens)].astype(int)
    known = (there >= 0) & (there < len(values))
    logits = np.where(known, values[np.where(known, there, 0)], np.nan)
    session.record(
        name,
        "token_idx",
        CHIP,
        tolerance=compare.SAME,
        difference=measure(logits[None, None], values[tokens][None, None]),
    )
    session.record(
        name,
        "Softmax1",
        CHIP,
        tolerance=compare.ODDS,
        difference=measure(found["Softmax1"].reshape(1, 1, -1), odds[None, None]),
    )


JUDGES: dict[str, Callable[[Session, Launch, Mapping[str, np.ndarray]], None]] = {
    "lm_head": _lm_head,
    "greedy_head": _greedy,
    "sample_head": _sample,
}
