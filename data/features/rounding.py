"""Measures what float16 would cost a stream: rounding beside the deviation of each column."""

from __future__ import annotations

import numpy as np

MOST_LOST = 0.1  # of a column's standard deviation


class ConstantColumns:
    """Finds columns of a stream that have one value in all rows of all videos."""

    def __init__(self) -> None:
        self._first_D: np.ndarray | None = None
        self._same_D = np.zeros(0, bool)

    def add(self, rows_ND: np.ndarray) -> None:
        """Adds finite rows, (n, D)."""
        if not len(rows_ND):
            return
        if self._first_D is None:
            self._first_D = rows_ND[0].copy()
            self._same_D = np.ones(rows_ND.shape[1], bool)
        self._same_D &= (rows_ND == self._first_D).all(axis=0)

    def found(self) -> dict[int, float]:
        """Returns column -> value of the columns that never change."""
        if self._first_D is None:
            return {}
        return {int(d): float(self._first_D[d]) for d in np.flatnonzero(self._same_D)}


class Rounding:
    """Sums of a stream's rows, and of their rounding to float16, by column.

    Example:
        >>> rounding = Rounding()
        >>> rounding.add(1500 + 0.6 * np.sin(np.arange(300.0))[:, None])
        >>> rounding.lost()  # of the deviation of column 0
        (0, 0.65...)
    """

    def __init__(self) -> None:
        self._count = 0
        self._first_D = np.zeros(0)
        self._sums_4D = np.zeros((4, 0))  # of values, squares, and squares of errors; overflows

    def add(self, rows_ND: np.ndarray) -> None:
        """Adds finite rows, (n, D)."""
        if not len(rows_ND):
            return
        values_ND = np.asarray(rows_ND, np.float64)
        if not self._count:
            self._first_D = values_ND[0].copy()
            self._sums_4D = np.zeros((4, values_ND.shape[1]))
        with np.errstate(over="ignore", invalid="ignore"):
            stored_ND = values_ND.astype(np.float16).astype(np.float64)
        over_ND = ~np.isfinite(stored_ND)
        error_ND = np.where(over_ND, 0.0, stored_ND - values_ND)
        # Relative to the first row, so that squares of large values do not hide the deviation.
        moved_ND = values_ND - self._first_D
        self._count += len(values_ND)
        self._sums_4D += [
            moved_ND.sum(axis=0),
            np.square(moved_ND).sum(axis=0),
            np.square(error_ND).sum(axis=0),
            over_ND.sum(axis=0),
        ]

    def lost(self) -> tuple[int, float]:
        """Returns the column that loses most, and the share of its deviation that it loses.

        A constant column loses nothing, since it tells nothing. A column with values beyond
        float16 loses everything.
        """
        if not self._count:
            return 0, 0.0
        sum_D, square_D, error_D, over_D = self._sums_4D
        deviation_D = np.sqrt(np.maximum(square_D / self._count - (sum_D / self._count) ** 2, 0))
        error_D = np.sqrt(error_D / self._count)
        varies_D = deviation_D > 1e-12 * (abs(self._first_D) + 1e-30)
        share_D = np.divide(error_D, deviation_D, out=np.zeros_like(error_D), where=varies_D)
        share_D[over_D > 0] = np.inf
        worst = int(share_D.argmax())
        return worst, float(share_D[worst])
