"""How training batches come to the devices: read from disk, or gathered where the data lie.

``stream`` reads the windows of each step with Grain and sends them. ``resident`` holds all videos
on the devices and sends which windows a step takes; many steps then run in one program, which is
what pays on accelerators. (On CPUs convolutions inside a loop are slow.) Both read the same
windows in the same order, and their iterators have the same states, so that a run may go on with
the other one.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import grain
import jax
import numpy as np

from emojax.core.devices import Layout
from emojax.core.session import Session
from emojax.core.state import TrainState
from emojax.core.step import Hyper, Step
from emojax.datasets.pipeline import stack, training_feeds
from emojax.datasets.resident import (
    ResidentData,
    entry_feeds,
    gather,
    load_resident,
    obstacle,
    resident_bytes,
)
from emojax.datasets.source import Store
from emojax.datasets.window_spec import WindowSpec
from emojax.training.groups import Group
from emojax.training.memory_plan import bytes_text

# Steps of one dispatch, where ``config.train.steps_per_dispatch`` is 0.
_STEPS_ON_CPU = 1
_STEPS_ON_ACCELERATORS = 32

# (state, normalisation, hyper, (K, G) learning rates) -> (state, metrics); these are (K, G), or
# (G,) where K is 1.
Dispatch = Callable[[TrainState, Any, Hyper, np.ndarray], tuple[TrainState, dict[str, jax.Array]]]


class Feed(Protocol):
    """What an epoch needs to know of a feed.

    Attributes:
        iterators: of each of the run's samplers; their states go into checkpoints.
        steps: of one dispatch, at most.
    """

    iterators: list[grain.DatasetIterator]
    steps: int

    def serve(self, group: Group) -> None:
        """Makes the iterators, whose states stay, deliver what this group's devices compute."""

    def dispatch(self, group: Group, reader: Reader, step: Callable[..., Any]) -> Dispatch:
        """Runs as many steps of a group as it is given learning rates for.

        Args:
            group: who trains.
            reader: of its windows.
            step: what ``compile`` made for replicas that share their data as these do.
        """

    @property
    def compile(self) -> Callable[[Step], Callable[..., Any]]:
        """Makes the program of a step, or of several; equal for feeds whose programs are."""

    def resident(self, layout: Layout) -> ResidentData | None:
        """The data, where they lie on these devices, for validation."""


class Reader:
    """What the samplers of one group give, step by step. Use within one epoch.

    Samplers whose replicas are all finished are not read; in a batch another one's windows take
    their place, from which nobody learns.

    Args:
        iterators: of all samplers of the run.
        group: who trains.
        active_G: (G,) bool, which places of it do.
        begun: sampler of the run -> state that it had when the epoch began, of those that another
            group of this epoch has read; they are read again from there. Filled in.
        goes_on: whether the group has read some of the epoch before, and reads on.
        kept: steps whose batches are remembered, for messages about losses that are fetched late.
    """

    def __init__(
        self,
        iterators: Sequence[grain.DatasetIterator],
        group: Group,
        active_G: np.ndarray,
        begun: dict[int, Any],
        *,
        goes_on: bool = False,
        kept: int = 2,
    ) -> None:
        known = group.run.samplers.keys
        keys, members_G = group.session.samplers.keys, group.session.samplers.members_R
        self.read = {
            sampler: known.index(key)
            for sampler, key in enumerate(keys)
            if active_G[members_G == sampler].any()
        }
        self._iterators = iterators
        first = min(self.read)
        self._places = [k if k in self.read else first for k in range(len(keys))]
        for i in () if goes_on else self.read.values():
            if i in begun:
                iterators[i].set_state(begun[i])
            else:
                begun[i] = iterators[i].get_state()
        self._recent: collections.deque[dict[int, Any]] = collections.deque(maxlen=kept)
        self._count = 0

    def __next__(self) -> list[Any]:
        """A batch of every sampler of the group."""
        batches = {place: next(self._iterators[i]) for place, i in self.read.items()}
        self._count += 1
        self._recent.append(batches)
        return [batches[place] for place in self._places]

    def videos(self, number: int, place: int) -> np.ndarray:
        """Numbers of the videos of a sampler's batch, one of the last ones; the first is 0."""
        batch = self._recent[number - self._count][place]
        # Of a batch that was read, or of the windows that are to be gathered.
        return batch[:, 0] if isinstance(batch, np.ndarray) else np.asarray(batch.video_ids)


