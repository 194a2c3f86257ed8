"""One launch on a chip simulator as a part of an action (llmconv.engine.hands): from files, to a file."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def launch(bmodel: str, chip: str, net: str, given: str, read: Sequence[str], out: Mapping[str, str]) -> dict[str, Any]:
    """Run a net of a .bmodel. given: its inputs, a NumPy .npz by their names; the target gets what Simulator.run
    returns, likewise. read: as there. Returns the seconds of the launch. ToolError when the simulator fails."""
    import numpy as np

    from llmconv.simulator.client import Simulator
    from llmconv.toolchain.fetch import obtain

    (staged,) = out.values()
    with np.load(given, allow_pickle=False) as file:
        inputs = {name: file[name] for name in file.files}
    with Simulator(Path(bmodel), chip, obtain().root) as simulator:
        start = time.monotonic()
        found: dict[str, Any] = simulator.run(net, inputs, read)
        seconds = time.monotonic() - start
    with open(staged, "wb") as file:
        np.savez(file, **found)
    return {"seconds": seconds}
