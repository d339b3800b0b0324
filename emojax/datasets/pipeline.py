"""Windows of a store as batches: Grain for order, threads and resumable state."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import jax
import numpy as np

from emojax.datasets.record import VideoRecord
from emojax.datasets.source import Store
from emojax.datasets.ticks import count_ticks, labels_at, row_grid, rows_at
from emojax.datasets.window_spec import WindowSpec
from emojax.types import Batch

# Windows of a fixed grid return in every epoch, fold and seed; this many bytes of them are kept.
_KEPT_BYTES = 1 << 28
# The video of an entry that only fills a batch, and the start of a window drawn at random.
FILLER = -1
_RANDOM = -1
# Practically endless; Grain's own endless repeat overflows with batches of one window.
_EPOCHS = 10**9
# Two threads saturate two cores; processes start and run more slowly.
_READ = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)


class LoadWindow:
    """Reads one window from a store: ``(video, start) -> Batch`` without the B axis.

    With ``keep``, the first windows of a fixed grid stay in memory, for they return.
    """

    def __init__(self, store: Store, spec: WindowSpec, *, keep: bool = True) -> None:
        self._store = store
        self._spec = spec
        self._lengths = spec.lengths
        self._grids = {name: row_grid(spec, name) for name in spec.streams}
        self._kept: dict[tuple[int, int], Batch] = {}
        self._room = _KEPT_BYTES if keep and not spec.random_offset else 0

    def __call__(self, entry: tuple[int, int]) -> Batch:
        """Returns the ticks start .. start + window of a video, padded beyond its end."""
        window = self._kept.get(entry)
        if window is None:
            window = self._load(*entry)
            size = sum(leaf.nbytes for leaf in jax.tree.leaves(window))
            # A race between threads cuts a window twice at worst.
            if size <= self._room:
                self._room -= size
                self._kept[entry] = window
        return window

    def _load(self, video: int, start: int) -> Batch:
        spec = self._spec
        filler = video == FILLER
        number = 0 if filler else video
        record = self._store.read(number)
        num_ticks = 0 if filler else count_ticks(self._store, number, spec)
        ticks_T = np.arange(start, min(start + spec.window, num_ticks))
        streams, masks, valids = {}, {}, {}
        for name in spec.streams:
            streams[name], masks[name], valids[name] = self._rows(record, name, start, num_ticks)
        labels, label_mask = {}, {}
        for task in spec.tasks:
            labels_TK, mask_TK = labels_at(record, task, spec, ticks_T)
            labels[task] = _pad(labels_TK, spec.window)
            label_mask[task] = _pad(mask_TK, spec.window)
        frame_ids_T = np.full(spec.window, -1, np.int32)
        frame_ids_T[: len(ticks_T)] = ticks_T
        return Batch(
            streams=streams,
            stream_mask=masks,
            stream_valid=valids,
            labels=labels,
            label_mask=label_mask,
            example_mask=np.asarray(not filler),
            video_ids=np.asarray(video, np.int32),
            frame_ids=frame_ids_T,
        )

    def _rows(
        self, record: VideoRecord, name: str, start: int, num_ticks: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns rows, mask and validity. Rows that cover a tick of the video are real."""
        length, context = self._lengths[name], self._spec.context.get(name, 0)
        grid = self._grids[name]
        low, high = grid.bounds(start, num_ticks)
        low, high = max(-context, low), min(length - context, high)
        count = max(0, high - low)
        first = start * grid.per_tick + low * grid.step
        rows_TD, valid_T = rows_at(record, name, self._spec, first, count)
        before = low + context
        return (
            _pad(rows_TD, length, before),
            _pad(np.ones(count, bool), length, before),
            _pad(valid_T, length, before),
        )


