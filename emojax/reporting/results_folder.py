"""What a run leaves to be looked at and to be computed with.

``scores.json`` (scores, and which data they are of), ``per_video.csv`` (each video's scores;
the partition's score is not their mean), ``timelines.npz`` (predictions and annotations of every
frame, see ``reporting.timelines``), pictures and one HTML page; and predictions as CSV files.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emojax.core.session import Session
from emojax.datasets.source import Store
from emojax.errors import writing
from emojax.ops.decisions import DECISION_RULES
from emojax.ops.tasks import TASK_OPS
from emojax.reporting.confusion import plot_confusion
from emojax.reporting.pictures import plot_learning_curves, plot_video
from emojax.reporting.static_report import write_report
from emojax.reporting.timelines import (
    PER_VIDEO_FILE,
    TIMELINES_FILE,
    video_timelines,
    write_per_video,
    write_timelines,
)
from emojax.rundir.metric_log import METRICS_FILE
from emojax.scoring.fold_scores import (
    BASELINE,
    OPTIMUM,
    OURS,
    POOLED,
    PROCESSED,
    FoldResult,
    confusions,
    disjoint,
    mean_scores,
    pooled_scores,
    score_rows,
    scored_tasks,
    summary_rows,
)
from emojax.specs import TASKS


def write_results(
    folder: Path, session: Session, store: Store, results: Sequence[FoldResult], partition: str
) -> None:
    """Writes what the head of this module lists into ``folder``.

    There is a picture of each video, of the confusion matrices of a task with classes, and of
    the learning curves if the run's ``metrics.csv`` lies in the parent folder.

    Raises:
        MachineError: the folder cannot be written to, or the disk is full.
    """
    with writing(folder, "The results"):
        _write_results(folder, session, store, results, partition)


def _write_results(
    folder: Path, session: Session, store: Store, results: Sequence[FoldResult], partition: str
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    document = _document(session, store, results, partition)
    (folder / "scores.json").write_text(json.dumps(document, indent=1) + "\n")
    videos = list(video_timelines(store, results))
    write_timelines(folder / TIMELINES_FILE, videos)
    write_per_video(folder / PER_VIDEO_FILE, videos)
    pictures = _draw_confusions(folder, results)
    metrics = folder.parent / METRICS_FILE
    if metrics.is_file():
        curves = folder / "learning_curves.png"
        levels = _levels(results)
        plot_learning_curves(curves, metrics, title="learning curves", levels=levels)
        pictures.append(curves)
    for result in results:
        pictures += _draw_videos(_fold_folder(folder, results, result.fold), session, store, result)
    tables = []
    for task in scored_tasks(results):
        header, rows = score_rows(results, task)
        # All folds as one data set come first, then their mean, then each.
        rows = sorted(summary_rows(results, task), key=lambda row: row[0] != POOLED) + rows
        tables.append((f"{store.name}, {partition}: {task}", header, rows))
    write_report(
        folder / "report.html",
        title=f"{session.config.model['name']} on {store.name}, {partition}",
        tables=tables,
        pictures=pictures,
        notes=_notes(session, store, results),
    )


def _document(
    session: Session, store: Store, results: Sequence[FoldResult], partition: str
) -> dict[str, Any]:
    """What ``scores.json`` holds."""
    tasks = scored_tasks(results)
    document: dict[str, Any] = {
        "store": store.name,
        "partition": partition,
        "data": _data(session, store, results),
        "folds": {result.fold: result.scores for result in results},
    }
    for key, over_folds in (("all_folds", pooled_scores), ("mean_of_folds", mean_scores)):
        by_task = {task: over_folds(results, task) for task in tasks}
        document |= {key: by_task} if any(by_task.values()) else {}
    matrices = {
        task: {
            "labels": TASKS[task].labels,
            "rows": "true class",
            "counts": {
                fold: {system: counts_CC.tolist() for system, counts_CC in by_system.items()}
                for fold, by_system in confusions(results, task).items()
            },
        }
        for task in tasks
        if TASK_OPS[task].confusion
    }
    document |= {"confusion": matrices} if matrices else {}
    decisions = {
        result.fold: {
            task: {
                "tuned": DECISION_RULES[TASKS[task].kind].parameter,
                **dict(zip(TASKS[task].labels, parameters_C.tolist(), strict=True)),
            }
            for task, parameters_C in result.decisions.items()
        }
        for result in results
        if result.decisions
    }
    return document | ({"decisions": decisions} if decisions else {})


def _data(session: Session, store: Store, results: Sequence[FoldResult]) -> dict[str, Any]:
    """Where the numbers are from, so that simulated data are never taken for measured ones."""
    metadata = store.metadata
    streams = {name: store.streams[name] for name in session.window_spec.streams}
    return {
        "name": store.name,
        "description": metadata.get("description", ""),
        "checksum": metadata["checksum"],
        "builder": metadata.get("builder", {}),
        "counts": metadata.get("counts", {}),
        "streams": {name: dataclasses.asdict(spec) for name, spec in streams.items()},
        "scored_videos": {result.fold: len(result.names) for result in results},
        "replicas": list(session.names),
    }


def _fold_folder(folder: Path, results: Sequence[FoldResult], fold: str) -> Path:
    """Folds are told apart by folder only where there are several."""
    return folder / f"fold_{fold}" if len(results) > 1 else folder


def _draw_confusions(folder: Path, results: Sequence[FoldResult]) -> list[Path]:
    """A picture for each task with classes: of all folds together, else fold by fold."""
    pictures = []
    for task in scored_tasks(results):
        matrices = confusions(results, task)
        if POOLED in matrices:
            matrices = {POOLED: matrices[POOLED]}
        for fold, by_system in matrices.items():
            path = _fold_folder(folder, results, fold) / f"confusion_{task}.png"
            if fold == POOLED:
                path = folder / path.name
            title = f"{task}, fold {fold}" if fold != POOLED else f"{task}, {POOLED}"
            plot_confusion(path, title=title, labels=TASKS[task].labels, counts=by_system)
            pictures.append(path)
    return pictures


def _levels(results: Sequence[FoldResult]) -> dict[str, float]:
    """Scores to reach, the mean over folds where there are several."""
    found: dict[str, list[float]] = {}
    for result in results:
        for by_system in result.scores.values():
            for system in (OPTIMUM, BASELINE):
                for name, score in by_system.get(system, {}).items():
                    if name.startswith(("ccc_", "f1_m")):
                        found.setdefault(f"{system} {name}", []).append(score)
    return {name: float(np.mean(scores)) for name, scores in found.items()}


def _notes(session: Session, store: Store, results: Sequence[FoldResult]) -> list[str]:
    notes = [
        f"Data set: {store.name}. {store.metadata.get('description', '')}".strip(),
        f"{len(session.replicas)} replicas; where several were trained for the same target of a "
        "fold, the mean of their predictions is scored. Every annotated frame counts once.",
    ]
    if disjoint(results):
        notes.append(
            f"{POOLED.capitalize()}: no video is in two folds, so the predictions of all folds "
            "are scored as one set, each made by replicas that did not train on it."
        )
    if any(result.decisions for result in results):
        notes.append(
            "Tuned: a threshold for each unit, or an offset to the logarithm of each class, chosen "
            "for F1 on the training videos of the fold; the papers decide at 0.5 and by argmax."
        )
    if any(PROCESSED in result.predictions for result in results):
        notes.append(
            "Postprocessed: smoothed over time, clipped, or both; see postprocessing.json."
        )
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

    Raises:
        MachineError: the folder cannot be written to, or the disk is full.
    """
    with writing(folder, "The predictions"):
        return _write_predictions(folder, store, predictions)


def _write_predictions(
    folder: Path, store: Store, predictions: Mapping[str, Mapping[str, np.ndarray]]
) -> int:
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
