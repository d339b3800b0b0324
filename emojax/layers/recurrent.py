"""Recurrent networks, of whose state and output padding is no part."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from emojax.layers.dropout import Dropout
from emojax.layers.recursions import gru_scan, lstm_scan
from emojax.ops.masking import zero_where_padded
from emojax.types import Array


def orthogonal_gates(key: Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> Array:
    """Draws (H, gates H) recurrent weights, an orthogonal (H, H) matrix for each gate.

    One draw of the whole shape would have orthonormal rows across gates, so that each gate
    alone would shrink the state.
    """
    hidden, width = shape
    gates = width // hidden
    draw = nn.initializers.orthogonal()
    keys = jax.random.split(key, gates)
    return jnp.concatenate([draw(keys[g], (hidden, hidden), dtype) for g in range(gates)], axis=1)


class LSTM(nn.Module):
    """One LSTM layer, forward in time or in both directions.

    Attributes:
        features: output width. Bidirectional layers give each direction half of it.
        causal: True runs forward only, False in both directions.
        dtype: the dtype of the computation; parameters stay float32.
    """

    features: int
    causal: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_BTD: Array, mask_BT: Array) -> Array:
        """Encodes (B, T, D) as (B, T, features); ``mask_BT`` is False on padding."""
        hidden = self.features if self.causal else self.features // 2
        x_BTD = zero_where_padded(x_BTD.astype(self.dtype), mask_BT)
        outputs = []
        for direction in ("forward",) if self.causal else ("forward", "backward"):
            gates_BTG = nn.Dense(4 * hidden, dtype=self.dtype, name=f"{direction}_input")(x_BTD)
            kernel_HG = self.param(f"{direction}_recurrent", orthogonal_gates, (hidden, 4 * hidden))
            outputs.append(
                lstm_scan(
                    gates_BTG,
                    kernel_HG.astype(self.dtype),
                    mask_BT,
                    reverse=direction == "backward",
                )
            )
        return jnp.concatenate(outputs, axis=-1)


class GRU(nn.Module):
    """One GRU layer, forward in time or in both directions.

    Parameters of each direction: ``<direction>_input`` (Dense to the gates r, z, n),
    ``<direction>_recurrent`` (H, 3H) and ``<direction>_recurrent_bias`` (H,), which belongs to
    n alone: a second bias of r and z would only add to the first.

    Where the collection "carry" is mutable, the forward direction begins with the state in it
    and leaves its own, so that a sequence can come in parts (see ``emojax.models.extent``).

    Attributes:
        features: output width. Bidirectional layers give each direction half of it.
        causal: True runs forward only, False in both directions.
        dtype: the dtype of the computation; parameters stay float32.
    """

    features: int
    causal: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_BTD: Array, mask_BT: Array) -> Array:
        """Encodes (B, T, D) as (B, T, features); ``mask_BT`` is False on padding."""
        hidden = self.features if self.causal else self.features // 2
        x_BTD = zero_where_padded(x_BTD.astype(self.dtype), mask_BT)
        outputs = []
        for direction in ("forward",) if self.causal else ("forward", "backward"):
            gates_BTG = nn.Dense(3 * hidden, dtype=self.dtype, name=f"{direction}_input")(x_BTD)
            kernel_HG = self.param(f"{direction}_recurrent", orthogonal_gates, (hidden, 3 * hidden))
            bias_H = self.param(f"{direction}_recurrent_bias", nn.initializers.zeros, (hidden,))
            state: nn.Variable[Any] | None = None
            if self._carries and direction == "forward":
                shape = (x_BTD.shape[0], hidden)
                state = self.variable("carry", direction, jnp.zeros, shape, self.dtype)
            h_BTH = gru_scan(
                gates_BTG,
                kernel_HG.astype(self.dtype),
                bias_H.astype(self.dtype),
                mask_BT,
                reverse=direction == "backward",
                initial_BH=None if state is None else state.value,
            )
            if state is not None:
                # Padding, where this is zero, comes only after a sequence's end.
                state.value = h_BTH[:, -1]
            outputs.append(h_BTH)
        return jnp.concatenate(outputs, axis=-1)

    @property
    def _carries(self) -> bool:
        return self.is_mutable_collection("carry") and not self.is_initializing()


class _Stacked(nn.Module):
    """Recurrent layers ``<kind>_0``, ``<kind>_1``, ... with dropout between them."""

    channels: tuple[int, ...]
    dropout: float = 0.1
    causal: bool = True
    dtype: Any = jnp.float32

    layer: ClassVar[type[LSTM] | type[GRU]]
    kind: ClassVar[str]

    @nn.compact
    def __call__(self, x_BTD: Array, mask_BT: Array, *, train: bool) -> Array:
        """Encodes (B, T, D) as (B, T, channels[-1]).

        Args:
            x_BTD: features; padded frames may hold anything.
            mask_BT: bool, False on padding. The output is zero there, and real frames do
                not depend on what padded frames hold.
            train: True if dropout acts (needs a "dropout" key).
        """
        for i, features in enumerate(self.channels):
            if i > 0:
                x_BTD = Dropout(self.dropout)(x_BTD, train=train)
            layer = self.layer(features, self.causal, self.dtype, name=f"{self.kind}_{i}")
            x_BTD = layer(x_BTD, mask_BT)
        return x_BTD


class StackedLSTM(_Stacked):
    """LSTM layers one after another with dropout between them.

    Attributes:
        channels: output width of each layer; even numbers if not causal.
        dropout: rate between layers.
        causal, dtype: as in ``LSTM``.
    """

    layer = LSTM
    kind = "lstm"


class StackedGRU(_Stacked):
    """GRU layers one after another with dropout between them.

    Attributes:
        channels: output width of each layer; even numbers if not causal.
        dropout: rate between layers.
        causal, dtype: as in ``GRU``.
    """

    layer = GRU
    kind = "gru"
