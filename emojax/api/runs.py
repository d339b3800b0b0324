"""Trained runs: trained, opened, evaluated and used from Python."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emojax import screen
from emojax.api.frames import prediction_frame, score_frame, score_row
from emojax.api.videos import Video, as_video, memory_store
from emojax.config_files import load_config
from emojax.config_reading import as_plain
from emojax.datasets.record import PARTITIONS
from emojax.datasets.source import Store
from emojax.datasets.store_checks import check_known
from emojax.errors import InputError
from emojax.ops.ensembles import ENSEMBLES
from emojax.prediction import trained_run
from emojax.prediction.long_videos import predict_groups
from emojax.prediction.predictor import Predictions, ensemble, read_annotations, replica_scores
from emojax.prediction.trained_run import TrainedRun
from emojax.reporting.paper_differences import differences_from_paper
from emojax.scoring.evaluation import evaluate_run, partition_videos
from emojax.training.train_run import open_training, train_run

# A store, the folder of one, one video, or several.
Data = Store | str | Path | Video | Mapping[str, Any] | Sequence[Video]


class Run:
    """A trained run; ``fit`` and ``open_run`` return one.

        >>> run = emojax.open_run("runs/demo")
        >>> run.evaluate(partition="test")
        >>> run.predict(rows, fps=25)

    Attributes:
        path: the folder of the run.
        system: name of the model, such as "rjcma".
        tasks: the tasks that it predicts.
        streams: stream -> width, what it needs.
        replicas: a name for each of the trainings that it consists of.
        best_scores: replica -> best validation score, NaN where there is none.
        config: its configuration, a nested dict.
        trained: everything else, for those who know the library.
    """

    def __init__(self, trained: TrainedRun) -> None:
        self.trained = trained
        session = trained.session
        self.path = trained.workdir
        self.system: str = session.config.model["name"]
        self.tasks = session.tasks
        self.streams = {name: spec.width for name, spec in session.streams.items()}
        self.replicas = session.names
        best_R = np.full(len(session.replicas), np.nan)
        if trained.best_R is not None:
            best_R = np.where(np.isfinite(trained.best_R), trained.best_R, np.nan)
        self.best_scores = dict(zip(self.replicas, map(float, best_R), strict=True))
        self.config: dict[str, Any] = as_plain(session.config)

    @property
    def differences(self) -> list[dict[str, Any]] | None:
        """Lists where the run differs from its paper, see ``emojax.differences_from_paper``."""
        return differences_from_paper(self.config)

    def __repr__(self) -> str:
        """Tells system, tasks, streams, replicas and scores in a few lines."""
        streams = ", ".join(f"{name} ({width})" for name, width in self.streams.items())
        without = "diverged or not validated yet"
        scores = ", ".join(
            f"{name} {without if lost else 'no score' if np.isnan(score) else f'{score:.3f}'}"
            for (name, score), lost in zip(
                self.best_scores.items(), self.trained.lost_R, strict=True
            )
        )
        return "\n".join(
            (
                f"Run of {self.system} in {self.path}, step {self.trained.step}",
                f"  tasks:    {', '.join(self.tasks)}",
                f"  streams:  {streams}",
                f"  replicas: {scores} (best validation scores)",
            )
        )

    def evaluate(
        self,
        data: Data | None = None,
        *,
        partition: str = "validation",
        replicas: bool = False,
        references: bool = False,
    ) -> pd.DataFrame:
        """Scores the run on a partition; every annotated frame counts once.

        Args:
            data: a store or its folder, or annotated videos; the training store by default. On
                another store than that, each fold is scored on the store's own partition.
            partition: "train", "validation" or "test".
            replicas: score every replica, and not the mean of the predictions of a fold's replicas.
            references: add the scores of the best possible prediction, which simulated data has,
                and of a ridge regression, which is fitted on the training store. Not with
                ``replicas``.

        Returns:
            Columns fold, (replica,) task, score ("ccc"), target ("valence", or "mean" over all),
            value, and with ``references`` optimum and baseline.

        Raises:
            InputError: there is no such partition, data or annotation, or all replicas diverged.
        """
        check_known([partition], PARTITIONS, "partition", "partition")
        store = self._store(data, labelled=True)
        if not replicas:
            baseline = references and self.trained.trained_on(store)
            results = evaluate_run(self.trained, store, partition, baseline=baseline)
            return score_frame(results, references)
        session, folds = self.trained.session, self.trained.folds(store)
        videos = [partition_videos(store, fold, partition) for fold in folds]
        truths = [
            {task: read_annotations(store, fold, names, task) for task in session.tasks}
            for fold, names in zip(folds, videos, strict=True)
        ]
        truths = [{k: t for k, t in of_fold.items() if t.mask_NK.any()} for of_fold in truths]
        _, named = replica_scores(
            self.trained.predict(store, videos),
            [truths[fold] for fold in session.folds.members_R],
            session.weights,
            session.config.evaluation.selection,
        )
        rows = []
        for name, replica, scores in zip(self.replicas, session.replicas, named, strict=True):
            for task in session.tasks:
                rows += [
                    score_row(replica.fold, task, key, value) | {"replica": name}
                    for key, value in scores.items()
                ]
        heads = ["fold", "replica", "task", "score", "target", "value"]
        return pd.DataFrame(rows, columns=heads)

    def predict(
        self,
        data: Data | None = None,
        *,
        fps: float | None = None,
        times: Any = None,
        rates: Mapping[str, float] | None = None,
        row_times: Mapping[str, Any] | None = None,
        valid: Mapping[str, Any] | None = None,
        partition: str | None = None,
        replicas: bool = False,
        combine: str = "mean",
        full_sequence: bool = False,
    ) -> pd.DataFrame:
        """Predicts every frame of a store's videos, or of plain arrays.

            >>> run.predict(rows, fps=25)[["time", "valence", "arousal"]]

        Arrays go through the same windows as the videos of a store, and the result is the same as
        for a store that holds these rows; nothing is written.

        Args:
            data: stream -> (rows, D) array of one video; or a ``Video``, or several; or a store or
                its folder. The training store by default.
            fps, times, rates, row_times, valid: of arrays, see ``Video``.
            partition: the videos of a store to predict; all by default.
            replicas: predict by every replica on its own, and not by the mean of all.
            combine: the way in which replicas are combined: "mean", or "ccc_centring" (see
                ``emojax.ops.ensembles``).
            full_sequence: apply the model to whole videos, not to windows, if it allows that.

        Returns:
            A row for every frame: video, frame (from 1, as in Aff-Wild2), time (seconds),
            (replica,) and one column for each label of the run's tasks, such as valence and
            arousal. Classes and units have probabilities.

        Raises:
            InputError: the data is not as the model needs it, or all replicas diverged.
        """
        clock = {
            "fps": fps, "times": times, "rates": rates, "row_times": row_times, "valid": valid,
        }  # fmt: skip
        clock = {key: value for key, value in clock.items() if value is not None}
        check_known([combine], ENSEMBLES, "rule", "combine")
        store = self._store(data, labelled=False, **clock)
        names = [video.name for video in store.videos]
        if partition is not None:
            check_known([partition], PARTITIONS, "partition", "partition")
            names = list(store.partitions[partition])
        if not names:
            raise InputError(
                "There are no videos to predict.",
                file=store.path,
                field="partition",
                found=partition,
                expected=", ".join(k for k, v in store.partitions.items() if v) or "some videos",
            )
        run = self.trained.full_sequence(store) if full_sequence else self.trained
        session = run.session
        everyone = range(len(session.replicas))
        found: dict[str, Predictions] = {}
        for _, per_replica in predict_groups(run, store, names):
            if replicas:
                some = {
                    name: ensemble(session.weights, per_replica, [r])
                    for r, name in enumerate(self.replicas)
                }
            else:
                some = {"": ensemble(session.weights, per_replica, everyone, combine)}
            for name, predictions in some.items():
                found.setdefault(name, {}).update(predictions)
        return prediction_frame(store, session.tasks, found)

    def save(self, path: str | Path) -> Run:
        """Copies the run's folder, for instance a temporary one, and opens the copy.

        Raises:
            InputError: something is there already.
        """
        path = Path(path)
        if path.exists():
            raise InputError(
                "There is something already.",
                file=path,
                field="path",
                found="a folder" if path.is_dir() else "a file",
                expected="nothing yet",
                remedy="choose another path",
            )
        shutil.copytree(self.path, path)
        return open_run(path)

    def _store(self, data: Data | None, *, labelled: bool, **clock: Any) -> Store:
        """Returns the store that is meant, which may be one in memory."""
        if data is not None and not isinstance(data, Store | str | Path):
            return self._arrays(data, clock)
        if clock:
            raise InputError(
                "A store has its own times.",
                field=", ".join(clock),
                found="a store" if data is not None else "no arrays",
                expected="arrays, stream -> (rows, D)",
            )
        if isinstance(data, Store):
            self.trained.check_store(data, labelled=labelled)
            return data
        return self.trained.open_store(str(data or ""), labelled=labelled)

    def _arrays(self, data: Video | Mapping[str, Any] | Sequence[Video], clock: Any) -> Store:
        """Makes a store of arrays, with the streams of the model."""
        session = self.trained.session
        if isinstance(data, Mapping):
            videos = [as_video({"streams": data, **clock})]
        elif clock:
            raise InputError(
                "A Video has its own times.",
                field=", ".join(clock),
                found="Video",
                expected="arrays, stream -> (rows, D)",
                remedy="give times to the Video",
            )
        else:
            videos = [as_video(one) for one in ([data] if isinstance(data, Video) else data)]
        return memory_store(videos, session.streams, session.tasks)


def open_run(path: str | Path, *, step: int | None = None) -> Run:
    """Opens a trained run; everything but the data comes from its checkpoint.

        >>> run = emojax.open_run("runs/demo")

    Args:
        path: the run's folder.
        step: a saved step; the latest by default. It holds the best weights of each replica.

    Raises:
        InputError: there is no such run, or it is damaged.
    """
    return Run(trained_run.open_run(path, step))


def fit(
    config: str | Mapping[str, Any],
    store: Store | str | Path | None = None,
    *,
    workdir: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    devices: list[Any] | None = None,
    verbose: bool = False,
) -> Run:
    """Trains a system, and opens the result.

        >>> store = emojax.open_store("stores/demo")
        >>> run = emojax.fit("tcn_transformer:demo", store, overrides={"train.epochs": 1})

    Args:
        config: a name such as "rjcma:demo" or the path of a file (see ``load_config``), or a
            configuration.
        store: to train on, or its folder; the one that the configuration names by default.
        workdir: folder of the run; a run found there is continued. Without it the run is in a
            temporary folder, since checkpoints are files. That is deleted with the ``Run`` object,
            so call ``Run.save`` to keep it.
        overrides: "section.key" -> value, such as {"train.learning_rate": 1e-3}.
        overwrite: discard a run in ``workdir``.
        devices: the devices of JAX, to run on; all by default.
        verbose: show progress on standard error.

    Raises:
        InputError: the configuration, the store or the run in ``workdir`` does not serve, or every
            replica diverged.
    """
    plain = as_plain(load_config(config) if isinstance(config, str) else config)
    for key, value in (overrides or {}).items():
        _override(plain, key, value)
    if store is not None:
        store = store if isinstance(store, Store) else Store(store)
        plain.setdefault("data", {})["store"] = str(store.path)
    session, store = open_training(plain, store, devices)
    with screen.level(None if verbose else "warning"):
        if workdir is not None:
            with train_run(session, store, Path(workdir), overwrite=overwrite) as training:
                return Run(training.run)
        folder = tempfile.mkdtemp(prefix="emojax-")
        try:
            with train_run(session, store, Path(folder)) as training:
                run = Run(training.run)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    weakref.finalize(run, shutil.rmtree, folder, ignore_errors=True)
    return run


def _override(config: dict[str, Any], key: str, value: Any) -> None:
    """Sets "section.key"; keys that do not exist are refused when the configuration is read."""
    *sections, name = key.split(".")
    section = config
    for part in sections:
        section = section.setdefault(part, {})
        if not isinstance(section, dict):
            raise InputError(
                "The configuration has no such key.",
                field=f"config.{key}",
                found=f"{part} is {section!r}",
                expected="section.key",
            )
    section[name] = as_plain(value)
