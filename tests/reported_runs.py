"""Folders of runs as training and evaluation leave them, made without any training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emojax.config_reading import as_plain
from emojax.core.session import build_session
from emojax.datasets.source import Store
from emojax.ops.tasks import TASK_OPS
from emojax.reporting.results_folder import write_results
from emojax.reporting.timelines import TaskTimeline, VideoTimeline, assess_video, write_timelines
from emojax.rundir.metric_log import RunWriter
from emojax.scoring.evaluation import evaluate_folds
from emojax.specs import TASKS
from tests.small_store import small_config
from tests.training_runs import one_device

ALL = ("va", "expr", "au")


def guesses(store: Store, names: Sequence[str], tasks: Sequence[str], seed: int) -> Any:
    """Returns decoded predictions that know something, of every frame."""
    rng, found = np.random.default_rng(seed), {}
    for name in names:
        labels = store.read(store.index_of(name)).labels
        raw = {
            "va": 0.5 * labels["va"].clip(-1, 1) + 0.3 * rng.normal(size=labels["va"].shape),
            "expr": 2.0 * np.eye(8)[labels["expr"][:, 0].astype(int)]
            + rng.normal(size=(len(labels["expr"]), 8)),
            "au": 2.0 * labels["au"] + rng.normal(size=labels["au"].shape) - 1.0,
        }
        found[name] = {task: TASK_OPS[task].decode(raw[task]) for task in tasks}
    return found


def evaluated_run(
    workdir: Path,
    store: Store,
    *,
    tasks: Sequence[str] = ALL,
    folds: Sequence[str] = ("0",),
    seed: int = 0,
    baseline: bool = False,
    **train: object,
) -> Path:
    """Returns a run whose predictions are guesses; everything else is as the commands write it."""
    config = small_config(store.path, **train)
    config["data"]["tasks"] = list(tasks)
    config["loss"], config["evaluation"]["selection"] = {}, {}
    config["replicas"] = {"folds": list(folds), "targets": ["all"], "seeds": [0]}
    session = build_session(config, store.streams, one_device())
    of_store = [store.fold(name) for name in folds]
    predictions = [
        guesses(store, fold.validation, tasks, seed + 10 * number)
        for number, fold in enumerate(of_store)
    ]
    results = evaluate_folds(session, store, predictions, of_store, "validation", baseline=baseline)
    with RunWriter(workdir) as writer:
        for step in (5, 10, 15):
            values = {"loss": 1 / step, "learning_rate": 10.0 ** -(step / 5), "ccc_mean": step / 20}
            writer.scalars(step, {f"all/{name}": value for name, value in values.items()})
    (workdir / "config.json").write_text(json.dumps(as_plain(session.config)))
    write_results(workdir / "validation", session, store, results, "validation")
    return workdir


def invented_videos(
    names: Sequence[str], *, frames: int = 40, tasks: Sequence[str] = ("va",), seed: int = 0
) -> list[VideoTimeline]:
    """Returns videos of random annotations, a fifth of them missing, and random predictions."""
    rng = np.random.default_rng(seed)
    videos = []
    for name in names:
        lines = {}
        for task in tasks:
            shape = (frames, TASKS[task].columns)
            labels_NK = {
                "continuous": rng.uniform(-1, 1, shape),
                "categorical": rng.integers(0, TASKS[task].outputs, shape),
                "binary": rng.integers(0, 2, shape),
            }[TASKS[task].kind]
            mask_NK = np.broadcast_to(rng.random((frames, 1)) < 0.8, shape)
            raw_NC = rng.normal(size=(frames, TASKS[task].outputs))
            lines[task] = TaskTimeline(
                np.where(mask_NK, labels_NK, 0).astype(np.float32),
                mask_NK,
                {"model": TASK_OPS[task].decode(raw_NC).astype(np.float32)},
            )
        videos.append(VideoTimeline("0", name, 0.04 * np.arange(frames), lines))
    return videos


def invented_run(
    workdir: Path,
    videos: Sequence[VideoTimeline],
    *,
    store: str = "tiny",
    systems: Sequence[str] = ("model",),
) -> Path:
    """Returns a run of predictions alone, without store or metrics, with a small configuration."""
    folder = workdir / "validation"
    folder.mkdir(parents=True)
    write_timelines(folder / "timelines.npz", videos)
    scores = {
        task: {system: assess_video(videos[0], task, system)[1] for system in systems}
        for task in videos[0].tasks
    }
    data = {"name": store, "builder": {"command": "data.aff_wild2"}, "description": store}
    document = {"store": store, "partition": "validation", "data": data, "folds": {"0": scores}}
    (folder / "scores.json").write_text(json.dumps(document))
    (workdir / "config.json").write_text(json.dumps({"model": {"name": store}}))
    return workdir
