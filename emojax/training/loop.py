"""The training loop: restore or initialise; then step, validate and save, epoch by epoch.

Start reading at ``Trainer.run``. The step itself is ``train_step`` in ``emojax/core/step.py``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from emojax.config_reading import as_plain
from emojax.core.class_weights import fold_class_weights
from emojax.core.devices import is_primary, layout_lines
from emojax.core.schedule import (
    ScheduleState,
    final_objective,
    initial_state,
    learning_rates,
    lost,
    observe,
    saved_state,
    schedule_config,
)
from emojax.core.session import Session, abstract_normalisation
from emojax.core.stages import on_branches, trainable
from emojax.core.state import TrainState, keep_best, reload_best, restart_optimizer
from emojax.core.step import Hyper, Steps, train_steps
from emojax.datasets.pipeline import fingerprint
from emojax.datasets.source import Store
from emojax.errors import Stopped
from emojax.rundir.checkpoint import Checkpoints, describe, saved_steps
from emojax.rundir.metric_log import RunWriter
from emojax.rundir.resume import check_same_groups, check_same_run, check_trained, run_meta
from emojax.rundir.workdir import held
from emojax.training.epoch import Epoch, GroupMetrics, Position, position_of, remaining_dispatches
from emojax.training.epoch_report import EpochReport, beginning, finite_mean
from emojax.training.feeds import Reader, feed_lines, open_feed, wanted_bytes
from emojax.training.groups import Group, regroup
from emojax.training.initialise import Initialisation, initialise, open_source
from emojax.training.interruption import StopRequest, StopTraining
from emojax.training.memory_plan import plan_lines, plan_memory
from emojax.training.non_finite import NonFinite, first_of, refuse_non_finite
from emojax.training.profiling import Profile
from emojax.training.progress import TrainingProgress
from emojax.training.validation import Validation
from emojax.training.watch import Watch


@dataclasses.dataclass
class Run:
    """The state of a run, which each checkpoint saves.

    Between epochs there is no ``position``; within one, ``step`` is where it began.
    """

    step: int
    state: TrainState
    schedule: ScheduleState
    history: list[dict[str, Any]]
    position: Position | None = None


class Trainer:
    """Trains all replicas of a session.

    Args:
        session: the session to train.
        store: the data.
        workdir: the folder of checkpoints and metrics; a run in it is continued.
        stop_after: stop (with a checkpoint) after this many epochs of this call; for tests
            and for machines that are taken away.
        fresh: True if a run found in ``workdir`` will be deleted before ``run`` is called.
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
        self._lines = session.check_stages()
        config, folds, spec = session.config.train, session.folds.keys, session.window_spec
        self._schedule_config = schedule_config(config, store, folds, spec, session.batch_size)
        self._total_steps = config.epochs * self._schedule_config.epoch_steps
        self._base_R = np.array([replica.learning_rate for replica in session.replicas])
        self._decay_R = np.array([r.weight_decay for r in session.replicas], np.float32)
        self._normalisation = session.normalisation(store)
        self.profile = Profile(profile)
        wanted, obstacle = wanted_bytes(session, store)
        self.plan = plan_memory(session, resident=wanted)
        self._feed = open_feed(session, store, resident=self.plan.resident)
        self._lines += plan_lines(self.plan, len(session.replicas))
        self._lines += feed_lines(self._feed, config.steps_per_dispatch, wanted, obstacle)
        self._lines += layout_lines(session.layout, len(session.replicas), session.batch_size)
        self._groups: list[Group] = []
        self._step_fn = self._compile(session)
        self._class_weights = fold_class_weights(
            store, session.folds, session.tasks, config.class_weights
        )
        # A run that is resumed does not need its source any more.
        begins = fresh or not saved_steps(self.workdir)
        init_from = config.init_from
        self._source = open_source(init_from, workdir) if init_from and begins else None
        self.initialisation: Initialisation | None = None
        self._met: dict[int, NonFinite] = {}
        self._stop = StopRequest()
        self._validation = Validation(session, store, self._feed, self._stop)
        self._watch = Watch(session, store)
        self._identity = fingerprint(store, spec, session.batch_size)

    def run(self) -> Run:
        """Trains to the end (or ``stop_after``), with a checkpoint after every epoch.

        Raises:
            Stopped: SIGTERM or Ctrl-C asked for it; where the run stands is saved.
        """
        with (
            held(self.workdir),
            Checkpoints(self.workdir) as checkpoints,
            self._stop,
            contextlib.ExitStack() as opened,
        ):
            resumed = bool(checkpoints.steps())
            run = self._restore(checkpoints) if resumed else self._initialise()
            writer = self._open_writer(run.step if resumed else None, opened)
            progress = self._open_progress(run, opened)
            epochs = 0
            while run.step < self._total_steps and run.schedule.active.any():
                if epochs == self._stop_after:
                    break
                started = time.monotonic()
                try:
                    means = self._train_epoch(run, progress)
                    seconds = time.monotonic() - started
                    scores = self._scores(run)
                except StopTraining:
                    step = self._save_within(checkpoints, run)
                    raise Stopped(self._stop.name, step=step, workdir=self.workdir) from None
                self._observe(run, means, seconds, scores, writer, progress)
                self._save(checkpoints, run)
                epochs += 1
            self.profile.stop(run.state)
            for warning in self._check_trained(run):
                progress.note(warning)
        return run

    # -- steps -----------------------------------------------------------------------------

    def _train_epoch(self, run: Run, progress: TrainingProgress) -> dict[str, np.ndarray]:
        """Trains the groups one after another; returns the mean of each (R,) training metric.

        Raises:
            StopTraining: a stop was requested; ``run.position`` is where.
        """
        config, active_R = self._schedule_config, run.schedule.active
        steps = range(run.step, self._end(run))
        rates_SR = np.stack([learning_rates(run.schedule, config, self._base_R, s) for s in steps])
        policy = self.session.config.train.non_finite
        epoch = Epoch(run.step, rates_SR, self._hyper(run), active_R, policy)
        self._groups = regroup(self._groups, self.session, active_R, self.plan.most)
        members = [group.members[group.real].tolist() for group in self._groups]
        position = run.position = run.position or Position(members)
        check_same_groups(position.groups, members, self.workdir)
        for group in self._groups[position.turn :]:
            metrics = self._train_group(run, epoch, group, position, progress)
            self._met |= {one.replica: one for one in metrics.found if one.replica not in self._met}
            for one in metrics.found:
                progress.note(one.line(self.session.names[one.replica], self.store))
            if policy == "stop":
                refuse_non_finite(metrics.found, self.session.names, self.store, self.workdir)
            if self._stop.seen:
                raise StopTraining
            metrics.add_means(position.means)
            position.turn, position.done, position.seen = position.turn + 1, 0, {}
        return position.means

    def _train_group(
        self,
        run: Run,
        epoch: Epoch,
        group: Group,
        position: Position,
        progress: TrainingProgress,
    ) -> GroupMetrics:
        """Takes the steps of one group, to the end of the epoch or until a stop is requested."""
        layout, active_G = group.session.layout, group.active(epoch.active_R)
        take_steps = self._step_fn if group.whole else self._compile(group.session)
        self._feed.serve(layout)
        reader = Reader(
            self._feed.iterators, group, active_G, position.begun,
            goes_on=position.done > 0, kept=2 * self._feed.steps,
        )  # fmt: skip
        metrics = GroupMetrics(epoch, group, position, reader, progress)
        normalisation = group.normalisation(self._normalisation)
        hyper = dataclasses.replace(group.rows(epoch.hyper), active=active_G)
        hyper = layout.replicas(hyper)
        state = group.take(run.state)
        for count in remaining_dispatches(epoch.steps, self._feed.steps, position.done):
            if self._stop.requested():
                break
            self.profile.before_dispatch(metrics.pending)
            windows = self._feed.windows(reader, layout, count)
            rates_KG = epoch.rates_SR[metrics.done : metrics.done + count, group.members]
            rates_KG = layout.replicas(rates_KG, steps=True)
            state, values = take_steps(state, windows, normalisation, hyper, rates_KG)
            metrics.add(values, count)
            if metrics.hopeless:
                break
        metrics.close()
        run.state = group.put(run.state, state)
        return metrics

    def _compile(self, session: Session) -> Steps:
        """Compiles the steps of some replicas; those that share their data alike share it."""
        shared = session.shared(session.samplers)
        return train_steps(session.learner, shared, session.layout, session.window_spec)

    def _end(self, run: Run) -> int:
        """Returns the step of the next validation."""
        size = self._schedule_config.epoch_steps
        return min(self._total_steps, (run.step // size + 1) * size)

    def _hyper(self, run: Run) -> Hyper:
        """Returns hyper-parameters of a whole epoch; learning rates change with every step."""
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

    # -- validation ------------------------------------------------------------------------

    def _scores(self, run: Run) -> tuple[np.ndarray, dict[int, dict[str, float]]]:
        """Scores the validation videos.

        A finished replica's weights do not change: it keeps the score of its last validation.

        Returns:
            (R,) selection scores, and replica -> all its named scores, of those that trained.
        """
        session, active_R = self.session, run.schedule.active
        weights = run.state.evaluated
        branches_R = on_branches(session.stages, run.schedule.stage)
        if branches_R is not None:
            weights |= {"branches": session.layout.replicas(branches_R)}
        found, named = self._validation(self._groups, active_R, weights, self._normalisation)
        scores_R = np.full(len(active_R), np.nan)
        if run.history:
            scores_R[:] = run.history[-1]["score"]
        scores_R[active_R] = found
        return scores_R, named

    def _observe(
        self,
        run: Run,
        means: Mapping[str, np.ndarray],
        seconds: float,
        scored: tuple[np.ndarray, dict[int, dict[str, float]]],
        writer: RunWriter | None,
        progress: TrainingProgress,
    ) -> None:
        """Takes in a validation: schedule, best weights, and numbers for the user."""
        session, config = self.session, self._schedule_config
        before, (scores_R, named) = run.schedule, scored
        run.step, run.position = self._end(run), None
        rates_R = learning_rates(before, config, self._base_R, run.step - 1)
        run.schedule, improved = observe(before, config, self._base_R, scores_R, run.step)
        # Adam's moments never lose a NaN, so a replica that took one in is finished.
        sound = np.isfinite(means["loss"]) | (session.config.train.non_finite == "skip")
        run.schedule = dataclasses.replace(run.schedule, active=run.schedule.active & sound)
        run.state = keep_best(run.state, improved)
        released = run.schedule.stage > before.stage
        # A release starts from the best weights, with or without config.train.reload_best.
        reload = released | (session.config.train.reload_best & ~improved)
        run.state = reload_best(run.state, before.active & reload)
        if session.stages and released.any():
            run.state = restart_optimizer(run.state, released)
        report = EpochReport(
            session, run.step, means, rates_R, scores_R,
            # A release may have reset it.
            np.where(improved, scores_R, before.best), named, before, run.schedule, released,
        )  # fmt: skip
        warnings = self._watch(run.state, self._groups, before, self._normalisation)
        if writer is not None:
            writer.scalars(run.step, report.row(seconds))
        run.history.append({"step": run.step, "score": [float(score) for score in scores_R]})
        progress.update(run.step, 0, **{report.selection: report.score})
        for line in report.lines(self._total_steps) + warnings:
            progress.note(line)

    def _check_trained(self, run: Run) -> list[str]:
        """Returns warnings about replicas without a result; raises if there is none at all."""
        stages, schedule = self.session.stages, run.schedule
        over = run.step >= self._total_steps
        late_R = over & schedule.active & ~final_objective(schedule, stages)
        if not run.step:
            return []
        about = first_of(self._met.values(), self.store)
        return check_trained(
            self.session.names, lost(schedule, stages), late_R, self.workdir,
            epochs=self.session.config.train.epochs, about=about,
        )  # fmt: skip

    # -- start -----------------------------------------------------------------------------

    def _initialise(self) -> Run:
        state = self.session.init_state()
        if self._source is not None:
            names, replicas = self.session.names, self.session.replicas
            state, self.initialisation = initialise(names, replicas, state, self._source)
        self._watch.begin(state)
        return Run(0, state, initial_state(len(self.session.replicas)), [])

    def _restore(self, checkpoints: Checkpoints) -> Run:
        session = self.session
        _, meta = checkpoints.meta()
        check_same_run(meta, session.config, self._identity, self.workdir)
        abstract = {
            "train": session.abstract_state(),
            "normalisation": abstract_normalisation(session.streams, len(session.folds.keys)),
        }
        restored = checkpoints.restore(abstract)
        for feed, saved in zip(self._feed.iterators, meta["iterators"], strict=True):
            feed.set_state(saved)
        state, schedule = restored.state["train"], saved_state(meta["schedule"])
        run = Run(restored.step, state, schedule, meta["history"])
        self._watch.restore(meta.get("watch"))
        if meta.get("epoch"):
            run.step, run.position = meta["epoch"]["start"], position_of(meta["epoch"])
        return run

    def _open_writer(
        self, resumed_at: int | None, opened: contextlib.ExitStack
    ) -> RunWriter | None:
        """Opens the metrics' files, in the process that writes them."""
        if not is_primary():
            return None
        # Only now, because a run that may not be continued must not be touched.
        text = json.dumps(as_plain(self.session.config), indent=1) + "\n"
        (self.workdir / "config.json").write_text(text)
        return opened.enter_context(RunWriter(self.workdir, resume_step=resumed_at))

    def _open_progress(self, run: Run, opened: contextlib.ExitStack) -> TrainingProgress:
        """Opens the progress, and prints the steps that this call will take."""
        stream = (
            None
            if is_primary()
            else opened.enter_context(
                Path(os.devnull).open("w")  # noqa: SIM115 (the stack closes it)
            )
        )
        size = self._schedule_config.epoch_steps
        done = run.step + (run.position.steps_done(size) if run.position else 0)
        progress = TrainingProgress(self._total_steps, start_step=done, stream=stream)
        opened.enter_context(progress)
        initialised = self.initialisation.lines() if self.initialisation else ()
        begins = beginning(done, self._total_steps, size)
        for line in (*self._lines, *self._validation.warnings, *initialised, begins):
            progress.note(line)
        return progress

    # -- checkpoints -----------------------------------------------------------------------

    def _save(self, checkpoints: Checkpoints, run: Run) -> None:
        """Saves after a validation."""
        self._write(checkpoints, run, run.step, finite_mean(run.history[-1]["score"]))

    def _save_within(self, checkpoints: Checkpoints, run: Run) -> int:
        """Saves within an epoch; returns the step of the newest checkpoint.

        Between two epochs every number of a step is free but those of their ends. Without a free
        one at most a step of each group is lost.
        """
        position, end = run.position, self._end(run)
        assert position is not None, "only an epoch can be stopped"
        step = min(run.step + position.steps_done(end - run.step), end - 1)
        newest = max(checkpoints.steps(), default=0)
        if step <= newest:
            return newest
        self._write(checkpoints, run, step, math.nan)
        return step

    def _write(self, checkpoints: Checkpoints, run: Run, step: int, score: float) -> None:
        iterators = [iterator.get_state() for iterator in self._feed.iterators]
        meta = run_meta(
            self.session, self.store, self._identity, run.schedule, iterators, run.history
        )
        if run.position:
            meta["epoch"] = run.position.document() | {"start": run.step}
        state = {"train": run.state, "normalisation": self._normalisation}
        meta |= {"watch": self._watch.document(), "parameters": describe(state)}
        # Without a score it is never the best one.
        checkpoints.save(step, state, meta, score=score if np.isfinite(score) else -1e30)
