"""The console of a terminal: finished tasks scroll by over a footer with running tasks, progress and memory."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from llmconv.engine import events, wording
from llmconv.engine.events import Event
from llmconv.words import duration, rough_size, roughly

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

REFRESH = 0.25  # seconds between two pictures
WIDEST = 100  # columns of the footer
SHORT = 0.5  # seconds: a shorter task of this process is not shown as running
STYLES = {"compiled": "green", "stamped": "cyan", "cached": "blue", "built": "green", "FAILED": "bold red"}


class Terminal:
    """A listener. rich is imported, and the footer drawn, when the first task starts: a run that does nothing needs
    neither.

    Lines are collected and written with the next picture, by a thread of its own, so that a task costs the build
    nothing. The cursor stays visible: a build that is killed leaves a terminal that can be used.
    """

    def __init__(self, debug: bool = False):
        self._debug = debug
        self._lock = threading.Lock()
        self._total = self._ended = self._blocked = 0
        self._running: dict[str, events.TaskStarted] = {}
        self._steps: dict[str, str] = {}  # running task -> where it says that it is
        self._failures: list[events.TaskFailed] = []
        self._beat: events.Heartbeat | None = None
        self._lines: list[Text] = []
        self._live: Any = None
        self._widths: list[int] = []  # columns of the lines of the picture that is shown
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __call__(self, event: Event) -> None:
        method = getattr(self, f"_on_{type(event).__name__}", None)
        if method is not None:
            with self._lock:
                method(event)
        if isinstance(event, events.RunFinished):  # outside the lock: the thread has to end first
            self._close()
            for line in wording.ending(event, self._failures, self._blocked, self._debug):
                print(line, flush=True)

    # ------------------------------------------------------------------ what happens

    def _on_RunStarted(self, event: events.RunStarted) -> None:
        self._total = event.total

    def _on_Note(self, event: events.Note) -> None:
        if self._live is None:
            print(f"note: {event.text}", flush=True)
        else:
            self._add(f"note: {event.text}")

    def _on_TaskUnchanged(self, event: events.TaskUnchanged) -> None:
        self._ended += 1

    def _on_TaskStarted(self, event: events.TaskStarted) -> None:
        self._running[event.name] = event
        self._steps.pop(event.name, None)
        if self._live is None:
            self._open()

    def _on_TaskStep(self, event: events.TaskStep) -> None:
        self._steps[event.name] = event.text

    def _on_TaskFinished(self, event: events.TaskFinished) -> None:
        self._running.pop(event.name, None)
        self._ended += 1
        if not event.local:
            self._finished(event)

    def _on_TaskRetried(self, event: events.TaskRetried) -> None:
        self._running.pop(event.name, None)
        self._add(f"{event.name}: {event.failure}", "yellow")
        self._add(f"  {wording.again(event)}", "yellow")

    def _on_TaskFailed(self, event: events.TaskFailed) -> None:
        self._running.pop(event.name, None)
        self._failures.append(event)
        self._add(f"{self._number()} {event.name} FAILED: {event.failure.what}", STYLES["FAILED"])

    def _on_TaskBlocked(self, event: events.TaskBlocked) -> None:
        self._blocked += 1

    def _on_Heartbeat(self, event: events.Heartbeat) -> None:
        self._beat = event

    # ------------------------------------------------------------------ lines

    def _number(self) -> str:
        return f"[{self._ended:>{len(str(self._total))}}/{self._total}]"

    def _add(self, line: str, style: str = "") -> None:
        from rich.text import Text

        self._lines.append(Text(line, style))

    def _finished(self, event: events.TaskFinished) -> None:
        """Number, name, what became of it, seconds, peak memory, and why it was built at all. Columns hold down to
        60.
        """
        from rich.text import Text

        how, number = wording.result(event), self._number()
        name = wording.short(event.name) if "how" in event.values else event.name
        line = Text(f"{number} {name:<{max(8, min(32, self._live.console.width - len(number) - 33))}} ")
        line.append(f"{how:<9}", STYLES.get(how, "green"))
        line.append(f"{duration(event.seconds):>12}")
        line.append(f"{rough_size(event.peak_rss):>9}" if event.peak_rss and event.how != "cached" else " " * 9)
        if wording.why(event):
            line.append(f"  {wording.why(event)}", "dim")
        line.rstrip()
        self._lines.append(line)

    # ------------------------------------------------------------------ the picture

    def _open(self) -> None:
        from rich.console import Console
        from rich.live import Live

        # stdout as it is now; a stream that is no terminal is treated as one, for who asked for it
        console = Console(file=sys.stdout, force_terminal=True, highlight=False, soft_wrap=False)
        self._live = Live(console=console, auto_refresh=False, transient=True, redirect_stderr=True)
        self._live.start()
        console.show_cursor(True)
        self._thread = threading.Thread(target=self._draw_on, daemon=True)
        self._thread.start()

    def _draw_on(self) -> None:
        while not self._stop.wait(REFRESH):
            self._draw()

    def _draw(self) -> None:
        console = self._live.console
        with self._lock:
            lines, self._lines = self._lines, []
            picture = self._picture(console)
        try:
            self._unwrap(console)
            if lines:
                from rich.console import Group

                for line in lines:
                    line.no_wrap, line.overflow = True, "ellipsis"
                console.print(Group(*lines))
            self._live.update(picture, refresh=True)
            self._widths = [sum(part.cell_length for part in line) for line in console.render_lines(picture, pad=False)]
        except (BrokenPipeError, ValueError):
            self._stop.set()  # the terminal is gone; the build goes on

    def _unwrap(self, console: Console) -> None:
        """When the window became narrower, the picture that is shown has been wrapped to more lines than were drawn:
        erase those.
        """
        from rich.control import Control
        from rich.segment import ControlType

        more = sum(max(0, -(-width // console.width) - 1) for width in self._widths)
        for _ in range(more):
            console.control(Control((ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)))
        self._widths = []

    def _close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._live is not None:
            self._draw()
            with contextlib.suppress(BrokenPipeError, ValueError):
                self._live.stop()
            self._live = None

    def _picture(self, console: Console) -> RenderableType:
        from rich.console import Group

        width = max(20, min(console.width - 1, WIDEST))
        rows = self._rows(width, max(1, console.height - 6))
        return Group(*rows, self._bar(width), self._counts(width, "|" if console.options.ascii_only else "·"))

    def _rows(self, width: int, most: int) -> list[Text]:
        """The running tasks: name, phase, elapsed time, memory; the longest running first."""
        from rich.text import Text

        now = time.time()
        shown = [task for task in self._running.values() if not task.local or now - task.time > SHORT]
        shown.sort(key=lambda task: task.time)
        memory = {name: bytes_ for name, _, bytes_ in self._beat.running} if self._beat else {}
        rows = []
        for task in shown[:most]:
            phase = "fetch" if task.how == "cache" else task.phase
            name = wording.short(task.name)
            taken = rough_size(memory[task.name]) if memory.get(task.name) else ""
            took = f"{phase:<9}{duration(now - task.time):>12}{taken:>9}"
            if width < 50:
                took = duration(now - task.time)
            space = max(8, width - len(took) - 4)
            name = name if len(name) <= space else name[: space - 1] + "~"
            rows.append(Text.assemble("  ", (f"{name:<{space}}", "bold"), "  ", took))
            rows[-1].truncate(width)
            if task.name in self._steps:
                rows.append(Text(f"    {self._steps[task.name]}", "dim"))
                rows[-1].truncate(width, overflow="ellipsis")
        if len(shown) > most:
            rows.append(Text(f"  and {len(shown) - most} more", "dim"))
        return rows

    def _bar(self, width: int) -> RenderableType:
        """The work done of the whole graph, and the forecast."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        share = self._beat.share if self._beat else 0.0
        left = max(0.0, self._beat.left - (time.time() - self._beat.time)) if self._beat else 0.0
        told = f" {int(100 * share):3}%  {roughly(left) + ' left' if self._beat else 'starting'}"
        row = Table.grid(padding=0)
        row.add_row(ProgressBar(total=1.0, completed=share, width=max(8, width - 30)), Text(told))
        return row

    def _counts(self, width: int, dot: str) -> Text:
        from rich.text import Text

        failed, running = len(self._failures), len(self._running)
        waiting = max(0, self._total - self._ended - failed - running)
        line = Text(f"{self._ended} done {dot} {running} running {dot} {waiting} waiting {dot} ")
        line.append(f"{failed} failed", STYLES["FAILED"] if failed else "")
        if self._beat:
            now = rough_size(self._beat.memory)
            memory = next(
                (
                    text
                    for text in (f"  memory {now} of {rough_size(self._beat.budget)}", f"  {now}")
                    if len(line) + len(text) <= width
                ),
                "",
            )
            line.append(f"{memory:>{max(0, width - len(line))}}")
        line.truncate(width)
        return line
