"""Predicts and scores whole partitions: every annotated frame counts once."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from emojax.core.session import Session
from emojax.datasets.folds import Fold
from emojax.datasets.pipeline import (
    WindowIds,
    evaluation_batches,
    evaluation_entries,
    stack,
    window_ids,
    window_list,
)
from emojax.datasets.record import VideoRecord
from emojax.datasets.resident import ResidentData
from emojax.datasets.source import Store
from emojax.datasets.ticks import count_ticks, held_ticks
from emojax.datasets.window_spec import WindowSpec
from emojax.ops.ensembles import combine
from emojax.ops.scores import without_parts
from emojax.ops.tasks import TASK_OPS, TaskOps
from emojax.ops.windows import OverlapAverage
from emojax.prediction.predict_step import make_predict_step
from emojax.prediction.resident_predictor import ResidentEvaluation
from emojax.specs import TASKS
from emojax.types import Batch

# video name -> task -> (N, C) decoded predictions.
Predictions = dict[str, dict[str, np.ndarray]]


class Fed(NamedTuple):
    """One batch of every fold.

    Attributes:
        host: the batch of each fold; where several processes read parts of it, the numbers of its
            windows instead.
        device: the batches of all folds, on the devices.
    """

    host: Sequence[Batch | WindowIds]
    device: Any


class Predictor:
    """Predicts the videos of each fold with its replicas; compiled once, used many times.

    Args:
        session: the session to predict with.
        store: the store with the videos.
        resident: videos of this store that are on the devices already, in the session's windows.
            Calls for such videos gather and average on the devices; other calls read the store.
        between: called before every batch; an exception from it ends the prediction.
    """

    def __init__(
        self,
        session: Session,
        store: Store,
        resident: ResidentData | None = None,
        between: Callable[[], None] = lambda: None,
    ) -> None:
        self.session, self.store, self._between = session, store, between
        self._step = make_predict_step(session.model, session.shared(session.folds))
        self._resident: ResidentEvaluation | None = None
        if resident is not None:
            self._resident = ResidentEvaluation(session, store, resident, self._step, between)

    def __call__(
        self, weights: Any, normalisation: Any, videos: Sequence[Sequence[str]]
    ) -> list[Predictions]:
        """Predicts videos, from the resident data if all are resident, else from the store."""
        if self._resident is None or not self._resident.holds(videos):
            return self.run(weights, normalisation, videos, self.feed(videos))
        # A video that is named twice is predicted once.
        names = [list(dict.fromkeys(of_fold)) for of_fold in videos]
        averages = self._resident.means(weights, normalisation, names)
        return self._predictions([self._timeline(of_fold) for of_fold in names], averages)

    def on(self, store: Store) -> Predictor:
        """Returns this predictor for another store with the same streams, compiled once."""
        other = copy.copy(self)
        other.store = store
        # The resident data belong to the store of this predictor.
        other._resident = None
        return other

    def feed(self, videos: Sequence[Sequence[str]]) -> Iterator[Fed]:
        """Yields the batches of these videos, fold by fold; a list of them serves several runs."""
        session, store, spec = self.session, self.store, self.session.window_spec
        layout, size = session.layout, session.batch_size
        entries = [window_list(store, names, spec, evaluation=True) for names in videos]
        num_batches = max(1, max(-(-len(entry) // size) for entry in entries))
        options: dict[str, Any] = {"batch_size": size, "num_batches": num_batches}
        rows = layout.rows(size)
        feeds = [evaluation_batches(store, names, spec, rows=rows, **options) for names in videos]
        if not layout.shared:
            for batches in zip(*feeds, strict=True):
                yield Fed(batches, self.place([*batches]))
            return
        # Every process lists all windows and reads its own.
        windows = [evaluation_entries(store, names, spec, **options) for names in videos]
        both = zip(zip(*feeds, strict=True), zip(*windows, strict=True), strict=True)
        for batches, of_folds in both:
            ids = [window_ids(store, spec, of_batch) for of_batch in of_folds]
            grouped = len(batches) > 1
            tree = stack(batches) if grouped else batches[0]
            yield Fed(ids, layout.batch_of_rows(tree, size, grouped=grouped))

    def place(self, per_fold: Sequence[Any]) -> Any:
        """Puts arrays with leading B, one tree for each fold, onto the devices like a batch."""
        grouped = len(per_fold) > 1
        tree = stack(per_fold) if grouped else per_fold[0]
        return self.session.layout.batch(tree, grouped=grouped)

    def run(
        self,
        weights: Any,
        normalisation: Any,
        videos: Sequence[Sequence[str]],
        feed: Iterable[Fed],
        drop: Callable[[Sequence[Batch]], Any] | None = None,
    ) -> list[Predictions]:
        """Predicts, averages overlapping windows per tick, and gives every frame a value.

        Each frame takes the value of the tick nearest to it; without a clock, ticks are frames.
        ``config.data.scored`` decides which ticks of a window count.

        Args:
            weights: {"params", "model_state"} with leading R, on the devices.
            normalisation: see ``session.fold_normalisation``, on the devices.
            videos: for each fold of ``session.folds``, the names of the videos to predict.
            feed: the batches that ``feed`` yields for the same videos.
            drop: maps the batches of all folds to the rows that ``step.forward`` drops, on the
                devices (see ``place``). It needs a single process.

        Returns:
            For each replica, its predictions for the videos of its fold.
        """
        session, spec = self.session, self.session.window_spec
        timelines = [self._timeline(names) for names in videos]
        averages = [
            {task: OverlapAverage(len(timelines[fold]), TASKS[task].outputs) for task in spec.tasks}
            for fold in session.folds.members_R
        ]
        pending: list[tuple[Any, Sequence[Batch | WindowIds]]] = []
        for fed in feed:
            self._between()
            dropped = () if drop is None else (drop(cast(Sequence[Batch], fed.host)),)
            outputs = self._step(weights, fed.device, normalisation, *dropped)
            pending.append((outputs, fed.host))
            # Results are fetched one batch late, so that the device is never idle.
            if len(pending) > 1:
                self._add(averages, timelines, *pending.pop(0))
        for outputs, host_batches in pending:
            self._add(averages, timelines, outputs, host_batches)
        return self._predictions(
            timelines,
            [{task: a.result()[0] for task, a in of_replica.items()} for of_replica in averages],
        )

    def _timeline(self, names: Sequence[str]) -> _Timeline:
        return _Timeline(self.store, self.session.window_spec, names)

    def _predictions(
        self, timelines: Sequence[_Timeline], means: Sequence[Mapping[str, np.ndarray]]
    ) -> list[Predictions]:
        """Turns each replica's task -> (ticks, C) into predictions of frames."""
        members_R = self.session.folds.members_R
        return [
            timelines[fold].predictions(of_replica)
            for fold, of_replica in zip(members_R, means, strict=True)
        ]

    def _add(
        self,
        averages: list[dict[str, OverlapAverage]],
        timelines: list[_Timeline],
        outputs: Any,
        batches: Sequence[Batch | WindowIds],
    ) -> None:
        host = self.session.layout.fetch(outputs)
        # Once for each fold, because all of its replicas have the same windows.
        places = [line.place(batch) for line, batch in zip(timelines, batches, strict=True)]
        for replica, fold in enumerate(self.session.folds.members_R):
            ticks_BT, counted_BT = places[fold]
            for task, average in averages[replica].items():
                average.add(ticks_BT, host[task][replica], counted_BT)


