"""Dilated convolution over time, in the ways that ``layers.kernels`` chooses from.

Both give the same numbers up to rounding, also under ``jax.vmap`` over replicas.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax

from emojax.errors import InputError
from emojax.layers.kernels import TEMPORAL_CONVOLUTION, chosen
from emojax.types import Array

# (x_BTD, kernel_KIO, dilation, frames of zeros before the window) -> (B, T, O).
Convolution = Callable[[Array, Array, int, int], Array]


def as_convolution(x_BTD: Array, kernel_KIO: Array, dilation: int, before: int) -> Array:
    """Calls XLA's convolution, a grouped one under ``vmap`` over inputs and kernels."""
    after = (kernel_KIO.shape[0] - 1) * dilation - before
    return lax.conv_general_dilated(
        jnp.asarray(x_BTD),
        jnp.asarray(kernel_KIO),
        window_strides=(1,),
        padding=[(before, after)],
        rhs_dilation=(dilation,),
        dimension_numbers=("NWC", "WIO", "NWC"),
    )


def as_one_product(x_BTD: Array, kernel_KIO: Array, dilation: int, before: int) -> Array:
    """Computes one matrix product of the shifted rows side by side (im2col)."""
    taps, inputs, outputs = kernel_KIO.shape
    steps, after = x_BTD.shape[1], (taps - 1) * dilation - before
    padded = jnp.pad(x_BTD, ((0, 0), (before, after), (0, 0)))
    seen = [padded[:, k * dilation : k * dilation + steps] for k in range(taps)]
    rows_BTF = jnp.concatenate(seen, axis=-1)
    return rows_BTF @ kernel_KIO.reshape(taps * inputs, outputs)


CONVOLUTIONS: dict[str, Convolution] = {
    "convolution": as_convolution,
    "one_product": as_one_product,
}


def convolve(
    x_BTD: Array, kernel_KIO: Array, dilation: int, causal: bool, way: str | None = None
) -> Array:
    """Convolves over time with dilation, stride 1 and zeros outside the window.

        y_t = sum over k of x_(t + k * dilation - before) kernel_k

    Args:
        x_BTD: (B, T, I).
        kernel_KIO: (taps, I, O), of the same dtype.
        dilation: frames between taps.
        causal: True sees the present and the past, False is centred (odd kernels only).
        way: a key of ``CONVOLUTIONS``; None for what ``layers.kernels`` has for the backend.

    Returns:
        (B, T, O).

    Raises:
        InputError: unknown ``way``.
    """
    way = chosen(TEMPORAL_CONVOLUTION) if way is None else way
    if way not in CONVOLUTIONS:
        raise InputError(
            "A convolution over time cannot be computed this way.",
            field="way",
            found=way,
            expected=", ".join(CONVOLUTIONS),
        )
    reach = (kernel_KIO.shape[0] - 1) * dilation
    return CONVOLUTIONS[way](x_BTD, kernel_KIO, dilation, reach if causal else reach // 2)
