"""Random items for towers: what their nets are tried with, and a prompt that shows some."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, islice
from typing import TYPE_CHECKING, Any

from llmconv.plan.net import Net
from llmconv.plan.plan import Plan
from llmconv.runtime import towers
from llmconv.runtime.seen import Shown
from llmconv.verify.compare import TOLD, measure
from llmconv.verify.ledger import TOGETHER, Compared

if TYPE_CHECKING:
    import numpy as np

    from llmconv.verify.session import Session, Todo


def launched(plan: Plan, net: Net, rng: np.random.Generator, most: int) -> Todo:
    """Up to `most` launches of a tower's net by itself, with items of several kinds; and what finds out what it costs
    that a runtime launches it in parts, by the model's own maths, if that costs anything."""
    assert net.tower
    tower, spec = net.tower
    for items in islice(tower.trials(spec, net.flags.dynamic, rng), most):
        yield towers.made(plan, net, items)
    if pair := tower.apart(spec, rng):
        yield lambda session: _in_parts(session, net, pair)


def _in_parts(session: Session, net: Net, pair: Sequence[Any]) -> None:
    assert net.tower
    parts, whole = (session.reference.sight.features(Shown(net.tower, items))[0][None] for items in pair)
    session.ledger.record(Compared(net.name, "in parts", TOGETHER, TOLD, measure(parts, whole)))


def prompt(plan: Plan, rng: np.random.Generator, length: int) -> tuple[np.ndarray, tuple[Shown, ...]]:
    """Random tokens [length], and what their placeholders stand for. Towers have equal shares of the tokens, and what
    one sees takes at most half of its share. Nothing is shown to a tower whose smallest item does not fit. Towers with
    one placeholder stand for one another: the last of them is shown something."""
    vocab, table = plan.spec.vocab, plan.spec.rows
    ids, shown = rng.integers(0, vocab, length), []
    used = {fitted.spec.token: fitted for fitted in plan.towers}
    own = {*used, *(token for tower, spec in plan.towers for token in tower.around(spec))}
    for token in own:  # text has none of the towers' own
        ids[ids == token] = next(other for n in count(token + 1) if (other := n % vocab) not in own)
    for number, fitted in enumerate(used.values()):
        tower, spec = fitted
        begin, end = (length * n // len(used) for n in (number, number + 1))
        around = tower.around(spec)
        items = tower.sample(spec, max(0, (end - begin) // 2 - bool(around)), rng) if spec.token < table else None
        if items is not None:
            marks = tower.marks(spec, items)
            first = begin + (end - begin - marks) // 2
            ids[first : first + marks] = spec.token
            if around:
                ids[first - 1], ids[first + marks] = around
            shown.append(Shown(fitted, items))
    return ids, tuple(shown)
