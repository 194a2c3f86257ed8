"""Linear layers that a checkpoint holds quantised, in one form whatever the method, and what all methods check."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from llmconv.checkpoint.config import Config
from llmconv.checkpoint.files import Checkpoint
from llmconv.checkpoint.plain import told
from llmconv.errors import InputError, shown

LARGEST_GROUP = 1 << 20  # inputs
GROUPS = (256, 128, 64, 32)  # inputs per scale that nets are made with


_REPEATED = re.compile(r"[*+}][^()]*\)+[*+{]")  # a repeated group with a repetition in it
_OPEN = re.compile(r"(?<!\\)[*+]|,\}")


@dataclass(frozen=True)
class Packed:
    """One linear layer, weight[n, k] = (code - zero point) * scale of k's group, as recipes.

    values: float32 [N, K], the dequantised weight.
    bits: 4 or 8; group: inputs per scale in the net, a divisor of the checkpoint's.
    codes: uint8 [N, K * bits / 8], at 4 bits the even inputs in the low nibbles; None when the layer can only be
    dequantised. scales: float32, zeros: uint8, both [N, K / group].
    order: the inputs [K] in the order in which the codes have them (None: their own).
    order_key: equal for equal orders.
    beside: tensors that are accounted for although no recipe reads them.
    """

    values: tuple
    bits: int = 16
    group: int = 0
    codes: tuple | None = None
    scales: tuple = ()
    zeros: tuple = ()
    order: tuple | None = None
    order_key: str = ""
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Quantisation:
    """How a checkpoint is quantised.

    method: in words. bits and group (0: one scale per output row): those of most layers; 16 bits for what is always
    dequantised. symmetric: as declared. modules: finds every quantised layer by its path (the tensors' names without
    the last part), and checks it against its tensors' types and shapes.
    """

    method: str
    bits: int
    group: int
    symmetric: bool
    modules: Callable[[Checkpoint], Mapping[str, Packed]] = field(repr=False)


@dataclass(frozen=True)
class Scheme:
    """What is declared for one layer. group 0: one scale per output row."""

    bits: int
    group: int
    symmetric: bool = True


def refused(
    section: Config, field_name: str, known: str, help_: str = "Convert the float checkpoint with -q w4bf16."
) -> InputError:
    """The error for a declared value that llmconv does not convert."""
    return InputError(
        f"{section.where}{field_name} in {section.file} is {told(section.get(field_name))}",
        f"llmconv knows {known}",
        help_,
    )


def scheme(section: Config, bits: str = "bits", group: str = "group_size", symmetric: bool = True) -> Scheme:
    """The scheme that the fields of `section` declare. InputError unless bits are 4 or 8, and for impossible groups."""
    count, size = section.get(bits), section.get(group)
    if type(count) is not int or count not in (4, 8):
        raise refused(section, bits, "4 and 8 bits")
    if size is not None and (type(size) is not int or not -1 <= size <= LARGEST_GROUP):
        raise refused(section, group, "whole numbers, and -1 for one scale per output row")
    return Scheme(count, max(0, size or 0), symmetric)


def rules(section: Config, name: str) -> dict[str, Mapping[str, Any]]:
    """A table of layers' names or patterns, and the fields that are declared for them; empty where there is none."""
    table = section.get(name) or {}
    whole = isinstance(table, Mapping)
    if not whole or not all(isinstance(fields, (Mapping, type(None))) for fields in table.values()):
        raise refused(section, name, "objects of fields by layer")
    return {pattern: fields or {} for pattern, fields in table.items()}


def matches(pattern: str, path: str, section: Config, name: str, anywhere: bool = False) -> bool:
    """Whether the pattern, from field `name`, fits the layer's path from its beginning, or anywhere in it.

    A pattern may take no longer than a path deserves: repeated groups of repetitions are refused, and many of them.
    """
    if _REPEATED.search(pattern) or len(_OPEN.findall(pattern)) > 4 or len(pattern) > 1000:
        raise InputError(
            f"{section.where}{name} in {section.file} has the pattern {shown(pattern)!r}",
            "it may take for ever to compare it with a name",
            "Write it with fewer repetitions, or convert the float checkpoint.",
        )
    try:
        return bool((re.search if anywhere else re.match)(pattern, path))
    except re.error as e:
        raise InputError(
            f"{section.where}{name} in {section.file} has the pattern {shown(pattern)!r}",
            f"it is no regular expression: {e}",
            "Repair config.json.",
        ) from None


