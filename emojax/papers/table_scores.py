"""Scores the runs of a published table, fold by fold and seed by seed; keeps scores on disk.

The scores are those that ``emojax evaluate`` computes for the ensemble of one fold's targets, but
for each seed alone. The metric states of every video are kept, too; they serve to compare rows.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from emojax.datasets.folds import Fold
from emojax.datasets.source import Store
from emojax.datasets.ticks import count_ticks, held_ticks
from emojax.datasets.window_spec import WindowSpec
from emojax.exchange.submission_frames import every_frame
from emojax.exchange.submission_writing import answer, write_submission
from emojax.ops.stability import StabilityCounts, stability_counts
from emojax.ops.tasks import TASK_OPS
from emojax.papers.table_runs import Run, write_atomically
from emojax.prediction.predictor import (
    Predictions,
    ensemble,
    read_annotations,
    reference_predictions,
)
from emojax.prediction.trained_run import TrainedRun, open_run
from emojax.published.emma_net_tables import EPSILONS
from emojax.scoring.evaluation import partition_videos
from emojax.scoring.fold_scores import OPTIMUM, assess
from emojax.specs import TASKS

NO_SCORES: dict[str, float] = {}


@dataclasses.dataclass(frozen=True)
class Measured:
    """The scores of a run on one partition.

    Attributes:
        scores: fold -> seed -> score name -> value, without targets that diverged.
        frames: fold -> task -> number of annotated frames that are scored.
        optimum: fold -> score name -> value of the simulation's best possible prediction.
        submissions: fold -> task -> file of predictions, for tasks without annotations.
        states_file: the file with the metric states of each video.
    """

    scores: dict[str, dict[int, dict[str, float]]]
    frames: dict[str, dict[str, int]]
    optimum: dict[str, dict[str, float]]
    submissions: dict[str, dict[str, str]]
    states_file: Path

    def values(self, fold: str, names: Sequence[str], seeds: Sequence[int]) -> list[float]:
        """Returns each seed's value of the first score that the fold has; NaN if it diverged."""
        of_fold = self.scores[fold]
        known = [name for name in names if any(name in of_fold[seed] for seed in seeds)]
        return [of_fold[seed].get(known[0], math.nan) if known else math.nan for seed in seeds]

    def states(self, fold: str, seed: int, task: str) -> list[Any]:
        """Returns one metric state per video; none if the seed diverged or nothing is annotated."""
        empty = _empty_state(task)
        with np.load(self.states_file, allow_pickle=False) as file:
            keys = [f"{fold}/{seed}/{task}/{i}" for i in range(len(jax.tree.leaves(empty)))]
            if keys[0] not in file:
                return []
            leaves = [file[key] for key in keys]
        structure = jax.tree.structure(empty)
        return [
            jax.tree.unflatten(structure, [x[v] for x in leaves]) for v in range(len(leaves[0]))
        ]


def measure(run: Run, store: Store, partition: str) -> Measured:
    """Scores a run on a partition, or reads its scores if they are on disk.

    Args:
        run: a run of which at least one replica has weights.
        store: the store that it was trained on.
        partition: "validation" or "test".

    Raises:
        InputError: the run cannot be opened, or a fold has no videos in the partition.
    """
    file = run.folder / f"scores-{partition}.json"
    states_file = file.with_suffix(".npz")
    if not file.is_file():
        _measure(run, store, partition, file, states_file)
    content = json.loads(file.read_text())
    scores = {
        fold: {int(seed): named for seed, named in by_seed.items()}
        for fold, by_seed in content.pop("scores").items()
    }
    return Measured(scores=scores, states_file=states_file, **content)


def _measure(run: Run, store: Store, partition: str, file: Path, states_file: Path) -> None:
    trained = open_run(run.folder)
    trained.open_store(str(store.path)).close()  # which checks that it fits
    session = trained.session
    folds = [store.fold(name) for name in session.folds.keys]
    videos = [partition_videos(store, fold, partition) for fold in folds]
    predictions = trained.predict(store, videos)
    content: dict[str, Any] = {"scores": {}, "frames": {}, "optimum": {}, "submissions": {}}
    arrays: dict[str, np.ndarray] = {}
    for fold, names in zip(folds, videos, strict=True):
        scored = _Scored(session.window_spec, store, fold, names)
        content["frames"][fold.name] = scored.frames
        content["optimum"][fold.name] = scored.scores(reference_predictions(store, names, OPTIMUM))
        content["scores"][fold.name] = {}
        for seed in run.seeds:
            members = _members(trained, fold.name, seed)
            combined = ensemble(session.weights, predictions, members)
            content["scores"][fold.name][seed] = scored.scores(combined) | scored.stability(
                combined
            )
            arrays |= {f"{fold.name}/{seed}/{key}": x for key, x in scored.states(combined).items()}
        content["submissions"][fold.name] = _submissions(
            trained, predictions, scored, run.folder / "submissions" / partition
        )
    partial = states_file.with_name(f"{states_file.name}.partial")
    with partial.open("wb") as opened:
        np.savez(opened, allow_pickle=False, **arrays)
    partial.replace(states_file)
    # Written last, because its presence means that the states are complete.
    write_atomically(file, json.dumps(content, indent=1) + "\n")


