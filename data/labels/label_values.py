"""Converts the cells of labels to the values of a task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from emojax.errors import closest
from emojax.specs import TaskSpec

from ..tabular.cell_table import Table, plain
from ..tabular.cells import number_of
from .label_options import LabelOptions

# Usual names of the column that holds a class.
_CLASS_COLUMNS = ("label", "class", "emotion", "expression", "category", "value")


def label_columns(table: Table, options: LabelOptions) -> tuple[str, ...]:
    """Returns the columns of a table that hold a task's labels, in the order of the task's.

    Raises:
        InputError: they cannot be found.
    """
    task = options.task
    known = {plain(name): name for name in reversed(table.names)}
    shown = ", ".join(table.names[:20])
    if options.columns:
        missing = [name for name in options.columns if name not in table.names]
        if missing:
            raise table.error(f"column={missing[0]}", shown, "a column of this name")
        if len(options.columns) != task.columns:
            count = f"{len(options.columns)} columns"
            raise table.error("column=", count, f"{task.columns} for {', '.join(task.labels[:12])}")
        return options.columns
    if task.kind == "categorical":
        found = [known[name] for name in (plain(task.name), *_CLASS_COLUMNS) if name in known]
        if not found:
            expected = f"a column named {task.name}, or {' or '.join(_CLASS_COLUMNS)}"
            raise table.error(f"labels of {task.name}", shown, expected, "name it: column=NAME")
        return (found[0],)
    chosen = []
    for label in task.labels:
        found = [known[name] for name in _spellings(label) if name in known]
        if not found:
            expected = f"a column for each of {', '.join(task.labels[:12])}"
            remedy = "name them in this order: column=NAME+NAME"
            raise table.error(f"{label} of {task.name}", shown, expected, remedy)
        chosen.append(found[0])
    return tuple(chosen)


def _spellings(label: str) -> list[str]:
    """Returns the plain forms of a label: "au1", "au01", and OpenFace's "au01c" for presence."""
    name = plain(label)
    digits = name.removeprefix("au")
    if name == digits or not digits.isdigit():
        return [name]
    return [name, f"au{int(digits):02d}", f"au{int(digits):02d}c", f"au{int(digits)}c"]


def label_values(table: Table, columns: Sequence[str], options: LabelOptions) -> np.ndarray:
    """Returns the labels of a table's rows, (rows, columns) float32.

    Cells that are empty or hold the task's ignore value, or that of ``ignore=``, are not annotated.

    Raises:
        InputError: a cell is no label of the task.
    """
    task = options.task
    values_MK = np.empty((len(table.cells), len(columns)), np.float64)
    for k, column in enumerate(columns):
        for row, cell in enumerate(table.column(column)):
            found = cell_value(cell, options, decimal_comma=table.decimal_comma)
            if isinstance(found, str):
                where = f"{table.where(row)}, column {column}"
                # All words that mean nothing yet, so that one call more is enough.
                cells = dict.fromkeys(table.column(column)[row:])
                words = [one for one in cells if isinstance(cell_value(one, options), str)]
                shown = ", ".join(repr(word[:40]) for word in words[:12])
                raise table.error(where, shown, found, remedy_for(words, options))
            values_MK[row, k] = found
    if task.kind == "continuous":
        # A frame without one of the dimensions has none of them, as the protocol has it.
        values_MK[(values_MK == task.ignore).any(axis=1)] = task.ignore
    return values_MK.astype(np.float32)


def cell_value(cell: str, options: LabelOptions, *, decimal_comma: bool = False) -> float | str:
    """Returns the value of a cell, or else a text that says what is expected there."""
    task = options.task
    word = options.words.get(cell.casefold())
    if task.kind == "categorical":
        if not cell or word == "-":
            return task.ignore
        names = {plain(name): i for i, name in enumerate(task.labels)}
        index = names.get(plain(word or cell))
        if index is not None:
            return float(index)
    number = number_of(cell, decimal_comma=decimal_comma)
    if number is None:
        return _expected(task)
    if np.isnan(number) or number in (task.ignore, options.number("ignore")):
        return task.ignore
    if task.kind == "continuous":
        low, high = options.scale
        scaled = 2 * (number - low) / (high - low) - 1
        # Half a thousandth of the scale may be lost in printing.
        return float(np.clip(scaled, -1, 1)) if abs(scaled) <= 1.0005 else _expected(task)
    threshold = options.number("threshold")
    if task.kind == "binary":
        if threshold is not None:
            return float(number >= threshold)
        return number if number in (0.0, 1.0) else _expected(task)
    last = len(task.labels) - 1
    return number if number == np.floor(number) and 0 <= number <= last else _expected(task)


def _expected(task: TaskSpec) -> str:
    if task.kind == "continuous":
        return "a number from -1 to 1, or range=LOW:HIGH"
    if task.kind == "binary":
        return "0 or 1, or threshold="
    return ", ".join(task.labels[:12]) + f", or a number from 0 to {len(task.labels) - 1}"


def remedy_for(cells: Sequence[str], options: LabelOptions) -> str:
    """Returns the option that would read cells which are no labels."""
    if options.task.kind == "continuous":
        return "give the ends of the scale, such as range=1:9, which become -1 and 1"
    if options.task.kind == "binary":
        return "give the least value of a unit that is present: threshold=1"
    near = closest(cells[0], options.task.labels) if len(cells) == 1 else None
    pairs = "+".join(f"{cell[:20] or 'WORD'}:CLASS" for cell in cells[:6])
    return (f"{near}; or " if near else "") + f"say what they mean: map={pairs}; - drops a word"
