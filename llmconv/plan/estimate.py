"""What a plan will need: memory, disk and time of the build, memory of the device. Estimates, from sizes alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import prod

from llmconv.checkpoint import recipe
from llmconv.plan.devices import groups
from llmconv.plan.forms import PART, coded, codes_apart, lean, linears, together
from llmconv.plan.net import Net
from llmconv.plan.plan import Plan
from llmconv.top.table import SAMPLE

MB = 1 << 20
PROGRAM = MB  # a net without its coefficients, at most
KERNEL = 6 * MB  # the kernel module that every .bmodel carries once


def weight_elements(net: Net, form: str = "") -> tuple[int, int]:
    """(elements that the compiler gets as float32, elements that it gets as half precision) in one process.

    form: the net's (llmconv.plan.forms). Elements that are quantised already do not count.
    """
    absent = (
        {weight.name for weight in linears(net)} if form == "packed" or (form == "hollow" and not coded(net)) else ()
    )
    weights = [weight for weight in net.weights if weight.name not in absent]
    floats, halves = (
        sum(prod(one.shape) for one in weights if one.dtype in types) for types in (("f32",), ("bf16", "f16"))
    )
    if form == "apart":
        return 0, 2 * SAMPLE * max(w.shape[1] for w in net.weights)
    if form == "halved":
        return 0, halves + floats  # all but a few norms and biases
    return floats, halves


def _quantised_bytes(net: Net, form: str = "") -> int:
    """Bytes that the compiler gets of what is quantised already: by the checkpoint, or by us in packed form, there with
    scales and zero points (4 + 1 bytes for a group), and maybe without the codes.
    """
    absent = {weight.name for weight in coded(net)} if form == "hollow" else ()
    stored = sum(prod(w.shape) for w in net.weights if w.dtype == "ui8" and w.name not in absent)
    if form != "packed":
        return stored
    codes = _codes_to_be(net)
    return stored + (0 if codes_apart(net.flags, codes) else codes) + 5 * _linear_weights(net) // net.flags.q_group_size


def _linear_weights(net: Net) -> int:
    return sum(prod(weight.shape) for weight in linears(net))


def _codes_to_be(net: Net) -> int:
    """Bytes of the codes that a block in packed form has in place of its weights."""
    return _linear_weights(net) * int(net.flags.mode[1]) // 8


def compile_memory(net: Net, form: str = "") -> int:
    """Bytes of memory that compiling a net takes, 150 MB of them fixed. Measured: 2.6 times its float32 weights, 3
    times those in half precision, 4 times what is quantised already. Where codegen does without weights: 1.9, 1.1 and
    2.2 times; if devices share them then, 1.9, 2.2 and 3 times. A hollow or packed net takes at least what our
    coefficients for its linears take.
    """
    (floats, halves), codes = weight_elements(net, form), _quantised_bytes(net, form)
    shares = 2.6, 3, 4
    if (
        form == "hollow"
        or (form == "packed" and codes_apart(net.flags, _codes_to_be(net)))
        or lean(net.flags, 4 * floats + 2 * halves + codes)
    ):
        shares = (1.9, 1.1, 2.2) if net.flags.num_device == 1 else (1.9, 2.2, 3)
    taken = 150 * MB + int(sum(share * size for share, size in zip(shares, (4 * floats, 2 * halves, codes))))
    return max(taken, stamp_memory(net)) if form in ("hollow", "packed") else taken


def scratch_bytes(net: Net, form: str = "") -> int:
    """Bytes of disk that a net's compile needs while it runs: the weight file, the lowered weights, its .bmodel."""
    floats, halves = weight_elements(net, form)
    return (
        KERNEL
        + 4 * floats
        + 2 * halves
        + _quantised_bytes(net, form)
        + (6 * halves if form == "apart" else 2 * net.coefficients)
    )


def net_bytes(net: Net, owner: bool) -> int:
    """Bytes of disk of a finished net: its program, and its coefficients unless another net owns them."""
    return PROGRAM + (0 if owner else net.coefficients)


