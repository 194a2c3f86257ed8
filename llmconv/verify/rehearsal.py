"""The launches that a verification will make: all is said beforehand, to a chip that computes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

from llmconv.plan.net import Net
from llmconv.plan.plan import Plan
from llmconv.runtime import state
from llmconv.runtime.embedding_file import Table
from llmconv.runtime.launches import Launch
from llmconv.runtime.runtime import Runtime
from llmconv.verify.generate import Talker
from llmconv.verify.lengths import places
from llmconv.verify.script import Script
from llmconv.verify.selection import Choice, launches, looks
from llmconv.verify.session import checkable, named

if TYPE_CHECKING:
    import numpy as np


class Blank:
    """A chip that counts launches by net, and gives zeros."""

    def __init__(self, plan: Plan):
        self.plan, self.count = plan, Counter[str]()

    def launch(self, launch: Launch) -> dict[str, np.ndarray]:
        import numpy as np

        net = launch.net
        self.count[net.name] += 1
        written = state.written(net)
        made = [*net.outputs, *(io for io in net.inputs if io.name in written)]
        return {io.name: np.zeros(io.shape, np.int32 if io.dtype == "i32" else np.float32) for io in made}

    def look_up(self, table: Table, ids: np.ndarray) -> np.ndarray:
        import numpy as np

        return np.zeros((1, len(ids), self.plan.spec.hidden), np.float32)


class Silent(Talker):
    """A sequence that nobody judges."""

    def __init__(self, chip: Blank, runtime: Runtime, name: str):
        super().__init__(chip, runtime, runtime.fresh(chip.plan.spec), name)

    def pick(self) -> int:
        assert self.last is not None, "nothing was read"
        return self.runtime.choose(self.chip, self.last, self.name)

    def drift(self) -> None:
        pass


def rehearse(plan: Plan, script: Script | None, choice: Choice, seed: int, roomy: Sequence[Net]) -> Counter[str]:
    """How often each net will be launched, by the name under which it is reported. script: what is said, if anything
    is; roomy: nets with room for LoRA, which are launched with an adapter too. Towers are tried with items of their
    own, so their number is that at most."""
    import numpy as np

    count, rng = spoken(plan, script), np.random.default_rng(seed)
    for net in filter(checkable, choice.nets):
        if net.tower:
            tower, spec = net.tower
            count[net.name] += sum(1 for _ in islice(tower.trials(spec, net.flags.dynamic, rng), looks(net)))
        else:
            count[net.name] += launches(net, plan, choice)
    for net in roomy:
        once = 1 if net.layer is None else len(places(net, plan.job, thorough=False))
        count[named(net, adapter=True)] += once
    return count


def spoken(plan: Plan, script: Script | None) -> Counter[str]:
    """How often a script will launch each net."""
    blank = Blank(plan)
    if script and (runtime := Runtime.of(plan)):
        script.play(lambda name: Silent(blank, runtime, name))
    return blank.count
