"""Scores of a trained run: raw, tuned and postprocessed, beside optimum and baseline."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from emojax.core.replicas import Groups
from emojax.core.session import Session
from emojax.datasets.folds import Fold
from emojax.datasets.source import Store
from emojax.datasets.window_spec import WindowSpec
from emojax.errors import InputError
from emojax.ops.decisions import DECISION_RULES
from emojax.ops.scores import score_kind
from emojax.prediction.predictor import (
    Predictions,
    concatenate,
    ensemble,
    model_free_predictions,
    read_annotations,
    reference_predictions,
)
from emojax.prediction.trained_run import TrainedRun
from emojax.scoring.baseline_cache import cached_ridge
from emojax.scoring.fitted_postprocessing import Postprocessing
from emojax.scoring.fold_scores import (
    BASELINE,
    LEAST_SQUARES,
    MEAN,
    OPTIMUM,
    OURS,
    POOLED,
    PROCESSED,
    TUNED,
    FoldResult,
    Scores,
    assess,
    brief,
    on_own_terms,
    score_rows,
    scored_tasks,
    summary_rows,
)
from emojax.specs import TASKS


@dataclasses.dataclass(frozen=True)
class Tuning:
    """Predictions that decisions and widths are tuned on: of videos that were trained on.

    Attributes:
        store: the store with their annotations.
        folds: in the order of ``session.folds``; the training videos of each are tuned on.
        predictions: the predictions of each replica.
    """

    store: Store
    folds: Sequence[Fold]
    predictions: Sequence[Predictions]

    @classmethod
    def on_training(cls, run: TrainedRun) -> Tuning:
        """Predicts the training videos of a run's folds, whichever store is evaluated.

        Raises:
            InputError: the training store is not there.
        """
        store = run.open_store()
        folds = run.folds(store)
        return cls(store, folds, run.predict(store, [list(fold.train) for fold in folds]))

    def ensembles(
        self, weights: Mapping[str, np.ndarray], groups: Groups
    ) -> list[list[tuple[Fold, Predictions]]]:
        """Returns each fold with the predictions of its ensemble, for ``tuned_postprocessing``.

        Args:
            weights: the target weights of the replicas.
            groups: the replicas grouped by fold.
        """
        return [
            [(fold, ensemble(weights, self.predictions, fold_members(groups, number)))]
            for number, fold in enumerate(self.folds)
        ]


def fold_members(folds: Groups, number: int) -> list[int]:
    """Returns the replicas of a fold, by its number in ``session.folds``."""
    return [int(r) for r in np.flatnonzero(folds.members_R == number)]


def partition_videos(store: Store, fold: Fold, partition: str) -> list[str]:
    """Returns the videos of a fold's partition; a fold without a test list has the store's.

    Raises:
        InputError: there are none.
    """
    parts: dict[str, Sequence[str]] = {
        "train": fold.train,
        "validation": fold.validation,
        "test": fold.test or store.partitions.get("test", ()),
    }
    if not parts.get(partition):
        raise InputError(
            f"Fold {fold.name!r} has no {partition!r} videos.",
            file=store.path,
            field="--partition",
            found=partition,
            expected="one of " + ", ".join(name for name, videos in parts.items() if videos),
        )
    return list(parts[partition])


def evaluate_run(
    run: TrainedRun,
    store: Store,
    partition: str,
    *,
    baseline: bool | None = None,
    tuning: Tuning | None = None,
    postprocessing: Postprocessing | None = None,
) -> list[FoldResult]:
    """Predicts a partition of each of a run's folds, and scores it.

    Args:
        run: the run that predicts.
        store: the data.
        partition: "train", "validation" or "test".
        baseline: fit ridge + smoothing as well; by default where the run was trained on the store.
        tuning: see ``evaluate_folds``.
        postprocessing: see ``evaluate_folds``.

    Raises:
        InputError: a fold has no such videos, or all replicas diverged.
    """
    folds = run.folds(store)
    videos = [partition_videos(store, fold, partition) for fold in folds]
    return evaluate_folds(
        run.session,
        store,
        run.predict(store, videos),
        folds,
        partition,
        baseline=run.trained_on(store) if baseline is None else baseline,
        tuning=tuning,
        postprocessing=postprocessing,
    )


def evaluate_folds(
    session: Session,
    store: Store,
    predictions: Sequence[Predictions],
    folds: Sequence[Fold],
    partition: str,
    *,
    baseline: bool = True,
    tuning: Tuning | None = None,
    postprocessing: Postprocessing | None = None,
) -> list[FoldResult]:
    """Scores the ensembles of each fold's replicas beside optimum and linear baseline.

    Args:
        session: the session of the run.
        store: the store with the videos.
        predictions: each replica's predictions of the partition's videos of its fold.
        folds: the folds, in the order of ``session.folds``.
        partition: "train", "validation" or "test".
        baseline: True to fit ridge + smoothing, too. That needs the store that the run was
            trained on; on another store the baseline would learn from other videos.
        tuning: if given, the model is also scored with decisions tuned on these predictions.
        postprocessing: if given, the model is also scored with its predictions postprocessed.

    Raises:
        InputError: a fold has no such videos.
    """
    results = []
    for number, fold in enumerate(folds):
        names = partition_videos(store, fold, partition)
        members = fold_members(session.folds, number)
        systems = {OURS: ensemble(session.weights, predictions, members)}
        decisions: dict[str, np.ndarray] = {}
        if tuning:
            known = ensemble(session.weights, tuning.predictions, members)
            decisions = _tuned(tuning.store, tuning.folds[number], known, session.tasks)
            systems[TUNED] = _moved(systems[OURS], decisions)
        if postprocessing:
            systems[PROCESSED] = postprocessing(store, systems[OURS], number)
        systems[OPTIMUM] = reference_predictions(store, names, "optimum")
        scaled = _baselines(store, fold.name, names, session.window_spec) if baseline else {}
        if baseline:
            systems[BASELINE] = _selected(scaled, names, session.config.evaluation.selection)
        scores: dict[str, Scores] = {}
        states: dict[str, dict[str, Any]] = {}
        for task in session.tasks:
            truth = read_annotations(store, fold, names, task)
            if not truth.mask_NK.any():
                continue
            found = {
                system: assess(truth, predicted, task)
                for system, predicted in (systems | scaled).items()
                if all(task in predicted[name] for name in names)
            }
            states[task] = {system: pair[0] for system, pair in found.items() if pair}
            scores[task] = on_own_terms({s: pair[1] for s, pair in found.items() if pair})
        results.append(
            FoldResult(
                fold.name, tuple(names), systems, scores, states, decisions, fold.scored_frames
            )
        )
    return results


def _tuned(
    store: Store, fold: Fold, predictions: Predictions, tasks: Sequence[str]
) -> dict[str, np.ndarray]:
    """Tunes decisions on the predictions of a fold's training videos: task -> parameters."""
    decisions = {}
    for task in tasks:
        rule = DECISION_RULES.get(TASKS[task].kind)
        if rule is not None:
            truth = read_annotations(store, fold, fold.train, task)
            decisions[task] = rule.tune(
                concatenate(truth, predictions, task), truth.labels_NK, truth.mask_NK
            )
    return decisions


