"""The train state: what a step changes and a checkpoint keeps. Every leaf leads with R."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from emojax.engine.optim import Optimizer
from emojax.engine.replicas import Replica
from emojax.specs import StreamSpec


@flax.struct.dataclass
class TrainState:
    """State of R replicas.

    Attributes:
        params: trainable parameters.
        model_state: the model's other collections (running statistics of BatchNorm).
        opt_state: optimiser moments.
        best: {"params", "model_state"} of the best validation so far.
        key: (R, 2) uint32, the replica's random key, constant; steps fold their number in.
        step: (R,) int32, updates applied; stands still once a replica is finished.
    """

    params: Any
    model_state: Any
    opt_state: Any
    best: Any
    key: jax.Array
    step: jax.Array


def init_variables(
    model: nn.Module, streams: Mapping[str, StreamSpec], window: int, key: jax.Array
) -> tuple[Any, Any]:
    """Initial (params, model_state) of one replica for windows of this many frames."""
    shapes = {name: (1, window, spec.width) for name, spec in streams.items()}
    inputs = {name: jnp.zeros(shape, jnp.float32) for name, shape in shapes.items()}
    masks = {name: jnp.ones(shape[:2], bool) for name, shape in shapes.items()}
    model_state, params = _init(model, key, inputs, masks)
    return params, model_state


def _init(model: nn.Module, key: jax.Array, inputs: Any, masks: Any) -> tuple[Any, Any]:
    variables = dict(model.init(key, inputs, masks, valid=masks, train=False))
    params = variables.pop("params")
    return variables, params


def init_state(
    model: nn.Module,
    streams: Mapping[str, StreamSpec],
    window: int,
    optimizer: Optimizer,
    replicas: Sequence[Replica],
) -> TrainState:
    """Initial state of all replicas.

    Replicas are initialised one by one and stacked: a vmapped initialiser draws other
    numbers than a separate run would, and replicas must equal separate runs.
    """

    @jax.jit
    def one(seed: jax.Array) -> TrainState:
        key = jax.random.key(seed)
        params, model_state = init_variables(model, streams, window, jax.random.fold_in(key, 0))
        return TrainState(
            params=params,
            model_state=model_state,
            opt_state=optimizer.init(params),
            best={"params": params, "model_state": model_state},
            key=jax.random.key_data(jax.random.fold_in(key, 1)),
            step=jnp.zeros((), jnp.int32),
        )

    states = [one(jnp.asarray(replica.seed, jnp.uint32)) for replica in replicas]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def abstract_state(
    model: nn.Module,
    streams: Mapping[str, StreamSpec],
    window: int,
    optimizer: Optimizer,
    replicas: Sequence[Replica],
) -> TrainState:
    """Shapes and dtypes of ``init_state`` without computing anything."""
    return jax.eval_shape(lambda: init_state(model, streams, window, optimizer, replicas))
