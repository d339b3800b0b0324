"""Learning rates, plateaus, releases and early stopping, one state for each replica.

Validation happens every few hundred steps, so this runs on the host in NumPy, and the train step
receives one learning rate per replica. The state is part of the checkpoint.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from emojax.config_reading import part
from emojax.config_schema import ScheduleKeys, Stage, TrainConfig
from emojax.datasets.pipeline import window_list
from emojax.datasets.source import Store
from emojax.datasets.window_spec import WindowSpec
from emojax.errors import InputError


@dataclasses.dataclass(frozen=True)
class ScheduleConfig(ScheduleKeys):
    """The schedule of the learning rate; the fields are those of ``ScheduleKeys``.

    ``epoch_steps`` is not 0 here, see ``schedule_config``. A replica is in the stage of its number
    of releases. A cosine starts over at a release and then has what is left of the run; the
    plateau's scale multiplies it.
    """

    @property
    def last_stage(self) -> int:
        """Returns the number of releases."""
        return len(self.stages) - 1 if self.stages else self.releases

    @property
    def warmup_steps(self) -> int:
        """Returns the steps of warm-up after the start and after each release."""
        return 0 if self.warmup == "none" else self.warmup_epochs * self.epoch_steps

    def limits(self, stage_R: np.ndarray) -> np.ndarray:
        """Returns the (R,) most epochs of each replica's stage; 0 for no limit."""
        epochs = np.array([stage.epochs for stage in self.stages])
        return epochs[stage_R] if self.stages else np.zeros_like(stage_R)


def schedule_config(
    train: TrainConfig, store: Store, folds: Sequence[str], spec: WindowSpec, batch_size: int
) -> ScheduleConfig:
    """Makes the schedule of a run; ``epoch_steps: 0`` is one pass over the largest training fold.

    Replicas validate together, so a fold with fewer windows than the largest sees some of them
    twice in such an epoch; alone it would validate earlier. Set ``epoch_steps`` where replicas
    of several folds have to equal separate runs.

    Args:
        train: ``config.train``.
        store: the data.
        folds: names of the folds that replicas are trained on.
        spec: the length, stride and content of windows.
        batch_size: windows in a batch.

    Raises:
        InputError: a training or validation fold is empty.
    """
    windows = []
    for name in folds:
        fold = store.fold(name)
        for partition, videos in (("train", fold.train), ("validation", fold.validation)):
            if not videos:
                raise InputError(
                    f"Fold {name!r} has no {partition} videos.",
                    file=store.path,
                    field="config.replicas.folds",
                    found=f"0 {partition} videos",
                    expected="at least one",
                    remedy="train on another fold, or build the store with more videos",
                )
        windows.append(len(window_list(store, fold.train, spec)))
    steps = train.epoch_steps or math.ceil(max(windows) / batch_size)
    return part(ScheduleConfig, train, epoch_steps=steps)


@dataclasses.dataclass(frozen=True)
class ScheduleState:
    """The state of each replica's schedule; every field is an (R,) array.

    Attributes:
        scale: product of the plateau's drops since the last release.
        stage: releases so far.
        stage_start: step of the last release.
        stage_best: the plateau's reference: the best score since the last release, or under the
            present objective (``plateau_reference``).
        stage_bad: epochs since that improved.
        best: best score so far under the present objective; the best weights belong to it,
            or, while it is -inf, to the stage before.
        bad: epochs since that improved.
        active: False once the replica is finished.
        best_stage: stage that the best weights are from; -1 while there are none but the
            initial ones.
    """

    scale: np.ndarray
    stage: np.ndarray
    stage_start: np.ndarray
    stage_best: np.ndarray
    stage_bad: np.ndarray
    best: np.ndarray
    bad: np.ndarray
    active: np.ndarray
    best_stage: np.ndarray


def initial_state(num_replicas: int) -> ScheduleState:
    """Makes the state before the first step."""
    count = num_replicas
    return ScheduleState(
        scale=np.ones(count),
        stage=np.zeros(count, np.int64),
        stage_start=np.zeros(count, np.int64),
        stage_best=np.full(count, -np.inf),
        stage_bad=np.zeros(count, np.int64),
        best=np.full(count, -np.inf),
        bad=np.zeros(count, np.int64),
        active=np.ones(count, bool),
        best_stage=np.full(count, -1),
    )


def saved_state(fields: Mapping[str, list[Any]]) -> ScheduleState:
    """Returns the state that a checkpoint's lists hold."""
    return ScheduleState(**{name: np.array(values) for name, values in fields.items()})


def _repetitive(elapsed_R: np.ndarray, config: ScheduleConfig) -> np.ndarray:
    within_R = (elapsed_R % config.epoch_steps + 1) / config.epoch_steps
    return np.where(elapsed_R < config.warmup_epochs * config.epoch_steps, within_R, 1.0)


def _rising(elapsed_R: np.ndarray, config: ScheduleConfig) -> np.ndarray:
    # The public code divides by the number of epochs twice, and counts steps from 0.
    epoch_R, step_R = elapsed_R // config.epoch_steps, elapsed_R % config.epoch_steps
    epochs = max(1, config.warmup_epochs)
    rising_R = step_R / config.epoch_steps * (epoch_R + 1) / epochs**2
    return np.where(elapsed_R < config.warmup_epochs * config.epoch_steps, rising_R, 1.0)


def _linear(elapsed_R: np.ndarray, config: ScheduleConfig) -> np.ndarray:
    return np.minimum(1.0, (elapsed_R + 1) / max(1, config.warmup_epochs * config.epoch_steps))


def _none(elapsed_R: np.ndarray, config: ScheduleConfig) -> np.ndarray:
    return np.ones(elapsed_R.shape)


