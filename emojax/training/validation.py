"""Validation between epochs: replicas predict the validation videos of their folds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from emojax.core.session import Session
from emojax.datasets.source import Store
from emojax.prediction.predictor import Predictions, Predictor, read_annotations, replica_scores
from emojax.training.feeds import Feed
from emojax.training.groups import Group
from emojax.training.interruption import StopRequest
from emojax.training.label_checks import check_labels


class Validation:
    """Scores replicas on the validation videos of their folds.

    Attributes:
        truths: for each fold, task -> annotations.
        warnings: lines about classes that are missing.

    Args:
        session: the session of all replicas.
        store: the store with the videos.
        feed: the feed of the training, whose resident data are used here, too.
        stop: the request to stop, which is checked before every batch.

    Raises:
        InputError: no frame of a fold's validation or training videos is annotated.
    """

    def __init__(self, session: Session, store: Store, feed: Feed, stop: StopRequest) -> None:
        self._session, self._store, self._feed, self._stop = session, store, feed, stop
        self._videos = [list(store.fold(name).validation) for name in session.folds.keys]
        self.truths = [
            {
                task: read_annotations(store, store.fold(name), store.fold(name).validation, task)
                for task in session.tasks
            }
            for name in session.folds.keys
        ]
        self.warnings = check_labels(session, store, self.truths)
        self._predictors: dict[tuple[int, ...], Predictor] = {}

    def __call__(
        self, groups: Sequence[Group], active_R: np.ndarray, weights: Any, normalisation: Any
    ) -> tuple[np.ndarray, dict[int, dict[str, float]]]:
        """Scores the replicas that train.

        Args:
            groups: those of the epoch.
            active_R: (R,) bool, who trains.
            weights: as ``Predictor`` takes them, of all replicas.
            normalisation: see ``session.fold_normalisation``.

        Returns:
            Selection scores of the replicas that train, in their order, and replica -> all its
            named scores.

        Raises:
            StopTraining: a stop was requested.
        """
        folds = self._session.folds.keys
        self._keep(groups)
        predictions: dict[int, Predictions] = {}
        for group in groups:
            active_G, own = group.active(active_R), group.session.folds
            videos: list[Sequence[str]] = [()] * len(own.keys)
            for number in own.members_R[active_G]:
                videos[number] = self._videos[folds.index(own.keys[number])]
            predict = self._predictors[_members(group)]
            found = predict(group.take(weights), group.normalisation(normalisation), videos)
            predictions |= {int(group.members[i]): found[i] for i in np.flatnonzero(active_G)}
        live = np.flatnonzero(active_R)
        scores, named = replica_scores(
            [predictions[int(r)] for r in live],
            [self.truths[fold] for fold in self._session.folds.members_R[live]],
            {task: weights_RX[live] for task, weights_RX in self._session.weights.items()},
            self._session.config.evaluation.selection,
        )
        return scores, dict(zip(live.tolist(), named, strict=True))

    def _keep(self, groups: Sequence[Group]) -> None:
        """Keeps the predictors of these groups, makes those that are missing, drops the others."""
        kept = {}
        for group in groups:
            members = _members(group)
            kept[members] = self._predictors.get(members) or Predictor(
                group.session,
                self._store,
                self._feed.resident(group.session.layout),
                between=self._stop.check,
            )
        self._predictors = kept


def _members(group: Group) -> tuple[int, ...]:
    return tuple(group.members.tolist())
