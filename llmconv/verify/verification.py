"""`llmconv verify`: a finished build on the chip simulator, beside the model itself."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from llmconv.engine.hands import lent
from llmconv.engine.step import Step
from llmconv.extras import VERIFY, need
from llmconv.plan.plan import Plan
from llmconv.request.output import Layout
from llmconv.runtime import manifest
from llmconv.toolchain.fetch import obtain
from llmconv.verify.selection import Choice, announcement, choose, looks, seconds
from llmconv.verify.settings import Settings, code
from llmconv.verify.source import foreign

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console

    from llmconv.plan.net import Net
    from llmconv.runtime.fleet import Fleet
    from llmconv.simulator.client import NetInfo, Simulator
    from llmconv.verify.pace import Pace
    from llmconv.verify.result import Report
    from llmconv.verify.script import Script
    from llmconv.verify.session import Session, Todo


def verify(
    out_dir: Path,
    settings: Settings | None = None,
    console: Console | None = None,
    to: Path | None = None,
    tell: Callable[[Step], None] = lambda step: None,
) -> bool:
    """Verify the build in `out_dir`, print the result and write verify.json. Returns whether everything is right.

    to: where verify.json goes (default: into out_dir). tell: hears of every launch.
    Raises ConvertError when there is nothing that could be verified, InputError for an unknown net or a length that the
    nets do not take, and where torch and transformers are not installed, ToolError when the simulator fails or cannot
    be fetched.
    """
    from rich.console import Console

    from llmconv.verify import result

    need(VERIFY, "verification compares with the model's own class")
    settings, console = settings or Settings(), console or Console()
    built = manifest.read(Path(out_dir))
    plan = built.plan
    choice = choose(plan, settings.nets, settings.full, settings.tokens, settings.lengths)
    # the simulator comes with it
    tools = obtain(lambda line: tell(Step(line)))
    title = f"{built.bmodel.name} on {plan.job.chip}"
    for line in announcement(choice, settings, title):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    tell(Step("loading"))
    made = run(plan, built.files, choice, settings.seed, title, tell)
    result.show(made, console)
    about = {
        "bmodel": built.bmodel.name,
        "sha256": built.sha256,
        "chip": plan.job.chip,
        "quantize": plan.job.quantize,
        "seed": settings.seed,
        "toolchain": tools.version,
        "code": code(),
        "settings": settings.to_dict(),
    }
    result.write(made, to or Layout(Path(out_dir)).verified, about)
    return made.ok


def run(
    plan: Plan,
    files: Sequence[Path],
    choice: Choice,
    seed: int = 0,
    title: str = "",
    tell: Callable[[Step], None] = lambda step: None,
) -> Report:
    """Launch what was chosen and judge it."""
    import numpy as np

    from llmconv.runtime.runtime import Runtime
    from llmconv.verify import embedding_file
    from llmconv.verify.device_shares import unlike
    from llmconv.verify.rehearsal import spoken
    from llmconv.verify.result import Report
    from llmconv.verify.script import Script, speak
    from llmconv.verify.session import Session, checkable

    rng, generation, runtime = np.random.default_rng(seed), None, Runtime.of(plan)
    roomy = [net for net in choice.nets if net.places]
    with _chips(plan, files) as simulator:
        interface = [
            *foreign(plan),
            *differences(plan, simulator.nets),
            *(unlike(plan, files[0]) if plan.job.splits else ()),
        ]
        script = Script.of(plan, runtime, rng, choice.tokens) if choice.tokens and runtime and not interface else None
        say = _pace(plan, script, choice, seed, roomy, tell)
        sessions = [Session(plan, simulator, say)]
        nets = () if interface else choice.nets

        def todo(session: Session) -> Todo:
            return _alone(session, nets, choice, rng)

        with _spreading(sessions[0], files, todo, lambda: spoken(plan, script)) as finish:
            if script and runtime:
                generation = speak(sessions[0], runtime, script)
                if runtime.table:
                    embedding_file.check(runtime.table, sessions[0])
            finish()
    if roomy and not interface:
        sessions.append(_with_adapter(plan, files, roomy, rng, say))
    return Report.of(sessions, title, generation, interface, [net.name for net in choice.nets if not checkable(net)])


def _alone(session: Session, nets: Sequence[Net], choice: Choice, rng: np.random.Generator) -> Todo:
    """The launches of nets by themselves, each drawn when it is asked for."""
    from llmconv.verify import prompt as shown
    from llmconv.verify.session import checkable, launched

    for net in filter(checkable, nets):
        if net.tower:
            yield from shown.launched(session.plan, net, rng, looks(net))
        else:
            yield from launched(session, net, rng, choice.several(net), choice.lengths)


@contextmanager
def _spreading(
    session: Session,
    files: Sequence[Path],
    todo: Callable[[Session], Todo],
    before: Callable[[], Container[str]] = tuple,
) -> Iterator[Callable[[], None]]:
    """What is to be done besides a conversation: gives what does it, or waits for it where workers of a cluster have
    begun. before: the nets that the conversation launches, which comes first."""
    from llmconv.verify.session import work
    from llmconv.verify.spread import Spread

    hands = lent() if session.plan.job.num_device == 1 else None
    if hands is not None:
        with Spread(session, hands, files[0], todo, before()) as spread:
            yield spread.finish
        return

    yield lambda: work(session, todo(session))


def _pace(
    plan: Plan, script: Script | None, choice: Choice, seed: int, roomy: Sequence[Net], tell: Callable[[Step], None]
) -> Pace:
    """What the sessions tell of every launch."""
    from llmconv.verify.pace import Pace
    from llmconv.verify.rehearsal import rehearse
    from llmconv.verify.session import named

    cost = {named(net, adapter): seconds(net) for net in plan.nets for adapter in (False, True)}
    return Pace(rehearse(plan, script, choice, seed, roomy), cost.__getitem__, tell)


def _chips(plan: Plan, files: Sequence[Path]) -> Simulator | Fleet:
    """The plan's .bmodel on a simulated chip, or its files on one each."""
    from llmconv.runtime.fleet import Fleet
    from llmconv.simulator.client import Simulator

    root = obtain().root
    return Fleet(plan, files, root) if plan.job.num_device > 1 else Simulator(files[0], plan.job.chip, root)


