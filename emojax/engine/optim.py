"""Optimisers as optax transformations that leave the learning rate to the train step.

The step multiplies by one learning rate per replica, which keeps plateaus and warm-ups out
of the optimiser's state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax

from emojax.errors import InputError

# (gradients, parameters, weight decay) -> gradients; before or after Adam's moments.
Decay = Callable[[Any, Any, jax.Array], Any]


def _add_decay(updates: Any, params: Any, weight_decay: jax.Array) -> Any:
    return jax.tree.map(lambda u, p: u + weight_decay * p, updates, params)


def _no_decay(updates: Any, params: Any, weight_decay: jax.Array) -> Any:
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

    Raises:
        InputError: unknown name.
    """

    def __init__(self, name: str, clip_norm: float = 0.0) -> None:
        if name not in OPTIMIZERS:
            raise InputError(
                "Unknown optimiser.",
                field="config.train.optimizer",
                found=name,
                expected="one of " + ", ".join(OPTIMIZERS),
            )
        self._decay_gradient, self._decay_update = OPTIMIZERS[name]
        self._adam = optax.scale_by_adam()
        self._clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()

    def init(self, params: Any) -> Any:
        """Optimiser state of one replica."""
        return self._adam.init(params)

    def update(
        self,
        grads: Any,
        opt_state: Any,
        params: Any,
        learning_rate: jax.Array,
        weight_decay: jax.Array,
    ) -> tuple[Any, Any]:
        """One step of one replica: returns (new parameters, new optimiser state)."""
        grads, _ = self._clip.update(grads, self._clip.init(params))
        grads = self._decay_gradient(grads, params, weight_decay)
        updates, opt_state = self._adam.update(grads, opt_state, params)
        updates = self._decay_update(updates, params, weight_decay)
        params = jax.tree.map(lambda p, u: p - learning_rate * u, params, updates)
        return params, opt_state
