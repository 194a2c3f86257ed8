"""`llmconv inspect`: the contents of any .bmodel, and its provenance when the manifest of its build lies beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from llmconv.chips import CHIPS
from llmconv.errors import ConvertError, InputError
from llmconv.words import counted, size


def inspect(path: Path) -> dict[str, Any]:
    """llmconv.bmodel.describe.describe, with `provenance` and each stage's `cycles` and `estimate_seconds` from the
    build's manifest (None without one, as the file itself has no cycles, and for the parts of a split net, which is
    known as a whole). path: a .bmodel, or a directory with exactly one.

    Raises InputError when there is none or it is damaged.
    """
    from llmconv.bmodel.describe import describe

    path = the_file(path)
    try:
        made = describe(path)
    except ConvertError as error:
        raise InputError(error.what, error.why, error.try_) from None
    made["provenance"], made["note"] = _provenance(path, made)
    chip = CHIPS.get(made["chip"])
    known = _cycles(made["provenance"])
    for net in made["nets"]:
        for number, stage in enumerate(net["stages"]):
            stage["cycles"] = known.get((net["name"], number))
            stage["estimate_seconds"] = stage["cycles"] / chip.clock if stage["cycles"] and chip else None
    return made


def cycles(path: Path) -> dict[tuple[str, int], int]:
    """The compiler's estimate by (net, stage) of a .bmodel, as far as the manifest of its build lies beside it."""
    from llmconv.bmodel.describe import describe

    return {net: count for net, count in _cycles(_provenance(path, describe(path))[0]).items() if count}


def the_file(path: Path) -> Path:
    """A .bmodel, or the one of a directory. Raises InputError for a directory that has none or several."""
    if not path.is_dir():
        return path
    found = sorted(path.glob("*.bmodel"))
    if not found:
        raise InputError(f"{path} has no .bmodel", "", "Name a .bmodel, or the output directory of a conversion.")
    if len(found) > 1:
        what = f"{path} is a directory with {len(found)} .bmodel files"
        raise InputError(what, "one file is looked at at a time", f"Name one: {', '.join(p.name for p in found)}")
    return found[0]


