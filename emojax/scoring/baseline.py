"""Ridge + smoothing, the linear baseline that is printed beside every run.

Every stream is z-scored with the fold's statistics, whatever the model beside it takes
(``config.data.normalisation``). Missing rows count as the mean, each frame takes the row nearest
in time, and one linear map leads from all columns to the labels. What it predicts is smoothed by a
centred moving average and rescaled to suit the metric. Penalty, width and scale are chosen by
cross-validation inside the training videos, so the validation videos are as new to the baseline as
they are to the model beside it.

The training videos are passed over twice: once for the normal equations of each group of
videos, once for what the other groups predict of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from scipy.ndimage import uniform_filter1d

from emojax.datasets.record import VideoRecord
from emojax.datasets.source import Store
from emojax.datasets.transforms import row_spacing
from emojax.errors import InputError
from emojax.ops.metrics import Moments, moments
from emojax.scoring.ridge import (
    NormalEquations,
    Statistics,
    TrainingVideos,
    accumulate,
    columns_of,
    linear_map,
)
from emojax.specs import TASKS

# Penalties per frame: 1 weighs a weight like one standard deviation of a column.
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)
WIDTHS = (0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 40.0)
GROUPS = 4
# What stands for PENALTIES and WIDTHS where training holds a single source video.
_UNVALIDATED = ((1.0,), (1.0,))


@dataclasses.dataclass(frozen=True)
class RidgeBaseline:
    """A fitted baseline; ``predict`` gives what ``TaskOps.scores`` takes.

    Attributes:
        task: name of the task.
        statistics: stream -> mean (D,) and standard deviation (D,) of the z-score.
        weights: stream -> (D, C), on z-scored rows.
        intercept_C: prediction where every row is the mean.
        penalty_C: chosen ridge penalty per frame.
        width_C: chosen width of the moving average, seconds.
        centre_C, gain_C, mean_C: the last step ``mean + gain (smoothed - centre)``.
        correlation_C: of the predictions that the last step was fitted on, 0 or more.
        score_C: the same where it was cross-validated, NaN where nothing was.
        frames: training frames in the normal equations.
        annotated: annotated training frames.
        groups: groups of the cross-validation, 1 if there was none.
    """

    task: str
    statistics: Statistics
    weights: dict[str, np.ndarray]
    intercept_C: np.ndarray
    penalty_C: np.ndarray
    width_C: np.ndarray
    centre_C: np.ndarray
    gain_C: np.ndarray
    mean_C: np.ndarray
    correlation_C: np.ndarray
    score_C: np.ndarray
    frames: int
    annotated: int
    groups: int

    def predict(self, record: VideoRecord) -> np.ndarray:
        """Predicts every frame of a video.

        Returns:
            (N, C) float64. Values for a continuous task; for a categorical one a score for
            each class, to be decided by argmax; for a binary one a score, to be decided at 0.5.
        """
        raw_NC = self.intercept_C + linear_map(record, self.statistics, self.weights)
        smooth_NC = np.empty_like(raw_NC)
        for width in np.unique(self.width_C):
            columns = self.width_C == width
            smooth_NC[:, columns] = moving_average(raw_NC[:, columns], record.pts_N, width)
        return self.mean_C + self.gain_C * (smooth_NC - self.centre_C)

    def to_least_squares(self, predicted_NC: np.ndarray) -> np.ndarray:
        """Rescales what ``predict`` returns to the least squared error.

        That scale is smaller by the correlation. It suits RMSE and accuracy; of classes and units
        it comes close to probabilities.
        """
        return self.mean_C + self.correlation_C * (predicted_NC - self.mean_C)

    def describe(self) -> dict[str, Any]:
        """Describes the fit and its choices for a report, in JSON values."""
        columns = {
            label: {
                "penalty": float(self.penalty_C[c]),
                "width_seconds": float(self.width_C[c]),
                "gain": float(self.gain_C[c]),
                "cross_validated": None if np.isnan(self.score_C[c]) else float(self.score_C[c]),
            }
            for c, label in enumerate(TASKS[self.task].labels)
        }
        note = (
            "ridge regression on z-scored streams, then a centred moving average, rescaled to the "
            "variance of the training labels for CCC and F1, and to least squared error for RMSE "
            "and accuracy"
        )
        return {
            "name": "ridge + smoothing",
            "note": note,
            "task": self.task,
            "streams": {name: len(weights) for name, weights in self.weights.items()},
            "frames": self.frames,
            "annotated_frames": self.annotated,
            "groups": self.groups,
            "columns": columns,
        }


def fit_ridge(
    store: Store,
    fold: str,
    streams: Sequence[str],
    task: str,
    *,
    max_frames: int = 50_000,
) -> RidgeBaseline:
    """Fits the baseline on the training videos of a fold.

    The linear map minimises squared error: of the values of a continuous task, of one-hot
    classes, of 0/1 units. Penalty and width are chosen column by column, by Pearson's
    correlation under cross-validation in groups of whole source videos.

    Smoothing takes noise away, after which a prediction is too small, so the last step rescales
    it by the moments of the cross-validated predictions to the mean and the variance of the
    training labels, because for a given correlation CCC is greatest where both variances agree. A
    unit then passes 0.5 about as often as it is active, which suits F1. ``to_least_squares`` gives
    the scale for errors. A column with no positive correlation is predicted by its mean.

    Args:
        store: the store with the videos.
        fold: name of the fold.
        streams: names of the streams to use.
        task: name of the task.
        max_frames: annotated training frames that enter the normal equations, evenly spaced
            if there are more. Cross-validation always predicts every frame.

    Raises:
        InputError: unknown fold, stream or task, or no annotated training frame.
    """
    _check(store, streams, task)
    statistics = {name: store.statistics(fold)[name] for name in streams}
    names = store.fold(fold).train
    videos = TrainingVideos(store, names, task)
    frames_of, mean_C = videos.survey()
    if not frames_of:
        raise InputError(
            f"No training frame of fold {fold!r} is annotated for {task!r}.",
            file=store.path,
            field=f"labels of {task}",
            found=f"{len(names)} training videos, 0 annotated frames",
            expected="at least one annotated frame",
            remedy="choose another task or fold",
        )
    group_of = _groups(store, frames_of)
    annotated = sum(frames_of.values())
    keep_every = -(-annotated // max_frames)
    equations = accumulate(videos, statistics, group_of, mean_C, keep_every)
    total = equations[0]
    for group in equations[1:]:
        total = total.plus(group)

    chosen = _cross_validate(videos, statistics, group_of, mean_C, total, equations)
    columns = columns_of(statistics)
    mean_x_D, mean_y_C = total.means
    weights_DC = np.empty((len(mean_x_D), len(mean_y_C)))
    for penalty in np.unique(chosen.penalty_C):
        some = chosen.penalty_C == penalty
        weights_DC[:, some] = total.solve(penalty)[:, some]
    return RidgeBaseline(
        task=task,
        statistics=statistics,
        weights={name: weights_DC[part] for name, part in columns},
        intercept_C=mean_C + mean_y_C - mean_x_D @ weights_DC,
        penalty_C=chosen.penalty_C,
        width_C=chosen.width_C,
        centre_C=chosen.centre_C,
        gain_C=chosen.gain_C,
        mean_C=chosen.mean_C,
        correlation_C=chosen.correlation_C,
        score_C=chosen.correlation_C if len(equations) > 1 else np.full(len(mean_y_C), np.nan),
        frames=total.count,
        annotated=annotated,
        groups=len(equations),
    )


def moving_average(values_NC: np.ndarray, pts_N: np.ndarray, width: float) -> np.ndarray:
    """Computes a centred moving average over an odd number of frames, cut at the video's ends.

    Args:
        values_NC: (N, C) float64.
        pts_N: (N,) seconds of the frames, evenly spaced or nearly so.
        width: seconds.
    """
    count = len(values_NC)
    half = 0 if count < 2 else round(width / row_spacing(pts_N) / 2)
    size = 2 * min(half, count - 1) + 1
    if size == 1:
        return np.array(values_NC)

    def average(values: np.ndarray) -> np.ndarray:
        return uniform_filter1d(values, size, axis=0, mode="constant")

    # Beyond the ends lie zeros; dividing by the average of ones leaves them out.
    return average(values_NC) / average(np.ones((count, 1)))


def _groups(store: Store, frames_of: Mapping[str, int]) -> dict[str, int]:
    """Deals whole source videos to groups with similar numbers of frames: video -> group.

    Args:
        store: the store with the videos.
        frames_of: annotated frames of each video.
    """
    source_of = {name: store.videos[store.index_of(name)].source_video for name in frames_of}
    weight_of = dict.fromkeys(source_of.values(), 0)
    for name, source in source_of.items():
        weight_of[source] += frames_of[name]
    sizes = [0] * min(GROUPS, len(weight_of))
    group_of_source = {}
    # Longest first, so that the short ones even the groups out; names decide between equals.
    for source in sorted(weight_of, key=lambda source: (-weight_of[source], source)):
        smallest = sizes.index(min(sizes))
        group_of_source[source] = smallest
        sizes[smallest] += weight_of[source]
    return {name: group_of_source[source] for name, source in source_of.items()}


# -- choosing penalty and width ------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Choice:
    """The choices of cross-validation for each column; fields as in ``RidgeBaseline``."""

    penalty_C: np.ndarray
    width_C: np.ndarray
    centre_C: np.ndarray
    gain_C: np.ndarray
    mean_C: np.ndarray
    correlation_C: np.ndarray


def _cross_validate(
    videos: TrainingVideos,
    statistics: Statistics,
    group_of: Mapping[str, int],
    mean_C: np.ndarray,
    total: NormalEquations,
    equations: Sequence[NormalEquations],
) -> _Choice:
    """Chooses penalty and width by predicting each group from the others."""
    validated = len(equations) > 1
    penalties, widths = (PENALTIES, WIDTHS) if validated else _UNVALIDATED
    mean_x_D, mean_y_C = total.means
    models = []
    for group in equations:
        rest = total.plus(group, -1) if validated else total
        # X: all penalties, and for each of them all C columns.
        weights_DX = np.concatenate([rest.solve(penalty) for penalty in penalties], axis=1)
        # All groups share one intercept. With intercepts of their own, a group whose labels lie
        # high would be predicted low by the others, and a weak but real correlation of the
        # pooled predictions would come out negative.
        constant_X = np.tile(mean_C + mean_y_C, len(penalties)) - mean_x_D @ weights_DX
        parts = {name: weights_DX[part] for name, part in columns_of(statistics)}
        models.append((parts, constant_X))

    states = [Moments.empty(len(penalties) * len(mean_C)) for _ in widths]
    for record, labels_NK, mask_NK in videos:
        parts, constant_X = models[group_of[record.name]]
        raw_NX = constant_X + linear_map(record, statistics, parts)
        target_NX, known_NX = (
            np.tile(part_NC, len(penalties)) for part_NC in videos.targets(labels_NK, mask_NK)
        )
        for w, width in enumerate(widths):
            smooth_NX = moving_average(raw_NX, record.pts_N, width)
            states[w] = states[w].merge(moments(smooth_NX, target_NX, known_NX))

    shape_WPC = len(widths), len(penalties), len(mean_C)
    pooled = jax.tree.map(lambda *leaves: np.stack(leaves).reshape(shape_WPC), *states)
    columns_C = np.arange(len(mean_C))
    best_C = pooled.pearson().reshape(-1, len(mean_C)).argmax(axis=0)
    width_C, penalty_C = np.unravel_index(best_C, shape_WPC[:2])
    best = jax.tree.map(lambda leaf_WPC: leaf_WPC[width_C, penalty_C, columns_C], pooled)
    # Without positive correlation no scale helps, and the mean is what is left.
    correlation_C = np.maximum(best.pearson(), 0.0)
    gain_C = np.sqrt(best.m2_y / np.where(correlation_C > 0, best.m2_x, 1.0))
    gain_C[correlation_C == 0] = 0.0
    return _Choice(
        penalty_C=np.asarray(penalties)[penalty_C],
        width_C=np.asarray(widths)[width_C],
        centre_C=best.mean_x,
        gain_C=gain_C,
        mean_C=best.mean_y,
        correlation_C=correlation_C,
    )


def _check(store: Store, streams: Sequence[str], task: str) -> None:
    for kind, wanted, there in (
        ("stream", streams, tuple(store.streams)),
        ("task", (task,), store.tasks),
    ):
        for name in wanted:
            if name not in there:
                raise InputError(
                    f"The baseline cannot use {kind} {name!r}.",
                    file=store.path,
                    field=kind,
                    found=name,
                    expected="one of " + ", ".join(there),
                )
    if not streams:
        raise InputError(
            "The baseline needs at least one stream.",
            file=store.path,
            field="streams",
            found="none",
            expected="some of " + ", ".join(store.streams),
        )
