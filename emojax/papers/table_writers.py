"""Prints a table and writes it as Markdown, JSON, CSV and a picture."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from emojax.ops.json_values import json_values
from emojax.papers.table_plan import places
from emojax.papers.table_results import Cell, Line, Result
from emojax.papers.table_runs import write_atomically
from emojax.published.schema import Column, PaperTable

TABLE_FILES = ("TABLE.md", "TABLE.json", "TABLE.csv")
PICTURE = "TABLE.png"
OPTIMUM_ROW = "optimum of the simulation"
_WIDE = 4  # columns; a screen has no room for the ranges of more


def header(result: Result) -> list[str]:
    """Returns the headings: labels, texts, and ours, the optimum and the paper's of each column."""
    names = [result.table.label, *result.table.facts]
    for column in result.table.columns:
        names.append(f"{column.title}, ours")
        names += [f"{column.title}, optimum"] if _has_optimum(result, column) else []
        names += [f"{column.title}, paper"] if column.published and _any_published(result) else []
    return names


def rows(result: Result) -> list[list[str]]:
    """Returns the cells under ``header``; an optimum that all rows share gets a row of its own."""
    found = [_texts(result, line) for line in result.lines]
    if _shares_optimum(result):
        published = _any_published(result)
        texts = [OPTIMUM_ROW, *[""] * len(result.table.facts)]
        for column, number in zip(result.table.columns, _optimum(result), strict=True):
            texts += [number, ""] if column.published and published else [number]
        found.append(texts)
    return found


def _optimum(result: Result) -> list[str]:
    """Returns the optimum that all rows share, column by column."""
    columns = zip(*(line.cells for line in result.lines), strict=True)
    known = ([cell.optimum for cell in cells if cell.optimum is not None] for cells in columns)
    return [_number(result.table, values[0] if values else None) for values in known]


def _texts(result: Result, line: Line) -> list[str]:
    table = result.table
    texts = [line.label, *line.row.facts]
    texts += [""] * (1 + len(table.facts) - len(texts))
    for column, cell in zip(table.columns, line.cells, strict=True):
        texts.append(_ours(table, cell))
        texts += [_number(table, cell.optimum)] if _has_optimum(result, column) else []
        if column.published and _any_published(result):
            texts.append(_number(table, cell.published, exact=True) + cell.published_mark)
    return texts


def _shares_optimum(result: Result) -> bool:
    """Returns True if all rows share one optimum; rows of several folds do not."""
    columns = zip(*(line.cells for line in result.lines), strict=True)
    known = [{cell.optimum for cell in cells} - {None} for cells in columns]
    return any(known) and all(len(values) <= 1 for values in known)


def _has_optimum(result: Result, column: Column) -> bool:
    """Returns True if the optimum gets a column of its own."""
    if _shares_optimum(result):
        return False
    at = result.table.columns.index(column)
    return any(line.cells[at].optimum is not None for line in result.lines)


def _any_published(result: Result) -> bool:
    return any(line.row.published for line in result.lines)


def _ours(table: PaperTable, cell: Cell) -> str:
    if cell.mean is None:
        return cell.state
    text = _number(table, cell.mean) + cell.mark
    if len(cell.sound) > 1:
        text += f" [{_number(table, min(cell.sound))}, {_number(table, max(cell.sound))}]"
    return text + (f" /{len(cell.sound)}" if len(cell.sound) < len(cell.values) else "")


def _number(table: PaperTable, value: float | None, *, exact: bool = False) -> str:
    """Formats a number with the paper's decimals; ``exact`` prints as many as the number has."""
    if value is None:
        return "-"
    if table.digits is None:
        return f"{value:g}" if exact else f"{value:.1f}"
    return f"{value:.{table.digits}f}"


# -- files -------------------------------------------------------------------------------------


def write_table(folder: Path, result: Result) -> list[Path]:
    """Writes ``TABLE.md``, ``TABLE.json``, ``TABLE.csv`` and, of a curve, ``TABLE.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    makers: tuple[Callable[[Result], str], ...] = (markdown, as_json, as_csv)
    files = []
    for name, make in zip(TABLE_FILES, makers, strict=True):
        files.append(folder / name)
        write_atomically(files[-1], make(result))
    if result.table.curve and any(cell.sound for line in result.lines for cell in line.cells):
        files.append(folder / PICTURE)
        draw(files[-1], result)
    return files


def markdown(result: Result) -> str:
    """Returns the table in Markdown, with its title above and its notes below."""
    names = header(result)
    lines = [f"# {result.table.name}", "", result.title, ""]
    for cells in (names, ["---"] * len(names), *rows(result)):
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines += [""] + [f"- {note}" for note in _below(result)]
    return "\n".join(lines) + "\n"


def _below(result: Result) -> list[str]:
    return [*result.notes, *(test.line() for test in result.comparisons)]


def as_json(result: Result) -> str:
    """Returns the whole result in JSON, including each seed's value."""
    table = result.table
    document: dict[str, Any] = {
        "table": table.name,
        "title": result.title,
        "data": result.data,
        "simulated": result.simulated,
        "budget": result.budget,
        "seeds": result.seeds,
        "rows": [
            {
                "label": line.row.label,
                "shown_as": line.label,
                "facts": dict(zip(table.facts, line.row.facts, strict=False)),
                "config": line.row.training.config if line.row.training else None,
                "published_only": not line.row.ours,
                "run": line.run or None,
                "seconds": line.seconds,
                "columns": {
                    column.title: _cell_document(cell)
                    for column, cell in zip(table.columns, line.cells, strict=True)
                },
            }
            for line in result.lines
        ],
        "comparisons": [dataclasses.asdict(test) for test in result.comparisons],
        "notes": list(result.notes),
    }
    # The value of a diverged seed is NaN, which JSON does not have.
    return json.dumps(json_values(document), indent=1) + "\n"


