"""Predictions and annotations frame by frame, in one file that is read without the store.

``timelines.npz`` holds NumPy arrays alone (no pickle). All videos of all folds lie one after the
other, T frames in all; a video that is in two folds is in it twice:

    videos, folds (V,)     names of each video and of its fold
    frames (V,)            number of frames of each
    seconds (T,)           float64, time of each frame
    tasks, systems         names, see ``emojax.specs.TASKS`` and ``scoring.fold_scores.SYSTEMS``
    TASK/labels (T, K)     float32 as stored; 0 where not scored
    TASK/annotated (T, K)  bool, annotated and scored
    TASK/SYSTEM (T, C)     float32 decoded predictions, NaN where there is none
"""

from __future__ import annotations

import csv
import dataclasses
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emojax.datasets.folds import Fold
from emojax.datasets.source import Store
from emojax.errors import InputError
from emojax.file_writing import replacing
from emojax.prediction.predictor import Annotations, read_annotations
from emojax.scoring.fold_scores import SYSTEMS, FoldResult, assess
from emojax.specs import TASKS

TIMELINES_FILE = "timelines.npz"
PER_VIDEO_FILE = "per_video.csv"


@dataclasses.dataclass(frozen=True)
class TaskTimeline:
    """One video's annotations and predictions for one task.

    Attributes:
        labels_NK: (N, columns) annotations, 0 where masked.
        mask_NK: (N, columns) bool, annotated and scored.
        predictions: system -> (N, C) decoded; NaN where there is none.
    """

    labels_NK: np.ndarray
    mask_NK: np.ndarray
    predictions: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class VideoTimeline:
    """One video of one fold.

    Attributes:
        fold: name of the fold whose replicas predicted it.
        name: the name of the video.
        seconds_N: (N,) time of each frame, seconds.
        tasks: task -> what was annotated and predicted.
    """

    fold: str
    name: str
    seconds_N: np.ndarray
    tasks: dict[str, TaskTimeline]


def video_timelines(store: Store, results: Sequence[FoldResult]) -> Iterator[VideoTimeline]:
    """Yields every video of every fold, with the annotations that were scored."""
    for result in results:
        fold = Fold(result.fold, (), result.names, scored_frames=result.scored_frames)
        for name in result.names:
            record = store.read(store.index_of(name))
            found = {}
            tasks = [task for by in result.predictions.values() for task in by.get(name, {})]
            for task in dict.fromkeys(task for task in tasks if task in TASKS):
                truth = read_annotations(store, fold, [name], task)
                predictions = {
                    system: by_video[name][task]
                    for system, by_video in result.predictions.items()
                    if task in by_video.get(name, {})
                }
                found[task] = TaskTimeline(truth.labels_NK, truth.mask_NK, predictions)
            yield VideoTimeline(result.fold, name, record.pts_N, found)


def assess_video(video: VideoTimeline, task: str, system: str) -> tuple[Any, dict[str, float]]:
    """Scores one system on one video.

    The score of a partition is computed over all of its frames at once and is not the mean over
    videos: the CCC of a video in which little happens is near 0 whatever is predicted, and a
    class that does not occur in a video has F1 0 there.

    Returns:
        Metric state and scores; (None, {}) if nothing was predicted.
    """
    line = video.tasks.get(task)
    if line is None or system not in line.predictions:
        return None, {}
    truth = Annotations((video.name,), line.labels_NK, line.mask_NK)
    found = assess(truth, {video.name: {task: line.predictions[system]}}, task)
    return found if found is not None else (None, {})


def write_timelines(path: Path, videos: Sequence[VideoTimeline]) -> None:
    """Writes ``timelines.npz``, the file that the head of this module describes."""
    tasks = list(dict.fromkeys(task for video in videos for task in video.tasks))
    lines = [line for video in videos for line in video.tasks.values()]
    named = {system for line in lines for system in line.predictions}
    systems = [s for s in SYSTEMS if s in named] + sorted(named - set(SYSTEMS))
    arrays: dict[str, np.ndarray] = {
        "videos": np.array([video.name for video in videos], np.str_),
        "folds": np.array([video.fold for video in videos], np.str_),
        "frames": np.array([len(video.seconds_N) for video in videos], np.int64),
        "seconds": _joined([video.seconds_N for video in videos], np.float64),
        "tasks": np.array(tasks, np.str_),
        "systems": np.array(systems, np.str_),
    }
    for task in tasks:
        empty = [_nothing(task, len(video.seconds_N)) for video in videos]
        of_task = [video.tasks.get(task, e) for video, e in zip(videos, empty, strict=True)]
        arrays[f"{task}/labels"] = _joined([line.labels_NK for line in of_task], np.float32)
        arrays[f"{task}/annotated"] = _joined([line.mask_NK for line in of_task], np.bool_)
        for system in systems:
            if any(system in line.predictions for line in of_task):
                arrays[f"{task}/{system}"] = _joined(
                    [
                        line.predictions.get(system, np.full((len(line.mask_NK), outputs), np.nan))
                        for outputs in [TASKS[task].outputs]
                        for line in of_task
                    ],
                    np.float32,
                )
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def _nothing(task: str, frames: int) -> TaskTimeline:
    shape = (frames, TASKS[task].columns)
    return TaskTimeline(np.zeros(shape, np.float32), np.zeros(shape, bool), {})


