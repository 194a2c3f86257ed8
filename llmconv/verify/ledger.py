"""The ledger of a verification: every launch's judgement, summed up by net and output."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, replace

from llmconv.verify.compare import Difference, Tolerance

CHIP = "chip"  # whose weights the reference has: those that the chip has
ORIGINAL = "original"  # the checkpoint's own
TOGETHER = "together"  # the chip's, for what a runtime launches in parts and the model looks at together


@dataclass(frozen=True)
class Compared:
    """An output of a net, in a launch or over all so far, against what it should be.

    against: whose weights the reference has, CHIP or ORIGINAL, or TOGETHER; torch_half: what torch in half precision
    makes of the same inputs, where that matters."""

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

    @property
    def cosine_limit(self) -> float:
        return self.tolerance.cosine_limit(self.torch_half)

    @property
    def by_torch(self) -> bool:
        """Whether torch's own error in half precision sets a limit, and not the tolerance alone."""
        return self.limit > self.tolerance.relative_l2 or self.cosine_limit < self.tolerance.cosine


@dataclass(frozen=True)
class Picked:
    """A token that the chip picked. gap: how far its logit is below the reference's best one; margin: the reference's
    best over its second; noise: the largest gap that half precision explains. A token is wrong when its gap exceeds the
    noise. original: the best token of the checkpoint's own head, where llmconv quantises it.
    """

    net: str
    label: str
    found: int
    expected: int
    gap: float
    margin: float
    noise: float
    original: int | None = None

    @property
    def ok(self) -> bool:
        return self.gap <= self.noise


class Ledger:
    """What the launches of a session came to.

    picked: the tokens that heads picked. seconds, launches: how long the simulator ran and how often, by net. open: the
    number of tokens of which rounding decides what all blocks in a row make of them.
    """

    def __init__(self) -> None:
        self._compared: dict[tuple[str, str, str], Compared] = {}
        self.picked: list[Picked] = []
        self.seconds: dict[str, float] = {}
        self.launches: dict[str, int] = {}
        self.open = 0

    @property
    def compared(self) -> list[Compared]:
        """One for every net, output and set of weights, in the order of their first launches."""
        return list(self._compared.values())

    def ran(self, net: str, seconds: float = 0.0) -> bool:
        """Count a launch; returns whether it is the net's first."""
        self.seconds[net] = self.seconds.get(net, 0.0) + seconds
        self.launches[net] = self.launches.get(net, 0) + 1
        return self.launches[net] == 1

    def record(self, one: Compared) -> None:
        """Add what a launch gave to what others of the same net, output and `against` have given."""
        what = one.net, one.output, one.against
        if old := self._compared.get(what):
            both = old.torch_half and one.torch_half and old.torch_half + one.torch_half
            one = replace(one, difference=old.difference + one.difference, torch_half=both)
        self._compared[what] = one


class Log(Ledger):
    """A ledger that another one takes over later, entry by entry, as if all had been recorded there at that time.

    before: nets that are launched there before that."""

    def __init__(self, before: Container[str] = ()):
        super().__init__()
        self._before = before
        self._entries: list[Callable[[Ledger], object]] = []

    def ran(self, net: str, seconds: float = 0.0) -> bool:
        self._entries.append(lambda other: other.ran(net, seconds))
        return super().ran(net, seconds) and net not in self._before

    def record(self, one: Compared) -> None:
        self._entries.append(lambda other: other.record(one))

    def into(self, other: Ledger) -> None:
        """Hand all over."""
        for entry in self._entries:
            entry(other)
        other.picked += self.picked
