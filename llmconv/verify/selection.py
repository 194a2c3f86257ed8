"""What to run: everything where that takes minutes, one decode block where it would take hours."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from llmconv.errors import InputError
from llmconv.plan.net import Net
from llmconv.plan.plan import Plan

FULL_SECONDS = 600.0  # models whose whole verification is estimated to take less are verified in full
ANNOUNCE_SECONDS = 60.0  # what takes longer is announced first
THOROUGH_SECONDS = 3.0  # nets whose launch takes less are launched several times

# Seconds of one core per multiply-accumulate on bm1684x (measured, see the simulator's notes in the README): a matrix of many rows,
# a single row, and a column (the head, whose table is the left operand). The others are about three times as fast.
MANY_ROWS, ONE_ROW, COLUMN = 45e-9, 450e-9, 900e-9
SPEED = {"bm1684x": 1.0, "bm1688": 3.0, "cv186x": 3.0}
LAUNCH_SECONDS = 0.05


@dataclass(frozen=True)
class Choice:
    """nets: those to launch by themselves; tokens: how many to generate with all of them (0: no generation); seconds: estimated."""

    nets: tuple[Net, ...]
    tokens: int
    seconds: float


def choose(plan: Plan, names: Sequence[str] | None, full: bool, tokens: int) -> Choice:
    """The nets that were asked for; else everything if `full` or the model is tiny; else one decode block.

    Raises InputError for a name that is no net's.
    """
    if names:
        nets = tuple(_find(plan, name) for name in names)
        return Choice(nets, 0, sum(map(seconds, nets)))
    whole = sum(seconds(net) * (looks(net) + 1 if net.kind == "vit" else 2) for net in plan.nets) + tokens * sum(seconds(net) for net in plan.nets if net.kind in ("block_cache", "lm_head"))
    if full or whole <= FULL_SECONDS:
        return Choice(plan.nets, tokens, whole)
    decode = next((net for net in plan.nets if net.kind == "block_cache"), plan.nets[0])
    return Choice((decode,), 0, seconds(decode))


def looks(net: Net) -> int:
    """How many images a vision tower is tried with: of several shapes, unless that takes minutes."""
    return 5 if seconds(net) < THOROUGH_SECONDS else 3 if seconds(net) < 10 * THOROUGH_SECONDS else 1


def seconds(net: Net) -> float:
    """About how long one launch of the net takes on the simulator."""
    total = 0.0
    for op in net.graph.ops:
        if op.kind in ("MatMul", "A16MatMul"):
            inner, out = op.operands[0].shape[-1], op.results[0].shape
            total += inner * prod(out) * _rate(prod(out[:-1]), out[-1])
        elif op.kind == "FAttention":
            a = op.attrs
            total += 2 * a["batch"] * a["mq"] * a["mk"] * a["q_head"] * a["dim"] * _rate(a["mq"], a["mk"])
    return LAUNCH_SECONDS + total / SPEED.get(net.flags.chip, 1.0)


def _rate(rows: int, columns: int) -> float:
    return COLUMN if columns == 1 else max(MANY_ROWS, ONE_ROW / rows)


def _find(plan: Plan, name: str) -> Net:
    names = [net.name for net in plan.nets]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        raise InputError(f"there is no net {name!r}", f"the .bmodel has {_few(names)}", f"Did you mean {near[0]}?" if near else "")
    return plan.nets[names.index(name)]


def _few(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 12 else f"{', '.join(names[:6])}, ... {names[-1]} ({len(names)} nets)"


def duration(seconds: float) -> str:
    """12 s, 3 min, 2.5 h: as exact as an estimate is."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
