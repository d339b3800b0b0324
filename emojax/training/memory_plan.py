"""Plans how many replicas train at once, by memory and by speed.

Memory is estimated before anything is compiled.

A step holds the state of its replicas, their gradients and the parameters that come out, and what
backward keeps of forward. The last is by far the most; it is found by tracing one replica's loss
without computing it (``jax.eval_shape`` of ``jax.vjp``). XLA keeps less of it than was traced
(fused, or computed again), so that the estimate is on the safe side: on CPU the compiled steps of
ExpTrm, the multi-scale TCN, RJCMA and TCN-Transformer at the papers' sizes took 0.54 to 0.67 of it.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from emojax.core.devices import Layout, from_primary
from emojax.core.session import Session
from emojax.core.step import Hyper
from emojax.datasets.window_spec import WindowSpec
from emojax.specs import TASKS, StreamSpec
from emojax.training.groups import group_layout, lightest_size
from emojax.types import Batch

# Share of a device's own limit that a training may fill; the rest is for fragments and evaluation.
_USABLE = 0.9
# One large model keeps two CPU cores busy, and convolutions over replicas are slower there than one
# after the other: RJCMA at the paper's size made 0.92, 0.86 and 0.73 of the windows per second as
# 2, 4 and 12 replicas in one program that it made alone (docs/speed.md). The bytes of a batch's
# rows decide which models are large, because that needs no tracing.
_LARGE_BATCH_ON_CPU = 1_000_000
# Backward has never needed so many times the bytes of a batch (the systems here: 20 to 200), so
# that what would be small even then need not be traced.
_TRACED_FROM = 1000


@dataclasses.dataclass(frozen=True)
class Footprint:
    """The bytes that one replica needs.

    Attributes:
        state: its train state.
        params: its parameters; gradients and new parameters are as large.
        kept: the activations of one batch that backward keeps.
        batch: one batch, as stored.
    """

    state: int
    params: int
    kept: int
    batch: int


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
    """The plan of a training: how many replicas train at once, and where the data lie.

    Attributes:
        most: replicas that train at once, as many as fit and are fast.
        resident: True if the data may lie on the devices.
        needed: bytes of the fullest device if all replicas trained at once.
        limit: bytes of a device that may be used.
        fits: False if not even one replica does.
    """

    most: int
    resident: bool
    needed: int
    limit: int
    fits: bool


def tree_bytes(tree: Any) -> int:
    """Sums the bytes of all arrays (or of their shapes) in a tree."""
    return sum(
        math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree)
    )


def device_limit(layout: Layout, configured: int = 0) -> int:
    """Returns the bytes of each device that a training may use.

    Args:
        layout: the devices; where other processes have some, those of the first one speak for all.
        configured: ``config.train.memory_limit``; 0 for the device's own. A CPU has none: there
            it is the machine's memory, which all simulated devices share.
    """
    if configured:
        return configured
    process = jax.process_index()
    devices = layout.mesh.devices.flat
    here = (d for d in devices if getattr(d, "process_index", process) == process)
    stats = next(here).memory_stats() or {}
    total = stats.get("bytes_limit", 0)
    if not total:
        pages = os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
        total = pages * os.sysconf("SC_PAGE_SIZE") // jax.local_device_count() if pages else 2**63
    # Processes that planned differently would wait for each other for ever.
    return from_primary(int(_USABLE * total))


def abstract_batch(streams: Mapping[str, StreamSpec], spec: WindowSpec, size: int) -> Batch:
    """Returns the shapes of a batch of ``size`` windows, rows in float16."""

    def of(dtype: Any, *shape: int) -> Any:
        return jax.ShapeDtypeStruct((size, *shape), dtype)

    columns = {task: TASKS[task].columns for task in spec.tasks}
    lengths, widths = spec.lengths, {name: s.width for name, s in streams.items()}
    return Batch(
        streams={name: of(np.float16, lengths[name], widths[name]) for name in spec.streams},
        stream_mask={name: of(bool, lengths[name]) for name in spec.streams},
        stream_valid={name: of(bool, lengths[name]) for name in spec.streams},
        labels={task: of(np.float32, spec.window, count) for task, count in columns.items()},
        label_mask={task: of(bool, spec.window, count) for task, count in columns.items()},
        example_mask=of(bool),
        video_ids=of(np.int32),
        frame_ids=of(np.int32, spec.window),
    )


def footprint(session: Session, *, trace: bool = True) -> Footprint:
    """Estimates the bytes of one replica.

    Args:
        session: the session of the training.
        trace: True to trace the model; otherwise ``kept`` is more than any model needs.
    """
    state = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), session.abstract_state()
    )
    batch = abstract_batch(session.streams, session.window_spec, session.batch_size)
    state_bytes, batch_bytes = tree_bytes(state), tree_bytes(batch)
    kept = _TRACED_FROM * (batch_bytes + tree_bytes(state.params))
    if trace:
        kept = _kept(session, state, batch)
    return Footprint(state_bytes, tree_bytes(state.params), kept, batch_bytes)


def _kept(session: Session, state: Any, batch: Batch) -> int:
    """Traces the bytes that backward keeps of one replica's forward."""

    def of(dtype: Any, *shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype)

    branches = any(stage.objective == "branches" for stage in session.stages)
    hyper = Hyper(
        learning_rate=of(np.float32),
        weight_decay=of(np.float32),
        target_weights={
            task: of(np.float32, *weights_RX.shape[1:])
            for task, weights_RX in session.weights.items()
        },
        active=of(bool),
        branches=of(bool) if branches else None,
    )
    normalisation = {
        name: (of(np.float32, spec.width),) * 2 for name, spec in session.streams.items()
    }
    loss_fn = session.learner.loss

    def backward(params: Any, *rest: Any) -> Any:
        return jax.vjp(lambda p: loss_fn(p, *rest), params, has_aux=True)[1]

    key = jax.eval_shape(lambda: jax.random.key(0))
    arguments = (state.params, state.model_state, batch, normalisation, hyper, key)
    return tree_bytes(jax.eval_shape(backward, *arguments))