class StreamFeed:
    """Batches from disk, one step at a time. Each process reads the rows that it computes."""

    steps = 1

    def __init__(self, session: Session, store: Store) -> None:
        self._open = functools.partial(
            training_feeds, store, session.samplers.keys, session.window_spec,
            batch_size=session.batch_size,
        )  # fmt: skip
        self._rows = session.layout.rows(session.batch_size)
        self.iterators = self._open(rows=self._rows)

    def serve(self, group: Group) -> None:
        """See ``Feed``."""
        rows = group.session.layout.rows(group.run.batch_size)
        if rows != self._rows:
            states = [iterator.get_state() for iterator in self.iterators]
            self.iterators[:], self._rows = self._open(rows=rows), rows
            for iterator, state in zip(self.iterators, states, strict=True):
                iterator.set_state(state)

    def resident(self, layout: Layout) -> ResidentData | None:
        """None."""
        return None

    @property
    def compile(self) -> Callable[[Step], Callable[..., Any]]:
        """See ``Feed``."""
        return _donated

    def dispatch(self, group: Group, reader: Reader, step: Callable[..., Any]) -> Dispatch:
        """See ``Feed``."""
        layout, size = group.session.layout, group.run.batch_size

        def run(
            state: TrainState, normalisation: Any, hyper: Hyper, rates_KG: np.ndarray
        ) -> tuple[TrainState, dict[str, jax.Array]]:
            batches = next(reader)
            grouped = len(batches) > 1
            rows = stack(batches) if grouped else batches[0]
            batch = layout.batch_of_rows(rows, size, grouped=grouped)
            hyper = dataclasses.replace(hyper, learning_rate=layout.replicas(rates_KG[0]))
            state, metrics = step(state, batch, normalisation, hyper)
            return state, metrics

        return run


class ResidentFeed:
    """Windows of data that lie on the devices.

    Args:
        session: what is trained.
        store: on what.
        steps: of one dispatch, at most.
    """

    def __init__(self, session: Session, store: Store, steps: int) -> None:
        self.steps = steps
        self._spec, self._store = session.window_spec, store
        self._videos = fold_videos(session, store)
        self.iterators = entry_feeds(
            store, session.samplers.keys, session.window_spec, batch_size=session.batch_size
        )
        self._data: ResidentData | None = None
        self._layout: Layout | None = None

    def serve(self, group: Group) -> None:
        """Nothing is to be done: entries are small, and every process has all of them."""

    @property
    def compile(self) -> Callable[[Step], Callable[..., Any]]:
        """See ``Feed``."""
        return _Gathering(self._spec)

    def dispatch(self, group: Group, reader: Reader, step: Callable[..., Any]) -> Dispatch:
        """See ``Feed``."""
        layout = group.session.layout
        data = self.resident(layout)

        def run(
            state: TrainState, normalisation: Any, hyper: Hyper, rates_KG: np.ndarray
        ) -> tuple[TrainState, dict[str, jax.Array]]:
            steps = [next(reader) for _ in rates_KG]
            grouped = len(steps[0]) > 1
            entries = np.stack([np.stack(one) if grouped else one[0] for one in steps])
            placed = layout.batch(entries, grouped=grouped, steps=True)
            rates = layout.replicas(rates_KG, steps=True)
            return step(state, data, placed, normalisation, hyper, rates)

        return run

    def resident(self, layout: Layout) -> ResidentData:
        """The data, read once, on these devices."""
        if self._data is None:
            self._data = load_resident(self._store, self._videos, self._spec)
        if self._layout is None or self._layout.mesh != layout.mesh:
            self._data, self._layout = layout.everywhere(self._data), layout
        return self._data


