"""Batch normalisation that padding cannot touch."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from emojax.ops.masking import summing_dtype, zero_where_padded
from emojax.types import Array


class MaskedBatchNorm(nn.Module):
    """Batch normalisation over the real frames of a batch (Ioffe and Szegedy 2015, alg. 1).

    Mean and biased variance of each feature are taken over frames where the mask is True,
    in float32. A batch without a single real frame leaves the running statistics as they
    are and gives finite numbers (``flax.linen.BatchNorm`` with a mask gives NaN and keeps
    it). The running variance is the biased one, where PyTorch keeps the unbiased one.

    Attributes:
        momentum: share of the running statistics that survives a step.
        epsilon: added to the variance.
        dtype: the dtype of the output; statistics and parameters stay float32.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_BTD: Array, mask_BT: Array, *, train: bool) -> Array:
        """Normalises (B, T, D).

        Args:
            x_BTD: features.
            mask_BT: bool, False on padding; the output is zero there.
            train: True uses this batch's statistics and updates the running ones (the
                "batch_stats" collection has to be mutable), False uses the running ones.
        """
        shape = (x_BTD.shape[-1],)
        scale_D = self.param("scale", nn.initializers.ones_init(), shape)
        bias_D = self.param("bias", nn.initializers.zeros_init(), shape)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape)

        x_BTD = zero_where_padded(x_BTD.astype(summing_dtype(x_BTD)), mask_BT)
        if train:
            frames = jnp.sum(mask_BT.astype(x_BTD.dtype))
            count = jnp.maximum(frames, 1.0)
            mean_D = jnp.sum(x_BTD, axis=(0, 1)) / count
            centred_BTD = zero_where_padded(x_BTD - mean_D[None, None, :], mask_BT)
            var_D = jnp.sum(jnp.square(centred_BTD), axis=(0, 1)) / count
            if not self.is_initializing():
                keep = jnp.where(frames > 0, self.momentum, 1.0)
                running_mean.value = keep * running_mean.value + (1 - keep) * mean_D
                running_var.value = keep * running_var.value + (1 - keep) * var_D
        else:
            mean_D, var_D = running_mean.value, running_var.value
            centred_BTD = x_BTD - mean_D[None, None, :]

        gain_D = scale_D * lax.rsqrt(var_D + self.epsilon)
        y_BTD = centred_BTD * gain_D[None, None, :] + bias_D[None, None, :]
        return zero_where_padded(y_BTD, mask_BT).astype(self.dtype)
