"""Transformer encoders (Vaswani et al. 2017) whose output padding cannot touch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from emojax.errors import InputError, closest
from emojax.layers.activations import ACTIVATIONS
from emojax.layers.attention import MultiHeadAttention
from emojax.layers.dropout import Dropout
from emojax.ops.masking import zero_where_padded
from emojax.types import Array

NORMS = ("post", "pre")


def layer_norm(name: str, dtype: Any = jnp.float32) -> nn.LayerNorm:
    """Applies layer normalisation (Ba et al. 2016) with PyTorch's epsilon; statistics in float32.

    The variance is the mean of squared deviations: E[x^2] - E[x]^2 cancels in float32.
    """
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, dtype=dtype, name=name)


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward block, each with a residual and layer normalisation.

        post:  x <- LN(x + attention(x));   x <- LN(x + W_2 act(W_1 x))
        pre:   x <- x + attention(LN(x));   x <- x + W_2 act(W_1 LN(x))

    Vaswani et al. 2017, sections 3.1-3.3 (post); Xiong et al. 2020 (pre). Dropout acts on
    attention weights, hidden units and both branches, as in ``torch.nn.TransformerEncoderLayer``.

    Attributes:
        heads: the number of heads of the attention; divides D.
        hidden: width of the feed-forward block.
        dropout: rate.
        activation: a key of ``ACTIVATIONS``.
        norm: "post" or "pre".
        dtype: the dtype of the computation; parameters, softmax and statistics are float32.
    """

    heads: int
    hidden: int
    dropout: float = 0.1
    activation: str = "relu"
    norm: str = "post"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_BTD: Array, mask_BT: Array, *, train: bool) -> Array:
        """Encodes (B, T, D) as (B, T, D).

        Args:
            x_BTD: features; padded frames may hold anything.
            mask_BT: bool, False on padding. The output is zero there, and real frames do
                not depend on what padded frames hold.
            train: True if dropout acts (needs a "dropout" key).

        Raises:
            InputError: unknown ``activation`` or ``norm``, or heads that do not divide D.
        """
        for field, value, known in (
            ("activation", self.activation, tuple(ACTIVATIONS)),
            ("norm", self.norm, NORMS),
        ):
            if value not in known:
                raise InputError(
                    "A transformer has no such option.",
                    field=field,
                    found=value,
                    expected=", ".join(known),
                    remedy=closest(value, known),
                )
        mask_BT = mask_BT.astype(bool)
        x_BTD = zero_where_padded(x_BTD.astype(self.dtype), mask_BT)
        x_BTD = self._residual("attention_norm", x_BTD, self._attend, mask_BT, train)
        x_BTD = self._residual("feed_norm", x_BTD, self._feed, mask_BT, train)
        return zero_where_padded(x_BTD, mask_BT)

    def _residual(
        self,
        name: str,
        x_BTD: Array,
        branch: Callable[[Array, Array, bool], Array],
        mask_BT: Array,
        train: bool,
    ) -> Array:
        """Adds a branch to its input, with normalisation before the branch or after the sum."""
        norm = layer_norm(name, self.dtype)
        inside_BTD = norm(x_BTD) if self.norm == "pre" else x_BTD
        branch_BTD = Dropout(self.dropout)(branch(inside_BTD, mask_BT, train), train=train)
        sum_BTD = x_BTD + branch_BTD
        return sum_BTD if self.norm == "pre" else norm(sum_BTD)

    def _attend(self, x_BTD: Array, mask_BT: Array, train: bool) -> Array:
        attention = MultiHeadAttention(
            self.heads, dropout=self.dropout, dtype=self.dtype, name="attention"
        )
        return attention(x_BTD, x_BTD, mask_BT, train=train)

    def _feed(self, x_BTD: Array, mask_BT: Array, train: bool) -> Array:
        h_BTH = nn.Dense(self.hidden, dtype=self.dtype, name="feed_hidden")(x_BTD)
        activation = ACTIVATIONS[self.activation]("feed_activation")
        h_BTH = Dropout(self.dropout)(activation(h_BTH), train=train)
        return nn.Dense(x_BTD.shape[-1], dtype=self.dtype, name="feed_output")(h_BTH)


class TransformerEncoder(nn.Module):
    """A stack of encoder layers, as ``torch.nn.TransformerEncoder``.

    It adds no position codes and no embedding; see ``attention.sinusoidal_positions``.

    Attributes:
        layers: the number of layers.
        heads, hidden, dropout, activation, norm, dtype: as in ``EncoderLayer``.
        final_norm: normalise the output of the last layer once more; of use with "pre".
    """

    layers: int
    heads: int
    hidden: int
    dropout: float = 0.1
    activation: str = "relu"
    norm: str = "post"
    dtype: Any = jnp.float32
    final_norm: bool = False

    @nn.compact
    def __call__(self, x_BTD: Array, mask_BT: Array, *, train: bool) -> Array:
        """Encodes like ``EncoderLayer.__call__``, with its arguments, shapes, mask and errors."""
        x_BTD = zero_where_padded(x_BTD.astype(self.dtype), mask_BT.astype(bool))
        for i in range(self.layers):
            x_BTD = EncoderLayer(
                self.heads,
                self.hidden,
                self.dropout,
                self.activation,
                self.norm,
                self.dtype,
                name=f"layer_{i}",
            )(x_BTD, mask_BT, train=train)
        if self.final_norm:
            x_BTD = layer_norm("final_norm", self.dtype)(x_BTD)
        return zero_where_padded(x_BTD, mask_BT.astype(bool))
