"""Opens a trained run from its checkpoint alone: model, streams, normalisation, weights."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from emojax.config_schema import Stage
from emojax.core.schedule import lost, saved_state
from emojax.core.session import Session, abstract_normalisation, build_session
from emojax.core.stages import on_branches
from emojax.datasets.folds import Fold
from emojax.datasets.source import Store
from emojax.errors import InputError
from emojax.prediction.full_sequence import full_sequence_session, sequence_predictor
from emojax.prediction.predictor import Predictions, Predictor
from emojax.rundir.checkpoint import Checkpoints
from emojax.specs import StreamSpec

_AGAIN = "copy the file again, or train again"
_MAX_WIDTH = 2**20
_MAX_REPLICAS = 10_000
# The exceptions of building a session from a file with values of wrong kinds.
_MALFORMED = (
    KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, RecursionError,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A run rebuilt from its checkpoint alone.

    Attributes:
        workdir: the run's folder.
        session: rebuilt from the checkpoint's configuration.
        step: the step of the checkpoint.
        best: {"params", "model_state"} of the best validation of each replica.
        normalisation: the statistics of the training folds.
        store_path: the path of the training store.
        store_checksum: the checksum of the training store.
        lost_R: (R,) bool, True for replicas whose training diverged; they predict NaN.
        branches_R: (R,) bool, True for replicas whose best weights are from a stage that trains
            temporary heads; None if no stage trains such heads.
        in_windows: True where videos are predicted in windows, as in training; False for whole
            sequences.
        best_R: (R,) best validation score of each replica, -inf where there is none; None where
            weights were imported.
    """

    workdir: Path
    session: Session
    step: int
    best: Any
    normalisation: Any
    store_path: str
    store_checksum: str
    lost_R: np.ndarray
    branches_R: np.ndarray | None
    in_windows: bool = True
    best_R: np.ndarray | None = None

    def open_store(self, path: str = "", *, labelled: bool = True) -> Store:
        """Opens the training store, or another one that offers the same streams.

        Args:
            path: the path of the store; the training store by default.
            labelled: if True, the store must have the model's tasks.

        Raises:
            InputError: the store does not exist, or lacks streams of the model.
        """
        if not (path or self.store_path):
            raise InputError(
                "The run has no store of its own, because its weights were imported.",
                file=self.workdir,
                field="--store",
                found="nothing",
                expected="the folder of a store",
                remedy="name a store: --store=STORE",
            )
        store = Store(path or self.store_path)
        self.check_store(store, labelled=labelled)
        return store

    def check_store(self, store: Store, *, labelled: bool = True) -> None:
        """Checks that a store offers the model's streams, with their widths.

        Args:
            store: the store to evaluate or predict on.
            labelled: if True, the store must have the model's tasks.

        Raises:
            InputError: the store lacks a stream or a task, or a stream has another width.
        """
        self.session.window_spec.check(store, labelled=labelled)
        for name, spec in self.session.streams.items():
            if store.streams[name].width != spec.width:
                raise InputError(
                    f"Stream {name!r} has another width than in the training.",
                    file=store.path,
                    field=name,
                    found=f"{store.streams[name].width} columns",
                    expected=f"{spec.width} columns",
                    remedy="build the store from the same feature extractor",
                )

    def trained_on(self, store: Store) -> bool:
        """Returns True if a store is the one that the run was trained on."""
        return store.metadata["checksum"] == self.store_checksum

    def folds(self, store: Store) -> list[Fold]:
        """Returns the fold of each replica in a store, in the order of ``session.folds``.

        In a store that the run was not trained on, every fold has the store's own partitions.
        """
        if self.trained_on(store):
            return [store.fold(name) for name in self.session.folds.keys]
        train, validation, test = (
            store.partitions[part] for part in ("train", "validation", "test")
        )
        return [Fold(name, train, validation, test) for name in self.session.folds.keys]

    def predict(self, store: Store, videos: list[list[str]]) -> list[Predictions]:
        """Predicts with each replica's best weights; videos are given fold by fold.

        Replicas that diverged predict NaN.

        Raises:
            InputError: all replicas diverged.
        """
        predictor = self.predictor(store)
        return self.without_lost(predictor(*self.placed(), videos))

    def predictor(self, store: Store) -> Predictor:
        """Returns a predictor for a store's videos; call it with the weights from ``placed``."""
        kind = Predictor if self.in_windows else sequence_predictor
        return kind(self.session, store)

    def full_sequence(self, store: Store) -> TrainedRun:
        """Returns a run that predicts each video as one sequence, in parts that memory allows.

        Args:
            store: the store with the videos.

        Raises:
            InputError: the model needs windows.
        """
        session = full_sequence_session(self.session, store)
        best = session.layout.replicas(self.best)
        return dataclasses.replace(self, session=session, best=best, in_windows=False)

    def placed(self) -> tuple[Any, Any]:
        """Puts best weights and normalisation on the devices, as a ``Predictor`` takes them.

        Raises:
            InputError: all replicas diverged.
        """
        if self.lost_R.all():
            raise InputError(
                "The run has no trained weights: it diverged, or stopped before a validation.",
                file=self.workdir,
                field="replicas",
                found=", ".join(self.session.names),
                expected="at least one replica with a finite validation score",
                remedy="continue a stopped training; after a divergence train anew with a lower "
                "config.train.learning_rate",
            )
        layout = self.session.layout
        weights = dict(self.best)
        if self.branches_R is not None:
            weights["branches"] = layout.replicas(self.branches_R)
        return weights, layout.everywhere(self.normalisation)

    def without_lost(self, predictions: Sequence[Predictions]) -> list[Predictions]:
        """Returns predictions of each replica, with NaN for those that diverged."""
        return [
            jax.tree.map(lambda x: np.full_like(x, np.nan), of_replica) if is_lost else of_replica
            for of_replica, is_lost in zip(predictions, self.lost_R, strict=True)
        ]


