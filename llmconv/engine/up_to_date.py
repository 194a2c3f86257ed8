"""Judge whether a task is up to date; the reason names the option, file or target."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from llmconv.engine import files, keys
from llmconv.engine.state import Row
from llmconv.engine.task import Action

_SHOWN = 3  # differences named in a reason; `why` shows all


@dataclass(frozen=True)
class Verdict:
    """reason: "" means up to date. stamps: the targets' stamps now, where they differ from the recorded ones although
    the content is the same (touched, copied to another place).
    """

    reason: str
    stamps: tuple[Any, ...] | None = None


def judge(action: Action, row: Row | None, key: str, text: str) -> Verdict:
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
    stamps, touched = [], False
    for path, target in zip(action.targets, recorded):
        how = files.changed(path, target["stamp"])
        if how == "edited" and files.digest(path) == target["digest"]:
            how, touched = "", True
        if how:
            return Verdict(f"{os.path.basename(path)} was {how}")
        stamps.append(files.stamp(path) if touched else target["stamp"])
    return Verdict("", tuple(stamps) if touched else None)


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
