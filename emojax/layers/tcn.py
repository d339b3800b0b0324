"""Temporal convolutional networks (Bai et al. 2018, arXiv:1803.01271, section 3)."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from emojax.errors import InputError, closest
from emojax.layers.activations import ACTIVATIONS
from emojax.layers.convolution import convolve
from emojax.layers.dropout import Dropout
from emojax.ops.masking import zero_where_padded
from emojax.types import Array

_EPSILON = 1e-12


def normalised_kernel(direction_KIO: Array, scale_O: Array) -> Array:
    """Returns the kernel scale * direction / ||direction||, one norm for each output channel."""
    square_O = jnp.sum(jnp.square(direction_KIO), axis=(0, 1))
    gain_O = scale_O * lax.rsqrt(jnp.maximum(square_O, _EPSILON))
    return direction_KIO * gain_O[None, None, :]


class WeightNormConv(nn.Module):
    """Dilated 1-D convolution over time with weight normalisation, stride 1.

    kernel = scale * direction / ||direction||, one norm for each output channel over all
    other axes (Salimans and Kingma 2016, eq. 2; the convention of PyTorch's
    ``parametrizations.weight_norm`` with ``dim=0``). ``scale`` starts at the norm of
    ``direction``, so a new layer is the plain convolution of its initialiser.

    Attributes:
        features: output channels.
        kernel_size: taps.
        dilation: frames between taps.
        causal: True sees the present and the past, False is centred (odd kernels only).
        dtype: the dtype of the computation; parameters stay float32.
    """

    features: int
    kernel_size: int = 5
    dilation: int = 1
    causal: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_BTD: Array) -> Array:
        """Convolves (B, T, D) to (B, T, features); zeros are assumed outside the window."""
        shape = (self.kernel_size, x_BTD.shape[-1], self.features)
        direction = self.param("direction", nn.initializers.lecun_normal(), shape)
        scale = self.param("scale", lambda _: jnp.sqrt(jnp.sum(jnp.square(direction), (0, 1))))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))

        kernel = normalised_kernel(direction, scale).astype(self.dtype)
        y_BTD = convolve(jnp.asarray(x_BTD, self.dtype), kernel, self.dilation, self.causal)
        return y_BTD + bias.astype(self.dtype)[None, None, :]


class TemporalBlock(nn.Module):
    """Two weight-normalised convolutions and a residual, activation after the sum.

    Padded frames are zeroed before each convolution: a bias turns them into numbers that
    a centred kernel, or a gap inside the window, would carry into real frames.

    Attributes:
        features: output channels; a residual of another width passes through a 1x1 layer.
        kernel_size, dilation, causal, dtype: as in ``WeightNormConv``.
        dropout: rate after each activation.
        activation: a key of ``ACTIVATIONS``. PReLU has one slope after each convolution and
            one after the sum.
    """

    features: int
    kernel_size: int
    dilation: int
    causal: bool
    dropout: float
    dtype: Any
    activation: str = "leaky_relu"

    @nn.compact
    def __call__(self, x_BTD: Array, mask_BT: Array, *, train: bool) -> Array:
        """Maps (B, T, D) to (B, T, features); ``mask_BT`` is False on padding, output 0 there."""
        activation = ACTIVATIONS[self.activation]
        y_BTD = x_BTD
        for i in range(2):
            y_BTD = WeightNormConv(
                self.features,
                self.kernel_size,
                self.dilation,
                self.causal,
                self.dtype,
                name=f"conv_{i}",
            )(y_BTD)
            y_BTD = activation(f"activation_{i}")(y_BTD)
            y_BTD = Dropout(self.dropout)(y_BTD, train=train)
            y_BTD = zero_where_padded(y_BTD, mask_BT)
        if x_BTD.shape[-1] != self.features:
            x_BTD = nn.Dense(self.features, dtype=self.dtype, name="residual")(x_BTD)
        return zero_where_padded(activation("activation_sum")(x_BTD + y_BTD), mask_BT)


class TemporalConvNet(nn.Module):
    """Blocks of dilation 1, 2, 4, ... one for each entry of ``channels``.

    Kernel 5, two convolutions a block, LeakyReLU(0.01) and dropout 0.1 are those of the
    public code of RJCMA (arXiv:2403.13659) and of leader-follower attention (ABAW3).

    Attributes:
        channels: output width of each block.
        kernel_size, causal, dtype: as in ``WeightNormConv``.
        dropout: rate inside the blocks.
        activation: a key of ``ACTIVATIONS``.
    """

    channels: tuple[int, ...]
    kernel_size: int = 5
    dropout: float = 0.1
    causal: bool = True
    dtype: Any = jnp.float32
    activation: str = "leaky_relu"

    @nn.compact
    def __call__(self, x_BTD: Array, mask_BT: Array, *, train: bool) -> Array:
        """Encodes (B, T, D) as (B, T, channels[-1]).

        Args:
            x_BTD: features; padded frames may hold anything.
            mask_BT: bool, False on padding. The output is zero there, and real frames do
                not depend on what padded frames hold.
            train: True if dropout acts (needs a "dropout" key).

        Raises:
            InputError: unknown ``activation``.
        """
        if self.activation not in ACTIVATIONS:
            raise InputError(
                "A temporal convolutional network has no such activation.",
                field="activation",
                found=self.activation,
                expected=", ".join(ACTIVATIONS),
                remedy=closest(self.activation, ACTIVATIONS),
            )
        x_BTD = zero_where_padded(x_BTD.astype(self.dtype), mask_BT)
        for i, features in enumerate(self.channels):
            x_BTD = TemporalBlock(
                features,
                self.kernel_size,
                2**i,
                self.causal,
                self.dropout,
                self.dtype,
                self.activation,
                name=f"block_{i}",
            )(x_BTD, mask_BT, train=train)
        return x_BTD
