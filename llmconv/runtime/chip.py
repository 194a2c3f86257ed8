"""A plan's .bmodel on a chip, launch by launch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from llmconv.plan.plan import Plan
from llmconv.runtime import state
from llmconv.runtime.embedding_file import Table
from llmconv.runtime.launches import Launch

if TYPE_CHECKING:
    import numpy as np


class Nets(Protocol):
    """What runs nets by their names: a Simulator, or a Fleet of several."""

    def run(self, net: str, inputs: Mapping[str, np.ndarray], read: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """Run a net; returns its outputs, and its inputs in `read` as the launch left them."""
        ...


class Chip(Protocol):
    """What a runtime asks of what runs its nets: `Plain` runs them, verification's session judges every launch too."""

    @property
    def plan(self) -> Plan: ...

    def launch(self, launch: Launch) -> dict[str, np.ndarray]:
        """Run a launch; returns the outputs, and the inputs that the net has written to. ToolError when that fails."""
        ...

    def look_up(self, table: Table, ids: np.ndarray) -> np.ndarray:
        """The hidden states [1, n, H] of tokens [n], from a file beside the .bmodel."""
        ...


def run(nets: Nets, launch: Launch) -> dict[str, np.ndarray]:
    """Run a launch; returns the outputs, and the inputs that the net has written to."""
    net, written = launch.net, state.written(launch.net)
    return nets.run(net.stage_of or net.name, launch.inputs, *([written] if written else []))


@dataclass(frozen=True)
class Plain:
    """The nets of a plan, and nothing beside them. say: told what runs."""

    plan: Plan
    nets: Nets
    say: Callable[[str], object] = lambda _: None

    def launch(self, launch: Launch) -> dict[str, np.ndarray]:
        self.say(f"{launch.net.name}: {launch.label}")
        return run(self.nets, launch)

    def look_up(self, table: Table, ids: np.ndarray) -> np.ndarray:
        return table.embed(ids)
