"""Losses, one number per target, over the frames that are annotated.

Every loss has the signature ``loss(outputs_BTC, labels_BTK, mask_BTK) -> (targets,)``; those of
categorical and binary tasks also take the keyword ``class_weights_C``. Sums
are taken in float32 or better whatever the dtype of the outputs. A target without a single
valid frame has loss 0 and gradient 0; value and gradient are finite on constant targets and
on a single frame too, and nothing that is masked reaches either.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from emojax.ops.masking import accumulable, masked_mean, masked_sum, safe_divide
from emojax.ops.metrics import moments, window_moments
from emojax.types import Array


def ccc_loss(
    outputs_BTC: Array,
    labels_BTC: Array,
    mask_BTC: Array,
    *,
    form: Literal["batch", "window"] = "batch",
) -> Array:
    """Computes 1 - CCC of each column (Praveen and Alam 2024, eq. 15 and 16; Lin 1989).

    Args:
        outputs_BTC: predictions.
        labels_BTC: annotations, arbitrary finite where masked.
        mask_BTC: bool, True where annotated.
        form: "batch" takes one CCC over all valid frames of the batch; "window" takes one per
            window and averages over the windows that have valid frames, as the authors'
            public code does.

    Returns:
        (C,) in [0, 2]; 1 with gradient 0 where prediction and label are the same constant
        (CCC is 0 there, see ``Moments.concordance``), 0 on no valid frame.

    Raises:
        ValueError: the shapes differ or ``form`` is unknown.
    """
    if form == "batch":
        state = moments(outputs_BTC, labels_BTC, mask_BTC)
        distance = 1.0 - state.concordance()
        return jnp.where(state.count > 0, distance, jnp.zeros_like(distance))
    if form == "window":
        state = window_moments(outputs_BTC, labels_BTC, mask_BTC)
        return masked_mean(1.0 - state.concordance(), state.count > 0, axis=0)
    raise ValueError(f"form is {form!r}; expected 'batch' or 'window'")


def ccc_window_loss(outputs_BTC: Array, labels_BTC: Array, mask_BTC: Array) -> Array:
    """Computes ``ccc_loss`` with ``form="window"``."""
    return ccc_loss(outputs_BTC, labels_BTC, mask_BTC, form="window")


def mse_loss(outputs_BTC: Array, labels_BTC: Array, mask_BTC: Array) -> Array:
    """Computes the mean squared error of each column over its valid frames.

    ExpTrm, eq. 13, adds the errors of valence and arousal. The training loss is their mean, so half
    of that.

    Args:
        outputs_BTC: predictions.
        labels_BTC: annotations, arbitrary finite where masked.
        mask_BTC: bool, True where annotated.

    Returns:
        (C,); 0 on no valid frame.
    """
    x_BTC, y_BTC = accumulable(outputs_BTC), accumulable(labels_BTC)
    # Masked errors are removed before squaring, so that a huge one cannot overflow.
    error_BTC = jnp.where(mask_BTC, x_BTC - y_BTC, jnp.zeros_like(x_BTC))
    return masked_mean(error_BTC**2, mask_BTC, axis=(0, 1))


def cross_entropy_loss(
    outputs_BTC: Array,
    labels_BT1: Array,
    mask_BT1: Array,
    *,
    class_weights_C: Array | None = None,
) -> Array:
    """Computes the softmax cross-entropy, averaged over valid frames.

    Args:
        outputs_BTC: logits of C classes.
        labels_BT1: class index as an integral float; arbitrary finite where masked.
        mask_BT1: bool, True where annotated.
        class_weights_C: weight of each class, at least 0: the mean over frames is then
            weighted by the weights of their classes, as PyTorch's CrossEntropyLoss has it.

    Returns:
        (1,); 0 on no valid frame, or none of a class that weighs anything.
    """
    logits_BTC = accumulable(outputs_BTC)
    logits_BTC = jnp.where(mask_BT1, logits_BTC, jnp.zeros_like(logits_BTC))
    class_BT1 = jnp.where(mask_BT1, labels_BT1, jnp.zeros_like(labels_BT1)).astype(jnp.int32)
    picked_BT1 = jnp.take_along_axis(jax.nn.log_softmax(logits_BTC), class_BT1, axis=-1)
    if class_weights_C is None:
        return masked_mean(-picked_BT1, mask_BT1, axis=(0, 1))
    weight_BT1 = jnp.asarray(class_weights_C, picked_BT1.dtype)[class_BT1]
    total_1 = masked_sum(-weight_BT1 * picked_BT1, mask_BT1, axis=(0, 1))
    return safe_divide(total_1, masked_sum(weight_BT1, mask_BT1, axis=(0, 1)))


def binary_cross_entropy_loss(
    outputs_BTC: Array,
    labels_BTC: Array,
    mask_BTC: Array,
    *,
    class_weights_C: Array | None = None,
) -> Array:
    """Computes the sigmoid cross-entropy of each column over its own valid frames.

    For a logit z and a label y it is ``log(1 + exp(z)) - y z``; with a weight w of positive
    frames it is ``(1 - y) z + (1 + (w - 1) y) log(1 + exp(-z))``.

    Args:
        outputs_BTC: logits, one per action unit.
        labels_BTC: 0 or 1; arbitrary finite where masked.
        mask_BTC: bool, True where this action unit of this frame is annotated.
        class_weights_C: weight of positive frames of each unit; the mean is over the number
            of frames all the same, as with ``pos_weight`` of PyTorch's BCEWithLogitsLoss.

    Returns:
        (C,); 0 on no valid frame.
    """
    z_BTC, y_BTC = accumulable(outputs_BTC), accumulable(labels_BTC)
    z_BTC = jnp.where(mask_BTC, z_BTC, jnp.zeros_like(z_BTC))
    y_BTC = jnp.where(mask_BTC, y_BTC, jnp.zeros_like(y_BTC))
    if class_weights_C is None:
        loss_BTC = jax.nn.softplus(z_BTC) - y_BTC * z_BTC
    else:
        weight_BTC = 1 + (jnp.asarray(class_weights_C, z_BTC.dtype)[None, None] - 1) * y_BTC
        loss_BTC = (1 - y_BTC) * z_BTC + weight_BTC * jax.nn.softplus(-z_BTC)
    return masked_mean(loss_BTC, mask_BTC, axis=(0, 1))