def _with_adapter(
    plan: Plan, files: Sequence[Path], roomy: Sequence[Net], rng: np.random.Generator, say: Pace
) -> Session:
    """A session over the nets with room for LoRA, with an adapter of random numbers in copies of the files."""
    from llmconv.verify.adapters import Adapter, load
    from llmconv.verify.session import Session, launched

    adapter = Adapter.random(plan, rng)
    with tempfile.TemporaryDirectory(prefix="llmconv-adapter-") as folder:
        made = load(adapter, files, Path(folder))

        def todo(session: Session) -> Todo:
            return chain.from_iterable(launched(session, net, rng, thorough=False) for net in roomy)

        with _chips(plan, made) as simulator:
            session = Session(plan, simulator, say, adapter)
            with _spreading(session, made, todo) as finish:
                finish()
    return session


def differences(plan: Plan, found: dict[str, NetInfo]) -> Iterator[str]:
    """Yield the differences between a file's nets and the plan's contract with the runtimes."""
    nets = [net for net in plan.nets if net.flags.num_device == 1]  # others are checked by their parts
    wanted = [net.name for net in nets if not net.stage_of]
    if list(found) != wanted:
        yield f"nets {', '.join(found)}; the plan has {', '.join(wanted)}"
        return
    for net in nets:
        info = found[net.stage_of or net.name]
        planned = tuple(tuple(tuple(io.shape) for io in ios) for ios in (net.inputs, net.outputs))
        if planned not in info.shapes:
            yield f"{net.name} takes and gives {info.shapes}; the plan has {planned}"
        for what, ios, there in (("inputs", net.inputs, info.inputs), ("outputs", net.outputs, info.outputs)):
            promised, given = ([(io.name, io.dtype) for io in tensors] for tensors in (ios, there))
            if promised != given:
                yield f"{what} of {net.name} are {given}; the plan has {promised}"
