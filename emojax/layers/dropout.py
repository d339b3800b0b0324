"""Dropout that needs half of the usual random bits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from emojax.types import Array


class Dropout(nn.Module):
    """Zero each element with probability ``rate`` and scale the rest to keep the mean.

    Srivastava et al. 2014. Works as ``flax.linen.Dropout`` but draws 16 bits an element,
    two from each word: on CPUs threefry is a visible part of a small network's step. The
    rate is therefore rounded to a multiple of 2**-16, and the scale is that of the rounded
    rate, so the mean is exact.

    Attributes:
        rate: probability of zero, in [0, 1).
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Return ``x`` with dropout if ``train`` (needs a "dropout" key), else unchanged."""
        threshold = round(self.rate * 2**16)
        if not train or threshold == 0:
            return x
        pairs = (*x.shape[:-1], -(-x.shape[-1] // 2))
        words = jax.random.bits(self.make_rng("dropout"), pairs, jnp.uint32)
        halves = jax.lax.bitcast_convert_type(words, jnp.uint16)
        bits = halves.reshape(*pairs[:-1], -1)[..., : x.shape[-1]]
        scale = jnp.asarray(2**16 / (2**16 - threshold), x.dtype)
        return jnp.where(bits >= jnp.uint16(threshold), x * scale, jnp.zeros((), x.dtype))
