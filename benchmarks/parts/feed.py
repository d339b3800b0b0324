"""Times steps with each feed against steps on a batch that stays on the device."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.context import Context
from benchmarks.machine import allow_tf32
from benchmarks.parts.systems import milliseconds, on_gpu
from benchmarks.random_store import random_store
from benchmarks.results import Column, Missing, Part, Table
from benchmarks.timing import Contender, Timing, interleaved, ratio, told
from benchmarks.workload import constant_hyper, plain_step, steps_per_dispatch, train_step
from emojax.core.session import Session, build_session, fold_normalisation
from emojax.datasets.pipeline import stack, training_feeds
from emojax.datasets.resident import entry_feeds, gather, load_resident, obstacle
from emojax.datasets.source import Store

KEPT, STREAM, RESIDENT = "kept", "stream", "resident"
# The name of a contender with many steps in a dispatch that gathers the same windows every time.
KEPT_MANY = "kept, many steps a dispatch"


def feed_part(context: Context) -> Part:
    """Measures the share of a step that each feed takes, for every system."""
    table = Table(
        f"Feeds, R = 1, {context.dtype}, {context.sizes}",
        (
            Column("system", "system"),
            Column("sizes", "B x T"),
            Column("kept", "batch kept, ms"),
            Column("stream", "stream, ms"),
            Column("resident", "resident, ms"),
            Column("stream_share", "stream's share of a step, %", 2),
            Column("resident_share", "resident's share, %", 2),
        ),
        notes=[
            "Steps on one batch that stays on the device, on batches that Grain reads from a "
            "store of random numbers at full width (from the page cache), and on windows "
            f"gathered on the device ({steps_per_dispatch()} steps a dispatch).",
            "Window starts are drawn at random, so that no window is kept from earlier epochs.",
            "The resident share is that of sending entries where a dispatch makes many steps (its "
            "gathering is in both), of gathering as well where it makes one.",
            "Shares are 1 - kept / fed, medians (quartiles) of interleaved pairs of blocks; "
            "below 0 is noise.",
        ],
    )
    part = Part("feed", [table])
    allow_tf32(context.torch_or_none, True)
    for system in context.systems if not context.quick else context.systems[:1]:
        context.say(f"feed: {system}")
        try:
            _add(context, system, table, part)
        except Exception as error:
            table.add(system=system, kept=Missing(told(error)))
        gc.collect()
    return part


def _add(context: Context, system: str, table: Table, part: Part) -> None:
    case = context.case(system)
    late = context.out_of_time
    if late is not None:
        table.add(system=system, sizes=case.sizes, **dict.fromkeys((KEPT, STREAM, RESIDENT), late))
        return
    config = case.config()
    config.data.random_offset = True
    session = build_session(config, case.specs(), jax.devices()[:1])
    with tempfile.TemporaryDirectory() as folder:
        store = _store(Path(folder) / "store", session)
        contenders = _Fed(session, store).contenders()
        seconds = 4 if context.quick else 8 if on_gpu() else 30
        times = interleaved(contenders, seconds=seconds, block_seconds=0.5)
        reason = obstacle(store, session.window_spec) or ""
        store.close()
    times.setdefault(RESIDENT, Timing(failure=reason))
    part.data[system] = {name: timing.seconds for name, timing in times.items()}
    table.add(
        system=system,
        sizes=case.sizes,
        **{name: milliseconds(times[name]) for name in (KEPT, STREAM, RESIDENT)},
        stream_share=_share(times[KEPT], times[STREAM]),
        resident_share=_share(times.get(KEPT_MANY, times[KEPT]), times[RESIDENT]),
    )


def _share(kept: Timing, fed: Timing) -> str | Missing:
    found = ratio(kept, fed)
    if found is None:
        return Missing(kept.failure or fed.failure)
    low, median, high = (100 * (1 - share) for share in (found.high, found.median, found.low))
    return f"{median:.1f} ({low:.1f}–{high:.1f})"


def _store(path: Path, session: Session) -> Store:
    """Writes a store of a few videos, each several windows long."""
    spec = session.window_spec
    seconds = 4 * spec.window / (spec.clock or 30.0)
    streams = {name: session.streams[name] for name in spec.streams}
    return random_store(path, streams, spec.tasks, folds=1, frames=int(30 * seconds) + 1,
                        videos_per_fold=4)  # fmt: skip


class _Fed:
    """A training state that steps with either feed, or without a feed, advance."""

    def __init__(self, session: Session, store: Store) -> None:
        self.session, self.store = session, store
        self.state = session.init_state()
        self.normalisation = session.layout.everywhere(
            fold_normalisation(store, session.folds.keys, session.streams)
        )
        self.hyper = constant_hyper(session)
        self.metrics: Any = None

    def contenders(self) -> list[Contender]:
        """Returns kept and stream, then kept and resident, with the usual steps in a dispatch."""
        step, source = train_step(self.session), self._batches()
        kept = source()
        found = [
            self._contender(KEPT, step, lambda: kept),
            self._contender(STREAM, step, source),
        ]
        if obstacle(self.store, self.session.window_spec) is None:
            count = steps_per_dispatch()
            function, entries = self._gathering(count), self._entries(count)
            first = entries()
            found.append(self._contender(RESIDENT, function, entries, count))
            if count > 1:
                found.append(self._contender(KEPT_MANY, function, lambda: first, count))
        return found

    def _contender(
        self, name: str, function: Callable[..., Any], source: Callable[[], Any], steps: int = 1
    ) -> Contender:
        def step() -> None:
            self.state, self.metrics = function(
                self.state, source(), self.normalisation, self.hyper
            )

        return Contender(
            name, step, lambda: jax.block_until_ready((self.state, self.metrics)), steps
        )

    def _batches(self) -> Callable[[], Any]:
        session = self.session
        feeds = training_feeds(
            self.store, session.samplers.keys, session.window_spec, batch_size=session.batch_size
        )

        def source() -> Any:
            batches = [next(feed) for feed in feeds]
            grouped = len(batches) > 1
            return session.layout.batch(stack(batches) if grouped else batches[0], grouped=grouped)

        return source

    def _gathering(self, count: int) -> Callable[..., Any]:
        """Returns a program that gathers (K, B, 2) windows and advances the state by K steps."""
        spec, step = self.session.window_spec, plain_step(self.session)
        videos = self.store.fold(self.session.folds.keys[0]).train
        data = self.session.layout.everywhere(load_resident(self.store, videos, spec))

        def run(state: Any, entries: Any, normalisation: Any, hyper: Any, data: Any) -> Any:
            def once(state: Any, entries_B2: Any) -> Any:
                return step(state, gather(data, entries_B2, spec), normalisation, hyper)

            if count == 1:
                return once(state, entries[0])
            return jax.lax.scan(once, state, entries)

        compiled = jax.jit(run, donate_argnums=0)
        return lambda *arguments: compiled(*arguments, data)

    def _entries(self, count: int) -> Callable[[], np.ndarray]:
        session = self.session
        (feed,) = entry_feeds(
            self.store, session.samplers.keys, session.window_spec, batch_size=session.batch_size
        )
        return lambda: np.stack([next(feed) for _ in range(count)])
