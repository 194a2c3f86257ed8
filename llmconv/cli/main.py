"""The command line: arguments to one call. The only place that prints usage and decides the exit code."""

from __future__ import annotations

import argparse
import gc
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmconv import GARBAGE_THRESHOLD, __version__
from llmconv.cli.parser import SHELLS, Parser, add_options, completion
from llmconv.errors import ConvertError, InputError
from llmconv.request.options import OPTIONS


def main(argv: Sequence[str] | None = None) -> int:
    """`llmconv COMMAND ...`.

    Returns the exit code: 0 done, 1 a task failed, 2 wrong usage or input, 130 interrupted.
    """
    return _guard(_parser(), list(sys.argv[1:] if argv is None else argv))


def convert_main(argv: Sequence[str] | None = None) -> int:
    """`llm_convert ...`: the vendor's command line, for `llmconv convert`."""
    return main(["convert", *(sys.argv[1:] if argv is None else argv)])


def _guard(parser: argparse.ArgumentParser, argv: list[str]) -> int:
    """Run a command; every error becomes one line and an exit code."""
    gc.set_threshold(GARBAGE_THRESHOLD)
    args = parser.parse_args(argv)
    args.argv = argv
    try:
        with _terminated():
            return args.run(args)
    except ConvertError as error:
        if getattr(args, "debug", False):
            traceback.print_exc()
        print(f"ERROR: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


@contextmanager
def _terminated() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does, also before a build listens to it."""
    alone = threading.current_thread() is threading.main_thread()
    if not alone or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="llmconv", description="make for LLM-to-chip builds: a HuggingFace checkpoint to a .bmodel")
    parser.add_argument("-V", "--version", action=_Version)
    commands = parser.add_subparsers(metavar="COMMAND", title="commands", required=True)

    _add_conversion(commands)
    _add_build(commands)
    _add_machine(commands)
    return parser


def _add_conversion(commands: Any) -> None:
    """The commands that take the options of a conversion alone."""
    convert = commands.add_parser(
        "convert",
        help="convert a checkpoint",
        usage="%(prog)s -m MODEL -s N [options]",
        description="Convert a checkpoint to a .bmodel.",
    )
    add_options(convert)
    convert.add_argument("-V", "--version", action=_Version)
    convert.add_argument(
        "--task",
        action="append",
        default=[],
        metavar="NAME",
        help="build only this task, e.g. compile:block_0 (repeatable)",
    )
    convert.set_defaults(run=_convert)

    plan = commands.add_parser(
        "plan",
        help="what a conversion would do",
        usage="%(prog)s -m MODEL -s N [options]",
        description="Show what a conversion would build, take from the cache and keep.",
    )
    add_options(plan)
    plan.add_argument(
        "--fit",
        nargs="?",
        const="",
        metavar="SIZE",
        help="tell the largest seq_length that fits into SIZE of each device, e.g. 12G [what boards have]",
    )
    plan.set_defaults(run=_plan)


def _add_build(commands: Any) -> None:
    """The commands on what was built."""
    verify = commands.add_parser(
        "verify",
        help="prove a .bmodel on the chip simulator",
        description="Run the nets on the chip simulator against the model's own maths.",
    )
    verify.add_argument("out", type=Path, metavar="OUT", help="output directory of a conversion")
    verify.add_argument("--nets", default="", metavar="A,B", help="these nets only")
    verify.add_argument("--full", action="store_true", help="every net and a generation, however long it takes")
    lengths = "launch blocks for prompts of so many tokens, and decode behind them, e.g. 1,511,512"
    verify.add_argument("--lengths", default="", metavar="N,M", help=lengths)
    verify.add_argument("--tokens", type=int, metavar="N", help="tokens to generate [16]")
    verify.add_argument("--seed", type=int, metavar="N", help="of the random prompt and inputs [0]")
    verify.add_argument("--again", action="store_true", help="verify anew what is verified already")
    verify.add_argument(
        "--max-loss",
        type=float,
        metavar="X",
        help="fail when quantisation costs a net more: relative L2 against the original weights, e.g. 0.15 [any]",
    )
    verify.add_argument("--json", action="store_true", help="print verify.json instead of the table")
    verify.add_argument("--debug", action="store_true", help="show tracebacks")
    verify.set_defaults(run=_verify)

    why = commands.add_parser(
        "why", help="why a net would be rebuilt", description="Say why tasks would run, or what they were built from."
    )
    why.add_argument("out", type=Path, metavar="OUT", help="output directory of a conversion")
    why.add_argument("net", nargs="?", metavar="NET", help="a net or a task, e.g. block_0 or merge")
    why.set_defaults(run=_why)

    inspect = commands.add_parser(
        "inspect", help="what a .bmodel holds", description="Show nets, shapes, sizes and provenance of any .bmodel."
    )
    inspect.add_argument("file", type=Path, metavar="FILE", help="a .bmodel, of llmconv or of the vendor's tools")
    inspect.add_argument("--json", action="store_true", help="print everything as JSON")
    inspect.set_defaults(run=_inspect)

    graph = commands.add_parser(
        "graph",
        help="the task graph as SVG or DOT",
        description="Draw the task graph, coloured by state: of OUT, or of the conversion that the options describe.",
    )
    graph.add_argument("out", nargs="?", type=Path, metavar="OUT", help="output directory of a conversion")
    graph.add_argument(
        "--to",
        type=Path,
        default=Path("graph.svg"),
        metavar="FILE",
        help="file to write, .svg or .dot; - prints DOT [graph.svg]",
    )
    add_options(graph)
    graph.set_defaults(run=_graph)


def _add_machine(commands: Any) -> None:
    """The commands on this machine."""
    gc = commands.add_parser("gc", help="trim the cache that all output directories share")
    gc.add_argument(
        "--max-size", default="20G", metavar="SIZE", help="keep the most recently used entries up to this size [20G]"
    )
    gc.set_defaults(run=_gc)

    doctor = commands.add_parser(
        "doctor",
        help="say what this machine, or a model directory, has and lacks",
        description="Say what this machine has and lacks; with a model directory, what that holds and whether it can "
        "be converted.",
    )
    doctor.add_argument("model", nargs="?", type=Path, metavar="DIR", help="a model directory, in place of the machine")
    doctor.set_defaults(run=_doctor)

    complete = commands.add_parser(
        "completion",
        help="a script that completes these commands in a shell",
        description="Print a completion script.",
        epilog='bash: eval "$(llmconv completion bash)" in ~/.bashrc. Tasks of doit: eval "$(doit tabcompletion)" '
        "before it.",
    )
    complete.add_argument(
        "shell", nargs="?", default="bash", metavar="SHELL", choices=SHELLS, help=f"{', '.join(SHELLS)} [bash]"
    )
    complete.set_defaults(run=_completion)

    demo = commands.add_parser("demo", help="make a tiny checkpoint, convert and verify it")
    demo.add_argument("dir", nargs="?", type=Path, default=Path("demo"), help="where to [./demo]")
    demo.set_defaults(run=_demo)


class _Version(argparse.Action):
    """-V: the versions of everything that a result depends on."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, nargs=0, help="print versions", **kwargs)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import PackageNotFoundError, version

        from llmconv.toolchain.find import find
        from llmconv.toolchain.pinned import VERSION

        found = find()
        print(f"llmconv {__version__}")
        print(f"tpu_mlir {found.version} ({found.root})" if found else f"tpu_mlir {VERSION} (not fetched yet)")
        for name in ("transformers", "torch"):
            try:
                print(f"{name} {version(name)}")
            except PackageNotFoundError:
                print(f"{name} is not installed")
        parser.exit(0)


def _given(args: argparse.Namespace) -> dict[str, Any]:
    return {o.name: getattr(args, o.name) for o in OPTIONS if getattr(args, o.name) is not None}


def _convert(args: argparse.Namespace) -> int:
    from llmconv import convert
    from llmconv.report.summary import program

    asked = convert.ask(_given(args))
    if asked.build.dry_run:
        from llmconv.queries.dry_run import dry_run

        print(dry_run(asked))
        return 0
    if args.out_dir is None:
        asked = replace(asked, notes=(*asked.notes, f"--out_dir is not set, {asked.job.out_dir} is used"))
    llmconv, words = program("llmconv"), shlex.join(_without_task(args.argv))
    command = convert.Command(f"{llmconv} {shlex.join(args.argv)}", f"{llmconv} {words} --task {{task}}")
    return convert.run(asked, args.task, command)


def _without_task(argv: Sequence[str]) -> list[str]:
    """The arguments without --task NAME and --task=NAME."""
    kept = list(argv)
    while "--task" in kept:
        at = kept.index("--task")
        del kept[at : at + 2]
    return [word for word in kept if not word.startswith("--task=")]


def _plan(args: argparse.Namespace) -> int:
    from llmconv import convert
    from llmconv.queries.why import forecast

    if args.fit is not None:
        return _fit(args)
    print(forecast(convert.ask(_given(args))))
    return 0


def _fit(args: argparse.Namespace) -> int:
    from llmconv import convert
    from llmconv.plan.fit import LONGEST
    from llmconv.queries.fit import fit
    from llmconv.request.options import amount

    memory = amount(args.fit) if args.fit else None
    if args.fit and (memory or 0) <= 0:
        raise InputError(f"--fit {args.fit}", "an amount of memory such as 12G is expected", "Say how much, or --fit.")
    print(fit(convert.ask({"seq_length": str(LONGEST)} | _given(args)).job, memory))
    return 0


def _verify(args: argparse.Namespace) -> int:
    from llmconv.cli.verify import Wish, verify
    from llmconv.verify import lengths
    from llmconv.verify.settings import Settings

    numbers = {name: getattr(args, name) for name in ("tokens", "seed") if getattr(args, name) is not None}
    nets = tuple(n for n in args.nets.split(",") if n)
    settings = Settings(nets, args.full, lengths=lengths.read(args.lengths), **numbers)
    return verify(args.out, settings, Wish(args.again, args.max_loss, args.json, args.debug))


def _why(args: argparse.Namespace) -> int:
    from llmconv.queries.why import why

    print(why(args.out, args.net))
    return 0


def _inspect(args: argparse.Namespace) -> int:
    import json

    from llmconv.queries import bmodel

    made = bmodel.inspect(args.file)
    print(json.dumps(made, indent=1) if args.json else bmodel.text(made))
    return 0


def _graph(args: argparse.Namespace) -> int:
    from llmconv import convert
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


def _gc(args: argparse.Namespace) -> int:
    from llmconv import engine
    from llmconv.request.options import amount
    from llmconv.toolchain.find import cache_dir
    from llmconv.words import size

    limit = amount(args.max_size)
    if limit is None:
        raise InputError(f"--max-size {args.max_size}", "an amount such as 20G is expected")
    freed, kept = engine.gc(cache_dir() / "actions", limit)
    print(f"freed {size(freed)}, kept {size(kept)} in {cache_dir() / 'actions'}")
    return 0


def _doctor(args: argparse.Namespace) -> int:
    if args.model is not None:
        from llmconv.queries import model

        text, ok = model.doctor(args.model)
        print(text)
        return 0 if ok else InputError.exit_code
    from llmconv.toolchain import doctor

    checks = doctor.check()
    print(doctor.report(checks))
    return doctor.status(checks)


def _completion(args: argparse.Namespace) -> int:
    alias = Parser(prog="llm_convert")
    add_options(alias)
    print(completion([_parser(), alias], args.shell))
    return 0


def _demo(args: argparse.Namespace) -> int:
    from llmconv.cli.demo import demo

    return demo(args.dir)


if __name__ == "__main__":
    raise SystemExit(main())
