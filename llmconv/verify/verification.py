"""`llmconv verify`: a finished build on the chip simulator, beside the model itself."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmconv.plan.plan import Plan
from llmconv.request.output import Layout
from llmconv.toolchain.fetch import obtain
from llmconv.verify import manifest
from llmconv.verify.selection import Choice, announcement, choose, looks
from llmconv.verify.settings import Settings, code
from llmconv.verify.source import foreign

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console

    from llmconv.plan.net import Net
    from llmconv.simulator.client import NetInfo, Simulator
    from llmconv.verify.fleet import Fleet
    from llmconv.verify.generate import Generation
    from llmconv.verify.result import Report
    from llmconv.verify.runtime import Runtime
    from llmconv.verify.session import Session


def verify(
    out_dir: Path,
    settings: Settings | None = None,
    console: Console | None = None,
    to: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> bool:
    """Verify the build in `out_dir`, print the result and write verify.json. Returns whether everything is right.

    to: where verify.json goes (default: into out_dir). say: told what runs (default: a terminal shows it).
    Raises ConvertError when there is nothing that could be verified, InputError for an unknown net or a length that the
    nets do not take, ToolError when the simulator fails or cannot be fetched.
    """
    from rich.console import Console

    from llmconv.verify import result

    settings, console = settings or Settings(), console or Console()
    built = manifest.read(Path(out_dir))
    plan = built.plan
    choice = choose(plan, settings.nets, settings.full, settings.tokens, settings.lengths)
    # the simulator comes with it
    tools = obtain(lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True))
    title = f"{built.bmodel.name} on {plan.job.chip}"
    for line in announcement(choice, settings, title):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    with console.status("loading") as status:
        say = say or (status.update if console.is_terminal else lambda _: None)
        made = run(plan, built.files, choice, settings.seed, title, say)
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
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Launch what was chosen and judge it."""
    import numpy as np

    from llmconv.verify import prompt as shown
    from llmconv.verify.device_shares import unlike
    from llmconv.verify.result import Report
    from llmconv.verify.runtime import Runtime
    from llmconv.verify.session import Session, alone, checkable

    rng, generation = np.random.default_rng(seed), None
    with _chips(plan, files) as simulator:
        interface = [
            *foreign(plan),
            *differences(plan, simulator.nets),
            *(unlike(plan, files[0]) if plan.job.splits else ()),
        ]
        sessions = [Session(plan, simulator, say)]
        runtime = Runtime.of(plan)
        if choice.tokens and runtime and not interface:
            generation = _generate(sessions[0], runtime, rng, choice.tokens)
            if runtime.table:
                runtime.table.check(sessions[0])
        for net in choice.nets if not interface else ():
            if checkable(net):
                if net.tower:
                    shown.alone(sessions[0], net, rng, looks(net))
                else:
                    alone(sessions[0], net, rng, choice.several(net), choice.lengths)
    roomy = [net for net in choice.nets if net.places]
    if roomy and not interface:
        sessions.append(_with_adapter(plan, files, roomy, rng, say))
    return Report.of(sessions, title, generation, interface, [net.name for net in choice.nets if not checkable(net)])


def _generate(session: Session, runtime: Runtime, rng: np.random.Generator, tokens: int) -> Generation:
    """What the nets are for: one prompt, a conversation in turns, or several sequences at once, of `tokens` tokens
    altogether.
    """
    from llmconv.verify import generate
    from llmconv.verify.prompt import prompt

    if runtime.batch == 1:
        return generate.converse(session, runtime, generate.turns(session.plan, runtime, rng, tokens))
    each = max(2, tokens // runtime.batch)
    longest = runtime.prompt(each)
    made = [prompt(session.plan, rng, max(1, longest - 3 * b % longest)) for b in range(runtime.batch)]
    prompts, shown = [ids for ids, _ in made], [seen for _, seen in made]
    return generate.generate_batch(session, runtime, prompts, shown, each)


def _chips(plan: Plan, files: Sequence[Path]) -> Simulator | Fleet:
    """The plan's .bmodel on a simulated chip, or its files on one each."""
    from llmconv.simulator.client import Simulator
    from llmconv.verify.fleet import Fleet

    root = obtain().root
    return Fleet(plan, files, root) if plan.job.num_device > 1 else Simulator(files[0], plan.job.chip, root)


def _with_adapter(
    plan: Plan, files: Sequence[Path], roomy: Sequence[Net], rng: np.random.Generator, say: Callable[[str], None]
) -> Session:
    """A session over the nets with room for LoRA, with an adapter of random numbers in copies of the files."""
    from llmconv.verify.adapters import Adapter, load
    from llmconv.verify.session import Session, alone

    adapter = Adapter.random(plan, rng)
    with tempfile.TemporaryDirectory(prefix="llmconv-adapter-") as folder:
        with _chips(plan, load(adapter, files, Path(folder))) as simulator:
            session = Session(plan, simulator, say, adapter)
            for net in roomy:
                alone(session, net, rng, thorough=False)
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
