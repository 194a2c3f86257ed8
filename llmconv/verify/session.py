"""Nets on the simulator, each launch compared with the model's maths on the very same inputs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING

from llmconv.plan.net import Net
from llmconv.plan.plan import Plan
from llmconv.runtime import across, launches, state
from llmconv.runtime.chip import Nets, run
from llmconv.runtime.heads import sample
from llmconv.runtime.launches import Launch
from llmconv.verify import across as random_across
from llmconv.verify import answers, compare, embedding_file, heads, routing, sampling
from llmconv.verify.adapters import Adapter
from llmconv.verify.answers import EXPECTED
from llmconv.verify.compare import Tolerance, measure
from llmconv.verify.heads import JUDGES
from llmconv.verify.ledger import CHIP, ORIGINAL, Compared, Ledger, Picked
from llmconv.verify.lengths import places
from llmconv.verify.reference import Reference
from llmconv.verify.weights import Precision

if TYPE_CHECKING:
    import numpy as np

    from llmconv.runtime.embedding_file import Table

STATES = 3  # random hidden states that a head is tried with
OUTPUT = "output_states"  # what a block gives to the next one
TRIES = 16  # random tokens for a block with experts, until a router sends one clearly


class Session:
    """A .bmodel on the simulator beside the model. Every launch is judged; `ledger` has what they came to.

    say: told what runs, a net's name in reports and the launch's label. adapter: what has been loaded into the nets'
    room for LoRA. taken: by layer, the experts that the chip took in its last launch; None where nobody asks.
    """

    def __init__(
        self,
        plan: Plan,
        simulator: Nets,
        say: Callable[[str, str], None] = lambda name, label: None,
        adapter: Adapter | None = None,
    ):
        self.plan, self.simulator, self.say, self.adapter = plan, simulator, say, adapter
        self.reference = Reference(plan, adapter=adapter)
        self.half = Reference(plan, dtype=plan.job.half, adapter=adapter)
        self.original = (
            Reference(plan, Precision(), adapter=adapter)
            if plan.job.weight_bits < 16 and not plan.spec.packed
            else None
        )
        self.ledger = Ledger()
        self.taken: dict[int, routing.Taken] | None = None
        head = Reference(plan, Precision(), like=self.reference) if plan.spec.head_bits < 16 else None
        self._heads = heads.Judge(self.reference, self.half, self.ledger, head)

    @property
    def compared(self) -> list[Compared]:
        return self.ledger.compared

    @property
    def picked(self) -> list[Picked]:
        return self.ledger.picked

    def name(self, net: Net) -> str:
        """The name under which a net is reported."""
        return named(net, self.adapter is not None)

    def launch(self, launch: Launch) -> dict[str, np.ndarray]:
        """Run a launch and judge it; returns the chip's outputs, and the inputs that the net has written to. ToolError
        when the simulator fails."""
        self.say(self.name(launch.net), launch.label)
        start = time.monotonic()
        found = run(self.simulator, launch)
        self.take(launch, found, time.monotonic() - start)
        return found

    def take(self, launch: Launch, found: Mapping[str, np.ndarray], seconds: float) -> None:
        """Judge what a launch gave, in `seconds` on the simulator."""
        net, name, written = launch.net, self.name(launch.net), state.written(launch.net)
        first = self.ledger.ran(name, seconds)
        if net.kind in JUDGES:
            JUDGES[net.kind](self._heads, name, launch, found)
            return
        for tensor in (io.name for io in net.history if io.name in written):  # all but the row that it has to write
            kept = measure(found[tensor][:, :-1], launch.inputs[tensor][:, :-1])
            self.ledger.record(Compared(name, f"{tensor}, other rows", CHIP, compare.SAME, kept))
        self._judge(launch, launches.results(launch, found), first)

    def beside(self, ledger: Ledger) -> Session:
        """A session with the same references and another ledger, which launches nets by themselves alone."""
        made = copy(self)
        made.ledger, made.taken, made._heads = ledger, None, replace(self._heads, ledger=ledger)
        return made

    def look_up(self, table: Table, ids: np.ndarray) -> np.ndarray:
        """The hidden states [1, n, H] of tokens [n], from a file, compared with the model's."""
        found = table.embed(ids)
        embedding_file.judge(self, ids, found)
        return found

    def judge(self, name: str, output: str, found: np.ndarray, right: np.ndarray, tolerance: Tolerance) -> None:
        """Compare what is no net's output, under a name of its own."""
        self.ledger.ran(name)
        self.ledger.record(Compared(name, output, CHIP, tolerance, measure(found, right)))

    def _judge(self, launch: Launch, found: dict[str, np.ndarray], first: bool) -> None:
        """Compare the rows that count with the reference. Blocks are also compared with torch in half precision, and at
        their first launch with the original weights."""
        net, name, layer = launch.net, self.name(launch.net), launch.net.layer is not None
        block = layer or bool(net.tower)
        expected = answers.expected(self.reference, launch)
        half = answers.expected(self.half, launch) if block else {}
        clear = self._clearly_routed() if layer else slice(None)
        if net.layer is not None and self.taken is not None and self.reference.routing is not None:
            self.taken[net.layer] = self._taken(launch, found[OUTPUT], expected[OUTPUT])
        original = answers.expected(self.original, launch) if layer and first and self.original else {}
        same, whole = self._routed_alike(clear) if original else clear, launches.whole(net)
        for output, right in expected.items():
            rows = slice(None) if output in whole else clear
            if right[:, rows].size:
                own = measure(half[output][:, rows], right[:, rows]) if block else None
                difference = measure(found[output][:, rows], right[:, rows])
                self.ledger.record(Compared(name, output, CHIP, self._tolerance(net), difference, own))
            rows = slice(None) if output in whole else same
            if original and original[output][:, rows].size:
                lost = measure(found[output][:, rows], original[output][:, rows])
                self.ledger.record(Compared(name, output, ORIGINAL, compare.ORIGINAL, lost))

    def _taken(self, launch: Launch, found: np.ndarray, right: np.ndarray) -> routing.Taken:
        """The experts that the chip has sent a launch's tokens to."""
        assert self.reference.routing is not None and self.half.routing is not None
        logits, chosen = self.reference.routing, self.plan.spec.routed.chosen

        def again(experts: np.ndarray) -> np.ndarray:
            return answers.block(self.reference, launch, experts)[OUTPUT]

        made = routing.taken(logits, self.half.routing, chosen, found, right, again)
        self.reference.routing = logits
        return made

    def _tolerance(self, net: Net) -> Tolerance:
        if net.tower:  # its blocks are each fed by the one before
            return compare.CHAIN
        if net.layer is not None:
            return compare.BLOCK
        return compare.LINEAR if net.kind == "lora" else compare.EXACT[net.outputs[0].dtype]

    def tells(self, launch: Launch) -> bool:
        """Whether a launch of a block has a row to judge: not if a router sends none of its tokens clearly."""
        assert launch.net.layer is not None
        if not self.plan.spec.kinds[launch.net.layer].sparse:
            return True
        for model in (self.reference, self.half):
            answers.expected(model, launch)
        clear = self._clearly_routed()
        return isinstance(clear, slice) or bool(clear.any())

    def _routed_alike(self, clear: slice | np.ndarray) -> slice | np.ndarray:
        """The clear rows whose tokens have the same experts with the chip's weights and with the original ones."""
        import numpy as np

        logits = [model.routing for model in (self.reference, self.original) if model and model.routing is not None]
        if len(logits) < 2:
            return clear
        sets = [np.sort(np.argsort(-values, -1)[:, : self.plan.spec.routed.chosen], -1) for values in logits]
        return clear & (sets[0] == sets[1]).all(-1)

    def _clearly_routed(self) -> slice | np.ndarray:
        """The rows to judge."""
        logits, half = self.reference.routing, self.half.routing
        return (
            slice(None)
            if logits is None or half is None
            else compare.clearly_routed(logits, half, self.plan.spec.routed.chosen)
        )


