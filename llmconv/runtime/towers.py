"""Towers as a runtime launches them: once for each item, only its own rows being taken from the outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmconv.plan.net import Net
from llmconv.plan.plan import Plan
from llmconv.runtime import beside, launches
from llmconv.runtime.chip import Chip
from llmconv.runtime.seen import Seen, Shown, named

if TYPE_CHECKING:
    import numpy as np


def launch(chip: Chip, net: Net, items: Any) -> list[np.ndarray]:
    """Run a tower's net on items; returns of every output the rows [k, H] that are theirs."""
    launch = made(chip.plan, net, items)
    return [rows[0] for rows in launches.results(launch, chip.launch(launch)).values()]


def made(plan: Plan, net: Net, items: Any) -> launches.Launch:
    """A launch of a tower's net for items."""
    assert net.tower
    return launches.tower(net, items, beside.read(plan, net.tower))


def look(
    chip: Chip, nets: Mapping[str, Net], ids: np.ndarray, shown: Sequence[Shown], first: int
) -> tuple[Seen, np.ndarray | None]:
    """What the chip makes of what a prompt [n] shows, and its tokens' positions [axes, n] as a runtime counts them from
    `first` (None: those of text).

    As in the runtimes, a net runs once for each item, and only the item's own rows are taken from its outputs."""
    import numpy as np

    found = []
    for one in shown:
        tower = one.fitted.tower
        states = [launch(chip, nets[tower.net], item) for item in tower.each(one.items)]
        found.append((one.fitted, [np.concatenate(rows) for rows in zip(*states)]))
    places = (tower.positions(spec, ids, named(shown), first) for tower, spec in (one.fitted for one in shown))
    looked = [one for one in shown if one.fitted.tower.joins == "cross"]
    sees = [one.fitted.tower.sees(one.fitted.spec, ids, one.items) for one in looked]
    return Seen.of(ids, found, sees), next((given for given in places if given is not None), None)
