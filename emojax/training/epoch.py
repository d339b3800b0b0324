"""The position within an epoch of training, and the metrics of its steps.

``Trainer._train_group`` in ``loop.py`` takes the steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from emojax.core.step import Hyper
from emojax.training.feeds import Reader, dispatches
from emojax.training.groups import Group
from emojax.training.non_finite import NonFinite, find_non_finite
from emojax.training.progress import TrainingProgress


@dataclasses.dataclass(frozen=True)
class Epoch:
    """Values that all groups of an epoch share.

    Attributes:
        start: steps taken before it.
        rates_SR: learning rates of each of its S steps.
        hyper: the hyper-parameters of all replicas, NumPy arrays.
        active_R: (R,) bool, who trains.
        non_finite: ``config.train.non_finite``.
    """

    start: int
    rates_SR: np.ndarray
    hyper: Hyper
    active_R: np.ndarray
    non_finite: str = "drop"

    @property
    def steps(self) -> int:
        """Returns S, the number of steps."""
        return len(self.rates_SR)


@dataclasses.dataclass
class Position:
    """The place within an epoch at which a run that was stopped is resumed.

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
        """Returns how many of an epoch's ``of`` steps are done; groups in turns count by share."""
        return (self.turn * of + self.done) // len(self.groups)

    def document(self) -> dict[str, Any]:
        """Returns the position as JSON can hold it; ``position_of`` reads it."""

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
    """Reads the position that ``Position.document`` returned."""

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


class GroupMetrics:
    """Metrics of the steps of one group, from where ``position`` is in the epoch.

    They are fetched one dispatch late, so that the device is never idle.

    Attributes:
        done: steps of the group that are dispatched.
        pending: metrics of the last dispatch, on the devices; None before the first.
        found: the first loss of each replica that was not finite.
    """

    def __init__(
        self,
        epoch: Epoch,
        group: Group,
        position: Position,
        reader: Reader,
        progress: TrainingProgress,
    ) -> None:
        self._epoch, self._group, self._position = epoch, group, position
        self._reader, self._progress = reader, progress
        self._active_G = group.active(epoch.active_R)
        self._begun = self._fetched = position.done
        self._parts: dict[str, list[np.ndarray]] = {
            name: [values] for name, values in position.seen.items()
        }
        self.done = position.done
        self.pending: dict[str, jax.Array] | None = None
        self.found: list[NonFinite] = []

    def add(self, metrics: dict[str, jax.Array], count: int) -> None:
        """Takes the metrics of a dispatch of so many steps, and fetches those before."""
        self._fetch()
        self.pending, self.done = metrics, self.done + count

    def close(self) -> None:
        """Fetches pending results, and advances the position."""
        self._fetch()
        self._position.done = self.done
        self._position.seen = {name: np.concatenate(parts) for name, parts in self._parts.items()}

    @property
    def hopeless(self) -> bool:
        """Returns True when no replica can learn any more, so that the epoch may as well end."""
        lost = {found.replica for found in self.found if not found.skipped}
        if self._epoch.non_finite == "stop":
            return bool(lost)
        return lost >= set(self._group.members[self._active_G].tolist())

    def add_means(self, means: dict[str, np.ndarray]) -> None:
        """Writes the mean of each metric over the epoch into (R,) arrays, NaN for idle replicas.

        Args:
            means: metric -> (R,), of the groups before; changed in place.
        """
        seen, trained = self._position.seen, self._group.members[self._active_G]
        skip = self._epoch.non_finite == "skip"
        if skip:
            lost_SG = ~np.isfinite(seen["loss"] + seen["gradient_norm"])
            seen["skipped"] = lost_SG.astype(np.float32)
        for name, seen_SG in seen.items():
            mean_G = _mean(seen_SG, skip=skip)
            nobody = np.full(len(self._epoch.active_R), np.nan, mean_G.dtype)
            means.setdefault(name, nobody)[trained] = mean_G[self._active_G]

    def _fetch(self) -> None:
        if self.pending is None:
            return
        epoch, active_G, first = self._epoch, self._active_G, self._fetched
        host = self._group.session.layout.fetch(self.pending)
        self.pending, self._fetched = None, self.done
        for name, value in host.items():
            self._parts.setdefault(name, []).append(value.reshape(-1, len(active_G)))
        loss_KG = self._parts["loss"][-1]
        known = {found.replica for found in self.found}
        self.found += [
            found
            for found in find_non_finite(
                self._group, active_G, loss_KG, self._parts["gradient_norm"][-1],
                windows=lambda k, place: self._reader.videos(first + k - self._begun, place),
                step=epoch.start + first, policy=epoch.non_finite,
            )
            if found.replica not in known
        ]  # fmt: skip
        windows = int(active_G.sum()) * self._group.run.batch_size * len(loss_KG)
        turn, of = self._position.turn, len(self._position.groups)
        step = epoch.start + (turn * epoch.steps + first + len(loss_KG)) // of
        self._progress.update(step, windows, loss=float(loss_KG[-1][active_G].mean()))


def _mean(seen_SG: np.ndarray, *, skip: bool) -> np.ndarray:
    """Averages over the steps; over the finite ones where others were skipped."""
    sound_SG = np.isfinite(seen_SG)
    if not skip or sound_SG.all():
        return np.mean(seen_SG, axis=0)
    total_G = np.where(sound_SG, seen_SG, 0).sum(axis=0)
    with np.errstate(invalid="ignore"):
        return total_G / sound_SG.sum(axis=0).astype(seen_SG.dtype)


def remaining_dispatches(steps: int, most: int, done: int) -> list[int]:
    """Returns the sizes of an epoch's dispatches after ``done`` steps, cut as without a stop."""
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
