"""Evaluates resident data: gathers, predicts and averages windows on the device.

The host sends a few numbers for each window. After the last window it fetches one sum for each
tick and replica. Sums are float32 and are added window by window, in order, so that they do not
depend on the device. Divided by the number of windows they equal ``OverlapAverage`` of the same
predictions up to rounding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from emojax.core.devices import Layout
from emojax.core.session import Session
from emojax.core.step import Shared
from emojax.datasets.pipeline import evaluation_entries
from emojax.datasets.resident import ResidentData, gather
from emojax.datasets.source import Store
from emojax.datasets.ticks import count_ticks
from emojax.datasets.window_spec import WindowSpec
from emojax.specs import TASKS

# The numbers that describe a window to the device, in this order. PLACE is the position of the
# window's first tick among the ticks of all videos; the ticks FIRST .. STOP of the window count.
VIDEO, START, PLACE, FIRST, STOP = range(5)

Sums = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Plan:
    """The windows that cover some videos of each fold; the same at every evaluation.

    Attributes:
        batches: the windows of each batch, (B, 5) int32 or with several folds (folds, B, 5), on
            the devices.
        counts: the number of windows that count for each tick, (ticks,) int64 for each fold.
    """

    batches: Sequence[Any]
    counts: Sequence[np.ndarray]

    @property
    def ticks(self) -> int:
        """Returns the number of ticks of the fold with the most."""
        return max(len(counts_N) for counts_N in self.counts)


class ResidentEvaluation:
    """Predicts resident videos; compiled once, used many times.

    Args:
        session: the session to predict with.
        store: the store of the videos.
        data: the videos on the session's devices, in its windows.
        predict: the step that ``make_predict_step`` built for the session's folds.
        between: called before every batch; an exception from it ends the prediction.
    """

    def __init__(
        self,
        session: Session,
        store: Store,
        data: ResidentData,
        predict: Callable[..., Mapping[str, jax.Array]],
        between: Callable[[], None] = lambda: None,
    ) -> None:
        self._session, self._store, self._data = session, store, data
        self._between = between
        self._loaded_V = np.asarray(data.num_ticks) > 0
        self._step = make_resident_step(
            predict, session.window_spec, session.shared(session.folds), session.layout
        )
        self._plans: dict[tuple[tuple[str, ...], ...], Plan] = {}

    def holds(self, videos: Sequence[Sequence[str]]) -> bool:
        """Returns True if all of these videos are on the devices."""
        numbers = [self._store.index_of(name) for names in videos for name in names]
        return bool(self._loaded_V[numbers].all())

    def means(
        self, weights: Any, normalisation: Any, videos: Sequence[Sequence[str]]
    ) -> list[dict[str, np.ndarray]]:
        """Predicts videos and averages overlapping windows per tick.

        Args:
            weights: {"params", "model_state"} with leading R, on the devices.
            normalisation: see ``session.fold_normalisation``, on the devices.
            videos: for each fold, the names of its videos, each once.

        Returns:
            For each replica, task -> (ticks of its fold's videos, C) float64; 0 where no window
            counts.
        """
        key = tuple(tuple(names) for names in videos)
        if key not in self._plans:
            self._plans[key] = make_plan(
                self._store,
                key,
                self._session.window_spec,
                self._session.batch_size,
                self._session.layout,
            )
        plan = self._plans[key]
        count = len(self._session.replicas)
        sums = empty_sums(plan, self._session.window_spec, count, self._session.layout)
        for windows in plan.batches:
            self._between()
            sums = self._step(sums, weights, self._data, normalisation, windows)
        # Fetched once, after the last batch.
        host = self._session.layout.fetch(sums)
        averages = []
        for fold, *sums_NC in zip(self._session.folds.members_R, *host.values(), strict=True):
            counts_N1 = np.maximum(plan.counts[fold], 1)[:, None]
            of_replica = dict(zip(host, sums_NC, strict=True))
            averages.append(
                {task: x_NC[: len(counts_N1)] / counts_N1 for task, x_NC in of_replica.items()}
            )
        return averages


def make_plan(
    store: Store, videos: Sequence[Sequence[str]], spec: WindowSpec, size: int, layout: Layout
) -> Plan:
    """Plans the evaluation of videos, fold by fold, in batches of ``size``."""
    entries = [evaluation_entries(store, names, spec, batch_size=size) for names in videos]
    most = max(1, *(len(batches) for batches in entries))
    each = [
        np.array(
            evaluation_entries(store, names, spec, batch_size=size, num_batches=most), np.int32
        )
        for names in videos
    ]
    windows = [
        _windows(store, spec, names, entries_NB2)
        for names, entries_NB2 in zip(videos, each, strict=True)
    ]
    grouped = len(windows) > 1
    batches = np.stack(windows, axis=1) if grouped else windows[0]
    counts = [
        _counts(found, names, store, spec) for found, names in zip(windows, videos, strict=True)
    ]
    return Plan([layout.batch(batch, grouped=grouped) for batch in batches], counts)


def make_resident_step(
    predict: Callable[..., Mapping[str, jax.Array]],
    spec: WindowSpec,
    shared: Shared,
    layout: Layout,
) -> Callable[..., Sums]:
    """Builds ``step(sums, weights, data, normalisation, windows) -> sums``; sums are donated.

    Args:
        predict: the step that ``make_predict_step`` built.
        spec: the windows.
        shared: the part of the configuration that replicas share, with their folds.
        layout: the devices.
    """
    members, sharding = shared.members, layout.replica_sharding

    def step(
        sums: Sums, weights: Any, data: ResidentData, normalisation: Any, windows: Any
    ) -> Sums:
        batch = gather(data, windows[..., : START + 1], spec)
        outputs = predict(weights, batch, normalisation)
        if members is not None:
            windows = windows[jnp.asarray(members)]
        add = jax.vmap(_add, in_axes=(0, 0, None if members is None else 0))
        # The windows of a batch may be on several devices; the sums of a replica are on one.
        together = jax.lax.with_sharding_constraint(dict(outputs), sharding)
        return {task: add(sums[task], x_RBTC, windows) for task, x_RBTC in together.items()}

    return jax.jit(step, donate_argnums=0, out_shardings=sharding)


def empty_sums(plan: Plan, spec: WindowSpec, replicas: int, layout: Layout) -> Sums:
    """Returns zeros, task -> (R, ticks + window, C) float32; the last ``window`` rows are spare.

    Args:
        plan: the windows that will be added.
        spec: their length and tasks.
        replicas: R.
        layout: the devices.
    """
    length, sharding = plan.ticks + spec.window, layout.replica_sharding
    return {
        task: jnp.zeros((replicas, length, TASKS[task].outputs), jnp.float32, device=sharding)
        for task in spec.tasks
    }


def _add(sum_NC: jax.Array, x_BTC: jax.Array, windows_B5: jax.Array) -> jax.Array:
    """Adds the ticks that count in each window of one replica."""
    tick_T = jnp.arange(x_BTC.shape[1])

    def one(b: Any, sum_NC: jax.Array) -> jax.Array:
        window = windows_B5[b]
        counted_T = (tick_T >= window[FIRST]) & (tick_T < window[STOP])
        # Padding may hold any values, which must not reach the ticks of the next video.
        values_TC = jnp.where(counted_T[:, None], x_BTC[b].astype(sum_NC.dtype), 0.0)
        before_TC = jax.lax.dynamic_slice_in_dim(sum_NC, window[PLACE], len(tick_T))
        return jax.lax.dynamic_update_slice_in_dim(
            sum_NC, before_TC + values_TC, window[PLACE], axis=0
        )

    return jax.lax.fori_loop(0, len(windows_B5), one, sum_NC)


def _windows(
    store: Store, spec: WindowSpec, names: Sequence[str], entries_NB2: np.ndarray
) -> np.ndarray:
    """Turns entries into (batches, B, 5) int32; no tick of a window that fills a batch counts."""
    windows = np.zeros((*entries_NB2.shape[:2], 5), np.int32)
    windows[..., : START + 1] = entries_NB2
    place = 0
    for name in names:
        number = store.index_of(name)
        num_ticks = count_ticks(store, number, spec)
        here = entries_NB2[..., 0] == number
        start = entries_NB2[here][:, 1]
        starts, first, stop = spec.scored_ticks(num_ticks)
        of_video = np.searchsorted(starts, start)
        last = np.minimum(spec.window, num_ticks - start)
        windows[here, PLACE] = place + start
        windows[here, FIRST] = np.clip(first[of_video] - start, 0, last)
        windows[here, STOP] = np.clip(stop[of_video] - start, 0, last)
        place += num_ticks
    return windows


def _counts(
    windows: np.ndarray, names: Sequence[str], store: Store, spec: WindowSpec
) -> np.ndarray:
    length = sum(count_ticks(store, store.index_of(name), spec) for name in names)
    place = windows[..., PLACE].ravel()
    changes = np.zeros(length + 1, np.int64)
    np.add.at(changes, place + windows[..., FIRST].ravel(), 1)
    np.add.at(changes, place + windows[..., STOP].ravel(), -1)
    counts_N: np.ndarray = np.cumsum(changes)[:-1]
    return counts_N
