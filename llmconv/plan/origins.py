"""Which nets are compiled, which are stamped from another's program, and which share another's coefficients. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from llmconv.checkpoint.files import Checkpoint
from llmconv.checkpoint.made_up import can_make
from llmconv.coefficients.roles import Packed, Unknown
from llmconv.plan.forms import OURS, coded, form_of, linears
from llmconv.plan.net import Net

LARGE = 64 << 20  # bytes of a table in half precision
OWN_KERNELS = ("FAttention", "Insert")  # operations for whose sizes the compiler builds kernels (llmconv.toolchain.jit)


@dataclass(frozen=True)
class Origin:
    """How a net is made.

    template: the net of the same structure that is compiled for it; None for one that is compiled itself.
    owner: an earlier net made of the same weights, whose coefficients are expected to be the same; None for the first.
    linears: of a packed or hollow net, the first net whose linears have the same sizes; checks of those count for this
    one's too.
    form: how the compiler gets it (llmconv.plan.forms), "" as it is.
    after: a net that is compiled before this one, because both have a large table: together they would need much memory
    and disk.
    kernels: the first net that is compiled with the same kernels, which may be this one; None without any. The compiler
    makes them for the first, and two at a time would make each of them twice.
    members: how many nets are stamped from this one.
    program: whether the compiler gets made-up weights (llmconv.checkpoint.made_up), so that the program is there before
    the checkpoint is read, and serves every checkpoint of this structure; this net is stamped from it like the others.
    structure: the same for nets whose programs are the same.
    """

    template: str | None = None
    owner: str | None = None
    linears: str | None = None
    form: str = ""
    after: str | None = None
    kernels: str | None = None
    members: int = 0
    program: bool = False
    structure: str = ""


def origins(nets: Sequence[Net], checkpoint: Checkpoint, stamp: bool = True) -> dict[str, Origin]:
    """The origin of every net, by name. The first net of a structure is its template.

    checkpoint: whose tensors they are made of. stamp: False compiles every net.
    """
    templates: dict[str, str] = {}
    owners: dict[str, str] = {}
    keys: dict[str, str] = {}
    found: dict[str, Origin] = {}
    for net in nets:
        keys[net.name] = net.structure
        template = templates.setdefault(keys[net.name], net.name)
        owner = owners.setdefault(net.text(_coefficients), net.name) if net.weights else net.name
        owner = None if owner == net.name else owner
        # the compiler lays out the parts of each device
        if not stamp or template == net.name or net.flags.num_device > 1:
            found[net.name] = Origin(None, owner)
            continue
        # the checks of template and owner hold for this pair only if the owners have one structure too
        pattern = found[template].owner
        alike = owner is not None and pattern is not None and keys[owner] == keys[pattern]
        found[net.name] = Origin(template, owner if alike else None)
    members = Counter(origin.template for origin in found.values())
    forms = {net.name: form_of(net.pattern or net) for net in nets if stamp and found[net.name].template is None}
    programs = {
        net.name for net in nets if stamp and _made_up(net, found[net.name], forms, members[net.name], checkpoint)
    }
    queue, alike = _queue(nets, forms), _alike(nets, forms)
    kernels = _kernels([net for net in nets if found[net.name].template is None])
    return {
        name: replace(
            origin,
            linears=alike.get(name),
            form=forms.get(name, ""),
            after=after,
            kernels=kernels.get(name),
            members=members[name],
            program=name in programs,
            structure=keys[name],
        )
        for (name, origin), after in zip(found.items(), queue)
    }


def _made_up(net: Net, origin: Origin, forms: Mapping[str, str], members: int, checkpoint: Checkpoint) -> bool:
    """Whether a net's program is compiled from made-up weights: where llmconv computes the coefficients anyway, and can
    compute all of them."""
    if origin.template or net.flags.num_device > 1 or not net.tensors:
        return False
    if any(isinstance(role, Unknown) for role in net.roles):
        return False
    # a net of no layer that stands alone would be compiled twice, should anything of it differ after all
    serves = members > 0 or net.layer is not None or forms[net.name] in OURS
    return serves and can_make(checkpoint, net.tensors)


def _alike(nets: Sequence[Net], forms: Mapping[str, str]) -> dict[str, str]:
    """For each packed or hollow net the first one with linears of the same sizes, quantised alike."""
    firsts: dict[str, str] = {}
    alike = {}
    for net in nets:
        if forms.get(net.name) in ("packed", "hollow"):
            how = {role.weight: (role.bits, role.group) for role in net.roles if isinstance(role, Packed)}
            sizes = sorted({(weight.shape, how.get(weight.name)) for weight in coded(net) or linears(net)})
            alike[net.name] = firsts.setdefault(json.dumps([sizes, _quantisation(net.flags.to_dict())]), net.name)
    return alike


def _queue(nets: Sequence[Net], forms: Mapping[str, str]) -> list[str | None]:
    """For each net whose large table the compiler sees, the one before it."""
    places, last = [], None
    for net in nets:
        held = max((2 * prod(weight.shape) for weight in net.weights), default=0)
        large = net.layer is None and forms.get(net.name) != "apart" and held >= LARGE
        places.append(last if large else None)
        last = net.name if large else last
    return places


def _kernels(nets: Iterable[Net]) -> dict[str, str]:
    """For each net with operations that get a kernel of their own, the first one that has the same."""
    firsts: dict[tuple, str] = {}
    found = {}
    for net in nets:
        made = {
            f"{op.kind} {[value.shape for value in op.operands]} {sorted(op.attrs.items())}"
            for op in net.graph.ops
            if op.kind in OWN_KERNELS
        }
        how = (net.flags.chip, net.flags.num_core, net.flags.mode, net.flags.dynamic, *sorted(made))
        if made:
            found[net.name] = firsts.setdefault(how, net.name)
    return found


def _coefficients(net: Net) -> str:
    """What determines the coefficients: the recipes in the order of their names, and the quantisation."""
    recipes = [(weight.recipe, weight.dtype) for weight in sorted(net.weights, key=lambda w: w.name)]
    return json.dumps([recipes, _quantisation(net.flags.to_dict())], sort_keys=True)


def _quantisation(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that coefficients depend on."""
    return {name: flags[name] for name in ("chip", "mode", "num_core", "num_device", "q_group_size", "q_symmetric")}
