"""ExpTrm: cross-modal transformer for audio-visual expression (Brown et al., 2025).

"Transformer-based Visual Expression Identification with Recurrent Neural Network", preprint
doi:10.20944/preprints202503.1265.v1. Each stream is projected, given positions (eq. 5-6) and
encoded by self-attention; streams attend to each other (eq. 7-10), a learned weighted sum fuses
them (eq. 11), and a dense layer predicts each frame (eq. 12). The "gated fusion networks" that the
paper leaves as future work (section 6) are here as an option.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from emojax.layers.activations import ACTIVATIONS
from emojax.layers.attention import MultiHeadAttention, sinusoidal_positions
from emojax.layers.dropout import Dropout
from emojax.layers.heads import HEAD_ACTIVATIONS, HEADS, activate_heads, task_heads
from emojax.layers.transformer import NORMS, TransformerEncoder
from emojax.models.checks import (
    check_choice,
    check_outputs,
    check_range,
    check_rates,
    check_streams,
    frame_mask,
    stream_widths,
)
from emojax.models.mechanisms import Mechanism, other_source, uniform
from emojax.ops.masking import zero_where_padded
from emojax.types import Array

NAME = "ExpTrm"
FUSIONS = ("weights", "gates")


def stack_context(x_BSD: Array, mask_BS: Array, rows: int, width: int = 0) -> Array:
    """Concatenates each row with the rows around it (section 4.4).

    Args:
        x_BSD: (B, T + 2 rows, D), features; padded rows may hold anything.
        mask_BS: bool, False on padding, which counts as zeros.
        rows: n, rows before and after each.
        width: zeros are appended up to this width; 0 appends none.

    Returns:
        (B, T, max(width, (2 rows + 1) D)); frame t holds rows t - n .. t + n, the earliest first.
    """
    x_BSD = zero_where_padded(x_BSD, mask_BS.astype(bool))
    batch, length, features = x_BSD.shape
    stacked = (2 * rows + 1) * features
    width = max(width, stacked)
    # Row by row, what a frame stacks is one stretch: copied as such it takes a fifth of the time
    # that 2 n + 1 slices side by side take (16 windows of the paper, one CPU core: 5 ms, not 25).
    flat_BF = jnp.pad(x_BSD.reshape(batch, -1), ((0, 0), (0, width - stacked)))
    stacked_BTD: Array = jax.vmap(
        lambda start: lax.dynamic_slice_in_dim(flat_BF, start, width, axis=1), out_axes=1
    )(features * jnp.arange(length - 2 * rows))
    if width == stacked:
        return stacked_BTD
    return jnp.where(jnp.arange(width)[None, None] < stacked, stacked_BTD, 0)


class ExpTrm(nn.Module):
    """One encoder a stream, attention between streams, a dense layer for each frame.

    For two streams a and v, with encoders' outputs H,

        F = alpha * Attention(Q of H_a, K and V of H_v) + beta * Attention(Q of H_v, K and V of H_a)

    (eq. 7-11). A single stream is unimodal ExpTrm: F = H. More than two are our generalisation:
    the weighted sum over all ordered pairs of streams. As in the equations there is no residual
    around the cross-modal attention; its output projection is W^O of eq. 3 and 16.

    With ``fusion="gates"``, ours, alpha and beta are sigmoid(W [A; B] + b) of both attentions A and
    B of a frame, one number for each direction in each frame. So a direction can be turned down
    while its source cannot be trusted, which constants cannot do. A gate for each feature would
    cost 2 D^2 parameters for each direction, 1 M in all at the paper's width, and no longer be one
    curve over time to look at. At the start all gates are one half, as alpha and beta are.

    The cost is linear in T plus attention's T^2: with the paper's two streams and widths 38 MFLOP
    a frame forward and 12 kFLOP times T for attention, so 3 % of it at T = 100, a third at T =
    1500, and half at T = 3000.

    Parameters: "projection_<stream>", "encoder_<stream>", and for each ordered pair
    "cross_<query>_<source>" and the scalar "weight_<query>_<source>" (alpha and beta; or "gate" for
    all), then "head_<task>".

    Attributes:
        outputs: task -> C, columns to predict.
        streams: the streams used; their order changes nothing.
        window: the longest window in frames.
        context: stream -> n, for a stream that comes with n rows more at either end and is
            stacked inside the model. It needs no parameters: a copy of the model without it
            takes the stream already stacked (``stack_context``).
        stacked_width: stacked streams are filled up with zeros to this width; 0: they are not.
        width: d_model.
        layers: self-attention layers of each encoder.
        attention_heads: h, of every attention; divides ``width``.
        hidden: width of the encoders' feed-forward blocks.
        activation: of the feed-forward blocks, a key of ``layers.activations.ACTIVATIONS``.
        norm: "post" or "pre", place of the encoders' layer normalisation.
        fusion: "weights" (eq. 11) or "gates", see above.
        dropout: rate after the positions, in the encoders and on cross-modal weights.
        heads: "joint" has one dense layer a task (eq. 12), "per_target" one for each label.
        head_activation: a key of ``layers.heads.HEAD_ACTIVATIONS``, the end of continuous
            tasks. Eq. 12 as printed is "relu", which can give no negative valence.
        dtype: of the computation, as a name ("float32", "bfloat16") or a dtype; parameters,
            softmax, statistics and outputs are float32.
    """

    outputs: Mapping[str, int]
    streams: tuple[str, ...] = ("vggface", "compare_lld")
    window: int = 100
    context: Mapping[str, int] = flax.core.freeze({})
    stacked_width: int = 0
    width: int = 512
    layers: int = 2
    attention_heads: int = 8
    hidden: int = 2048
    activation: str = "relu"
    norm: str = "post"
    fusion: str = "weights"
    dropout: float = 0.1
    heads: str = "joint"
    head_activation: str = "none"
    dtype: Any = "float32"

    @nn.compact
    def __call__(
        self,
        streams: Mapping[str, Array],
        masks: Mapping[str, Array],
        *,
        valid: Mapping[str, Array] | None = None,
        train: bool,
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Predicts every frame of every window.

        Args:
            streams: stream -> (B, T + 2n, D_s), normalised features, one row per video frame
                and n of ``context``; exactly the streams of the field ``streams``.
            masks: stream -> (B, T + 2n) bool, False on padding. A frame is real if every
                stream says so; real frames do not depend on what padded rows hold.
            valid: not used: missing faces and silence are zeros, as in section 5.3, and their
                frames count.
            train: True if dropout acts (needs a "dropout" key).

        Returns:
            task -> (B, T, C) float32, and ``{"losses": {}}``.

        Raises:
            InputError: while tracing, for bad fields or streams that do not fit them.
        """
        del valid
        self._check_fields()
        framed, mask_BT = self._frames(streams, masks)
        encoded: dict[str, Array] = {}
        for name in self.streams:
            with stream_widths({name: framed[name]}):
                encoded[name] = self._encode(name, framed[name], mask_BT, train=train)
        fused_BTD = self._fuse(encoded, mask_BT, train=train)
        predictions = task_heads(
            fused_BTD,
            mask_BT,
            self.outputs,
            heads=self.heads,
            hidden=0,
            dtype=jnp.dtype(self.dtype),
            train=train,
        )
        return activate_heads(predictions, self.head_activation), {"losses": {}}

    def mechanisms(self) -> dict[str, Mechanism]:
        """Names self-attention by encoder, cross-modal directions, and alpha and beta or gates."""
        equal = "uniform: every frame weighs the same"
        found = {
            f"self-attention {name}": Mechanism(
                equal, (f"encoder_{name}/layer_*/attention/weights",), uniform
            )
            for name in self.streams
        }
        pairs = list(itertools.permutations(sorted(self.streams), 2))
        for query, source in pairs:
            found[f"{query} queries {source}"] = Mechanism(
                equal,
                (f"cross_{query}_{source}/weights",),
                uniform,
                views=other_source("source_BSD"),
                viewing=(f"cross_{query}_{source}",),
            )
        if pairs and self.fusion == "gates":
            found["gates"] = Mechanism(
                "one half in every frame, as at the start", parameters=("gate/*",)
            )
        elif pairs:
            found["alpha and beta"] = Mechanism(
                f"equal: {1 / len(pairs):.3g}, as at the start",
                parameters=("weight_*",),
                value=1 / len(pairs),
            )
        return found

    def _frames(
        self, streams: Mapping[str, Array], masks: Mapping[str, Array]
    ) -> tuple[dict[str, Array], Array]:
        """Returns streams with one row per frame, (B, T, D), and the real frames, (B, T)."""
        check_streams(NAME, self.streams, streams, masks)
        framed: dict[str, Array] = {}
        centre: dict[str, Array] = {}
        for name in self.streams:
            rows, length = self.context.get(name, 0), streams[name].shape[1]
            expected = f"fewer than half of the {length} rows given"
            check_range(NAME, f"context.{name}", rows, length > 2 * rows, expected)
            x_BSD = streams[name].astype(jnp.dtype(self.dtype))
            width = self.stacked_width if rows else 0
            framed[name] = stack_context(x_BSD, masks[name], rows, width)
            centre[name] = masks[name][:, rows : length - rows]
        mask_BT = frame_mask(NAME, self.streams, framed, centre, self.window)
        return {name: zero_where_padded(x, mask_BT) for name, x in framed.items()}, mask_BT

    def stack_inputs(
        self,
        streams: Mapping[str, Array],
        masks: Mapping[str, Array],
        valid: Mapping[str, Array],
    ) -> tuple[ExpTrm, dict[str, Array], dict[str, Array], dict[str, Array]]:
        """Returns the model for stacked inputs, whose streams all have T rows.

        The missing-modality study of section 5.3 zeroes rows of this input: a frame that goes
        takes all of its context with it.

        Args:
            streams, masks, valid: what ``__call__`` takes.

        Returns:
            A model of the same parameters without ``context``, and its streams, masks and
            validity.
        """
        framed, masked, valid_T = {}, {}, {}
        for name, x_BSD in streams.items():
            rows = self.context.get(name, 0)
            centre = slice(rows, x_BSD.shape[1] - rows)
            framed[name] = stack_context(x_BSD, masks[name], rows, self.stacked_width * bool(rows))
            masked[name], valid_T[name] = masks[name][:, centre], valid[name][:, centre]
        return self.clone(context=flax.core.freeze({})), framed, masked, valid_T

    def _encode(self, name: str, x_BTD: Array, mask_BT: Array, *, train: bool) -> Array:
        """Applies the projection, positions and self-attention layers of one stream."""
        dtype = jnp.dtype(self.dtype)
        x_BTD = nn.Dense(self.width, dtype=dtype, name=f"projection_{name}")(x_BTD)
        position_TD = jnp.asarray(sinusoidal_positions(x_BTD.shape[1], self.width), dtype)
        x_BTD = Dropout(self.dropout)(x_BTD + position_TD[None], train=train)
        return TransformerEncoder(
            self.layers,
            self.attention_heads,
            self.hidden,
            self.dropout,
            self.activation,
            self.norm,
            dtype,
            final_norm=self.norm == "pre",
            name=f"encoder_{name}",
        )(x_BTD, mask_BT, train=train)

    def _fuse(self, encoded: Mapping[str, Array], mask_BT: Array, *, train: bool) -> Array:
        """Equations 7 to 11, (B, T, width)."""
        # Sorted, so that sums are bit for bit the same whatever the order of the streams.
        pairs = list(itertools.permutations(sorted(encoded), 2))
        if not pairs:
            return encoded[self.streams[0]]
        dtype = jnp.dtype(self.dtype)
        attended = {
            f"{query}_{source}": MultiHeadAttention(
                self.attention_heads,
                dropout=self.dropout,
                dtype=dtype,
                name=f"cross_{query}_{source}",
            )(encoded[query], encoded[source], mask_BT, train=train)
            for query, source in pairs
        }
        parts = [
            weight * attended_BTD
            for weight, attended_BTD in zip(self._weights(attended), attended.values(), strict=True)
        ]
        return sum(parts[1:], parts[0])

    def _weights(self, attended: Mapping[str, Array]) -> Sequence[Array]:
        """Returns the weight of each direction: a scalar (eq. 11) or a gate, (B, T, 1)."""
        dtype = jnp.dtype(self.dtype)
        if self.fusion == "gates":
            zeros = nn.initializers.zeros
            gate = nn.Dense(len(attended), dtype=dtype, kernel_init=zeros, name="gate")
            gate_BTP = nn.sigmoid(gate(jnp.concatenate([*attended.values()], axis=-1)))
            self.sow("intermediates", "gates", gate_BTP)
            return jnp.split(gate_BTP, len(attended), axis=-1)
        # Ours: the fused features start as the mean over pairs.
        start = nn.initializers.constant(1 / len(attended))
        return [self.param(f"weight_{name}", start, ()).astype(dtype) for name in attended]

    def _check_fields(self) -> None:
        check_outputs(NAME, self.streams, self.outputs)
        check_choice(NAME, "activation", self.activation, ACTIVATIONS)
        check_choice(NAME, "norm", self.norm, NORMS)
        check_choice(NAME, "fusion", self.fusion, FUSIONS)
        several = self.fusion == "weights" or len(self.streams) > 1
        check_range(NAME, "fusion", self.fusion, several, "weights, for a single stream")
        check_choice(NAME, "heads", self.heads, HEADS)
        check_choice(NAME, "head_activation", self.head_activation, HEAD_ACTIVATIONS)
        check_rates(NAME, dropout=self.dropout)
        for field in ("window", "width", "layers", "attention_heads", "hidden"):
            value = getattr(self, field)
            check_range(NAME, field, value, value >= 1, "at least 1")
        divides = self.width % self.attention_heads == 0
        expected = f"a divisor of the width, {self.width}"
        check_range(NAME, "attention_heads", self.attention_heads, divides, expected)
        check_range(NAME, "stacked_width", self.stacked_width, self.stacked_width >= 0, "0 or more")
        for name, rows in self.context.items():
            check_choice(NAME, "context", name, self.streams)
            check_range(NAME, f"context.{name}", rows, rows >= 0, "0 or more")
