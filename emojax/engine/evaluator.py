"""Predictions over whole partitions and their scores: every annotated frame counts once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from emojax.datasets.folds import Fold
from emojax.datasets.pipeline import evaluation_batches, stack, window_list
from emojax.datasets.record import VideoRecord
from emojax.datasets.source import Store
from emojax.engine.session import Session
from emojax.engine.step import make_predict_step
from emojax.ops.tasks import TASK_OPS, TaskOps
from emojax.ops.windows import OverlapAverage
from emojax.specs import TASKS

# video name -> task -> (N, C) decoded predictions.
Predictions = dict[str, dict[str, np.ndarray]]


class Predictor:
    """Runs all replicas over the videos of their folds; compiled once, used many times."""

    def __init__(self, session: Session, store: Store) -> None:
        self._session = session
        self._store = store
        self._step = make_predict_step(session.model, session.shared(session.folds))

    def __call__(
        self, weights: Any, normalisation: Any, videos: Sequence[Sequence[str]]
    ) -> list[Predictions]:
        """Predicts, averages overlapping windows per frame, and keeps every frame.

        Args:
            weights: {"params", "model_state"} with leading R, on the devices.
            normalisation: see ``session.fold_normalisation``, on the devices.
            videos: for each fold of ``session.folds``, the names of the videos to predict.

        Returns:
            For each replica, its predictions for the videos of its fold.
        """
        session, store = self._session, self._store
        averages = [_Averages(store, session.tasks, names) for names in self._per_replica(videos)]
        entries = [window_list(store, names, session.window_spec) for names in videos]
        num_batches = max(1, max(-(-len(entry) // session.batch_size) for entry in entries))
        feeds = [
            evaluation_batches(
                store,
                names,
                session.window_spec,
                batch_size=session.batch_size,
                num_batches=num_batches,
            )
            for names in videos
        ]
        grouped = len(feeds) > 1
        pending: list[tuple[Any, list[Any]]] = []
        for batches in zip(*feeds, strict=True):
            batch = stack(batches) if grouped else batches[0]
            outputs = self._step(
                weights, session.layout.batch(batch, grouped=grouped), normalisation
            )
            pending.append((outputs, list(batches)))
            # Fetched one batch late, so that the device is never idle.
            if len(pending) > 1:
                self._add(averages, *pending.pop(0))
        for outputs, host_batches in pending:
            self._add(averages, outputs, host_batches)
        return [average.result() for average in averages]

    def _per_replica(self, videos: Sequence[Sequence[str]]) -> list[Sequence[str]]:
        return [videos[fold] for fold in self._session.folds.members_R]

    def _add(self, averages: list[_Averages], outputs: Any, batches: list[Any]) -> None:
        host = jax.device_get(outputs)
        for replica, fold in enumerate(self._session.folds.members_R):
            batch = batches[fold]
            of_replica = {task: values[replica] for task, values in host.items()}
            averages[replica].add(batch, of_replica)


class _Averages:
    """Overlap averages of one replica, video by video."""

    def __init__(self, store: Store, tasks: Sequence[str], names: Sequence[str]) -> None:
        self._names = {store.index_of(name): name for name in names}
        self._videos = {
            (index, task): OverlapAverage(store.videos[index].num_frames, TASKS[task].outputs)
            for index in self._names
            for task in tasks
        }

    def add(self, batch: Any, outputs: Mapping[str, np.ndarray]) -> None:
        for task, values_BTC in outputs.items():
            for b in np.flatnonzero(batch.example_mask):
                frame_ids_T = batch.frame_ids[b]
                average = self._videos[int(batch.video_ids[b]), task]
                average.add(frame_ids_T, values_BTC[b], frame_ids_T >= 0)

    def result(self) -> Predictions:
        predictions: Predictions = {name: {} for name in self._names.values()}
        for (index, task), average in self._videos.items():
            predictions[self._names[index]][task] = average.result()[0].astype(np.float32)
        return predictions


@dataclasses.dataclass(frozen=True)
class Annotations:
    """Concatenated annotations of a list of videos for one task.

    Attributes:
        names: the videos, in order.
        labels_NK: (frames of all videos, columns).
        mask_NK: True where annotated and scored.
    """

    names: tuple[str, ...]
    labels_NK: np.ndarray
    mask_NK: np.ndarray


def read_annotations(store: Store, fold: Fold, names: Sequence[str], task: str) -> Annotations:
    """Reads the annotations that the protocol scores: annotated, and in the fold's range."""
    labels, masks = [], []
    for name in names:
        record = store.read(store.index_of(name))
        shape = (record.num_frames, TASKS[task].columns)
        labels_NK = record.labels.get(task, np.full(shape, TASKS[task].ignore, np.float32))
        mask_NK: np.ndarray = np.array(TASKS[task].annotated(labels_NK))
        if fold.scored_frames is not None:
            start, stop = fold.scored_frames
            mask_NK[:start] = False
            mask_NK[stop:] = False
        labels.append(np.where(mask_NK, labels_NK, 0.0))
        masks.append(mask_NK)
    return Annotations(tuple(names), np.concatenate(labels), np.concatenate(masks))


