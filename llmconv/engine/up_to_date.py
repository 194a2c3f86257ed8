"""Judge whether a task is up to date; the reason names the option, file or target."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from llmconv.engine import files, keys
from llmconv.engine.spending import Spending
from llmconv.engine.state import Row
from llmconv.engine.task import Action

_SHOWN = 3  # differences named in a reason; `why` shows all


@dataclass(frozen=True)
class Verdict:
    """reason: "" means up to date. stamps: the targets' stamps now, where they differ from the recorded ones although
    the content is the same (touched, copied to another place). spent: positions of targets that are not there, or not
    whole, because their content is in another task's target.
    """

    reason: str
    stamps: tuple[Any, ...] | None = None
    spent: tuple[int, ...] = ()


def judge(action: Action, row: Row | None, key: str, text: str, spending: Spending) -> Verdict:
    """Compares what was built (row) with what is wanted (key and its document) and with the targets on disk."""
    if row is None:
        return Verdict("not built yet")
    if not row.done:
        return Verdict("was not finished")
    if row.key != key:
        return Verdict(describe(keys.differences(row.fields, json.loads(text))))
    recorded = row.targets
    if len(recorded) != len(action.targets):
        return Verdict("its list of targets changed")
    stamps, touched, spent = [], False, []
    for position, (path, target) in enumerate(zip(action.targets, recorded)):
        how = files.changed(path, target["stamp"])
        if how == "edited" and files.digest(path) == target["digest"]:
            how, touched = "", True
        if how and "spent" in target and how != "edited":
            if lost := spending.lost(path, target):
                return Verdict(f"{os.path.basename(path)} has to be there again: {lost}")
            spent.append(position)
        elif how:
            return Verdict(f"{os.path.basename(path)} was {how}")
        stamps.append(files.stamp(path) if touched and position not in spent else target["stamp"])
    return Verdict("", tuple(stamps) if touched else None, tuple(spent))


def describe(changes: list[tuple[str, Any, Any]]) -> str:
    """One line for a list of differences (field, before, after)."""
    if not changes:
        return "its key changed"
    parts = [_one(*change) for change in changes[:_SHOWN]]
    if len(changes) > _SHOWN:
        parts.append(f"{len(changes) - _SHOWN} more")
    return ", ".join(parts)


def _one(field: str, before: Any, after: Any) -> str:
    if before is None:
        return f"{field} is new"
    if after is None:
        return f"{field} is gone"
    old, new = str(before), str(after)
    if len(old) > 24 or len(new) > 24:  # digests and other long values say nothing to a reader
        return f"{field} changed"
    return f"{field}: {old} -> {new}"