def needed_bytes(
    of_one: Footprint,
    session: Session,
    size: int,
    *,
    resident: int = 0,
) -> int:
    """Estimates the bytes of the fullest device while ``size`` replicas train at once.

    Args:
        of_one: the memory of one replica.
        session: all replicas and devices.
        size: the number of replicas that train.
        resident: bytes of data that every device holds.
    """
    layout = group_layout(session.layout, session.batch_size, size)
    across_replicas, across_data = layout.mesh.devices.shape[:2]
    batches = min(size, len(session.samplers.keys)) * of_one.batch / across_data
    per_replica = of_one.state + 2 * of_one.params + of_one.kept / across_data
    total = size / across_replicas * per_replica + batches + resident
    if size < len(session.replicas):
        total += len(session.replicas) / session.layout.mesh.devices.shape[0] * of_one.state
    return math.ceil(total)


def plan_memory(session: Session, *, resident: int = 0) -> MemoryPlan:
    """Decides how many replicas train at once and where their states and data lie.

    All at once if they fit, unless fewer are faster or asked for. Otherwise as many as fit beside
    the state of all, on devices where the load is even. The data lie on the devices only if that
    does not change how many.

    Args:
        session: the session of the training.
        resident: bytes of the data, 0 if they are not to lie on the devices.
    """
    limit = device_limit(session.layout, session.config.train.memory_limit)
    count = len(session.replicas)
    quick = _quick_at_once(session)
    for trace in (False, True):
        of_one = footprint(session, trace=trace)
        needed = needed_bytes(of_one, session, count)
        if quick == count and needed + resident <= limit:
            return MemoryPlan(count, bool(resident), needed, limit, True)

    def fits(size: int, data: int = 0) -> bool:
        return needed_bytes(of_one, session, size, resident=data) <= limit

    if quick == count and needed <= limit:
        return MemoryPlan(count, False, needed, limit, True)
    sizes = [size for size in range(1, min(quick + 1, count)) if fits(size)]
    if not sizes:
        return MemoryPlan(1, False, needed, limit, False)
    # As many rounds as the largest group needs, and each as light as possible.
    rounds = -(-count // sizes[-1])
    most = lightest_size(-(-count // rounds), sizes[-1], session.layout, session.batch_size)
    return MemoryPlan(most, bool(resident) and fits(most, resident), needed, limit, True)


def _quick_at_once(session: Session) -> int:
    """Returns how many replicas should train at once, by speed or by the configuration."""
    wanted = session.config.train.replicas_at_once
    count = len(session.replicas)
    if wanted:
        return min(int(wanted), count)
    devices = session.layout.mesh.devices
    large = (
        tree_bytes(abstract_batch(session.streams, session.window_spec, session.batch_size).streams)
        > _LARGE_BATCH_ON_CPU
    )
    if devices.flat[0].platform != "cpu" or not large:
        return count
    # One on each device along that axis.
    return min(count, int(devices.shape[0]))


def plan_lines(plan: MemoryPlan, count: int) -> list[str]:
    """Says in lines for the user why replicas take turns; none if they do not."""
    figures = f"of {bytes_text(plan.limit)} (config.train.memory_limit)"
    if not plan.fits:
        return [
            f"warning: one replica alone may not fit into memory, {figures}; "
            "a smaller config.data.batch_size would help"
        ]
    if plan.most == count:
        return []
    if plan.needed <= plan.limit:
        return [
            f"{count} replicas take turns in each epoch, at most {plan.most} at once "
            "(config.train.replicas_at_once; on CPUs large ones are faster so)"
        ]
    rounds = -(-count // plan.most)
    return [
        f"{count} replicas at once would need about {bytes_text(plan.needed)} {figures}: "
        f"{rounds} groups of at most {plan.most} take turns in each epoch"
    ]


def bytes_text(count: int) -> str:
    """Formats bytes, such as "3.2 GB"."""
    units = ["bytes", "kB", "MB", "GB", "TB"]
    power = min(len(units) - 1, max(0, math.floor(math.log(max(1, count), 1000))))
    return f"{count / 1000**power:.3g} {units[power]}"