def _moved(predictions: Predictions, decisions: Mapping[str, np.ndarray]) -> Predictions:
    """Moves predictions of tuned tasks so that the papers' rule makes the tuned decisions."""
    return {
        name: {
            task: DECISION_RULES[TASKS[task].kind].move(by_task[task], parameters_C)
            for task, parameters_C in decisions.items()
        }
        for name, by_task in predictions.items()
    }


def _baselines(
    store: Store, fold: str, names: Sequence[str], spec: WindowSpec
) -> dict[str, Predictions]:
    """Predicts by ridge + smoothing, fitted on the model's own streams and training videos.

    Returns:
        ``BASELINE``, at the scale for CCC and F1, and ``LEAST_SQUARES``, at that for errors.
    """
    ridges = {task: cached_ridge(store, fold, tuple(spec.streams), task) for task in spec.tasks}
    own = model_free_predictions(
        store, names, {task: ridge.predict for task, ridge in ridges.items()}
    )
    least = {
        name: {task: ridges[task].to_least_squares(x_NC) for task, x_NC in by_task.items()}
        for name, by_task in own.items()
    }
    return {BASELINE: own, LEAST_SQUARES: least}


def _selected(
    scaled: Mapping[str, Predictions], names: Sequence[str], selection: Mapping[str, str]
) -> Predictions:
    """Returns the baseline's predictions at the scale of each task's selection, to be shown."""
    return {
        name: {
            task: scaled[LEAST_SQUARES if score_kind(selection[task]).least_squares else BASELINE][
                name
            ][task]
            for task in scaled[BASELINE][name]
        }
        for name in names
    }


# -- showing -------------------------------------------------------------------------------


def print_scores(results: Sequence[FoldResult], title: str, console: Console) -> None:
    """Prints one table per task, or a line if no annotations exist.

    With several folds, scores of single classes and units are shown over all folds only.
    """
    if not scored_tasks(results):
        console.print(f"{title}: no annotations, so no scores", highlight=False)
    for task in scored_tasks(results):
        header, rows = score_rows(results, task)
        summary = summary_rows(results, task)
        # Only one of mean and whole need tell of the single classes.
        whole = POOLED if any(row[0] == POOLED for row in summary) else MEAN
        shown = brief(rows, task) if summary else rows
        for name in (MEAN, POOLED):
            some = [row for row in summary if row[0] == name]
            shown += some if name == whole else brief(some, task)
        table = Table(title=f"{title}: {task}", title_justify="left")
        for name in header:
            table.add_column(name, justify="left" if name in ("fold", "score") else "right")
        above = None
        for row in shown:
            if above not in (None, row[0]):
                table.add_section()
            # A fold is named once; the line above it parts it from the one before.
            name, above = ("" if row[0] == above else row[0]), row[0]
            cells = [f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row[1:]]
            table.add_row(name, *cells)
        console.print(table)
