"""A verification as people see it: the step that runs, and the table, on a terminal of 80 columns and elsewhere."""

from __future__ import annotations

import io
import os
import re
import sys

import pytest
from rich.console import Console
from terminals import Seen

from llmconv.verify.table import Table

COLUMNS = ("net", "runs", "output", "rel L2", "limit", "original", "cosine", "max abs", "NaN", "")
NAMES = ("embedding", "block_cache_27", "block_prompt_27 + adapter", "[red]")
ROWS = tuple(
    (name, "18", "output_states", "0.0096", "0.0125 (torch 0.0100)", "0.2341", "0.999954", "0.149", "0", "ok")
    for name in NAMES
)
TABLE = Table(
    "a file on a chip", COLUMNS, ROWS, ("quantisation: " + "a long remark " * 10, "verified: all of it"), True
)


def shown(width: int, terminal: bool) -> list[str]:
    out = io.StringIO()
    TABLE.show(Console(file=out, width=width, force_terminal=terminal, color_system=None))
    return [line.rstrip() for line in out.getvalue().splitlines()]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_names_are_whole_on_a_terminal_of_any_width(width):
    lines = shown(width, terminal=True)
    assert all(len(line) <= width for line in lines)
    assert all(any(line.strip().startswith(name + " ") for line in lines) for name in NAMES), lines
    assert not any("\u2026" in line for line in lines)
    left = [line for line in lines if "wider window" in line]
    assert bool(left) == (width < 120)
    assert any(
        line.startswith("quantisation: a long remark") and line.endswith(("a", "long", "remark")) for line in lines
    )


def test_a_pipe_gets_everything_in_a_line():
    lines = shown(40, terminal=False)
    assert lines[0].split()[:3] == ["net", "runs", "output"] and "0.999954  0.149" in lines[1]
    assert sum("a long remark" in line for line in lines) == 1


STEPS = """
import sys, time
from pathlib import Path
from rich.console import Console
from llmconv.cli import steps, verify
from llmconv.engine import events
from llmconv.request.output import Layout
steps.BETWEEN = 0.0
watch = verify._Watcher(Layout(Path("out")), Console(), ["verifying it: about 2 min on the simulator"])
watch(events.TaskStarted("verify", "", "run", 1, 0, 0.0, "verify", False))
watch(events.TaskStep("verify", "loading", None, None))
watch(events.TaskStep("verify", "launch 23 of 75: block_prompt_27 + adapter, sequence 2, token 12", 0.318, 43.0))
time.sleep(1.5)
watch(events.RunFinished(0, 1, 0, 0, 0, 0, 1.0, "", 0.0, 0, 0, ""))
print("the end")
"""
LAUNCH = "launch 23 of 75: block_prompt_27 + adapter, sequence 2, token 12"


def test_the_launch_that_runs_on_a_terminal():
    env = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES", "FORCE_COLOR")}
    seen = Seen([sys.executable, "-c", STEPS], {**env, "PYTHONIOENCODING": "utf-8"})
    seen.until(lambda: re.search(rf"^. {re.escape(LAUNCH)}$", seen.text, re.M) is not None)
    assert re.search(r"^  31%, \d\.\d s so far, about 45 s left$", seen.text, re.M), seen.text
    assert seen.wait() == 0 and LAUNCH not in seen.text and "the end" in seen.text


def test_the_launch_that_runs_in_a_log():
    import subprocess

    told = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    assert f"{LAUNCH}; 31%, 0.0 s so far, about 45 s left\n" in told.stderr and "\x1b" not in told.stderr + told.stdout
    assert "launch" not in told.stdout, "the results do not depend on how long it takes"