def compile_seconds(net: Net, form: str = "", kernels: bool = False) -> float:
    """CPU-seconds of a compile. Measured: 0.85 for 15M weights, 15 for 233M; 1.5 for 233M in packed form, most of it
    for our coefficients. kernels: it is the first with its kernels, which take 1 to 2 s unless the cache has them.
    """
    floats, halves = weight_elements(net, "halved" if form == "hollow" else form)
    return (
        (2.0 if kernels else 0.3)
        + 6e-8 * floats
        + 2e-8 * halves
        + 1.5e-8 * _quantised_bytes(net, form)
        + (stamp_seconds(net) if form == "packed" else 0)
    )


def check_memory(net: Net) -> int:
    """Bytes of memory that checking a net's linears takes."""
    return 150 * MB + int(2.6 * 4 * PART) * max(map(len, together(net)))


def check_scratch(net: Net) -> int:
    """Bytes of disk that checking a net's linears takes: the weight file, the lowered weights, the .bmodel."""
    return KERNEL + (4 * PART + 4 * PART) * max(map(len, together(net)))


def check_seconds(net: Net) -> float:
    """CPU-seconds of checking a net's linears: measured 0.08 to 0.13 for one alone, of 0.8M to 1M weights, which is the
    most but for wide ones."""
    return sum(0.05 + sum(6e-8 * min(prod(one.shape), PART) for one in weights) for weights in together(net))


def stamp_memory(net: Net) -> int:
    """Bytes of memory that stamping a net takes: one packed linear layer or a piece of a transposed one
    (llmconv.coefficients); of one that is packed in the checkpoint too, up to 5 times its codes (measured: AWQ's are
    unpacked and transposed whole).
    """
    largest = max((prod(w.shape) for w in net.weights if w.dtype != "ui8"), default=0)
    packed = max((prod(w.shape) for w in net.weights if w.dtype == "ui8"), default=0)
    return 120 * MB + max(min(2 * largest, 400 * MB), 5 * packed)


def stamp_seconds(net: Net) -> float:
    """CPU-seconds of stamping: about 4 ns a weight when it has to be quantised."""
    return 0.05 + 4e-9 * (sum(weight_elements(net)) + _quantised_bytes(net))


def coefficient_bytes(nets: Sequence[Net]) -> int:
    """Bytes of coefficients in a .bmodel of these nets."""
    return sum(net.coefficients for net in _holders(nets))


def lasting_bytes(nets: Sequence[Net]) -> int:
    """Those of them that are the same for all lengths."""
    return sum(net.lasting for net in _holders(nets))


def _holders(nets: Sequence[Net]) -> Collection[Net]:
    """One of all nets that share their coefficients: of blocks those that are made of the same tensors, of embedding
    and head those that make the same of them."""
    return {(_made(net), net.flags.mode): net for net in nets}.values()


def _made(net: Net) -> Collection[object]:
    if net.layer is not None:
        return tuple(net.tensors)
    return frozenset(weight.recipe for weight in net.weights if any(recipe.names(weight.recipe)))


def device_memory(plan: Plan) -> dict[str, dict[str, int]]:
    """Bytes on each device (dev0 and so on): coefficients; the KV cache (inputs of the decode nets, whose stages share
    theirs); inputs and outputs of the other nets, the largest of which may share memory.
    """
    by_name = {net.name: net for net in plan.nets}
    several = {group.name: [by_name[name] for name in group.nets] for group in groups(plan)}
    if plan.job.splits:
        several = {
            f"dev{k}": [net for net in plan.nets if not k or net.flags.num_device > 1]
            for k in range(plan.job.num_device)
        }
    return {name: _memory(nets) for name, nets in (several or {"dev0": list(plan.nets)}).items()}


def _memory(nets: Sequence[Net]) -> dict[str, int]:
    """The memory of one device by use. Of nets that are split over devices it has its share."""
    split = [net for net in nets if net.flags.num_device > 1]
    cache = sum(
        net.io_bytes // net.flags.num_device for net in nets if net.flags.addr_mode == "io_alone" and not net.stage_of
    )
    rest = max((net.io_bytes for net in nets if net.flags.addr_mode != "io_alone"), default=0)
    shared = sum(
        coefficient_bytes(part) // part[0].flags.num_device
        for part in (split, [net for net in nets if net.flags.num_device == 1])
        if part
    )
    return {"coefficients": shared, "KV cache": cache, "inputs and outputs": rest}