def _provenance(path: Path, made: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """The manifest beside the file if it is about this very file, else why it is not ("" when there is none)."""
    file = path.parent / "manifest.json"
    if not file.is_file():
        return None, ""
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        known = {manifest["bmodel"]: manifest["bytes"]} | {d["bmodel"]: d["bytes"] for d in manifest.get("devices", ())}
        if path.name not in known:
            return None, f"{file.name} beside it tells of {manifest['bmodel']}"
        sums = {net["name"]: net["coefficient_sha256"] for net in manifest["nets"]}
    except (OSError, ValueError, KeyError, TypeError) as fault:
        return None, f"{file.name} beside it cannot be read ({type(fault).__name__}: {fault})"
    stages = {net["name"]: net["stages"][0]["coefficients"] for net in made["nets"] if net["stages"]}
    changed = [name for name, c in stages.items() if c["bytes"] and sums.get(name) and sums[name] != c["sha256"]]
    if known[path.name] != made["bytes"] or changed:
        return None, f"{file.name} beside it tells of another build of this name"
    return manifest, ""


def _cycles(manifest: Mapping[str, Any] | None) -> dict[tuple[str, int], int | None]:
    """The compiler's estimate by net of the .bmodel and stage."""
    found: dict[tuple[str, int], int | None] = {}
    for net in manifest["nets"] if manifest else ():
        name = net["stage_of"] or net["name"]
        found[name, sum(1 for known, _ in found if known == name)] = net["cycles"]
    return found


def text(made: Mapping[str, Any]) -> str:
    """The report for a terminal. Neighbouring nets that differ in their layer alone are one entry."""
    parts, shared = made["parts"], made["coefficients"]
    memory = made["device_memory"]
    several = f", {made['devices']} devices" if made["devices"] > 1 else ""
    lines = [
        f"{made['file']}  {size(made['bytes'])}, {made['chip']}{several}, {counted(len(made['nets']), 'net')}",
        f"compiler {made['compiler']}, {made['time']}",
        *_origin(made),
        "",
        "file           " + ", ".join(f"{name} {size(count)}" for name, count in parts.items()),
        f"coefficients   {size(shared['stored'])} stored"
        + (f", {size(shared['shared'])} more are shared" if shared["shared"] else ""),
        *(f"  {name:<28} {size(count)}" for name, count in shared["by_role"].items()),
        f"device memory  {size(sum(memory.values()))}: " + ", ".join(f"{k} {size(v)}" for k, v in memory.items()),
        "",
    ]
    for nets in _alike(made["nets"]):
        lines += _entry(nets)
    return "\n".join(lines)


def _origin(made: Mapping[str, Any]) -> list[str]:
    manifest = made["provenance"]
    if manifest is None:
        return [f"provenance     {made['note']}"] if made["note"] else []
    from llmconv.plan import handover

    job, device = manifest["job"], manifest.get("device")  # a manifest of an earlier llmconv has none
    return [
        f"provenance     {job['model_path']} ({manifest['checkpoint']['tensors']} tensors, sha256 "
        f"{manifest['checkpoint']['sha256'][:16]})",
        f"               {job['quantize']}, sequence {job['seq_length']}; llmconv {manifest['llmconv']}, tpu_mlir "
        f"{manifest['toolchain']['version']}; sha256 {manifest['sha256'][:16]}",
        *(f"{what:<14} {told}" for what, told in (handover.rows(device) if device else ())),
    ]


def _alike(nets: Sequence[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """Runs of nets that differ in the number at the end of their names and in what their coefficients are."""

    def pattern(net: Mapping[str, Any]) -> str:
        stages = [
            {k: v for k, v in stage.items() if k != "coefficients"} | {"bytes": stage["coefficients"]["bytes"]}
            for stage in net["stages"]
        ]
        name = re.sub(r"\d+", "#", net["name"])
        return json.dumps([name, re.sub(r"\d+", "#", net.get("part_of", "")), net["addr_mode"], net["device"], stages])

    for _, run in groupby(nets, key=pattern):
        yield list(run)


def _entry(nets: Sequence[Mapping[str, Any]]) -> list[str]:
    first = nets[0]
    name = first["name"] if len(nets) == 1 else f"{first['name']} .. {nets[-1]['name']} ({len(nets)} nets)"
    facts = [first["addr_mode"]] + ([f"device {first['device']} of {first['part_of']}"] if first.get("part_of") else [])
    lines = [f"{name}  {', '.join(facts)}"]
    for number, stage in enumerate(first["stages"]):
        coefficients, commands = stage["coefficients"], stage["commands"]
        about = ["dynamic" if stage["dynamic"] else "static", f"{counted(stage['cores'], 'core')}"]
        about += [f"{stage['subnets']} subnets"] * (stage["subnets"] > 1) + ["encrypted"] * stage["encrypted"]
        if coefficients["bytes"]:
            held = f"coefficients {size(coefficients['bytes'])}{' each' if len(nets) > 1 else ''}"
            about.append(held + _same([net["stages"][number]["coefficients"]["same_as"] for net in nets]))
        about.append(f"commands {size(commands['bytes'])} ({commands['compute']} compute, {commands['dma']} DMA)")
        about.append(f"intermediate {size(stage['context_bytes'])}")
        about += [f"own inputs and outputs {size(stage['io_bytes'])}"] * (stage["io_bytes"] > 0)
        if stage["estimate_seconds"]:
            about.append(
                f"{stage['cycles']} cycles, {1000 * stage['estimate_seconds']:.3f} ms by the compiler's estimate"
            )
        lines.append(f"  {f'stage {number}: ' if len(first['stages']) > 1 else ''}{'; '.join(about)}")
        lines += [
            f"    {way:<3} {io['name']:<22} {io['dtype']:<5} {'x'.join(map(str, io['shape']))}"
            for way in ("in", "out")
            for io in stage[f"{way}puts"]
        ]
    return lines


def _same(holders: Sequence[str | None]) -> str:
    """The nets whose coefficients some nets share."""
    others = list(dict.fromkeys(name for name in holders if name))
    if not others:
        return ""
    return (
        f", those of {others[0]}"
        + (f" .. {others[-1]}" if len(others) > 1 else "")
        + (f" in {sum(map(bool, holders))} of them" if None in holders else "")
    )
