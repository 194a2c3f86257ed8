"""Launches on a chip simulator as a part of an action (llmconv.engine.hands): from files, to a file."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def save(path: Path | str, launches: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Write the tensors of launches by name: a NumPy .npz."""
    import numpy as np

    named: dict[str, Any] = {f"{n}.{name}": one[name] for n, one in enumerate(launches) for name in one}
    with open(path, "wb") as file:
        np.savez(file, **named)


def load(path: Path | str, number: int) -> dict[str, np.ndarray]:
    """The tensors of one launch that `save` wrote."""
    import numpy as np

    with np.load(path, allow_pickle=False) as file:
        found = (name.partition(".") for name in file.files)
        return {name: file[f"{number}.{name}"] for n, _, name in found if n == str(number)}


def launch(
    bmodel: str, chip: str, net: str, given: str, count: int, read: Sequence[str], out: Mapping[str, str]
) -> dict[str, Any]:
    """Run a net of a .bmodel `count` times. given: its inputs; the target gets what Simulator.run returns. read: as
    there. Returns the seconds of each launch. ToolError when the simulator fails."""
    from llmconv.simulator.client import Simulator
    from llmconv.toolchain.fetch import obtain

    (staged,) = out.values()
    found, seconds = [], []
    with Simulator(Path(bmodel), chip, obtain().root) as simulator:
        for number in range(count):
            inputs, start = load(given, number), time.monotonic()
            found.append(simulator.run(net, inputs, read))
            seconds.append(time.monotonic() - start)
    save(staged, found)
    return {"seconds": seconds}
