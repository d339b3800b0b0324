"""Feeds bring training batches to the devices: read from disk, or gathered where the data lie.

``stream`` reads the windows of each step with Grain and sends them. ``resident`` holds all videos
on the devices and sends which windows a step takes; many steps then run in one program, which is
what pays on accelerators. (On CPUs convolutions inside a loop are slow.) Both read the same
windows in the same order, and their iterators have the same states, so a run may be resumed with
the other one.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import grain
import numpy as np

from emojax.core.devices import Layout
from emojax.core.session import Session
from emojax.datasets.pipeline import stack, training_feeds
from emojax.datasets.resident import (
    Entries,
    ResidentData,
    entry_feeds,
    load_resident,
    obstacle,
    resident_bytes,
)
from emojax.datasets.source import Store
from emojax.datasets.window_spec import WindowSpec
from emojax.training.groups import Group
from emojax.training.memory_plan import bytes_text
from emojax.types import Batch

# Steps of one dispatch, where ``config.train.steps_per_dispatch`` is 0.
_STEPS_ON_CPU = 1
_STEPS_ON_ACCELERATORS = 32


class Feed(Protocol):
    """The interface of a feed.

    Attributes:
        iterators: the iterators of each of the run's samplers; their states go into checkpoints.
        steps: the most steps of one dispatch.
    """

    iterators: list[grain.DatasetIterator]
    steps: int

    def serve(self, layout: Layout) -> None:
        """Makes the iterators, whose states stay, deliver the rows that these devices compute."""

    def windows(self, reader: Reader, layout: Layout, count: int) -> Batch | Entries:
        """Reads the windows of ``count`` steps and places them on the devices."""

    def resident(self, layout: Layout) -> ResidentData | None:
        """Returns the data, where they lie on these devices, for validation."""


class Reader:
    """Reads the samplers of one group, step by step, within one epoch.

    Samplers whose replicas are all finished are not read. In a batch the windows of another sampler
    take their place, but no replica learns from them.

    Args:
        iterators: the iterators of all samplers of the run.
        group: the replicas that train.
        active_G: (G,) bool, which places of it do.
        begun: sampler of the run -> state that it had when the epoch began, of those that another
            group of this epoch has read; they are read again from there. Filled in.
        goes_on: True if the group has read a part of the epoch before, and reads on.
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
        """Reads a batch of every sampler of the group."""
        batches = {place: next(self._iterators[i]) for place, i in self.read.items()}
        self._count += 1
        self._recent.append(batches)
        return [batches[place] for place in self._places]

    def videos(self, number: int, place: int) -> np.ndarray:
        """Returns the video numbers of a recent batch of a sampler; the first batch is 0."""
        batch = self._recent[number - self._count][place]
        # Of a batch that was read, or of the windows that are to be gathered.
        return batch[:, 0] if isinstance(batch, np.ndarray) else np.asarray(batch.video_ids)


class StreamFeed:
    """Batches from disk, one step at a time. Each process reads the rows that it computes."""

    steps = 1

    def __init__(
        self, store: Store, samplers: Sequence[Any], spec: WindowSpec, size: int, layout: Layout
    ) -> None:
        self._open = functools.partial(training_feeds, store, samplers, spec, batch_size=size)
        self._size, self._rows = size, layout.rows(size)
        self.iterators = self._open(rows=self._rows)

    def serve(self, layout: Layout) -> None:
        """Opens the iterators anew, from their states, if these devices compute other rows."""
        rows = layout.rows(self._size)
        if rows != self._rows:
            states = [iterator.get_state() for iterator in self.iterators]
            self.iterators[:], self._rows = self._open(rows=rows), rows
            for iterator, state in zip(self.iterators, states, strict=True):
                iterator.set_state(state)

    def windows(self, reader: Reader, layout: Layout, count: int) -> Batch:
        """Reads a batch of each sampler; ``count`` is 1."""
        batches = next(reader)
        grouped = len(batches) > 1
        rows = stack(batches) if grouped else batches[0]
        return layout.batch_of_rows(rows, self._size, grouped=grouped)

    def resident(self, layout: Layout) -> None:
        """Returns None, as nothing is resident."""


