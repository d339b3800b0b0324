"""Scores of systems on folds: fold by fold, over all folds together, and as tables of rows."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emojax.ops.scores import is_error, score_kind, without_parts
from emojax.ops.tasks import TASK_OPS
from emojax.prediction.predictor import Annotations, Predictions, concatenate
from emojax.specs import TASKS

OURS, TUNED, OPTIMUM, BASELINE = "model", "model, tuned", "optimum", "ridge + smoothing"
PROCESSED = "model, postprocessed"
SYSTEMS = (OURS, TUNED, PROCESSED, OPTIMUM, BASELINE)
# The baseline at the scale of least squared error, on which ``on_own_terms`` draws.
LEAST_SQUARES = "ridge + smoothing, least squares"
POOLED, MEAN = "all folds", "mean of folds"

# system -> score name -> value
Scores = dict[str, dict[str, float]]


@dataclasses.dataclass(frozen=True)
class FoldResult:
    """Scores and predictions on one fold.

    Attributes:
        fold: the name of the fold.
        names: videos, in order.
        predictions: system, one of ``SYSTEMS`` -> predictions.
        scores: task -> system -> score name -> value.
        states: task -> system -> metric state behind the scores.
        decisions: task -> (C,) tuned thresholds or offsets, see ``ops.decisions``; empty if none
            were tuned.
        scored_frames: start and stop of the frames that count in each video; None for all.
    """

    fold: str
    names: tuple[str, ...]
    predictions: dict[str, Predictions]
    scores: dict[str, Scores]
    states: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    decisions: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    scored_frames: tuple[int, int] | None = None


def assess(
    truth: Annotations, predictions: Predictions, task: str
) -> tuple[Any, dict[str, float]] | None:
    """Scores predictions; returns metric state and scores, or None where nothing is predicted.

    The predictions of a target without a trained replica are NaN; its scores and the mean over
    targets are left out.
    """
    predicted_NC = concatenate(truth, predictions, task)
    untrained_C = np.isnan(predicted_NC).all(axis=0)
    if untrained_C.all():
        return None
    ops = TASK_OPS[task]
    state = ops.state(np.nan_to_num(predicted_NC), truth.labels_NK, truth.mask_NK)
    untrained = [TASKS[task].labels[c] for c in np.flatnonzero(untrained_C)]
    scores = ops.summarise(state)
    return state, {name: scores[name] for name in without_parts(scores, untrained)}


def on_own_terms(scores: Scores) -> Scores:
    """Gives the baseline each score at the scale that suits the score.

    Scores that least squared error suits (RMSE, accuracy) are those of ``LEAST_SQUARES``, which is
    then left out; the others (CCC, F1) are the baseline's own. So a score of the baseline does not
    depend on what the model beside it was selected by.
    """
    scores = dict(scores)
    least = scores.pop(LEAST_SQUARES, {})
    if BASELINE in scores:
        scores[BASELINE] = {
            name: least.get(name, value) if score_kind(name).least_squares else value
            for name, value in scores[BASELINE].items()
        }
    return scores


def scored_tasks(results: Sequence[FoldResult]) -> list[str]:
    """Lists the tasks that the videos of at least one fold are annotated for."""
    return list(dict.fromkeys(task for result in results for task in result.scores))


def disjoint(results: Sequence[FoldResult]) -> bool:
    """Tells whether there are several folds and no video is in two of them."""
    names = [name for result in results for name in result.names]
    return len(results) > 1 and len(set(names)) == len(names)


def pooled_states(results: Sequence[FoldResult], task: str) -> dict[str, Any]:
    """Merges the metric states of all folds, as if their videos were one partition.

    The result is empty unless there are several folds and their videos are disjoint. Then every
    video is predicted by replicas that did not train on it, and counts once. A system that is
    missing in a fold is left out.

    Returns:
        system -> metric state.
    """
    annotated = [result for result in results if task in result.states]
    if not disjoint(results) or not annotated:
        return {}
    known = (*SYSTEMS, LEAST_SQUARES)
    systems = [s for s in known if all(s in result.states[task] for result in annotated)]
    return {
        system: functools.reduce(
            lambda a, b: a.merge(b), [result.states[task][system] for result in annotated]
        )
        for system in systems
    }


def pooled_scores(results: Sequence[FoldResult], task: str) -> Scores:
    """Reads the scores of ``pooled_states``, without those that a fold lacks."""
    annotated = [result.scores[task] for result in results if task in result.scores]
    pooled = {
        system: TASK_OPS[task].summarise(state)
        for system, state in pooled_states(results, task).items()
    }
    return {
        system: {
            name: value
            for name, value in scores.items()
            if all(name in of_fold.get(system, {}) for of_fold in annotated)
        }
        for system, scores in on_own_terms(pooled).items()
    }


def mean_scores(results: Sequence[FoldResult], task: str) -> Scores:
    """Averages each score over folds, with equal weights, where all of several folds have it."""
    annotated = [result.scores[task] for result in results if task in result.scores]
    means: Scores = {}
    for system in SYSTEMS:
        have = [scores[system] for scores in annotated if system in scores]
        if len(annotated) > 1 and len(have) == len(annotated):
            shared = [name for name in have[0] if all(name in scores for scores in have)]
            means[system] = {name: float(np.mean([s[name] for s in have])) for name in shared}
    return means


def headline(results: Sequence[FoldResult]) -> dict[str, dict[str, float]]:
    """Returns the model's scores by task, means over folds, without single classes and units."""
    found: dict[str, dict[str, float]] = {}
    for task in scored_tasks(results):
        alone = [r.scores[task].get(OURS, {}) for r in results if task in r.scores]
        scores = mean_scores(results, task).get(OURS, {}) if len(alone) > 1 else alone[0]
        found[task] = {
            name: value for name, value in scores.items() if name not in TASK_OPS[task].details
        }
    return found


