"""In which form a net is given to the compiler, where another than its own is cheaper and gives the same program. Pure.

apart: a net with a large table, without the table (llmconv.compile.table_as_input); packed: a large quantised block, its linears already quantised
(llmconv.compile.stand_ins); halved: a net in half precision, its linears in that type; hollow: a large one of those, its linears without values
(llmconv.compile.without_weights), which are checked like those of packed blocks, or a very large one that the checkpoint has quantised, without its codes.
With `no_stamp` every net is compiled as it is, which is what the tests compare with.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from math import prod
from typing import Any

from llmconv.coefficients.layout import Mode
from llmconv.coefficients.structure import LAYER
from llmconv.plan.net import Net
from llmconv.toolchain import CompileFlags
from llmconv.top.graph import Graph, Weight
from llmconv.top.rewrite import coded_alone, halved, linear_alone, packed, table_alone
from llmconv.top.table import SAMPLE, as_input, is_table, sampled, table

LARGE = 1 << 26  # weights of a block from which on packing is worth its checks
CODED = 1 << 29  # bytes of a block's codes in the checkpoint from which on leaving them out is: they cost the compiler less
PART = 1 << 24  # weights that the compiler quantises at a time then
LEAN = 1 << 27  # bytes of a weight file from which on codegen does without the weights


def form_of(net: Net) -> str:
    """apart, packed, halved, hollow, or "" for the net as it is."""
    flags = net.flags
    if flags.mode == "F32":  # the sampling heads compute in it
        return ""
    if table(net.graph) is not None and not flags.dynamic:
        return "apart"
    if coded(net):
        return "hollow"
    large = sum(prod(weight.shape) for weight in linears(net)) >= LARGE
    if flags.mode in ("BF16", "F16"):  # beside layers that the checkpoint has quantised the compiler takes float32 alone
        if any(weight.dtype == "ui8" for weight in net.graph.weights.values()):
            return ""
        # the parts of several devices are cut from values; debug leaves all to be read
        return "hollow" if large and flags.num_device == 1 and not flags.debug else "halved"
    mode = Mode.of(alone(flags).to_dict())
    step = mode.lanes * mode.cores * flags.num_device
    fits = mode.bits and mode.group and all(not k % mode.group and not n % step for k, n in (weight.shape for weight in linears(net)))
    return "packed" if fits and large else ""


def alone(flags: CompileFlags) -> CompileFlags:
    """Those of a net for linears compiled by themselves, on one device."""
    return replace(flags, num_device=1)


def codes_apart(flags: CompileFlags) -> bool:
    """Whether a packed net is lowered without its codes: not where the compiler cuts them up, for devices or cores."""
    return flags.num_device == flags.num_core == 1 and not flags.debug


def lean(flags: CompileFlags, weight_bytes: int) -> bool:
    """Whether a net with a weight file of that size goes through codegen without weights (llmconv.compile.without_weights): not with debug, which leaves all
    to be read."""
    return weight_bytes >= LEAN and not flags.debug


def form(net: Net) -> dict[str, Any]:
    """What the compiler gets of the net in that form, JSON-able: {form: {...}}, or {}."""
    kind = form_of(net)
    names = [weight.name for weight in linears(net)]
    if kind == "hollow" and coded(net):
        return {kind: _without(net, net.graph, [weight.name for weight in coded(net)])}
    if kind == "apart":
        return {kind: _apart(net)}
    if kind in ("halved", "hollow") and names:
        half = net.flags.mode.lower()
        hollow = {kind: _without(net, halved(net.graph, names, half, hollow=True), names)} if kind == "hollow" else {}
        return hollow | {"halved": _texts(net, halved(net.graph, names, half))}
    if kind == "packed":
        mode = Mode.of(alone(net.flags).to_dict())
        return {kind: _texts(net, packed(net.graph, names, mode.bits, mode.group))}
    return {}


def _apart(net: Net) -> dict[str, Any]:
    sample = sampled(net.graph)
    made = {"sample": _texts(net, sample)}
    for name, graph in (("whole", net.graph), ("sample", sample)):
        made |= {f"{name}_input": _texts(net, as_input(graph)), f"{name}_shifted": _texts(net, as_input(graph, "unused"))}
    return made


def _without(net: Net, graph: Graph, names: Collection[str]) -> dict[str, Any]:
    """A graph for the net, and absent: the linears of those names, which the weight file does not have, with their roles."""
    made = _texts(net, graph)
    absent = [(net.graph.weights[role["weight"]], {**role, "bias": None}) for role in net.roles if role["weight"] in names]
    return made | {"weights": [w for w in made["weights"] if w["name"] not in names], "absent": [(weight.to_dict(), role) for weight, role in absent]}


def _texts(net: Net, graph: Graph) -> dict[str, Any]:
    """MLIR, weights and their roles of another graph for the net."""
    other = replace(net, graph=graph, pattern=None)
    return {"mlir": other.mlir, "weights": other.weights, "roles": other.roles}


def parts(net: Net, weight: Weight) -> list[dict[str, Any]]:
    """A linear alone, in parts of at most PART weights: {mlir, weights, roles} of each. Of a table its first rows, which the rest is like."""
    role = next(role for role in net.roles if role["weight"] == weight.name)
    if role["kind"] == "plain":
        return [_texts(net, table_alone(net.graph, weight.name, SAMPLE))]
    mode = Mode.of(alone(net.flags).to_dict())
    step = mode.lanes * mode.cores
    made, k, n = (coded_alone, weight.shape[1] * 8 // role["bits"], weight.shape[0]) if role["kind"] == "packed" else (linear_alone, *weight.shape)
    columns = max(1, PART // k // step) * step
    return [_texts(net, made(net.graph, weight.name, first, min(first + columns, n))) for first in range(0, n, columns)]


def linears(net: Net) -> list[Weight]:
    """The weights of its linear layers: [K, N]; and of a head that is multiplied from the left its table [V, H]."""
    found = [(role, net.graph.weights[role["weight"]]) for role in net.roles]
    return [weight for role, weight in found if role["kind"] == "linear" or role.get("place") == "tpu.MatMul.input" and is_table(weight)]


def coded(net: Net) -> list[Weight]:
    """The codes [N, K * bits / 8] of its linears that the checkpoint has quantised, where they are left out."""
    if not codes_apart(net.flags) or sum(prod(weight.shape) for weight in net.graph.weights.values() if weight.dtype == "ui8") < CODED:
        return []
    return [net.graph.weights[role["weight"]] for role in net.roles if role["kind"] == "packed"]


def checked(net: Net) -> list[Weight]:
    """Of the linears that a packed or hollow net is compiled without those that stand for all: of a tower's layers the first one's."""
    firsts: dict[tuple, Weight] = {}
    for weight in coded(net) or linears(net):
        firsts.setdefault((LAYER.sub(r"\1#", f'"{weight.name}"'), weight.shape), weight)
    return list(firsts.values())
