"""A job file: [defaults] and [[job]] tables of options, in which lists multiply (docs/jobs.md)."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

from llmconv.convert import ask
from llmconv.errors import InputError, shown
from llmconv.jobs.member import Member
from llmconv.request.options import ALIASES, OF_RUN, parse, typed

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

MOST = 1000  # conversions of a file
_NAME = re.compile(r"[A-Za-z][\w-]*")


def read(file: Path, build: Mapping[str, Any]) -> list[Member]:
    """Every conversion of the file, in order, checked as far as the checkpoints allow, each with a plan.

    build: options of building, for all. Raises InputError that names file, job and what is wrong.
    """
    members: list[Member] = []
    for where, name, options in _expanded(file):
        try:
            member = Member(name, ask({**options, "continue": True, **build}))
            _apart(member, members)
            _ = member.plan
        except InputError as error:
            raise InputError(f"{where}: {error.what}", error.why, error.try_) from None
        members.append(member)
    return members


def _apart(member: Member, others: list[Member]) -> None:
    for other in others:
        if other.name == member.name:
            raise InputError(f"the name {member.name}", "an earlier job has it", "Say name = another.")
        if other.asked.job.out_dir == member.asked.job.out_dir:
            raise InputError(f"out_dir {member.asked.job.out_dir}", f"{other.name} builds there", "Name another one.")


def _expanded(file: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(where it is in the file, name, options) of every conversion."""
    defaults, jobs = _tables(file)
    common = _options(defaults, f"{file}, defaults")
    total = 0
    for number, job in enumerate(jobs, 1):
        named = f" ({shown(str(job['name']))})" if "name" in job else ""
        where = f"{file}, job {number}{named}"
        options = common | _options({k: v for k, v in job.items() if k != "name"}, where)
        lists = {key: value for key, value in options.items() if isinstance(value, list)}
        for values in product(*lists.values()):
            total += 1
            if total > MOST:
                raise InputError(f"{where}: more than {MOST} conversions", "lists multiply", "Split the file.")
            one = options | dict(zip(lists, values))
            name, out = _name(job.get("name"), one, lists, where), one.get("out_dir")
            base = file.parent / str(out) if out else file.parent / "built"
            one["out_dir"] = str(base / name) if lists or not out else str(base)
            for key in ("model_path", "mmproj"):
                if key in one and (file.parent / str(one[key])).exists():
                    one[key] = str(file.parent / str(one[key]))
            yield where, name, {key: _text(value) for key, value in one.items()}


def _tables(file: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"the job file {file} cannot be read", error.strerror or str(error)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not TOML", str(error), "docs/jobs.md shows what a job file has.") from None
    for key in data:
        if key not in ("defaults", "job"):
            raise InputError(f"{file}: unknown table {shown(key)!r}", "a job file has [defaults] and [[job]]")
    defaults, jobs = data.get("defaults", {}), data.get("job", [])
    if not isinstance(defaults, dict) or not isinstance(jobs, list) or not all(isinstance(j, dict) for j in jobs):
        raise InputError(f"{file}: defaults or job is of another kind", "they are [defaults] and [[job]]")
    if not jobs:
        raise InputError(f"{file}: there is no job", "each [[job]] is one model", "Write [[job]] and its options.")
    return defaults, jobs


def _options(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A table's options by their own names, every value checked by itself."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        try:
            (name,) = typed({key: ""})
            if name in OF_RUN:
                raise InputError(f"option {key}", "it is of the whole run", "Say it on the command line.")
            if name in found:
                raise InputError(f"option {key}", f"{name} is given twice", "Leave one of them out.")
            values = value if isinstance(value, list) else [value]
            if not values:
                raise InputError(f"option {key}", "its list is empty", "Leave it out, or name a value.")
            for one in values:
                if not isinstance(one, (str, int)):
                    raise InputError(f"option {key}", f"{shown(str(one))} is no text, number or true/false")
                parse({name: _text(one)})
        except InputError as error:
            raise InputError(f"{where}: {error.what}", error.why, error.try_) from None
        found[name] = value
    return found


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def _name(given: Any, one: Mapping[str, Any], lists: Mapping[str, Any], where: str) -> str:
    """The job's name, and the values of its lists that have more than one."""
    named = given is not None
    parts = [str(given if named else _short(one.get("model_path", "model")))]
    for key, values in lists.items():
        if len(values) > 1 and (named or key != "model_path"):
            value = _short(one[key]) if key == "model_path" else _text(one[key])
            parts.append(value if isinstance(one[key], str) else f"{_variable(key)}{value}")
    name = re.sub(r"[^\w-]", "_", "-".join(parts))
    if not _NAME.fullmatch(name):
        raise InputError(f"{where}: the name {shown(name)}", "a name begins with a letter", "Say name = ...")
    return name


def _variable(key: str) -> str:
    return next((alias for alias, name in ALIASES.items() if name == key and alias != key), key)


def _short(model: Any) -> str:
    return str(model).rstrip("/").rpartition("/")[2].partition("@")[0].lower()
