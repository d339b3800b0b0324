"""Recurrent networks whose state and output padding cannot touch."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from emojax.layers.dropout import Dropout
from emojax.ops.masking import zero_where_padded
from emojax.types import Array


def lstm_scan(
    gates_BTG: Array, kernel_HG: Array, mask_BT: Array, *, reverse: bool = False
) -> Array:
    """Run the LSTM recursion (Hochreiter and Schmidhuber 1997; gates i, f, g, o).

    c_t = f * c_(t-1) + i * g,  h_t = o * tanh(c_t), from zero states. Where the mask is
    False the state is carried over unchanged and the output is zero.

    Args:
        gates_BTG: (B, T, 4H), W x_t + b: the input's share, computed for all frames at
            once because a large matrix product outside the scan beats T small ones.
        kernel_HG: (H, 4H), the recurrent weights.
        mask_BT: bool, False on padding.
        reverse: run from the last frame to the first.

    Returns:
        h of every frame, (B, T, H).
    """
    batch, hidden = gates_BTG.shape[0], kernel_HG.shape[0]
    zeros_BH: Array = jnp.zeros((batch, hidden), gates_BTG.dtype)

    def step(
        carry: tuple[Array, Array], frame: tuple[Array, Array]
    ) -> tuple[tuple[Array, Array], Array]:
        cell_BH, hidden_BH = carry
        gates_BG, real_B = frame
        i, f, g, o = jnp.split(gates_BG + hidden_BH @ kernel_HG, 4, axis=-1)
        new_cell_BH = nn.sigmoid(f) * cell_BH + nn.sigmoid(i) * jnp.tanh(g)
        new_hidden_BH = nn.sigmoid(o) * jnp.tanh(new_cell_BH)
        real_B1 = real_B[:, None]
        cell_BH = jnp.where(real_B1, new_cell_BH, cell_BH)
        hidden_BH = jnp.where(real_B1, new_hidden_BH, hidden_BH)
        return (cell_BH, hidden_BH), hidden_BH

    frames = (jnp.swapaxes(gates_BTG, 0, 1), jnp.swapaxes(mask_BT, 0, 1))
    _, h_TBH = lax.scan(step, (zeros_BH, zeros_BH), frames, reverse=reverse)
    return zero_where_padded(jnp.swapaxes(h_TBH, 0, 1), mask_BT)


def orthogonal_gates(key: Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> Array:
    """Draw (H, gates H) recurrent weights, an orthogonal (H, H) matrix for each gate.

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
        dtype: of the computation; parameters stay float32.
    """

    features: int
    causal: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_BTD: Array, mask_BT: Array) -> Array:
        """Encode (B, T, D) as (B, T, features); ``mask_BT`` is False on padding."""
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


def gru_scan(
    gates_BTG: Array,
    kernel_HG: Array,
    bias_H: Array,
    mask_BT: Array,
    *,
    reverse: bool = False,
) -> Array:
    """Run the GRU recursion (Cho et al. 2014, in the form of cuDNN and PyTorch; gates r, z, n).

    With a = W x_t + b of each gate given, r = sigmoid(a_r + U_r h), z = sigmoid(a_z + U_z h),
    n = tanh(a_n + r * (U_n h + c)) and h_t = (1 - z) * n + z * h, from a zero state. The reset
    gate acts after the product with U_n, which is why n has a second bias c. Where the mask is
    False the state is carried over unchanged and the output is zero.

    Args:
        gates_BTG: (B, T, 3H), W x_t + b: the input's share, computed for all frames at
            once because a large matrix product outside the scan beats T small ones.
        kernel_HG: (H, 3H), U, the recurrent weights.
        bias_H: (H,), c.
        mask_BT: bool, False on padding.
        reverse: run from the last frame to the first.

    Returns:
        h of every frame, (B, T, H).
    """
    batch, hidden = gates_BTG.shape[0], kernel_HG.shape[0]
    zeros_BH: Array = jnp.zeros((batch, hidden), gates_BTG.dtype)

    def step(hidden_BH: Array, frame: tuple[Array, Array]) -> tuple[Array, Array]:
        gates_BG, real_B = frame
        input_r, input_z, input_n = jnp.split(gates_BG, 3, axis=-1)
        state_r, state_z, state_n = jnp.split(hidden_BH @ kernel_HG, 3, axis=-1)
        r = nn.sigmoid(input_r + state_r)
        z = nn.sigmoid(input_z + state_z)
        n = jnp.tanh(input_n + r * (state_n + bias_H[None]))
        hidden_BH = jnp.where(real_B[:, None], (1 - z) * n + z * hidden_BH, hidden_BH)
        return hidden_BH, hidden_BH

    frames = (jnp.swapaxes(gates_BTG, 0, 1), jnp.swapaxes(mask_BT, 0, 1))
    _, h_TBH = lax.scan(step, zeros_BH, frames, reverse=reverse)
    return zero_where_padded(jnp.swapaxes(h_TBH, 0, 1), mask_BT)


class GRU(nn.Module):
    """One GRU layer, forward in time or in both directions.

    Parameters of each direction: ``<direction>_input`` (Dense to the gates r, z, n),
    ``<direction>_recurrent`` (H, 3H) and ``<direction>_recurrent_bias`` (H,), which belongs to
    n alone: a second bias of r and z would only add to the first.

    Attributes:
        features: output width. Bidirectional layers give each direction half of it.
        causal: True runs forward only, False in both directions.
        dtype: of the computation; parameters stay float32.
    """

    features: int
    causal: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_BTD: Array, mask_BT: Array) -> Array:
        """Encode (B, T, D) as (B, T, features); ``mask_BT`` is False on padding."""
        hidden = self.features if self.causal else self.features // 2
        x_BTD = zero_where_padded(x_BTD.astype(self.dtype), mask_BT)
        outputs = []
        for direction in ("forward",) if self.causal else ("forward", "backward"):
            gates_BTG = nn.Dense(3 * hidden, dtype=self.dtype, name=f"{direction}_input")(x_BTD)
            kernel_HG = self.param(f"{direction}_recurrent", orthogonal_gates, (hidden, 3 * hidden))
            bias_H = self.param(f"{direction}_recurrent_bias", nn.initializers.zeros, (hidden,))
            outputs.append(
                gru_scan(
                    gates_BTG,
                    kernel_HG.astype(self.dtype),
                    bias_H.astype(self.dtype),
                    mask_BT,
                    reverse=direction == "backward",
                )
            )
        return jnp.concatenate(outputs, axis=-1)


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
        """Encode (B, T, D) as (B, T, channels[-1]).

        Args:
            x_BTD: features; padded frames may hold anything.
            mask_BT: bool, False on padding. The output is zero there, and real frames do
                not depend on what padded frames hold.
            train: whether dropout acts (needs a "dropout" key).
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
