"""Brings streams of any rate onto another clock, by timestamps and never by position."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# Steps between rows that the usual step is measured on; all of them in shorter streams.
_MEASURED_STEPS = 2000


def nearest_rows(query_pts_T: np.ndarray, row_pts_N: np.ndarray) -> np.ndarray:
    """Returns the index of the row nearest in time to each query instant.

    Args:
        query_pts_T: (T,) seconds.
        row_pts_N: (N,) seconds, non-decreasing, N >= 1.

    Returns:
        (T,) int64 in [0, N). An instant midway between two rows takes the later one.
    """
    midpoints = (row_pts_N[1:] + row_pts_N[:-1]) / 2
    return np.searchsorted(midpoints, query_pts_T, side="right")


def row_spacing(row_pts_N: np.ndarray) -> float:
    """Returns the seconds between rows, (last - first) / (N - 1); infinite for one row."""
    if len(row_pts_N) < 2:
        return float("inf")
    return float(row_pts_N[-1] - row_pts_N[0]) / (len(row_pts_N) - 1)


def row_reach(row_pts_N: np.ndarray, query_pts_T: np.ndarray) -> float:
    """Returns the seconds from its instant at which a row still describes a frame.

    That is the median step between rows, which gaps do not lengthen, unlike the mean. A row
    that is alone has no step and reaches as far as the queries' own; beside a single query, a
    single row describes it wherever it is.
    """
    for pts in (row_pts_N, query_pts_T):
        steps = len(pts) - 1
        if steps > 0:
            taken = np.arange(steps)
            if steps > _MEASURED_STEPS:
                taken = np.linspace(0, steps - 1, _MEASURED_STEPS).astype(np.int64)
            return float(np.median(pts[taken + 1] - pts[taken]))
    return float("inf")


def resample_nearest(
    rows_ND: np.ndarray,
    row_pts_N: np.ndarray,
    valid_N: np.ndarray,
    query_pts_T: np.ndarray,
    reach: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Takes the row nearest in time to each frame; see ``resample`` for arguments."""
    if len(row_pts_N) == 0:
        return _nothing(rows_ND, query_pts_T)
    index_T = nearest_rows(query_pts_T, row_pts_N)
    reach = (row_reach(row_pts_N, query_pts_T) if reach is None else reach) + 1e-6
    valid_T = valid_N[index_T] & (np.abs(row_pts_N[index_T] - query_pts_T) <= reach)
    return _zero_invalid(rows_ND[index_T], valid_T), valid_T


