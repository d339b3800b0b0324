"""Means and variances of feature rows that merge exactly, in float64."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

_CHUNK_ROWS = 1024


@dataclasses.dataclass(frozen=True)
class RowMoments:
    """Moments of rows of width D.

    Attributes:
        count: number of rows.
        mean_D: (D,) float64.
        m2_D: (D,) float64, sum over rows of the squared distance from the mean.
    """

    count: int
    mean_D: np.ndarray
    m2_D: np.ndarray

    @property
    def std(self) -> np.ndarray:
        """Returns the biased standard deviation, (D,) float64; zero without rows."""
        return np.sqrt(self.m2_D / max(self.count, 1))


def row_moments(rows_ND: np.ndarray, valid_N: np.ndarray) -> RowMoments:
    """Computes the moments of the valid rows in float64, chunk by chunk to bound memory.

    Args:
        rows_ND: (n, D), any floating type.
        valid_N: (n,) bool.
    """
    return merge_moments(
        (
            _chunk_moments(rows_ND[start : start + _CHUNK_ROWS][valid_N[start:][:_CHUNK_ROWS]])
            for start in range(0, len(rows_ND), _CHUNK_ROWS)
        ),
        rows_ND.shape[1],
    )


def merge_moments(parts: Iterable[RowMoments], width: int) -> RowMoments:
    """Merges the moments of several sets of rows.

    Chan, Golub and LeVeque (1983): with delta the difference of the means,
    m2 = m2_a + m2_b + delta^2 n_a n_b / (n_a + n_b).

    Args:
        parts: moments of disjoint sets of rows, each of the same width.
        width: D, for the result when there are no parts.
    """
    count, mean_D, m2_D = 0, np.zeros(width), np.zeros(width)
    for part in parts:
        if not part.count:
            continue
        total = count + part.count
        delta_D = part.mean_D - mean_D
        mean_D = mean_D + delta_D * (part.count / total)
        m2_D = m2_D + part.m2_D + delta_D**2 * (count * part.count / total)
        count = total
    return RowMoments(count, mean_D, m2_D)


def _chunk_moments(rows_ND: np.ndarray) -> RowMoments:
    wide_ND = rows_ND.astype(np.float64)
    if not len(wide_ND):
        return RowMoments(0, np.zeros(wide_ND.shape[1]), np.zeros(wide_ND.shape[1]))
    mean_D = wide_ND.mean(0)
    wide_ND -= mean_D
    return RowMoments(len(wide_ND), mean_D, np.einsum("nd,nd->d", wide_ND, wide_ND))
