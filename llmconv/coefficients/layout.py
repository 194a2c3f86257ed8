"""Which coefficients the compiler stores for a net, under which names, in which order (tpu_mlir 1.30.2; no NumPy here).

The stored tensors lie in the order of their final names, each padded to 4096 bytes. Names grow with every pass: `_bf16`
when a float weight is rounded, `_uint`, `_reordered` (scales) and `_1_reordered` (zero points) when a linear is
quantised, `_0_`, `_1_960` (axis, offset) when it is cut. What is stored, for a linear layer [K, N] on a chip of `lanes`
lanes and a net of `cores` cores:

    bf16, f16, or K no multiple of the group     the weight [K, N]
    N a multiple of the lanes                    q [N, K * bits / 8]; scales and zero points as [lanes, N / lanes, G]
    N below the lanes                            the dequantised weight [K, N] in half precision
    other N                                      columns up to a multiple of lanes * cores quantised, the rest as [K,
    rest] other N, already quantised                   the dequantised weight [K, N]

With several cores some quantised linears are cut once more along N, one equal part per core. Which ones depends on the
compiler's patterns, so it is read off a compiled net's own table (`fit`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from llmconv.chips import CHIPS, Chip
from llmconv.coefficients.errors import NotCovered

ALIGN = 4096
SIZES = {"bf16": 2, "f16": 2, "f32": 4, "u8": 1}


@dataclass(frozen=True)
class Mode:
    """What the compile flags say about weights. bits 0: not quantised."""

    chip: Chip
    cores: int
    half: str
    bits: int
    group: int
    symmetric: bool

    @classmethod
    def of(cls, flags: Mapping) -> Mode:
        """From CompileFlags.to_dict(). Raises NotCovered for chips and modes that lower does not know."""
        chip, mode = CHIPS.get(flags["chip"]), flags["mode"].upper()
        bits = int(mode[1]) if mode[:2] in ("W4", "W8") else 0
        half = (mode[2:] if bits else mode).lower()
        if chip is None or half not in ("bf16", "f16"):
            raise NotCovered(f"mode {mode} on {flags['chip']}")
        if flags.get("num_device", 1) != 1:
            raise NotCovered("several devices")
        cores = max(1, flags.get("num_core", 1)) if chip.cores > 1 else 1
        return cls(chip, cores, half, bits, flags.get("q_group_size", 0), bool(flags.get("q_symmetric", False)))

    @property
    def lanes(self) -> int:
        return self.chip.lanes


@dataclass(frozen=True)
class Piece:
    """One stored tensor. `use` indexes the roles; `what` says which of its tensors: weight, bias, q, scale, zero,
    dequantised.

    first..last: the output columns (N) of a linear layer that it holds.
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
        return -(-self.nbytes // ALIGN) * ALIGN


def pieces(roles: Sequence[Mapping], weights: Mapping[str, Mapping], mode: Mode) -> list[Piece]:
    """The stored tensors of a one-core net, in order, without offsets. weights: name -> {shape, dtype}."""
    found: list[Piece] = []
    seen: dict[str, Mapping] = {}
    for use, role in enumerate(roles):
        names = [role[k] for k in ("weight", "scales", "zeros", "bias") if role.get(k)]
        for name in names:
            if name in seen:
                raise NotCovered(f"weight {name} used twice")
            seen[name] = role
        found += _MAKE[role["kind"]](use, role, weights, mode)
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
        # neighbours of one place are cuts of one tensor: a linear's bias, zero points, scales and weight take turns
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


def _plain(use: int, role: Mapping, weights: Mapping, mode: Mode) -> list[Piece]:
    weight = weights[role["weight"]]
    if role["float"] and weight["dtype"] == "f32":
        return [Piece(role["weight"], role["place"], use, "weight", "f32", 4 * prod(weight["shape"]))]
    # a table declared bf16 is already what is stored, whatever the mode's name for it
    name = role["weight"] + ("_bf16" if weight["dtype"] == "bf16" else f"_{mode.half}")
    if weight["dtype"] == "bf16" and mode.half != "bf16" or weight["dtype"] not in ("f32", "bf16"):
        raise NotCovered(f"a weight of type {weight['dtype']} in {mode.half}")
    return [Piece(name, role["place"], use, "weight", mode.half, 2 * prod(weight["shape"]))]


def _index(use: int, role: Mapping, weights: Mapping, mode: Mode) -> list[Piece]:
    return [Piece(role["weight"], role["place"], use, "weight", "i32", 4 * prod(weights[role["weight"]]["shape"]))]


def _bias(
    use: int, role: Mapping, mode: Mode, op: str, first: int, last: int, cut: int | None, float_name: str
) -> list[Piece]:
    """The bias's columns first..last beside operation `op`; cut: the axis when it is a part of the whole."""
    if not role["bias"]:
        return []
    name = role["bias"] + (f"_{cut}_{first}" if cut is not None else "")
    if op == "MatMul" and mode.chip.float_bias:
        return [
            Piece(
                name + float_name,
                "tpu.MatMul.bias",
                use,
                "bias_rounded" if float_name else "bias",
                "f32",
                4 * (last - first),
                first,
                last,
            )
        ]
    return [Piece(f"{name}_{mode.half}", f"tpu.{op}.bias", use, "bias", mode.half, 2 * (last - first), first, last)]


def _quantised(use: int, mode: Mode, op: str, k: int, n: int, groups: int, bits: int, suffix: str) -> list[Piece]:
    def piece(name: str, place: str, what: str, dtype: str, nbytes: int) -> Piece:
        return Piece(op + name, f"tpu.A16MatMul.{place}", use, what, dtype, nbytes, 0, n)

    return [
        piece("_1_reordered", "zp", "zero", "u8", n * groups),
        piece("_reordered", "scale", "scale", mode.half, 2 * n * groups),
        piece(suffix, "weight", "q", "u8", n * k * bits // 8),
    ]


def _dequantised(use: int, role: Mapping, mode: Mode, k: int, n: int) -> list[Piece]:
    name = f"{role['op']}_dequant_{mode.half}"
    whole = Piece(name, "tpu.MatMul.weight", use, "dequantised", mode.half, 2 * k * n, 0, n)
    return [whole, *_bias(use, role, mode, "MatMul", 0, n, None, f"_{mode.half}_f32")]


def _linear(use: int, role: Mapping, weights: Mapping, mode: Mode) -> list[Piece]:
    weight = weights[role["weight"]]
    if weight["dtype"] != "f32" or len(weight["shape"]) != 2:
        raise NotCovered(f"a linear weight of type {weight['dtype']} and shape {list(weight['shape'])}")
    k, n = weight["shape"]
    group, lanes = mode.group, mode.lanes
    if not mode.bits or (group and k % group):
        plain = Piece(f"{role['weight']}_{mode.half}", "tpu.MatMul.weight", use, "weight", mode.half, 2 * k * n, 0, n)
        return [plain, *_bias(use, role, mode, "MatMul", 0, n, None, "")]
    if group < 0 or group % 2 or (group == 0 and (mode.bits == 4 or k % 128 or n % lanes)):
        raise NotCovered(f"group size {group} of a {k} x {n} weight at {mode.bits} bits")
    groups = k // (group or 128)
    suffix = "_uint" if group else "_int"
    if n % lanes == 0:
        return [
            *_quantised(use, mode, role["op"], k, n, groups, mode.bits, suffix),
            *_bias(use, role, mode, "A16MatMul", 0, n, None, ""),
        ]
    if n < lanes:
        return _dequantised(use, role, mode, k, n)
    main = n // (lanes * mode.cores) * (lanes * mode.cores)
    if main == 0:
        raise NotCovered(f"{n} columns on {mode.cores} cores")
    axis = len(weights[role["bias"]]["shape"]) - 1 if role["bias"] else 0
    rest = Piece(
        f"{role['weight']}_1_{main}_{mode.half}",
        "tpu.MatMul.weight",
        use,
        "weight",
        mode.half,
        2 * k * (n - main),
        main,
        n,
    )
    return [
        *_quantised(use, mode, f"{role['op']}_0", k, main, groups, mode.bits, suffix),
        *_bias(use, role, mode, "A16MatMul", 0, main, axis, ""),
        rest,
        *_bias(use, role, mode, "MatMul", main, n, axis, ""),
    ]


def _packed(use: int, role: Mapping, weights: Mapping, mode: Mode) -> list[Piece]:
    n, row = weights[role["weight"]]["shape"]
    k = row * 8 // role["bits"]
    if role["bits"] not in (4, 8):
        raise NotCovered(f"weights of {role['bits']} bits")
    if n % mode.lanes:
        return _dequantised(use, role, mode, k, n)
    if role["group"] == 0 and k % 128:  # the compiler leaves out the last scale
        raise NotCovered(f"a scale per row for {k} inputs")
    groups = k // (role["group"] or 128)  # one scale per row is stored repeated
    return [
        *_quantised(use, mode, role["op"], k, n, groups, role["bits"], "_weight"),
        *_bias(use, role, mode, "A16MatMul", 0, n, None, ""),
    ]


def _unknown(use: int, role: Mapping, weights: Mapping, mode: Mode) -> list[Piece]:
    raise NotCovered(f"weight {role['weight']} of {role['op']}")


_MAKE = {"linear": _linear, "packed": _packed, "plain": _plain, "index": _index, "unknown": _unknown}
