"""The table of a verification, as it is shown and as its record keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


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
            from rich.table import Table as Drawn

            drawn = Drawn(*self.columns, title=self.title, title_justify="left")
            for row in self.rows:
                drawn.add_row(*row, style="red" if row[-1] == "WRONG" else None)
            console.print(drawn)
        else:
            width = [max(len(row[i]) for row in (self.columns, *self.rows)) for i in range(len(self.columns))]
            for row in (self.columns, *self.rows):
                _say(console, "  ".join(cell.ljust(w) for cell, w in zip(row, width)).rstrip())
        for line in self.lines[:-1]:
            _say(console, line)
        _say(console, self.lines[-1], "bold green" if self.ok else "bold red")


def _say(console: Console, text: str, style: str | None = None) -> None:
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
