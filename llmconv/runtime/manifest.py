"""Read a finished build: its manifest.json, the plan of its options, and the .bmodel, which is checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from math import prod
from pathlib import Path
from typing import Any

from llmconv.checkpoint.files import Checkpoint
from llmconv.checkpoint.tensor import DTYPES, TensorInfo
from llmconv.errors import ConvertError, InputError
from llmconv.plan.plan import Plan, plan
from llmconv.request.job import Job
from llmconv.request.output import Layout

CHUNK = 8 << 20

AGAIN = "Run the conversion again."


@dataclass(frozen=True)
class Told:
    """What manifest.json says of a build. sums: each .bmodel, the whole one first, and its sha256; nets: names; eos:
    ids that end an answer; table: dtype and shape of each of the checkpoint's tensors."""

    job: Job
    bmodel: Path
    sums: Mapping[Path, str]
    nets: tuple[str, ...]
    eos: tuple[int, ...] = ()
    table: Mapping[str, TensorInfo] = field(default_factory=dict)

    @property
    def files(self) -> tuple[Path, ...]:
        """What runtimes load: of a pipeline, each device's own file."""
        return tuple(self.sums)[1:] or (self.bmodel,)

    @property
    def gone(self) -> Path | None:
        """What is not there any more of the model."""
        return next((path for path in (self.job.model_path, self.job.mmproj) if path and not path.exists()), None)

    def plan(self) -> Plan:
        """The plan made again. ConvertError when the checkpoint is gone or is another one now."""
        if gone := self.gone:
            raise ConvertError(
                f"the model {gone} is gone",
                "the nets' plan is made from its config.json and the headers of its weights",
                "Put it back, or convert from its new place.",
            )
        return self._same(plan(self.job))

    def driven(self) -> Plan:
        """The plan made again to run the nets. Where the checkpoint is not at hand, such as on a device, config/ and
        the table of tensors say all that this takes."""
        if not self.gone or not self.table:
            return self.plan()
        config = Layout(self.job.out_dir).config
        tensors = Checkpoint(config, (config / "model.safetensors",), dict(self.table))
        return self._same(plan(replace(self.job, model_path=config, mmproj=None), tensors))

    def _same(self, made: Plan) -> Plan:
        """A plan whose nets are those of the build."""
        if tuple(net.name for net in made.nets) != self.nets:
            raise ConvertError(
                f"{Layout(self.job.out_dir).manifest} does not fit the checkpoint {self.job.model_path}",
                "the model has other nets now",
                AGAIN,
            )
        return made


@dataclass(frozen=True)
class Built:
    """A build that can be verified. devices: of a pipeline, each device's own file."""

    plan: Plan
    bmodel: Path
    sha256: str
    devices: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """What runtimes load."""
        return self.devices or (self.bmodel,)


def told(out_dir: Path) -> Told:
    """Read the manifest in `out_dir`. Raises InputError when there is none, ConvertError when a .bmodel is gone."""
    file = Layout(out_dir).manifest
    if not file.is_file():
        what = f"{out_dir} has no manifest.json" if out_dir.is_dir() else f"the directory {out_dir} does not exist"
        raise InputError(
            what,
            "only a finished conversion can be run",
            "Run the conversion first, or give its output directory.",
        )
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        job, bmodel = _job(data["job"], out_dir), out_dir / data["bmodel"]
        names = tuple(net["name"] for net in data["nets"])
        eos = tuple(map(int, data.get("device", {}).get("tokens", {}).get("eos", ())))
        table = _table(data.get("checkpoint", {}).get("table", {}))
        sums = {bmodel: str(data["sha256"])} | {
            out_dir / device["bmodel"]: str(device["sha256"]) for device in data.get("devices", ())
        }
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise ConvertError(f"{file} cannot be read", f"{type(fault).__name__}: {fault}", AGAIN) from None
    for path in sums:
        if not path.is_file():
            raise ConvertError(f"{path} is gone", f"{file.name} names it", AGAIN)
    return Told(job, bmodel, sums, names, eos, table)


def read(out_dir: Path) -> Built:
    """The build in `out_dir`. ConvertError when there is none, or when the .bmodel or the checkpoint is not what it
    was.
    """
    found = told(out_dir)
    made = found.plan()
    for path, known in found.sums.items():
        if _sha256(path) != known:
            raise ConvertError(
                f"{path} has changed since it was built", "its sha256 is not the one in manifest.json", AGAIN
            )
    return Built(made, found.bmodel, found.sums[found.bmodel], tuple(found.sums)[1:])


def _job(given: dict[str, Any], out_dir: Path) -> Job:
    """The Job of a manifest. The output directory may have moved since, so `out_dir` replaces it."""
    values: dict[str, Any] = {f.name: given[f.name] for f in fields(Job) if f.name in given}
    tower = given.get("mmproj")
    values |= {"model_path": Path(given["model_path"]), "out_dir": out_dir, "mmproj": Path(tower) if tower else None}
    return Job(**values)


def _table(given: Mapping[str, str]) -> dict[str, TensorInfo]:
    """The tensors, as far as a plan needs them: where they lie is not known."""
    found = {}
    for name, text in given.items():
        dtype, _, shape = text.partition(" ")
        found[name] = TensorInfo(
            name, Path(), 0, DTYPES[dtype][0] * prod(json.loads(shape)), dtype, tuple(json.loads(shape))
        )
    return found


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
