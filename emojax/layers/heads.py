"""Output layers."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from emojax.layers.dropout import Dropout
from emojax.layers.normalisation import MaskedBatchNorm
from emojax.layers.tcn import NEGATIVE_SLOPE
from emojax.types import Array


class MLPHead(nn.Module):
    """Dense, optional batch normalisation, LeakyReLU(0.01), dropout, Dense, for each frame.

    Attributes:
        outputs: C, columns of the output.
        hidden: width of the layer in between.
        batch_norm: normalise the hidden layer over the real frames.
        bounded: end in tanh, for labels in [-1, 1].
        dropout: rate on the hidden layer.
        dtype: of the hidden layer; the output is float32.
    """

    outputs: int
    hidden: int = 256
    batch_norm: bool = False
    bounded: bool = False
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_BTD: Array, mask_BT: Array, *, train: bool) -> Array:
        """Predict (B, T, outputs) from (B, T, D); ``mask_BT`` is False on padding."""
        # Batch normalisation takes any bias before it away again.
        hidden = nn.Dense(
            self.hidden, use_bias=not self.batch_norm, dtype=self.dtype, name="hidden"
        )
        h_BTD = hidden(x_BTD)
        if self.batch_norm:
            h_BTD = MaskedBatchNorm(dtype=self.dtype, name="norm")(h_BTD, mask_BT, train=train)
        h_BTD = nn.leaky_relu(h_BTD, NEGATIVE_SLOPE)
        h_BTD = Dropout(self.dropout)(h_BTD, train=train)
        y_BTC = nn.Dense(self.outputs, dtype=self.dtype, name="output")(h_BTD)
        y_BTC = y_BTC.astype(jnp.float32)
        return jnp.tanh(y_BTC) if self.bounded else y_BTC
