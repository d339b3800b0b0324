"""Rows of a stream and labels of a video on the ticks of a window's clock.

What a row holds depends on the video and on where the row lies, never on the window that it is
cut for: neighbouring windows share their rows bit for bit, so that a video may as well be
brought onto the clock once.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from emojax.datasets.record import VideoRecord
from emojax.datasets.source import Store
from emojax.datasets.transforms import fill_nearest, nearest_rows, resample, row_reach, row_spacing
from emojax.datasets.window_spec import WindowSpec
from emojax.specs import TASKS

# Rows kept on either side when a stream is cut out before it is resampled.
_MARGIN_ROWS = 8


@dataclasses.dataclass(frozen=True)
class RowGrid:
    """The whole positions at which rows lie, ``per_tick`` of them in a tick.

    A row at position u covers the positions [u, u + step), that is ``step / per_tick`` ticks,
    and stands at their mean instant. Row k of a window that starts at tick t is at
    ``t * per_tick + k * step``. Rows of a video of n ticks are real from position
    ``1 - step`` to ``n * per_tick - 1``: those that cover a part of it.

    Attributes:
        step: positions from one row of a window to the next, at least 1.
        per_tick: positions in a tick, at least 1; it has no divisor in common with ``step``.
    """

    step: int
    per_tick: int

    def bounds(self, start: int, num_ticks: int) -> tuple[int, int]:
        """Returns a window's first real row k and the one after its last."""
        low = -start * self.per_tick // self.step
        return low, -((start - num_ticks) * self.per_tick // self.step)

    def ticks(self, positions: np.ndarray) -> np.ndarray:
        """Returns the mean instants of rows in ticks, bit for bit a function of their positions."""
        return (positions + 0.5 * self.step) / self.per_tick - 0.5


def row_grid(spec: WindowSpec, stream: str) -> RowGrid:
    """Returns the grid of a stream; ``step / per_tick`` is its ticks per row in lowest terms."""
    rows = spec.rows(stream)
    common = math.gcd(spec.window, rows)
    return RowGrid(spec.window // common, rows // common)


def counted_frames(record: VideoRecord, spec: WindowSpec) -> np.ndarray:
    """Returns the frames that are ticks where there is no clock, increasing, int64.

    All of them, unless ``spec.unannotated`` is "excluded": then those with an annotation for any
    of the tasks. A video without any annotation, such as one to predict, keeps all frames.
    """
    if spec.unannotated == "masked":
        return np.arange(record.num_frames)
    known_N = np.zeros(record.num_frames, bool)
    for task in spec.tasks:
        if task in record.labels:
            known_N |= TASKS[task].annotated(record.labels[task]).any(axis=-1)
    return np.flatnonzero(known_N) if known_N.any() else np.arange(record.num_frames)


def count_ticks(store: Store, number: int, spec: WindowSpec) -> int:
    """Returns the number of ticks of a video; reads it only where frames are excluded."""
    if spec.unannotated == "masked":
        return spec.num_ticks(store.videos[number])
    return len(counted_frames(store.read(number), spec))


def held_ticks(record: VideoRecord, spec: WindowSpec, num_ticks: int) -> np.ndarray:
    """Returns the tick whose prediction each frame takes, (N,) int64.

    As ``WindowSpec.frame_ticks``; a frame that is excluded takes that of the nearest frame that is
    not, the later of two equally near, or with ``scored="last"`` the last one before it, if any.
    """
    if spec.unannotated == "masked":
        return spec.frame_ticks(record.pts_N, num_ticks)
    frames_N, kept_M = np.arange(record.num_frames), counted_frames(record, spec)
    after_N = np.minimum(np.searchsorted(kept_M, frames_N), len(kept_M) - 1)
    before_N = np.maximum(np.searchsorted(kept_M, frames_N, side="right") - 1, 0)
    if spec.scored == "last":
        return before_N
    nearer_N = np.abs(kept_M[after_N] - frames_N) <= np.abs(frames_N - kept_M[before_N])
    return np.where(nearer_N, after_N, before_N)


def rows_at(
    record: VideoRecord, stream: str, spec: WindowSpec, first: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns some of a stream's rows, a step apart.

    Args:
        record: the video.
        stream: name of the stream.
        spec: clock, rates, resampling and fill.
        first: position of the first row, see ``RowGrid``.
        count: T, how many; all of them real.

    Returns:
        rows (T, D) of the stream's dtype, zero where not valid, and valid (T,) bool.
    """
    data = record.streams[stream]
    if count <= 0:
        return data.rows_ND[:0], np.zeros(0, bool)
    if spec.unannotated == "excluded":
        # Each frame keeps the row that it has among all frames.
        frames_T = counted_frames(record, spec)[first : first + count]
        whole = dataclasses.replace(spec, unannotated="masked")
        start = int(frames_T[0])
        rows_ND, valid_N = rows_at(record, stream, whole, start, int(frames_T[-1]) - start + 1)
        return rows_ND[frames_T - start], valid_N[frames_T - start]
    # One more row on either side, from which "mean" computes the reach of the outer rows.
    inside = slice(1, 1 + count)
    spacing = row_reach(data.pts_N, record.pts_N)
    if spec.clock:
        grid = row_grid(spec, stream)
        ticks_T = grid.ticks(first + grid.step * np.arange(-1, count + 1))
        pts_T = spec.tick_pts(record.pts_N, ticks_T)
        # A row describes at least its own duration.
        reach = max(spacing, 0.5 * grid.step / grid.per_tick / spec.clock)
    else:
        pts_T = _frame_pts(record.pts_N, first - 1, first + count + 1)
        inside = inside if record.num_frames > 1 else slice(0, 1)
        reach = spacing
    near = _slice_near(data.pts_N, pts_T)
    method = spec.resampling.get(stream, "nearest")
    rows_TD, valid_T = resample(
        data.rows_ND[near], data.pts_N[near], data.valid_N[near], pts_T, method, reach
    )
    rows_TD, valid_T, pts_T = rows_TD[inside], valid_T[inside], pts_T[inside]
    if spec.fill == "nearest":
        rows_TD, valid_T = fill_nearest(
            rows_TD, valid_T, pts_T, data.rows_ND, data.pts_N, data.valid_N
        )
    return rows_TD, valid_T


def labels_at(
    record: VideoRecord, task: str, spec: WindowSpec, ticks_T: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the labels of some ticks, each from the nearest frame.

    Returns:
        labels (T, K) float32, zero where not annotated, and annotated (T, K) bool.
    """
    # A store may hold videos that were annotated for only some of its tasks.
    if task in record.labels:
        frames_T = ticks_T
        if spec.unannotated == "excluded":
            frames_T = counted_frames(record, spec)[ticks_T]
        if spec.clock:
            frames_T = nearest_rows(spec.tick_pts(record.pts_N, ticks_T), record.pts_N)
        labels_TK = record.labels[task][frames_T].astype(np.float32)
    else:
        labels_TK = np.full((len(ticks_T), TASKS[task].columns), TASKS[task].ignore, np.float32)
    mask_TK: np.ndarray = np.asarray(TASKS[task].annotated(labels_TK))
    return np.where(mask_TK, labels_TK, 0).astype(np.float32), mask_TK


def _frame_pts(pts_N: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Returns the times of frames start .. stop; -1 and N lie one frame's distance outside.

    A video of one frame has no such distance, and only its own time is returned.
    """
    count = len(pts_N)
    if count == 1:
        return pts_N
    pts_T = pts_N[max(0, start) : stop]
    before, after = pts_N[:1] - row_spacing(pts_N), pts_N[-1:] + row_spacing(pts_N)
    return np.concatenate([before[: max(0, -start)], pts_T, after[: max(0, stop - count)]])


def _slice_near(row_pts_N: np.ndarray, pts_T: np.ndarray) -> slice:
    """Returns the rows that can matter to these instants, at least two if there are two."""
    low = np.searchsorted(row_pts_N, pts_T[0]) - _MARGIN_ROWS
    # Of several rows at one instant the last counts as the nearest.
    high = np.searchsorted(row_pts_N, pts_T[-1], side="right") + _MARGIN_ROWS
    return slice(max(0, int(low)), int(high))
