"""The folder of an evaluation, to be looked at and to be computed with.

``scores.json`` (scores, and which data they are of), ``per_video.csv`` (each video's scores;
the partition's score is not their mean), ``timelines.npz`` (predictions and annotations of every
frame, see ``reporting.timelines``), a picture of each video, and ``report.html``, which shows
all of it. Beside these, predictions as CSV files.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emojax.config_reading import as_plain
from emojax.core.session import Session
from emojax.datasets.source import Store
from emojax.errors import writing
from emojax.ops.decisions import DECISION_RULES
from emojax.ops.json_values import json_values
from emojax.ops.own_tasks import described_tasks
from emojax.ops.tasks import TASK_OPS
from emojax.reporting.page import write_page
from emojax.reporting.page_runs import ReportedRun, study_pictures
from emojax.reporting.pictures import plot_video
from emojax.reporting.timelines import (
    PER_VIDEO_FILE,
    TIMELINES_FILE,
    video_timelines,
    write_per_video,
    write_timelines,
)
from emojax.rundir.metric_log import METRICS_FILE, read_metrics
from emojax.scoring.fold_scores import (
    BASELINE,
    OPTIMUM,
    OURS,
    FoldResult,
    confusions,
    mean_scores,
    pooled_scores,
    scored_tasks,
)
from emojax.specs import TASKS

REPORT_FILE = "report.html"


def write_results(
    folder: Path, session: Session, store: Store, results: Sequence[FoldResult], partition: str
) -> None:
    """Writes the files that the module's docstring lists into ``folder``.

    The report also shows what lies in the parent folder, if that is the run's: the learning
    curves of ``metrics.csv`` and the studies of the partition.

    Raises:
        MachineError: the folder cannot be written to, or the disk is full.
    """
    with writing(folder, "The results"):
        folder.mkdir(parents=True, exist_ok=True)
        data = _data(store, results, session.window_spec.streams, session.names)
        document = json_values(_document(store, results, partition, data))
        (folder / "scores.json").write_text(json.dumps(document, indent=1) + "\n")
        videos = list(video_timelines(store, results))
        write_timelines(folder / TIMELINES_FILE, videos)
        write_per_video(folder / PER_VIDEO_FILE, videos)
        for result in results:
            # Several folds have folders of their own.
            of_fold = folder / f"fold_{result.fold}" if len(results) > 1 else folder
            _draw_videos(of_fold, store, result)
        workdir = folder.parent
        metrics = workdir / METRICS_FILE
        run = ReportedRun(
            name=workdir.resolve().name,
            workdir=workdir,
            config=as_plain(session.config),
            document=document,
            metrics=read_metrics(metrics) if metrics.is_file() else {},
            videos=videos,
            pictures=study_pictures(workdir, folder.name),
        )
        write_page(folder / REPORT_FILE, [run], partition)


def _document(
    store: Store, results: Sequence[FoldResult], partition: str, data: Mapping[str, Any]
) -> dict[str, Any]:
    """Collects the content of ``scores.json``."""
    tasks = scored_tasks(results)
    document: dict[str, Any] = {
        "store": store.name,
        "partition": partition,
        "data": data,
        "folds": {result.fold: result.scores for result in results},
    }
    for key, over_folds in (("all_folds", pooled_scores), ("mean_of_folds", mean_scores)):
        by_task = {task: over_folds(results, task) for task in tasks}
        document |= {key: by_task} if any(by_task.values()) else {}
    matrices = {
        task: {
            "labels": TASKS[task].labels,
            "rows": "true class",
            "counts": confusions(results, task),
        }
        for task in tasks
        if TASK_OPS[task].confusion
    }
    document |= {"confusion": matrices} if matrices else {}
    decisions = {
        result.fold: {
            task: {
                "tuned": DECISION_RULES[TASKS[task].kind].parameter,
                **dict(zip(TASKS[task].labels, parameters_C, strict=True)),
            }
            for task, parameters_C in result.decisions.items()
        }
        for result in results
        if result.decisions
    }
    document |= {"decisions": decisions} if decisions else {}
    own = described_tasks(tasks)
    return document | ({"own_tasks": own} if own else {})


def _data(
    store: Store, results: Sequence[FoldResult], streams: Sequence[str], replicas: Sequence[str]
) -> dict[str, Any]:
    """Describes the data, with a mark if they are simulated.

    Args:
        store: the store that was evaluated.
        results: the result of each fold.
        streams: the names of the streams that the model reads.
        replicas: the names of the replicas.
    """
    metadata = store.metadata
    return {
        "name": store.name,
        "description": metadata.get("description", ""),
        "checksum": metadata["checksum"],
        "builder": metadata.get("builder", {}),
        "counts": metadata.get("counts", {}),
        "streams": {name: dataclasses.asdict(store.streams[name]) for name in streams},
        "scored_videos": {result.fold: len(result.names) for result in results},
        "replicas": list(replicas),
    }


def _fold_folder(folder: Path, results: Sequence[FoldResult], fold: str) -> Path:
    """Returns the folder of a fold; several folds have folders of their own."""
    return folder / f"fold_{fold}" if len(results) > 1 else folder


def _draw_videos(folder: Path, store: Store, result: FoldResult) -> None:
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


def write_predictions(
    folder: Path, store: Store, predictions: Mapping[str, Mapping[str, np.ndarray]]
) -> int:
    """Writes a CSV for each video and task: ``frame,seconds,<label>...``, a row for every frame.

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
