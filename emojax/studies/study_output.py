"""Writes a CSV for each table of a study and one JSON document, and prints the tables."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from emojax.ops.json_values import json_values
from emojax.screen import shown


@dataclasses.dataclass(frozen=True)
class StudyTable:
    """A table of a study. Files have all of its rows; the screen may show only some.

    Attributes:
        name: the name of the CSV file, without ending.
        title: the title on the screen.
        rows: column -> cell, the same columns in every row; None for an empty cell.
        shown: the rows for the screen; all by default.
        caption: an explanation to print below the table.
    """

    name: str
    title: str
    rows: Sequence[Mapping[str, Any]]
    shown: Sequence[Mapping[str, Any]] | None = None
    caption: str = ""


def write_tables(folder: Path, facts: Mapping[str, Any], tables: Sequence[StudyTable]) -> None:
    """Writes NAME.csv for each table and ``study.json`` with the facts and all tables.

    Numbers have all their digits. None and NaN are null in JSON and empty in CSV.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for table in tables:
        with (folder / f"{table.name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(list(table.rows[0]) if table.rows else [])
            writer.writerows(json_values(row).values() for row in table.rows)
    document = dict(facts) | {table.name: list(table.rows) for table in tables}
    text = json.dumps(json_values(document), indent=1, ensure_ascii=False)
    (folder / "study.json").write_text(text + "\n", encoding="utf-8")


def print_tables(tables: Sequence[StudyTable], console: Console) -> None:
    """Prints tables; leading cells that repeat those of the row above stay empty."""
    for table in tables:
        rows = table.rows if table.shown is None else table.shown
        if not rows:
            continue
        shown = Table(title=table.title, title_justify="left", caption=table.caption or None)
        shown.caption_justify = "left"
        for name in rows[0]:
            number = any(isinstance(row[name], int | float) for row in rows)
            shown.add_column(name, justify="right" if number else "left")
        above: list[Any] = []
        for row in rows:
            cells = list(row.values())
            same = 0
            while same < len(above) and cells[same] == above[same] and isinstance(cells[same], str):
                same += 1
            shown.add_row(*([""] * same), *(_cell(cell) for cell in cells[same:]))
            above = cells
        console.print(shown)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    return str(value)


@contextmanager
def progress_bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """Yields a function of the work done and the whole work that draws a bar on a terminal."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        disable=not (sys.stderr.isatty() and shown()),
    )
    with bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
