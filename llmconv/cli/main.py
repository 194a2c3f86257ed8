"""The command line's entry: the only place that turns errors into exit codes."""

from __future__ import annotations

import gc
import sys
import traceback
from collections.abc import Sequence

from llmconv import GARBAGE_THRESHOLD, ending
from llmconv.cli.commands import parser
from llmconv.errors import ConvertError


def main(argv: Sequence[str] | None = None) -> int:
    """`llmconv COMMAND ...`.

    Returns the exit code: 0 done, 1 a task failed, 2 wrong usage or input, 130 interrupted.
    """
    return _guard(list(sys.argv[1:] if argv is None else argv))


def convert_main(argv: Sequence[str] | None = None) -> int:
    """`llm_convert ...`: the vendor's command line, for `llmconv convert`."""
    return main(["convert", *(sys.argv[1:] if argv is None else argv)])


def _guard(argv: list[str]) -> int:
    """Run a command; every error becomes one line and an exit code."""
    gc.set_threshold(GARBAGE_THRESHOLD)
    return ending.guarded(lambda: _run(argv))


def _run(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    args.argv = argv
    try:
        return args.run(args)
    except ConvertError as error:
        if getattr(args, "debug", False):
            traceback.print_exc()
        print(f"ERROR: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
