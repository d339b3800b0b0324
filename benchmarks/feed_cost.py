"""Measures the cost of the input pipeline: ``python -m benchmarks.feed_cost --config=... ``.

Runs pairs of blocks of training steps, one fed by the pipeline from disk and one fed the same
host batch again and again, in alternating order, and prints the median ratio of their times.
Both copy their batch to the device; the difference is reading, aligning, shuffling and
stacking.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import flags

from emojax.commands import cli
from emojax.core.devices import use_compilation_cache
from emojax.core.session import build_session, fold_normalisation
from emojax.core.step import Hyper, make_train_step
from emojax.datasets.pipeline import stack, training_feeds
from emojax.datasets.source import Store


def define_flags(define: cli.Flags) -> None:
    """Defines the command's flags."""
    define.config("Configuration with data.store set.", required=True)
    define.integer("steps", 10, "Steps in a block.")
    define.integer("pairs", 10, "Pairs of blocks.")


def main(given: flags.FlagValues) -> None:
    """Measures and prints the table."""
    use_compilation_cache()
    config = cli.read_config(given)
    store = Store(config.data.store)
    session = build_session(config, store.streams)
    feeds = training_feeds(
        store, session.samplers.keys, session.window_spec, batch_size=session.batch_size
    )
    grouped = len(feeds) > 1

    def fresh() -> Any:
        batches = [next(feed) for feed in feeds]
        return stack(batches) if grouped else batches[0]

    kept = fresh()
    count = len(session.replicas)
    hyper = session.layout.replicas(
        Hyper(
            learning_rate=np.full(count, 1e-4, np.float32),
            weight_decay=np.full(count, 1e-3, np.float32),
            target_weights=session.weights,
            active=np.ones(count, bool),
        )
    )
    normalisation = session.layout.everywhere(
        fold_normalisation(store, session.folds.keys, session.streams)
    )
    step = make_train_step(session.learner, session.shared(session.samplers))
    state = session.init_state()

    def block(source: Callable[[], Any]) -> float:
        nonlocal state
        started = time.perf_counter()
        for _ in range(given.steps):
            batch = session.layout.batch(source(), grouped=grouped)
            state, metrics = step(state, batch, normalisation, hyper)
        jax.block_until_ready(metrics)
        return (time.perf_counter() - started) / given.steps

    block(fresh)
    fed: list[float] = []
    fixed: list[float] = []
    for pair in range(given.pairs):
        # The order alternates, so that a drift of the machine's speed cancels.
        for source, times in sorted(
            ((fresh, fed), (lambda: kept, fixed)), key=lambda x: (x[1] is fed) == bool(pair % 2)
        ):
            times.append(block(source))
    ratios = np.array(fed) / np.array(fixed)
    low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    print(
        f"{store.name}: batch {session.batch_size} x window {session.window_spec.window}, "
        f"{count} replicas, {jax.devices()[0].platform}, "
        f"{given.pairs} pairs of {given.steps} steps\n"
        f"step, batch kept in memory   {np.median(fixed) * 1e3:8.1f} ms\n"
        f"step, stream feed            {np.median(fed) * 1e3:8.1f} ms\n"
        f"ratio                        {median:8.3f}   (quartiles {low:.3f} .. {high:.3f})"
    )


COMMAND = cli.Command(main, define_flags)

if __name__ == "__main__":
    COMMAND.run()
