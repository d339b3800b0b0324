"""What is shown of a trained run: tables beside the optimum and the baseline, CSVs, pictures."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from emojax.datasets.folds import Fold
from emojax.datasets.source import Store
from emojax.engine.baseline import fit_ridge
from emojax.engine.evaluator import (
    Annotations,
    Predictions,
    concatenate,
    ensemble,
    model_free_predictions,
    read_annotations,
    reference_predictions,
)
from emojax.engine.plots import plot_learning_curves, plot_video
from emojax.engine.report import write_report
from emojax.engine.session import Session
from emojax.engine.writers import METRICS_FILE
from emojax.errors import InputError
from emojax.ops.tasks import TASK_OPS
from emojax.specs import TASKS

OURS, OPTIMUM, BASELINE = "model", "optimum", "ridge + smoothing"


@dataclasses.dataclass(frozen=True)
class FoldResult:
    """Scores and predictions on one fold.

    Attributes:
        fold: its name.
        names: videos, in order.
        predictions: system ("model", "optimum", "ridge + smoothing") -> predictions.
        scores: task -> system -> score name -> value.
    """

    fold: str
    names: tuple[str, ...]
    predictions: dict[str, Predictions]
    scores: dict[str, dict[str, dict[str, float]]]


def partition_videos(store: Store, fold: Fold, partition: str) -> list[str]:
    """Videos of one partition of a fold; a fold without a test list of its own shares the store's.

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


def evaluate_folds(
    session: Session,
    store: Store,
    predictions: Sequence[Predictions],
    folds: Sequence[Fold],
    partition: str,
    *,
    baseline: bool = True,
) -> list[FoldResult]:
    """Scores the ensembles of each fold's replicas beside optimum and linear baseline.

    Args:
        session: what was trained.
        store: the data.
        predictions: of each replica, for the partition's videos of its fold.
        folds: in the order of ``session.folds``.
        partition: "train", "validation" or "test".
        baseline: whether to fit ridge + smoothing; it needs the store trained on, or it would
            learn from other videos than the model.
    """
    results = []
    for number, fold in enumerate(folds):
        names = partition_videos(store, fold, partition)
        members = [int(r) for r in np.flatnonzero(session.folds.members_R == number)]
        systems = {
            OURS: ensemble(session, predictions, members),
            OPTIMUM: reference_predictions(store, names, "optimum"),
        }
        if baseline:
            systems[BASELINE] = _baseline(session, store, fold.name, names)
        scores: dict[str, dict[str, dict[str, float]]] = {}
        for task in session.tasks:
            truth = read_annotations(store, fold, names, task)
            if not truth.mask_NK.any():
                continue
            scores[task] = {
                system: _scores(truth, predicted, task)
                for system, predicted in systems.items()
                if all(task in predicted[name] for name in names)
            }
        results.append(FoldResult(fold.name, tuple(names), systems, scores))
    return results


def _baseline(session: Session, store: Store, fold: str, names: Sequence[str]) -> Predictions:
    """Ridge + smoothing on the model's own streams and training videos."""
    fitted = {
        task: fit_ridge(
            store,
            fold,
            session.window_spec.streams,
            task,
            metric="rmse" if session.config["evaluation"]["selection"][task] == "rmse" else "ccc",
        )
        for task in session.tasks
    }
    return model_free_predictions(
        store, names, {task: ridge.predict for task, ridge in fitted.items()}
    )


def _scores(truth: Annotations, predictions: Predictions, task: str) -> dict[str, float]:
    predicted_NC = concatenate(truth, predictions, task)
    scores = TASK_OPS[task].scores(np.nan_to_num(predicted_NC), truth.labels_NK, truth.mask_NK)
    untrained = [
        f"_{name}"
        for c, name in enumerate(TASKS[task].labels)
        if np.isnan(predicted_NC[:, c]).all()
    ]
    ends = tuple([*untrained, "_mean"] if untrained else [])
    return {name: score for name, score in scores.items() if not name.endswith(ends)}


# -- showing -------------------------------------------------------------------------------


def score_rows(results: Sequence[FoldResult], task: str) -> tuple[list[str], list[list[Any]]]:
    """Header and rows of a task's table: score by score, each system, share of the optimum."""
    annotated = [result for result in results if task in result.scores]
    systems = [
        system
        for system in (OURS, OPTIMUM, BASELINE)
        if any(system in result.scores[task] for result in annotated)
    ]
    header = ["fold", "score", *systems, *(["of optimum"] if OPTIMUM in systems else [])]
    rows: list[list[Any]] = []
    for result in annotated:
        by_system = result.scores[task]
        for name, value in by_system[OURS].items():
            row: list[Any] = [result.fold, name]
            row += [by_system.get(system, {}).get(name, "-") for system in systems]
            if OPTIMUM in systems:
                optimum = by_system.get(OPTIMUM, {}).get(name, 0.0)
                # A share of an error would be read the wrong way round.
                share = value / optimum if optimum > 0 and "rmse" not in name else None
                row.append("-" if share is None else f"{share:.1%}")
            rows.append(row)
    return header, rows


