"""Linear least squares with an L2 penalty, from streams of videos to the labels of a task.

Every stream is z-scored, missing rows count as the mean, and each frame takes the row nearest
in time. The normal equations are summed video by video in float64, so memory does not grow
with the data, and sums of disjoint groups of videos can be added and taken apart again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import scipy.linalg

from emojax.datasets.record import StreamRows, VideoRecord
from emojax.datasets.source import Store
from emojax.datasets.transforms import resample_nearest
from emojax.specs import TASKS

Statistics = dict[str, tuple[np.ndarray, np.ndarray]]
"""Stream -> mean (D,) and standard deviation (D,) of its rows."""


class TrainingVideos:
    """Training videos with labels in the form that is regressed on."""

    def __init__(self, store: Store, names: Sequence[str], task: str) -> None:
        self._store, self._names, self.task = store, names, task

    def __iter__(self) -> Iterator[tuple[VideoRecord, np.ndarray, np.ndarray]]:
        """Yields each video with an annotated frame, with labels and mask (N, columns)."""
        for name in self._names:
            record = self._store.read(self._store.index_of(name))
            labels_NK = record.labels.get(self.task)
            if labels_NK is not None:
                mask_NK = TASKS[self.task].annotated(labels_NK)
                if mask_NK.any():
                    yield record, labels_NK, mask_NK

    def targets(self, labels_NK: np.ndarray, mask_NK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (N, C) float64 numbers to regress on, one-hot for classes, and their mask."""
        if TASKS[self.task].kind != "categorical":
            return labels_NK.astype(np.float64), mask_NK
        classes_C = np.arange(TASKS[self.task].outputs)
        hot_NC = (labels_NK == classes_C).astype(np.float64)
        return hot_NC, np.broadcast_to(mask_NK, hot_NC.shape)

    def survey(self) -> tuple[dict[str, int], np.ndarray]:
        """Counts the annotated frames of each video, and averages each target, (C,)."""
        frames: dict[str, int] = {}
        count_C = np.zeros(TASKS[self.task].outputs)
        sum_C = np.zeros(TASKS[self.task].outputs)
        for record, labels_NK, mask_NK in self:
            target_NC, known_NC = self.targets(labels_NK, mask_NK)
            frames[record.name] = int(known_NC.any(axis=1).sum())
            count_C += known_NC.sum(axis=0)
            sum_C += np.where(known_NC, target_NC, 0.0).sum(axis=0)
        return frames, sum_C / np.maximum(count_C, 1.0)


def columns_of(statistics: Statistics) -> list[tuple[str, slice]]:
    """Returns the part of the concatenated columns that each stream holds."""
    ends = np.cumsum([len(mean_D) for mean_D, _ in statistics.values()]).tolist()
    return [
        (name, slice(start, end))
        for name, start, end in zip(statistics, [0, *ends[:-1]], ends, strict=True)
    ]


def _standardise(
    rows_ND: np.ndarray, statistics: tuple[np.ndarray, np.ndarray], valid_N: np.ndarray
) -> np.ndarray:
    """Returns (N, D) float64 z-scores, zero where not valid."""
    mean_D, std_D = statistics
    scores_ND = np.subtract(rows_ND, mean_D, dtype=np.float64)
    scores_ND /= std_D
    scores_ND[~valid_N] = 0.0
    return scores_ND


def _design(
    record: VideoRecord,
    statistics: Statistics,
    frames_M: np.ndarray,
) -> np.ndarray:
    """Returns (M, D) z-scored columns of all streams at some frames of a video."""
    parts = []
    for name, moments_D in statistics.items():
        data = record.streams[name]
        rows_MD, valid_M = _at(data, data.rows_ND, record.pts_N[frames_M])
        parts.append(_standardise(rows_MD, moments_D, valid_M))
    return np.concatenate(parts, axis=1)


