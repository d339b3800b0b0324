"""Pictures of predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from emojax.api.frames import label_columns
from emojax.datasets.source import Store
from emojax.datasets.store_checks import check_known
from emojax.errors import InputError
from emojax.reporting.pictures import plot_video
from emojax.specs import TASKS


def plot(
    predictions: pd.DataFrame,
    labels: Store | Mapping[str, Any] | None = None,
    *,
    video: str | None = None,
    task: str | None = None,
) -> Figure:
    """Draws the predictions of one video over time: a curve for each target.

        >>> figure = emojax.plot(run.predict(store), store, video="test-0")

    Classes and units become a heat map of their probabilities.

    Args:
        predictions: the result of ``Run.predict``, without ``replicas``.
        labels: annotations to draw beside them: the store with the video, or task -> (N, columns)
            as in ``Video``.
        video: the name of the video; the first by default.
        task: the task to draw; the first by default.

    Returns:
        A figure, which a notebook shows, and ``figure.savefig`` writes.

    Raises:
        InputError: there is no such video or task, or the labels are of another length.
    """
    if "replica" in predictions:
        raise InputError(
            "Only one prediction of a frame can be drawn.",
            field="predictions",
            found="those of several replicas",
            expected="those of their mean, or of one: frame[frame.replica == NAME]",
            remedy="leave replicas=True out, or drop the column replica",
        )
    columns = _predicted(predictions)
    task = task if task is not None else next(iter(columns))
    check_known([task], columns, "task", "task")
    names = list(dict.fromkeys(predictions["video"]))
    video = video if video is not None else names[0]
    check_known([video], names, "video", "video")
    rows = predictions[predictions["video"] == video]
    labels_NK = _labels(labels, video, task, len(rows))
    return plot_video(
        None,
        task=task,
        title=video,
        seconds_N=rows["time"].to_numpy(),
        decoded_NC=rows[columns[task]].to_numpy(),
        labels_NK=labels_NK,
        mask_NK=np.array(TASKS[task].annotated(labels_NK)),
    )


def _predicted(predictions: pd.DataFrame) -> dict[str, list[str]]:
    """Returns task -> its columns, of the tasks that a table has predictions for."""
    found: dict[str, list[str]] = {}
    for tasks in [*([name] for name in TASKS), list(TASKS)]:
        for task, names in label_columns(tasks).items():
            if all(name in predictions for name in names):
                found.setdefault(task, names)
    if "video" not in predictions or "time" not in predictions or not found:
        raise InputError(
            "This is not a table of predictions.",
            field="predictions",
            found=", ".join(map(str, predictions.columns)) or "no columns",
            expected="video, frame, time and labels, as Run.predict returns them",
        )
    return found


def _labels(
    labels: Store | Mapping[str, Any] | None, video: str, task: str, num_frames: int
) -> np.ndarray:
    """Returns a video's labels (N, columns), the task's ignore value where there are none."""
    spec = TASKS[task]
    nothing_NK = np.full((num_frames, spec.columns), spec.ignore, np.float32)
    if isinstance(labels, Store):
        labels = labels.read(labels.index_of(video)).labels
    if labels is None or task not in labels:
        return nothing_NK
    labels_NK = np.asarray(labels[task], np.float32)
    labels_NK = labels_NK[:, None] if labels_NK.ndim == 1 else labels_NK
    if labels_NK.shape != nothing_NK.shape:
        raise InputError(
            "Labels and predictions differ in shape.",
            field=f"labels {task} of {video}",
            found=labels_NK.shape,
            expected=nothing_NK.shape,
        )
    return labels_NK
