"""The shared parts of studies: a run's videos, and metric states of every single video."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emojax.datasets.folds import Fold
from emojax.datasets.pipeline import window_list
from emojax.datasets.record import VideoRecord
from emojax.datasets.source import Store
from emojax.errors import InputError
from emojax.ops.bootstrap import pooled_state, resampled_scores
from emojax.ops.tasks import TASK_OPS
from emojax.prediction.predictor import Annotations, Predictions, ensemble, read_annotations
from emojax.prediction.trained_run import TrainedRun, open_run
from emojax.scoring.evaluation import partition_videos
from emojax.scoring.fold_scores import assess

# The most bytes of windows that stay on the devices while they are predicted repeatedly.
_ROOM = 1 << 28


@dataclasses.dataclass(frozen=True)
class StudiedRun:
    """A run on one partition of a store.

    Attributes:
        name: the name that distinguishes it from the other runs of the study.
        run: the opened run.
        store: the data.
        partition: "train", "validation" or "test".
        folds: the folds, in the order of ``session.folds``.
        videos: the names of the partition's videos, fold by fold.
    """

    name: str
    run: TrainedRun
    store: Store
    partition: str
    folds: tuple[Fold, ...]
    videos: tuple[tuple[str, ...], ...]

    def together(self) -> bool:
        """Returns True if no video is in two folds, so that all folds form one data set."""
        names = [name for of_fold in self.videos for name in of_fold]
        return len(set(names)) == len(names)

    def groups(self, stream_by: str) -> dict[str, tuple[str, ...]]:
        """Returns name -> streams that are altered together, by "stream" or by "modality"."""
        found: dict[str, tuple[str, ...]] = {}
        for name, spec in self.run.session.streams.items():
            key = name if stream_by == "stream" else spec.modality
            found[key] = (*found.get(key, ()), name)
        return found

    def chunks(self) -> Iterator[list[list[str]]]:
        """Yields the videos in parts whose windows fit into memory, fold by fold."""
        spec = self.run.session.window_spec
        widths = self.run.session.streams
        row = sum(length * 2 * widths[name].width for name, length in spec.lengths.items())
        start, used = 0, 0
        longest = max(map(len, self.videos))
        for i in range(longest):
            names = [of_fold[i] for of_fold in self.videos if i < len(of_fold)]
            size = row * len(window_list(self.store, names, spec, evaluation=True))
            if i > start and used + size > _ROOM:
                yield [list(of_fold[start:i]) for of_fold in self.videos]
                start, used = i, 0
            used += size
        yield [list(of_fold[start:longest]) for of_fold in self.videos]

    def ensembles(self, predictions: Sequence[Predictions]) -> list[Predictions]:
        """Returns the mean of each fold's replicas, from the predictions of each replica."""
        session = self.run.session
        predictions = self.run.without_lost(predictions)
        return [
            ensemble(
                session.weights, predictions, np.flatnonzero(session.folds.members_R == f).tolist()
            )
            for f in range(len(self.folds))
        ]

    def annotations(self, fold: int, name: str) -> dict[str, Annotations]:
        """Returns task -> annotations of one video, for tasks with any scored annotation."""
        found = {
            task: read_annotations(self.store, self.folds[fold], [name], task)
            for task in self.run.session.tasks
            if task in self.store.tasks
        }
        return {task: truth for task, truth in found.items() if truth.mask_NK.any()}


