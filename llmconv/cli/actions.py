"""What each command of `llmconv` does: its arguments to one call, and the answer to stdout. Returns the exit code."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from llmconv.cli.show import answer, show
from llmconv.errors import InputError
from llmconv.request.options import OF_RUN, OPTIONS
from llmconv.words import program

# options of a conversion that `llmconv quality` takes
QUALITY = (
    "model_path",
    "seq_length",
    "mmproj",
    "quantize",
    "q_group_size",
    "symmetric",
    "keep_half",
    "quantize_head",
    "chip",
    "out_dir",
)


def _given(args: argparse.Namespace) -> dict[str, Any]:
    return {o.name: getattr(args, o.name) for o in OPTIONS if getattr(args, o.name) is not None}


def convert(args: argparse.Namespace) -> int:
    import llmconv.convert as convert

    asked = convert.ask(_given(args))
    if asked.build.dry_run:
        from llmconv.queries.dry_run import dry_run

        show(dry_run(asked))
        return 0
    if args.out_dir is None:
        asked = replace(asked, notes=(*asked.notes, f"--out_dir is not set, {asked.job.out_dir} is used"))
    llmconv, words = program("llmconv"), shlex.join(_without_task(args.argv))
    command = convert.Command(f"{llmconv} {shlex.join(args.argv)}", f"{llmconv} {words} --task {{task}}")
    return convert.run(asked, args.task, command)


def build(args: argparse.Namespace) -> int:
    from llmconv.jobs.run import Jobs

    build = {name: value for name in OF_RUN if (value := getattr(args, name)) is not None}
    made = Jobs.open(args.file, build, f"{program('llmconv')} {shlex.join(args.argv)}")
    if args.dry_run:
        print(made.dry_run())
        return 0
    return made.run()


def _without_task(argv: Sequence[str]) -> list[str]:
    """The arguments without --task NAME and --task=NAME."""
    kept = list(argv)
    while "--task" in kept:
        at = kept.index("--task")
        del kept[at : at + 2]
    return [word for word in kept if not word.startswith("--task=")]


def plan(args: argparse.Namespace) -> int:
    import llmconv.convert as convert
    from llmconv.queries.overview_text import text
    from llmconv.queries.why import forecast

    if args.fit is not None:
        return _fit(args)
    answer(forecast(convert.ask(_given(args))), text, args.json)
    return 0


def _fit(args: argparse.Namespace) -> int:
    import llmconv.convert as convert
    from llmconv.plan.fit import LONGEST
    from llmconv.queries import fit
    from llmconv.request.options import amount

    memory = amount(args.fit) if args.fit else None
    if args.fit and (memory or 0) <= 0:
        raise InputError(f"--fit {args.fit}", "an amount of memory such as 12G is expected", "Say how much, or --fit.")
    found = fit.fit(convert.ask({"seq_length": str(LONGEST)} | _given(args)).job, memory)
    answer(found, fit.text, args.json)
    return 0


def verify(args: argparse.Namespace) -> int:
    from llmconv.cli.verify import Wish, verify
    from llmconv.request import workers
    from llmconv.verify import lengths
    from llmconv.verify.settings import Settings

    numbers = {name: getattr(args, name) for name in ("tokens", "seed") if getattr(args, name) is not None}
    nets = tuple(n for n in args.nets.split(",") if n)
    settings = Settings(nets, args.full, lengths=lengths.read(args.lengths), **numbers)
    cluster = workers.asked(args.scheduler, args.cluster)
    return verify(args.out, settings, Wish(args.again, args.max_loss, args.json, args.debug, cluster))


def quality(args: argparse.Namespace) -> int:
    from llmconv.cli.quality import quality
    from llmconv.quality.quality import Wish
    from llmconv.request.options import amount

    limit = amount(args.size) if args.size else None
    if args.size and (limit or 0) <= 0:
        raise InputError(f"--size {args.size}", "an amount of memory such as 300MB is expected", "Say how much.")
    numbers = {name: getattr(args, name) for name in ("tokens", "window") if getattr(args, name) is not None}
    given = {name: getattr(args, name) for name in QUALITY if getattr(args, name) is not None}
    return quality(given, Wish(args.text, size=limit, again=args.again, **numbers), args.json)


def _wish(args: argparse.Namespace) -> Any:
    from llmconv.cli.run import Wish
    from llmconv.runtime.media import Media

    numbers = {"most": args.max_tokens, "seed": args.seed}
    given = {name: number for name, number in numbers.items() if number is not None}
    media = Media(args.image, args.audio)
    return Wish(args.out, args.on, sample=args.do_sample, plain=args.plain, system=args.system, media=media, **given)


def run(args: argparse.Namespace) -> int:
    from llmconv.cli.run import run

    return run(_wish(args), args.prompt or [sys.stdin.read()])


def chat(args: argparse.Namespace) -> int:
    from llmconv.cli.run import chat

    def ask() -> str | None:
        try:
            return input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return None

    return chat(_wish(args), ask)


def bench(args: argparse.Namespace) -> int:
    from llmconv.report import bench

    answer([bench.bench(out) for out in args.out], bench.text, args.json)
    return 0


def why(args: argparse.Namespace) -> int:
    from llmconv.queries import why

    answer(why.why(args.out, args.net), why.text, args.json)
    return 0


def inspect(args: argparse.Namespace) -> int:
    from llmconv.queries import bmodel

    answer(bmodel.inspect(args.file), bmodel.text, args.json)
    return 0


def diff(args: argparse.Namespace) -> int:
    from llmconv.queries import diff

    made = diff.diff(args.a, args.b)
    answer(made, diff.text, args.json)
    return 0 if made.found.equal else 1


def graph(args: argparse.Namespace) -> int:
    import llmconv.convert as convert
    from llmconv.queries.graph import draw
    from llmconv.request import request

    given = _given(args)
    if args.out is not None and given:
        raise InputError(
            f"{args.out} and options",
            "the options of a build are kept in its directory",
            "Give the directory alone, or options alone.",
        )
    print(draw(convert.ask(given) if args.out is None else request.load(args.out), args.to))
    return 0


def gc(args: argparse.Namespace) -> int:
    from llmconv.queries.gc import trim
    from llmconv.request.options import amount
    from llmconv.user_cache import cache_dir

    limit = amount(args.max_size)
    if limit is None:
        raise InputError(f"--max-size {args.max_size}", "an amount such as 20G is expected")
    print(trim(cache_dir(), limit, args.dry_run))
    return 0


def clean(args: argparse.Namespace) -> int:
    from llmconv.queries.clean import clean

    print(clean(args.out, args.dry_run))
    return 0


def doctor(args: argparse.Namespace) -> int:
    if args.mmproj is not None and args.model is None:
        raise InputError(
            f"mmproj {args.mmproj}", "it is looked at with its language model", "Name that file before it."
        )
    if args.model is not None:
        from llmconv.queries import model

        there = model.doctor(args.model, args.mmproj)
        answer(there, model.text, args.json)
        return 0 if there.model else InputError.exit_code
    from llmconv.queries import machine

    found = machine.machine()
    answer(found, machine.text, args.json)
    return 0 if found.ready else 1


def completion(args: argparse.Namespace) -> int:
    from llmconv.cli.parser import completion

    print(completion(args.parsers(), args.shell))
    return 0


def demo(args: argparse.Namespace) -> int:
    from llmconv.cli.demo import demo

    return demo(args.dir)