def open_run(workdir: str | Path, step: int | None = None) -> TrainedRun:
    """Opens the latest (or a given) checkpoint of a run.

    The latest one holds the best weights of every replica, whichever epoch they are from.

    Args:
        workdir: the run's folder, or its ``checkpoints`` folder.
        step: a saved step; the latest by default.

    Raises:
        InputError: there is no such checkpoint, or it is damaged.
    """
    workdir = Path(workdir)
    if workdir.name == "checkpoints":
        workdir = workdir.parent
    with Checkpoints(workdir, read_only=True) as checkpoints:
        step, meta = checkpoints.meta(step)
        file = checkpoints.folder / str(step)
        with stored(file):
            session = stored_session(meta["config"], meta["streams"], file)
            lost_R, best_stage_R, best_R = _results(meta, len(session.replicas), session.stages)
            branches_R = on_branches(session.stages, best_stage_R)
            place = {key: str(meta["store"][key]) for key in ("path", "checksum")}
            abstract = {
                "train": session.abstract_state(),
                "normalisation": abstract_normalisation(session.streams, len(session.folds.keys)),
            }
        restored = checkpoints.restore(abstract, step)
    return TrainedRun(
        workdir=workdir,
        session=session,
        step=step,
        best=restored.state["train"].best,
        normalisation=restored.state["normalisation"],
        store_path=place["path"],
        store_checksum=place["checksum"],
        lost_R=lost_R,
        branches_R=branches_R,
        best_R=best_R,
    )


def stored_session(config: Any, streams: Any, file: Path) -> Session:
    """Builds the session that a file describes, without trust in the file.

    Names in it are looked up among the models, losses and scores that are part of emojax or were
    registered. No code that the file names is executed, not even the file of a model.

    Args:
        config: the saved ``session.config``, as plain values.
        streams: stream -> fields of its specification.
        file: the file that errors name.

    Raises:
        InputError: the values do not describe a model.
    """
    with stored(file):
        specs = {name: StreamSpec(**spec) for name, spec in streams.items()}
        for name, spec in specs.items():
            if not _is_width(spec.width):
                raise ValueError(f"width of stream {name} is {str(spec.width)[:40]}")
        count = 1
        lists = [config["replicas"][key] for key in ("folds", "targets", "seeds")]
        lists += [config["train"][key] for key in ("learning_rate", "weight_decay")]
        for values in lists:
            count *= len(values) if isinstance(values, list) else 1
        if count > _MAX_REPLICAS:
            raise ValueError(f"{count} replicas")
        return build_session(config, specs, trusted=False)


@contextlib.contextmanager
def stored(file: Path) -> Iterator[None]:
    """Raises exceptions in its block as an ``InputError`` about a file.

    Args:
        file: the file of a run or of weights.

    Raises:
        InputError: the block raised an exception that values of wrong kinds cause.
    """
    try:
        yield
    except InputError as error:
        raise error.within(file, _AGAIN) from error.__cause__
    except _MALFORMED as error:
        raise InputError(
            "The file does not describe a trained model.",
            file=file,
            field="description of the run",
            found=f"{type(error).__name__}: {error}"[:200],
            expected="what this version of emojax saved",
            remedy=_AGAIN,
        ) from error


def _is_width(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MAX_WIDTH


def _results(
    meta: dict[str, Any], count: int, stages: tuple[Stage, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Returns which replicas diverged, the stage of their best weights and their best scores.

    All are (R,); there are no scores where weights were imported.

    Args:
        meta: the JSON item of the checkpoint.
        count: R, the number of replicas.
        stages: the stages of the training.
    """
    if "schedule" not in meta:  # imported weights, which are the result of their training
        return np.zeros(count, bool), np.full(count, len(stages) - 1), None
    schedule = saved_state(meta["schedule"])
    for field in dataclasses.fields(schedule):
        if getattr(schedule, field.name).shape != (count,):
            raise ValueError(f"schedule, {field.name} is not of {count} replicas")
    return lost(schedule, stages), schedule.best_stage, schedule.best
