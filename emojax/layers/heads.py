"""Output layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from emojax.layers.activations import NEGATIVE_SLOPE
from emojax.layers.dropout import Dropout
from emojax.layers.normalisation import MaskedBatchNorm
from emojax.ops.masking import summing_dtype
from emojax.specs import TASKS
from emojax.types import Array

HEADS = ("per_target", "joint")
OUTPUTS = ("linear", "tanh")
# How the prediction of a continuous task may end after its head, see ``activate_heads``.
HEAD_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "none": lambda y: y,
    "tanh": jnp.tanh,
    "relu": nn.relu,
}


class MLPHead(nn.Module):
    """Dense, optional batch normalisation, LeakyReLU(0.01), dropout, Dense, for each frame.

    Attributes:
        outputs: C, columns of the output.
        hidden: width of the layer in between; 0 leaves it out, and all that belongs to it.
        batch_norm: normalise the hidden layer over the real frames.
        bounded: end in tanh, for labels in [-1, 1].
        dropout: rate on the hidden layer.
        dtype: the dtype of the hidden layer; the output is float32.
    """

    outputs: int
    hidden: int = 256
    batch_norm: bool = False
    bounded: bool = False
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_BTD: Array, mask_BT: Array, *, train: bool) -> Array:
        """Predicts (B, T, outputs) from (B, T, D); ``mask_BT`` is False on padding."""
        h_BTD = x_BTD
        if self.hidden:
            # Batch normalisation takes any bias before it away again.
            h_BTD = nn.Dense(
                self.hidden, use_bias=not self.batch_norm, dtype=self.dtype, name="hidden"
            )(h_BTD)
            if self.batch_norm:
                h_BTD = MaskedBatchNorm(dtype=self.dtype, name="norm")(h_BTD, mask_BT, train=train)
            h_BTD = nn.leaky_relu(h_BTD, NEGATIVE_SLOPE)
            h_BTD = Dropout(self.dropout)(h_BTD, train=train)
        y_BTC = nn.Dense(self.outputs, dtype=self.dtype, name="output")(h_BTD)
        y_BTC = y_BTC.astype(summing_dtype(y_BTC))
        return jnp.tanh(y_BTC) if self.bounded else y_BTC


def head_columns(outputs: Mapping[str, int], heads: str) -> dict[str, dict[str, int]]:
    """Returns the heads of a model: task -> head name -> number of the head's output columns.

    Args:
        outputs: task -> C.
        heads: "joint" has one head for each task; "per_target" one for each label, so that training
            one column alone is a model of its own. A categorical task is one target.
    """
    targets: dict[str, dict[str, int]] = {}
    for task, columns in outputs.items():
        spec = TASKS.get(task)
        labels = spec.labels if spec is not None else ()
        if heads == "joint" or (spec is not None and spec.kind == "categorical"):
            targets[task] = {task: columns}
        else:
            names = labels if len(labels) == columns else map(str, range(columns))
            targets[task] = {f"{task}_{name}": 1 for name in names}
    return targets


def task_heads(
    x_BTD: Array,
    mask_BT: Array,
    outputs: Mapping[str, int],
    *,
    heads: str,
    hidden: int,
    output: str = "linear",
    batch_norm: bool = False,
    dropout: float = 0.0,
    dtype: Any = jnp.float32,
    train: bool,
) -> dict[str, Array]:
    """Predicts every task from shared features; to be called inside ``nn.compact``.

    Its ``MLPHead``s belong to the calling module and are named "head_<task>" or, with
    "per_target", "head_<task>_<label>".

    Args:
        x_BTD: features.
        mask_BT: bool, False on padding.
        outputs: task -> C.
        heads: see ``head_columns``.
        hidden, batch_norm, dropout, dtype: as in ``MLPHead``.
        output: "linear", or "tanh" to end continuous tasks' heads in tanh.
        train: True if dropout acts and running statistics move.

    Returns:
        task -> (B, T, C) float32.
    """
    predictions: dict[str, Array] = {}
    for task, columns in head_columns(outputs, heads).items():
        continuous = task not in TASKS or TASKS[task].kind == "continuous"
        parts = [
            MLPHead(
                width,
                hidden,
                batch_norm=batch_norm,
                bounded=continuous and output == "tanh",
                dropout=dropout,
                dtype=dtype,
                name=f"head_{head}",
            )(x_BTD, mask_BT, train=train)
            for head, width in columns.items()
        ]
        predictions[task] = jnp.concatenate(parts, axis=-1)
    return predictions


def activate_heads(predictions: Mapping[str, Array], activation: str) -> dict[str, Array]:
    """Ends continuous tasks in a key of ``HEAD_ACTIVATIONS``; other tasks stay logits.

    Args:
        predictions: task -> (B, T, C).
        activation: the key.
    """
    act = HEAD_ACTIVATIONS[activation]
    return {
        task: act(y_BTC) if task not in TASKS or TASKS[task].kind == "continuous" else y_BTC
        for task, y_BTC in predictions.items()
    }
