"""Masks: which entries of an array count.

A mask is boolean and True where the entry counts. Masked entries are replaced before any
arithmetic, never multiplied away afterwards, so that whatever they hold cannot reach a value
or a gradient. Every function takes NumPy arrays as well as JAX arrays, traced or not.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np

from emojax.types import Array

Axes = int | tuple[int, ...] | None


def namespace(*arrays: Array) -> ModuleType:
    """Returns ``numpy`` if every array is NumPy's, otherwise ``jax.numpy``."""
    return np if all(isinstance(x, (np.ndarray, np.generic)) for x in arrays) else jnp


def accumulable(x: Array) -> Array:
    """Casts to the precision in which sums are taken.

    NumPy arrays, which live on the host, become float64. JAX arrays become at least float32,
    so that bfloat16 activations are never summed in bfloat16.
    """
    if isinstance(x, (np.ndarray, np.generic)):
        return np.asarray(x, np.float64)
    return x.astype(summing_dtype(x))


def summing_dtype(x: Array) -> Any:
    """Returns the dtype in which entries of a JAX array are summed: float32, or its own if wider.

    Models compute in float64 where their fields say so and JAX has it enabled, which tests do to
    tell an error from rounding.
    """
    return jnp.promote_types(x.dtype, jnp.float32)


def masked_sum(x: Array, mask: Array, axis: Axes = None, *, keepdims: bool = False) -> Array:
    """Sums the entries of ``x`` where ``mask`` is True; 0 if there are none.

    Args:
        x: any shape.
        mask: bool, the same number of axes as ``x`` and broadcastable to it.
        axis: axes to sum over; None for all.
        keepdims: keep summed axes with length 1.
    """
    xp = namespace(x, mask)
    kept = xp.where(mask, x, xp.zeros_like(x))
    return kept.sum(axis=axis, keepdims=keepdims)


def masked_count(x: Array, mask: Array, axis: Axes = None, *, keepdims: bool = False) -> Array:
    """Counts the entries of ``x`` that ``masked_sum`` sums over, in the dtype of ``x``."""
    xp = namespace(x, mask)
    ones = xp.where(mask, xp.ones_like(x), xp.zeros_like(x))
    return ones.sum(axis=axis, keepdims=keepdims)


def safe_divide(numerator: Array, denominator: Array, floor: Array | float = 0.0) -> Array:
    """Returns ``numerator / denominator``, and 0 with gradient 0 where ``denominator <= floor``.

    The denominator is replaced before the division, not the quotient after it: otherwise the
    gradient of the branch that was not taken would be NaN. A NaN that comes in goes out, so
    that a training run that diverged is seen.
    """
    xp = namespace(numerator, denominator)
    usable = ~(denominator <= floor)
    quotient = numerator / xp.where(usable, denominator, xp.ones_like(denominator))
    return xp.where(usable, quotient, xp.zeros_like(quotient))


def masked_mean(x: Array, mask: Array, axis: Axes = None, *, keepdims: bool = False) -> Array:
    """Averages the entries of ``x`` where ``mask`` is True; 0 if there are none.

    Args:
        x: any shape.
        mask: bool, the same number of axes as ``x`` and broadcastable to it.
        axis: axes to average over; None for all.
        keepdims: keep averaged axes with length 1.
    """
    total = masked_sum(x, mask, axis, keepdims=keepdims)
    return safe_divide(total, masked_count(x, mask, axis, keepdims=keepdims))


def zero_where_padded(x_BTD: Array, mask_BT: Array) -> Array:
    """Returns ``x_BTD`` with zeros at frames where ``mask_BT`` is False (padding).

    Any number of leading axes is accepted; ``x_BTD`` has one trailing axis more.
    """
    xp = namespace(x_BTD, mask_BT)
    return xp.where(mask_BT[..., None], x_BTD, xp.zeros_like(x_BTD))
