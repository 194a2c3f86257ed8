"""Choose what to run: everything where that takes minutes, a decode block of each kind of layer where it would take
hours."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from llmconv.chips import CHIPS
from llmconv.errors import InputError
from llmconv.plan.net import Net
from llmconv.plan.plan import Plan
from llmconv.verify.heads import JUDGES
from llmconv.verify.lengths import check, places
from llmconv.verify.sampling import TRIED
from llmconv.verify.session import STATES
from llmconv.verify.settings import Settings
from llmconv.words import roughly

FULL_SECONDS = 600.0  # models whose whole verification is estimated to take less are verified in full
ANNOUNCE_SECONDS = 60.0  # what takes longer is announced first
THOROUGH_SECONDS = 3.0  # nets whose launch takes less are launched several times

# Seconds of one core per multiply-accumulate on bm1684x (measured, see docs/toolchain.md): a matrix of many rows, a
# single row, and a column (the head, whose table is the left operand).
MANY_ROWS, ONE_ROW, COLUMN = 45e-9, 450e-9, 900e-9
LAUNCH_SECONDS = 0.05


@dataclass(frozen=True)
class Choice:
    """nets: those to launch by themselves. tokens: how many to generate with all nets (0: no generation). seconds: an
    estimate for all of it. lengths: of the prompts that blocks are launched for; () for those that tell the most.
    thorough: every net is launched several times, not only those whose launch takes few seconds.
    """

    nets: tuple[Net, ...]
    tokens: int
    seconds: float
    lengths: tuple[int, ...] = ()
    thorough: bool = False

    def several(self, net: Net) -> bool:
        """Whether a net is launched for edge cases too."""
        return self.thorough or seconds(net) < THOROUGH_SECONDS


def choose(plan: Plan, names: Sequence[str] | None, full: bool, tokens: int, lengths: Sequence[int] = ()) -> Choice:
    """The nets that were asked for; else all nets if `full` or the model is tiny; else one decode block of each kind of
    layer.

    Nets are launched several times if that takes minutes at most. With `lengths` the decode blocks come with the
    prefill nets of their layers.

    Raises InputError for a name that is no net's, and for a length that the nets do not take.
    """
    check(plan, lengths)
    lengths = tuple(lengths)

    def those(nets: Sequence[Net], thorough: bool = False, tokens: int = 0, more: float = 0.0) -> Choice:
        made = Choice(tuple(nets), tokens, 0.0, lengths, thorough)
        return replace(made, seconds=more + sum(seconds(net) * launches(net, plan, made) for net in nets))

    if names:
        asked = [_find(plan, name) for name in names]
        if lengths and all(net.layer is None for net in asked):
            what = f"--lengths with --nets {','.join(names)}"
            raise InputError(what, "only blocks are launched for prompts of a length", "Name a block too.")
        return those(asked)
    again = sum(seconds(net) for net in plan.nets if net.kind in ("block_cache", "lm_head"))
    generation = sum(map(seconds, plan.nets)) + tokens * again
    for thorough in (True, False):
        everything = those(plan.nets, thorough, tokens, generation)
        if everything.seconds <= FULL_SECONDS or (full and not thorough):
            return everything
    layers = examples(plan)
    blocks = [net for net in plan.nets if net.layer in layers and not net.stage_of]
    decode = [net for net in blocks if net.kind == "block_cache"] or [plan.nets[0]]
    return those([*decode, *(net for net in blocks if lengths and net.kind != "block_cache")])


def examples(plan: Plan) -> list[int]:
    """A layer of each kind, the kinds in the order in which they begin: the first layer of the first kind, the last one
    of the last kind, and between them ones that lie between."""
    kinds: list[list[int]] = []
    for layer, kind in enumerate(plan.spec.kinds):
        alike = next((one for one in kinds if plan.spec.kinds[one[0]] == kind), None)
        if alike is None:
            kinds.append(alike := [])
        alike.append(layer)
    steps = max(1, len(kinds) - 1)
    return [layers[(len(layers) - 1) * number // steps] for number, layers in enumerate(kinds)]


def launches(net: Net, plan: Plan, choice: Choice) -> int:
    """How often a net is launched by itself."""
    if net.tower:
        return looks(net)
    if net.layer is not None:
        return len(places(net, plan.job, choice.several(net), choice.lengths))
    if net.kind == "sample_head":
        return len(TRIED)
    return STATES if choice.several(net) and net.kind in JUDGES else 1


def looks(net: Net) -> int:
    """How many items a tower is tried with: of several kinds, unless that takes minutes."""
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
    return LAUNCH_SECONDS + total / CHIPS[net.flags.chip].speed


def _rate(rows: int, columns: int) -> float:
    return COLUMN if columns == 1 else max(MANY_ROWS, ONE_ROW / rows)


def _find(plan: Plan, name: str) -> Net:
    names = [net.name for net in plan.nets]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        raise InputError(
            f"there is no net {name!r}", f"the .bmodel has {_few(names)}", f"Did you mean {near[0]}?" if near else ""
        )
    return plan.nets[names.index(name)]


def announcement(choice: Choice, settings: Settings, title: str) -> list[str]:
    """What to say before the start: how long it will take, and what is left out. title: the file and its chip."""
    said = []
    if choice.seconds > ANNOUNCE_SECONDS:
        said.append(f"verifying {title}: {roughly(choice.seconds)} on the simulator")
    if not settings.nets and not choice.tokens:
        only = ", ".join(net.name for net in choice.nets)
        said.append(f"only {only}; --nets NAME,... or --full for more")
    return said


def _few(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 12 else f"{', '.join(names[:6])}, ... {names[-1]} ({len(names)} nets)"
