"""Numbers and times as people's tools write them, converted from text.

Windows prints NaN as ``-nan(ind)`` or ``1.#QNAN``, R as ``NA``, Excel as ``#N/A``; pandas writes
True and False, spans such as ``0 days 00:00:00.010000``, and dates; German and French programs
write a decimal comma.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable, Sequence

import numpy as np

_NAN = {
    "",
    "na",
    "n/a",
    "#n/a",
    "#na",
    "nan",
    "-nan",
    "+nan",
    "null",
    "none",
    "missing",
    "nil",
    "?",
    ".",
}
_WINDOWS = re.compile(r"([+-]?)(?:\d\.#(ind|qnan|snan|inf)\d*|nan\((?:ind|snan|qnan|s?nan)\))")
_COMMA = re.compile(r"[+-]?(?:\d+,\d*|,\d+|\d+)(?:e[+-]?\d+)?")
_POINT = re.compile(r"[+-]?(?:\d+\.\d*|\.\d+)(?:e[+-]?\d+)?")
_TRUTH = {"true": 1.0, "false": 0.0}
_SPAN = re.compile(
    r"(?P<days>[+-]?\d+) days?,?(?: (?P<sign>[+-])?(?P<clock>\d{1,2}:\d{2}:\d{2}(?:\.\d+)?))?"
    r"|(?P<minus>-)?(?P<long>\d+:\d{1,2}:\d{2}(?:\.\d+)?)|(?P<short>\d{1,3}:\d{2}\.\d+)"
)
_WITH_UNIT = re.compile(r"([+-]?\d+(?:\.\d*)?(?:e[+-]?\d+)?) ?(s|sec|ms|msec|us|µs)")
_UNIT_SECONDS = {"s": 1.0, "sec": 1.0, "ms": 1e-3, "msec": 1e-3, "us": 1e-6, "µs": 1e-6}


class BadCellError(ValueError):
    """A cell is no number or time.

    Attributes:
        row: its row, from 0.
    """

    def __init__(self, row: int) -> None:
        super().__init__(row)
        self.row = row


def parse_numbers(cells: Sequence[str], *, decimal_comma: bool = False) -> np.ndarray:
    """Converts cells to numbers, (n,) float64; empty cells and the words for it are NaN.

    Args:
        cells: text without spaces around it.
        decimal_comma: "0,5" is a half.

    Raises:
        BadCellError: a cell is something else.
    """
    # Python reads "1_000" as a number, which no table means.
    if "_" not in "".join(cells):
        try:
            return np.array([float(cell) if cell else math.nan for cell in cells], np.float64)
        except ValueError:
            pass  # one of the other forms, below
    numbers_N = np.empty(len(cells), np.float64)
    for row, cell in enumerate(cells):
        found = number_of(cell, decimal_comma=decimal_comma)
        if found is None:
            raise BadCellError(row)
        numbers_N[row] = found
    return numbers_N


def number_of(cell: str, *, decimal_comma: bool = False) -> float | None:
    """Returns the number that a cell holds, NaN if it says that there is none, or None."""
    text = cell.casefold()
    if text in _NAN:
        return math.nan
    if text in _TRUTH:
        return _TRUTH[text]
    if decimal_comma and _COMMA.fullmatch(text):
        text = text.replace(",", ".")
    windows = _WINDOWS.fullmatch(text)
    if windows:
        infinite = windows[2] == "inf"
        return (-math.inf if windows[1] == "-" else math.inf) if infinite else math.nan
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def uses_decimal_comma(cells: Sequence[str]) -> bool:
    """Returns True if some cells have a comma where others of the kind have a point, or none has.

    Args:
        cells: cells of a table that is not parted by commas.
    """
    commas = points = 0
    for cell in cells:
        text = cell.casefold()
        commas += "," in text and _COMMA.fullmatch(text) is not None
        points += _POINT.fullmatch(text) is not None
    return commas > 0 and points == 0


def parse_times(cells: Sequence[str], *, decimal_comma: bool = False) -> tuple[np.ndarray, bool]:
    """Converts cells to times.

    Args:
        cells: text without spaces around it.
        decimal_comma: "0,5" is a half.

    Returns:
        (n,) float64; and True if the cells tell their unit, so that these are seconds: spans such
        as ``0 days 00:00:00.01`` or ``00:01:02.5``, numbers with a unit, or dates, which
        become seconds since 1970.

    Raises:
        BadCellError: a cell is no time, or of another form than the cells before.
    """
    try:
        return parse_numbers(cells, decimal_comma=decimal_comma), False
    except BadCellError as error:
        failed = error
    for convert in (_span, _with_unit, _date):
        try:
            return _convert(cells, convert), True
        except BadCellError as error:
            failed = max(failed, error, key=lambda one: one.row)
    raise failed


def _convert(cells: Sequence[str], convert: Callable[[str], float | None]) -> np.ndarray:
    times_N = np.empty(len(cells), np.float64)
    for row, cell in enumerate(cells):
        found = math.nan if cell.casefold() in _NAN or cell == "NaT" else convert(cell)
        if found is None:
            raise BadCellError(row)
        times_N[row] = found
    return times_N


def _span(cell: str) -> float | None:
    parts = _SPAN.fullmatch(cell.replace(",", ".") if cell.count(",") == 1 else cell)
    if not parts:
        parts = _SPAN.fullmatch(cell)
    if not parts:
        return None
    clock = parts["clock"] or parts["long"] or parts["short"] or "0"
    seconds = 0.0
    for part in clock.split(":"):
        seconds = 60 * seconds + float(part)
    if parts["sign"] == "-" or parts["minus"]:
        seconds = -seconds
    return 86400.0 * float(parts["days"] or 0) + seconds


def _with_unit(cell: str) -> float | None:
    parts = _WITH_UNIT.fullmatch(cell)
    return float(parts[1]) * _UNIT_SECONDS[parts[2]] if parts else None


def _date(cell: str) -> float | None:
    if "-" not in cell or ":" not in cell:
        return None
    try:
        date = datetime.datetime.fromisoformat(cell)
    except ValueError:
        return None
    return (date if date.tzinfo else date.replace(tzinfo=datetime.UTC)).timestamp()
