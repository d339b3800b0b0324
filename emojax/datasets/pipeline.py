"""Windows of a store as batches: Grain for order, threads and resumable state."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence

import grain
import jax
import numpy as np

from emojax.datasets.source import Store
from emojax.datasets.transforms import RESAMPLERS, resample
from emojax.errors import InputError
from emojax.ops.windows import window_starts
from emojax.specs import STREAMS, TASKS
from emojax.types import Batch

# Windows of a fixed grid return in every epoch, fold and seed: so many bytes of them are kept.
_KEPT_BYTES = 1 << 28
# Rows kept on either side of a window when a stream is cut out before it is resampled.
_MARGIN_ROWS = 8
# Entry of a window list that only fills up a batch, and start of a window drawn at random.
_FILLER = -1
_RANDOM = -1
# Endless for all purposes; Grain's own endless repeat overflows with batches of one window.
_EPOCHS = 10**9
# Two threads saturate two cores; processes start and run more slowly.
_READ = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)


@dataclasses.dataclass(frozen=True)
class WindowSpec:
    """What a window holds and how windows are cut.

    Attributes:
        streams: names of the streams to load, brought onto the video's frames.
        tasks: names of the tasks whose labels are loaded.
        window: T, frames per window.
        stride: frames between the starts of two windows of one video.
        resampling: stream -> "nearest" (default), "linear" or "mean".
        align_end: the last window of a video ends with it, instead of being padded.
        random_offset: draw each training window's start uniformly over the video, instead
            of the fixed grid; the number of windows per video stays the grid's.
    """

    streams: tuple[str, ...]
    tasks: tuple[str, ...]
    window: int
    stride: int
    resampling: Mapping[str, str] = dataclasses.field(default_factory=dict)
    align_end: bool = False
    random_offset: bool = False

    def check(self, store: Store, *, labelled: bool = True) -> None:
        """Raises InputError when the store cannot serve these windows.

        Args:
            store: the store.
            labelled: whether it has to know the tasks; without, all labels are masked.
        """
        for kind, wanted, there in (
            ("stream", self.streams, tuple(store.streams)),
            ("task", self.tasks if labelled else (), store.tasks),
        ):
            for name in wanted:
                if name not in there:
                    raise InputError(
                        f"Store {store.name!r} has no {kind} {name!r}.",
                        file=store.path,
                        field=f"config.data.{kind}s",
                        found=name,
                        expected="one of " + ", ".join(there),
                        remedy=f"change config.data.{kind}s, or build the store with this {kind}",
                    )
        for name, method in self.resampling.items():
            # A row for a stream that is left out this time does no harm; a misspelt one does.
            if name not in {*store.streams, *STREAMS}:
                raise InputError(
                    "An unknown stream is to be resampled.",
                    field=f"config.data.resampling.{name}",
                    found=name,
                    expected="one of " + ", ".join(store.streams),
                )
            if method not in RESAMPLERS:
                raise InputError(
                    f"Unknown way to resample stream {name!r}.",
                    field=f"config.data.resampling.{name}",
                    found=method,
                    expected="one of " + ", ".join(RESAMPLERS),
                )
        if not 1 <= self.stride <= self.window:
            raise InputError(
                "Windows would leave frames out.",
                field="config.data.stride",
                found=f"stride {self.stride}, window {self.window}",
                expected="1 <= stride <= window",
            )


class LoadWindow:
    """Reads one window from a store: ``(video, start) -> Batch`` without the B axis."""

    def __init__(self, store: Store, spec: WindowSpec) -> None:
        self._store = store
        self._spec = spec
        self._kept: dict[tuple[int, int], Batch] = {}
        self._room = 0 if spec.random_offset else _KEPT_BYTES

    def __call__(self, entry: tuple[int, int]) -> Batch:
        """Frames start .. start + window of a video, padded beyond its end."""
        window = self._kept.get(entry)
        if window is None:
            window = self._load(*entry)
            size = sum(leaf.nbytes for leaf in jax.tree.leaves(window))
            # Threads may race here; the worst is that a window is cut twice.
            if size <= self._room:
                self._room -= size
                self._kept[entry] = window
        return window

    def _load(self, video: int, start: int) -> Batch:
        spec = self._spec
        filler = video == _FILLER
        record = self._store.read(0 if filler else video)
        stop = start if filler else min(start + spec.window, record.num_frames)
        # A frame more on either side, so that "mean" knows how far the outer frames reach.
        first = max(0, start - 1)
        pts_T = record.pts_N[first : stop + 1 if stop > start else first]
        cut = slice(start - first, stop - first)
        streams, masks, valids = {}, {}, {}
        for name in spec.streams:
            stream = record.streams[name]
            near = _slice_near(stream.pts_N, pts_T)
            rows_TD, valid_T = resample(
                stream.rows_ND[near],
                stream.pts_N[near],
                stream.valid_N[near],
                pts_T,
                spec.resampling.get(name, "nearest"),
            )
            streams[name] = _pad(rows_TD[cut], spec.window)
            masks[name] = _pad(np.ones(stop - start, bool), spec.window)
            valids[name] = _pad(valid_T[cut], spec.window)
        labels, label_mask = {}, {}
        for task in spec.tasks:
            # A store may hold videos that were annotated for only some of its tasks.
            unknown_NK = np.full((record.num_frames, TASKS[task].columns), TASKS[task].ignore)
            labels_TK = record.labels.get(task, unknown_NK)[start:stop].astype(np.float32)
            mask_TK = TASKS[task].annotated(labels_TK)
            labels[task] = _pad(np.where(mask_TK, labels_TK, 0).astype(np.float32), spec.window)
            label_mask[task] = _pad(mask_TK, spec.window)
        frame_ids_T = np.full(spec.window, -1, np.int32)
        frame_ids_T[: stop - start] = np.arange(start, stop)
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


@dataclasses.dataclass(frozen=True)
class _DrawStart:
    """Replaces a random start by a draw that is uniform over the video's windows."""

    num_frames: tuple[int, ...]
    window: int

    def __call__(self, entry: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
        video, start = entry
        if start == _RANDOM:
            start = int(rng.integers(0, max(0, self.num_frames[video] - self.window) + 1))
        return video, start


def window_list(store: Store, videos: Sequence[str], spec: WindowSpec) -> list[tuple[int, int]]:
    """All (video index, start frame) of the grid over these videos, in order."""
    entries = []
    for name in videos:
        index = store.index_of(name)
        num_frames = store.videos[index].num_frames
        starts = window_starts(num_frames, spec.window, spec.stride, align_end=spec.align_end)
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
) -> grain.DatasetIterator:
    """An endless, seeded, globally shuffled stream of training batches.

    Every window of the grid comes once per epoch, in an order drawn anew for each epoch.
    Batches run on across epochs, so each is full. ``get_state`` / ``set_state`` of the
    returned iterator resume it exactly.

    Args:
        store: where the videos are.
        videos: names of the training videos of a fold.
        spec: what a window holds.
        batch_size: B.
        seed: decides order and offsets, together with nothing else.
        load: reads the windows; several streams may share one, and what it keeps in memory.
    """
    entries = window_list(store, videos, spec)
    if spec.random_offset:
        entries = [(video, _RANDOM) for video, _ in entries]
    draw = _DrawStart(tuple(video.num_frames for video in store.videos), spec.window)
    load = load or LoadWindow(store, spec)
    windows = grain.MapDataset.source(entries).seed(seed).shuffle().repeat(_EPOCHS)
    batches = windows.random_map(draw).map(load).batch(batch_size, batch_fn=stack)
    return iter(batches.to_iter_dataset(_READ))