@dataclasses.dataclass(frozen=True)
class _DrawStart:
    """Replaces a random start by a draw that is uniform over the video's windows."""

    num_ticks: tuple[int, ...]
    window: int

    def __call__(self, entry: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
        video, start = entry
        if start == _RANDOM:
            start = int(rng.integers(0, max(0, self.num_ticks[video] - self.window) + 1))
        return video, start


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Some rows of each batch of a data set: a random access source for Grain.

    Attributes:
        entries: the windows of the batches, in order.
        batch_size: B.
        rows: the rows of each batch to read.
    """

    entries: grain.MapDataset
    batch_size: int
    rows: range

    def __len__(self) -> int:
        return len(self.entries) // self.batch_size * len(self.rows)

    def __getitem__(self, i: int) -> tuple[int, int]:
        batch, row = divmod(i, len(self.rows))
        return self.entries[batch * self.batch_size + self.rows[row]]

    def __repr__(self) -> str:
        # Grain compares it when a run is resumed, perhaps by another number of processes.
        return f"rows of batches of {self.batch_size}"


def window_list(
    store: Store, videos: Sequence[str], spec: WindowSpec, *, evaluation: bool = False
) -> list[tuple[int, int]]:
    """Lists the (video index, first tick) of every window of these videos, in order.

    Args:
        store: the store with the videos.
        videos: their names.
        spec: the length, stride and content of windows.
        evaluation: use ``evaluation_stride``, if it is set.
    """
    entries = []
    for name in videos:
        index = store.index_of(name)
        starts = spec.starts(count_ticks(store, index, spec), evaluation=evaluation)
        entries += [(index, int(start)) for start in starts]
    return entries


def training_batches(
    store: Store,
    videos: Sequence[str],
    spec: WindowSpec,
    *,
    batch_size: int,
    seed: int,
    load: LoadWindow | None = None,
    rows: range | None = None,
) -> grain.DatasetIterator:
    """Returns an endless, seeded, globally shuffled stream of training batches.

    Every window of the grid comes once per epoch, in an order drawn anew for each epoch.
    Batches run on across epochs, so each is full. ``get_state`` / ``set_state`` of the
    returned iterator resume it exactly.

    Args:
        store: the store with the videos.
        videos: names of the training videos of a fold.
        spec: the length, stride and content of windows.
        batch_size: B.
        seed: decides order and offsets, together with nothing else.
        load: reads the windows; several streams may share one, and what it keeps in memory.
        rows: of each batch that are read and delivered, for a process that has no use for the
            others; all by default. The states of the iterator do not depend on them.
    """
    load = load or LoadWindow(store, spec)
    windows = training_windows(store, videos, spec, seed=seed)
    if rows is not None and rows != range(batch_size):
        windows = grain.MapDataset.source(_Rows(windows, batch_size, rows))
        batch_size = len(rows)
    batches = windows.map(load).batch(batch_size, batch_fn=stack)
    return iter(batches.to_iter_dataset(_READ))


def training_windows(
    store: Store, videos: Sequence[str], spec: WindowSpec, *, seed: int
) -> grain.MapDataset:
    """Returns the endless, seeded, shuffled (video index, first tick) of training batches."""
    entries = window_list(store, videos, spec)
    if spec.random_offset:
        entries = [(video, _RANDOM) for video, _ in entries]
    ticks = tuple(count_ticks(store, number, spec) for number in range(len(store.videos)))
    draw = _DrawStart(ticks, spec.window)
    windows = grain.MapDataset.source(entries).seed(seed).shuffle().repeat(_EPOCHS)
    return windows.random_map(draw)


def training_feeds(
    store: Store,
    samplers: Sequence[tuple[str, int]],
    spec: WindowSpec,
    *,
    batch_size: int,
    rows: range | None = None,
) -> list[grain.DatasetIterator]:
    """Returns ``training_batches`` for each (fold, seed); none depends on the others."""
    options: dict[str, Any] = {"batch_size": batch_size, "rows": rows}
    options["load"] = LoadWindow(store, spec)
    return [
        training_batches(store, store.fold(fold).train, spec, seed=seed, **options)
        for fold, seed in samplers
    ]


def evaluation_batches(
    store: Store,
    videos: Sequence[str],
    spec: WindowSpec,
    *,
    batch_size: int,
    num_batches: int | None = None,
    rows: range | None = None,
) -> Iterator[Batch]:
    """Yields every window of these videos once, in order; fillers complete the last batches.

    Args:
        store: the store with the videos.
        videos: names of the videos; every frame of each is covered.
        spec: what a window holds; ``random_offset`` plays no role here.
        batch_size: B.
        num_batches: deliver exactly so many batches (for folds that advance together);
            as many as needed by default.
        rows: the rows of each batch that are read and delivered; all by default.
    """
    batches = evaluation_entries(
        store, videos, spec, batch_size=batch_size, num_batches=num_batches
    )
    rows = rows or range(batch_size)
    entries = [entry for batch in batches for entry in batch[rows.start : rows.stop]]
    windows = grain.MapDataset.source(entries).map(LoadWindow(store, spec, keep=False))
    return iter(windows.batch(len(rows), batch_fn=stack).to_iter_dataset(_READ))


def evaluation_entries(
    store: Store,
    videos: Sequence[str],
    spec: WindowSpec,
    *,
    batch_size: int,
    num_batches: int | None = None,
) -> list[list[tuple[int, int]]]:
    """Lists the (video index, first tick) of each batch that ``evaluation_batches`` reads."""
    entries = window_list(store, videos, spec, evaluation=True)
    count = num_batches or -(-len(entries) // batch_size)
    entries += [(FILLER, 0)] * (count * batch_size - len(entries))
    return [entries[i : i + batch_size] for i in range(0, len(entries), batch_size)]


@dataclasses.dataclass(frozen=True)
class WindowIds:
    """The videos and ticks of a batch's windows, known without reading any.

    Attributes:
        example_mask, video_ids, frame_ids: those of the ``Batch``.
    """

    example_mask: np.ndarray
    video_ids: np.ndarray
    frame_ids: np.ndarray


def window_ids(store: Store, spec: WindowSpec, entries: Sequence[tuple[int, int]]) -> WindowIds:
    """Returns the ids of a batch of these (video index, first tick)."""
    video_B, start_B = np.array(entries, np.int32).reshape(-1, 2).T
    ticks_B = np.array(
        [0 if video == FILLER else count_ticks(store, int(video), spec) for video in video_B]
    )
    tick_BT = start_B[:, None] + np.arange(spec.window, dtype=np.int32)[None]
    frame_ids = np.where(tick_BT < ticks_B[:, None], tick_BT, -1)
    return WindowIds(video_B != FILLER, video_B, frame_ids)


def stack(windows: Sequence[Batch]) -> Batch:
    """Stacks windows (or batches) along a new leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *windows)


