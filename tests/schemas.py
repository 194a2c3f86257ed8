"""The schemas of docs/json.md, and the paths that an answer really has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "json.md"
TYPES = {"text": str, "number": (int, float), "bool": bool, "list": list, "object": dict, "null": type(None)}
TYPES["any"] = object


def schema(command: str) -> dict[str, str]:
    """{path: type} of the section `## command`."""
    (section,) = re.findall(rf"^## {re.escape(command)}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.M | re.S)
    return dict(re.findall(r"^\| `(.*?)` \| (.*?) \|", section, re.M))


def paths(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of a value and of all that is below it."""
    if at:
        yield at, value
    if isinstance(value, dict):
        for key, below in value.items():
            yield from paths(below, f"{at}.{key}" if at else key)
    elif isinstance(value, list):
        for below in value:
            yield from paths(below, f"{at}[]")


def check(command: str, *answers: Any) -> None:
    """Every path that answers have is in the schema with that type, and every path of the schema is in one of them,
    but for the rare ones."""
    told, seen = schema(command), set()
    patterns = {path: re.compile(_pattern(path)) for path in told}
    for path, value in (one for answer in answers for one in paths(answer)):
        known = next((name for name in told if name == path or patterns[name].fullmatch(path)), None)
        assert known, f"{command}: {path} is not documented"
        seen.add(known)
        kinds = re.findall(r"\w+", told[known])
        right = [kind for kind in kinds if kind in TYPES and isinstance(value, TYPES[kind])]
        assert right and (kinds != ["number"] or not isinstance(value, bool)), f"{command}: {path} is {value!r}"
    missing = {path for path, kind in told.items() if "rare" not in kind} - seen
    assert not missing, f"{command}: {sorted(missing)} are documented, and not there"


def _pattern(path: str) -> str:
    return re.escape(path).replace(r"\.\*\*", r"[.\[].*").replace(r"\*", r"[^\[\].]+")
