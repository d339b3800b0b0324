"""Watches the trained parts of a model and warns, once for each, when one has died.

After every validation it measures two things. The norm of each parameter group is held against its
norm at the start, or against the largest so far where the group started at zero (RJCMA's W_h);
single numbers, such as the slope of a PReLU, are left alone. The
effect of each mechanism on predictions (``training.mechanism_effects``) is held against the largest
so far. A part that has lost 95 % of either is told. Groups that a stage freezes do not count, nor
do effects while anything is frozen or temporary heads are trained.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from emojax.core.parameter_groups import group_norms, group_of, group_sizes
from emojax.core.schedule import ScheduleState
from emojax.core.session import Session
from emojax.core.stages import on_branches, parameter_paths, trainable
from emojax.core.state import TrainState
from emojax.datasets.source import Store
from emojax.training.groups import Group
from emojax.training.mechanism_effects import MechanismEffects

NORM, EFFECT = "norm", "effect"
# The share that is left of a part that has died.
LEFT = 0.05


@dataclasses.dataclass(frozen=True)
class Death:
    """A part that has lost nearly all of its norm or effect.

    Attributes:
        replica: the replica.
        what: "norm" of a parameter group or "effect" of a mechanism.
        part: the name of the group or mechanism.
        value: the norm or effect now.
        reference: the norm or effect that it is held against.
    """

    replica: int
    what: str
    part: str
    value: float
    reference: float

    def line(self, name: str) -> str:
        """Returns a warning for the user; ``name`` is the name of the replica."""
        kind = "parameter group" if self.what == NORM else "mechanism"
        lost = 100 * (1 - self.value / self.reference)
        return (
            f"warning: {name}: {kind} {self.part} has lost {lost:.1f} % of its {self.what} "
            f"({self.value:.3g}, was {self.reference:.3g}). The model trains on without it; lower "
            "config.train.weight_decay to keep it. emojax analyse mechanisms tells what it is worth"
        )


class Watch:
    """Holds the norms and effects of a run so far.

    Args:
        session: the session of all replicas.
        store: the data.
    """

    def __init__(self, session: Session, store: Store) -> None:
        self._session = session
        self._mode = session.config.train.watch
        self._effects = MechanismEffects(session, store)
        # "norm" or "effect" -> part -> (R,) the number that it is held against.
        self._references: dict[str, dict[str, np.ndarray]] = {NORM: {}, EFFECT: {}}
        self._growing: set[str] = set()
        self._dead: set[tuple[int, str, str]] = set()

    def begin(self, state: TrainState) -> None:
        """Takes the norms that a run starts with."""
        if self._mode == "none":
            return
        sizes = group_sizes(state.params)
        # A single number, such as the slope of a PReLU, may pass zero on its way.
        norms = {g: x_R for g, x_R in self._norms(state).items() if sizes[g] > 1}
        self._growing = {g for g, x_R in norms.items() if not x_R.any()}
        self._references[NORM] = {g: x_R for g, x_R in norms.items() if x_R.any()}

    def __call__(
        self,
        state: TrainState,
        groups: Sequence[Group],
        schedule: ScheduleState,
        normalisation: Any,
    ) -> list[str]:
        """Measures the replicas that train, and returns a warning for each part that has died.

        Args:
            state: the state of all replicas.
            groups: the groups of the epoch.
            schedule: who trained in the epoch, and in which stage.
            normalisation: see ``session.fold_normalisation``.
        """
        if self._mode == "none":
            return []
        active_R, stage_R = schedule.active, schedule.stage
        found = []
        trained = self._trained(state, stage_R)
        for group, norm_R in self._norms(state).items():
            if group in self._growing:
                self._grow(NORM, group, norm_R)
            found += self._died(NORM, group, norm_R, active_R & trained[group])
        whole_R = active_R & np.all([*trained.values()], axis=0)
        branches_R = on_branches(self._session.stages, stage_R)
        whole_R = whole_R if branches_R is None else whole_R & ~branches_R
        if self._mode == "effects" and self._effects.names and whole_R.any():
            effects = self._effects(state.evaluated, groups, whole_R, normalisation)
            for name, effect_R in effects.items():
                self._grow(EFFECT, name, effect_R)
                found += self._died(EFFECT, name, effect_R, whole_R)
        return [death.line(self._session.names[death.replica]) for death in found]

    def document(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps, as JSON."""
        return {
            "references": {
                what: {part: x_R.tolist() for part, x_R in parts.items()}
                for what, parts in self._references.items()
            },
            "growing": sorted(self._growing),
            "dead": sorted(map(list, self._dead)),
        }

    def restore(self, document: Mapping[str, Any] | None) -> None:
        """Goes on from a checkpoint's document; one that was saved without tells nothing."""
        if document is None:
            return
        self._references = {
            what: {part: np.array(x_R) for part, x_R in parts.items()}
            for what, parts in document["references"].items()
        }
        self._growing = set(document["growing"])
        self._dead = {(r, what, part) for r, what, part in document["dead"]}

    def _norms(self, state: TrainState) -> dict[str, np.ndarray]:
        norms = self._session.layout.fetch(group_norms(state.params))
        return {group: np.asarray(norm_R, np.float64) for group, norm_R in norms.items()}

    def _trained(self, state: TrainState, stage_R: np.ndarray) -> dict[str, np.ndarray]:
        """Returns group -> (R,) bool, True where all of its parameters are trained."""
        flags = trainable(self._session.stages, state.params, stage_R)
        found: dict[str, np.ndarray] = {}
        all_R = np.ones(len(stage_R), bool)
        paths = parameter_paths(state.params)
        each = [all_R] * len(paths) if flags is None else jax.tree.leaves(flags)
        for path, trained_R in zip(paths, each, strict=True):
            group = group_of(path)
            found[group] = found.get(group, all_R) & trained_R
        return found

    def _grow(self, what: str, part: str, value_R: np.ndarray) -> None:
        """Raises the reference of a part to its value, where that is larger."""
        known_R = self._references[what].get(part, np.zeros(len(value_R)))
        self._references[what][part] = np.fmax(known_R, value_R)

    def _died(
        self, what: str, part: str, value_R: np.ndarray, counted_R: np.ndarray
    ) -> list[Death]:
        reference_R = self._references[what].get(part)
        if reference_R is None:
            return []
        found = []
        for r in np.flatnonzero(counted_R & (value_R < LEFT * reference_R)).tolist():
            if (r, what, part) not in self._dead:
                self._dead.add((r, what, part))
                found.append(Death(r, what, part, float(value_R[r]), float(reference_R[r])))
        return found
