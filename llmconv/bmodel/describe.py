"""Describe a .bmodel in figures: nets, bytes of every part, shared coefficients. The file is the only source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llmconv.bmodel.flatbuffer import find
from llmconv.bmodel.read import Blob, BModel, Net, Stage

# The last names of a Binary's place in the tree, and the part of the file that it belongs to
PARTS = {
    "binary_coeff": "coefficients",
    "binary_bdc": "commands",
    "binary_gdma": "commands",
    "sdma_commands": "commands",
    "hau_commands": "commands",
    "cdma_commands": "commands",
    "binary_ir": "dynamic programs",
    "net_profile": "debug information",
    "net_stat": "debug information",
    "tensor_loc": "debug information",
    "binary_param": "host operations",
    "const_data": "host operations",
}
MODULES = {"kernel_module": "kernel module", "cpuop_module": "host operations", "lib_backend": "kernel module"}


def describe(path: Path) -> dict[str, Any]:
    """Figures of the file at `path`, JSON-able; bytes throughout. Raises ConvertError as BModel.read does.

    parts: stored bytes by part of the file, adding up to its size. coefficients: `stored` once, `used` by all nets
    together, `shared` the difference; by_role: stored bytes by the compiler's name for them (tpu.A16MatMul.scale), as
    far as the file names them; both also for every net.
    device_memory: what a runtime needs on one device: coefficients, intermediate tensors (one area for all nets), and
    the inputs and outputs of nets that have their own. nets: see `_net`.
    """
    model = BModel.read(path)
    raw = model.tree["net"]
    holders: dict[Blob, str] = {}
    nets = [_net(net, tree, holders) for net, tree in zip(model.nets, raw)]
    stages = [stage for net in model.nets for stage in net.stages]
    stored = {stage.coeff: stage for stage in stages if stage.coeff.size}
    used = sum(stage.coeff.size for stage in stages)
    held = sum(blob.size for blob in stored)
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "chip": model.chip.lower(),
        "compiler": model.version,
        "time": model.time,
        "devices": model.device_num,
        "parts": _parts(model, path.stat().st_size),
        "coefficients": {"stored": held, "used": used, "shared": used - held, "by_role": _roles(stored.values())},
        "device_memory": _device(model.nets, raw),
        "nets": nets,
    }


def _net(net: Net, tree: Mapping[str, Any], holders: dict[Blob, str]) -> dict[str, Any]:
    """name, addr_mode, device (of a net that is split: with the net that it is a part of), stages."""
    cascade = tree.get("cascade", {})
    made: dict[str, Any] = {"name": net.name, "addr_mode": net.addr_mode, "device": cascade.get("device_id", 0)}
    if cascade.get("main_name"):
        made["part_of"] = cascade["main_name"]
    pairs = zip(net.stages, tree.get("parameter", ()))
    return made | {"stages": [_stage(stage, parameter, net.name, holders) for stage, parameter in pairs]}


def _stage(stage: Stage, tree: Mapping[str, Any], name: str, holders: dict[Blob, str]) -> dict[str, Any]:
    """One set of shapes. same_as: the first net of the file with these very coefficients. commands: bytes, and how many
    instructions each engine gets (0 where the file has a program for the chip's own processor instead).
    """
    holder = holders.setdefault(stage.coeff, name) if stage.coeff.size else name
    groups = list(command_groups(tree))
    return {
        "inputs": [{"name": io.name, "dtype": io.dtype, "shape": list(io.shape)} for io in stage.inputs],
        "outputs": [{"name": io.name, "dtype": io.dtype, "shape": list(io.shape)} for io in stage.outputs],
        "dynamic": stage.dynamic,
        "cores": stage.core_num,
        "subnets": stage.subnets,
        "coefficients": {
            "bytes": stage.coeff.size,
            "sha256": stage.coeff_sha256,
            "same_as": holder if holder != name else None,
            "by_role": _roles([stage]),
        },
        "encrypted": bool(tree.get("coeff_mem", {}).get("encrypt_mode", 0)),
        "commands": {
            "bytes": sum(blob.size for blob in {b for c in stage.commands for b in (c.bdc, c.gdma)}),
            "compute": sum(group.get("bdc_num", 0) for group in groups),
            "dma": sum(group.get("gdma_num", 0) for group in groups),
        },
        "context_bytes": stage.context_bytes,
        "io_bytes": stage.io_bytes,
    }


def command_groups(stage: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The stage's instruction groups: its own, which subnets repeat, else those of all cores of all subnets."""
    if stage.get("cmd_group"):
        yield from stage["cmd_group"]
        return
    for subnet in stage.get("sub_net", ()):
        for core in subnet.get("core_commands", ()):
            yield from core.get("gdma_tiu_commands", ())


def _parts(model: BModel, size: int) -> dict[str, int]:
    """Bytes by part. A blob that several nets refer to counts once."""
    parts: Counter[str] = Counter()
    for (_start, length), part in sorted(_blobs(model).items()):
        if length:
            parts[part] += length
    parts["description"] = model.base
    rest = size - sum(parts.values())
    if rest > 0:
        parts["padding"] = rest
    return dict(parts.most_common())


def _blobs(model: BModel) -> dict[tuple[int, int], str]:
    found: dict[tuple[int, int], str] = {}
    for where, container, key in find("Binary", "Model", model.tree):
        found.setdefault(container[key], part_of(where))
    return found


def part_of(where: str) -> str:
    """The part of the file that a Binary belongs to, by its place in a tree as `find` tells it."""
    place = [name.partition("[")[0] for name in where.split(".")]
    return PARTS.get(place[-1]) or MODULES.get(place[1], "other")


def _roles(stages: Iterable[Stage]) -> dict[str, int]:
    """Bytes by the compiler's name for them; "unnamed" where it gives none."""
    found: Counter[str] = Counter()
    for stage in stages:
        for place in stage.locations:
            found[place.name] += place.size
        found["unnamed"] += stage.coeff.size - sum(place.size for place in stage.locations)
    return {name: count for name, count in found.most_common() if count > 0}


def _device(nets: tuple[Net, ...], raw: Any) -> dict[str, int]:
    """Memory of the device that needs most. Stages of one net share the memory of their inputs and outputs."""
    devices: dict[int, list[Net]] = {}
    for net, tree in zip(nets, raw):
        devices.setdefault(tree.get("cascade", {}).get("device_id", 0), []).append(net)
    return max(
        (_memory(members) for members in devices.values()), key=lambda memory: sum(memory.values()), default=_memory([])
    )


def _memory(nets: list[Net]) -> dict[str, int]:
    stages = [stage for net in nets for stage in net.stages]
    return {
        "coefficients": sum(blob.size for blob in {stage.coeff for stage in stages}),
        "intermediate": max((stage.context_bytes for stage in stages), default=0),
        "inputs and outputs": sum(max((stage.io_bytes for stage in net.stages), default=0) for net in nets),
    }