class _Timeline:
    """The ticks of several videos in one sequence; ``len`` is their number."""

    def __init__(self, store: Store, spec: WindowSpec, names: Sequence[str]) -> None:
        self._store, self._spec = store, spec
        self._names = {store.index_of(name): name for name in names}
        self._spans: dict[int, slice] = {}
        self._length = 0
        for index in self._names:
            stop = self._length + count_ticks(store, index, spec)
            self._spans[index] = slice(self._length, stop)
            self._length = stop
        self._scored = {
            index: spec.scored_ticks(span.stop - span.start)
            for index, span in self._spans.items()
            if spec.scored != "all"
        }

    def __len__(self) -> int:
        return self._length

    def place(self, batch: Batch | WindowIds) -> tuple[np.ndarray, np.ndarray]:
        """Returns the position of each tick of a batch, and True where it counts; both (B, T)."""
        ticks_BT = np.array(batch.frame_ids, np.int64)
        counted_BT = ticks_BT >= 0
        for b in np.flatnonzero(batch.example_mask):
            video = int(batch.video_ids[b])
            if video in self._scored:
                starts, first, stop = self._scored[video]
                window = np.searchsorted(starts, ticks_BT[b, 0])
                counted_BT[b] &= (ticks_BT[b] >= first[window]) & (ticks_BT[b] < stop[window])
            ticks_BT[b] += self._spans[video].start
        return ticks_BT, counted_BT

    def predictions(self, means: Mapping[str, np.ndarray]) -> Predictions:
        """Returns video -> task -> (N, C) float32, each frame with the value of its nearest tick.

        Args:
            means: task -> (ticks, C), the averages over windows.
        """
        predictions: Predictions = {}
        for index, name in self._names.items():
            span = self._spans[index]
            # Where frames are ticks the record need not be read.
            frames: Any = slice(None)
            if self._spec.clock or self._spec.unannotated == "excluded":
                record = self._store.read(index)
                frames = held_ticks(record, self._spec, span.stop - span.start)
            predictions[name] = {
                task: mean_NC[span][frames].astype(np.float32) for task, mean_NC in means.items()
            }
        return predictions


@dataclasses.dataclass(frozen=True)
class Annotations:
    """Concatenated annotations of a list of videos for one task.

    Attributes:
        names: the names of the videos, in order.
        labels_NK: the labels, (frames of all videos, columns).
        mask_NK: True for entries that are annotated and scored.
    """

    names: tuple[str, ...]
    labels_NK: np.ndarray
    mask_NK: np.ndarray


