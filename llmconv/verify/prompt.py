"""Random items for towers: what their nets are tried with, and a prompt that shows some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count, islice
from typing import TYPE_CHECKING, Any

from llmconv.plan.net import Net
from llmconv.plan.plan import Plan
from llmconv.verify import beside, launches
from llmconv.verify.vision import Seen, Shown, named

if TYPE_CHECKING:
    import numpy as np

    from llmconv.verify.session import Session


def launch(session: Session, net: Net, items: Any) -> list[np.ndarray]:
    """Run a tower's net on items; returns of every output the rows [k, H] that are theirs."""
    assert net.tower
    made = launches.tower(net, items, beside.read(session.plan, net.tower))
    return [rows[0] for rows in launches.results(made, session.launch(made)).values()]


def look(
    session: Session, nets: Mapping[str, Net], ids: np.ndarray, shown: Sequence[Shown], first: int
) -> tuple[Seen, np.ndarray | None]:
    """What the chip makes of what a prompt [n] shows, and its tokens' positions [axes, n] as a runtime counts them from
    `first` (None: those of text).

    As in the runtimes, a net runs once for each item, and only the item's own rows are taken from its outputs."""
    import numpy as np

    found = []
    for one in shown:
        tower = one.fitted.tower
        states = [launch(session, nets[tower.net], item) for item in tower.each(one.items)]
        found.append((one.fitted, [np.concatenate(rows) for rows in zip(*states)]))
    places = (tower.positions(spec, ids, named(shown), first) for tower, spec in (one.fitted for one in shown))
    return Seen.of(ids, found), next((given for given in places if given is not None), None)


def alone(session: Session, net: Net, rng: np.random.Generator, most: int) -> None:
    """Up to `most` launches of a tower's net by itself, with items of several kinds."""
    assert net.tower
    tower, spec = net.tower
    for items in islice(tower.trials(spec, net.flags.dynamic, rng), most):
        launch(session, net, items)


def prompt(plan: Plan, rng: np.random.Generator, length: int) -> tuple[np.ndarray, tuple[Shown, ...]]:
    """Random tokens [length], and what their placeholders stand for. Towers have equal shares of the tokens, and what
    one sees takes at most half of its share. Nothing is shown to a tower whose smallest item does not fit. Towers with
    one placeholder stand for one another: the last of them is shown something."""
    vocab = plan.spec.vocab
    ids, shown = rng.integers(0, vocab, length), []
    used = {fitted.spec.token: fitted for fitted in plan.towers}
    for token in used:  # text has none of the towers' own
        ids[ids == token] = next(other for n in count(token + 1) if (other := n % vocab) not in used)
    for number, fitted in enumerate(used.values()):
        tower, spec = fitted
        begin, end = (length * n // len(used) for n in (number, number + 1))
        items = tower.sample(spec, (end - begin) // 2, rng) if spec.token < vocab else None
        if items is not None:
            marks = tower.marks(spec, items)
            first = begin + (end - begin - marks) // 2
            ids[first : first + marks] = spec.token
            shown.append(Shown(fitted, items))
    return ids, tuple(shown)
