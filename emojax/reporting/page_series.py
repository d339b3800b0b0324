"""Learning curves and timelines as JSON, small enough for a page, for its script to draw.

A timeline has as many points as a screen can show: frames are put into buckets of equal size, and
each bucket gives its least and its greatest value, in the order in which they occur, so that no
peak is lost. Values are integers of 16 bits and probabilities of 8, both as base64 text.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from emojax.ops.json_values import json_values
from emojax.ops.scores import PANELS, SCORES, WHOLES, score_kind, split_score
from emojax.ops.tasks import TASK_OPS
from emojax.reporting.page_runs import ReportedRun
from emojax.reporting.page_statistics import System
from emojax.reporting.timelines import TaskTimeline, VideoTimeline, assess_video
from emojax.scoring.fold_scores import BASELINE, OPTIMUM, OURS
from emojax.specs import TASKS

# Bytes of text that all timelines together may take; then each has fewer points.
TIMELINE_BYTES = 6_500_000
_MAX_BUCKETS, _MIN_BUCKETS = 1000, 50
_MAX_STEPS = 1500
# Learning curves of a panel, up to which all are shown at once, and up to which none is left out.
_FEW_SERIES, _MOST_SERIES = 8, 32


@dataclasses.dataclass(frozen=True)
class _Code:
    """A way to turn the values of a task into integers.

    Attributes:
        dtype: the dtype of the numbers.
        low, high: the least and the greatest; values beyond are drawn at the edge.
        none: the integer that stands for a missing value.
    """

    dtype: type
    low: int
    high: int
    none: int


_VALUES = _Code(np.int16, -32000, 32000, -32768)
_PROBABILITIES = _Code(np.uint8, 0, 250, 255)
# Kind of task -> code.
_CODES = {"continuous": _VALUES, "categorical": _PROBABILITIES, "binary": _PROBABILITIES}


def rounded(value: float, digits: int = 4) -> float | None:
    """Rounds to that many significant digits; None for what JSON cannot hold."""
    return json_values(float(f"{value:.{digits}g}"))


# -- learning curves -------------------------------------------------------------------------


def curve_panels(runs: Sequence[ReportedRun]) -> list[dict[str, Any]]:
    """Makes the panels of learning curves, with the series of all runs in them.

    A metric finds its panel by the table of scores; one that has none (a speed) is left out.
    "levels" are the scores of optimum and baseline, means over folds. A series that is not
    "shown" waits behind a button: where there are many, the scores of single targets, classes
    and units do, if their replica has a score over all of them. Where there are very many, these
    are left out.
    """
    series = [line for number, run in enumerate(runs) for line in _run_series(number, run)]
    panels = []
    for title in PANELS:
        found = [line for line in series if score_kind(line["score"]).panel == title]
        if not found:
            continue
        if len(found) > _MOST_SERIES:
            found = [line for line in found if not line["detail"]]
        few = len(found) <= _FEW_SERIES
        kinds = [score_kind(line["score"]) for line in found]
        panels.append(
            {
                "title": title,
                "axis": ", ".join(dict.fromkeys(kind.axis for kind in kinds)),
                "log": any(kind.log for kind in kinds)
                and any(value and value > 0 for line in found for value in line["y"]),
                "series": [line | {"shown": few or not line["detail"]} for line in found],
                "levels": _levels(runs, {line["score"] for line in found}),
            }
        )
    return panels


def _run_series(number: int, run: ReportedRun) -> list[dict[str, Any]]:
    steps = _some(sorted(run.metrics))
    names = dict.fromkeys(name for row in run.metrics.values() for name in row)
    # metrics.csv names its columns REPLICA/METRIC.
    parted = {name: name.rpartition("/")[::2] for name in names}
    wholes = {
        (replica, split_score(metric)[0])
        for replica, metric in parted.values()
        if split_score(metric)[1] in WHOLES
    }
    series = []
    for name, (replica, metric) in parted.items():
        kind, part = split_score(metric)
        if kind not in SCORES:
            continue
        at = [step for step in steps if name in run.metrics[step]]
        series.append(
            {
                "run": number,
                "name": name,
                "score": metric,
                "detail": bool(part) and part not in WHOLES and (replica, kind) in wholes,
                "x": at,
                "y": [rounded(run.metrics[step][name]) for step in at],
            }
        )
    return series


def _levels(runs: Sequence[ReportedRun], names: Collection[str]) -> list[dict[str, Any]]:
    """Returns the scores of optimum and baseline, means over folds, to compare curves with."""
    found: dict[tuple[int, str, str], list[float]] = {}
    for number, run in enumerate(runs):
        for by_task in run.document["folds"].values():
            for task, by_system in by_task.items():
                for system in (OPTIMUM, BASELINE):
                    for name, value in by_system.get(system, {}).items():
                        if name in names and name not in TASK_OPS[task].details:
                            found.setdefault((number, system, name), []).append(value)
    return [
        {"run": number, "system": system, "score": name, "value": rounded(float(np.mean(values)))}
        for (number, system, name), values in found.items()
    ]


def _some(steps: list[int]) -> list[int]:
    """Chooses steps evenly where there are very many, the first and the last among them."""
    if len(steps) <= _MAX_STEPS:
        return steps
    chosen = np.unique(np.linspace(0, len(steps) - 1, _MAX_STEPS).round().astype(int))
    return [steps[i] for i in chosen]


# -- timelines -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Drawn:
    """One video of the page: the annotations of one run, the predictions of all that fit."""

    video: VideoTimeline
    of_runs: dict[int, VideoTimeline]

    def systems(self, task: str) -> dict[System, np.ndarray]:
        """Returns the predictions of every model, and of other systems those of the first run."""
        found: dict[System, np.ndarray] = {}
        for number, video in self.of_runs.items():
            if task in video.tasks:
                for system, values_NC in video.tasks[task].predictions.items():
                    if system == OURS or all(known != system for _, known in found):
                        found[number, system] = values_NC
        return found


def timelines(runs: Sequence[ReportedRun]) -> list[dict[str, Any]]:
    """Makes an entry for each video: name, fold, times, and annotation and predictions by task.

    A video of several runs has one entry, with the predictions of all of them, if their folds
    and annotations are the same.
    """
    drawn = list(_drawn(runs))
    buckets = _buckets(drawn)
    return [_timeline(entry, buckets) for entry in drawn]


def _drawn(runs: Sequence[ReportedRun]) -> Iterator[_Drawn]:
    entries: dict[tuple[str, str], list[_Drawn]] = {}
    for number, run in enumerate(runs):
        for video in run.videos:
            known = entries.setdefault((video.fold, video.name), [])
            for entry in known:
                if _same(entry.video, video):
                    entry.of_runs[number] = video
                    break
            else:
                known.append(_Drawn(video, {number: video}))
    for known in entries.values():
        yield from known


def _same(a: VideoTimeline, b: VideoTimeline) -> bool:
    return (
        np.array_equal(a.seconds_N, b.seconds_N)
        and set(a.tasks) == set(b.tasks)
        and all(np.array_equal(a.tasks[t].mask_NK, b.tasks[t].mask_NK) for t in a.tasks)
        and all(np.array_equal(a.tasks[t].labels_NK, b.tasks[t].labels_NK) for t in a.tasks)
    )


def _buckets(drawn: Sequence[_Drawn]) -> int:
    """Chooses the number of buckets of a video so that all timelines fit the page."""
    frames = np.array([len(entry.video.seconds_N) for entry in drawn])
    # Two points a bucket; four thirds of a character for each byte.
    cost = np.array(
        [
            8 / 3
            * sum(
                np.dtype(_CODES[TASKS[task].kind].dtype).itemsize
                * TASKS[task].outputs
                * (1 + len(entry.systems(task)))
                for task in entry.video.tasks
            )
            + 32 / 3
            for entry in drawn
        ]
    )  # fmt: skip
    buckets = _MAX_BUCKETS
    while buckets > _MIN_BUCKETS and (np.minimum(buckets, frames / 2) @ cost) > TIMELINE_BYTES:
        buckets -= 10
    return buckets


def _timeline(entry: _Drawn, buckets: int) -> dict[str, Any]:
    seconds_N = entry.video.seconds_N
    edges = _edges(len(seconds_N), buckets)
    tasks = {}
    for task, line in entry.video.tasks.items():
        # A store may hold the optimum of tasks that no run was trained for.
        if all(system != OURS for _, system in entry.systems(task)):
            continue
        tasks[task] = _task(task, line, entry, edges)
    return {
        "name": entry.video.name,
        "fold": entry.video.fold,
        "frames": len(seconds_N),
        "t": _text(_point_times(seconds_N, edges).astype("<f4")),
        "points": len(seconds_N) if edges is None else 2 * (len(edges) - 1),
        "tasks": tasks,
    }


def _edges(frames: int, buckets: int) -> np.ndarray | None:
    """Returns the first frames of the buckets, and the end; None where every frame is drawn."""
    if frames <= 2 * buckets:
        return None
    return np.linspace(0, frames, buckets + 1).round().astype(np.int64)


def _point_times(seconds_N: np.ndarray, edges: np.ndarray | None) -> np.ndarray:
    """Returns the times of the points: all frames, or first and middle frame of each bucket."""
    if edges is None:
        return seconds_N
    middle = (edges[:-1] + edges[1:]) // 2
    return np.stack([seconds_N[edges[:-1]], seconds_N[middle]], axis=1).ravel()


def _task(task: str, line: TaskTimeline, entry: _Drawn, edges: np.ndarray | None) -> dict[str, Any]:
    code = _CODES[TASKS[task].kind]
    labels_NC = np.where(*_annotation(task, line))
    systems = entry.systems(task)
    finite = [np.abs(x[np.isfinite(x)]).max(initial=0.0) for x in (labels_NC, *systems.values())]
    greatest = 1.0 if code is _PROBABILITIES else float(max(1.0, *finite))
    scale = greatest / code.high

    def coded(values_NC: np.ndarray) -> list[str]:
        points_PC = values_NC if edges is None else extremes(values_NC, edges)
        return [_coded(points_P, scale, code) for points_P in points_PC.T]

    by_run = {
        (number, system): assess_video(entry.of_runs[number], task, system)[1]
        for number, system in systems
    }
    some = bool(line.mask_NK.any())
    return {
        "scale": scale,
        "annotated": int(line.mask_NK.any(axis=1).sum()),
        "labels": coded(labels_NC),
        "curves": {f"{run}:{system}": coded(x_NC) for (run, system), x_NC in systems.items()},
        "scores": {
            f"{run}:{system}": {name: rounded(value) for name, value in scores.items()}
            for (run, system), scores in by_run.items()
            if some
        },
    }


def _annotation(task: str, line: TaskTimeline) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns (N, C) known, (N, C) values and NaN; a class or unit is 1 where it is present."""
    outputs = TASKS[task].outputs
    shape = (len(line.mask_NK), outputs)
    labels_NC = line.labels_NK
    if TASKS[task].kind == "categorical":
        labels_NC = (line.labels_NK == np.arange(outputs)[None, :]).astype(np.float32)
    return np.broadcast_to(line.mask_NK, shape), labels_NC, np.nan


