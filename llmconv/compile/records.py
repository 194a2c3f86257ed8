"""Arguments and results of this package's tasks, typed, and the JSON in which they travel."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llmconv.bmodel.sums import Sums
from llmconv.checkpoint.files import Checkpoint
from llmconv.checkpoint.made_up import Table, listed, made_up
from llmconv.toolchain.flags import IO_CONFIG, CompileFlags


class Refused(Exception):
    """A cheaper way to make a net is of no use. told: why, as a clause for the summary and the manifest."""

    def __init__(self, told: str):
        super().__init__(told)
        self.told = told


@dataclass(frozen=True)
class Workplace:
    """Where a task compiles: its scratch folder and its log. keep: the scratch folder stays."""

    scratch: Path
    log: Path
    keep: bool = False

    def to_json(self) -> dict[str, Any]:
        return {"scratch": str(self.scratch), "log": str(self.log), "keep": self.keep}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Workplace:
        return cls(Path(entry["scratch"]), Path(entry["log"]), entry["keep"])


@dataclass(frozen=True)
class Took:
    """Cost of making a net: seconds, CPU-seconds, peak bytes of the compiler's memory (0 without a compiler)."""

    seconds: float
    cpu_seconds: float
    peak_rss: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Outcome:
    """The facts of a finished net, for manifest.json and for the keys of dependent tasks.

    how: compiled or stamped. why: the reason, a clause. cycles: the compiler's estimate, None where it gives none.
    coefficient_bytes, coefficient_sha256, coefficient_xxh3: the Sums of the coefficients. coefficients: the name of the
    file that holds them; "" for a net without any, and for one whose .bmodel holds them. form: the cheaper form in
    which the compiler got the net, "" as it is. check: "equal" when our coefficients for the net are the compiler's, ""
    when that was not asked for, else what is different.
    """

    how: str
    why: str
    cycles: int | None
    coefficient_bytes: int
    coefficient_sha256: str
    coefficients: str
    form: str = ""
    check: str = ""
    coefficient_xxh3: str = ""

    @property
    def sums(self) -> Sums:
        return Sums(self.coefficient_bytes, self.coefficient_sha256, self.coefficient_xxh3)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Outcome:
        return cls(**entry)


@dataclass(frozen=True)
class NetFiles:
    """The paths of one net's parts.

    bare: commands, without coefficients. coefficients: empty when another net has the same. facts: the Outcome. run:
    what making it took. addresses: only of the first of several decode stages, else None.
    """

    bare: Path
    coefficients: Path
    facts: Path
    run: Path
    addresses: Path | None = None

    @classmethod
    def of(cls, paths: Iterable[str]) -> NetFiles:
        return cls(*map(Path, paths))

    @property
    def net(self) -> str:
        return self.bare.stem

    def read(self) -> Outcome:
        return Outcome.from_json(json.loads(self.facts.read_text(encoding="utf-8")))

    def write(self, outcome: Outcome, took: Took) -> None:
        self.facts.write_text(json.dumps(outcome.to_json(), indent=1), encoding="utf-8")
        self.run.write_text(json.dumps(took.to_json()), encoding="utf-8")


@dataclass(frozen=True)
class NetTask:
    """One net to make.

    module: its name in the .bmodel. model: the model directory. tensors: of a program, those that are made up (without
    a model then). mlir, weights: the exported files. addresses: the file of addresses that a further decode stage must
    use. linears: what check_linears wrote about its linears. template, owner: finished nets (llmconv.plan.origins), or
    programs. places: names of the template that hold its layer's number -> this net's. check: compare our coefficients
    with the compiler's, because nets will be stamped from this one.
    """

    name: str
    module: str
    model: Path
    mlir: Path
    weights: Path
    flags: CompileFlags
    place: Workplace
    addresses: Path | None = None
    linears: Path | None = None
    template: NetFiles | None = None
    owner: NetFiles | None = None
    places: Mapping[str, str] = field(default_factory=dict)
    check: bool = False
    tensors: Table = field(default_factory=dict)

    @property
    def checkpoint(self) -> Checkpoint:
        """What its weights are made of."""
        return made_up(self.tensors) if self.tensors else Checkpoint.open(self.model)

    @property
    def beside(self) -> dict[str, Path]:
        """Files that the compiler finds where it runs, by the names that it looks for."""
        return {IO_CONFIG: self.addresses} if self.addresses else {}

    def to_json(self) -> dict[str, Any]:
        named = ("model", "mlir", "weights", "addresses", "linears")
        paths = {name: str(getattr(self, name) or "") for name in named}
        others = {role: _paths(files) for role, files in (("template", self.template), ("owner", self.owner))}
        return {
            "name": self.name,
            "module": self.module,
            **paths,
            "flags": self.flags.to_dict(),
            "place": self.place.to_json(),
            **others,
            "places": dict(self.places),
            "check": self.check,
            "tensors": listed(self.tensors),
        }

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> NetTask:
        paths = {name: Path(entry[name]) for name in ("model", "mlir", "weights")}
        others = {role: NetFiles.of(entry[role]) if entry[role] else None for role in ("template", "owner")}
        typed = {
            "flags": CompileFlags(**entry["flags"]),
            "place": Workplace.from_json(entry["place"]),
            **{name: Path(entry[name]) if entry[name] else None for name in ("addresses", "linears")},
        }
        return cls(**{**entry, **paths, **others, **typed})


def _paths(files: NetFiles | None) -> list[str]:
    return [str(path) for path in vars(files).values() if path] if files else []
