"""The table of a verification, as it is shown and as its record keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

SPARE = ("max abs", "cosine", "NaN")  # columns that a narrow terminal goes without, in this order
GAP = 2  # columns of a terminal between two of a table


@dataclass(frozen=True)
class Table:
    """title: what was verified; columns and rows: cells of text, the last of a row being its verdict; lines: what is
    told below, the last of which is the verdict on the whole; ok: that verdict.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[str, ...]
    ok: bool

    @classmethod
    def of_dict(cls, data: Mapping[str, Any]) -> Table:
        """Undo `to_dict`."""
        return cls(
            data["title"], tuple(data["columns"]), tuple(map(tuple, data["rows"])), tuple(data["lines"]), data["ok"]
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def show(self, console: Console) -> None:
        """Print it: in colour on a terminal, plain elsewhere."""
        if console.is_terminal:
            self._draw(console)
        else:
            width = [max(len(row[i]) for row in (self.columns, *self.rows)) for i in range(len(self.columns))]
            for row in (self.columns, *self.rows):
                _say(console, "  ".join(cell.ljust(w) for cell, w in zip(row, width)).rstrip())
        for line in self.lines[:-1]:
            _say(console, line)
        _say(console, self.lines[-1], "bold green" if self.ok else "bold red")

    def _draw(self, console: Console) -> None:
        """On a terminal, in columns that its width has room for; names are never cut."""
        from rich import box
        from rich.table import Table as Drawn
        from rich.text import Text

        # a limit's second half, in brackets, stands below the first
        rows = [tuple(cell.replace(" (torch", "\n(torch") for cell in row) for row in self.rows]
        shown = self._fitting(rows, console.width)
        drawn = Drawn(
            title=Text(self.title), title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False
        )
        for at in shown:
            drawn.add_column(self.columns[at], no_wrap=at == 0, overflow="ignore" if at == 0 else "fold")
        for row in rows:
            drawn.add_row(*(Text(row[at]) for at in shown), style="red" if row[-1] == "WRONG" else None)
        console.print(drawn)
        if left := [name for at, name in enumerate(self.columns) if at not in shown]:
            _say(console, f"verify.json, and a wider window, have {', '.join(left)} too", "dim")

    def _fitting(self, rows: Sequence[Sequence[str]], width: int) -> list[int]:
        """The numbers of the columns that are shown: those of SPARE are left out one by one until the rest fits."""
        widths = [
            max(len(line) for row in (self.columns, *rows) for line in row[at].split("\n"))
            for at in range(len(self.columns))
        ]
        shown = list(range(len(self.columns)))
        for name in SPARE:
            if sum(widths[at] + GAP for at in shown) > width and name in self.columns:
                shown.remove(self.columns.index(name))
        return shown


def _say(console: Console, text: str, style: str | None = None) -> None:
    """Whole lines; a terminal's are broken between words."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=not console.is_terminal)
