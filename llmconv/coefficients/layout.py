"""Which coefficients the compiler stores for a net, under which names, in which order.

Measured on tpu_mlir 1.30.2; no NumPy here.

The stored tensors lie in the order of their final names, each padded to 4096 bytes. Names grow with every pass: `_bf16`
when a float weight is rounded, `_uint`, `_reordered` (scales) and `_1_reordered` (zero points) when a linear is
quantised, `_0_`, `_1_960` (axis, offset) when it is cut. What is stored, for a linear layer [K, N] on a chip of `lanes`
lanes and a net of `cores` cores:

    bf16, f16, or K no multiple of the group     the weight [K, N]
    N a multiple of the lanes                    q [N, K * bits / 8]; scales and zero points as [lanes, N / lanes, G]
    N below the lanes                            the dequantised weight [K, N] in half precision
    other N                                      columns up to a multiple of lanes * cores quantised, the others as
                                                 [K, rest]
    other N, already quantised                   the dequantised weight [K, N]
    N no multiple of 64, a net that is coded     the weight [K, N]
    declared in half precision, coded            the weight [K, N]

With several cores some quantised linears are cut once more along N, one equal part per core. Which ones depends on the
compiler's patterns, so it is read off a compiled net's own table (`fit`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from llmconv.chips import CHIPS, Chip
from llmconv.coefficients.errors import NotCovered
from llmconv.coefficients.roles import Index, Linear, Packed, Plain, Role

if TYPE_CHECKING:
    from llmconv.toolchain.flags import CompileFlags
    from llmconv.top.graph import Weight

ALIGN = 4096
CODED = 64  # of whose multiples the outputs of a linear are that goes in as codes
SIZES = {"bf16": 2, "f16": 2, "f32": 4, "u8": 1}


@dataclass(frozen=True)
class Mode:
    """What the compile flags say about weights. bits 0: not quantised. coded: by us alone."""

    chip: Chip
    cores: int
    half: str
    bits: int
    group: int
    symmetric: bool
    coded: bool = False

    @classmethod
    def of(cls, flags: CompileFlags) -> Mode:
        """Raises NotCovered for chips, modes and numbers of devices whose layout llmconv does not know."""
        chip, mode = CHIPS.get(flags.chip), flags.mode.upper()
        bits = int(mode[1]) if mode[:2] in ("W4", "W8") else 0
        half = (mode[2:] if bits else mode).lower()
        if chip is None or half not in ("bf16", "f16"):
            raise NotCovered(f"mode {mode} on {flags.chip}")
        if flags.num_device != 1:
            raise NotCovered("several devices")
        cores = max(1, flags.num_core) if chip.cores > 1 else 1
        return cls(chip, cores, half, bits, flags.q_group_size, flags.q_symmetric, flags.coded)

    @property
    def lanes(self) -> int:
        return self.chip.lanes


@dataclass(frozen=True)
class Piece:
    """One stored tensor. use: index of its role. what: which tensor of the role (weight, bias, bias_rounded, q, scale,
    zero, dequantised).

    nbytes: without padding. first..last: the output columns (N) of a linear layer that it holds.
    """

    name: str
    place: str
    use: int
    what: str
    dtype: str
    nbytes: int
    first: int = 0
    last: int = 0
    offset: int = 0

    @property
    def stored(self) -> int:
        """Bytes with padding."""
        return -(-self.nbytes // ALIGN) * ALIGN


def pieces(roles: Sequence[Role], weights: Mapping[str, Weight], mode: Mode) -> list[Piece]:
    """The stored tensors of a one-core net, in order, without offsets. weights: by name."""
    found: list[Piece] = []
    seen: set[str] = set()
    for use, role in enumerate(roles):
        for name in role.names:
            if name in seen:
                raise NotCovered(f"weight {name} used twice")
            seen.add(name)
        found += _made(use, role, weights, mode)
    found.sort(key=lambda p: p.name)
    if len({p.name for p in found}) != len(found):
        raise NotCovered("two coefficients of one name")
    return found


def place(found: Sequence[Piece]) -> list[Piece]:
    """The pieces with their offsets."""
    out, offset = [], 0
    for piece in found:
        out.append(replace(piece, offset=offset))
        offset += piece.stored
    return out


def fit(found: Sequence[Piece], locations: Sequence[tuple[str, int, int]], cores: int) -> list[Piece]:
    """The pieces as a compiled net has them: cut for its cores, and checked against its table.

    locations: (place, offset, bytes) of a net of the same structure, in order. Raises NotCovered when they do not fit.
    """
    out: list[Piece] = []
    at = 0
    for piece in found:
        run = 0
        while at + run < len(locations) and run < cores and locations[at + run][0] == piece.place:
            run += 1
        # neighbours of one place are cuts of one tensor, because a linear's tensors have different places
        for part in _cut(piece, cores) if run == cores > 1 and piece.place in _CUT else [piece]:
            if at >= len(locations) or locations[at][0] != part.place or locations[at][2] != part.stored:
                got = f"{locations[at][0]} of {locations[at][2]} bytes" if at < len(locations) else "nothing"
                raise NotCovered(f"an unknown layout: {part.place} of {part.stored} bytes expected, {got} found")
            out.append(replace(part, offset=locations[at][1]))
            at += 1
    if at != len(locations):
        raise NotCovered(f"an unknown layout: {len(locations) - at} coefficients more than expected")
    return out


# what the compiler cuts for cores
_CUT = {f"tpu.A16MatMul.{part}" for part in ("weight", "scale", "zp", "bias")}


def _cut(piece: Piece, cores: int) -> list[Piece]:
    count = piece.last - piece.first
    if count % cores:
        raise NotCovered(f"{count} columns cut for {cores} cores")
    n = count // cores
    starts = range(piece.first, piece.last, n)
    return [replace(piece, first=start, last=start + n, nbytes=piece.nbytes // cores) for start in starts]


def _made(use: int, role: Role, weights: Mapping[str, Weight], mode: Mode) -> list[Piece]:
    """The stored tensors of one use of a weight."""
    weight = weights[role.weight]
    if isinstance(role, Linear):
        return _linear(_Product(use, role, mode), weight, _bias_axis(role, weights))
    if isinstance(role, Packed):
        return _packed(_Product(use, role, mode), role, weight)
    if isinstance(role, Plain):
        return [_plain(use, role, weight, mode)]
    if isinstance(role, Index):
        return [Piece(role.weight, role.place, use, "weight", "i32", 4 * prod(weight.shape))]
    raise NotCovered(f"weight {role.weight} of {role.op}")


def _plain(use: int, role: Plain, weight: Weight, mode: Mode) -> Piece:
    if role.float and weight.dtype == "f32":
        return Piece(role.weight, role.place, use, "weight", "f32", 4 * prod(weight.shape))
    if (weight.dtype == "bf16" and mode.half != "bf16") or weight.dtype not in ("f32", "bf16"):
        raise NotCovered(f"a weight of type {weight.dtype} in {mode.half}")
    half = role.half or mode.half
    # a table declared bf16 is already what is stored, whatever the mode's name for it
    name = role.weight + ("_bf16" if weight.dtype == "bf16" else f"_{half}")
    return Piece(name, role.place, use, "weight", half, 2 * prod(weight.shape))


def _bias_axis(role: Linear, weights: Mapping[str, Weight]) -> int:
    """The axis along which the bias of a linear is cut."""
    return len(weights[role.bias].shape) - 1 if role.bias else 0


@dataclass(frozen=True)
class _Product:
    """The tensors that one linear layer may be stored as."""

    use: int
    role: Linear | Packed
    mode: Mode

    def bias(self, op: str, first: int, last: int, cut: int | None = None, float_name: str = "") -> list[Piece]:
        """The bias's columns first..last beside operation `op`; cut: the axis when it is a part of the whole.
        float_name: what rounding adds to the name of a bias that stays float32.
        """
        if not self.role.bias:
            return []
        half, columns = self.mode.half, last - first
        name = self.role.bias + (f"_{cut}_{first}" if cut is not None else "")
        if op == "MatMul" and self.mode.chip.float_bias:
            what = "bias_rounded" if float_name else "bias"
            return [Piece(name + float_name, "tpu.MatMul.bias", self.use, what, "f32", 4 * columns, first, last)]
        return [Piece(f"{name}_{half}", f"tpu.{op}.bias", self.use, "bias", half, 2 * columns, first, last)]

    def quantised(self, op: str, k: int, n: int, how: tuple[int, int], suffix: str) -> list[Piece]:
        """Zero points, scales and codes of the columns up to n. how: bits, and scales in a row."""
        bits, groups = how

        def piece(name: str, place: str, what: str, dtype: str, nbytes: int) -> Piece:
            return Piece(op + name, f"tpu.A16MatMul.{place}", self.use, what, dtype, nbytes, 0, n)

        return [
            piece("_1_reordered", "zp", "zero", "u8", n * groups),
            piece("_reordered", "scale", "scale", self.mode.half, 2 * n * groups),
            piece(suffix, "weight", "q", "u8", n * k * bits // 8),
        ]

    def dequantised(self, k: int, n: int) -> list[Piece]:
        """The weight in half precision as it is after quantisation, and the bias."""
        half = self.mode.half
        name = f"{self.role.op}_dequant_{half}"
        whole = Piece(name, "tpu.MatMul.weight", self.use, "dequantised", half, 2 * k * n, 0, n)
        return [whole, *self.bias("MatMul", 0, n, float_name=f"_{half}_f32")]

    def columns(self, name: str, k: int, first: int, last: int) -> Piece:
        """Columns of the weight in half precision."""
        half = self.mode.half
        nbytes = 2 * k * (last - first)
        return Piece(f"{name}_{half}", "tpu.MatMul.weight", self.use, "weight", half, nbytes, first, last)


def _linear(product: _Product, weight: Weight, bias_axis: int) -> list[Piece]:
    name, mode = weight.name, product.mode
    kept = mode.coded and weight.dtype == mode.half
    if not (weight.dtype == "f32" or kept) or len(weight.shape) != 2:
        raise NotCovered(f"a linear weight of type {weight.dtype} and shape {list(weight.shape)}")
    k, n = weight.shape
    group, lanes = mode.group, mode.lanes
    if kept or not mode.bits or (group and k % group) or (mode.coded and n % CODED):
        return [product.columns(name, k, 0, n), *product.bias("MatMul", 0, n)]
    if group < 0 or group % 2 or (group == 0 and (mode.bits == 4 or k % 128 or n % lanes)):
        raise NotCovered(f"group size {group} of a {k} x {n} weight at {mode.bits} bits")
    how = mode.bits, k // (group or 128)
    suffix = "_uint" if group else "_int"
    if n % lanes == 0:
        return [*product.quantised(product.role.op, k, n, how, suffix), *product.bias("A16MatMul", 0, n)]
    if n < lanes:
        return product.dequantised(k, n)
    main = n // (lanes * mode.cores) * (lanes * mode.cores)
    if main == 0:
        raise NotCovered(f"{n} columns on {mode.cores} cores")
    return [
        *product.quantised(f"{product.role.op}_0", k, main, how, suffix),
        *product.bias("A16MatMul", 0, main, bias_axis),
        product.columns(f"{name}_1_{main}", k, main, n),
        *product.bias("MatMul", main, n, bias_axis),
    ]


def _packed(product: _Product, role: Packed, weight: Weight) -> list[Piece]:
    n, row = weight.shape
    k = row * 8 // role.bits
    if role.bits not in (4, 8):
        raise NotCovered(f"weights of {role.bits} bits")
    if n % product.mode.lanes:
        return product.dequantised(k, n)
    if role.group == 0 and k % 128:  # the compiler omits the last scale
        raise NotCovered(f"a scale per row for {k} inputs")
    how = role.bits, k // (role.group or 128)  # one scale per row is stored repeated
    return [*product.quantised(role.op, k, n, how, "_weight"), *product.bias("A16MatMul", 0, n)]