def _cell_document(cell: Cell) -> dict[str, Any]:
    return {
        "values": cell.values,
        "mean": cell.mean,
        "low": min(cell.sound, default=None),
        "high": max(cell.sound, default=None),
        "state": cell.state,
        "significant": bool(cell.mark),
        "optimum": cell.optimum,
        "paper": cell.published,
        "paper_significant": bool(cell.published_mark),
    }


def as_csv(result: Result) -> str:
    """Returns CSV with one line for each number: row, column, data, ours and the paper's."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["table", "row", "column", "data", "simulated", "budget", "seeds", "mean", "low", "high",
         "optimum", "paper", "state"]
    )  # fmt: skip
    for line in result.lines:
        for column, cell in zip(result.table.columns, line.cells, strict=True):
            found = _cell_document(cell)
            numbers = [found[key] for key in ("mean", "low", "high", "optimum", "paper")]
            writer.writerow(
                [
                    *(result.table.name, line.label, column.title, result.data),
                    *(str(result.simulated).lower(), result.budget, len(cell.sound)),
                    *("" if x is None else f"{x:.6g}" for x in numbers),
                    cell.state,
                ]
            )
    return text.getvalue()


def draw(path: Path, result: Result) -> None:
    """Draws the curves of all columns: mean and range of ours, crosses for the paper's."""
    table = result.table
    figure = Figure(figsize=(8.0, 4.6), layout="constrained")
    axes = figure.subplots()
    for number, column in enumerate(table.columns):
        cells = [(line.row.x, line.cells[number]) for line in result.lines]
        ours = sorted((x, cell) for x, cell in cells if x is not None and cell.sound)
        color = f"C{number}"
        if ours:
            x = [x for x, _ in ours]
            axes.plot(x, [cell.mean or 0.0 for _, cell in ours], "o-", color=color,
                      label=f"{column.title}, ours")  # fmt: skip
            low, high = [min(c.sound) for _, c in ours], [max(c.sound) for _, c in ours]
            axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
        paper = [(x, cell.published) for x, cell in cells if x is not None and cell.published]
        if paper:
            axes.plot(*zip(*paper, strict=True), "x", color=color, markersize=9,
                      label=f"{column.title}, paper (Aff-Wild2)")  # fmt: skip
    axes.set_xlabel(table.curve)
    axes.grid(color="#e3e6ea")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.suptitle(_folded(result.title), fontsize=9)
    figure.savefig(path, dpi=110)


def _folded(title: str) -> str:
    """Breaks a title into lines of a picture's width."""
    lines, line = [], ""
    for word in title.split():
        if line and len(line) + len(word) > 100:
            lines.append(line)
            line = ""
        line = f"{line} {word}".strip()
    return "\n".join([*lines, line])


# -- screen ------------------------------------------------------------------------------------


def print_table(result: Result, console: Console) -> None:
    """Prints the table and its notes; a wide table shows means above the paper's numbers."""
    many = len(result.table.columns) > _WIDE
    table = Table(title=escape(f"{result.table.name}: {result.title}"), title_justify="left")
    titles = [column.title for column in result.table.columns]
    facts = [result.table.label, *result.table.facts]
    for number, name in enumerate([*facts, *titles] if many else header(result)):
        table.add_column(escape(name), justify="left" if number < len(facts) else "right")
    shown = [_brief(result.table, line) for line in result.lines] if many else rows(result)
    if many and _shares_optimum(result):
        shown.append([OPTIMUM_ROW, *[""] * len(result.table.facts), *_optimum(result)])
    for texts in shown:
        table.add_row(*(escape(text) for text in texts))
    console.print(table)
    if many:
        where = TABLE_FILES[0]
        console.print(f"- Ours (mean), and below it (the paper's); ranges and more in {where}.")
    for note in _below(result):
        console.print(f"- {note}", markup=False, emoji=False, highlight=False)


def _brief(table: PaperTable, line: Line) -> list[str]:
    texts = [line.label, *line.row.facts]
    for cell in line.cells:
        ours = cell.state if cell.mean is None else _number(table, cell.mean) + cell.mark
        texts.append(f"{ours}\n({_number(table, cell.published, exact=True)})")
    return texts


def print_list(tables: Sequence[tuple[PaperTable, int, int]], console: Console) -> None:
    """Prints each table with its number of trainings and of trained models."""
    screen = Table(title="tables and curves of the five papers", title_justify="left")
    for name in ("name", "shows", "partition", "folds", "trainings", "models a seed", "rows",
                 "published only"):  # fmt: skip
        screen.add_column(name, justify="left" if name in ("name", "shows", "partition", "folds")
                          else "right")  # fmt: skip
    for table, trainings, models in tables:
        parts, folds = where(table)
        screen.add_row(
            table.name,
            escape(f"{table.paper.split(', ', 1)[1]}, {table.title}: {table.shows}"),
            ", ".join(parts) or "-",
            ", ".join(folds) or "-",
            str(trainings),
            str(models),
            str(sum(row.ours for row in table.rows)),
            str(sum(not row.ours for row in table.rows)),
        )
    console.print(screen)


def where(table: PaperTable) -> tuple[list[str], list[str]]:
    """Returns the partitions and folds that the numbers of emojax are from, sorted."""
    found = [one for _, one in places(table, table.rows)]
    partitions = {one.partition for one in found}
    return sorted(partitions, reverse=True), sorted({one.fold for one in found})
