"""Nets on the simulator, each launch compared with the model's maths on the very same inputs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmconv.plan import Net, Plan
from llmconv.verify import compare, nets
from llmconv.verify.compare import Difference, Tolerance
from llmconv.verify.nets import EXPECTED, Launch
from llmconv.verify.reference import Reference
from llmconv.verify.weights import Precision

if TYPE_CHECKING:
    import numpy as np

    from llmconv.simulator.client import Simulator

ULP = {"bf16": 2.0**-8, "f16": 2.0**-11}  # of a value, at most: what rounding two values to half precision can do to their order


@dataclass(frozen=True)
class Compared:
    """An output of one launch against what it should be. against: the reference's weights ("chip" or "original")."""

    net: str
    output: str
    label: str
    difference: Difference
    tolerance: Tolerance
    against: str = "chip"

    @property
    def ok(self) -> bool:
        return self.tolerance.allows(self.difference)


@dataclass(frozen=True)
class Picked:
    """A token that the chip picked. gap: how far its logit is below the reference's best one; margin: the reference's best over its
    second; noise: the largest gap that half precision explains. A wrong token is one whose gap exceeds the noise."""

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


class Session:
    """A .bmodel on the simulator beside the model. `compared` and `picked` collect what every launch came to.

    original: also compare blocks with the checkpoint's own weights (of use where the chip's are quantised). say: told what runs.
    """

    def __init__(self, plan: Plan, simulator: Simulator, say: Callable[[str], None] = lambda _: None):
        self.plan, self.simulator, self.say = plan, simulator, say
        self.reference = Reference(plan)
        self.original = Reference(plan, Precision()) if plan.job.weight_bits < 16 else None
        self.compared: list[Compared] = []
        self.picked: list[Picked] = []
        self.seconds: dict[str, float] = {}
        self.launches: dict[str, int] = {}

    def launch(self, launch: Launch) -> dict[str, np.ndarray]:
        """Run a launch and judge it; returns the chip's outputs. ToolError when the simulator fails."""
        name = launch.net.name
        self.say(f"{name}, {launch.label}")
        start = time.monotonic()
        found = self.simulator.run(name, launch.inputs)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start
        first = name not in self.launches
        self.launches[name] = self.launches.get(name, 0) + 1
        if launch.net.kind == "lm_head":
            self._judge_head(launch, found)
        elif launch.net.kind in EXPECTED:
            self._judge(launch, found, self.reference, "chip")
            if first and self.original and launch.net.layer is not None:
                self._judge(launch, found, self.original, "original")
        return found

    def _judge(self, launch: Launch, found: dict[str, np.ndarray], reference: Reference, against: str) -> None:
        expected = EXPECTED[launch.net.kind](reference, launch)
        half = {io.name: io.dtype for io in launch.net.outputs}
        for output, right in expected.items():
            if launch.net.layer is None:
                tolerance = compare.EXACT[half[output]]
            else:
                tolerance = compare.BLOCK if against == "chip" else compare.ORIGINAL
            difference = compare.measure(found[output][:, : launch.count], right)
            self.compared.append(Compared(launch.net.name, output, launch.label, difference, tolerance, against))

    def _judge_head(self, launch: Launch, found: dict[str, np.ndarray]) -> None:
        """The token of a head that picks it itself: the best of the reference's logits but for their rounding to half precision."""
        (hidden,), (token,) = launch.inputs.values(), found.values()
        logits = self.reference.logits(hidden)[0]
        noise = ULP[launch.net.inputs[0].dtype] * float(abs(logits).max())
        self.picked.append(pick(launch.net.name, launch.label, int(token.ravel()[0]), logits, noise))


def alone(session: Session, net: Net, rng: np.random.Generator, thorough: bool) -> None:
    """Launches of one net that need no other: edge cases too when `thorough`, else one that tells the most."""
    vocab = session.plan.spec.vocab
    if net.kind == "embedding":
        ids = rng.integers(0, vocab, nets.length(net))
        ids[0] = vocab - 1
        session.launch(nets.tokens(net, ids, "ids up to the last"))
    elif net.kind == "lm_head":
        for number in range(3 if thorough else 1):
            session.launch(nets.head(net, rng.standard_normal(net.inputs[0].shape), f"random state {number}"))
    elif net.kind in EXPECTED:
        _blocks(session, net, rng, thorough)


def _blocks(session: Session, net: Net, rng: np.random.Generator, thorough: bool) -> None:
    """Prefill: a prompt that leaves room. Decode: a random history, before it stale rows of another conversation beyond it."""
    import numpy as np

    length, capacity = nets.length(net), nets.capacity(net)
    counts = [max(1, length * 3 // 4)]
    if net.flags.dynamic:
        counts = sorted({1, min(7, length), length}) if thorough else [min(7, length)]
    pasts = [capacity * 3 // 5, *((0, capacity - length) if thorough and capacity else ())]
    for count in counts:
        for past in dict.fromkeys(p for p in pasts if p >= 0):
            ids = rng.integers(0, session.plan.spec.vocab, (1, count))
            hidden = np.zeros(next(io.shape for io in net.inputs if io.name == "input_states"), np.float32)
            hidden[:, :count] = session.reference.embed(ids)
            shapes = [io.shape for io in net.inputs if io.name.startswith("history_")]
            history = tuple(rng.standard_normal(shape).astype(np.float32) for shape in shapes)
            session.launch(nets.step(net, hidden, count, past, history))
