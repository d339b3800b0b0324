"""Finds losses that are not finite: the replica, the step and the videos.

``config.train.non_finite`` says what happens then. "drop" gives the replica up and trains the
others on; when none is left, the epoch ends at once. "stop" ends the run, whose last checkpoint
stays. "skip" takes no step on such a batch and goes on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from emojax.datasets.source import Store
from emojax.errors import InputError
from emojax.training.groups import Group

# Videos that a message names.
_NAMED = 12


@dataclasses.dataclass(frozen=True)
class NonFinite:
    """A loss or gradient that was not finite.

    Attributes:
        replica: the replica that met it.
        step: the step of the run, counted from 1.
        what: "loss" or "gradient".
        videos: numbers of the videos that the batch's windows were of.
        skipped: True if no step was taken.
    """

    replica: int
    step: int
    what: str
    videos: tuple[int, ...]
    skipped: bool

    def line(self, name: str, store: Store) -> str:
        """Returns a line for the user; ``name`` is the name of the replica."""
        done = "skipped, as others like it may be" if self.skipped else "not finite"
        return f"{name}: the {self.what} of step {self.step} is {done}; {self.batch(store)}"

    def batch(self, store: Store) -> str:
        """Names the videos of the batch."""
        names = [store.videos[number].name for number in self.videos]
        more = f", ... ({len(names)} in all)" if len(names) > _NAMED else ""
        return "the batch holds windows of " + ", ".join(names[:_NAMED]) + more


def find_non_finite(
    group: Group,
    active_G: np.ndarray,
    loss_KG: np.ndarray,
    norm_KG: np.ndarray,
    *,
    windows: Callable[[int, int], np.ndarray],
    step: int,
    policy: str,
) -> Iterator[NonFinite]:
    """Finds the first one of each replica in a dispatch of K steps.

    Args:
        group: the replicas that train.
        active_G: (G,) bool, which places of it do.
        loss_KG: (K, G) losses.
        norm_KG: (K, G) norms of the gradients.
        windows: (k, sampler of the group) -> numbers of the batch's videos.
        step: steps of the run before the first of these.
        policy: ``config.train.non_finite``.
    """
    lost_KG = ~(np.isfinite(loss_KG) & np.isfinite(norm_KG))
    for place in np.flatnonzero(lost_KG.any(axis=0) & active_G):
        k = int(np.argmax(lost_KG[:, place]))
        numbers = windows(k, int(group.session.samplers.members_R[place]))
        yield NonFinite(
            replica=int(group.members[place]),
            step=step + k + 1,
            what="gradient" if np.isfinite(loss_KG[k, place]) else "loss",
            videos=tuple(int(number) for number in dict.fromkeys(numbers.tolist()) if number >= 0),
            skipped=policy == "skip",
        )


def first_of(found: Iterable[NonFinite], store: Store) -> str:
    """Says where losses began not to be finite; empty if all were finite."""
    first = min(found, key=lambda one: one.step, default=None)
    return f"from step {first.step} on, where {first.batch(store)}" if first else ""


def refuse_non_finite(
    found: Sequence[NonFinite], names: Sequence[str], store: Store, workdir: Path
) -> None:
    """Ends a run that was asked to stop at a loss that is not finite.

    Args:
        found: the losses and gradients that are not finite.
        names: the names of all replicas.
        store: the store that it is trained on.
        workdir: the workdir of the run.

    Raises:
        InputError: something was.
    """
    if not found:
        return
    first = found[0]
    raise InputError(
        f"Training met a {first.what} that is not finite, and config.train.non_finite is stop.",
        file=workdir,
        field=f"step {first.step}, replica {names[first.replica]}",
        found=first.batch(store),
        expected="finite numbers",
        remedy="look at these videos' features and labels; otherwise lower "
        "config.train.learning_rate or set config.train.clip_norm, in a new --workdir. The last "
        "checkpoint is that of the epoch before",
    )