def training_feeds(
    store: Store, samplers: Sequence[tuple[str, int]], spec: WindowSpec, *, batch_size: int
) -> list[grain.DatasetIterator]:
    """``training_batches`` for each (fold, seed), each the same whatever others there are."""
    load = LoadWindow(store, spec)
    return [
        training_batches(
            store, store.fold(fold).train, spec, batch_size=batch_size, seed=seed, load=load
        )
        for fold, seed in samplers
    ]


def evaluation_batches(
    store: Store,
    videos: Sequence[str],
    spec: WindowSpec,
    *,
    batch_size: int,
    num_batches: int | None = None,
) -> Iterator[Batch]:
    """Every window of these videos once, in order; the last batches are filled up.

    Args:
        store: where the videos are.
        videos: names of the videos; every frame of each is covered.
        spec: what a window holds; ``random_offset`` plays no role here.
        batch_size: B.
        num_batches: deliver exactly so many batches (for folds that advance together);
            as many as needed by default.
    """
    entries = window_list(store, videos, spec)
    count = num_batches or -(-len(entries) // batch_size)
    entries += [(_FILLER, 0)] * (count * batch_size - len(entries))
    windows = grain.MapDataset.source(entries).map(LoadWindow(store, spec))
    return iter(windows.batch(batch_size, batch_fn=stack).to_iter_dataset(_READ))


def stack(windows: Sequence[Batch]) -> Batch:
    """Stacks windows (or batches) along a new leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *windows)


def fingerprint(store: Store, spec: WindowSpec, batch_size: int) -> str:
    """Identifies a pipeline: a resumed run must see the batches the first one would have.

    Any stage added to the pipeline changes the seeds that Grain derives for the others,
    hence the version number in the text.
    """
    text = json.dumps(
        {
            "version": 1,
            "spec": dataclasses.asdict(spec) | {"resampling": dict(spec.resampling)},
            "batch_size": batch_size,
            "store": store.metadata["checksum"],
        },
        sort_keys=True,
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _slice_near(row_pts_N: np.ndarray, pts_T: np.ndarray) -> slice:
    """Rows that can matter to these frames, and at least two where there are two."""
    if len(pts_T) == 0:
        return slice(0, 0)
    low = np.searchsorted(row_pts_N, pts_T[0]) - _MARGIN_ROWS
    high = np.searchsorted(row_pts_N, pts_T[-1]) + _MARGIN_ROWS
    return slice(max(0, int(low)), int(high))


def _pad(values_T: np.ndarray, length: int) -> np.ndarray:
    """Zeros (False) after the last row up to ``length`` rows."""
    if len(values_T) == length:
        return np.ascontiguousarray(values_T)
    padded = np.zeros((length, *values_T.shape[1:]), values_T.dtype)
    padded[: len(values_T)] = values_T
    return padded