class _Scored:
    """The videos of one fold and their annotations."""

    def __init__(self, spec: WindowSpec, store: Store, fold: Fold, names: Sequence[str]) -> None:
        self.spec, self.store, self.fold, self.names = spec, store, fold, names
        self._truth = {task: read_annotations(store, fold, names, task) for task in spec.tasks}
        self.frames = {
            task: int(truth.mask_NK.any(axis=1).sum()) for task, truth in self._truth.items()
        }

    def scores(self, predictions: Predictions) -> dict[str, float]:
        """Scores all tasks that are annotated and predicted."""
        found: dict[str, float] = {}
        for task, truth in self._truth.items():
            if self.frames[task] and all(task in predictions[name] for name in self.names):
                pair = assess(truth, predictions, task)
                found |= pair[1] if pair else NO_SCORES
        return found

    def states(self, predictions: Predictions) -> dict[str, np.ndarray]:
        """Returns the states of annotated videos: "task/number of the leaf" -> (videos, ...)."""
        arrays: dict[str, np.ndarray] = {}
        for task in self.spec.tasks:
            states = []
            for name in self.names:
                truth = read_annotations(self.store, self.fold, [name], task)
                if truth.mask_NK.any():
                    pair = assess(truth, predictions, task)
                    states += [jax.tree.leaves(pair[0])] if pair else []
            for i, leaves in enumerate(zip(*states, strict=True)):
                arrays[f"{task}/{i}"] = np.stack([np.asarray(leaf) for leaf in leaves])
        return arrays

    def stability(self, predictions: Predictions) -> dict[str, float]:
        """Returns the effective context utility of tasks with classes, at thresholds ``EPSILONS``.

        It is computed over the model's ticks: frames that hold a tick's prediction count once.
        """
        found: dict[str, float] = {}
        spec = self.spec
        for task in (name for name in spec.tasks if TASKS[name].kind == "categorical"):
            counts = dict.fromkeys(EPSILONS, StabilityCounts.empty())
            for name in self.names:
                number = self.store.index_of(name)
                num_ticks = count_ticks(self.store, number, spec)
                frame_ticks = held_ticks(self.store.read(number), spec, num_ticks)
                ticks, first = np.unique(frame_ticks, return_index=True)
                values_1TC = np.zeros((1, num_ticks, TASKS[task].outputs))
                values_1TC[0, ticks] = predictions[name][task][first]
                mask_1T = np.zeros((1, num_ticks), bool)
                mask_1T[0, ticks] = np.isfinite(values_1TC[0, ticks]).all(axis=1)
                for epsilon in EPSILONS:
                    state = stability_counts(values_1TC, mask_1T, epsilon)
                    counts[epsilon] = counts[epsilon].merge(state)
            found |= {
                f"ecu_{epsilon:g}": float(state.utility())
                for epsilon, state in counts.items()
                if state.pairs
            }
        return found


def _members(trained: TrainedRun, fold: str, seed: int | None = None) -> list[int]:
    """Returns the replicas of a fold, or those of one seed if a seed is given."""
    return [
        r
        for r, replica in enumerate(trained.session.replicas)
        if replica.fold == fold and seed in (None, replica.seed)
    ]


def _submissions(
    trained: TrainedRun, predictions: Sequence[Predictions], scored: _Scored, folder: Path
) -> dict[str, str]:
    """Writes the mean predictions of tasks without annotations; returns task -> file."""
    files: dict[str, str] = {}
    for task in (task for task, count in scored.frames.items() if not count):
        combined = ensemble(
            trained.session.weights, predictions, _members(trained, scored.fold.name)
        )
        lengths = {name: len(combined[name][task]) for name in scored.names}
        if any(np.isnan(combined[name][task]).any() for name in scored.names):
            continue  # a target diverged, so its predictions are missing
        frames = every_frame(lengths)
        values_NK, _ = answer(frames, _of_task(combined, task), task)
        path = folder / f"fold_{scored.fold.name}_{task}.txt"
        write_submission(path, frames, task, values_NK)
        files[task] = str(path)
    return files


def _of_task(predictions: Predictions, task: str) -> Any:
    return lambda name: predictions[name][task]


def _empty_state(task: str) -> Any:
    """Returns the state of no frame, which gives the structure."""
    spec = TASKS[task]
    nothing_1K = np.zeros((1, spec.columns))
    return TASK_OPS[task].state(
        np.full((1, spec.outputs), 0.5), nothing_1K, np.zeros((1, spec.columns), bool)
    )


def task_of(config: Mapping[str, Any]) -> str:
    """Returns the task of a training of a table, which has only one."""
    (task,) = config["data"]["tasks"]
    return str(task)
