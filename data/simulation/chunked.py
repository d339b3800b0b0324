"""Forward-backward passes over long event lists, in chunks of one compiled shape.

A pass over E events keeps only the forward state at the start of each chunk; the backward pass
recomputes the states inside a chunk. Memory is therefore that of one chunk, and two programs
(forward, backward) serve videos of any length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

CHUNK = 512
Tree = Any


def chunked_smoother(
    forward: Callable[[Tree, Tree], Tree],
    backward: Callable[[Tree, Tree, Tree], tuple[Tree, np.ndarray]],
    forward_start: Tree,
    backward_start: Tree,
    events: dict[str, np.ndarray],
) -> np.ndarray:
    """Runs ``forward`` over all chunks, then ``backward`` from the last to the first.

    Args:
        forward: (state, chunk) -> state after the chunk.
        backward: (state before the chunk, message from after it, chunk) -> (message from
            before the chunk, results (CHUNK, ...)).
        forward_start: state before the first event.
        backward_start: message after the last event.
        events: arrays whose axis 0 is E, a multiple of CHUNK (pad with events that observe
            nothing).

    Returns:
        (E, ...) results of every event.
    """
    num_events = next(iter(events.values())).shape[0]
    starts = range(0, num_events, CHUNK)
    chunks = [{k: v[i : i + CHUNK] for k, v in events.items()} for i in starts]
    states = [forward_start]
    for chunk in chunks[:-1]:
        states.append(jax.device_get(forward(states[-1], chunk)))
    message, results = backward_start, []
    for state, chunk in zip(reversed(states), reversed(chunks), strict=True):
        message, result = backward(state, message, chunk)
        results.append(np.asarray(result))
    return np.concatenate(results[::-1], axis=0)


def pad_events(num_events: int) -> int:
    """Returns the next multiple of CHUNK."""
    return -(-num_events // CHUNK) * CHUNK
