"""Forms of a net that cost the compiler less memory and time, and give the same program. Pure.

apart    of a net with a large table: without the table (llmconv.compile.table_as_input)
packed   of a large block that is to be quantised: with linears quantised already (llmconv.compile.stand_ins); and of
         every block that is coded, because the compiler takes it in no other form
halved   of a net in half precision: with linears in that type
hollow   of a large net in half precision: with linears without values (llmconv.compile.without_weights), which are
         checked as in packed blocks; of a very large net that the checkpoint has quantised: without codes

`no_stamp` compiles every other net as it is; the tests compare with that.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from llmconv.checkpoint import recipe
from llmconv.coefficients.layout import CODED as COLUMNS
from llmconv.coefficients.layout import Mode
from llmconv.coefficients.roles import Linear, Packed, Plain, Role
from llmconv.plan.exported import Exported, Form, LeftOut, TableTexts, Text
from llmconv.toolchain.flags import CompileFlags
from llmconv.top.graph import Graph, Value, Weight
from llmconv.top.rewrite import add_coded, add_linear, add_table, halved, packed
from llmconv.top.table import SAMPLE, as_input, is_table, sampled, table

if TYPE_CHECKING:  # those who compile one net need no plan
    from llmconv.plan.net import Net

OURS = ("apart", "packed", "hollow")  # whose coefficients are ours, not the compiler's
# Weights of the smallest block for which packing is worth its checks. Four programs take as long without it at 4
# million weights; in half precision, where the compiler has less to do, still longer with it at 15 million.
LARGE, IN_HALF = 1 << 23, 8  # and how many times as many in half precision
APART = 1 << 24  # bytes of a packed block's codes for which leaving them out is worth two more processes
CODED = 1 << 29  # bytes of the codes of the smallest block for which leaving them out is
PART = 1 << 20  # weights that a check has the compiler quantise
LEAN = 1 << 27  # bytes of the smallest weight file that codegen does without


def form_of(net: Net) -> str:
    """apart, packed, halved, hollow, or "" for the net as it is."""
    flags = net.flags
    if flags.mode == "F32":  # the sampling heads compute in float32
        return ""
    if table(net.graph) is not None and not flags.dynamic:
        return "apart"
    if flags.coded:
        return "packed"
    if coded(net):
        return "hollow"
    weights = sum(prod(weight.shape) for weight in linears(net))
    if flags.mode in ("BF16", "F16"):
        # beside layers that the checkpoint has quantised the compiler takes float32 alone
        if any(weight.dtype == "ui8" for weight in net.weights):
            return ""
        # the compiler cuts parts for devices out of values; debug keeps all files
        return "hollow" if weights >= IN_HALF * LARGE and flags.num_device == 1 and not flags.debug else "halved"
    mode = Mode.of(alone(flags))
    step = mode.lanes * mode.cores * flags.num_device
    grouped = mode.bits and mode.group
    fits = grouped and all(not k % mode.group and not n % step for k, n in (weight.shape for weight in linears(net)))
    return "packed" if fits and weights >= LARGE else ""


def alone(flags: CompileFlags) -> CompileFlags:
    """The flags of a net for its linears compiled by themselves, on one device."""
    return replace(flags, num_device=1, same_addr="", precision=(), coded=False)


def codes_apart(flags: CompileFlags, size: int) -> bool:
    """Whether a packed block is lowered without its codes, of `size` bytes."""
    return _may_lack_codes(flags) and size >= APART


def _may_lack_codes(flags: CompileFlags) -> bool:
    """Not where the compiler cuts them for devices or cores."""
    return flags.num_device == flags.num_core == 1 and not flags.debug


def lean(flags: CompileFlags, weight_bytes: int) -> bool:
    """Whether a net with a weight file of that size goes through codegen without weights
    (llmconv.compile.without_weights). With debug it does not, so that all files can be read.
    """
    return weight_bytes >= LEAN and not flags.debug


def exported(net: Net, stamp: bool = True) -> Exported:
    """What export writes of a net. stamp: whether with its cheaper forms, not only one that it cannot do without."""
    return Exported(net.weights, net.roles, forms(net) if stamp or net.flags.coded else ())


def forms(net: Net) -> tuple[Form, ...]:
    """The cheaper forms of a net, in the order in which they are tried."""
    kind = form_of(net)
    names = [weight.name for weight in linears(net)]
    if kind == "hollow" and coded(net):
        return (_hollow(net, net.graph, [weight.name for weight in coded(net)]),)
    if kind == "apart":
        return (_apart(net),)
    if kind in ("halved", "hollow") and names:
        half = net.flags.mode.lower()
        cheapest = (_hollow(net, halved(net.graph, names, half, hollow=True), names),) if kind == "hollow" else ()
        return (*cheapest, Form("halved", _text(net, halved(net.graph, names, half))))
    if kind == "packed":
        mode = Mode.of(alone(net.flags))
        return (Form(kind, _text(net, packed(net.graph, names, mode.bits, mode.group))),)
    return ()


def _apart(net: Net) -> Form:
    sample = sampled(net.graph)
    inputs = (_text(net, as_input(graph, unused)) for graph in (net.graph, sample) for unused in ("", "unused"))
    return Form.apart(TableTexts(_text(net, sample), *inputs))


def _hollow(net: Net, graph: Graph, names: Collection[str]) -> Form:
    """The form of a graph without the values of the named linears."""
    text = _text(net, graph)
    kept = tuple(weight for weight in text.weights if weight.name not in names)
    absent = (LeftOut(net.graph.weights[role.weight], _unbiased(role)) for role in net.roles if role.weight in names)
    return Form("hollow", replace(text, weights=kept), tuple(absent))


def _unbiased(role: Role) -> Role:
    return replace(role, bias=None) if isinstance(role, (Linear, Packed)) else role


def _text(net: Net, graph: Graph) -> Text:
    """MLIR, weights and their roles of another graph for the net."""
    other = replace(net, build=lambda: graph, pattern=None)
    return Text(other.mlir, other.weights, other.roles)


def samples(net: Net) -> list[Text]:
    """The linears to check of a net, side by side: of each its first and its last columns, about PART weights together,
    which stand for those between; of a table the first rows, which are laid out as all are.
    """
    return [_sample(net, weights) for weights in together(net)]


def together(net: Net) -> list[list[Weight]]:
    """The linears to check of a net, by the nets in which they are compiled side by side. For several cores each is one
    of its own: the compiler gives memory of several away too early there (llmconv.toolchain.memory_plan)."""
    weights = checked(net)
    return [[one] for one in weights] if net.flags.num_core > 1 else [weights]


def _sample(net: Net, weights: Sequence[Weight]) -> Text:
    g = Graph(net.graph.name)
    return _text(net, g.output(*(_sampled(g, net, weight) for weight in weights)))


def _sampled(g: Graph, net: Net, weight: Weight) -> Value:
    role = next(role for role in net.roles if role.weight == weight.name)
    if isinstance(role, Plain):
        return add_table(g, net.graph, weight.name, SAMPLE)
    mode = Mode.of(alone(net.flags))
    step = mode.lanes * mode.cores
    if isinstance(role, Packed):
        add, k, n = add_coded, weight.shape[1] * 8 // role.bits, weight.shape[0]
    else:
        add, (k, n) = add_linear, weight.shape
    end = max(1, PART // k // 2 // step) * step
    return add(g, net.graph, weight.name, [(0, end), (n - end, n)] if n > 2 * end else [(0, n)])


def linears(net: Net) -> list[Weight]:
    """The weights [K, N] of a net's linear layers; also the table [V, H] of a head, which is multiplied from the left.
    Of a net that is coded those that have codes."""
    found = [net.graph.weights[role.weight] for role in net.roles if _is_linear(role, net.graph.weights[role.weight])]
    return [one for one in found if not net.flags.coded or (one.dtype == "f32" and not one.shape[1] % COLUMNS)]


def _is_linear(role: Role, weight: Weight) -> bool:
    multiplied = isinstance(role, Plain) and role.place == "tpu.MatMul.input"
    return isinstance(role, Linear) or (multiplied and is_table(weight))


def coded(net: Net) -> list[Weight]:
    """The codes [N, K * bits / 8] of a net's linears that the checkpoint has quantised; [] unless they are left out."""
    codes = sum(prod(weight.shape) for weight in net.weights if weight.dtype == "ui8")
    if not _may_lack_codes(net.flags) or codes < CODED:
        return []
    return [net.graph.weights[role.weight] for role in net.roles if isinstance(role, Packed)]


def checked(net: Net) -> list[Weight]:
    """The linears to check, out of those that a packed or hollow net is compiled without: the first of each size, of
    those that are made and used alike.
    """
    used = {role.weight: role for role in net.roles if isinstance(role, (Linear, Packed, Plain))}
    firsts: dict[tuple, Weight] = {}
    for weight in coded(net) or linears(net):
        role = used[weight.name]
        how = (role.bits, role.group) if isinstance(role, Packed) else ()
        firsts.setdefault((type(role), how, weight.shape, recipe.unnamed(weight.recipe)), weight)
    return list(firsts.values())
