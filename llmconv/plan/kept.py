"""keep_half: which linears of the blocks stay in half precision beside those that llmconv quantises. Pure.

An entry is LAYER.LINEAR, or LAYER for all linears of it. LAYER is a number, a range 0-3 or `*`; LINEAR is what the
checkpoint calls the tensor, or the end of it between dots: q_proj, mlp.down_proj. A tensor that holds several linears
(qkv_proj) stays whole, and all routed experts of a layer have one name (experts.down_proj).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from llmconv.blocks.spec import Spec
from llmconv.errors import InputError, shown
from llmconv.request.job import Job

LAYERS = re.compile(r"(\*)|(\d{1,6})(?:-(\d{1,6}))?")
EXAMPLE = "Say e.g. 3.q_proj,0-3.down_proj,5."


def with_kept(spec: Spec, job: Job) -> Spec:
    """The spec with the linears that `keep_half` names. Raises InputError for what cannot be kept."""
    if not job.keep_half:
        return spec
    if job.weight_bits == 16:
        raise _wrong(job, f"nothing is quantised with quantize {job.quantize}", "Leave it out, or say -q w4bf16.")
    if spec.packed:
        raise _wrong(
            job,
            "the checkpoint is quantised already, and half precision would give its weights nothing back",
            "Leave it out, or convert the float checkpoint.",
        )
    kept = {(layer, role): job.half for entry in job.keep_half.split(",") for layer, role in _meant(spec, entry)}
    return replace(spec, kept=kept)


def modules(spec: Spec, layer: int) -> dict[str, list[str]]:
    """The tensors of a layer that are quantised, by their names in it, with the roles of the linears they hold."""
    found: dict[str, list[str]] = {}
    for role in spec.roles(layer):
        found.setdefault(spec.module(role), []).append(role)
    return found


def written(kept: Collection[tuple[int, str]], names: Mapping[int, Collection[str]]) -> str:
    """The value of keep_half for modules (layer, name), in as few entries as that takes. names: all modules of each
    layer, by its number."""
    whole = {layer for layer, all_ in names.items() if all_ and all((layer, name) in kept for name in all_)}
    layers: dict[str, list[int]] = {}
    for layer, name in sorted(kept):
        if layer not in whole:
            layers.setdefault(name, []).append(layer)
    entries = [f"{run}" for run in _runs(sorted(whole))]
    return ",".join([*entries, *(f"{run}.{name}" for name, numbers in layers.items() for run in _runs(numbers))])


def _runs(numbers: list[int]) -> Iterator[str]:
    """Numbers in order as ranges."""
    first = last = -2
    for number in [*numbers, -9]:
        if number == last + 1:
            last = number
            continue
        if first >= 0:
            yield f"{first}-{last}" if last > first else f"{first}"
        first = last = number


def _meant(spec: Spec, entry: str) -> Iterator[tuple[int, str]]:
    """(layer, role) of every linear that an entry names."""
    entry = entry.strip()
    if entry.partition(".")[0] in (spec.path("head").rpartition(".")[2], spec.path("embedding").rpartition(".")[2]):
        raise _unknown(
            entry,
            "embedding and head stay in half precision unless quantize_head says more",
            "Leave it out.",
        )
    given, dot, name = entry.partition(".")
    found = LAYERS.fullmatch(given.strip())
    if found is None or (dot and not name):
        raise _unknown(entry, "an entry is LAYER.LINEAR or LAYER; LAYER is a number, a range or *", EXAMPLE)
    every, first, last = found.groups()
    numbers = range(spec.layers) if every else range(int(first), int(last or first) + 1)
    if not numbers or numbers[-1] >= spec.layers:
        raise _unknown(entry, f"the model has the layers 0 to {spec.layers - 1}", EXAMPLE)
    known: dict[str, None] = {}
    meant = []
    for layer in numbers:
        table = modules(spec, layer)
        known |= dict.fromkeys(table)
        meant += [(layer, role) for one, roles in table.items() if _is(one, name) for role in roles]
    if not meant:
        ends = [one.rpartition(".")[2] for one in known]
        near = difflib.get_close_matches(name, [*known, *ends], n=1)
        they = ", ".join(dict.fromkeys(ends))
        raise _unknown(
            entry,
            f"no such layer has a linear {shown(name)}; there are {they}",
            f"Did you mean {given}.{near[0]}?" if near else EXAMPLE,
        )
    yield from meant


def _is(module: str, name: str) -> bool:
    """Whether a module of a layer is meant by the name, or by none."""
    return not name or module == name or module.endswith(f".{name}")


def _unknown(entry: str, why: str, advice: str) -> InputError:
    return InputError(f"keep_half {shown(entry) or 'with an empty entry'}", why, advice)


def _wrong(job: Job, why: str, advice: str) -> InputError:
    return InputError(f"keep_half {shown(job.keep_half)}", why, advice)