def named(net: Net, adapter: bool) -> str:
    """The name under which a net is reported, launched with an adapter or without."""
    return f"{net.name} + adapter" if adapter else net.name


def checkable(net: Net) -> bool:
    """Whether there is a reference for the net."""
    return net.kind in JUDGES or net.kind in EXPECTED or net.tower is not None


Todo = Iterator[Launch | Callable[[Session], None]]


def work(session: Session, todo: Todo) -> None:
    """Launch what is to be launched, and do what is to be done between."""
    for one in todo:
        if isinstance(one, Launch):
            session.launch(one)
        else:
            one(session)


def launched(
    session: Session, net: Net, rng: np.random.Generator, thorough: bool, lengths: Sequence[int] = ()
) -> Iterator[Launch]:
    """The launches of one net by itself: for edge cases too when `thorough`, else one. lengths: blocks are launched for
    prompts of these instead. Each is made when it is asked for."""
    spec, shapes = session.plan.spec, {io.name: io.shape for io in net.inputs}
    if net.kind == "embedding":
        ids = rng.integers(0, spec.rows, launches.length(net))
        ids[0] = spec.rows - 1
        yield launches.tokens(net, ids, "ids up to the last")
    elif net.kind == "add":
        first, second = (rng.standard_normal((1, *io.shape, 1)) for io in net.inputs)
        yield launches.add(net, first, second)
    elif net.kind == "lora":
        count = shapes["input_states"][1] if "input_ids" in shapes else 1
        values = {
            name: rng.integers(0, spec.rows, shape) if name == "input_ids" else rng.standard_normal(shape)
            for name, shape in shapes.items()
        }
        yield launches.lora(net, values, count, "random states")
    elif net.kind == "sample_head":
        for number, settings in enumerate(sampling.TRIED):
            logits = rng.standard_normal((1, spec.vocab)) * (1, 6)[number % 2]
            ids = rng.integers(0, spec.vocab, shapes["input_ids"][1] * 2 // 3)
            yield sample(net, logits, ids, settings, whole=number % 2 == 0)
    elif net.kind in JUDGES:
        for number in range(STATES if thorough else 1):
            yield launches.head(net, rng.standard_normal(net.inputs[0].shape), f"random state {number + 1}")
    else:
        for count, past in places(net, session.plan.job, thorough, lengths):
            yield _block_alone(session, net, count, past, rng)


def _block_alone(session: Session, net: Net, count: int, past: int, rng: np.random.Generator) -> Launch:
    """A launch of a block for `count` new tokens behind `past`. In a batch, the first sequence is there, and each other
    one elsewhere."""
    import numpy as np

    shapes = {io.name: io.shape for io in net.inputs}
    hidden = np.zeros(shapes["input_states"], np.float32)
    seen = [random_across.random(session.plan, net, count, past, rng) for _ in hidden] if across.looks(net) else []
    # rows beyond `past` are random too: what an earlier conversation left there must not count
    history = state.random(net, rng)
    batch = len(hidden)

    def drawn() -> Launch:
        hidden[:, :count] = session.reference.embed(rng.integers(0, session.plan.spec.vocab, (batch, count)))
        if batch == 1:
            return launches.step(net, hidden, count, past, history, seen=seen[0] if seen else None)
        rows = launches.capacity(net) or session.plan.job.seq_length
        return launches.steps(net, hidden, [(past + 7 * b) % rows for b in range(batch)], history, seen=seen)

    tried = (drawn() for _ in range(TRIES))
    return next((launch for launch in tried if session.tells(launch)), None) or drawn()