def fingerprint(store: Store, spec: WindowSpec, batch_size: int) -> str:
    """Identifies a pipeline: a resumed run must see the batches the first one would have.

    Any stage added to the pipeline changes the seeds that Grain derives for the others,
    hence the version number in the text. Version 1 aligned a row by what its window had been cut
    to; since then a row depends on the video alone.
    """
    options = dataclasses.asdict(spec) | {
        "resampling": dict(spec.resampling),
        "clock": float(spec.clock),
        "rates": {name: float(rate) for name, rate in spec.rates.items()},
        "context": {name: rows for name, rows in spec.context.items() if rows},
    }
    # Unused options do not count, so that a run resumes after an option was added.
    unused = WindowSpec(spec.streams, spec.tasks, spec.window, spec.stride)
    for name in (
        "clock", "rates", "context", "fill", "scored", "evaluation_stride", "window_count",
        "unannotated",
    ):  # fmt: skip
        if options[name] == getattr(unused, name):
            del options[name]
    text = json.dumps(
        {
            "version": 2,
            "spec": options,
            "batch_size": batch_size,
            "store": store.metadata["checksum"],
        },
        sort_keys=True,
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _pad(values_T: np.ndarray, length: int, before: int = 0) -> np.ndarray:
    """Zeros (False) around the rows, ``before`` of them in front, ``length`` in all."""
    if len(values_T) == length:
        return np.ascontiguousarray(values_T)
    padded = np.zeros((length, *values_T.shape[1:]), values_T.dtype)
    padded[before : before + len(values_T)] = values_T
    return padded
