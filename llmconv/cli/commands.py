"""The commands of `llmconv` and their arguments; llmconv.cli.actions has what each does."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from llmconv import __version__
from llmconv.cli import actions
from llmconv.cli.examples import EXAMPLES, FIRST
from llmconv.cli.parser import SHELLS, Parser, add_options
from llmconv.request.options import OF_RUN


def parser() -> Parser:
    """Of `llmconv`."""
    parser = Parser(prog="llmconv", description="make for LLM-to-chip builds: a HuggingFace checkpoint to a .bmodel")
    parser.examples = FIRST
    parser.add_argument("-V", "--version", action=_Version)
    commands = parser.add_subparsers(metavar="COMMAND", title="commands", required=True)

    _add_conversion(commands)
    _add_quality(commands)
    _add_jobs(commands)
    _add_build(commands)
    _add_after(commands)
    _add_machine(commands)
    for name, command in commands.choices.items():
        command.examples = EXAMPLES.get(name, ())
    return parser


def parsers() -> list[Parser]:
    """Of every program that has a name of its own."""
    alias = Parser(prog="llm_convert")
    add_options(alias)
    return [parser(), alias]


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print everything as JSON (docs/json.md)")


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
    convert.set_defaults(run=actions.convert)

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
    _add_json(plan)
    plan.set_defaults(run=actions.plan)


def _add_quality(commands: Any) -> None:
    """The command on what quantisation costs."""
    quality = commands.add_parser(
        "quality",
        help="what quantisation costs on a text",
        usage="%(prog)s -m MODEL [options]",
        description="Measure perplexity and next-token agreement with the weights that the chip would have, and which "
        "layers lose most; with --size suggest what to keep in half precision (docs/quality.md).",
    )
    quality.add_argument("--text", type=Path, metavar="FILE", help="a text in UTF-8 [a chapter of Alice]")
    quality.add_argument("--tokens", type=int, metavar="N", help="tokens of it that are read [2048]")
    quality.add_argument("--window", type=int, metavar="N", help="tokens that are read together [512]")
    quality.add_argument("--size", default="", metavar="SIZE", help="suggest the best .bmodel within it, e.g. 300MB")
    quality.add_argument("--again", action="store_true", help="measure anew what is measured already")
    _add_json(quality)
    quality.add_argument("--debug", action="store_true", help="show tracebacks")
    add_options(quality, actions.QUALITY)
    quality.set_defaults(run=actions.quality)


def _add_jobs(commands: Any) -> None:
    """The command on a job file: its options are those that the file cannot have."""
    jobs = commands.add_parser(
        "build",
        help="convert all that a job file names",
        description="Convert models x chips x quantisations x lengths of a job file as one graph (docs/jobs.md).",
    )
    jobs.add_argument("file", type=Path, metavar="FILE", help="a job file, such as jobs.toml")
    add_options(jobs, OF_RUN)
    jobs.set_defaults(run=actions.build)


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
    verify.add_argument(
        "--scheduler", default="", metavar="ADDRESS", help="launch nets on the workers of Dask's scheduler there too"
    )
    verify.add_argument("--cluster", default="", metavar="local:N", help="start N Dask workers on this machine instead")
    verify.add_argument("--json", action="store_true", help="print verify.json instead of the table")
    verify.add_argument("--debug", action="store_true", help="show tracebacks")
    verify.set_defaults(run=actions.verify)

    why = commands.add_parser(
        "why", help="why a net would be rebuilt", description="Say why tasks would run, or what they were built from."
    )
    why.add_argument("out", type=Path, metavar="OUT", help="output directory of a conversion")
    why.add_argument("net", nargs="?", metavar="NET", help="a net or a task, e.g. block_0 or merge")
    _add_json(why)
    why.set_defaults(run=actions.why)

    inspect = commands.add_parser(
        "inspect", help="what a .bmodel holds", description="Show nets, shapes, sizes and provenance of any .bmodel."
    )
    inspect.add_argument("file", type=Path, metavar="FILE", help="a .bmodel, of llmconv or of the vendor's tools")
    _add_json(inspect)
    inspect.set_defaults(run=actions.inspect)

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
    graph.set_defaults(run=actions.graph)


def _add_after(commands: Any) -> None:
    """The commands that use what was built."""
    run = commands.add_parser(
        "run",
        help="answer a prompt with a built .bmodel",
        description="Generate behind a prompt, on a device where there is one, else on the chip simulator.",
    )
    run.add_argument("out", type=Path, metavar="OUT", help="output directory of a conversion")
    run.add_argument(
        "prompt", nargs="*", default=[], metavar="PROMPT", help="a text to answer, or several [standard input]"
    )
    run.mixed = True
    _add_answer(run)
    run.set_defaults(run=actions.run)

    chat = commands.add_parser(
        "chat",
        help="talk with a built .bmodel",
        description="Answer line by line, on a device where there is one, else on the chip simulator. Ctrl-D ends.",
    )
    chat.add_argument("out", type=Path, metavar="OUT", help="output directory of a conversion")
    _add_answer(chat)
    chat.set_defaults(run=actions.chat)

    bench = commands.add_parser(
        "bench",
        help="how fast a built .bmodel should be",
        description="Estimate prefill and decode by length, and the share of each part, from the compiler's count of "
        "cycles. Nothing is measured.",
    )
    bench.add_argument("out", nargs="+", type=Path, metavar="OUT", help="output directories, e.g. of several chips")
    _add_json(bench)
    bench.set_defaults(run=actions.bench)

    diff = commands.add_parser(
        "diff",
        help="what two .bmodel files have that is not the same",
        description="Compare two .bmodel files, or builds: nets, shapes, flags, memory, commands, coefficients. "
        "Exit codes: 0 equal, 1 different, 2 wrong input.",
    )
    for name in ("a", "b"):
        diff.add_argument(name, type=Path, metavar="FILE", help="a .bmodel, or an output directory")
    _add_json(diff)
    diff.set_defaults(run=actions.diff)

    clean = commands.add_parser(
        "clean",
        help="remove what a conversion has made",
        description="Remove what conversions have made in OUT and nothing else, and say what that frees. The cache of "
        "all output directories is not touched.",
    )
    clean.add_argument("out", type=Path, metavar="OUT", help="output directory of a conversion")
    clean.add_argument("-n", "--dry-run", action="store_true", help="say what would be removed, and remove nothing")
    clean.set_defaults(run=actions.clean)


def _add_answer(parser: argparse.ArgumentParser) -> None:
    """The options of answers."""
    parser.add_argument("--max_tokens", "--max-tokens", type=int, metavar="N", help="tokens of an answer [128]")
    sample = "draw tokens as generation_config.json says, by the net sample_head, in place of the best one each"
    parser.add_argument("--do_sample", "--do-sample", action="store_true", help=sample)
    parser.add_argument("--seed", type=int, metavar="N", help="of what is drawn [0]")
    parser.add_argument("--system", default="", metavar="TEXT", help="what the conversation begins with")
    parser.add_argument("--plain", action="store_true", help="give the text as it is, without the chat template")
    parser.add_argument("--image", type=Path, metavar="FILE", help="a picture to show, before the text")
    parser.add_argument("--audio", type=Path, metavar="FILE", help="a sound to play, before the text: WAV, 16 kHz")
    where = "auto, simulator, device; auto: a device where libsophon and its driver are there"
    parser.add_argument("--on", default="auto", metavar="X", choices=("auto", "simulator", "device"), help=where)
    parser.add_argument("--debug", action="store_true", help="show tracebacks")


def _add_machine(commands: Any) -> None:
    """The commands on this machine."""
    gc = commands.add_parser("gc", help="trim the cache that all output directories share")
    gc.add_argument(
        "--max-size", default="20G", metavar="SIZE", help="keep the most recently used entries up to this size [20G]"
    )
    gc.add_argument("-n", "--dry-run", action="store_true", help="say what would be removed, and remove nothing")
    gc.set_defaults(run=actions.gc)

    doctor = commands.add_parser(
        "doctor",
        help="say what this machine, or a model directory, has and lacks",
        description="Say what this machine has and lacks; with a model directory, what that holds and whether it can "
        "be converted.",
    )
    doctor.add_argument("model", nargs="?", type=Path, metavar="DIR", help="a model directory, in place of the machine")
    doctor.add_argument("--mmproj", type=Path, metavar="FILE", help="the tower's GGUF file, where DIR is a GGUF file")
    _add_json(doctor)
    doctor.set_defaults(run=actions.doctor)

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
    complete.set_defaults(run=actions.completion, parsers=parsers)

    demo = commands.add_parser("demo", help="make a tiny checkpoint, convert and verify it")
    demo.add_argument("dir", nargs="?", type=Path, default=Path("demo"), help="where to [./demo]")
    demo.set_defaults(run=actions.demo)


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
