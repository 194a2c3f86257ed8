"""Nets on the simulator, each launch compared with the model's maths on the very same inputs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmconv.nets import Net
from llmconv.plan import Plan
from llmconv.verify import compare, nets
from llmconv.verify.compare import Difference, Tolerance, measure
from llmconv.verify.nets import EXPECTED, Launch
from llmconv.verify.reference import Reference
from llmconv.verify.weights import Precision

if TYPE_CHECKING:
    import numpy as np

    from llmconv.simulator.client import Simulator

CHIP, ORIGINAL = "chip", "original"  # whose weights the reference has


@dataclass(frozen=True)
class Compared:
    """An output of a net, over all launches so far, against what it should be.

    against: whose weights the reference has, the chip's or the checkpoint's original ones; torch_half: what torch in half
    precision makes of the same inputs, where that matters.
    """

    net: str
    output: str
    against: str
    tolerance: Tolerance
    difference: Difference
    torch_half: Difference | None = None

    @property
    def ok(self) -> bool:
        return self.tolerance.allows(self.difference, self.torch_half)

    @property
    def limit(self) -> float:
        return self.tolerance.limit(self.torch_half)


@dataclass(frozen=True)
class Picked:
    """A token that the chip picked. gap: how far its logit is below the reference's best one; margin: the reference's best over its
    second; noise: the largest gap that half precision explains. A token is wrong when its gap exceeds the noise."""

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
    """A .bmodel on the simulator beside the model. Every launch is judged; `compared`, `picked` and `seconds` collect what they came to.

    say: told what runs.
    """

    def __init__(self, plan: Plan, simulator: Simulator, say: Callable[[str], None] = lambda _: None):
        self.plan, self.simulator, self.say = plan, simulator, say
        self.reference = Reference(plan)
        self.half = Reference(plan, dtype=plan.job.half)
        self.original = Reference(plan, Precision()) if plan.job.weight_bits < 16 else None
        self._compared: dict[tuple[str, str, str], Compared] = {}
        self.picked: list[Picked] = []
        self.seconds: dict[str, float] = {}
        self.launches: dict[str, int] = {}

    @property
    def compared(self) -> list[Compared]:
        """One for every net, output and set of weights, in the order of their first launches."""
        return list(self._compared.values())

    def launch(self, launch: Launch) -> dict[str, np.ndarray]:
        """Run a launch and judge it; returns the chip's outputs. ToolError when the simulator fails."""
        net = launch.net
        self.say(f"{net.name}: {launch.label}")
        start = time.monotonic()
        found = self.simulator.run(net.stage_of or net.name, launch.inputs)
        self.seconds[net.name] = self.seconds.get(net.name, 0.0) + time.monotonic() - start
        first = net.name not in self.launches
        self.launches[net.name] = self.launches.get(net.name, 0) + 1
        (self._judge_head if net.kind == "lm_head" else self._judge)(launch, found, first)
        return found

    def record(self, *what: str, tolerance: Tolerance, difference: Difference, torch_half: Difference | None = None) -> None:
        """Add a launch's difference to that of (net, output, against)."""
        old = self._compared.get(what)
        if old:
            difference, torch_half = old.difference + difference, old.torch_half and torch_half and old.torch_half + torch_half
        self._compared[what] = Compared(*what, tolerance, difference, torch_half)

    def _judge(self, launch: Launch, found: dict[str, np.ndarray], first: bool) -> None:
        """Compare the rows that count with the reference; blocks also with torch in half precision and (at first) the original."""
        net, block = launch.net, launch.net.layer is not None
        expected = EXPECTED[net.kind](self.reference, launch)
        half = EXPECTED[net.kind](self.half, launch) if block else {}
        original = EXPECTED[net.kind](self.original, launch) if block and first and self.original else {}
        for io in net.outputs:
            rows, right = found[io.name][:, : launch.count], expected[io.name]
            own = measure(half[io.name], right) if block else None
            tolerance = compare.BLOCK if block else compare.EXACT[io.dtype]
            self.record(net.name, io.name, CHIP, tolerance=tolerance, difference=measure(rows, right), torch_half=own)
            if original:
                self.record(net.name, io.name, ORIGINAL, tolerance=compare.ORIGINAL, difference=measure(rows, original[io.name]))

    def _judge_head(self, launch: Launch, found: dict[str, np.ndarray], first: bool) -> None:
        """The head's choice against the reference's logits, but for their rounding to half precision; and its logits if it gives them."""
        (hidden,), (io,) = launch.inputs.values(), launch.net.outputs
        logits, name = self.reference.logits(hidden), launch.net.name
        if io.dtype != "i32":
            own = measure(self.half.logits(hidden)[None], logits[None])
            self.record(name, io.name, CHIP, tolerance=compare.BLOCK, difference=measure(found[io.name][None], logits[None]), torch_half=own)
        noise = compare.ULP[launch.net.inputs[0].dtype] * float(abs(logits).max())
        self.picked.append(pick(name, launch.label, choice(found), logits[0], noise))


def choice(outputs: dict[str, np.ndarray]) -> int:
    """The token that a head's outputs say: its id, or the best of its logits."""
    (values,) = outputs.values()
    return int(values.argmax()) if values.dtype.kind == "f" else int(values.ravel()[0])


def alone(session: Session, net: Net, rng: np.random.Generator, thorough: bool) -> None:
    """Launches of one net that need no other: edge cases too when `thorough`, else one that tells the most."""
    import numpy as np

    vocab = session.plan.spec.vocab
    if net.kind == "embedding":
        ids = rng.integers(0, vocab, nets.length(net))
        ids[0] = vocab - 1
        session.launch(nets.tokens(net, ids, "ids up to the last"))
    elif net.kind == "lm_head":
        for number in range(3 if thorough else 1):
            session.launch(nets.head(net, rng.standard_normal(net.inputs[0].shape), f"random state {number + 1}"))
    else:
        for count, past in _places(net, thorough):
            shapes = {io.name: io.shape for io in net.inputs}
            hidden = np.zeros(shapes["input_states"], np.float32)
            hidden[:, :count] = session.reference.embed(rng.integers(0, vocab, (1, count)))
            # rows beyond `past` are as random: what an earlier conversation left there must not count
            history = tuple(rng.standard_normal(shapes[name]) for name in ("history_k", "history_v") if name in shapes)
            session.launch(nets.step(net, hidden, count, past, history))


def _places(net: Net, thorough: bool) -> list[tuple[int, int]]:
    """(new tokens, history before them) of a block's launches: the middle; if thorough also an empty and a full history, and for
    nets that take any length one token and all."""
    length, capacity, dynamic = nets.length(net), nets.capacity(net), net.flags.dynamic
    counts, pasts = [max(1, length * 3 // 4)], [capacity * 3 // 5]
    if dynamic:
        counts = [1, min(7, length), length] if thorough else [min(7, length)]
    if thorough and capacity:
        pasts += [1 if dynamic else 0, max(0, capacity - length)]
    return [(count, past) for count in sorted(set(counts)) for past in sorted(set(pasts))]
