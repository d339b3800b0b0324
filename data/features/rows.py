"""The rows of a feature file and their numbers or times in it, before any clock."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from emojax.errors import InputError

# A frame number this many times the number of rows is a slip, and would cost as much memory.
_MOST_GAPS = 100
_FEW_ROWS = 10_000


@dataclasses.dataclass(frozen=True)
class RawRows:
    """The rows of one video as a file gives them.

    Attributes:
        rows_ND: (n, D) float16 or float32; anything where not valid.
        valid_N: (n,) bool, False where the extractor had nothing to say.
        index_N: (n,) int64, increasing frame numbers from 0, if the file numbers its rows.
        pts_N: (n,) float64 seconds, never decreasing, if the file has times.
        notes: phrases for the report of mismatches.
        warnings: those of the phrases that the user must see.
    """

    rows_ND: np.ndarray
    valid_N: np.ndarray
    index_N: np.ndarray | None = None
    pts_N: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def found(self) -> int:
        """Returns n, the rows that the file holds."""
        return len(self.rows_ND)


def as_rows(array: np.ndarray, reduce: str, file: Path) -> np.ndarray:
    """Returns the rows (n, D) of an array whose first axis counts rows.

    Args:
        array: real numbers, (n, ...).
        reduce: "" takes (n, D) and (n, 1, D) only; "flatten" joins all axes after the first;
            "mean:1" averages over axis 1, "mean:1+2" over two axes, and joins what is left;
            "squeeze" takes the only element of a leading axis, a batch of one.
        file: the file that messages name.

    Raises:
        InputError: there are no rows or columns, or ``reduce`` does not fit the axes.
    """
    if array.ndim < 2 or not array.size:
        raise InputError(
            "A feature file has no rows.",
            file=file,
            field="array",
            found=f"shape {array.shape}",
            expected="(rows, columns), both at least 1",
            remedy="extract a vector per row; one vector per video is no stream",
        )
    if reduce == "squeeze" and array.ndim > 2 and len(array) == 1:
        array, reduce = array[0], ""
    kept = 2 + sum(length > 1 for length in array.shape[1:-1])
    if reduce.startswith("mean:"):
        axes = tuple(int(axis) for axis in reduce.removeprefix("mean:").split("+"))
        if max(axes) >= array.ndim:
            raise InputError(
                "The array has too few axes to average over.",
                file=file,
                field="reduce",
                found=f"shape {array.shape}",
                expected=f"an axis {max(axes)}",
                remedy="correct reduce=, or leave it out",
            )
        with np.errstate(invalid="ignore", over="ignore"):
            array = array.mean(axis=axes, dtype=np.float32)
    elif reduce in ("", "squeeze") and kept > 2:
        raise InputError(
            "Rows of features have several axes.",
            file=file,
            field="array",
            found=f"shape {array.shape}",
            expected="(rows, columns)",
            remedy=f"if this is a batch of one with {array.shape[1]} rows: reduce=squeeze"
            if len(array) == 1 and array.ndim == 3
            else "say how a row becomes a vector: reduce=flatten or reduce=mean:1",
        )
    rows_ND = array.reshape(len(array), -1)
    if rows_ND.dtype != np.float16 and rows_ND.dtype != np.float32:
        # Too large values become infinite, and are reported as infinite.
        with np.errstate(over="ignore", invalid="ignore"):
            rows_ND = rows_ND.astype(np.float32)
    return rows_ND.astype(rows_ND.dtype.newbyteorder("="), copy=False)


def count_of(number: int, noun: str) -> str:
    """Returns a text such as "1 row" or "2 rows"."""
    return f"{number} {noun}" + "s" * (number != 1)


def frames_from_numbers(
    numbers_N: np.ndarray, first: int | None, known_first: int | None, file: Path
) -> np.ndarray:
    """Converts the frame numbers of a file to indices from 0.

    Args:
        numbers_N: (n,) int64.
        first: the number of the first frame, if declared.
        known_first: the number of the first frame, if the tool is known.
        file: the file that messages name.

    Raises:
        InputError: a number is below the first or implausibly large, or it is unknown what the
            first is.
    """
    start = known_first if first is None else first
    lowest, highest = int(numbers_N.min()), int(numbers_N.max())
    if highest > _MOST_GAPS * len(numbers_N) + _FEW_ROWS:
        raise InputError(
            "A frame has an implausible number.",
            file=file,
            field="frame numbers",
            found=f"frame {highest}, with {len(numbers_N)} frames in all",
            expected="frame numbers with few gaps",
            remedy="correct the numbers; milliseconds and the like are no frame numbers",
        )
    if start is None:
        if lowest:
            raise InputError(
                "It is unknown if frames are numbered from 0 or from 1.",
                file=file,
                field="frame numbers",
                found=f"numbers from {lowest}",
                expected="a frame 0, or a declaration",
                remedy="declare it: first=0 or first=1",
            )
        start = 0
    if lowest < start:
        raise InputError(
            "A frame has a number below the first.",
            file=file,
            field="frame numbers",
            found=lowest,
            expected=f"at least {start}",
            remedy=f"declare first={lowest} if that is the number of the first frame"
            if lowest >= 0
            else "correct the numbers",
        )
    return numbers_N.astype(np.int64) - start