def confusions(results: Sequence[FoldResult], task: str) -> dict[str, dict[str, np.ndarray]]:
    """Counts confusions: fold (or "all folds") -> system -> (C, C), row the true class.

    Empty for a task without classes.
    """
    count = TASK_OPS[task].confusion
    if count is None:
        return {}
    groups = {result.fold: result.states.get(task, {}) for result in results}
    groups |= {POOLED: pooled_states(results, task)}
    return {
        fold: {s: np.asarray(count(state)) for s, state in states.items() if s in SYSTEMS}
        for fold, states in groups.items()
        if states
    }


# -- rows of tables --------------------------------------------------------------------------


def score_rows(results: Sequence[FoldResult], task: str) -> tuple[list[str], list[list[Any]]]:
    """Returns header and rows of a task's table: a row for each score, a column for each system."""
    annotated = [result for result in results if task in result.scores]
    systems = _systems(results, task)
    rows = [row for r in annotated for row in _rows(r.fold, r.scores[task], systems, task)]
    return _header(systems), rows


def summary_rows(results: Sequence[FoldResult], task: str) -> list[list[Any]]:
    """Returns rows like those of ``score_rows``: the mean of folds, and all folds as one."""
    systems = _systems(results, task)
    return [
        row
        for name, scores in (
            (MEAN, mean_scores(results, task)),
            (POOLED, pooled_scores(results, task)),
        )
        for row in _rows(name, scores, systems, task)
    ]


def _systems(results: Sequence[FoldResult], task: str) -> list[str]:
    scores = [result.scores[task] for result in results if task in result.scores]
    return [system for system in SYSTEMS if any(system in by_system for by_system in scores)]


def _header(systems: Sequence[str]) -> list[str]:
    return ["fold", "score", *systems, *(["of optimum"] if OPTIMUM in systems else [])]


def _rows(
    fold: str, by_system: Mapping[str, Mapping[str, float]], systems: Sequence[str], task: str
) -> list[list[Any]]:
    rows = []
    for name, value in by_system.get(OURS, {}).items():
        row: list[Any] = [fold, name]
        row += [by_system.get(system, {}).get(name, "-") for system in systems]
        if OPTIMUM in systems:
            optimum = by_system.get(OPTIMUM, {}).get(name, 0.0)
            # A share of an error would be read the wrong way round.
            row.append("-" if is_error(name) or optimum <= 0 else f"{value / optimum:.1%}")
        rows.append(row)
    return rows


def brief(rows: Sequence[Sequence[Any]], task: str) -> list[list[Any]]:
    """Leaves out the rows of single classes and units."""
    return [list(row) for row in rows if row[1] not in TASK_OPS[task].details]
