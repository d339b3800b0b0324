"""The train state, which a step changes and a checkpoint keeps. Every leaf leads with R."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from emojax.core.optimizer import Optimizer
from emojax.core.programs import kept
from emojax.core.replicas import Replica
from emojax.specs import StreamSpec
from emojax.types import Array


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
        """Returns the weights that are validated: {"params", "model_state"}."""
        params = self.params if self.ema is None else self.ema
        return {"params": params, "model_state": self.model_state}


def init_variables(
    model: nn.Module,
    streams: Mapping[str, StreamSpec],
    lengths: Mapping[str, int],
    key: jax.Array,
) -> tuple[Any, Any]:
    """Draws (params, model_state) of one replica; ``lengths``: stream -> rows of a window."""
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
    """Returns the names of a model's temporary heads, which stages train."""

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
    """Makes the initial state of all replicas; with ``ema`` also averaged parameters.

    Replicas are initialised one by one and stacked: a vmapped initialiser draws other
    numbers than a separate run would, and replicas must equal separate runs.
    """
    one = _initialiser(model, tuple(streams.items()), tuple(lengths.items()), optimizer, ema)
    states = [one(jnp.asarray(replica.seed, jnp.uint32)) for replica in replicas]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


@kept
def _initialiser(
    model: nn.Module,
    streams: tuple[tuple[str, StreamSpec], ...],
    lengths: tuple[tuple[str, int], ...],
    optimizer: Optimizer,
    ema: bool,
) -> Callable[[jax.Array], TrainState]:
    """Compiles the program that makes one replica's state from its seed."""

    @jax.jit
    def one(seed: jax.Array) -> TrainState:
        key = jax.random.fold_in(jax.random.key(seed), 0)
        params, model_state = init_variables(model, dict(streams), dict(lengths), key)
        return TrainState(
            params=params,
            model_state=model_state,
            opt_state=optimizer.init(params),
            best={"params": params, "model_state": model_state},
            key=jax.random.key_data(jax.random.fold_in(jax.random.key(seed), 1)),
            step=jnp.zeros((), jnp.int32),
            ema=params if ema else None,
        )

    return one


def abstract_state(
    model: nn.Module,
    streams: Mapping[str, StreamSpec],
    lengths: Mapping[str, int],
    optimizer: Optimizer,
    replicas: Sequence[Replica],
    ema: bool = False,
) -> TrainState:
    """Returns shapes and dtypes of ``init_state`` without computing them."""
    one = _initialiser(model, tuple(streams.items()), tuple(lengths.items()), optimizer, ema)
    count = len(replicas)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype),
        jax.eval_shape(one, jax.ShapeDtypeStruct((), jnp.uint32)),
    )


@jax.jit
def keep_best(state: TrainState, improved_R: jax.Array) -> TrainState:
    """Replaces the best weights of the replicas that improved by those evaluated."""
    return dataclasses.replace(state, best=_select(improved_R, state.evaluated, state.best))


@jax.jit
def reload_best(state: TrainState, reload_R: jax.Array) -> TrainState:
    """Puts the best weights back in use, with the optimiser's moments left as they are.

    Where parameters are averaged, both the parameters and their average become the best
    average.
    """
    current = {"params": state.params, "model_state": state.model_state}
    state = dataclasses.replace(state, **_select(reload_R, state.best, current))
    if state.ema is None:
        return state
    return dataclasses.replace(state, ema=_select(reload_R, state.best["params"], state.ema))


@jax.jit
def restart_optimizer(state: TrainState, restart_R: jax.Array) -> TrainState:
    """Sets the optimiser's moments back to zero, as a new optimiser has them.

    A parameter that a stage releases then gets the bias correction of its own first steps.
    """
    zeros = jax.tree.map(jnp.zeros_like, state.opt_state)
    return dataclasses.replace(state, opt_state=_select(restart_R, zeros, state.opt_state))


def _select(choose_R: jax.Array, if_true: Any, if_false: Any) -> Any:
    def pick(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(choose_R.reshape((-1,) + (1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(pick, if_true, if_false)


@jax.jit
def take(tree: Any, members_G: Array) -> Any:
    """Takes some replicas of a tree whose leaves lead with R, in the given order."""
    return jax.tree.map(lambda leaf: leaf[members_G], tree)


def put(tree: Any, members_G: Array, part: Any, sharding: jax.sharding.Sharding) -> Any:
    """Puts replicas that ``take`` took back in their places.

    Args:
        tree: with leading R, laid out as ``sharding``; its buffers are donated.
        members_G: (G,) int, which replicas these are; those beyond the last are dropped.
        part: the same tree with leading G, on the same devices.
        sharding: the sharding of all leaves of the result.
    """
    return _putting(sharding)(tree, members_G, part)


@functools.cache
def _putting(sharding: jax.sharding.Sharding) -> Callable[..., Any]:
    def into(tree: Any, members_G: jax.Array, part: Any) -> Any:
        return jax.tree.map(lambda leaf, new: leaf.at[members_G].set(new, mode="drop"), tree, part)

    return jax.jit(into, donate_argnums=0, out_shardings=sharding)


def named_leaves(tree: Any) -> dict[str, Any]:
    """Returns path -> leaf of a tree, the parts of a path joined by "/"."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