def scored_tasks(results: Sequence[FoldResult]) -> list[str]:
    """Tasks that at least one fold's videos are annotated for."""
    return list(dict.fromkeys(task for result in results for task in result.scores))


def print_scores(results: Sequence[FoldResult], title: str, console: Console) -> None:
    """Prints one table per task, or that there is nothing to score by."""
    if not scored_tasks(results):
        console.print(f"{title}: no annotations, so no scores", highlight=False)
    for task in scored_tasks(results):
        header, rows = score_rows(results, task)
        table = Table(title=f"{title}: {task}", title_justify="left")
        for name in header:
            table.add_column(name, justify="left" if name in ("fold", "score") else "right")
        for row in rows:
            table.add_row(
                *(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row)
            )
        console.print(table)


def write_results(
    folder: Path, session: Session, store: Store, results: Sequence[FoldResult], partition: str
) -> None:
    """Writes ``scores.json``, a picture per video and ``report.html`` into ``folder``.

    Learning curves are drawn if the run's ``metrics.csv`` lies in the parent folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "store": store.name,
        "partition": partition,
        "folds": {result.fold: result.scores for result in results},
    }
    (folder / "scores.json").write_text(json.dumps(document, indent=1) + "\n")
    pictures: list[Path] = []
    metrics = folder.parent / METRICS_FILE
    if metrics.is_file():
        curves = folder / "learning_curves.png"
        levels = _levels(results)
        plot_learning_curves(curves, metrics, title="learning curves", levels=levels)
        pictures.append(curves)
    for result in results:
        # Folds are told apart by folder only where there are several.
        target = folder / f"fold_{result.fold}" if len(results) > 1 else folder
        pictures += _draw_videos(target, session, store, result)
    tables = [
        (f"{store.name}, {partition}: {task}", *score_rows(results, task))
        for task in scored_tasks(results)
    ]
    write_report(
        folder / "report.html",
        title=f"{session.config['model']['name']} on {store.name}, {partition}",
        tables=tables,
        pictures=pictures,
        notes=_notes(session, store, results),
    )


def _levels(results: Sequence[FoldResult]) -> dict[str, float]:
    return {
        f"{system} {name}": by_system[system][name]
        for result in results[:1]
        for task, by_system in result.scores.items()
        for system in (OPTIMUM, BASELINE)
        if system in by_system
        for name in by_system[OURS]
        if name.startswith(("ccc_", "f1_m")) and not name.endswith("ccc_mean")
    }


def _notes(session: Session, store: Store, results: Sequence[FoldResult]) -> list[str]:
    notes = [
        f"Data set: {store.name}. {store.metadata.get('description', '')}".strip(),
        f"{len(session.replicas)} replicas; where several were trained for the same target of a "
        "fold, the mean of their predictions is scored. Every annotated frame counts once.",
    ]
    if any(OPTIMUM in by_system for result in results for by_system in result.scores.values()):
        notes.append(
            "The optimum is the exact posterior of the simulation given every stream of the store, "
            "scored on the same frames with the same decoder. For CCC the best predictor is the "
            "posterior mean rescaled to the label's variance, and that is what is scored."
        )
    return notes


def _draw_videos(folder: Path, session: Session, store: Store, result: FoldResult) -> list[Path]:
    pictures = []
    for name in result.names:
        record = store.read(store.index_of(name))
        for task in result.scores:
            labels_NK = record.labels.get(task)
            if labels_NK is None:
                continue
            path = folder / (f"{name}.png" if len(result.scores) == 1 else f"{name}_{task}.png")
            plot_video(
                path,
                task=task,
                title=name,
                seconds_N=record.pts_N,
                decoded_NC=result.predictions[OURS][name][task],
                labels_NK=labels_NK,
                mask_NK=np.array(TASKS[task].annotated(labels_NK)),
                references={
                    system: result.predictions[system][name][task]
                    for system in (OPTIMUM, BASELINE)
                    if task in result.predictions.get(system, {}).get(name, {})
                },
            )
            pictures.append(path)
    return pictures


def write_predictions(
    folder: Path, store: Store, predictions: Mapping[str, Mapping[str, np.ndarray]]
) -> int:
    """One CSV per video and task: ``frame,seconds,<label>...``, a row for every frame.

    Frames count from 1, as Aff-Wild2's do. Returns the number of files.
    """
    count = 0
    for name, by_task in predictions.items():
        record = store.read(store.index_of(name))
        for task, values_NC in by_task.items():
            path = folder / task / f"{name}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            kept = [c for c in range(values_NC.shape[1]) if not np.isnan(values_NC[:, c]).all()]
            with path.open("w", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(["frame", "seconds", *(TASKS[task].labels[c] for c in kept)])
                for i, seconds in enumerate(record.pts_N):
                    row = [f"{values_NC[i, c]:.5f}" for c in kept]
                    writer.writerow([i + 1, f"{seconds:.4f}", *row])
            count += 1
    return count
