"""Several devices on a simulator that has one. Each device's file runs on a chip of its own.

Nets that are split over devices run part by part, and the exchange between devices is done here.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmconv.bmodel.flatbuffer import find
from llmconv.bmodel.read import BModel
from llmconv.bmodel.write import Piece, write
from llmconv.errors import ToolError

if TYPE_CHECKING:
    import numpy as np

    from llmconv.plan.plan import Plan
    from llmconv.simulator.client import NetInfo, Simulator

END = "_distribute_end"  # the compiler's suffix for a tensor that is put together from devices


@dataclass(frozen=True)
class Part:
    """A part of a split net: the net that it is stored as, its device and its turn."""

    name: str
    device: int
    turn: int


class Fleet:
    """The files of a plan's devices, one simulated chip each. `nets` and `run` are a Simulator's, for all of them.

    One file for several devices runs part by part on one chip.
    """

    def __init__(self, plan: Plan, files: Sequence[Path], root: Path):
        from llmconv.simulator.client import Simulator

        self.plan, self.parts = plan, {}
        self._stack, self._chips = ExitStack(), {}
        with ExitStack() as opening:
            folder = Path(tempfile.mkdtemp(prefix="llmconv-fleet-"))
            opening.callback(shutil.rmtree, folder, ignore_errors=True)
            for file in files:
                if plan.job.splits:
                    file, self.parts = undo_cascade(file, folder / file.name)
                chip: Simulator = opening.enter_context(Simulator(file, plan.job.chip, root))
                self._chips |= dict.fromkeys(chip.nets, chip)
            self._stack = opening.pop_all()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_) -> None:
        self._stack.close()

    @property
    def nets(self) -> dict[str, NetInfo]:
        """The nets that are not split, in the plan's order."""
        names = [net.name for net in self.plan.nets if net.name in self._chips]
        return {name: self._chips[name].nets[name] for name in names}

    def run(self, net: str, inputs: Mapping[str, np.ndarray], read: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """As Simulator.run."""
        if net in self.parts:
            return self._run_parts(net, inputs)
        return self._chips[net].run(net, inputs, read)

    def _run_parts(self, net: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The parts of a net, turn by turn: each device gets its heads of the history, and gives its heads of the new
        rows. ToolError when the devices come to different states.
        """
        import numpy as np

        devices = self.plan.job.num_device
        ports = next(one for one in self.plan.nets if one.name == net).ports
        known = dict(inputs)
        for _, name in ports.inputs:
            heads = enumerate(np.split(inputs[name], devices, axis=2))
            known |= {f"{name}_{device}": part for device, part in heads}
        for part in self.parts[net]:
            chip = self._chips[part.name]
            known |= chip.run(part.name, {io.name: known[io.name] for io in chip.nets[part.name].inputs})
        states = [known[f"output_states{END}_{device}"] for device in range(devices)]
        if any(not np.array_equal(states[0], other) for other in states[1:]):
            raise ToolError(f"the devices of net {net} come to different states", "each should have the sum of all")
        rows = {
            name: np.concatenate([known[f"{name}{END}_{device}"] for device in range(devices)], axis=2)
            for _, name in ports.outputs
        }
        return {"output_states": states[0]} | rows


def undo_cascade(bmodel: Path, target: Path) -> tuple[Path, dict[str, list[Part]]]:
    """Write a .bmodel for several devices as one for a single device in which each part is a net of its own. Returns
    it, and the parts of each split net in the order of their turns.
    """
    model = BModel.read(bmodel)
    parts: dict[str, list[Part]] = {}
    for net in model.tree["net"]:
        if cascade := net.pop("cascade", None):
            part = Part(net["name"], cascade.get("device_id", 0), cascade.get("step", 0))
            parts.setdefault(cascade["main_name"], []).append(part)
    model.tree["device_num"] = 1
    for _, holder, key in find("Binary", "Model", model.tree):
        start, size = holder[key]
        holder[key] = Piece(model.path, model.base + start, size)
    write(target, model.tree)
    return target, {name: sorted(found, key=lambda p: (p.turn, p.device)) for name, found in parts.items()}
