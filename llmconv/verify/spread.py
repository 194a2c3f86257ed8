"""Launches of nets by themselves on the workers of a cluster, while this machine draws inputs, judges, and generates.

Inputs are drawn and results are judged here, in the order of a verification on one machine: the record is the same. A
worker gets a .bmodel with the one net, and the inputs; it needs no checkpoint.
"""

from __future__ import annotations

import shutil
from collections import Counter, deque
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

from llmconv.bmodel.only import only
from llmconv.engine.hands import Hands, Part
from llmconv.plan.net import Net
from llmconv.runtime import state
from llmconv.runtime.launches import Launch
from llmconv.simulator import errand
from llmconv.verify.ledger import Log
from llmconv.verify.selection import seconds
from llmconv.verify.session import Session, Todo

if TYPE_CHECKING:
    import numpy as np

GIVEN, FOUND = "given.npz", "found.npz"
CALL = "llmconv.simulator.errand:launch"
AHEAD = 2  # launches that are drawn, for each that can run at a time
HELD = 1 << 30  # bytes of inputs in memory, beyond which nothing more is drawn
BASE = 400 << 20  # bytes of a launch's processes, beside the net and its tensors

SHORT = 20.0  # seconds: launches of a net that take less together go together
LIGHT = 64 << 20  # bytes of their inputs, likewise


@dataclass
class _Drawn:
    """Launches of one net whose results are not judged. number: of the part; folder: of its files; size: bytes of
    their inputs."""

    launches: list[Launch]
    number: int
    folder: Path
    size: int

    @property
    def net(self) -> str:
        """The net as the file has it."""
        return stored(self.launches[0].net)


class Spread:
    """`todo`: launches, and what is to be done at its turn between them. before: nets that `session` launches by
    itself first; `finish` comes after that, and its ledger has all then.

    It runs the session's nets too, on its simulator: the others go on meanwhile. Use it in a `with` statement.
    """

    def __init__(
        self,
        session: Session,
        hands: Hands,
        bmodel: Path,
        todo: Callable[[Session], Todo],
        before: Container[str] = (),
    ):
        self._session, self._hands, self._bmodel = session, hands, bmodel
        self._simulator = session.simulator
        session.simulator = self
        self._log = Log(before)
        self._beside = session.beside(self._log)
        self._todo: Todo = todo(self._beside)
        self._next = next(self._todo, None)
        self._drawn: deque[_Drawn | Callable[[Session], None]] = deque()
        self._users = Counter[str]()  # of the nets' own files: launches that are not judged
        hands.folder.mkdir(parents=True, exist_ok=True)
        self._folder = Path(mkdtemp(dir=hands.folder))

    def __enter__(self) -> Spread:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.simulator = self._simulator
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(self, net: str, inputs: Mapping[str, np.ndarray], read: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """As Simulator.run."""
        self._go_on()
        return self._simulator.run(net, inputs, read)

    def finish(self) -> None:
        """Until all is judged, and in the session's ledger."""
        self._go_on()
        while self._drawn:
            self._judge(wait=True)
            self._go_on()
        self._log.into(self._session.ledger)

    def _go_on(self) -> None:
        """What can be done without waiting."""
        while self._drawn and self._judge(wait=False):
            pass
        while self._next is not None and self._room():
            self._drawn.append(self._give(self._several()) if isinstance(self._next, Launch) else self._one())

    def _one(self) -> Any:
        """What comes next; the one behind it is drawn."""
        one, self._next = self._next, next(self._todo, None)
        return one

    def _several(self) -> list[Launch]:
        """The launches of the next net, as many as are worth one start of a simulator."""
        found = [self._one()]
        net = found[0].net
        most = min(SHORT / seconds(net), LIGHT / max(1, _size(found[0])))
        while isinstance(self._next, Launch) and self._next.net == net and len(found) + 1 <= most:
            found.append(self._one())
        return found

    def _room(self) -> bool:
        most = AHEAD * self._hands.workers
        held = sum(one.size for one in self._drawn if isinstance(one, _Drawn))
        return len(self._drawn) < most and held < HELD

    def _give(self, launches: list[Launch]) -> _Drawn:
        first = launches[0]
        net = stored(first.net)
        file = self._folder / f"{net}.bmodel"
        if not file.exists():
            only(self._bmodel, net, file)
        self._users[net] += 1
        size = sum(map(_size, launches))
        folder = Path(mkdtemp(dir=self._folder))
        errand.save(folder / GIVEN, [launch.inputs for launch in launches])
        args = {
            "bmodel": str(file),
            "chip": self._session.plan.job.chip,
            "net": net,
            "given": str(folder / GIVEN),
            "count": len(launches),
            "read": list(state.written(first.net)),
        }
        what = first.label if len(launches) == 1 else f"{len(launches)} launches"
        label = f"{self._session.name(first.net)}, {what}"
        memory = BASE + 2 * file.stat().st_size + 6 * size
        part = Part(label, CALL, args, [str(file), str(folder / GIVEN)], str(folder / FOUND), memory)
        return _Drawn(launches, self._hands.give(part), folder, size)

    def _judge(self, wait: bool) -> bool:
        """Judge the launch that was drawn first. Returns whether its result was there."""
        one = self._drawn[0]
        if isinstance(one, _Drawn):
            values = self._hands.done(one.number, wait)
            if values is None:
                return False
            for number, launch in enumerate(one.launches):
                self._session.say(self._session.name(launch.net), f"{launch.label}, on worker {values['worker']}")
                self._beside.take(launch, errand.load(one.folder / FOUND, number), values["seconds"][number])
            self._clear(one)
        else:
            one(self._beside)
        self._drawn.popleft()
        return True

    def _clear(self, one: _Drawn) -> None:
        shutil.rmtree(one.folder, ignore_errors=True)
        self._users[one.net] -= 1
        if not self._users[one.net]:
            (self._folder / f"{one.net}.bmodel").unlink()  # another launch of the net makes it again


def stored(net: Net) -> str:
    """The name under which a file has a net."""
    return net.stage_of or net.name


def _size(launch: Launch) -> int:
    return sum(values.nbytes for values in launch.inputs.values())