def read_annotations(store: Store, fold: Fold, names: Sequence[str], task: str) -> Annotations:
    """Reads annotations, with a mask of the entries that the protocol and the fold score."""
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
    """Returns predictions in the order of the annotations, (frames of all videos, C) float64."""
    return np.concatenate([predictions[name][task] for name in truth.names]).astype(np.float64)


def replica_scores(
    predictions: Sequence[Predictions],
    truths: Sequence[Mapping[str, Annotations]],
    weights: Mapping[str, np.ndarray],
    selection: Mapping[str, str],
) -> tuple[np.ndarray, list[dict[str, float]]]:
    """Scores every replica against the annotations of its fold.

    Args:
        predictions: the predictions of each replica.
        truths: for each replica, task -> annotations.
        weights: task -> (R, targets), see ``replicas.target_weights``.
        selection: task -> the score that selects weights, as in ``config.evaluation.selection``.

    Returns:
        (R,) selection scores: the weighted mean over a replica's targets, higher is better, NaN
        if a prediction of the replica is not finite. Also, for each replica, all named scores of
        its tasks.
    """
    scores_R = np.zeros(len(predictions))
    named: list[dict[str, float]] = []
    for r, (predicted, of_replica) in enumerate(zip(predictions, truths, strict=True)):
        values: dict[str, float] = {}
        for task, truth in of_replica.items():
            predicted_NC = concatenate(truth, predicted, task)
            # Infinity and NaN are treated alike, because the decision behind an F1 would turn
            # either into a class and so into a score.
            sound = bool(np.isfinite(predicted_NC).all())
            predicted_NC = predicted_NC if sound else np.full_like(predicted_NC, np.nan)
            arguments = (predicted_NC, truth.labels_NK, truth.mask_NK)
            per_target = TASK_OPS[task].target_scores(*arguments, selection[task])
            scores = TASK_OPS[task].scores(*arguments)
            if not sound:
                per_target = np.full_like(per_target, np.nan)
                scores = dict.fromkeys(scores, float("nan"))
            weights_X = weights[task][r]
            scores_R[r] += float(np.sum(np.where(weights_X > 0, weights_X * per_target, 0.0)))
            values |= _trained_scores(TASK_OPS[task], weights_X, scores)
        named.append(values)
    return scores_R, named


def _trained_scores(
    ops: TaskOps, weights_X: np.ndarray, scores: Mapping[str, float]
) -> dict[str, float]:
    """Returns the scores without those of targets that the replica was not trained for."""
    if not weights_X.any():
        return {}
    idle = [name for name, weight in zip(ops.targets, weights_X, strict=True) if weight == 0]
    return {name: scores[name] for name in without_parts(scores, idle)}


def ensemble(
    weights: Mapping[str, np.ndarray],
    predictions: Sequence[Predictions],
    members: Sequence[int],
    rule: str = "mean",
) -> Predictions:
    """Combines replicas: each target over the replicas that were trained for it.

    A replica that diverged (all of its predictions are NaN) is left out. Targets without any
    replica are NaN.

    Args:
        weights: task -> (R, targets), see ``replicas.target_weights``.
        predictions: the predictions of each replica.
        members: the replicas to combine; all must have predicted the same videos.
        rule: a key of ``emojax.ops.ensembles.ENSEMBLES``.
    """
    combined: Predictions = {}
    for name in predictions[members[0]]:
        combined[name] = {}
        for task, weights_RX in weights.items():
            values_RNC = np.stack([predictions[r][name][task] for r in members])
            trained_RX: np.ndarray = weights_RX[list(members)] > 0
            # A categorical task has one target for all of its classes.
            trained_RC = np.broadcast_to(trained_RX, (len(members), values_RNC.shape[-1]))
            # Replicas that diverged do not count.
            lost_R = np.isnan(values_RNC).all(axis=(1, 2))
            values_RNC = np.where(lost_R[:, None, None], 0.0, values_RNC)
            trained_RC = trained_RC & ~lost_R[:, None]
            # Outputs that no replica was trained for become NaN.
            combined[name][task] = combine(rule, TASKS[task].kind, values_RNC, trained_RC)
    return combined


def reference_predictions(store: Store, names: Sequence[str], reference: str) -> Predictions:
    """Returns predictions that the store holds, such as the optimum of simulated data."""
    return {name: store.read(store.index_of(name)).references.get(reference, {}) for name in names}


def model_free_predictions(
    store: Store, names: Sequence[str], predict: Mapping[str, Callable[[VideoRecord], np.ndarray]]
) -> Predictions:
    """Predicts videos with a function of a record for each task, such as the ridge baseline."""
    records = {name: store.read(store.index_of(name)) for name in names}
    return {
        name: {task: function(record) for task, function in predict.items()}
        for name, record in records.items()
    }
