"""Makes a small store and a run trained on it, and reads all that programs read of the two."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.random_store import random_store
from emojax.core.session import Session, abstract_normalisation, build_session
from emojax.datasets.pipeline import fingerprint
from emojax.datasets.source import Store
from emojax.prediction.trained_run import open_run
from emojax.rundir.checkpoint import Checkpoints
from emojax.rundir.resume import check_same_run
from emojax.specs import StreamSpec
from emojax.training.loop import Trainer

STREAMS = {
    "eda": StreamSpec("eda", 2, "physiology", 20.0),
    "resp": StreamSpec("resp", 1, "physiology", 20.0),
}
EPOCHS = 3


def config(store: Path, epochs: int = EPOCHS) -> dict[str, Any]:
    """Returns the configuration of the smallest model, with two replicas of two folds."""
    return {
        "data": {
            "store": str(store),
            "streams": list(STREAMS),
            "tasks": ["va"],
            "window": 16,
            "stride": 16,
            "batch_size": 4,
            "random_offset": True,
            "resampling": {},
        },
        "model": {
            "name": "segment_mlp",
            "segments": 2,
            "hidden": 64,  # so that TensorStore keeps arrays outside its tree
            "input_dropout": 0.1,
            "dropout": 0.1,
            "degree": 1,
            "centre": 0.0,
        },
        "loss": {"va": "ccc"},
        "replicas": {"folds": ["0", "1"], "targets": ["va"], "seeds": [0]},
        "train": {
            "epochs": epochs,
            "epoch_steps": 2,
            "optimizer": "adam_l2",
            "learning_rate": 0.3,
            "weight_decay": 1e-3,
            "clip_norm": 0.0,
            "warmup": "none",
            "warmup_epochs": 0,
            "plateau_patience": 5,
            "plateau_factor": 0.1,
            "minimum_rate": 1e-8,
            "releases": 2,
            "reload_best": False,
            "stop_patience": 50,
        },
        "evaluation": {"selection": {"va": "ccc"}},
    }


def make(folder: Path) -> None:
    """Writes ``folder/store`` and trains ``folder/run`` on it; an epoch is 2 steps."""
    with random_store(
        folder / "store", STREAMS, ["va"], folds=2, frames=40, videos_per_fold=2
    ) as store:
        train(store, folder / "run", EPOCHS)


def train(store: Store, workdir: Path, epochs: int) -> Any:
    """Trains or continues a run; returns its final state and the scores so far."""
    run = Trainer(session_of(store, epochs), store, workdir).run()
    return jax.device_get(run.state), run.history


def session_of(store: Store, epochs: int = EPOCHS) -> Session:
    """Returns the session that training makes for this store."""
    return build_session(config(store.path, epochs), store.streams, jax.devices()[:1])


@dataclasses.dataclass(frozen=True)
class Reading:
    """Reads a store and a run as programs do.

    Attributes:
        session: the session of the undamaged store, which all readings share.
        resumed_epochs: the number of epochs after a continued training.
    """

    session: Session
    resumed_epochs: int = EPOCHS + 1

    def store(self, folder: Path) -> Any:
        """Reads the whole store: its metadata, every record, the statistics of every fold."""
        with Store(folder / "store", verify="all") as store:
            videos = [dataclasses.asdict(store.read(i)) for i in range(len(store))]
            statistics = {name: store.statistics(name) for name in store.folds}
            entries = [dataclasses.asdict(entry) for entry in store.videos]
            return store.metadata, entries, videos, statistics

    def evaluation(self, folder: Path) -> Any:
        """Reads all that evaluation and prediction take from the run's checkpoint."""
        run = open_run(folder / "run")
        weights, normalisation = jax.device_get(run.placed())
        flags = run.lost_R, run.branches_R, run.store_checksum, run.step
        return weights, normalisation, run.session.config, run.session.names, flags

    def prediction(self, folder: Path) -> Any:
        """Predicts the validation videos."""
        run = open_run(folder / "run")
        with run.open_store(str(folder / "store")) as store:
            return run.predict(store, [list(fold.validation) for fold in run.folds(store)])

    def resuming(self, folder: Path) -> Any:
        """Reads all that training takes from the run's checkpoint before it goes on."""
        with Store(folder / "store") as store, Checkpoints(folder / "run") as checkpoints:
            session = self.session
            step, meta = checkpoints.meta()
            identity = fingerprint(store, session.window_spec, session.batch_size)
            check_same_run(meta, session.config, identity, folder / "run")
            abstract = {
                "train": session.abstract_state(),
                "normalisation": abstract_normalisation(session.streams, len(session.folds.keys)),
            }
            restored = checkpoints.restore(abstract)
            return step, meta, jax.device_get(restored.state), restored.meta

    def training(self, folder: Path) -> Any:
        """Returns the state after one more epoch of training."""
        with Store(folder / "store") as store:
            return train(store, folder / "run", self.resumed_epochs)


def same_bits(found: Any, expected: Any) -> bool:
    """Returns True if two trees have the same bits, including those of NaNs and signed zeros."""
    if str(jax.tree.structure(found)) != str(jax.tree.structure(expected)):
        return False
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return all(_same(a, b) for a, b in pairs)


def _same(a: Any, b: Any) -> bool:
    if not isinstance(a, np.ndarray | np.generic | jax.Array):
        return type(a) is type(b) and repr(a) == repr(b)
    a, b = np.asarray(a), np.asarray(b)
    return (a.shape, a.dtype, a.tobytes()) == (b.shape, b.dtype, b.tobytes())
