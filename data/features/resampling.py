"""Brings rows to other instants by their timestamps; gaps stay not valid."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Resampled = tuple[np.ndarray, np.ndarray]
"""(M, D) float32 rows, zeros where not valid; (M,) bool validity."""


def nearest(
    rows_ND: np.ndarray, pts_N: np.ndarray, valid_N: np.ndarray, target_M: np.ndarray
) -> Resampled:
    """Takes the row closest in time, valid or not; of two equally close, the earlier.

    Args:
        rows_ND: (N, D), N at least 1.
        pts_N: (N,) seconds, never decreasing.
        valid_N: (N,) bool.
        target_M: (M,) seconds, never decreasing.

    Returns:
        A target further from all rows than one usual step is not valid.
    """
    right_M = np.clip(np.searchsorted(pts_N, target_M), 1, max(len(pts_N) - 1, 1))
    right_M = np.minimum(right_M, len(pts_N) - 1)
    left_M = np.maximum(right_M - 1, 0)
    to_left_M = np.abs(target_M - pts_N[left_M])
    to_right_M = np.abs(pts_N[right_M] - target_M)
    chosen_M = np.where(to_right_M < to_left_M, right_M, left_M)
    near_M = np.minimum(to_left_M, to_right_M) <= usual_step(pts_N, target_M) * (1 + 1e-6)
    return _masked(rows_ND[chosen_M], valid_N[chosen_M] & near_M)


def linear(
    rows_ND: np.ndarray, pts_N: np.ndarray, valid_N: np.ndarray, target_M: np.ndarray
) -> Resampled:
    """Interpolates between the two rows around an instant, if both are valid.

    Where only the nearer of the two is valid and within one usual step, or the instant lies up
    to one usual step outside of all rows, that row is taken. Arguments and result as for
    ``nearest``.
    """
    held_MD, held_M = nearest(rows_ND, pts_N, valid_N, target_M)
    if len(pts_N) < 2:
        return held_MD, held_M
    right_M = np.clip(np.searchsorted(pts_N, target_M, side="right"), 1, len(pts_N) - 1)
    left_M = right_M - 1
    gap_M = pts_N[right_M] - pts_N[left_M]
    inside_M = (target_M >= pts_N[left_M]) & (target_M <= pts_N[right_M]) & (gap_M > 0)
    both_M = inside_M & valid_N[left_M] & valid_N[right_M]
    both_M &= gap_M <= 2 * usual_step(pts_N, target_M) * (1 + 1e-6)
    weight_M = (target_M - pts_N[left_M]) / np.where(gap_M > 0, gap_M, 1.0)
    weight_M1 = np.clip(weight_M, 0, 1).astype(np.float32)[:, None]
    line_MD = (1 - weight_M1) * _float32(rows_ND[left_M]) + weight_M1 * _float32(rows_ND[right_M])
    return _masked(np.where(both_M[:, None], line_MD, held_MD), held_M | both_M)


def window_mean(
    rows_ND: np.ndarray, pts_N: np.ndarray, valid_N: np.ndarray, target_M: np.ndarray
) -> Resampled:
    """Averages the valid rows nearer to an instant than to any other instant.

    The first and last instant's windows reach as far out as in. An instant without a valid row
    in its window is not valid. Arguments and result as for ``nearest``.
    """
    middle = (target_M[1:] + target_M[:-1]) / 2
    if len(middle):
        ends = (2 * target_M[0] - middle[0], 2 * target_M[-1] - middle[-1])
    else:
        ends = (-np.inf, np.inf)
    edges = np.concatenate([[ends[0]], middle, [ends[1]]])
    bin_N = np.searchsorted(edges, pts_N, side="right") - 1
    # The very end belongs to the last window, as it does for its middle.
    bin_N = np.where(pts_N == edges[-1], len(target_M) - 1, bin_N)
    used_N = valid_N & (bin_N >= 0) & (bin_N < len(target_M))
    bins, used_ND = bin_N[used_N], _float32(rows_ND[used_N]).astype(np.float64)
    count_M = np.bincount(bins, minlength=len(target_M))
    total_MD = np.zeros((len(target_M), rows_ND.shape[1]))
    if len(bins):  # bins never decrease, so that each is one run of rows
        starts = np.flatnonzero(np.r_[True, bins[1:] != bins[:-1]])
        total_MD[bins[starts]] = np.add.reduceat(used_ND, starts, axis=0)
    mean_MD = total_MD / np.maximum(count_M, 1)[:, None]
    return _masked(mean_MD, count_M > 0)


RESAMPLERS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], Resampled]] = {
    "nearest": nearest,
    "linear": linear,
    "mean": window_mean,
}


def stretch(
    rows_ND: np.ndarray, valid_N: np.ndarray, count: int, method: str
) -> tuple[np.ndarray, np.ndarray]:
    """Stretches rows to another number, whatever their times.

    Args:
        rows_ND: (n, D).
        valid_N: (n,) bool.
        count: M.
        method: "nearest", row floor(i n / M) for the i-th; or "linear", between the rows around
            (i + 0.5) n / M - 0.5, if both are valid.
    """
    n = len(rows_ND)
    if method == "nearest":
        chosen_M = np.arange(count) * n // count
        return _masked(rows_ND[chosen_M], valid_N[chosen_M])
    position_M = np.clip((np.arange(count) + 0.5) * n / count - 0.5, 0, n - 1)
    left_M = np.floor(position_M).astype(np.int64)
    right_M = np.minimum(left_M + 1, n - 1)
    weight_M = (position_M - left_M).astype(np.float32)
    right_M = np.where(weight_M > 0, right_M, left_M)
    weight_M1 = weight_M[:, None]
    line_MD = (1 - weight_M1) * _float32(rows_ND[left_M]) + weight_M1 * _float32(rows_ND[right_M])
    return _masked(line_MD, valid_N[left_M] & valid_N[right_M])


def usual_step(pts_N: np.ndarray, target_M: np.ndarray) -> float:
    """Returns the seconds from row to row: the greater of the two clocks' median steps."""
    steps = [np.median(np.diff(times)) for times in (pts_N, target_M) if len(times) > 1]
    return float(max(steps, default=np.inf))


def _float32(rows: np.ndarray) -> np.ndarray:
    return rows.astype(np.float32, copy=False)


def _masked(rows_MD: np.ndarray, valid_M: np.ndarray) -> Resampled:
    return np.where(valid_M[:, None], rows_MD, 0).astype(np.float32), valid_M