def _donated(step: Step) -> Callable[..., Any]:
    """``step`` with its state donated."""
    return jax.jit(step, donate_argnums=0)


@dataclasses.dataclass(frozen=True)
class _Gathering:
    """Programs of K steps whose windows are gathered on the device."""

    spec: WindowSpec

    def __call__(self, step: Step) -> Callable[..., Any]:
        """A program that gathers the windows of K steps and takes them, its state donated."""

        def run(
            state: TrainState,
            data: ResidentData,
            entries: jax.Array,
            normalisation: Any,
            hyper: Hyper,
            rates_KG: jax.Array,
        ) -> tuple[TrainState, dict[str, jax.Array]]:
            def once(state: TrainState, given: tuple[jax.Array, jax.Array]) -> Any:
                entries_B2, rates_G = given
                batch = gather(data, entries_B2, self.spec)
                return step(
                    state, batch, normalisation, dataclasses.replace(hyper, learning_rate=rates_G)
                )

            if len(entries) == 1:  # a loop of one step costs what a loop costs
                return once(state, (entries[0], rates_KG[0]))
            return jax.lax.scan(once, state, (entries, rates_KG))

        return jax.jit(run, donate_argnums=0)


def fold_videos(session: Session, store: Store) -> list[str]:
    """The training and validation videos of all folds, each once."""
    folds = [store.fold(name) for name in session.folds.keys]
    parts = [part for fold in folds for part in (fold.train, fold.validation)]
    return list(dict.fromkeys(video for part in parts for video in part))


def wanted_bytes(session: Session, store: Store) -> tuple[int, str | None]:
    """What the data would take on a device, 0 if they are not to lie there, and why not.

    Returns:
        Bytes, and a reason for people where ``config.data.feed`` had asked for it.
    """
    wanted = session.config.data.feed
    on_cpu = session.layout.mesh.devices.flat[0].platform == "cpu"
    if wanted == "stream" or (wanted == "auto" and on_cpu):
        return 0, None
    videos = fold_videos(session, store)
    reason = obstacle(store, session.window_spec, videos)
    return (0, reason) if reason else (resident_bytes(store, videos, session.window_spec), None)


def open_feed(session: Session, store: Store, *, resident: bool) -> Feed:
    """The feed of a training."""
    if not resident:
        return StreamFeed(session, store)
    on_cpu = session.layout.mesh.devices.flat[0].platform == "cpu"
    default = _STEPS_ON_CPU if on_cpu else _STEPS_ON_ACCELERATORS
    return ResidentFeed(session, store, session.config.train.steps_per_dispatch or default)


def feed_lines(session: Session, feed: Feed, wanted: int, reason: str | None) -> list[str]:
    """What people should know of the feed that a training got; nothing if it is the usual one.

    Args:
        session: what is trained.
        feed: the one it got.
        wanted: bytes, and
        reason: why not, as ``wanted_bytes`` found.
    """
    lines = []
    resident = isinstance(feed, ResidentFeed)
    if wanted and not resident:
        reason = f"the data ({bytes_text(wanted)}) do not fit on the device beside the training"
    if reason:
        lines += [f"windows are read from disk (config.data.feed=stream): {reason}"]
    elif resident:
        lines += [f"windows are gathered on the device, where {bytes_text(wanted)} of data lie"]
    if session.config.train.steps_per_dispatch > 1 and not resident:
        lines += ["config.train.steps_per_dispatch is for the resident feed: one step at a time"]
    return lines


def dispatches(steps: int, most: int) -> Iterator[int]:
    """How many steps each dispatch of an epoch runs.

    All but the last few, which run one by one, are alike, so that there are at most two programs;
    the number is chosen between half of ``most`` and ``most`` such that few are left.
    """
    most = min(most, steps)
    size = min(range(most, most // 2, -1), key=lambda size: steps % size) if most > 1 else 1
    yield from [size] * (steps // size)
    yield from [1] * (steps % size)
