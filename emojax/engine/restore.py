"""A trained run opened from its checkpoint alone: model, streams, normalisation, weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from emojax.datasets.folds import Fold
from emojax.datasets.source import Store
from emojax.engine.checkpoint import Checkpoints
from emojax.engine.evaluator import Predictions, Predictor
from emojax.engine.session import Session, abstract_normalisation, build_session
from emojax.errors import InputError
from emojax.specs import StreamSpec


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """What a checkpoint gives back.

    Attributes:
        workdir: the run's folder.
        session: rebuilt from the checkpoint's configuration.
        step: of the checkpoint.
        best: {"params", "model_state"} of the best validation of each replica.
        normalisation: of the training folds.
        store_path: where the training store was.
        store_checksum: of the training store.
    """

    workdir: Path
    session: Session
    step: int
    best: Any
    normalisation: Any
    store_path: str
    store_checksum: str

    def open_store(self, path: str = "", *, labelled: bool = True) -> Store:
        """Opens the training store, or another one that offers the same streams.

        Args:
            path: of the store; the training store by default.
            labelled: whether it has to know the model's tasks.

        Raises:
            InputError: the store is not there, or its streams are not those of the model.
        """
        store = Store(path or self.store_path)
        self.session.window_spec.check(store, labelled=labelled)
        for name, spec in self.session.streams.items():
            if store.streams[name].width != spec.width:
                raise InputError(
                    f"Stream {name!r} is not as wide as the one the model was trained on.",
                    file=store.path,
                    field=name,
                    found=f"{store.streams[name].width} columns",
                    expected=f"{spec.width} columns",
                    remedy="build the store from the same feature extractor",
                )
        return store

    def trained_on(self, store: Store) -> bool:
        """Whether this is the very store that the run was trained on."""
        return store.metadata["checksum"] == self.store_checksum

    def folds(self, store: Store) -> list[Fold]:
        """What the replicas' folds are in a store, in the order of ``session.folds``.

        A store that the run was not trained on has no say in its folds: there each replica is
        evaluated on the store's own partitions.
        """
        if self.trained_on(store):
            return [store.fold(name) for name in self.session.folds.keys]
        parts = {name: store.partitions.get(name, ()) for name in ("train", "validation", "test")}
        return [Fold(name, **parts) for name in self.session.folds.keys]

    def predict(self, store: Store, videos: list[list[str]]) -> list[Predictions]:
        """Predictions of each replica's best weights; videos are given fold by fold."""
        layout = self.session.layout
        predictor = Predictor(self.session, store)
        return predictor(self.best, layout.everywhere(self.normalisation), videos)


def open_run(workdir: str | Path, step: int | None = None) -> TrainedRun:
    """Opens the latest (or a given) checkpoint of a run.

    The latest one holds the best weights of every replica, whichever epoch they are from.

    Args:
        workdir: the run's folder, or its ``checkpoints`` folder.
        step: a saved step; the latest by default.

    Raises:
        InputError: there is no such checkpoint.
    """
    workdir = Path(workdir)
    if workdir.name == "checkpoints":
        workdir = workdir.parent
    with Checkpoints(workdir, read_only=True) as checkpoints:
        step, meta = checkpoints.meta(step)
        streams = {name: StreamSpec(**spec) for name, spec in meta["streams"].items()}
        session = build_session(meta["config"], streams)
        abstract = {
            "train": session.abstract_state(),
            "normalisation": abstract_normalisation(session),
        }
        restored = checkpoints.restore(abstract, step)
    return TrainedRun(
        workdir=workdir,
        session=session,
        step=step,
        best=restored.state["train"].best,
        normalisation=restored.state["normalisation"],
        store_path=meta["store"]["path"],
        store_checksum=meta["store"]["checksum"],
    )
