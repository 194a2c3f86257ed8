"""The console on a terminal, seen as a person would see it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from engine_shop import environment
from terminals import Seen

SCRIPT = """
import sys
from pathlib import Path
from engine_shop import Shop
import llmconv.engine.build as build
build.HEARTBEAT = 0.1
shop = Shop(Path({root!r}))
tasks = [
    shop.task("first", args={{"sleep": 0.2}}, like="a"),
    *(shop.task(f"block_{{i}}", args={{"sleep": {sleep}}}, basename="compile", targets=[shop.out / f"b{{i}}"], phase="compile", like="b") for i in range(4)),
]
code = shop.run(tasks, progress={progress!r}, again="make it so")
print("rich is here" if "rich" in sys.modules else "rich stayed out")
sys.exit(code)
"""


def show(root: Path, sleep: float = 0.5, progress: str = "auto", columns: int = 80, rows: int = 24, **env: str) -> Seen:
    script = SCRIPT.format(root=str(root), sleep=sleep, progress=progress)
    inherited = {k: v for k, v in environment().items() if k not in ("NO_COLOR", "COLUMNS", "LINES", "FORCE_COLOR")}
    return Seen([sys.executable, "-c", script], {**inherited, "PYTHONIOENCODING": "utf-8", **env}, columns, rows)


def footers(seen: Seen) -> int:
    return sum(bool(re.search(r"\d+ done . \d+ running", line)) for line in seen.lines)


@pytest.mark.parametrize("columns", [60, 80, 140])
def test_a_footer_under_what_scrolls_by(tmp_path, columns):
    seen = show(tmp_path, columns=columns)
    seen.until(lambda: re.search("2 running .* MB", seen.text) and " left" in seen.text and "[1/5] first" in seen.text)
    running, bar, counts = (
        [i for i, line in enumerate(seen.lines) if re.match(r"  block_\d .*compile +\d", line)],
        *(next(i for i, line in enumerate(seen.lines) if word in line) for word in ("%  ", " done ")),
    )
    assert counts == bar + 1 == running[-1] + 2, seen.text
    memory = r"\d+ MB" if columns == 60 else r"memory \d+ MB of 1.1 GB"
    assert re.search(rf"\d+ done · 2 running · \d+ waiting · 0 failed +{memory}$", seen.lines[counts]), seen.text
    assert seen.wait() == 0
    assert footers(seen) == 0 and "━" not in seen.text, "the footer goes at the end"
    assert re.search(r"^\[5/5\] compile:block_\d +built +\d\.\d s +\d+ MB$", seen.text, re.M), seen.text
    assert "5 built in" in seen.text and not seen.screen.cursor.hidden
    assert all(len(line) < columns for line in seen.lines)


def test_ctrl_c_leaves_a_clean_screen_and_says_how_to_go_on(tmp_path):
    seen = show(tmp_path, sleep=30)
    seen.until(lambda: "2 running" in seen.text and "[1/5] first" in seen.text)
    seen.type("\x03")
    assert seen.wait() == 130
    assert footers(seen) == 0 and "━" not in seen.text
    assert "stopped by SIGINT: 1 finished task is kept; go on with: make it so" in seen.text
    assert not seen.screen.cursor.hidden


def test_a_killed_build_leaves_a_cursor(tmp_path):
    seen = show(tmp_path, sleep=30)
    seen.until(lambda: "2 running" in seen.text)
    seen.process.kill()
    seen.wait()
    assert not seen.screen.cursor.hidden


def test_a_window_that_shrinks_keeps_one_footer(tmp_path):
    seen = show(tmp_path, sleep=30, columns=120)
    seen.until(lambda: "2 running" in seen.text and "memory" in seen.text)
    seen.resize(50, 20)
    seen.until(
        lambda: footers(seen) == 1 and any(line.startswith("  block_") and len(line) < 50 for line in seen.lines)
    )
    seen.read(1.0)
    assert footers(seen) == 1, seen.text
    seen.type("\x03")
    assert seen.wait() == 130


def test_a_small_window_shows_what_fits(tmp_path):
    seen = show(tmp_path, sleep=30, columns=24, rows=7)
    seen.until(lambda: "2 running" in seen.text or "1 more" in seen.text)
    seen.type("\x03")
    assert seen.wait() == 130


def test_colours_and_none(tmp_path):
    colour = re.compile(rb"\x1b\[[0-9;]*(?:3[0-7]|38;)[0-9;]*m")
    seen = show(tmp_path / "a", sleep=0.1)
    assert seen.wait() == 0 and colour.search(seen.raw)
    seen = show(tmp_path / "b", sleep=0.1, NO_COLOR="1")
    assert seen.wait() == 0 and not colour.search(seen.raw)


def test_terminals_that_cannot_move_the_cursor_get_lines(tmp_path):
    seen = show(tmp_path, sleep=0.1, TERM="dumb")
    assert seen.wait() == 0
    assert b"\x1b" not in seen.raw and "[5/5] compile:block_" in seen.text and "rich stayed out" in seen.text


def test_a_terminal_without_unicode(tmp_path):
    seen = show(tmp_path, PYTHONIOENCODING="ascii")
    seen.until(lambda: "2 running" in seen.text)
    assert seen.wait() == 0
    assert seen.raw.isascii() and "5 built in" in seen.text


def test_a_run_that_does_nothing_does_not_load_rich(tmp_path):
    assert show(tmp_path, sleep=0).wait() == 0
    seen = show(tmp_path, sleep=0)
    assert seen.wait() == 0
    assert "5 up to date in" in seen.text and "rich stayed out" in seen.text


def test_a_running_task_says_where_it_is(tmp_path):
    steps = SCRIPT.replace("tasks = [", 'tasks = [shop.task("told", "slowly", args={{"left": 90.0}}),')
    script = steps.format(root=str(tmp_path), sleep=3.0, progress="auto")
    seen = Seen([sys.executable, "-c", script], environment())
    seen.until(lambda: re.search(r"^  told .*\n    (half|all) of it$", seen.text, re.M) is not None)
    seen.type("\x03")
    assert seen.wait() == 130
