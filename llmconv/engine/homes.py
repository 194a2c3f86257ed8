"""The state of a run of several builds: each keeps what is known of its tasks in its own directory, as if it had been
built alone.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llmconv.engine.options import RunOptions
from llmconv.engine.state import Row, State, read_state

OPEN = 16  # states that are open at once


@dataclass(frozen=True)
class Home:
    """Where some of a run's tasks belong. state_dir: as in RunOptions, of the build alone. own: a task's name there,
    None for one that does not belong there; whole: the other way round."""

    state_dir: Path
    own: Callable[[str], str | None]
    whole: Callable[[str], str]


def known(options: RunOptions) -> dict[str, Row]:
    """All rows of a run, by the tasks' names in it, without a lock and without writing."""
    found = {name: row for name, row in read_state(options.state_dir).items() if _home(options.homes, name) is None}
    for home in options.homes:
        for name, row in read_state(home.state_dir).items():
            found[home.whole(name)] = replace(row, name=home.whole(name))
    return found


def opened(options: RunOptions) -> State | States:
    """The state that a run writes. The locks of all directories are held by who calls."""
    return States(options) if options.homes else State(options.state_dir)


class States:
    """Several states as one; it has what a State has. Digests of files are in the run's own."""

    def __init__(self, options: RunOptions):
        self._homes = options.homes
        self._common = State(options.state_dir)
        self._open: OrderedDict[Path, State] = OrderedDict()
        self.path, self.note = self._common.path, self._common.note
        self.known_digest, self.remember_digest = self._common.known_digest, self._common.remember_digest
        self.rows: dict[str, Row] = known(options)

    def close(self) -> None:
        """As State.close."""
        for state in (self._common, *self._open.values()):
            state.close()

    def undo(self, names: Iterable[str]) -> None:
        """As State.undo."""
        for home, some in self._parted(names).items():
            self._state(home).undo([_own(home, name) for name in some])
            self.rows |= {name: replace(self.rows[name], done=False) for name in some if name in self.rows}

    def save(self, rows: Iterable[Row]) -> None:
        """As State.save, with a transaction for each directory."""
        by_name = {row.name: row for row in rows}
        for home, some in self._parted(by_name).items():
            self._state(home).save([replace(by_name[name], name=_own(home, name)) for name in some])
        self.rows |= by_name

    def forget(self, names: Iterable[str]) -> None:
        """As State.forget."""
        for home, some in self._parted(names).items():
            self._state(home).forget([_own(home, name) for name in some])
            for name in some:
                self.rows.pop(name, None)

    def _parted(self, names: Iterable[str]) -> Mapping[Home | None, list[str]]:
        parted: dict[Home | None, list[str]] = defaultdict(list)
        for name in names:
            parted[_home(self._homes, name)].append(name)
        return parted

    def _state(self, home: Home | None) -> State:
        """Open, and among those that were used last."""
        if home is None:
            return self._common
        if home.state_dir not in self._open:
            if len(self._open) == OPEN:
                self._open.popitem(last=False)[1].close()
            home.state_dir.mkdir(parents=True, exist_ok=True)
            self._open[home.state_dir] = State(home.state_dir)
        self._open.move_to_end(home.state_dir)
        return self._open[home.state_dir]


def _home(homes: Sequence[Home], name: str) -> Home | None:
    return next((home for home in homes if home.own(name) is not None), None)


def _own(home: Home | None, name: str) -> str:
    own = home.own(name) if home else name
    assert own is not None  # it is where `_home` found it
    return own
