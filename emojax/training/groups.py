"""Groups of replicas that train together: finished ones leave, too many take turns.

All replicas are one group while they fit on the devices and more than half of them still train.
Afterwards a group holds only those that do. Its size halves whenever at most half of it is still
needed, so that a training of R replicas compiles at most 1 + log2(R) sizes of the same program.
The sizes follow from who still trains and from the memory, and from nothing before, so that a
resumed run goes on with the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from emojax.core.devices import Layout, make_layout
from emojax.core.session import Session, fold_rows
from emojax.core.state import put, take


@dataclasses.dataclass(frozen=True)
class Group:
    """Replicas that train at once, G of them.

    Attributes:
        members: (G,) int64, the positions of the replicas in the run. Unused places repeat the
            first one.
        real: (G,) bool, False in unused places.
        run: the session of all replicas.
        session: that of the members, on the devices that so many of them use.
    """

    members: np.ndarray
    real: np.ndarray
    run: Session
    session: Session

    @property
    def whole(self) -> bool:
        """Returns True if the members are all replicas of the run, in order."""
        return self.session is self.run

    def active(self, active_R: np.ndarray) -> np.ndarray:
        """Returns (G,) bool, True for places that train; ``active_R`` is that of the run."""
        return self.real & active_R[self.members]

    def rows(self, tree: Any) -> Any:
        """Takes the members' rows of NumPy arrays that lead with R."""
        return jax.tree.map(lambda leaf: leaf[self.members], tree)

    def take(self, tree: Any) -> Any:
        """Takes the members' part of a tree that leads with R, to their devices.

        Of the whole run that is the tree itself, which a step's donation then uses up.
        """
        return tree if self.whole else self.session.layout.replicas(take(tree, self.members))

    def put(self, tree: Any, part: Any) -> Any:
        """Puts the members' part back into the tree, whose buffers are donated."""
        if self.whole:
            return part
        # A place beyond the last replica is none.
        places = np.where(self.real, self.members, len(self.run.replicas))
        layout = self.run.layout
        return put(tree, places, layout.everywhere(part), layout.replica_sharding)

    def normalisation(self, of_run: Any) -> Any:
        """Places the members' folds of ``session.fold_normalisation`` on their devices."""
        rows = (
            of_run
            if self.whole
            else fold_rows(of_run, self.run.folds.keys, self.session.folds.keys)
        )
        return self.session.layout.everywhere(rows)


def regroup(groups: Sequence[Group], run: Session, active_R: np.ndarray, most: int) -> list[Group]:
    """Groups the active replicas; the groups of the epoch before stay if they still fit.

    Args:
        groups: those of the epoch before, if any.
        run: the session of all replicas.
        active_R: (R,) bool, who still trains; at least one does.
        most: replicas that fit at once.
    """
    live = np.flatnonzero(active_R)
    size = group_size(len(live), most, len(run.replicas), run.layout, run.batch_size)
    count = -(-len(live) // size)
    if len(groups) == count and all(len(group.members) == size for group in groups):
        return list(groups)
    if size == len(run.replicas):
        return [Group(np.arange(size), np.ones(size, bool), run, run)]
    # Those that share their windows come together, so that these are read and held once.
    live = live[np.argsort(run.samplers.members_R[live], kind="stable")]
    found = []
    for part in np.array_split(live, count):
        members = np.concatenate([part, np.full(size - len(part), part[0])])
        session = run.subset(members, group_layout(run.layout, run.batch_size, size))
        found.append(Group(members, np.arange(size) < len(part), run, session))
    return found


def group_size(live: int, most: int, count: int, layout: Layout, batch_size: int) -> int:
    """Chooses the size of each group; some places of a group may stay empty.

    Args:
        live: replicas that still train.
        most: replicas that fit at once.
        count: replicas of the run.
        layout: the devices that all of them use.
        batch_size: windows in a batch.
    """
    size = count
    if count > most:
        # As many rounds as the largest group needs, and none fuller than another has to be.
        size = lightest_size(-(-count // -(-count // most)), most, layout, batch_size)
    above = size + 1
    while size > 1 and live <= size // 2:
        above, size = size, size // 2
    return size if above > count else lightest_size(size, min(above - 1, most), layout, batch_size)


def lightest_size(least: int, most: int, layout: Layout, batch_size: int) -> int:
    """Finds the size between two that loads the fullest device least; the smallest of several."""

    def load(size: int) -> float:
        across_replicas, across_data = group_layout(layout, batch_size, size).mesh.devices.shape[:2]
        return size * batch_size / (across_replicas * across_data)

    return min(range(least, most + 1), key=load)


def group_layout(layout: Layout, batch_size: int, size: int) -> Layout:
    """Lays ``size`` replicas out on the devices of a run's layout."""
    return make_layout(size, batch_size, layout.devices, sizes=layout.sizes)
