"""Ridge + smoothing, the linear baseline that is printed beside every run.

Every stream is z-scored with the fold's statistics, missing rows count as the mean, each frame
takes the row nearest in time, and one linear map leads from all columns to the labels. What it
predicts is smoothed by a centred moving average. Strength and width are chosen by
cross-validation inside the training videos, so the validation videos are as new to the baseline
as they are to the model beside it.

The training videos are passed over twice: once for the normal equations of each group of
videos, once for what the other groups predict of it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from scipy.ndimage import uniform_filter1d

from emojax.datasets.record import VideoRecord
from emojax.datasets.source import Store
from emojax.datasets.transforms import row_spacing
from emojax.engine.ridge import (
    NormalEquations,
    Statistics,
    TrainingVideos,
    accumulate,
    columns_of,
    linear_map,
)
from emojax.errors import InputError
from emojax.ops.metrics import Moments, moments
from emojax.ops.tasks import TASK_OPS
from emojax.specs import TASKS

# Penalties per frame: 1 weighs a weight like one standard deviation of a column.
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)
WIDTHS = (0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 40.0)
GROUPS = 4
# Of PENALTIES and WIDTHS, where training holds a single source video.
_UNVALIDATED = (1.0, 1.0)


@dataclasses.dataclass(frozen=True)
class RidgeBaseline:
    """A fitted baseline; ``predict`` gives what ``TaskOps.scores`` takes.

    Attributes:
        task: name of the task.
        metric: "ccc", "rmse" or the task's own score, what hyper-parameters were chosen for.
        statistics: stream -> mean (D,) and standard deviation (D,) of the z-score.
        weights: stream -> (D, C), on z-scored rows.
        intercept_C: prediction where every row is the mean.
        penalty_C: chosen ridge penalty per frame.
        width_C: chosen width of the moving average, seconds.
        centre_C, gain_C, mean_C: the last step ``mean + gain (smoothed - centre)``.
        score_C: cross-validated score of each target; NaN where nothing was validated.
        frames: training frames in the normal equations.
        annotated: annotated training frames.
        groups: groups of the cross-validation, 1 if there was none.
    """

    task: str
    metric: str
    statistics: Statistics
    weights: dict[str, np.ndarray]
    intercept_C: np.ndarray
    penalty_C: np.ndarray
    width_C: np.ndarray
    centre_C: np.ndarray
    gain_C: np.ndarray
    mean_C: np.ndarray
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

    def describe(self) -> dict[str, Any]:
        """What was fitted and chosen, for a report; JSON values alone."""
        targets = {
            name: {
                "penalty": float(self.penalty_C[c]),
                "width_seconds": float(self.width_C[c]),
                "gain": float(self.gain_C[c]),
                "cross_validated": None if np.isnan(score) else float(score),
            }
            for c, (name, score) in enumerate(
                zip(TASK_OPS[self.task].targets, self.score_C, strict=True)
            )
        }
        note = "ridge regression on z-scored streams, then a centred moving average"
        if self.metric == "ccc":
            note += "; rescaled to the variance of the training labels, the best scale for CCC"
        elif self.metric == "rmse":
            note += "; rescaled to least squared error"
        return {
            "name": "ridge + smoothing",
            "note": note,
            "task": self.task,
            "metric": self.metric,
            "streams": {name: len(weights) for name, weights in self.weights.items()},
            "frames": self.frames,
            "annotated_frames": self.annotated,
            "groups": self.groups,
            "targets": targets,
        }


def fit_ridge(
    store: Store,
    fold: str,
    streams: Sequence[str],
    task: str,
    *,
    metric: Literal["ccc", "rmse"] = "ccc",
    max_frames: int = 50_000,
) -> RidgeBaseline:
    """Fits the baseline on the training videos of a fold.

    The linear map minimises squared error: of the values of a continuous task, of one-hot
    classes, of 0/1 units. Penalty and width are chosen for each target by cross-validation in
    groups of whole source videos; for F1, unless the task is continuous.

    Smoothing takes noise away, after which the prediction of a continuous task is too small: it
    is rescaled by the moments of its cross-validated predictions. For "ccc" it gets the mean
    and the variance of the training labels, because for a given correlation CCC is greatest
    where both variances agree. For "rmse" it gets the scale of least squared error, which is
    smaller by the correlation. Either score then grows with Pearson's correlation alone, by
    which penalty and width are chosen. A dimension with no positive correlation is predicted
    by its mean.

    Args:
        store: where the videos are.
        fold: name of the fold.
        streams: names of the streams to use.
        task: name of the task.
        metric: "ccc" or "rmse"; only continuous tasks heed it.
        max_frames: annotated training frames that enter the normal equations, evenly spaced
            if there are more. Cross-validation always predicts every frame.

    Raises:
        InputError: unknown fold, stream, task or metric, or no annotated training frame.
    """
    _check(store, streams, task, metric)
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

    chosen = _cross_validate(videos, statistics, group_of, mean_C, total, equations, metric)
    columns = columns_of(statistics)
    mean_x_D, mean_y_C = total.means
    weights_DC = np.empty((len(mean_x_D), len(mean_y_C)))
    for penalty in np.unique(chosen.penalty_C):
        some = chosen.penalty_C == penalty
        weights_DC[:, some] = total.solve(penalty)[:, some]
    return RidgeBaseline(
        task=task,
        metric=metric if TASKS[task].kind == "continuous" else TASK_OPS[task].default_selection,
        statistics=statistics,
        weights={name: weights_DC[part] for name, part in columns},
        intercept_C=mean_C + mean_y_C - mean_x_D @ weights_DC,
        penalty_C=chosen.penalty_C,
        width_C=chosen.width_C,
        centre_C=chosen.centre_C,
        gain_C=chosen.gain_C,
        mean_C=chosen.mean_C,
        score_C=chosen.score_C,
        frames=total.count,
        annotated=annotated,
        groups=len(equations),
    )


def moving_average(values_NC: np.ndarray, pts_N: np.ndarray, width: float) -> np.ndarray:
    """Centred moving average over an odd number of frames, cut off at the video's ends.

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
    """Video -> group, whole source videos dealt out so that the groups hold similar frames.

    Args:
        store: where the videos are.
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
    """What cross-validation decides, per column, and how good it was, per target."""

    penalty_C: np.ndarray
    width_C: np.ndarray
    centre_C: np.ndarray
    gain_C: np.ndarray
    mean_C: np.ndarray
    score_C: np.ndarray


def _cross_validate(
    videos: TrainingVideos,
    statistics: Statistics,
    group_of: dict[str, int],
    mean_C: np.ndarray,
    total: NormalEquations,
    equations: Sequence[NormalEquations],
    metric: str,
) -> _Choice:
    """Chooses penalty and width by predicting each group from the others."""
    outputs = len(mean_C)
    validated = len(equations) > 1
    grid = list(itertools.product(PENALTIES, WIDTHS)) if validated else [_UNVALIDATED]
    penalties = tuple(dict.fromkeys(penalty for penalty, _ in grid))
    widths = tuple(dict.fromkeys(width for _, width in grid))
    mean_x_D, mean_y_C = total.means
    models = []
    for group in equations:
        rest = total.plus(group, -1) if validated else total
        weights_DX = np.concatenate([rest.solve(penalty) for penalty in penalties], axis=1)
        # All groups share one intercept. With intercepts of their own, a group whose labels lie
        # high would be predicted low by the others, and a weak but real correlation of the
        # pooled predictions would come out negative.
        constant_X = np.tile(mean_C + mean_y_C, len(penalties)) - mean_x_D @ weights_DX
        models.append(
            ({name: weights_DX[part] for name, part in columns_of(statistics)}, constant_X)
        )

    states = {key: Moments.empty(outputs) for key in grid}
    for record, labels_NK, mask_NK in videos:
        parts, constant_X = models[group_of[record.name]]
        raw_NX = constant_X + linear_map(record, statistics, parts)
        target_NC, known_NC = videos.targets(labels_NK, mask_NK)
        for width in widths:
            smooth_NX = moving_average(raw_NX, record.pts_N, width)
            for k, penalty in enumerate(penalties):
                smooth_NC = smooth_NX[:, k * outputs : (k + 1) * outputs]
                state = moments(smooth_NC, target_NC, known_NC)
                states[penalty, width] = states[penalty, width].merge(state)

    best_C = np.stack([states[key].pearson() for key in grid]).argmax(axis=0)
    scales = [_scale(states[grid[best]], c, metric) for c, best in enumerate(best_C)]
    centre_C, gain_C, offset_C, score_C = (np.array(part) for part in zip(*scales, strict=True))
    return _Choice(
        penalty_C=np.array([grid[best][0] for best in best_C]),
        width_C=np.array([grid[best][1] for best in best_C]),
        centre_C=centre_C,
        gain_C=gain_C,
        mean_C=offset_C,
        score_C=score_C if validated else np.full_like(score_C, np.nan),
    )


def _scale(state: Moments, c: int, metric: str) -> tuple[float, float, float, float]:
    """Centre, gain and mean of the last step for column ``c``, and the score it leads to."""
    # Without positive correlation no scale helps, and the mean is what is left.
    correlation = max(0.0, float(state.pearson()[c]))
    gain = np.sqrt(state.m2_y[c] / state.m2_x[c]) if correlation else 0.0
    score = correlation
    if metric == "rmse":
        gain *= correlation
        deviation_y = np.sqrt(state.m2_y[c] / max(state.count[c], 1.0))
        score = deviation_y * np.sqrt(1.0 - correlation**2)
    return float(state.mean_x[c]), float(gain), float(state.mean_y[c]), float(score)


def _check(store: Store, streams: Sequence[str], task: str, metric: str) -> None:
    for kind, wanted, there in (
        ("stream", streams, tuple(store.streams)),
        ("task", (task,), store.tasks),
        ("metric", (metric,), ("ccc", "rmse")),
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