def linear_map(
    record: VideoRecord,
    statistics: Statistics,
    weights: Mapping[str, np.ndarray],
) -> np.ndarray:
    """Applies a linear map without intercept to a video's streams: (N, C).

    Applied to the rows at their own rate and then brought to the frames, which costs less than
    bringing all columns there and is the same.
    """
    total_NC: np.ndarray = np.zeros((1, 1))
    for name, moments_D in statistics.items():
        data = record.streams[name]
        mapped_nC = _standardise(data.rows_ND, moments_D, data.valid_N) @ weights[name]
        total_NC = total_NC + _at(data, mapped_nC, record.pts_N)[0]
    return total_NC


def _at(
    data: StreamRows, values_nX: np.ndarray, pts_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    return resample_nearest(values_nX, data.pts_N, data.valid_N, pts_N)


@dataclasses.dataclass(frozen=True)
class NormalEquations:
    """Sums over frames of columns x, targets y and their products, all float64."""

    count: int
    sum_x_D: np.ndarray
    sum_y_C: np.ndarray
    gram_DD: np.ndarray
    cross_DC: np.ndarray

    def plus(self, other: NormalEquations, sign: int = 1) -> NormalEquations:
        """Adds (or, with ``sign`` -1, takes away) the frames of another set."""
        return NormalEquations(
            self.count + sign * other.count,
            self.sum_x_D + sign * other.sum_x_D,
            self.sum_y_C + sign * other.sum_y_C,
            self.gram_DD + sign * other.gram_DD,
            self.cross_DC + sign * other.cross_DC,
        )

    @property
    def means(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the means of the columns (D,) and of the targets (C,)."""
        frames = max(self.count, 1)
        return self.sum_x_D / frames, self.sum_y_C / frames

    def solve(self, penalty: float) -> np.ndarray:
        """Returns (D, C) weights of least mean squared error + penalty |w|^2, on centred data."""
        frames = max(self.count, 1)
        mean_x_D, mean_y_C = self.means
        covariance_DD = self.gram_DD / frames
        covariance_DD -= np.outer(mean_x_D, mean_x_D)
        covariance_DD.flat[:: len(mean_x_D) + 1] += penalty
        factor = scipy.linalg.cho_factor(covariance_DD, overwrite_a=True, check_finite=False)
        return scipy.linalg.cho_solve(factor, self.cross_DC / frames - np.outer(mean_x_D, mean_y_C))


def accumulate(
    videos: TrainingVideos,
    statistics: Statistics,
    group_of: Mapping[str, int],
    mean_C: np.ndarray,
    keep_every: int,
) -> list[NormalEquations]:
    """Sums the normal equations of each group, over every ``keep_every``-th annotated frame.

    Targets are measured from ``mean_C``; one that is unknown on a frame where another is known
    counts as its mean.
    """
    width, outputs = columns_of(statistics)[-1][1].stop, len(mean_C)
    groups = [
        NormalEquations(
            0,
            np.zeros(width),
            np.zeros(outputs),
            np.zeros((width, width)),
            np.zeros((width, outputs)),
        )
        for _ in range(max(group_of.values()) + 1)
    ]
    seen = 0
    for record, labels_NK, mask_NK in videos:
        target_NC, known_NC = videos.targets(labels_NK, mask_NK)
        frames_M = np.flatnonzero(known_NC.any(axis=1))
        # Counting goes on from video to video, or short videos would be over-represented.
        frames_M, seen = frames_M[-seen % keep_every :: keep_every], seen + len(frames_M)
        if not len(frames_M):
            continue
        x_MD = _design(record, statistics, frames_M)
        y_MC = np.where(known_NC, target_NC - mean_C, 0.0)[frames_M]
        group = groups[group_of[record.name]]
        # In place: the Gram matrices are by far the largest arrays here.
        np.add(group.gram_DD, x_MD.T @ x_MD, out=group.gram_DD)
        np.add(group.cross_DC, x_MD.T @ y_MC, out=group.cross_DC)
        groups[group_of[record.name]] = dataclasses.replace(
            group,
            count=group.count + len(frames_M),
            sum_x_D=group.sum_x_D + x_MD.sum(axis=0),
            sum_y_C=group.sum_y_C + y_MC.sum(axis=0),
        )
    return groups
