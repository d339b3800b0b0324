"""One epoch of training: every group of replicas steps up to the next validation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from emojax.engine.evaluator import Predictions, Predictor
from emojax.engine.feeds import Feed, Reader, dispatches
from emojax.engine.groups import Group
from emojax.engine.profiling import Profile
from emojax.engine.progress import TrainingProgress
from emojax.engine.state import TrainState
from emojax.engine.step import Hyper


@dataclasses.dataclass(frozen=True)
class Epoch:
    """What is the same for all groups of an epoch.

    Attributes:
        start: steps taken before it.
        rates_SR: learning rates of each of its S steps.
        hyper: of all replicas, NumPy arrays.
        active_R: (R,) bool, who trains.
        normalisation: see ``session.fold_normalisation``.
    """

    start: int
    rates_SR: np.ndarray
    hyper: Hyper
    active_R: np.ndarray
    normalisation: Any


def train_epoch(
    epoch: Epoch,
    groups: Sequence[Group],
    state: TrainState,
    feed: Feed,
    step_of: Callable[[Group], Callable[..., Any]],
    progress: TrainingProgress,
    profile: Profile,
) -> tuple[TrainState, dict[str, np.ndarray]]:
    """Trains the groups one after another.

    Args:
        epoch: what is to be done.
        groups: together all that are active.
        state: of all replicas, donated.
        feed: where windows come from; groups that share a sampler read the same ones of it.
        step_of: the program of a group, which ``feed`` compiled.
        progress: is shown every step; where groups take turns, their share of it.
        profile: sees every dispatch.

    Returns:
        The state, and the mean of each (R,) training metric, NaN where nobody trained.
    """
    begun: dict[int, Any] = {}
    means: dict[str, np.ndarray] = {}
    for turn, group in enumerate(groups):
        active_G = group.active(epoch.active_R)
        reader = Reader(feed.iterators, group, active_G, begun)
        dispatch = feed.dispatch(group, reader, step_of(group))
        part, seen = _train_group(
            epoch, group, group.take(state), dispatch, feed.steps, progress, profile,
            turns=(turn, len(groups)),
        )  # fmt: skip
        state = group.put(state, part)
        trained = group.members[active_G]
        for name, mean_G in seen.items():
            mean_R = means.setdefault(name, np.full(len(epoch.active_R), np.nan, mean_G.dtype))
            mean_R[trained] = mean_G[active_G]
    return state, means


def _train_group(
    epoch: Epoch,
    group: Group,
    state: TrainState,
    dispatch: Callable[..., Any],
    most: int,
    progress: TrainingProgress,
    profile: Profile,
    turns: tuple[int, int],
) -> tuple[TrainState, dict[str, np.ndarray]]:
    """All steps of one group; the mean of each (G,) metric over them."""
    layout = group.session.layout
    normalisation = group.normalisation(epoch.normalisation)
    active_G = group.active(epoch.active_R)
    hyper = dataclasses.replace(group.rows(epoch.hyper), active=active_G)
    hyper = layout.replicas(hyper)
    rates_SG = epoch.rates_SR[:, group.members]
    steps, (turn, of) = len(rates_SG), turns
    seen: list[dict[str, np.ndarray]] = []
    late: dict[str, jax.Array] | None = None

    def fetch(done: int, metrics: dict[str, jax.Array]) -> None:
        host = jax.device_get(metrics)
        seen.append({name: value.reshape(-1, len(active_G)) for name, value in host.items()})
        windows = int(active_G.sum()) * group.run.batch_size * len(seen[-1]["loss"])
        loss = float(seen[-1]["loss"][-1][active_G].mean())
        progress.update(epoch.start + (turn * steps + done) // of, windows, loss=loss)

    done = 0
    for count in dispatches(steps, most):
        profile.before_dispatch(late)
        rates_KG = rates_SG[done : done + count]
        state, metrics = dispatch(state, normalisation, hyper, rates_KG)
        # Fetched one dispatch late, so that the device is never idle.
        if late is not None:
            fetch(done, late)
        late, done = metrics, done + count
    if late is not None:
        fetch(done, late)
    means = {
        name: np.mean(np.concatenate([metrics[name] for metrics in seen]), axis=0)
        for name in seen[0]
    }
    return state, means


def predict_groups(
    groups: Sequence[Group],
    active_R: np.ndarray,
    weights: Any,
    normalisation: Any,
    videos: Sequence[Sequence[str]],
    predictor_of: Callable[[Group], Predictor],
) -> dict[int, Predictions]:
    """Predictions of the replicas that train.

    Args:
        groups: of an epoch.
        active_R: (R,) bool, who trained in it.
        weights: what ``Predictor`` takes, of all replicas.
        normalisation: see ``session.fold_normalisation``.
        videos: for each fold of the run, the names of the videos to predict.
        predictor_of: the predictor of a group's session.

    Returns:
        Replica -> its predictions for the videos of its fold.
    """
    found: dict[int, Predictions] = {}
    for group in groups:
        active_G, folds = group.active(active_R), group.session.folds
        names: list[Sequence[str]] = [()] * len(folds.keys)
        for number in folds.members_R[active_G]:
            names[number] = videos[group.run.folds.keys.index(folds.keys[number])]
        predictions = predictor_of(group)(
            group.take(weights), group.normalisation(normalisation), names
        )
        found |= {int(group.members[i]): predictions[i] for i in np.flatnonzero(active_G)}
    return found
