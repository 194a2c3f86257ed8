"""What a finished build left behind: manifest.json read back, the plan made again from its options, the .bmodel checked."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from llmconv.errors import ConvertError
from llmconv.plan.plan import Plan, plan
from llmconv.request.job import Job
from llmconv.request.output import Layout

CHUNK = 8 << 20


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


def read(out_dir: Path) -> Built:
    """The build in `out_dir`. ConvertError when there is none, or when the .bmodel or the checkpoint is not what it was."""
    again = "Run the conversion again."
    file = Layout(out_dir).manifest
    if not file.is_file():
        what = f"{out_dir} has no manifest.json" if out_dir.is_dir() else f"the directory {out_dir} does not exist"
        raise ConvertError(what, "only a finished conversion can be verified", "Run the conversion first, or give its output directory.")
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        job, bmodel, sha256 = _job(data["job"], out_dir), out_dir / data["bmodel"], str(data["sha256"])
        names = [net["name"] for net in data["nets"]]
        sums = {bmodel: sha256} | {out_dir / device["bmodel"]: str(device["sha256"]) for device in data.get("devices", ())}
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise ConvertError(f"{file} cannot be read", f"{type(fault).__name__}: {fault}", again) from None
    if not job.model_path.is_dir():
        raise ConvertError(f"the model directory {job.model_path} is gone", "its weights are what the nets are compared with", "Put it back, or convert from its new place.")
    for path, known in sums.items():
        if not path.is_file():
            raise ConvertError(f"{path} is gone", f"{file.name} names it", again)
        if _sha256(path) != known:
            raise ConvertError(f"{path} has changed since it was built", f"its sha256 is not the one in {file.name}", again)
    made = plan(job)
    if [net.name for net in made.nets] != names:
        raise ConvertError(f"{file} does not fit the checkpoint {job.model_path}", "the model has other nets now", again)
    return Built(made, bmodel, sha256, tuple(sums)[1:])


def _job(given: dict[str, Any], out_dir: Path) -> Job:
    """The Job of a manifest; an output directory may have been moved since."""
    values = {f.name: given[f.name] for f in fields(Job) if f.name in given}
    return Job(**values | {"model_path": Path(given["model_path"]), "out_dir": out_dir})


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
