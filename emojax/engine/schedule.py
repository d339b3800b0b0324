"""Learning rates, plateaus, releases and early stopping, one state for each replica.

Validation happens every few hundred steps, so this runs on the host in numpy: the train
step just receives one learning rate per replica. All functions are pure; the state is part
of the checkpoint.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """How the learning rate moves. An epoch is the time from one validation to the next.

    Attributes:
        epoch_steps: optimiser steps per epoch.
        warmup: "repetitive" (the rate climbs from 0 within *each* warm-up epoch; RJCMA
            section 4.2.2), "linear" (once over all warm-up epochs) or "none".
        warmup_epochs: epochs of warm-up; the plateau starts counting after them.
        plateau_patience: epochs without improvement before the rate drops.
        plateau_factor: what the rate is then multiplied by.
        minimum_rate: floor; a drop below it exhausts the plateau.
        releases: how often an exhausted plateau starts over (rate, warm-up and reference
            score reset) before the replica is finished. RJCMA unfreezes a backbone group
            at each; over frozen features only the reset remains.
        stop_patience: epochs without improvement after which a replica is finished.
    """

    epoch_steps: int
    warmup: str
    warmup_epochs: int
    plateau_patience: int
    plateau_factor: float
    minimum_rate: float
    releases: int
    stop_patience: int


@dataclasses.dataclass(frozen=True)
class ScheduleState:
    """Where each replica stands; every field is an (R,) array.

    Attributes:
        scale: product of the plateau's drops since the last release.
        stage: releases so far.
        stage_start: step of the last release.
        stage_best: best score since the last release, the plateau's reference.
        stage_bad: epochs since that improved.
        best: best score ever; the best weights belong to it.
        bad: epochs since that improved.
        active: False once the replica is finished.
    """

    scale: np.ndarray
    stage: np.ndarray
    stage_start: np.ndarray
    stage_best: np.ndarray
    stage_bad: np.ndarray
    best: np.ndarray
    bad: np.ndarray
    active: np.ndarray


def initial_state(num_replicas: int) -> ScheduleState:
    """The state before the first step."""
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
    )


def _repetitive(elapsed_R: np.ndarray, config: ScheduleConfig) -> np.ndarray:
    within_R = (elapsed_R % config.epoch_steps + 1) / config.epoch_steps
    return np.where(elapsed_R < config.warmup_epochs * config.epoch_steps, within_R, 1.0)


def _linear(elapsed_R: np.ndarray, config: ScheduleConfig) -> np.ndarray:
    return np.minimum(1.0, (elapsed_R + 1) / max(1, config.warmup_epochs * config.epoch_steps))


def _none(elapsed_R: np.ndarray, config: ScheduleConfig) -> np.ndarray:
    return np.ones(elapsed_R.shape)


WARMUPS: dict[str, Callable[[np.ndarray, ScheduleConfig], np.ndarray]] = {
    "repetitive": _repetitive,
    "linear": _linear,
    "none": _none,
}


def learning_rates(
    state: ScheduleState, config: ScheduleConfig, base_R: np.ndarray, step: int
) -> np.ndarray:
    """The (R,) float32 learning rates of optimiser step ``step`` (counted from 0)."""
    elapsed_R = step - state.stage_start
    rates_R = base_R * state.scale * WARMUPS[config.warmup](elapsed_R, config)
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
    warm = np.zeros_like(active) if config.warmup == "none" else np.ones_like(active)
    in_warmup = warm & (step - state.stage_start <= config.warmup_epochs * config.epoch_steps)

    best = np.where(improved, scores_R, state.best)
    bad = np.where(improved, 0, state.bad + active)
    stage_best = np.where(stage_improved, scores_R, state.stage_best)
    stage_bad = np.where(stage_improved | in_warmup, 0, state.stage_bad + active)

    drop = active & (stage_bad > config.plateau_patience)
    scale = np.where(drop, state.scale * config.plateau_factor, state.scale)
    stage_bad = np.where(drop, 0, stage_bad)
    # A relative margin, because 1e-5 * 0.1 ** 3 is not exactly 1e-8.
    exhausted = drop & (base_R * scale < config.minimum_rate * (1 - 1e-6))
    release = exhausted & (state.stage < config.releases)
    finished = (exhausted & ~release) | (bad >= config.stop_patience)
    return (
        ScheduleState(
            scale=np.where(release, 1.0, scale),
            stage=state.stage + release,
            stage_start=np.where(release, step, state.stage_start),
            stage_best=np.where(release, -np.inf, stage_best),
            stage_bad=np.where(release, 0, stage_bad),
            best=best,
            bad=np.where(release, 0, bad),
            active=active & ~finished,
        ),
        improved,
    )