def _coded(points_P: np.ndarray, scale: float, code: _Code) -> str:
    known_P = np.isfinite(points_P)
    whole_P = np.clip(np.rint(np.where(known_P, points_P, 0.0) / scale), code.low, code.high)
    little_endian = np.dtype(code.dtype).newbyteorder("<")
    return _text(np.where(known_P, whole_P, code.none).astype(little_endian))


def extremes(values_NC: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Finds the least and greatest value of each bucket, in the order in which they occur.

    NaN and infinity are left out; a bucket without any other value gives NaN twice.

    Args:
        values_NC: (N, C) values.
        edges: (B + 1,) increasing: first frame of each bucket, and N.

    Returns:
        (2 B, C) values.
    """
    widths = np.diff(edges)
    # (B, W) frames of each bucket; shorter ones have their last frame again.
    frames_BW = edges[:-1, None] + np.minimum(np.arange(widths.max()), widths[:, None] - 1)
    values_BWC = values_NC[frames_BW]
    known_BWC = np.isfinite(values_BWC)
    ends = [
        np.where(known_BWC, values_BWC, np.inf).argmin(axis=1),
        np.where(known_BWC, values_BWC, -np.inf).argmax(axis=1),
    ]
    at_B2C = np.sort(np.stack(ends, axis=1), axis=1)
    points_B2C = np.take_along_axis(values_BWC, at_B2C, axis=1).astype(np.float64)
    nothing_BC = ~known_BWC.any(axis=1)
    points_B2C = np.where(nothing_BC[:, None, :], np.nan, points_B2C)
    return points_B2C.reshape(-1, values_NC.shape[1])


def _text(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")


def task_facts(tasks: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Tells the page's script of each task: labels, coding, and the scores it shows.

    "primary" is the score that stands for the task, "each" the score of the same kind of each
    label, "axis" how that kind is called.
    """
    facts: dict[str, Mapping[str, Any]] = {}
    for task in tasks:
        spec, code, primary = TASKS[task], _CODES[TASKS[task].kind], TASK_OPS[task].primary
        facts[task] = {
            "labels": list(spec.labels),
            "continuous": spec.kind == "continuous",
            "bits": 8 * np.dtype(code.dtype).itemsize,
            "none": code.none,
            "primary": primary,
            "each": [f"{split_score(primary)[0]}_{label}" for label in spec.labels],
            "axis": score_kind(primary).axis,
            "decimals": score_kind(primary).decimals,
        }
    return facts
