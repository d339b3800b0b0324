"""The effect of each mechanism on the predictions of a few validation windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emojax.core.session import Session
from emojax.datasets.pipeline import evaluation_batches, stack
from emojax.datasets.source import Store
from emojax.models.mechanisms import mechanisms_of
from emojax.ops.masking import safe_divide
from emojax.prediction.predict_step import make_predict_step
from emojax.training.groups import Group

# Windows of each fold, if the devices do not need more. Few, for a training pays for them.
_WINDOWS = 2


class MechanismEffects:
    """Measures by how much predictions change when a mechanism is replaced.

    Args:
        session: the session of all replicas.
        store: the data; the windows are the first ones of each fold's validation videos.
    """

    def __init__(self, session: Session, store: Store) -> None:
        self._store = store
        self._count = len(session.replicas)
        self.names = tuple(mechanisms_of(session.model))

    def __call__(
        self, weights: Any, groups: Sequence[Group], active_R: np.ndarray, normalisation: Any
    ) -> dict[str, np.ndarray]:
        """Returns mechanism -> (R,) root mean square change; NaN for replicas that do not train.

        The mean is over real frames and over the outputs that a replica is trained for.

        Args:
            weights: {"params", "model_state"} of all replicas.
            groups: the groups of the epoch.
            active_R: (R,) bool, who trains.
            normalisation: see ``session.fold_normalisation``.
        """
        found = {name: np.full(self._count, np.nan) for name in self.names}
        for group in groups:
            active_G = group.active(active_R)
            if not active_G.any():
                continue
            effects = self._of_group(group, group.take(weights), group.normalisation(normalisation))
            for name, effect_G in effects.items():
                found[name][group.members[active_G]] = effect_G[active_G]
        return found

    def _of_group(self, group: Group, weights: Any, normalisation: Any) -> dict[str, np.ndarray]:
        session = group.session
        host = self._windows(session)
        grouped = len(host) > 1
        batch = session.layout.batch(stack(host) if grouped else host[0], grouped=grouped)
        predict = make_predict_step(session.model, session.shared(session.folds))
        real_GBT = np.stack([host[fold].frame_ids >= 0 for fold in session.folds.members_R])

        def predictions(*without: str) -> Mapping[str, np.ndarray]:
            flags_M = np.array([name in without for name in self.names])
            flags_GM = session.layout.replicas(np.tile(flags_M, (len(session.replicas), 1)))
            given = {**weights, "replaced": flags_GM}
            return session.layout.fetch(predict(given, batch, normalisation))

        intact = predictions()
        return {
            name: _change(intact, predictions(name), session.weights, real_GBT)
            for name in self.names
        }

    def _windows(self, session: Session) -> list[Any]:
        """Reads the first windows of each fold's validation, as one batch a fold."""
        size = max(_WINDOWS, session.layout.mesh.shape["data"])
        return [
            next(
                iter(
                    evaluation_batches(
                        self._store,
                        self._store.fold(name).validation[:1],
                        session.window_spec,
                        batch_size=size,
                    )
                )
            )
            for name in session.folds.keys
        ]


def _change(
    intact: Mapping[str, np.ndarray],
    altered: Mapping[str, np.ndarray],
    weights: Mapping[str, np.ndarray],
    real_GBT: np.ndarray,
) -> np.ndarray:
    """Returns (G,) root mean square difference of predictions, over tasks and trained outputs."""
    total, count = np.zeros(len(real_GBT)), np.zeros(len(real_GBT))
    for task, x_GBTC in intact.items():
        trained_GX = weights[task] > 0
        # A categorical task has one target for all of its classes.
        trained_GC = np.broadcast_to(trained_GX, (len(real_GBT), x_GBTC.shape[-1]))
        counted = real_GBT[..., None] & trained_GC[:, None, None]
        square = np.square(altered[task].astype(np.float64) - x_GBTC)
        total += np.where(counted, square, 0.0).sum(axis=(1, 2, 3))
        count += counted.sum(axis=(1, 2, 3))
    return np.sqrt(safe_divide(total, count))
