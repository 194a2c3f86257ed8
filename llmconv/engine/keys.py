"""Keys: what determines a task's outputs, as a document of canonical JSON, and its sha256.

The document: {"call", "code", "key", "files": [[basename, digest]], "picks": [[basename, {name: value}]],
"watch": [identity]}. No path of the output directory and no time is in it, so a key means the same in every directory.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Mapping
from typing import Any

from llmconv.engine import files
from llmconv.engine.task import Action
from llmconv.errors import ConvertError

_MISSING = "(missing)"


class Inputs:
    """The inputs of tasks. Every outside file is looked at once per run, so that all tasks of a run agree on it.

    A task fails when an input has changed by its end (perform.check_inputs).

    known / remember: the digest memo of the state. Targets of other tasks enter through `produced`.
    """

    def __init__(self, known: Callable[[tuple], str | None], remember: Callable[[tuple, str], None]):
        self._known, self._remember = known, remember
        self._identities: dict[str, tuple] = {}
        self._digests: dict[str, str] = {}
        self._json: dict[str, dict] = {}
        self._stamps: dict[str, Any] = {}
        self._places: dict[str, str] = {}

    def produced(self, path: str, digest: str, stamp: Any = None, place: str | None = None) -> None:
        """`path` is a task's target with this content; place: where the content is, if not at `path` (a dry run)."""
        self._digests[path] = digest
        self._stamps[path] = stamp
        self._json.pop(path, None)
        self._places.pop(path, None)
        if place is not None:
            self._places[path] = place

    def identity(self, path: str) -> tuple:
        """The identity of an outside file when it was first looked at. ConvertError if it cannot be read."""
        found = self._identities.get(path)
        if found is None:
            try:
                found = self._identities[path] = files.identity(path)
            except OSError as error:
                raise ConvertError(f"input {path} cannot be read", error.strerror or str(error)) from None
        return found

    def digest(self, path: str) -> str:
        """sha256 of an input's content."""
        found = self._digests.get(path)
        if found is not None:
            return found
        seen = self.identity(path)
        directory = os.path.isdir(path)
        found = None if directory else self._known(seen)
        if found is None:
            found = files.digest(path)
            if files.identity(path) != seen:
                raise ConvertError(f"input {path} changed while it was read", try_="Run the same command again.")
            if not directory:  # a directory's identity does not cover the files in it
                self._remember(seen, found)
        self._digests[path] = found
        return found

    def pick(self, path: str, names: tuple[str, ...]) -> dict[str, Any]:
        """The named entries of a JSON file (an object)."""
        content = self._json.get(path)
        if content is None:
            if path not in self._stamps:
                self.identity(path)  # later changes are noticed
            try:
                with open(self._places.get(path, path), encoding="utf-8") as file:
                    content = self._json[path] = json.load(file)
            except (OSError, ValueError) as error:
                raise ConvertError(f"input {path} cannot be read", str(error)) from None
        return {name: content.get(name, _MISSING) for name in names}

    def witness(self, action: Action, but: Collection[str] = ()) -> list[tuple[str, Any, str]]:
        """The reference of perform.check_inputs: (path, identity or stamp, which of them). but: inputs without one."""
        return [
            (path, self._stamps[path], "stamp") if path in self._stamps else (path, self.identity(path), "identity")
            for path in action.inputs
            if path not in but
        ]


def document(action: Action, inputs: Inputs) -> str:
    """The key's document as canonical JSON. ConvertError for an input that cannot be read."""
    for path in action.reads:
        if path not in inputs._stamps:
            inputs.identity(path)
    fields = {
        **action.counted,
        "files": [[os.path.basename(path), inputs.digest(path)] for path in action.file_dep],
        "picks": [[os.path.basename(path), inputs.pick(path, names)] for path, names in action.picks],
        "watch": [inputs.identity(path) for path in action.watch],
    }
    return canonical(fields)


def canonical(value: Any) -> str:
    """JSON with one spelling per value. ConvertError for what is not JSON."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConvertError("a task's key is not JSON", str(error)) from None


def key_of(text: str) -> str:
    """The key (sha256, hex) of a document."""
    return hashlib.sha256(text.encode()).hexdigest()


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """The fields in which two key documents differ: [(field, before, after)], None where a field is absent."""
    old, new = _flat(before), _flat(after)
    names = [*new, *(name for name in old if name not in new)]
    return [(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]


def _flat(fields: Mapping[str, Any]) -> dict[str, Any]:
    flat = {"call": fields.get("call"), "code": fields.get("code")}
    _flatten("", fields.get("key") or {}, flat)
    for name, digest in fields.get("files") or ():
        flat[_unique(f"file {name}", flat)] = digest
    for name, entries in fields.get("picks") or ():
        for entry, value in entries.items():
            flat[f"{name}: {entry}"] = value
    for number, identity in enumerate(fields.get("watch") or ()):
        flat[f"watched file {number + 1}"] = identity
    return flat


def _flatten(prefix: str, value: Any, into: dict[str, Any]) -> None:
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            _flatten(f"{prefix}.{name}" if prefix else str(name), item, into)
    elif prefix:
        into[prefix] = value


def _unique(name: str, taken: Mapping[str, Any]) -> str:
    number = 2
    result = name
    while result in taken:
        result, number = f"{name} ({number})", number + 1
    return result
