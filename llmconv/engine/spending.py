"""Inputs that a task moves into its first target, so that the disk does not hold them twice (Action.spends).

Before such a task starts, the rows of the tasks that made these inputs get a mark: the key with which they are spent
(`"spent"` beside stamp and digest of a target). A target that is gone or shorter, and has a mark, still counts as up to
date, with its recorded digest, as long as its content is somewhere: in the spender's first target, which is whole, or
in an unfinished one. When the spender has to run with another key, its spent inputs are made again first.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmconv.engine import files, keys, outputs
from llmconv.engine.graph import Graph, Node
from llmconv.engine.state import Row
from llmconv.engine.task import Action


class Spending:
    """What is spent in a graph, as far as a run or a look at it has come. rows: of the state, as they are now."""

    def __init__(self, graph: Graph, rows: Mapping[str, Row]):
        self._graph, self._rows = graph, rows
        self._lost: dict[tuple[str, str], str] = {}
        self._keys: dict[str, str] = {}  # spent input -> the key it was spent with; "" when its content is lost

    def __contains__(self, path: str) -> bool:
        """Whether this target may be spent."""
        return path in self._graph.spenders

    def lost(self, path: str, target: Mapping[str, Any]) -> str:
        """Why the content of a target that is gone or shorter is nowhere, for its judge; "" when it is. target: of the
        row."""
        name, action = self._graph.spenders.get(path, ("", None))
        if "spent" not in target or action is None:
            return "it is not kept elsewhere"
        held = name, target["spent"]
        if held not in self._lost:
            self._lost[held] = self._where(name, action, target["spent"])
        why = self._lost[held]
        return f"it went into {os.path.basename(action.targets[0])}, which {why}" if why else ""

    def _where(self, name: str, action: Action, key: str) -> str:
        row, result = self._rows.get(name), action.targets[0]
        if row is not None and row.done:
            if row.key != key:
                return "was made anew"
            how = files.changed(result, row.targets[0]["stamp"])
            same = how == "edited" and files.digest(result) == row.targets[0]["digest"]
            return f"was {how}" if how and not same else ""
        # the head of either says whose it is, and the next attempt looks at that
        return "" if os.path.exists(action.unfinished) or os.path.exists(result) else "was not finished"

    def held(self, node: Node, row: Row, positions: Sequence[int]) -> None:
        """These targets count as up to date, and are not there."""
        targets = row.targets
        self._keys |= {node.work.targets[position]: targets[position]["spent"] for position in positions}

    def made(self, node: Node) -> None:
        """The task has made its targets."""
        for path in node.work.targets:
            self._keys.pop(path, None)

    def spoil(self, paths: Sequence[str]) -> list[str]:
        """The content of these is lost after all. Returns the tasks to make again."""
        self._keys |= dict.fromkeys(paths, "")
        return self._makers(paths)

    def again(self, node: Node, key: str | None) -> list[str]:
        """The tasks to make again before one can run whose key is this (None: not known yet): what they made is
        spent."""
        spent = [path for path in node.work.inputs if path in self._keys]
        goes_on = [path for path in spent if path in node.work.spends and self._keys[path] == key]
        return self._makers([path for path in spent if path not in goes_on])

    def goes_on(self, node: Node) -> bool:
        """Whether some of what the task spends is spent already."""
        return any(path in self._keys for path in node.work.spends)

    def others(self, node: Node, makers: Sequence[str]) -> bool:
        """Whether the task can go on with spent inputs of more tasks than these."""
        return not set(self._makers([path for path in node.work.spends if path in self._keys])) <= set(makers)

    def needed(self, node: Node, sure: bool = True) -> str:
        """Why a task makes targets again that are spent; sure: whether it does."""
        path = next(path for path in node.work.targets if path in self._keys)
        result, is_ = os.path.basename(self._graph.spenders[path][1].targets[0]), "is" if sure else "may be"
        return f"{os.path.basename(path)} {is_} needed again: it went into {result}, which {is_} made anew"

    def spender(self, node: Node) -> str | None:
        """The task, among those of the graph, that has used up targets of this one."""
        targets = node.action.targets if node.action else ()
        names = (self._graph.spenders[path][0] for path in targets if path in self._keys)
        return next((name for name in names if name in self._graph.nodes), None)

    def _makers(self, paths: Sequence[str]) -> list[str]:
        return list(dict.fromkeys(self._graph.producers[path][0] for path in paths))

    def marked(self, node: Node, key: str) -> list[Row]:
        """Rows, to be saved before a task with this key may spend; from here on its inputs count as spent."""
        found: dict[str, Row] = {}
        self._keys |= dict.fromkeys(node.work.spends, key)
        for path in node.work.spends:
            name, position = self._graph.producers[path]
            row = found.get(name) or self._rows[name]
            targets = row.targets
            targets[position]["spent"] = key
            found[name] = replace(row, targets_text=keys.canonical(targets))
        return list(found.values())

    @staticmethod
    def whole(node: Node) -> list[str]:
        """What a task that is up to date could have spent, and has not."""
        return [path for path in node.work.spends if os.path.lexists(path)]


def possible(action: Action) -> bool:
    """Whether a finished target can be renamed to its place."""
    places = (action.unfinished, action.targets[0])
    return len({os.stat(existing(os.path.dirname(place))).st_dev for place in places}) == 1


def existing(place: str) -> str:
    """The nearest directory that is there."""
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    return place


def drop(paths: Sequence[str]) -> None:
    """Remove spent inputs; one that cannot be removed stays."""
    for path in paths:
        outputs.discard(path)
