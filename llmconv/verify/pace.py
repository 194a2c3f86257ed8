"""How far a verification is, and how long it will take: by the time that its launches took so far."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from llmconv.engine.progress import Progress
from llmconv.engine.step import Step


@dataclass
class _Taken:
    """Of one net: seconds that its launches took, and how many there were."""

    seconds: float = 0.0
    launches: int = 0


def _launch(number: int, total: int, name: str, label: str) -> str:
    return f"launch {number} of {total}: {name}, {label}"


class Pace:
    """Told of every launch; tells the launch's number, the share of the work that is done, and the seconds left.

    A launch counts from its beginning to the next one's, so that the model's own maths beside it is in it. A net that
    was launched before is expected to take what it took on average; others what was estimated, times how far the
    estimates of those that were launched were off.
    """

    def __init__(
        self,
        expected: Mapping[str, int],
        estimate: Callable[[str], float],
        tell: Callable[[Step], None],
        clock: Callable[[], float] = time.monotonic,
        text: Callable[[int, int, str, str], str] = _launch,
    ):
        """expected: launches by name. estimate: seconds of one launch of a name. tell: hears every launch. text: what
        is told of one: its number, of how many, name, label."""
        self._rest, self._total, self._number = Counter(expected), sum(expected.values()), 0
        self._estimate = {name: estimate(name) for name in expected}
        self._tell, self._clock, self._text, self._progress = tell, clock, text, Progress()
        self._taken: dict[str, _Taken] = {}
        self._last, self._begin = "", 0.0

    def __call__(self, name: str, label: str) -> None:
        """A launch begins."""
        now = self._clock()
        if self._last:
            taken = self._taken.setdefault(self._last, _Taken())
            taken.seconds, taken.launches = taken.seconds + now - self._begin, taken.launches + 1
        left = self._left()
        share = self._progress.advance(sum(taken.seconds for taken in self._taken.values()), left)
        self._last, self._begin, self._number = name, now, self._number + 1
        self._rest[name] = max(0, self._rest[name] - 1)
        # more than were expected: the total is what they come to
        self._total = max(self._total, self._number + sum(self._rest.values()))
        self._tell(Step(self._text(self._number, self._total, name, label), share, left))

    def _left(self) -> float:
        """Seconds of the launches that have not begun."""
        spent = sum(taken.seconds for taken in self._taken.values())
        believed = sum(self._estimate.get(name, 0.0) * taken.launches for name, taken in self._taken.items())
        off = spent / believed if believed else 1.0
        return sum(count * self._seconds(name, off) for name, count in self._rest.items())

    def _seconds(self, name: str, off: float) -> float:
        taken = self._taken.get(name)
        return taken.seconds / taken.launches if taken else self._estimate.get(name, 0.0) * off
