"""One epoch of training: every group of replicas steps up to the next validation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from emojax.core.state import TrainState
from emojax.core.step import Hyper
from emojax.prediction.predictor import Predictions, Predictor
from emojax.training.feeds import Feed, Reader, dispatches
from emojax.training.groups import Group
from emojax.training.interruption import StopRequest
from emojax.training.non_finite import NonFinite, find_non_finite
from emojax.training.profiling import Profile
from emojax.training.progress import TrainingProgress


@dataclasses.dataclass(frozen=True)
class Epoch:
    """What is the same for all groups of an epoch.

    Attributes:
        start: steps taken before it.
        rates_SR: learning rates of each of its S steps.
        hyper: of all replicas, NumPy arrays.
        active_R: (R,) bool, who trains.
        normalisation: see ``session.fold_normalisation``.
        non_finite: ``config.train.non_finite``.
    """

    start: int
    rates_SR: np.ndarray
    hyper: Hyper
    active_R: np.ndarray
    normalisation: Any
    non_finite: str = "drop"

    @property
    def steps(self) -> int:
        """S."""
        return len(self.rates_SR)


@dataclasses.dataclass
class Position:
    """How far an epoch has come, from where a run that was stopped within it goes on.

    Attributes:
        groups: the members of each group, whose turns follow one another.
        turn: the group that trains.
        done: steps that it has taken.
        begun: sampler of the run -> state when the epoch began, of those that were read.
        seen: metric -> (done, G) of the group that trains.
        means: metric -> (R,), of the groups before it, NaN elsewhere.
    """

    groups: list[list[int]]
    turn: int = 0
    done: int = 0
    begun: dict[int, Any] = dataclasses.field(default_factory=dict)
    seen: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    means: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def steps_done(self, of: int) -> int:
        """Steps of the epoch, of which there are ``of``; where groups take turns, their share."""
        return (self.turn * of + self.done) // len(self.groups)

    def document(self) -> dict[str, Any]:
        """What JSON can hold; ``position_of`` reads it."""

        def lists(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
            # Python's floats hold every float32, and JSON writes them so that they come back.
            return {
                name: [str(values.dtype), values.astype(np.float64).tolist()]
                for name, values in arrays.items()
            }

        return {
            "groups": self.groups,
            "turn": self.turn,
            "done": self.done,
            "begun": {str(sampler): state for sampler, state in self.begun.items()},
            "seen": lists(self.seen),
            "means": lists(self.means),
        }


def position_of(document: Mapping[str, Any]) -> Position:
    """The position that ``Position.document`` wrote down."""

    def arrays(lists: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {name: np.array(values, dtype) for name, (dtype, values) in lists.items()}

    return Position(
        groups=[list(members) for members in document["groups"]],
        turn=document["turn"],
        done=document["done"],
        begun={int(sampler): state for sampler, state in document["begun"].items()},
        seen=arrays(document["seen"]),
        means=arrays(document["means"]),
    )


def train_epoch(
    epoch: Epoch,
    groups: Sequence[Group],
    position: Position,
    state: TrainState,
    feed: Feed,
    step_of: Callable[[Group], Callable[..., Any]],
    progress: TrainingProgress,
    profile: Profile,
    stop: StopRequest,
) -> tuple[TrainState, list[NonFinite]]:
    """Trains the groups one after another, to the end or until a stop is requested.

    Args:
        epoch: what is to be done.
        groups: together all that are active.
        position: where to begin; moved on. Afterwards ``position.turn`` is the number of groups,
            and ``position.means`` holds the mean of each training metric, NaN where nobody
            trained, unless a stop was requested.
        state: of all replicas, donated.
        feed: where windows come from; groups that share a sampler read the same ones of it.
        step_of: the program of a group, which ``feed`` compiled.
        progress: is shown every step; where groups take turns, their share of it.
        profile: sees every dispatch.
        stop: whether somebody wants the run to stop.

    Returns:
        The state, and the first loss of each replica that was not finite.
    """
    found: list[NonFinite] = []
    while position.turn < len(groups):
        group = groups[position.turn]
        active_G = group.active(epoch.active_R)
        feed.serve(group)
        options: Any = {"goes_on": position.done > 0, "kept": 2 * feed.steps}
        reader = Reader(feed.iterators, group, active_G, position.begun, **options)
        dispatch = feed.dispatch(group, reader, step_of(group))
        turn = _Turn(epoch, group, position, reader, progress, profile)
        part = turn.train(group.take(state), dispatch, feed.steps, stop)
        state = group.put(state, part)
        found += turn.found
        if stop.seen:
            break
        trained, policy = group.members[active_G], epoch.non_finite
        if policy == "skip":
            lost_SG = ~np.isfinite(position.seen["loss"] + position.seen["gradient_norm"])
            position.seen["skipped"] = lost_SG.astype(np.float32)
        for name, seen in position.seen.items():
            mean_G = _mean(seen, skip=policy == "skip")
            nobody = np.full(len(epoch.active_R), np.nan, mean_G.dtype)
            position.means.setdefault(name, nobody)[trained] = mean_G[active_G]
        position.turn, position.done, position.seen = position.turn + 1, 0, {}
    return state, found


def _mean(seen_SG: np.ndarray, *, skip: bool) -> np.ndarray:
    """Mean over the steps; of those that are finite, where others were skipped."""
    sound_SG = np.isfinite(seen_SG)
    if not skip or sound_SG.all():
        return np.mean(seen_SG, axis=0)
    total_G = np.where(sound_SG, seen_SG, 0).sum(axis=0)
    with np.errstate(invalid="ignore"):
        return total_G / sound_SG.sum(axis=0).astype(seen_SG.dtype)


class _Turn:
    """The steps of one group within an epoch.

    Attributes:
        found: the first loss of each replica that was not finite.
    """

    def __init__(
        self,
        epoch: Epoch,
        group: Group,
        position: Position,
        reader: Reader,
        progress: TrainingProgress,
        profile: Profile,
    ) -> None:
        self._epoch, self._group, self._position = epoch, group, position
        self._reader, self._progress, self._profile = reader, progress, profile
        self._active_G = group.active(epoch.active_R)
        self._before = position.done
        self._parts: dict[str, list[np.ndarray]] = {
            name: [values] for name, values in position.seen.items()
        }
        self.found: list[NonFinite] = []

    def train(
        self, state: TrainState, dispatch: Callable[..., Any], most: int, stop: StopRequest
    ) -> TrainState:
        """Takes steps until the epoch or this group's training ends, or a stop is requested."""
        epoch, group, position = self._epoch, self._group, self._position
        layout = group.session.layout
        normalisation = group.normalisation(epoch.normalisation)
        hyper = dataclasses.replace(group.rows(epoch.hyper), active=self._active_G)
        hyper = layout.replicas(hyper)
        rates_SG = epoch.rates_SR[:, group.members]
        late: dict[str, jax.Array] | None = None
        done, fetched = position.done, position.done
        for count in _remaining(epoch.steps, most, done):
            if stop.requested():
                break
            self._profile.before_dispatch(late)
            state, metrics = dispatch(state, normalisation, hyper, rates_SG[done : done + count])
            # Fetched one dispatch late, so that the device is never idle.
            if late is not None:
                self._fetch(late, fetched)
                fetched = done
            late, done = metrics, done + count
            if self._over():
                break
        if late is not None:
            self._fetch(late, fetched)
        position.done = done
        position.seen = {name: np.concatenate(parts) for name, parts in self._parts.items()}
        return state

    def _over(self) -> bool:
        """Whether nobody can learn any more, so that the epoch may as well end."""
        lost = {found.replica for found in self.found if not found.skipped}
        if self._epoch.non_finite == "stop":
            return bool(lost)
        return lost >= set(self._group.members[self._active_G].tolist())

    def _fetch(self, metrics: dict[str, jax.Array], first: int) -> None:
        """Takes in the metrics of a dispatch whose first step was this one of the epoch."""
        epoch, active_G = self._epoch, self._active_G
        host = self._group.session.layout.fetch(metrics)
        for name, value in host.items():
            self._parts.setdefault(name, []).append(value.reshape(-1, len(active_G)))
        loss_KG = self._parts["loss"][-1]
        known = {found.replica for found in self.found}
        self.found += [
            found
            for found in find_non_finite(
                self._group, active_G, loss_KG, self._parts["gradient_norm"][-1],
                windows=lambda k, place: self._reader.videos(first + k - self._before, place),
                step=epoch.start + first, policy=epoch.non_finite,
            )
            if found.replica not in known
        ]  # fmt: skip
        windows = int(active_G.sum()) * self._group.run.batch_size * len(loss_KG)
        loss = float(loss_KG[-1][active_G].mean())
        turn, of = self._position.turn, len(self._position.groups)
        done = first + len(loss_KG)
        step = epoch.start + (turn * epoch.steps + done) // of
        self._progress.update(step, windows, loss=loss)


def _remaining(steps: int, most: int, done: int) -> list[int]:
    """The dispatches of an epoch that are left after so many steps, cut as they would have been."""
    counts = list(dispatches(steps, most))
    begun = 0
    for number, count in enumerate(counts):
        if begun == done:
            return counts[number:]
        begun += count
        if begun > done:
            # It was stopped by a feed that dispatches other numbers of steps.
            return [1] * (begun - done) + counts[number + 1 :]
    return []


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