def resample_linear(
    rows_ND: np.ndarray,
    row_pts_N: np.ndarray,
    valid_N: np.ndarray,
    query_pts_T: np.ndarray,
    reach: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Interpolates linearly between two valid neighbours, and else takes the nearest row.

    Rows more than twice the reach apart have a gap between them, which no line crosses.
    """
    if len(row_pts_N) < 2:
        return resample_nearest(rows_ND, row_pts_N, valid_N, query_pts_T, reach)
    reach = row_reach(row_pts_N, query_pts_T) if reach is None else reach
    nearest_TD, valid_T = resample_nearest(rows_ND, row_pts_N, valid_N, query_pts_T, reach)
    right_T = np.clip(np.searchsorted(row_pts_N, query_pts_T), 1, len(row_pts_N) - 1)
    left_T = right_T - 1
    span_T = np.maximum(row_pts_N[right_T] - row_pts_N[left_T], 1e-9)
    weight_T = (query_pts_T - row_pts_N[left_T]) / span_T
    inside_T = valid_N[left_T] & valid_N[right_T] & (weight_T >= 0) & (weight_T <= 1)
    inside_T &= span_T <= 2 * (reach + 1e-6)
    weight_T1 = weight_T[:, None].astype(np.float32)
    mixed_TD = rows_ND[left_T] * (1 - weight_T1) + rows_ND[right_T] * weight_T1
    out_TD = np.where((inside_T & valid_T)[:, None], mixed_TD, nearest_TD)
    return out_TD.astype(rows_ND.dtype), valid_T


def resample_mean(
    rows_ND: np.ndarray,
    row_pts_N: np.ndarray,
    valid_N: np.ndarray,
    query_pts_T: np.ndarray,
    reach: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Averages the valid rows nearer to this frame than to another, for rates above fps.

    A frame that no row falls to takes the nearest row.
    """
    nearest_TD, valid_T = resample_nearest(rows_ND, row_pts_N, valid_N, query_pts_T, reach)
    if len(query_pts_T) < 2 or len(row_pts_N) == 0:
        return nearest_TD, valid_T
    spacing = row_spacing(query_pts_T)
    inner = (query_pts_T[1:] + query_pts_T[:-1]) / 2
    edges = np.concatenate([[query_pts_T[0] - spacing / 2], inner, [query_pts_T[-1] + spacing / 2]])
    bounds = np.searchsorted(row_pts_N, edges)
    low, high = bounds[0], bounds[-1]
    known_N1 = valid_N[low:high, None]
    block_ND = np.where(known_N1, rows_ND[low:high], 0)
    total_TD = _segment_sums(block_ND, bounds - low)
    count_T1 = _segment_sums(known_N1, bounds - low)
    mean_TD = total_TD / np.maximum(count_T1, 1.0)
    filled_T = count_T1[:, 0] > 0
    out_TD = np.where(filled_T[:, None], mean_TD, nearest_TD)
    return out_TD.astype(rows_ND.dtype), valid_T | filled_T


RESAMPLERS: dict[str, Callable[..., tuple[np.ndarray, np.ndarray]]] = {
    "nearest": resample_nearest,
    "linear": resample_linear,
    "mean": resample_mean,
}


def resample(
    rows_ND: np.ndarray,
    row_pts_N: np.ndarray,
    valid_N: np.ndarray,
    query_pts_T: np.ndarray,
    method: str = "nearest",
    reach: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Brings rows of one stream onto the instants of another clock.

    Args:
        rows_ND: (N, D) feature rows.
        row_pts_N: (N,) seconds, non-decreasing.
        valid_N: (N,) bool, False where the extractor had nothing to say.
        query_pts_T: (T,) seconds, increasing.
        method: a key of ``RESAMPLERS``.
        reach: seconds from its instant at which a row still describes a frame; by default
            ``row_reach`` of these rows.

    Returns:
        rows (T, D) of the same dtype, zero where not valid, and valid (T,) bool. A frame
        whose nearest row is missing, or further away than ``reach`` (the stream ended early),
        is not valid.
    """
    return RESAMPLERS[method](rows_ND, row_pts_N, valid_N, query_pts_T, reach)


def fill_nearest(
    rows_TD: np.ndarray,
    valid_T: np.ndarray,
    query_pts_T: np.ndarray,
    rows_ND: np.ndarray,
    row_pts_N: np.ndarray,
    valid_N: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Fills missing rows with the stream's valid row that is nearest in time, at any distance.

    Args:
        rows_TD: (T, D) and valid_T: (T,) bool, what ``resample`` returned for query_pts_T:
            (T,) seconds.
        rows_ND: (N, D), row_pts_N: (N,) seconds and valid_N: (N,) bool, all of the stream's
            rows. Only the few that are taken are copied.

    Returns:
        rows (T, D) and valid (T,); unchanged where the stream has no valid row at all. Of two
        rows that are equally near the later one is taken.
    """
    missing = np.flatnonzero(~valid_T)
    known = np.flatnonzero(valid_N) if len(missing) else missing
    if not len(known):
        return rows_TD, valid_T
    pts = query_pts_T[missing]
    # The valid rows before and after each instant; the same one beyond either end.
    after = np.searchsorted(known, np.searchsorted(row_pts_N, pts))
    left, right = known[np.maximum(after - 1, 0)], known[np.minimum(after, len(known) - 1)]
    later = row_pts_N[right] - pts <= pts - row_pts_N[left]
    filled_TD = rows_TD.copy()
    filled_TD[missing] = rows_ND[np.where(later, right, left)]
    return filled_TD, np.ones_like(valid_T)


def _segment_sums(values_ND: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Sums the rows between neighbouring bounds in float64, (len(bounds) - 1, D).

    Each is added up by itself, so that it does not depend on what comes before.
    """
    # The zeros at the end are for the segments that begin there; they are empty.
    padded_ND = np.zeros((len(values_ND) + 1, values_ND.shape[1]), np.float64)
    padded_ND[:-1] = values_ND
    sums_TD = np.add.reduceat(padded_ND, bounds[:-1], axis=0)
    sums_TD[bounds[1:] == bounds[:-1]] = 0.0
    return sums_TD


def _zero_invalid(rows_TD: np.ndarray, valid_T: np.ndarray) -> np.ndarray:
    if not valid_T.all():
        rows_TD = np.where(valid_T[:, None], rows_TD, np.zeros((), rows_TD.dtype))
    return rows_TD


def _nothing(rows_ND: np.ndarray, query_pts_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    count = len(query_pts_T)
    return np.zeros((count, rows_ND.shape[1]), rows_ND.dtype), np.zeros(count, bool)