def concatenate(truth: Annotations, predictions: Predictions, task: str) -> np.ndarray:
    """Predictions in the order of the annotations, (frames of all videos, C) float64."""
    return np.concatenate([predictions[name][task] for name in truth.names]).astype(np.float64)


def replica_scores(
    session: Session,
    predictions: Sequence[Predictions],
    truths: Sequence[Mapping[str, Annotations]],
) -> tuple[np.ndarray, list[dict[str, float]]]:
    """Scores of every replica on its own fold.

    Args:
        session: the session.
        predictions: of each replica.
        truths: for each fold, task -> annotations.

    Returns:
        (R,) selection scores, the weighted mean over a replica's targets, higher is better,
        NaN where a replica predicts anything but finite numbers; and for each replica all
        named scores of its tasks.
    """
    selections = session.config["evaluation"]["selection"]
    scores_R = np.zeros(len(session.replicas))
    named: list[dict[str, float]] = []
    for r, fold in enumerate(session.folds.members_R):
        values: dict[str, float] = {}
        for task, truth in truths[fold].items():
            predicted_NC = concatenate(truth, predictions[r], task)
            # Infinite is treated as NaN; the decision behind an F1 would turn either into a
            # class, and that into a score.
            sound = bool(np.isfinite(predicted_NC).all())
            predicted_NC = predicted_NC if sound else np.full_like(predicted_NC, np.nan)
            arguments = (predicted_NC, truth.labels_NK, truth.mask_NK)
            per_target = TASK_OPS[task].target_scores(*arguments, selections[task])
            scores = TASK_OPS[task].scores(*arguments)
            if not sound:
                per_target = np.full_like(per_target, np.nan)
                scores = dict.fromkeys(scores, float("nan"))
            weights = session.weights[task][r]
            scores_R[r] += float(np.sum(np.where(weights > 0, weights * per_target, 0.0)))
            values |= _trained_scores(TASK_OPS[task], weights, scores)
        named.append(values)
    return scores_R, named


def _trained_scores(
    ops: TaskOps, weights_X: np.ndarray, scores: Mapping[str, float]
) -> dict[str, float]:
    """Leaves out the scores of targets that the replica was not trained for."""
    if not weights_X.any():
        return {}
    idle = [f"_{name}" for name, weight in zip(ops.targets, weights_X, strict=True) if weight == 0]
    ends = tuple([*idle, "_mean"] if idle else [])
    return {name: score for name, score in scores.items() if not name.endswith(ends)}


def ensemble(
    session: Session, predictions: Sequence[Predictions], members: Sequence[int]
) -> Predictions:
    """Mean over replicas, each target over the replicas that were trained for it.

    Args:
        session: the session.
        predictions: of each replica.
        members: which replicas to combine; all must have predicted the same videos.
    """
    combined: Predictions = {}
    for name in predictions[members[0]]:
        combined[name] = {}
        for task in session.tasks:
            values_RNC = np.stack([predictions[r][name][task] for r in members])
            trained_RX: np.ndarray = session.weights[task][list(members)] > 0
            # A categorical task has one target for all of its classes.
            trained_RC = np.broadcast_to(trained_RX, (len(members), values_RNC.shape[-1]))
            weights_RC = trained_RC / np.maximum(1, trained_RC.sum(axis=0, keepdims=True))
            # An output nobody trained is no prediction.
            mean_NC = np.einsum("rnc,rc->nc", values_RNC, weights_RC)
            combined[name][task] = np.where(
                np.any(trained_RC, axis=0, keepdims=True), mean_NC, np.nan
            )
    return combined


def reference_predictions(store: Store, names: Sequence[str], reference: str) -> Predictions:
    """Predictions that the store brings along, for example simulated data's optimum."""
    return {name: store.read(store.index_of(name)).references.get(reference, {}) for name in names}


def model_free_predictions(
    store: Store, names: Sequence[str], predict: Mapping[str, Callable[[VideoRecord], np.ndarray]]
) -> Predictions:
    """Predictions of per-record functions, task -> function, such as the ridge baseline."""
    records = {name: store.read(store.index_of(name)) for name in names}
    return {
        name: {task: function(record) for task, function in predict.items()}
        for name, record in records.items()
    }
