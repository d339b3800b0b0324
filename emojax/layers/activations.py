"""Activation functions by name."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn

from emojax.types import Array

NEGATIVE_SLOPE = 0.01


class PReLU(nn.Module):
    """x where x > 0, else slope * x, one learned slope for all channels (He et al. 2015, eq. 1).

    The slope starts at 0.25, as in ``torch.nn.PReLU``.
    """

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Applies the activation to any shape; the slope is float32, the output has x's dtype."""
        slope = self.param("slope", nn.initializers.constant(0.25), ())
        # Spread before it is rounded, so that its gradient is summed in float32.
        slopes = jnp.broadcast_to(slope, x.shape).astype(x.dtype)
        return jnp.where(x > 0, x, slopes * x)


# Name -> function of a layer's name. Only PReLU has parameters to keep under that name.
ACTIVATIONS: dict[str, Callable[[str], Callable[[Array], Array]]] = {
    "leaky_relu": lambda _: functools.partial(nn.leaky_relu, negative_slope=NEGATIVE_SLOPE),
    "prelu": lambda name: PReLU(name=name),
    "relu": lambda _: nn.relu,
    # The exact form, as PyTorch's default; Flax's default approximates it by tanh.
    "gelu": lambda _: functools.partial(nn.gelu, approximate=False),
}
