"""Optimisers as optax transformations that leave the learning rate to the train step.

The step multiplies by one learning rate per replica, which keeps plateaus and warm-ups out
of the optimiser's state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax

from emojax.errors import InputError
from emojax.layers.scaling import as_printed
from emojax.types import Array

# (updates, derivative of half the squared weights, weight decay) -> updates; before or after Adam's
# moments.
Decay = Callable[[Any, Any, Array], Any]


def _add_decay(updates: Any, pulls: Any, weight_decay: Array) -> Any:
    return jax.tree.map(lambda u, p: u + weight_decay * p, updates, pulls)


def _no_decay(updates: Any, pulls: Any, weight_decay: Array) -> Any:
    return updates


# name -> (decay of the gradient, decay of the update). "Adam with weight decay" in the
# papers is L2 added to the gradient; only TCN-Transformer (and EMMA's FAN) say AdamW.
OPTIMIZERS: dict[str, tuple[Decay, Decay]] = {
    "adam_l2": (_add_decay, _no_decay),
    "adamw": (_no_decay, _add_decay),
}


class Optimizer:
    """Adam with either kind of weight decay and optional clipping by global norm.

    Args:
        name: a key of ``OPTIMIZERS``.
        clip_norm: gradients are scaled down to this global norm; 0 leaves them alone.
        no_decay: patterns over the paths of parameters that do not decay; "*" also matches "/".

    Raises:
        InputError: unknown name.
    """

    def __init__(self, name: str, clip_norm: float = 0.0, no_decay: Sequence[str] = ()) -> None:
        if name not in OPTIMIZERS:
            raise InputError(
                "Unknown optimiser.",
                field="config.train.optimizer",
                found=name,
                expected="one of " + ", ".join(OPTIMIZERS),
            )
        self._options = name, clip_norm, tuple(no_decay)
        self._no_decay = tuple(no_decay)
        self._decay_gradient, self._decay_update = OPTIMIZERS[name]
        self._adam = optax.scale_by_adam()
        self._clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()

    def __eq__(self, other: object) -> bool:
        """Compares the options, so that runs with equal ones share their programs."""
        return isinstance(other, Optimizer) and self._options == other._options

    def __hash__(self) -> int:
        return hash(self._options)

    def init(self, params: Any) -> Any:
        """Makes the optimiser state of one replica."""
        return self._adam.init(params)

    def update(
        self,
        grads: Any,
        opt_state: Any,
        params: Any,
        learning_rate: Array,
        weight_decay: Array,
        trainable: Any | None = None,
        scales: Mapping[str, float] = MappingProxyType({}),
    ) -> tuple[Any, Any]:
        """Takes one step of one replica.

        Args:
            grads: gradients.
            opt_state: moments.
            params: parameters.
            learning_rate: a scalar.
            weight_decay: a scalar.
            trainable: a tree of scalar bools like ``params``; where False, parameters and
                moments stay as they are, to the bit, and the gradient does not count towards
                the norm for clipping. None trains everything.
            scales: path of a parameter -> by how much it is stored larger than it acts, of
                ``layers.scaling.recorded_scales``. L2 acts on weights as they act. The decay of
                AdamW shrinks both by the same share.

        Returns:
            New parameters and new optimiser state.
        """
        old_params, old_state = params, opt_state
        grads = trained_only(grads, trainable)
        grads, _ = self._clip.update(grads, self._clip.init(params))
        pulls = as_printed(self._decaying(params), scales)
        grads = self._decay_gradient(grads, pulls, weight_decay)
        updates, opt_state = self._adam.update(grads, opt_state, params)
        updates = self._decay_update(updates, self._decaying(params), weight_decay)
        params = jax.tree.map(lambda p, u: p - learning_rate * u, params, updates)
        if trainable is not None:
            params = jax.tree.map(_keep, trainable, params, old_params)
            moments = {
                name: jax.tree.map(
                    _keep, trainable, getattr(opt_state, name), getattr(old_state, name)
                )
                for name in ("mu", "nu")
            }
            opt_state = opt_state._replace(**moments)
        return params, opt_state

    def _decaying(self, params: Any) -> Any:
        """Returns the parameters, with zeros in the place of those that do not decay."""

        def one(path: Any, leaf: Array) -> Array:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            spared = any(fnmatchcase(name, pattern) for pattern in self._no_decay)
            return jnp.zeros_like(leaf) if spared else leaf

        return jax.tree_util.tree_map_with_path(one, params) if self._no_decay else params


def trained_only(grads: Any, trainable: Any | None) -> Any:
    """Sets gradients to zero where ``trainable``, a tree of scalar bools, is False."""
    if trainable is None:
        return grads
    return jax.tree.map(_keep, trainable, grads, jax.tree.map(jnp.zeros_like, grads))


def _keep(trainable: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    return jnp.where(trainable, new, old)
