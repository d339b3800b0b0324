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
import jax.numpy as jnp
import numpy as np

from emojax.datasets.pipeline import fingerprint, window_list
from emojax.datasets.source import Store
from emojax.engine.checkpoint import Checkpoints, describe, saved_steps
from emojax.engine.class_weights import fold_class_weights
from emojax.engine.epoch import Epoch, predict_groups, train_epoch
from emojax.engine.evaluator import Annotations, Predictor, read_annotations, replica_scores
from emojax.engine.feeds import feed_lines, open_feed, wanted_bytes
from emojax.engine.groups import Group, regroup
from emojax.engine.initialise import Initialisation, initialise, open_source
from emojax.engine.memory import plan_lines, plan_memory
from emojax.engine.profiling import Profile
from emojax.engine.progress import TrainingProgress
from emojax.engine.resume import check_same_run, check_trained, run_meta
from emojax.engine.runtime import host_layout
from emojax.engine.schedule import (
    ScheduleConfig,
    ScheduleState,
    final_objective,
    initial_state,
    learning_rates,
    lost,
    observe,
    saved_state,
)
from emojax.engine.session import Session, abstract_normalisation, fold_normalisation
from emojax.engine.stages import on_branches, trainable
from emojax.engine.state import TrainState, keep_best, reload_best, restart_optimizer
from emojax.engine.step import Hyper, Shared, plain_train_step
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
        decay=train["decay"],
        epochs=train["epochs"],
        stages=session.stages,
    )