WARMUPS: dict[str, Callable[[np.ndarray, ScheduleConfig], np.ndarray]] = {
    "repetitive": _repetitive,
    "rising": _rising,
    "linear": _linear,
    "none": _none,
}


def _cosine(
    state: ScheduleState, config: ScheduleConfig, base_R: np.ndarray, step: int
) -> np.ndarray:
    """Computes one period of Loshchilov and Hutter 2017, as optax's cosine_decay_schedule."""
    limit_R = config.limits(state.stage) * config.epoch_steps
    rest_R = config.epochs * config.epoch_steps - state.stage_start
    length_R = np.where(limit_R > 0, np.minimum(limit_R, rest_R), rest_R)
    decaying_R = np.maximum(1, length_R - config.warmup_steps)
    progress_R = (step - state.stage_start - config.warmup_steps) / decaying_R
    height_R = 0.5 * (1 + np.cos(np.pi * np.clip(progress_R, 0.0, 1.0)))
    return config.minimum_rate + (base_R - config.minimum_rate) * height_R


def _constant(
    state: ScheduleState, config: ScheduleConfig, base_R: np.ndarray, step: int
) -> np.ndarray:
    return base_R


DECAYS: dict[str, Callable[[ScheduleState, ScheduleConfig, np.ndarray, int], np.ndarray]] = {
    "none": _constant,
    "cosine": _cosine,
}


def learning_rates(
    state: ScheduleState, config: ScheduleConfig, base_R: np.ndarray, step: int
) -> np.ndarray:
    """Computes the (R,) float32 learning rates of optimiser step ``step``, counted from 0."""
    elapsed_R = step - state.stage_start
    rates_R = DECAYS[config.decay](state, config, base_R, step)
    rates_R = rates_R * state.scale * WARMUPS[config.warmup](elapsed_R, config)
    return rates_R.astype(np.float32)


def observe(
    state: ScheduleState,
    config: ScheduleConfig,
    base_R: np.ndarray,
    scores_R: np.ndarray,
    step: int,
) -> tuple[ScheduleState, np.ndarray]:
    """Takes in one validation.

    The plateau acts as PyTorch's ReduceLROnPlateau with threshold 0: the rate drops at the
    (patience + 1)-th epoch in a row without improvement.

    A release resets rate, warm-up, plateau and the count of early stopping. The best score
    stays, unless the next stage has another objective: then the next finite score is the best.
    With ``plateau_reference="best"`` the plateau compares with that score, too.

    Args:
        state: the state so far.
        config: the schedule.
        base_R: (R,) learning rates before any scaling.
        scores_R: (R,) validation scores, higher is better; NaN never improves.
        step: steps taken so far.

    Returns:
        The new state, and (R,) bool: whose weights are the best so far.
    """
    active = state.active
    improved = active & (scores_R > state.best)
    stage_improved = active & (scores_R > state.stage_best)
    in_warmup = step - state.stage_start <= config.warmup_steps

    best = np.where(improved, scores_R, state.best)
    bad = np.where(improved, 0, state.bad + active)
    stage_best = np.where(stage_improved, scores_R, state.stage_best)
    stage_bad = np.where(stage_improved | in_warmup, 0, state.stage_bad + active)

    drop = active & (stage_bad > config.plateau_patience)
    scale = np.where(drop, state.scale * config.plateau_factor, state.scale)
    stage_bad = np.where(drop, 0, stage_bad)
    # A relative margin, because 1e-5 * 0.1 ** 3 is not exactly 1e-8.
    exhausted = drop & (base_R * scale < config.minimum_rate * (1 - 1e-6))
    stopped = bad >= config.stop_patience
    more = state.stage < config.last_stage
    if config.stages:
        limit_R = config.limits(state.stage) * config.epoch_steps
        over = (limit_R > 0) & (step - state.stage_start >= limit_R)
        ended = active & (exhausted | stopped | over)
        release, finished = ended & more, ended & ~more
    else:
        release = exhausted & more
        finished = (exhausted & ~release) | stopped
    fresh = release & _other_objective(config, state.stage)
    forgotten = release if config.plateau_reference == "release" else fresh
    return (
        ScheduleState(
            scale=np.where(release, 1.0, scale),
            stage=state.stage + release,
            stage_start=np.where(release, step, state.stage_start),
            stage_best=np.where(forgotten, -np.inf, stage_best),
            stage_bad=np.where(release, 0, stage_bad),
            # Scores of another objective do not compare.
            best=np.where(fresh, -np.inf, best),
            bad=np.where(release, 0, bad),
            active=active & ~finished,
            best_stage=np.where(improved, state.stage, state.best_stage),
        ),
        improved,
    )


def _other_objective(config: ScheduleConfig, stage_R: np.ndarray) -> np.ndarray:
    """Returns (R,) bool, True where the next stage has another objective."""
    if not config.stages:
        return np.zeros(stage_R.shape, bool)
    objectives = np.array([stage.objective for stage in config.stages])
    return objectives[stage_R] != objectives[np.minimum(stage_R + 1, config.last_stage)]


def final_objective(state: ScheduleState, stages: Sequence[Stage]) -> np.ndarray:
    """Returns (R,) bool, True where the last stage's objective chose the best weights."""
    if not stages:
        return np.ones(state.stage.shape, bool)
    objectives = np.array([stage.objective for stage in stages])
    return objectives[state.best_stage] == objectives[-1]


def lost(state: ScheduleState, stages: Sequence[Stage]) -> np.ndarray:
    """Returns (R,) bool, True for replicas that diverged, finished or not.

    Either no validation ever gave a finite score, or none did in a last stage of another
    objective, so that the best weights are those of an earlier one.
    """
    return (state.best_stage < 0) | (~state.active & ~final_objective(state, stages))
