"""`llmconv quality`: what quantisation costs on a text, and what to keep in half precision."""

from __future__ import annotations

import json
import time

from rich.console import Console
from rich.table import Table

import llmconv.convert as convert
from llmconv.cli.steps import Steps
from llmconv.engine.step import Step
from llmconv.quality import page
from llmconv.quality.quality import Wish, measure
from llmconv.quality.result import COLUMNS, Quality, lines, rows
from llmconv.quality.states import write
from llmconv.request.output import Layout

SEQ = 512  # seq_length of the conversion that is asked about, unless it is given


def quality(given: dict[str, str], wish: Wish, as_json: bool) -> int:
    """Measure, print the result, and write quality.json, quality.html and, with a size, keep_half.toml beside it."""
    job = convert.ask({"seq_length": str(SEQ)} | given).job
    layout, steps = Layout(job.out_dir), Steps(Console(stderr=as_json))

    def tell(step: Step) -> None:
        steps.take(step, time.monotonic())

    steps.start(time.monotonic())
    try:
        found = measure(job, wish, tell)
    finally:
        steps.stop()
    page.write(found, layout.quality_page)
    if found.suggestion:
        write(layout.kept, found.suggestion.job_file)
    if as_json:
        print(json.dumps(found.to_dict(), indent=1))
    else:
        _show(found)
        print(f"{job.out_dir / 'quality.html'} has the curves by layer")
    return 0


def _show(found: Quality) -> None:
    """In colour on a terminal, plain elsewhere."""
    console, made = Console(), list(rows(found.variants))
    if console.is_terminal:
        from rich import box

        drawn = Table(*COLUMNS, box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
        for row in made:
            drawn.add_row(*row)
        console.print(drawn)
    else:
        width = [max(len(row[at]) for row in (COLUMNS, *made)) for at in range(len(COLUMNS))]
        for row in (COLUMNS, *made):
            print("  ".join(cell.ljust(size) for cell, size in zip(row, width)).rstrip())
    for line in lines(found):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