class Trainer:
    """Trains all replicas of a session.

    Args:
        session: what to train.
        store: on what.
        workdir: where checkpoints and metrics go; a run found there is continued.
        stop_after: stop (with a checkpoint) after this many epochs of this call; for tests
            and for machines that are taken away.
        fresh: whether a run found in ``workdir`` will be deleted before ``run`` is called.
        profile: folder for a profile of a few steps; None for none.

    Raises:
        InputError: the run in ``workdir`` has another configuration or data, the stages or
            the run to start from do not fit the model, or no replica gave a finite score.
    """

    def __init__(
        self,
        session: Session,
        store: Store,
        workdir: str | Path,
        *,
        stop_after: int | None = None,
        fresh: bool = False,
        profile: Path | None = None,
    ) -> None:
        self.session = session
        self.store = store
        self.workdir = Path(workdir)
        self._stop_after = stop_after
        session.check_stages()
        self._schedule_config = schedule_config(session, store)
        self._total_steps = session.config["train"]["epochs"] * self._schedule_config.epoch_steps
        self._base_R = np.array([replica.learning_rate for replica in session.replicas])
        self._decay_R = np.array([r.weight_decay for r in session.replicas], np.float32)
        self._normalisation = fold_normalisation(session, store)
        self.profile = Profile(profile)
        wanted, obstacle = wanted_bytes(session, store)
        self.plan = plan_memory(session, resident=wanted)
        self._feed = open_feed(session, store, resident=self.plan.resident)
        self._home = host_layout() if self.plan.on_host else session.layout
        self._lines = plan_lines(self.plan, len(session.replicas))
        self._lines += feed_lines(session, self._feed, wanted, obstacle)
        self._groups: list[Group] = []
        self._step_fn = self._compile(session)
        self._programs: dict[Shared, Any] = {}
        self._predictors: dict[tuple[int, ...], Predictor] = {}
        self._class_weights = fold_class_weights(
            store, session.folds, session.tasks, session.config["train"]["class_weights"]
        )
        self._validation = [list(store.fold(name).validation) for name in session.folds.keys]
        self._truths = [
            {task: self._annotations(name, task) for task in session.tasks}
            for name in session.folds.keys
        ]
        init_from = session.config["train"]["init_from"]
        # A run that is resumed does not need its source any more.
        begins = fresh or not saved_steps(self.workdir)
        self._source = open_source(init_from, workdir) if init_from and begins else None
        self.initialisation: Initialisation | None = None
        self._identity = fingerprint(store, session.window_spec, session.batch_size)

    def run(self) -> _Run:
        """Trains to the end (or ``stop_after``), checkpointing after every epoch."""
        with Checkpoints(self.workdir) as checkpoints:
            run = self._start(checkpoints)
            resumed_at = run.step if checkpoints.steps() else None
            # Only now, because a run that may not be continued must not be touched.
            text = json.dumps(self.session.config, indent=1)
            (self.workdir / "config.json").write_text(text + "\n")
            with (
                RunWriter(self.workdir, resume_step=resumed_at) as writer,
                TrainingProgress(self._total_steps, start_step=run.step) as progress,
            ):
                initialised = self.initialisation.lines() if self.initialisation else ()
                for line in (*self._lines, *initialised):
                    progress.note(line)
                epochs = 0
                while run.step < self._total_steps and run.schedule.active.any():
                    if self._stop_after is not None and epochs >= self._stop_after:
                        break
                    started = time.monotonic()
                    means = self._train_epoch(run, progress)
                    seconds = time.monotonic() - started
                    self._validate(run, means, seconds, writer, progress)
                    self._save(checkpoints, run, self._feed.iterators)
                    epochs += 1
                self.profile.stop(run.state)
                for warning in self._check_trained(run):
                    progress.note(warning)
        return run

    def _check_trained(self, run: _Run) -> list[str]:
        """Warnings about replicas without a result; an error if there is none at all."""
        stages, schedule = self.session.stages, run.schedule
        over = run.step >= self._total_steps
        late_R = over & schedule.active & ~final_objective(schedule, stages)
        if not run.step:
            return []
        return check_trained(self.session, lost(schedule, stages), late_R, self.workdir)

    # -- start -----------------------------------------------------------------------------

    def _start(self, checkpoints: Checkpoints) -> _Run:
        session = self.session
        count = len(session.replicas)
        if not checkpoints.steps():
            state = session.init_state(self._home)
            if self._source is not None:
                state, self.initialisation = initialise(session, state, self._source)
            return _Run(0, state, initial_state(count), [])
        _, meta = checkpoints.meta()
        check_same_run(meta, session, self._identity, self.workdir)
        abstract = {
            "train": session.abstract_state(self._home),
            "normalisation": abstract_normalisation(session),
        }
        restored = checkpoints.restore(abstract)
        for feed, saved in zip(self._feed.iterators, meta["iterators"], strict=True):
            feed.set_state(saved)
        schedule = saved_state(meta["schedule"])
        return _Run(restored.step, restored.state["train"], schedule, meta["history"])

    def _annotations(self, fold: str, task: str) -> Annotations:
        return read_annotations(
            self.store, self.store.fold(fold), self.store.fold(fold).validation, task
        )

    # -- one epoch -------------------------------------------------------------------------

    def _train_epoch(self, run: _Run, progress: TrainingProgress) -> dict[str, np.ndarray]:
        """Steps up to the next validation; returns the mean of each (R,) training metric."""
        config, active_R = self._schedule_config, run.schedule.active
        stop = min(self._total_steps, (run.step // config.epoch_steps + 1) * config.epoch_steps)
        steps = range(run.step, stop)
        rates_SR = np.stack([learning_rates(run.schedule, config, self._base_R, s) for s in steps])
        self._groups = regroup(self._groups, self.session, active_R, self.plan.most, self._home)
        epoch = Epoch(run.step, rates_SR, self._hyper(run), active_R, self._normalisation)
        run.state, means = train_epoch(
            epoch, self._groups, run.state, self._feed, self._program, progress, self.profile
        )
        run.step = stop
        return means

    def _program(self, group: Group) -> Any:
        """The compiled steps of a group; those that share their data alike share it, too."""
        if group.whole:
            return self._step_fn
        shared = group.session.shared(group.session.samplers)
        if shared not in self._programs:
            self._programs[shared] = self._compile(group.session)
        return self._programs[shared]

    def _compile(self, session: Session) -> Any:
        step = plain_train_step(
            session.model,
            session.optimizer,
            session.losses,
            session.shared(session.samplers),
            modality_dropout=session.modality_dropout,
            ema=session.ema,
        )
        return self._feed.compile(step)

    def _predictor(self, group: Group) -> Predictor:
        """The predictor of a group, kept while the group lives."""
        members = tuple(group.members.tolist())
        if members not in self._predictors:
            kept = {tuple(other.members.tolist()) for other in self._groups}
            self._predictors = {k: p for k, p in self._predictors.items() if k in kept}
            data = self._feed.resident(group.session.layout)
            self._predictors[members] = Predictor(group.session, self.store, data)
        return self._predictors[members]

    def _hyper(self, run: _Run) -> Hyper:
        """What holds for a whole epoch; the learning rates change with every step."""
        stages, stage_R = self.session.stages, run.schedule.stage
        return Hyper(
            learning_rate=self._base_R.astype(np.float32),
            weight_decay=self._decay_R,
            target_weights=self.session.weights,
            active=run.schedule.active,
            branches=on_branches(stages, stage_R),
            trainable=trainable(stages, run.state.params, stage_R),
            class_weights=self._class_weights,
        )

    def _validate(
        self,
        run: _Run,
        means: Mapping[str, np.ndarray],
        seconds: float,
        writer: RunWriter,
        progress: TrainingProgress,
    ) -> None:
        session, config = self.session, self._schedule_config
        before = run.schedule
        trained = before.active.copy()
        rates_R = learning_rates(before, config, self._base_R, run.step - 1)
        scores_R, named = self._scores(run)
        run.schedule, improved = observe(before, config, self._base_R, scores_R, run.step)
        # Adam's moments never lose a NaN, so a replica that met one is finished.
        sound = np.isfinite(means["loss"])
        run.schedule = dataclasses.replace(run.schedule, active=run.schedule.active & sound)
        run.state = keep_best(run.state, jnp.asarray(improved))
        released = run.schedule.stage > before.stage
        # A release starts from the best weights, whether or not every epoch does.
        reload = released | (bool(session.config["train"]["reload_best"]) & ~improved)
        run.state = reload_best(run.state, jnp.asarray(trained & reload))
        if session.stages and released.any():
            run.state = restart_optimizer(run.state, jnp.asarray(released))
        # A release may have reset it.
        best_R = np.where(improved, scores_R, before.best)
        row: dict[str, float] = {}
        for r, name in enumerate(session.names):
            if trained[r]:
                row |= {f"{name}/{metric}": float(mean_R[r]) for metric, mean_R in means.items()}
                row[f"{name}/learning_rate"] = float(rates_R[r])
                row[f"{name}/best"] = float(best_R[r])
                if session.stages:
                    row[f"{name}/stage"] = int(before.stage[r])
                row |= {f"{name}/{score}": value for score, value in named[r].items()}
        row["seconds_training"] = seconds
        writer.scalars(run.step, row)
        run.history.append({"step": run.step, "score": [float(score) for score in scores_R]})
        progress.note(self._summary(run, means["loss"], scores_R, best_R, progress))
        for name, enters, stage in zip(session.names, released, run.schedule.stage, strict=True):
            if session.stages and enters:
                progress.note(f"{name} enters stage {stage + 1} of {len(session.stages)}")

    def _scores(self, run: _Run) -> tuple[np.ndarray, dict[int, dict[str, float]]]:
        """(R,) selection scores, and all named scores of the replicas that trained.

        A finished replica's weights stand still: it keeps the score of its last validation.
        """
        session, active_R = self.session, run.schedule.active
        weights = run.state.evaluated
        branches_R = on_branches(session.stages, run.schedule.stage)
        if branches_R is not None:
            weights |= {"branches": self._home.replicas(branches_R)}
        predictions = predict_groups(
            self._groups, active_R, weights, self._normalisation, self._validation, self._predictor
        )
        live = np.flatnonzero(active_R)
        part = session.subset(live, session.layout)
        truths = [self._truths[session.folds.keys.index(name)] for name in part.folds.keys]
        found, named = replica_scores(part, [predictions[int(r)] for r in live], truths)
        scores_R = np.full(len(active_R), np.nan)
        if run.history:
            scores_R[:] = run.history[-1]["score"]
        scores_R[live] = found
        return scores_R, dict(zip(live.tolist(), named, strict=True))

    def _summary(
        self,
        run: _Run,
        losses_R: np.ndarray,
        scores_R: np.ndarray,
        best_R: np.ndarray,
        progress: TrainingProgress,
    ) -> str:
        task = self.session.tasks[0]
        selection = self.session.config["evaluation"]["selection"][task]
        # Selection turns the sign of errors; people read them as they are.
        sign = -1 if selection in TASK_OPS[task].errors else 1
        scores_R, best_R = sign * scores_R, sign * best_R
        progress.update(run.step, 0, **{selection: _finite_mean(scores_R)})
        parts = [
            f"{name} {scores_R[r]:.3f} (best {best_R[r]:.3f})"
            for r, name in enumerate(self.session.names)
        ]
        count, still = len(parts), int(run.schedule.active.sum())
        trained = f"{still} of {count} replicas still trained"
        if count > 4:
            parts = [
                f"{trained if still < count else f'{count} replicas'}: "
                f"mean {selection} {_finite_mean(scores_R):.3f}, mean best "
                f"{_finite_mean(best_R):.3f}"
            ]
        elif still < count:
            parts.append(f"({trained})")
        step = f"step {run.step}/{self._total_steps}"
        return f"{step}  loss {_finite_mean(losses_R):.3f}  validation " + "  ".join(parts)

    def _save(
        self, checkpoints: Checkpoints, run: _Run, feeds: Sequence[grain.DatasetIterator]
    ) -> None:
        iterators = [feed.get_state() for feed in feeds]
        meta = run_meta(
            self.session, self.store, self._identity, run.schedule, iterators, run.history
        )
        state = {"train": run.state, "normalisation": self._normalisation}
        meta["parameters"] = describe(state)
        score = _finite_mean(run.history[-1]["score"])
        checkpoints.save(run.step, state, meta, score=score if np.isfinite(score) else -1e30)


def _finite_mean(values_R: Any) -> float:
    """Mean over the replicas that did not diverge; NaN if all did."""
    finite = np.isfinite(values_R)
    return float(np.mean(np.asarray(values_R)[finite])) if finite.any() else math.nan
