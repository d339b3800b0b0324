"""Prints the tables of a benchmark, and writes them as JSON and Markdown."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from benchmarks.timing import Ratio

JSON_FILE, MARKDOWN_FILE = "bench.json", "bench.md"


@dataclasses.dataclass(frozen=True)
class Missing:
    """A number that this run did not measure.

    Attributes:
        reason: the reason, as a phrase.
    """

    reason: str


@dataclasses.dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        key: the key of its cells in the rows.
        title: the heading, with the unit.
        digits: the significant digits of numbers.
    """

    key: str
    title: str
    digits: int = 3


@dataclasses.dataclass
class Table:
    """A table of a part.

    Attributes:
        title: the contenders and the sizes.
        columns: the columns, in order.
        rows: key -> text, number, ``Ratio`` or ``Missing``; every row has every column.
        notes: sentences to print below the table.
    """

    title: str
    columns: tuple[Column, ...]
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def add(self, **cells: Any) -> None:
        """Adds a row; cells that are not given are missing.

        Raises:
            ValueError: a cell belongs to no column.
        """
        unknown = set(cells) - {column.key for column in self.columns}
        if unknown:
            raise ValueError(f"no such column: {', '.join(sorted(unknown))}")
        self.rows.append({column.key: _checked(cells.get(column.key)) for column in self.columns})

    def texts(self) -> tuple[list[list[str]], list[str]]:
        """Returns the rows as text, and the footnotes that they refer to."""
        reasons: list[str] = []

        def text(cell: Any, column: Column) -> str:
            if isinstance(cell, Missing):
                if cell.reason not in reasons:
                    reasons.append(cell.reason)
                return f"- [{reasons.index(cell.reason) + 1}]"
            return format_number(cell, column.digits)

        lines = [[text(row[c.key], c) for c in self.columns] for row in self.rows]
        return lines, [f"[{i + 1}] {reason}" for i, reason in enumerate(reasons)]

    def as_dict(self) -> dict[str, Any]:
        """Returns the table for JSON; missing cells are null, with the reason in ``reasons``."""
        rows = []
        for row in self.rows:
            reasons = {key: cell.reason for key, cell in row.items() if isinstance(cell, Missing)}
            cells = {key: None if key in reasons else _plain(cell) for key, cell in row.items()}
            rows.append(cells | ({"reasons": reasons} if reasons else {}))
        titles = {column.key: column.title for column in self.columns}
        return {"title": self.title, "columns": titles, "rows": rows, "notes": self.notes}

    def markdown(self) -> str:
        """Returns a section of Markdown with the table and its notes."""
        lines, footnotes = self.texts()
        titles = [column.title for column in self.columns]
        table = [titles, ["---", *["---:"] * (len(titles) - 1)], *lines]
        rows = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table]
        notes = [f"- {note}" for note in (*self.notes, *footnotes)]
        return "\n".join([f"## {self.title}", "", *rows, "", *notes, ""])

    def show(self, console: Console) -> None:
        """Prints the table and its notes."""
        table = RichTable(title=self.title, title_justify="left", title_style="bold")
        for number, column in enumerate(self.columns):
            table.add_column(column.title, justify="left" if number == 0 else "right")
        lines, footnotes = self.texts()
        for line in lines:
            table.add_row(*(cell.replace("[", "\\[") for cell in line))
        console.print(table)
        for note in (*self.notes, *footnotes):
            console.print(f"  {note}", markup=False, highlight=False)
        console.print()


def _checked(cell: Any) -> Any:
    if cell is None:
        return Missing("not measured")
    if isinstance(cell, float) and not math.isfinite(cell):
        return Missing(f"the result was {cell}")
    return cell


def format_number(cell: Any, digits: int = 3) -> str:
    """Formats a cell: finite numbers with this many significant digits."""
    if isinstance(cell, bool | int | str | Ratio):
        return str(cell)
    number = float(cell)
    if number == 0:
        return "0"
    magnitude = len(str(int(abs(number)))) if abs(number) >= 1 else 0
    if magnitude:
        return f"{number:,.{max(0, digits - magnitude)}f}"
    return f"{number:.{digits}g}" if abs(number) >= 1e-4 else f"{number:.1e}"


def _plain(cell: Any) -> Any:
    return cell.as_dict() if isinstance(cell, Ratio) else cell


@dataclasses.dataclass
class Part:
    """The results of one part of the benchmark.

    Attributes:
        name: the name of the part.
        tables: the tables, in order.
        pictures: the files of pictures beside the JSON.
        data: further results for the JSON, such as the times of each round.
        seconds: the time that the part took.
    """

    name: str
    tables: list[Table] = dataclasses.field(default_factory=list)
    pictures: list[str] = dataclasses.field(default_factory=list)
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Returns the part for JSON."""
        tables = [table.as_dict() for table in self.tables]
        named = {"name": self.name, "seconds": round(self.seconds, 1), "tables": tables}
        return named | {"pictures": self.pictures, "data": self.data}


def write(out: Path, header: Mapping[str, Any], parts: Sequence[Part]) -> None:
    """Writes ``bench.json`` and ``bench.md`` with the parts so far.

    Args:
        out: an existing folder.
        header: machine, versions, command, date and options.
        parts: the finished parts.
    """
    record = {"header": dict(header), "parts": [part.as_dict() for part in parts]}
    (out / JSON_FILE).write_text(json.dumps(record, indent=1) + "\n")
    (out / MARKDOWN_FILE).write_text(_markdown(header, parts))


def _markdown(header: Mapping[str, Any], parts: Iterable[Part]) -> str:
    lines = ["# Benchmark", ""]
    lines += [f"- {key}: {value}" for key, value in header.items()]
    lines.append("")
    for part in parts:
        for table in part.tables:
            lines.append(table.markdown())
        lines += [f"![{part.name}]({picture})\n" for picture in part.pictures]
    return "\n".join(lines)
