"""The resident feed: videos lie on the device once, and windows are gathered there.

Rows and labels are brought onto the windows' clock when they are loaded, by the functions that
cut windows from a store, so that gathered batches equal those of ``pipeline`` bit for bit. What
is sent for a batch is a (video, first tick) for each window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import grain
import jax
import jax.numpy as jnp
import numpy as np

from emojax.datasets.pipeline import training_windows
from emojax.datasets.source import Store
from emojax.datasets.ticks import RowGrid, count_ticks, labels_at, row_grid, rows_at
from emojax.datasets.window_spec import WindowSpec
from emojax.specs import TASKS
from emojax.types import Array, Batch

# Rows are indexed by int32.
_MOST_ROWS = 2**31 - 1
# Rows brought onto the clock at a time, which bounds the float64 memory of "mean".
_ROWS_AT_ONCE = 4096
# Entries are small and quick to make; threads would only add time.
_AT_ONCE = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)


@flax.struct.dataclass
class ResidentData:
    """All rows of some videos, one video after another, already on the windows' clock.

    V is the number of all videos of the store, so that a video has one number everywhere. Where
    windows start between two rows, a stream's rows are stored for each such offset.

    Attributes:
        streams: name -> (rows, D) of the store's dtype, zero where not valid.
        stream_valid: name -> (rows,) bool.
        labels: task -> (ticks, K) float32, zero where not annotated.
        label_mask: task -> (ticks, K) bool.
        first_row: name -> (V,) int32, where a video's rows begin; -1 where it is not loaded.
        first_tick: (V,) int32, the same for its labels.
        num_ticks: (V,) int32, 0 where it is not loaded.
    """

    streams: dict[str, Array]
    stream_valid: dict[str, Array]
    labels: dict[str, Array]
    label_mask: dict[str, Array]
    first_row: dict[str, Array]
    first_tick: Array
    num_ticks: Array


@flax.struct.dataclass
class Entries:
    """Batches as places in resident data, from which a step gathers its windows.

    Attributes:
        data: the resident data.
        entries: (K, B, 2) or, for several samplers, (K, groups, B, 2) int32, the video and the
            first tick of each window of K batches.
    """

    data: ResidentData
    entries: Array


# -- counts, from the index --------------------------------------------------------------------


def obstacle(store: Store, spec: WindowSpec, videos: Sequence[str] | None = None) -> str | None:
    """Returns the reason why windows of these videos cannot be gathered, or None if they can."""
    names = [video.name for video in store.videos] if videos is None else videos
    ticks, rows = _counts(store, names, spec)
    for what, count in {
        "ticks": ticks,
        **{f"rows of {name}": n for name, n in rows.items()},
    }.items():
        if count > _MOST_ROWS:
            return f"{count:,} {what} are more than can be numbered"
    return None


def resident_bytes(store: Store, videos: Sequence[str], spec: WindowSpec) -> int:
    """Computes the exact bytes of what ``load_resident`` returns, from the index alone."""
    ticks, rows = _counts(store, videos, spec)
    of_row = {
        name: store.streams[name].width * store.row_dtypes[name].itemsize + 1 for name in rows
    }
    of_tick = sum(TASKS[task].columns * (4 + 1) for task in spec.tasks)
    tables = 4 * len(store.videos) * (2 + len(spec.streams))
    return sum(rows[name] * of_row[name] for name in rows) + ticks * of_tick + tables


def _counts(store: Store, videos: Sequence[str], spec: WindowSpec) -> tuple[int, dict[str, int]]:
    """Counts the ticks, and the rows of each stream, of these videos together."""
    places = {name: _Places.of(spec, name) for name in spec.streams}
    ticks = [count_ticks(store, i, spec) for i in _numbers(store, videos)]
    return sum(ticks), {name: sum(place.count(n) for n in ticks) for name, place in places.items()}


def _numbers(store: Store, videos: Sequence[str]) -> list[int]:
    return list(dict.fromkeys(store.index_of(name) for name in videos))


class _Places:
    """The positions of a stream's grid at which windows have rows, see ``RowGrid``.

    Windows start at multiples of some number of ticks, hence rows are at multiples of
    ``between`` positions: each multiple within the video is stored.
    """

    def __init__(self, grid: RowGrid, between: int) -> None:
        self.grid, self.between = grid, between
        # Rows stored for one step of a window, and the first multiple that reaches the video.
        self.stride = grid.step // between
        self.first = 1 - self.stride

    @classmethod
    def of(cls, spec: WindowSpec, stream: str) -> _Places:
        grid = row_grid(spec, stream)
        starts = [spec.stride, spec.evaluation_stride or spec.stride]
        if spec.random_offset or spec.align_end:
            starts = [1]
        between = math.gcd(grid.step, *(start * grid.per_tick for start in starts))
        return cls(grid, between)

    def count(self, num_ticks: Any) -> Any:
        """Returns the rows of a video of ``ticks`` ticks, which may be an array."""
        return -(-num_ticks * self.grid.per_tick // self.between) - self.first


# -- loading --------------------------------------------------------------------------------------


def load_resident(
    store: Store,
    videos: Sequence[str],
    spec: WindowSpec,
    progress: Callable[[int, int], None] | None = None,
) -> ResidentData:
    """Reads videos and brings them onto the clock, as numpy arrays.

    Args:
        store: the store with the videos.
        videos: their names; of one that is named twice there is one copy.
        spec: the length, stride and content of windows.
        progress: called after each video with how many are read, and of how many.
    """
    numbers = _numbers(store, videos)
    ticks, rows = _counts(store, videos, spec)
    places = {name: _Places.of(spec, name) for name in spec.streams}
    count = len(store.videos)
    data = ResidentData(
        streams={
            n: np.zeros((rows[n], store.streams[n].width), store.row_dtypes[n].newbyteorder("="))
            for n in spec.streams
        },
        stream_valid={n: np.zeros(rows[n], bool) for n in spec.streams},
        labels={t: np.zeros((ticks, TASKS[t].columns), np.float32) for t in spec.tasks},
        label_mask={t: np.zeros((ticks, TASKS[t].columns), bool) for t in spec.tasks},
        first_row={n: np.full(count, -1, np.int32) for n in spec.streams},
        first_tick=np.full(count, -1, np.int32),
        num_ticks=np.zeros(count, np.int32),
    )
    next_tick, next_row = 0, dict.fromkeys(spec.streams, 0)
    for done, number in enumerate(numbers):
        record, num_ticks = store.read(number), count_ticks(store, number, spec)
        data.first_tick[number], data.num_ticks[number] = next_tick, num_ticks
        ticks_T = np.arange(num_ticks)
        for task in spec.tasks:
            there = slice(next_tick, next_tick + num_ticks)
            labels_TK, mask_TK = labels_at(record, task, spec, ticks_T)
            data.labels[task][there], data.label_mask[task][there] = labels_TK, mask_TK
        next_tick += num_ticks
        for name, place in places.items():
            begin, total = next_row[name], place.count(num_ticks)
            data.first_row[name][number] = begin
            # The offsets at which windows may cut this stream, one after another.
            block = place.stride * _ROWS_AT_ONCE
            for row in range(0, total, block):
                for offset in range(row, min(row + place.stride, total)):
                    part = range(offset, min(row + block, total), place.stride)
                    first = (place.first + offset) * place.between
                    there = slice(begin + offset, begin + part.stop, place.stride)
                    rows_TD, valid_T = rows_at(record, name, spec, first, len(part))
                    data.streams[name][there], data.stream_valid[name][there] = rows_TD, valid_T
            next_row[name] = begin + total
        if progress is not None:
            progress(done + 1, len(numbers))
    return data


# -- gathering ------------------------------------------------------------------------------------


def gather(data: ResidentData, entries_B2: Array, spec: WindowSpec) -> Batch:
    """Gathers the batch of some windows; a pure function, traced inside a step.

    Args:
        data: the videos, on the device.
        entries_B2: (B, 2) int32, video and first tick, which must be one that ``spec`` can
            give; video -1 only fills up the batch. A video that is not loaded is all padding.
        spec: the windows that the data were loaded for.

    Returns:
        What ``stack`` makes of the windows that ``LoadWindow`` reads, leaf for leaf.
    """
    video_B, start_B = jnp.asarray(entries_B2)[..., 0], jnp.asarray(entries_B2)[..., 1]
    filler_B = video_B < 0
    number_B = jnp.where(filler_B, 0, video_B)
    ticks_B = jnp.where(filler_B, 0, jnp.asarray(data.num_ticks)[number_B])
    streams, masks, valids = {}, {}, {}
    for name in spec.streams:
        place, context = _Places.of(spec, name), spec.context.get(name, 0)
        rows = spec.rows(name)
        # Rows from the start of the video's own.
        at_B = start_B * place.grid.per_tick // place.between - place.first
        at_BT = _from(at_B, place.stride * jnp.arange(-context, rows + context))
        mask_BT = (at_BT >= 0) & (at_BT < place.count(ticks_B)[..., None])
        mask_BT &= (ticks_B > 0)[..., None]
        index_BT = jnp.where(
            mask_BT, jnp.asarray(data.first_row[name])[number_B][..., None] + at_BT, 0
        )
        rows_BTD = _take(data.streams[name], index_BT)
        streams[name] = jnp.where(mask_BT[..., None], rows_BTD, jnp.zeros((), rows_BTD.dtype))
        valids[name] = mask_BT & _take(data.stream_valid[name], index_BT)
        masks[name] = mask_BT
    tick_BT = _from(start_B, jnp.arange(spec.window, dtype=jnp.int32))
    inside_BT = tick_BT < ticks_B[..., None]
    index_BT = jnp.where(inside_BT, jnp.asarray(data.first_tick)[number_B][..., None] + tick_BT, 0)
    labels, label_mask = {}, {}
    for task in spec.tasks:
        labels[task] = jnp.where(inside_BT[..., None], _take(data.labels[task], index_BT), 0.0)
        label_mask[task] = inside_BT[..., None] & _take(data.label_mask[task], index_BT)
    return Batch(
        streams=streams,
        stream_mask=masks,
        stream_valid=valids,
        labels=labels,
        label_mask=label_mask,
        example_mask=~filler_B,
        video_ids=video_B.astype(jnp.int32),
        frame_ids=jnp.where(inside_BT, tick_BT, -1).astype(jnp.int32),
    )


def _from(first_B: jax.Array, steps_T: jax.Array) -> jax.Array:
    """Returns the sums (..., B, T) of (..., B) and (T,)."""
    return first_B[..., None] + steps_T.reshape((1,) * first_B.ndim + steps_T.shape)


def _take(rows_ND: Array, index_BT: Array) -> Array:
    return jnp.take(jnp.asarray(rows_ND), index_BT, axis=0, mode="clip")


# -- entries --------------------------------------------------------------------------------------


def entry_feeds(
    store: Store, samplers: Sequence[tuple[str, int]], spec: WindowSpec, *, batch_size: int
) -> list[grain.DatasetIterator]:
    """Returns the windows that ``training_feeds`` reads, as (B, 2) int32 for ``gather``.

    Order and offsets are the same, and so are the states of the iterators: a run may go on with
    the other feed.
    """
    feeds = []
    for fold, seed in samplers:
        windows = training_windows(store, store.fold(fold).train, spec, seed=seed)
        batches = windows.batch(batch_size, batch_fn=_as_entries)
        feeds.append(iter(batches.to_iter_dataset(_AT_ONCE)))
    return feeds


def _as_entries(entries: Sequence[tuple[int, int]]) -> np.ndarray:
    return np.asarray(entries, np.int32).reshape(-1, 2)
