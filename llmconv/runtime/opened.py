"""A finished build, opened to be run: on a device where there is one, else on the chip simulator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llmconv.errors import InputError
from llmconv.plan.plan import Plan
from llmconv.request.output import Layout
from llmconv.runtime import manifest
from llmconv.runtime.chip import Plain
from llmconv.runtime.fleet import Fleet
from llmconv.runtime.runtime import Runtime
from llmconv.runtime.sampling import Settings
from llmconv.simulator import device
from llmconv.simulator.client import Simulator
from llmconv.toolchain.fetch import obtain

WHERE = ("auto", "simulator", "device")


@dataclass(frozen=True)
class Opened:
    """plan, runtime: which nets take what; stop: ids that end an answer; chip: what runs them; on: where that is."""

    plan: Plan
    runtime: Runtime
    stop: frozenset[int]
    chip: Plain
    on: str


@contextmanager
def opened(out: Path, where: str, say: Callable[[str], object]) -> Iterator[Opened]:
    """Open the build in `out`. where: one of WHERE; say: told what runs.

    Raises ConvertError where there is none, or its checkpoint is gone; InputError for one that no runtime here can
    drive; ToolError where the chip does not take the file."""
    told = manifest.told(out)
    plan = told.driven()
    runtime = Runtime.of(plan)
    if runtime is None:
        raise InputError(f"{told.bmodel} has nets that llmconv cannot drive", "it knows those of its own conversions")
    found = None if where == "simulator" else device.find(present=where == "auto")
    if where == "device" and found is None:
        what = f"{device.RUNTIME[1]} and {device.DRIVER[1]} are not on this machine"
        advice = f"Install libsophon, or name the libraries' folder in {device.VARIABLE}."
        raise InputError(what, "they run a .bmodel on a device", advice)
    if found and plan.job.num_device > 1:
        what = f"{told.bmodel} is for {plan.job.num_device} devices"
        raise InputError(what, "llmconv drives one", "Say --on simulator, or use the public demo.")
    say("loading")
    root = found or obtain().root
    if plan.job.num_device > 1:
        chips = Fleet(plan, told.files, obtain().root)
    else:
        chips = Simulator(told.files[0], plan.job.chip, root)
    with chips:
        stop = frozenset(told.eos)
        yield Opened(plan, runtime, stop, Plain(plan, chips, say), "device" if found else "simulator")


def sampling(opened: Opened) -> Settings:
    """How the checkpoint wants its tokens sampled, by its generation_config.json. InputError where the file has no
    sample_head."""
    from llmconv.blocks.heads import MAX_TOP_K
    from llmconv.checkpoint.plain import Unreadable, load

    job = opened.plan.job
    if "sample_head" not in opened.runtime.by_name:
        raise InputError("--do_sample", "the .bmodel has no sample_head", "Convert with --do_sample.")
    file = Layout(job.out_dir).config / "generation_config.json"
    try:
        given = load(file) if file.is_file() else {}
    except Unreadable as error:
        raise InputError(f"{file} is not valid JSON", str(error)) from None
    given = given if isinstance(given, dict) else {}

    def number(name: str, default: float) -> float:
        value = given.get(name)
        return value if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0 else default

    return Settings(
        penalty=number("repetition_penalty", 1.0),
        temperature=number("temperature", 1.0),
        top_k=min(int(number("top_k", MAX_TOP_K)), MAX_TOP_K),
        top_p=number("top_p", 1.0),
    )