class VideoStates:
    """The metric states of one system, video by video.

    Videos can be added in several parts. Scores are those of all videos as one data set if no
    video is in two folds, otherwise the mean over the folds, as in ``emojax evaluate``.
    """

    def __init__(self, studied: StudiedRun) -> None:
        self._studied = studied
        self._states: dict[str, list[list[Any]]] = {}
        self._known: dict[str, list[list[str]]] = {}
        self._scores: dict[str, list[str]] = {}

    def add(self, per_fold: Sequence[Predictions]) -> VideoStates:
        """Adds predictions, fold by fold; videos without annotations are left out.

        Returns:
            Itself.
        """
        for fold, predictions in enumerate(per_fold):
            for name, by_task in predictions.items():
                for task, truth in self._studied.annotations(fold, name).items():
                    pair = assess(truth, {name: by_task}, task) if task in by_task else None
                    if pair is not None:
                        self._add(task, fold, name, *pair)
        return self

    def _add(self, task: str, fold: int, name: str, state: Any, scores: dict[str, float]) -> None:
        for table in (self._states, self._known):
            if task not in table:
                table[task] = [[] for _ in self._studied.folds]
        self._states[task][fold].append(state)
        self._known[task][fold].append(name)
        self._scores.setdefault(task, list(scores))

    @property
    def tasks(self) -> list[str]:
        """Returns the tasks that any video is annotated for."""
        return list(self._states)

    def videos(self, task: str) -> list[list[str]]:
        """Returns the names of the videos in each group of ``groups``."""
        return self._grouped(self._known[task])

    def groups(self, task: str) -> list[list[Any]]:
        """Returns groups of states, each scored as one data set: a single one, or one per fold."""
        return self._grouped(self._states[task])

    def _grouped(self, per_fold: list[list[Any]]) -> list[list[Any]]:
        if self._studied.together():
            return [[one for of_fold in per_fold for one in of_fold]]
        return [of_fold for of_fold in per_fold if of_fold]

    def names(self, task: str) -> list[str]:
        """Returns the names of the scores of the targets that the run was trained for."""
        return self._scores[task]

    def scores(self, task: str) -> dict[str, float]:
        """Returns score name -> value, the mean over groups."""
        found = [TASK_OPS[task].summarise(pooled_state(group)) for group in self.groups(task)]
        return {n: float(np.mean([scores[n] for scores in found])) for n in self.names(task)}

    def draws(self, task: str, draws: int, seed: int) -> dict[str, np.ndarray]:
        """Returns score name -> (draws,) bootstrap values; all systems draw the same videos."""
        found = [
            resampled_scores(task, group, draws=draws, seed=seed) for group in self.groups(task)
        ]
        return {n: np.mean([scores[n] for scores in found], axis=0) for n in self.names(task)}


class AlteredStore(Store):
    """A store whose records are altered when they are read; its files stay unchanged.

    Args:
        store: an open store; its files are shared.
        alter: (number of the video, its record) -> the record to return instead.
    """

    def __init__(self, store: Store, alter: Callable[[int, VideoRecord], VideoRecord]) -> None:
        self.__dict__.update(store.__dict__)
        self._alter = alter

    def read(self, i: int) -> VideoRecord:
        """Returns the altered record of video ``i``."""
        return self._alter(i, super().read(i))


def open_studied(
    checkpoints: Sequence[str], step: int | None, store_path: str, partition: str
) -> list[StudiedRun]:
    """Opens runs on one store; by default that of the first run's training.

    Raises:
        InputError: a run or the store cannot be opened, or the partition has no annotations for
            the tasks of a run.
    """
    studied: list[StudiedRun] = []
    for name, checkpoint in zip(_names(checkpoints), checkpoints, strict=True):
        run = open_run(checkpoint, step)
        store = run.open_store(store_path or (str(studied[0].store.path) if studied else ""))
        folds = tuple(run.folds(store))
        videos = tuple(tuple(partition_videos(store, fold, partition)) for fold in folds)
        one = StudiedRun(name, run, store, partition, folds, videos)
        if not any(one.annotations(f, v) for f, names in enumerate(videos) for v in names):
            raise InputError(
                "No frame of these videos is annotated for the run's tasks.",
                file=store.path,
                field="--partition",
                found=partition,
                expected="annotations for " + ", ".join(run.session.tasks),
                remedy="name another --partition or --store",
            )
        studied.append(one)
    return studied


def _names(checkpoints: Sequence[str]) -> list[str]:
    """Returns the names of the runs' folders, or as much of their paths as distinguishes them."""
    paths = [Path(checkpoint).absolute() for checkpoint in checkpoints]
    paths = [path.parent if path.name == "checkpoints" else path for path in paths]
    if len(set(paths)) < len(paths):
        raise InputError(
            "A run is named twice.",
            field="--checkpoint",
            found=", ".join(checkpoints),
            expected="different runs",
        )
    for parts in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]