def paths(checkpoint: Checkpoint, part: str) -> list[str]:
    """The layers that have a tensor PATH.part."""
    return sorted(name.removesuffix(f".{part}") for name in checkpoint.tensors if name.endswith(f".{part}"))


def expect(checkpoint: Checkpoint, name: str, dtypes: Sequence[str], shape: tuple[int, ...], declared: str) -> None:
    """InputError unless the tensor has one of the safetensors types and the shape. declared: what demands the shape."""
    info = checkpoint.info(name)
    if info.dtype not in dtypes:
        raise InputError(
            f"tensor {name} of {checkpoint.path} is of type {info.dtype}",
            f"{' or '.join(dtypes)} is expected",
            "Check quantization_config against the weights.",
        )
    if info.shape != shape:
        raise InputError(
            f"tensor {name} of {checkpoint.path} has shape {list(info.shape)}",
            f"{declared} of quantization_config demand {list(shape)}",
            "Check quantization_config against the weights.",
        )


def groups(checkpoint: Checkpoint, path: str, declared: int, inputs: int) -> int:
    """Scales per output row in the checkpoint. InputError when the declared group (0: all) cuts the last one."""
    size = declared or inputs
    if not inputs or inputs % size:
        raise InputError(
            f"group size {size} does not divide the {inputs} inputs of {path} in {checkpoint.path}",
            "the last group would be cut",
            "Convert the float checkpoint.",
        )
    return inputs // size


@dataclass(frozen=True)
class Order:
    """A layer's g_idx: recipe None where the groups lie in order. key: equal for equal orders."""

    recipe: tuple | None
    key: str = ""


def order(checkpoint: Checkpoint, name: str, inputs: int, group: int) -> Order:
    """Read the group of each input, int32 [K]. InputError when groups are not of one size."""
    expect(checkpoint, name, ("I32", "I64"), (inputs,), f"{inputs} inputs")
    info = checkpoint.info(name)
    found = array("i" if info.dtype == "I32" else "q")
    found.frombytes(checkpoint.raw_bytes(name))
    plain = _plain(found.typecode, inputs, group)
    if found == plain:
        return Order(None)
    if sorted(found) != list(plain):
        raise InputError(
            f"tensor {name} of {checkpoint.path} does not give every one of {inputs // group} groups {group} inputs",
            "the chip has groups of one size",
            "Convert the float checkpoint.",
        )
    return Order(("raw", name), hashlib.sha256(found.tobytes()).hexdigest())


@lru_cache(maxsize=8)
def _plain(typecode: str, inputs: int, group: int) -> array:
    """The group of each input where they lie in order."""
    return array(typecode, (place // group for place in range(inputs)))


def assemble(
    bits: int,
    size: int,
    codes: tuple,
    scales: tuple,
    zeros: tuple,
    mixed: Order | None = None,
    beside: tuple[str, ...] = (),
) -> Packed:
    """A layer out of its codes (packed, [N, K * bits / 8]), and scales and zero points [N, K / size], each of `size`
    inputs.

    A scale of many inputs, or of all, becomes several equal ones in the net.
    """
    mixed = mixed or Order(None)
    taken, by = ("unpack", codes, bits), mixed.recipe
    if by:
        taken = ("take", taken, ("sorted", by))
        codes = ("pack", taken, bits)
    values: tuple = ("dequantise", taken, scales, zeros)
    if by:
        values = ("take", values, ("places", by))
    group = next((group for group in GROUPS if size % group == 0), 0)
    if not group:
        return Packed(values, bits, size, beside=beside)
    return Packed(
        values, bits, group, codes, _repeated(scales, size // group), _repeated(zeros, size // group),
        order=("sorted", by) if by else None, order_key=mixed.key, beside=beside,
    )  # fmt: skip


def _repeated(recipe: tuple, times: int) -> tuple:
    return recipe if times == 1 else ("repeat", recipe, times)


def overridden(base: Scheme, fields: Mapping[str, Any], section: Config, where: str) -> Scheme:
    """The scheme of a layer for which some fields are declared apart."""
    given = {name: value for name, value in fields.items() if value is not None}
    own = Config({"bits": base.bits, "group_size": base.group or -1, **given}, section.file, f"{section.where}{where}.")
    return scheme(own, symmetric=bool(own.get("sym", base.symmetric)))
