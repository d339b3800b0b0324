"""Temporal convolutional networks of several kernel sizes over one input (Yu et al. 2025, eq. 5-7).

The networks differ only in their taps. They are computed one after the other, or together:
kernels are padded with zero taps to the largest size, and each convolution then serves all
networks. The parameters are the same, and so are the results up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from emojax.errors import InputError
from emojax.layers.activations import ACTIVATIONS
from emojax.layers.convolution import convolve
from emojax.layers.dropout import Dropout
from emojax.layers.kernels import MULTI_KERNEL_TCN, chosen
from emojax.layers.tcn import TemporalConvNet, normalised_kernel
from emojax.ops.masking import zero_where_padded
from emojax.types import Array

WAYS = ("apart", "together")
_ACTIVATION = "leaky_relu"


def stacked_kernels(kernels: Sequence[Array], causal: bool) -> Array:
    """Pads kernels (k, I, O) of any k with zero taps to (N, largest k, I, O).

    The convolutions stay the same: zero taps go before the others if causal, and on both sides of
    centred kernels.

    Args:
        kernels: N kernels, of the same I and O; odd k when not causal.
        causal: as in ``convolve``.
    """
    taps = max(kernel.shape[0] for kernel in kernels)
    padded = []
    for kernel_KIO in kernels:
        missing = taps - kernel_KIO.shape[0]
        before = missing if causal else missing // 2
        padded.append(jnp.pad(kernel_KIO, ((before, missing - before), (0, 0), (0, 0))))
    return jnp.stack(padded)


class MultiKernelTCN(nn.Module):
    """Concatenates TCN_k1(x), TCN_k2(x), ..., one ``TemporalConvNet`` for each kernel size.

    Parameters: "kernel_<k>" / those of a ``TemporalConvNet``, in either way of computing them.

    Attributes:
        channels: output width of each block, the same in every network.
        kernel_sizes: taps of the networks.
        dropout, causal, dtype: as in ``TemporalConvNet``.
        way: one of ``WAYS``; None for what ``layers.kernels`` has for the backend. The two
            draw different dropout masks.
    """

    channels: tuple[int, ...]
    kernel_sizes: tuple[int, ...] = (3, 5, 7)
    dropout: float = 0.1
    causal: bool = True
    dtype: Any = jnp.float32
    way: str | None = None

    @nn.compact
    def __call__(self, x_BTD: Array, mask_BT: Array, *, train: bool) -> Array:
        """Encodes (B, T, D) as (B, T, kernels * channels[-1]).

        Args:
            x_BTD: features; padded frames may hold anything.
            mask_BT: bool, False on padding. The output is zero there, and real frames do
                not depend on what padded frames hold.
            train: True if dropout acts (needs a "dropout" key).

        Raises:
            InputError: unknown ``way``.
        """
        way = chosen(MULTI_KERNEL_TCN) if self.way is None else self.way
        if way not in WAYS:
            raise InputError(
                "Networks of several kernel sizes cannot be computed this way.",
                field="way",
                found=way,
                expected=", ".join(WAYS),
            )
        # New parameters are those of the networks, so networks make them.
        if way == "together" and len(self.kernel_sizes) > 1 and not self.is_initializing():
            own = self.variables["params"]
            params = [own[f"kernel_{size}"] for size in self.kernel_sizes]
            return self._together(params, x_BTD, mask_BT, train=train)
        scales = [
            TemporalConvNet(
                self.channels,
                kernel_size=kernel_size,
                dropout=self.dropout,
                causal=self.causal,
                dtype=self.dtype,
                activation=_ACTIVATION,
                name=f"kernel_{kernel_size}",
            )(x_BTD, mask_BT, train=train)
            for kernel_size in self.kernel_sizes
        ]
        return jnp.concatenate(scales, axis=-1)

    def _together(
        self, networks: Sequence[Any], x_BTD: Array, mask_BT: Array, *, train: bool
    ) -> Array:
        """Computes ``__call__`` from the parameters of the N networks, all at once."""
        activation = ACTIVATIONS[_ACTIVATION]("")
        x: Array = zero_where_padded(x_BTD.astype(self.dtype), mask_BT)  # (B, T, D), of all
        for i, features in enumerate(self.channels):
            blocks = [network[f"block_{i}"] for network in networks]
            y: Array = x
            for j in range(2):
                y = self._convolve([block[f"conv_{j}"] for block in blocks], y, 2**i)
                y = Dropout(self.dropout, name=f"dropout_{i}_{j}")(activation(y), train=train)
                y = zero_where_padded(y, mask_BT[None])
            if x.shape[-1] != features:
                x = _dense([block["residual"] for block in blocks], x, self.dtype)
            residual = x if x.ndim == 4 else x[None]
            x = zero_where_padded(activation(residual + y), mask_BT[None])
        return jnp.moveaxis(x, 0, 2).reshape(*mask_BT.shape, -1)

    def _convolve(self, layers: Sequence[Mapping[str, Any]], x: Array, dilation: int) -> Array:
        """Convolves (B, T, I), which the N layers share, or (N, B, T, I), to (N, B, T, O)."""
        kernels = [normalised_kernel(layer["direction"], layer["scale"]) for layer in layers]
        kernel_NKIO = stacked_kernels(kernels, self.causal).astype(self.dtype)
        bias_NO = jnp.stack([layer["bias"] for layer in layers]).astype(self.dtype)
        if x.ndim == 4:
            each = jax.vmap(lambda x, kernel: convolve(x, kernel, dilation, self.causal))
            return each(x, kernel_NKIO) + bias_NO[:, None, None, :]
        count, taps, inputs, outputs = kernel_NKIO.shape
        wide_KIO = jnp.moveaxis(kernel_NKIO, 0, 2).reshape(taps, inputs, count * outputs)
        y_BTO = convolve(x, wide_KIO, dilation, self.causal).reshape(*x.shape[:2], count, outputs)
        return jnp.moveaxis(y_BTO, 2, 0) + bias_NO[:, None, None, :]


def _dense(layers: Sequence[Mapping[str, Any]], x: Array, dtype: Any) -> Array:
    """Applies N ``Dense`` layers to (B, T, I), which they share, or to (N, B, T, I), one each."""
    kernel_NIO = jnp.stack([layer["kernel"] for layer in layers]).astype(dtype)
    bias_NO = jnp.stack([layer["bias"] for layer in layers]).astype(dtype)
    each = "nbti,nio->nbto" if x.ndim == 4 else "bti,nio->nbto"
    return jnp.einsum(each, x, kernel_NIO) + bias_NO[:, None, None, :]
