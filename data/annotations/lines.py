"""Reads and checks the lines of an annotation file; errors name the line."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from emojax.errors import InputError
from emojax.specs import TASKS

_NUMBERS = re.compile(r"[0-9eE+\-.,\n \t]*")


def read_lines(path: Path) -> list[str]:
    """Reads the lines of a text file without trailing blank ones; at least one.

    Raises:
        InputError: the file cannot be read, is not UTF-8 or holds nothing.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(
            "An annotation file cannot be read.", file=path, found=error.strerror
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            "An annotation file is not text.",
            file=path,
            field=f"byte {error.start}",
            found=error.reason,
            expected="UTF-8 text",
            remedy="unpack the annotations again",
        ) from error
    lines = text.replace("\r\n", "\n").split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise InputError(
            "An annotation file is empty.",
            file=path,
            field="line 1",
            found="nothing",
            expected="a header and one line per frame",
            remedy="unpack the annotations again",
        )
    return lines


def check_header(path: Path, line: str, *accepted: tuple[str, ...]) -> None:
    """Refuses a first line whose columns are none of those accepted; case does not matter."""
    names = tuple(name.strip().lower() for name in line.split(","))
    if names not in [tuple(name.lower() for name in header) for header in accepted]:
        raise InputError(
            "An annotation file has another header.",
            file=path,
            field="line 1",
            found=_short(line),
            expected=",".join(accepted[0]),
            remedy="check that the file lies in the folder of its task"
            if columns_order(line, accepted[0]) is None
            else "the columns are in another order: --columns_by_name reads them by their names",
        )


def columns_order(line: str, header: tuple[str, ...]) -> list[int] | None:
    """Returns the place of each column of a header in a line; None if other columns are there."""
    names = [name.strip().lower() for name in line.split(",")]
    wanted = [name.lower() for name in header]
    if sorted(names) != sorted(wanted) or len({*names}) < len(names):
        return None
    return [names.index(name) for name in wanted]


def parse_numbers(path: Path, lines: list[str], columns: int, *, first_line: int = 2) -> np.ndarray:
    """Reads the numbers of comma-separated lines, all at once because there may be millions.

    Args:
        path: the file that messages name.
        lines: without the header.
        columns: numbers in each line.
        first_line: number of the first of ``lines`` in its file.

    Returns:
        (lines, columns) float64.

    Raises:
        InputError: a line is something else, naming it.
    """
    text = "\n".join(lines)
    if _NUMBERS.fullmatch(text) and all(line.count(",") == columns - 1 for line in lines):
        try:
            values = np.fromiter(map(float, text.replace("\n", ",").split(",")), np.float64)
            return values.reshape(len(lines), columns)
        except ValueError:
            pass  # the line is found below
    what = f"{columns} numbers, separated by commas" if columns > 1 else "one number"
    for row, line in enumerate(lines):
        fields = line.split(",")
        if not _NUMBERS.fullmatch(line) or len(fields) != columns:
            raise bad_line(path, row + first_line - 2, line, what)
        try:
            [float(field) for field in fields]
        except ValueError as error:
            raise bad_line(path, row + first_line - 2, line, what) from error
    raise AssertionError("unreachable: one of the lines is wrong")


def check_values(path: Path, values_NK: np.ndarray, task: str) -> None:
    """Refuses labels (frames, columns) outside the task's range that are no ignore value."""
    spec = TASKS[task]
    if spec.kind == "continuous":
        good_NK = (values_NK >= -1) & (values_NK <= 1)
        what = f"numbers from -1 to 1, or {spec.ignore:g}: not annotated"
    else:
        largest = len(spec.labels) - 1 if spec.kind == "categorical" else 1
        good_NK = (values_NK >= 0) & (values_NK <= largest) & (values_NK == np.floor(values_NK))
        what = f"whole numbers from 0 to {largest}, or {spec.ignore:g}: not annotated"
    good_NK |= values_NK == spec.ignore
    if good_NK.all():
        return
    row, column = (int(i) for i in np.argwhere(~good_NK)[0])
    name = spec.labels[column] if spec.columns > 1 else task
    raise InputError(
        "An annotation is out of range.",
        file=path,
        field=f"line {row + 2}, {name}",
        found=f"{values_NK[row, column]:g}",
        expected=what,
    )


def as_labels(values_NK: np.ndarray, task: str) -> np.ndarray:
    """Converts checked values to float32 labels; a frame without valence or arousal has neither."""
    labels_NK = values_NK.astype(np.float32)
    spec = TASKS[task]
    if spec.kind == "continuous":
        labels_NK[(values_NK == spec.ignore).any(axis=1)] = spec.ignore
    return labels_NK


def bad_line(path: Path, row: int, line: str, expected: str) -> InputError:
    """Returns the error about a line; ``row`` counts from 0 after the header."""
    return InputError(
        "A line of an annotation file cannot be read.",
        file=path,
        field=f"line {row + 2}",
        found=_short(line),
        expected=expected,
        remedy="unpack the annotations again",
    )


def _short(line: str) -> str:
    return repr(line if len(line) <= 60 else line[:57] + "...")