class ResidentFeed:
    """Windows of data that lie on the devices.

    Args:
        store: the data.
        samplers: (fold, seed) of each sampler.
        spec: the length, stride and content of windows.
        size: windows in a batch.
        videos: names of the videos to load.
        steps: the most steps of one dispatch.
    """

    def __init__(
        self,
        store: Store,
        samplers: Sequence[Any],
        spec: WindowSpec,
        size: int,
        *,
        videos: Sequence[str],
        steps: int,
    ) -> None:
        self.steps = steps
        self._store, self._spec, self._videos = store, spec, videos
        self.iterators = entry_feeds(store, samplers, spec, batch_size=size)
        self._data: ResidentData | None = None
        self._layout: Layout | None = None

    def serve(self, layout: Layout) -> None:
        """Does nothing: entries are small, and every process has all of them."""

    def windows(self, reader: Reader, layout: Layout, count: int) -> Entries:
        """Reads the entries of ``count`` batches of each sampler."""
        steps = [next(reader) for _ in range(count)]
        grouped = len(steps[0]) > 1
        entries = np.stack([np.stack(one) if grouped else one[0] for one in steps])
        placed = layout.batch(entries, grouped=grouped, steps=True)
        return Entries(self.resident(layout), placed)

    def resident(self, layout: Layout) -> ResidentData:
        """Returns the data on these devices; they are read once."""
        if self._data is None:
            self._data = load_resident(self._store, self._videos, self._spec)
        if self._layout is None or self._layout.mesh != layout.mesh:
            self._data, self._layout = layout.everywhere(self._data), layout
        return self._data


def fold_videos(store: Store, folds: Sequence[str]) -> list[str]:
    """Returns the training and validation videos of folds, each once."""
    parts = [part for f in map(store.fold, folds) for part in (f.train, f.validation)]
    return list(dict.fromkeys(video for part in parts for video in part))


def wanted_bytes(session: Session, store: Store) -> tuple[int, str | None]:
    """Estimates the bytes that the data take on a device.

    Returns:
        The bytes, 0 if the data are to be read from disk, and why they are where
        ``config.data.feed`` had asked for another feed.
    """
    wanted = session.config.data.feed
    if wanted == "stream" or (wanted == "auto" and _on_cpu(session.layout)):
        return 0, None
    videos = fold_videos(store, session.folds.keys)
    reason = obstacle(store, session.window_spec, videos)
    return (0, reason) if reason else (resident_bytes(store, videos, session.window_spec), None)


def open_feed(session: Session, store: Store, *, resident: bool) -> Feed:
    """Opens the feed of a training."""
    data = store, session.samplers.keys, session.window_spec, session.batch_size
    if not resident:
        return StreamFeed(*data, session.layout)
    default = _STEPS_ON_CPU if _on_cpu(session.layout) else _STEPS_ON_ACCELERATORS
    steps = session.config.train.steps_per_dispatch or default
    return ResidentFeed(*data, videos=fold_videos(store, session.folds.keys), steps=steps)


def feed_lines(feed: Feed, steps_per_dispatch: int, wanted: int, reason: str | None) -> list[str]:
    """Says which feed a training got, in lines for the user; none for the usual one.

    Args:
        feed: the one it got.
        steps_per_dispatch: as configured.
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
    if steps_per_dispatch > 1 and not resident:
        lines += ["config.train.steps_per_dispatch is for the resident feed: one step at a time"]
    return lines


def _on_cpu(layout: Layout) -> bool:
    return layout.mesh.devices.flat[0].platform == "cpu"


def dispatches(steps: int, most: int) -> Iterator[int]:
    """Yields the number of steps of each dispatch of an epoch.

    All but the last few, which run one by one, are alike, so that there are at most two programs;
    the number is chosen between half of ``most`` and ``most`` such that few are left.
    """
    most = min(most, steps)
    size = min(range(most, most // 2, -1), key=lambda size: steps % size) if most > 1 else 1
    yield from [size] * (steps // size)
    yield from [1] * (steps % size)
