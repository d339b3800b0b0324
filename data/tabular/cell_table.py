"""A table as a tool wrote it: names of columns, and rows of text cells."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from emojax.errors import InputError

from .cells import BadCellError, number_of, parse_numbers, parse_times

_FILLERS = re.compile(r"[\s_.\-]+")


@dataclasses.dataclass(frozen=True)
class Table:
    """A table as text.

    Attributes:
        file: where it was read.
        names: the names of its columns, stripped; "0", "1" and so on if the file has none.
        cells: rows of as many cells, stripped.
        lines: the line of the file on which each row ends; none if the file has no lines.
        decimal_comma: "0,5" is a half.
        headless: the file has no names of columns.
    """

    file: Path
    names: tuple[str, ...]
    cells: list[list[str]]
    lines: tuple[int, ...] = ()
    decimal_comma: bool = False
    headless: bool = False

    def find(self, candidates: Iterable[str]) -> str | None:
        """Returns the first of the candidates that is a column.

        Args:
            candidates: names as ``plain`` returns them.
        """
        known: dict[str, str] = {}
        for name in self.names:
            known.setdefault(plain(name), name)
        return next((known[name] for name in candidates if name in known), None)

    def column(self, name: str) -> list[str]:
        """Returns the cells of a column.

        Raises:
            InputError: the column is there twice.
        """
        if self.names.count(name) > 1:
            raise self.error(f"column {name}", "the column twice", "distinct names")
        return self._columns[self.names.index(name)]

    @functools.cached_property
    def _columns(self) -> list[list[str]]:
        return [list(cells) for cells in zip(*self.cells, strict=True)]

    def numbers(self, names: Sequence[str]) -> np.ndarray:
        """Returns columns as numbers, (n, columns) float64; cells without a number are NaN.

        Raises:
            InputError: a cell is no number, or a column is there twice.
        """
        numbers_ND = np.empty((len(self.cells), len(names)), np.float64)
        for d, name in enumerate(names):
            cells = self.column(name)
            try:
                numbers_ND[:, d] = parse_numbers(cells, decimal_comma=self.decimal_comma)
            except BadCellError as error:
                raise self._bad_cell(error.row, name, cells[error.row], "a number") from None
        return numbers_ND

    def times(self, name: str) -> tuple[np.ndarray, bool]:
        """Returns a column as times, (n,) float64, and True if its cells say that they are seconds.

        Raises:
            InputError: a cell is no time, or the column is there twice.
        """
        cells = self.column(name)
        try:
            return parse_times(cells, decimal_comma=self.decimal_comma)
        except BadCellError as error:
            expected = "a time: a number, 00:00:01.5, 0 days 00:00:01.5, or a date with a time"
            raise self._bad_cell(error.row, name, cells[error.row], expected) from None

    def is_text(self, name: str) -> bool:
        """Returns True if no cell of a column looks like a number, and not all are empty."""
        cells = [cell for cell in self.column(name) if cell]
        return bool(cells) and not any(
            re.match(r"[+-]?[.,]?\d", cell)
            or number_of(cell, decimal_comma=self.decimal_comma) is not None
            for cell in cells
        )

    def where(self, row: int) -> str:
        """Returns the place of a row in its file, such as "line 3"."""
        return f"line {self.lines[row]}" if self.lines else f"row {row + 1}"

    def chosen(self, rows: Sequence[int]) -> Table:
        """Returns the table of some of the rows."""
        cells = [self.cells[row] for row in rows]
        lines = tuple(self.lines[row] for row in rows) if self.lines else ()
        return dataclasses.replace(self, cells=cells, lines=lines)

    def error(
        self, field: str, found: object, expected: object, remedy: str | None = None
    ) -> InputError:
        """Returns an error about this table."""
        return InputError(
            "A table is malformed.",
            file=self.file,
            field=field,
            found=found,
            expected=expected,
            remedy=remedy,
        )

    def _bad_cell(self, row: int, name: str, cell: str, expected: str) -> InputError:
        remedy = "correct the cell, or leave the column out: columns=PATTERN+PATTERN"
        if re.fullmatch(r"[+-]?\d+,\d+", cell):
            remedy = "this looks like a decimal comma: write all numbers of the table with one, "
            remedy += "cells parted by semicolons or tabs, or all with a point"
        elif re.fullmatch(r"[+-]?\d{1,3}([.,' ]\d{3})+([.,]\d+)?", cell):
            remedy = "write numbers without marks between thousands"
        return self.error(f"{self.where(row)}, column {name}", repr(cell[:40]), expected, remedy)


def plain(name: str) -> str:
    """Returns a column's name without case, spaces, underscores, dots and hyphens."""
    return _FILLERS.sub("", name).casefold()
