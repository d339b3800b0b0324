"""The training loop: restore or initialise, step, validate, checkpoint."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np

from emojax import __version__
from emojax.datasets.pipeline import fingerprint, stack, training_feeds, window_list
from emojax.datasets.source import Store
from emojax.engine.checkpoint import Checkpoints, describe
from emojax.engine.evaluator import Annotations, Predictor, read_annotations, replica_scores
from emojax.engine.progress import TrainingProgress
from emojax.engine.schedule import (
    ScheduleConfig,
    ScheduleState,
    initial_state,
    learning_rates,
    observe,
)
from emojax.engine.session import Session, abstract_normalisation, fold_normalisation
from emojax.engine.state import TrainState
from emojax.engine.step import Hyper, keep_best, make_train_step, reload_best
from emojax.engine.writers import RunWriter
from emojax.errors import InputError
from emojax.ops.tasks import TASK_OPS


@dataclasses.dataclass
class _Run:
    """What moves while training runs, and is saved in each checkpoint."""

    step: int
    state: TrainState
    schedule: ScheduleState
    history: list[dict[str, Any]]


def schedule_config(session: Session, store: Store) -> ScheduleConfig:
    """The schedule in steps. ``epoch_steps: 0`` is one pass over the largest training fold.

    Replicas validate together, so a fold with fewer windows than the largest sees some of them
    twice in such an epoch; alone it would validate earlier. Set ``epoch_steps`` where replicas
    of several folds have to equal separate runs.

    Raises:
        InputError: a training or validation fold is empty.
    """
    train = session.config["train"]
    windows = []
    for name in session.folds.keys:
        fold = store.fold(name)
        for part, videos in (("train", fold.train), ("validation", fold.validation)):
            if not videos:
                raise InputError(
                    f"Fold {name!r} has no {part} videos.",
                    file=store.path,
                    field="config.replicas.folds",
                    found=f"0 {part} videos",
                    expected="at least one",
                    remedy="train on another fold, or build the store with more videos",
                )
        windows.append(len(window_list(store, fold.train, session.window_spec)))
    return ScheduleConfig(
        epoch_steps=train["epoch_steps"] or math.ceil(max(windows) / session.batch_size),
        warmup=train["warmup"],
        warmup_epochs=train["warmup_epochs"],
        plateau_patience=train["plateau_patience"],
        plateau_factor=train["plateau_factor"],
        minimum_rate=train["minimum_rate"],
        releases=train["releases"],
        stop_patience=train["stop_patience"],
    )


class Trainer:
    """Trains all replicas of a session.

    Args:
        session: what to train.
        store: on what.
        workdir: where checkpoints and metrics go; a run found there is continued.
        stop_after: stop (with a checkpoint) after this many epochs of this call; for tests
            and for machines that are taken away.

    Raises:
        InputError: the run in ``workdir`` has another configuration or data, or a replica
            never gave a finite score.
    """

    def __init__(
        self, session: Session, store: Store, workdir: str | Path, *, stop_after: int | None = None
    ) -> None:
        self.session = session
        self.store = store
        self.workdir = Path(workdir)
        self._stop_after = stop_after
        self._schedule_config = schedule_config(session, store)
        self._total_steps = session.config["train"]["epochs"] * self._schedule_config.epoch_steps
        self._base_R = np.array([replica.learning_rate for replica in session.replicas])
        self._decay_R = np.array([r.weight_decay for r in session.replicas], np.float32)
        self._normalisation = fold_normalisation(session, store)
        self._step_fn = make_train_step(
            session.model, session.optimizer, session.losses, session.shared(session.samplers)
        )
        self._predictor = Predictor(session, store)
        self._validation = [list(store.fold(name).validation) for name in session.folds.keys]
        self._truths = [
            {task: self._annotations(name, task) for task in session.tasks}
            for name in session.folds.keys
        ]
        self._identity = fingerprint(store, session.window_spec, session.batch_size)

    def run(self) -> _Run:
        """Trains to the end (or ``stop_after``), checkpointing after every epoch."""
        with Checkpoints(self.workdir) as checkpoints:
            run, feeds = self._start(checkpoints)
            resumed_at = run.step if checkpoints.steps() else None
            # Only now, because a run that may not be continued must not be touched.
            text = json.dumps(self.session.config, indent=1)
            (self.workdir / "config.json").write_text(text + "\n")
            with (
                RunWriter(self.workdir, resume_step=resumed_at) as writer,
                TrainingProgress(self._total_steps, start_step=run.step) as progress,
            ):
                normalisation = self.session.layout.everywhere(self._normalisation)
                epochs = 0
                while run.step < self._total_steps and run.schedule.active.any():
                    if self._stop_after is not None and epochs >= self._stop_after:
                        break
                    started = time.monotonic()
                    means = self._train_epoch(run, feeds, normalisation, progress)
                    seconds = time.monotonic() - started
                    self._validate(run, normalisation, means, seconds, writer, progress)
                    self._save(checkpoints, run, feeds)
                    epochs += 1
        self._check_trained(run)
        return run

    def _check_trained(self, run: _Run) -> None:
        """Refuses to pass off initial weights as trained ones."""
        never = run.schedule.best == -np.inf
        if run.step and never.any():
            names = [name for name, lost in zip(self.session.names, never, strict=True) if lost]
            raise InputError(
                "Training diverged: no validation of these replicas gave a finite score.",
                file=self.workdir,
                field="replicas",
                found=", ".join(names),
                expected="finite losses and predictions",
                remedy="lower config.train.learning_rate or set config.train.clip_norm, and use "
                "--overwrite or a new --workdir",
            )

    # -- start -----------------------------------------------------------------------------

    def _start(self, checkpoints: Checkpoints) -> tuple[_Run, list[grain.DatasetIterator]]:
        session = self.session
        feeds = training_feeds(
            self.store, session.samplers.keys, session.window_spec, batch_size=session.batch_size
        )
        count = len(session.replicas)
        if not checkpoints.steps():
            return _Run(0, session.init_state(), initial_state(count), []), feeds
        _, meta = checkpoints.meta()
        self._check_same_run(meta)
        abstract = {
            "train": session.abstract_state(),
            "normalisation": abstract_normalisation(session),
        }
        restored = checkpoints.restore(abstract)
        for feed, saved in zip(feeds, meta["iterators"], strict=True):
            feed.set_state(saved)
        schedule = ScheduleState(
            **{name: np.array(values) for name, values in meta["schedule"].items()}
        )
        return _Run(restored.step, restored.state["train"], schedule, meta["history"]), feeds

    def _check_same_run(self, meta: dict[str, Any]) -> None:
        saved, current = flatten(meta["config"]), flatten(self.session.config)
        # Where the store lies and how long to train may change; everything else may not.
        free = {"data.store", "train.epochs"}
        for key in sorted((saved.keys() | current.keys()) - free):
            if saved.get(key) != current.get(key):
                raise InputError(
                    "The run in this workdir was trained with another configuration.",
                    file=self.workdir,
                    field=f"config.{key}",
                    found=f"{saved.get(key)} in the checkpoint",
                    expected=f"{current.get(key)}, as in this call",
                    remedy="use a new --workdir, or --overwrite to discard the old run",
                )
        if meta["fingerprint"] != self._identity:
            raise InputError(
                "The run in this workdir was trained on other data.",
                file=self.workdir,
                field="data pipeline fingerprint",
                found=meta["fingerprint"],
                expected=self._identity,
                remedy="use the store it was trained on, or a new --workdir",
            )

    def _annotations(self, fold: str, task: str) -> Annotations:
        return read_annotations(
            self.store, self.store.fold(fold), self.store.fold(fold).validation, task
        )

    # -- one epoch -------------------------------------------------------------------------

    def _train_epoch(
        self,
        run: _Run,
        feeds: Sequence[grain.DatasetIterator],
        normalisation: Any,
        progress: TrainingProgress,
    ) -> dict[str, np.ndarray]:
        """Steps up to the next validation; returns the mean of each (R,) training metric."""
        session, config = self.session, self._schedule_config
        weights = session.layout.replicas(session.weights)
        active_R = session.layout.replicas(jnp.asarray(run.schedule.active))
        decay_R = session.layout.replicas(self._decay_R)
        windows = int(run.schedule.active.sum()) * session.batch_size
        seen: list[dict[str, np.ndarray]] = []
        late: dict[str, jax.Array] | None = None

        def fetch(step: int, metrics: dict[str, jax.Array]) -> None:
            seen.append(jax.device_get(metrics))
            progress.update(step, windows, loss=float(seen[-1]["loss"][run.schedule.active].mean()))

        stop = min(self._total_steps, (run.step // config.epoch_steps + 1) * config.epoch_steps)
        while run.step < stop:
            rates_R = learning_rates(run.schedule, config, self._base_R, run.step)
            hyper = Hyper(
                learning_rate=session.layout.replicas(rates_R),
                weight_decay=decay_R,
                target_weights=weights,
                active=active_R,
            )
            batches = [next(feed) for feed in feeds]
            grouped = len(batches) > 1
            batch = session.layout.batch(stack(batches) if grouped else batches[0], grouped=grouped)
            run.state, metrics = self._step_fn(run.state, batch, normalisation, hyper)
            run.step += 1
            # Fetched one step late, so that the device is never idle.
            if late is not None:
                fetch(run.step - 1, late)
            late = metrics
        if late is not None:
            fetch(run.step, late)
        return {name: np.mean([metrics[name] for metrics in seen], axis=0) for name in seen[0]}

    def _validate(
        self,
        run: _Run,
        normalisation: Any,
        means: Mapping[str, np.ndarray],
        seconds: float,
        writer: RunWriter,
        progress: TrainingProgress,
    ) -> None:
        session, config = self.session, self._schedule_config
        trained = run.schedule.active.copy()
        rates_R = learning_rates(run.schedule, config, self._base_R, run.step - 1)
        current = {"params": run.state.params, "model_state": run.state.model_state}
        predictions = self._predictor(current, normalisation, self._validation)
        scores_R, named = replica_scores(session, predictions, self._truths)
        stage = run.schedule.stage
        run.schedule, improved = observe(run.schedule, config, self._base_R, scores_R, run.step)
        # Adam's moments never lose a NaN, so a replica that met one is finished.
        sound = np.isfinite(means["loss"])
        run.schedule = dataclasses.replace(run.schedule, active=run.schedule.active & sound)
        run.state = keep_best(run.state, jnp.asarray(improved))
        # A release starts from the best weights, whether or not every epoch does.
        reload = (run.schedule.stage > stage) | bool(session.config["train"]["reload_best"])
        run.state = reload_best(run.state, jnp.asarray(trained & ~improved & reload))
        row: dict[str, float] = {}
        for r, name in enumerate(session.names):
            if trained[r]:
                row |= {f"{name}/{metric}": float(mean_R[r]) for metric, mean_R in means.items()}
                row[f"{name}/learning_rate"] = float(rates_R[r])
                row[f"{name}/best"] = float(run.schedule.best[r])
                row |= {f"{name}/{score}": value for score, value in named[r].items()}
        row["seconds_training"] = seconds
        writer.scalars(run.step, row)
        run.history.append({"step": run.step, "score": [float(score) for score in scores_R]})
        progress.note(self._summary(run, means["loss"], scores_R, progress))

    def _summary(
        self, run: _Run, losses_R: np.ndarray, scores_R: np.ndarray, progress: TrainingProgress
    ) -> str:
        task = self.session.tasks[0]
        selection = self.session.config["evaluation"]["selection"][task]
        # Selection turns the sign of errors; people read them as they are.
        sign = -1 if selection in TASK_OPS[task].errors else 1
        scores_R, best_R = sign * scores_R, sign * run.schedule.best
        progress.update(run.step, 0, **{selection: float(scores_R.mean())})
        parts = [
            f"{name} {scores_R[r]:.3f} (best {best_R[r]:.3f})"
            for r, name in enumerate(self.session.names)
        ]
        if len(parts) > 4:
            done = int((~run.schedule.active).sum())
            parts = [
                f"{len(parts)} replicas, {done} finished: mean {selection} {scores_R.mean():.3f}, "
                f"mean best {best_R.mean():.3f}"
            ]
        step = f"step {run.step}/{self._total_steps}"
        return f"{step}  loss {losses_R.mean():.3f}  validation " + "  ".join(parts)

    def _save(
        self, checkpoints: Checkpoints, run: _Run, feeds: Sequence[grain.DatasetIterator]
    ) -> None:
        session = self.session
        meta = {
            "code_version": __version__,
            "config": session.config,
            "streams": {name: dataclasses.asdict(s) for name, s in session.streams.items()},
            "tasks": list(session.tasks),
            "replicas": [dataclasses.asdict(replica) for replica in session.replicas],
            "store": {
                "name": self.store.name,
                "path": str(self.store.path),
                "checksum": self.store.metadata["checksum"],
            },
            "fingerprint": self._identity,
            "schedule": {
                field.name: getattr(run.schedule, field.name).tolist()
                for field in dataclasses.fields(run.schedule)
            },
            "iterators": [feed.get_state() for feed in feeds],
            "history": run.history,
        }
        state = {"train": run.state, "normalisation": self._normalisation}
        meta["parameters"] = describe(state)
        score = float(np.mean(run.history[-1]["score"]))
        checkpoints.save(run.step, state, meta, score=score if np.isfinite(score) else -1e30)


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Nested configuration -> dotted key -> value."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