def _joined(parts: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.asarray(part, dtype) for part in parts]) if parts else np.zeros(0)


def read_timelines(path: str | Path) -> list[VideoTimeline]:
    """Reads a file that ``write_timelines`` wrote.

    Raises:
        InputError: the file is not there, or is not such a file.
    """
    path = Path(path)
    try:
        # Opened here, because NumPy leaves a file open that turns out to be damaged.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return _taken_apart(arrays)
    except FileNotFoundError as error:
        raise InputError(
            "There are no predictions of this partition.",
            file=path,
            found="nothing",
            expected="the file that emojax.train and emojax.evaluate write",
            remedy="evaluate the run: emojax evaluate --checkpoint=RUN",
        ) from error
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            "The predictions cannot be read.",
            file=path,
            found=str(error) or type(error).__name__,
            expected="a timelines.npz of this version",
            remedy="write it again: emojax evaluate --checkpoint=RUN",
        ) from error


def _taken_apart(arrays: dict[str, np.ndarray]) -> list[VideoTimeline]:
    stops = np.cumsum(arrays["frames"])
    tasks = [str(task) for task in arrays["tasks"] if str(task) in TASKS]
    for task in tasks:
        for system in arrays["systems"]:
            values_TC = arrays.get(f"{task}/{system}")
            if values_TC is not None and values_TC.shape != (stops[-1], TASKS[task].outputs):
                raise ValueError(f"{task}/{system} is {values_TC.shape}")
    videos = []
    for name, fold, frames, stop in zip(
        arrays["videos"], arrays["folds"], arrays["frames"], stops, strict=True
    ):
        span = slice(int(stop - frames), int(stop))
        videos.append(
            VideoTimeline(
                str(fold),
                str(name),
                arrays["seconds"][span],
                {task: _of_task(arrays, task, span) for task in tasks},
            )
        )
    return videos


def _of_task(arrays: dict[str, np.ndarray], task: str, span: slice) -> TaskTimeline:
    predictions = {
        str(system): arrays[f"{task}/{system}"][span]
        for system in arrays["systems"]
        if f"{task}/{system}" in arrays
    }
    predictions = {
        system: values_NC
        for system, values_NC in predictions.items()
        if not np.isnan(values_NC).all()
    }
    labels_NK, mask_NK = arrays[f"{task}/labels"][span], arrays[f"{task}/annotated"][span]
    return TaskTimeline(labels_NK, mask_NK, predictions)


def write_per_video(path: Path, videos: Sequence[VideoTimeline]) -> None:
    """Writes ``per_video.csv``: a row for each video of each fold.

    Columns: fold, video, frames; then for each task TASK/annotated (frames with an annotation
    that counts) and TASK/SYSTEM/SCORE. A cell is empty where a system predicts nothing or no
    frame is annotated. The partition's score is not the mean of a column: see ``assess_video``.
    """
    rows: list[dict[str, object]] = []
    columns: dict[str, None] = dict.fromkeys(("fold", "video", "frames"))
    for video in videos:
        row: dict[str, object] = {
            "fold": video.fold,
            "video": video.name,
            "frames": len(video.seconds_N),
        }
        for task, line in video.tasks.items():
            annotated = int(line.mask_NK.any(axis=1).sum())
            row[f"{task}/annotated"] = annotated
            for system in line.predictions if annotated else ():
                scores = assess_video(video, task, system)[1]
                row |= {f"{task}/{system}/{name}": f"{x:.6g}" for name, x in scores.items()}
        columns |= dict.fromkeys(row)
        rows.append(row)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(columns), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
