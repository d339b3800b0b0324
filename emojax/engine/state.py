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
        ema: exponential moving average of ``params``, what is evaluated; None when off.
    """

    params: Any
    model_state: Any
    opt_state: Any
    best: Any
    key: jax.Array
    step: jax.Array
    ema: Any = None

    @property
    def evaluated(self) -> dict[str, Any]:
        """The weights that a validation looks at: {"params", "model_state"}."""
        params = self.params if self.ema is None else self.ema
        return {"params": params, "model_state": self.model_state}


def init_variables(
    model: nn.Module,
    streams: Mapping[str, StreamSpec],
    lengths: Mapping[str, int],
    key: jax.Array,
) -> tuple[Any, Any]:
    """Initial (params, model_state) of one replica; ``lengths``: stream -> rows of a window."""
    inputs, masks = _blank_window(streams, lengths)
    model_state = dict(model.init(key, inputs, masks, valid=masks, train=False))
    params = model_state.pop("params")
    return params, model_state


def _blank_window(
    streams: Mapping[str, StreamSpec], lengths: Mapping[str, int]
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    shapes = {name: (1, lengths[name], spec.width) for name, spec in streams.items()}
    inputs = {name: jnp.zeros(shape, jnp.float32) for name, shape in shapes.items()}
    masks = {name: jnp.ones(shape[:2], bool) for name, shape in shapes.items()}
    return inputs, masks


def branch_names(
    model: nn.Module, streams: Mapping[str, StreamSpec], lengths: Mapping[str, int]
) -> tuple[str, ...]:
    """Names of the temporary heads that a model has for training in stages."""

    def call() -> Any:
        inputs, masks = _blank_window(streams, lengths)
        key = jax.random.key(0)
        return model.init_with_output(key, inputs, masks, valid=masks, train=False)[0]

    _, aux = jax.eval_shape(call)
    return tuple(aux.get("branches", {}))


def init_state(
    model: nn.Module,
    streams: Mapping[str, StreamSpec],
    lengths: Mapping[str, int],
    optimizer: Optimizer,
    replicas: Sequence[Replica],
    ema: bool = False,
) -> TrainState:
    """Initial state of all replicas; ``ema`` says whether parameters are averaged.

    Replicas are initialised one by one and stacked: a vmapped initialiser draws other
    numbers than a separate run would, and replicas must equal separate runs.
    """

    @jax.jit
    def one(seed: jax.Array) -> TrainState:
        key = jax.random.key(seed)
        params, model_state = init_variables(model, streams, lengths, jax.random.fold_in(key, 0))
        return TrainState(
            params=params,
            model_state=model_state,
            opt_state=optimizer.init(params),
            best={"params": params, "model_state": model_state},
            key=jax.random.key_data(jax.random.fold_in(key, 1)),
            step=jnp.zeros((), jnp.int32),
            ema=params if ema else None,
        )

    states = [one(jnp.asarray(replica.seed, jnp.uint32)) for replica in replicas]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def abstract_state(
    model: nn.Module,
    streams: Mapping[str, StreamSpec],
    lengths: Mapping[str, int],
    optimizer: Optimizer,
    replicas: Sequence[Replica],
    ema: bool = False,
) -> TrainState:
    """Shapes and dtypes of ``init_state`` without computing anything."""
    return jax.eval_shape(lambda: init_state(model, streams, lengths, optimizer, replicas, ema))
