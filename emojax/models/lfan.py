"""LFAN: leader-follower attention (Zhang, Zhao and Guan 2023, a technical report for ABAW5).

Reference [42] of RJCMA (arXiv:2403.13659), whose Table 2 compares with it; the attention goes
back to Zhang et al. 2021, arXiv:2107.01175. Each stream passes a TCN. In every frame the streams
attend to each other, and the visual leader is concatenated with what comes of it. Widths and the
order of operations are those of the authors' public code, in its latest form.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import flax
import jax.numpy as jnp
from flax import linen as nn

from emojax.layers.attention import AttentionWeights
from emojax.layers.dropout import Dropout
from emojax.layers.heads import OUTPUTS, task_heads
from emojax.layers.normalisation import MaskedBatchNorm
from emojax.layers.tcn import TemporalConvNet
from emojax.layers.transformer import layer_norm
from emojax.models.checks import (
    check_channels,
    check_choice,
    check_outputs,
    check_range,
    check_rates,
    frame_mask,
    stream_widths,
)
from emojax.models.extent import Extent, tcn_extent
from emojax.models.mechanisms import Mechanism, uniform
from emojax.ops.masking import summing_dtype
from emojax.types import Array

NAME = "LFAN"

# Of the public code, which calls the visual stream "video".
PAPER_CHANNELS: Mapping[str, tuple[int, ...]] = flax.core.freeze(
    {
        "ir50": (256, 256, 128, 128),
        "bert": (256, 256, 128, 128),
        "vggish": (64, 64, 32, 32),
        "logmel": (64, 64, 32, 32),
        "egemaps": (32, 32, 32, 32),
    }
)


class ModalityAttention(nn.Module):
    """Multi-head attention across the S streams of one frame.

        Q_s, K_s, V_s = parts of W_s x_s + b_s             (heads, d) each
        A_s  = sum over r of softmax_r(Q_s K_r / sqrt(d)) V_r + V_s
        y    = LayerNorm(dropout(W_o [A] + b_o))           (S * width)

    [A] runs over heads, then streams, then d, as in the public code, and so do the columns of
    W_s over heads, then (Q, K, V), then d: weights of the public code fit transposed.

    Attributes:
        width: the width of each stream's queries, keys and values over all heads (modal_dim there).
        heads: divides ``width``.
        dropout: rate after the projection.
        dtype: the dtype of the computation; parameters, softmax and statistics are float32.
    """

    width: int = 32
    heads: int = 2
    dropout: float = 0.1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Mapping[str, Array], *, train: bool) -> Array:
        """Attends within each frame, so no frame sees another and no mask is needed.

        Args:
            features: stream -> (B, T, D_s), finite. The order of the mapping is S's.
            train: True if dropout acts (needs a "dropout" key).

        Returns:
            (B, T, S * width).
        """
        initial = nn.initializers.xavier_uniform()
        parts = []
        for name, x_BTD in features.items():
            qkv = nn.Dense(
                3 * self.width, kernel_init=initial, dtype=self.dtype, name=f"qkv_{name}"
            )
            parts.append(qkv(x_BTD).reshape(*x_BTD.shape[:2], self.heads, -1))
        qkv_BTHSK = jnp.stack(parts, axis=-2)
        query_BTHSK, key_BTHSK, value_BTHSK = jnp.split(qkv_BTHSK, 3, axis=-1)

        scores_BTHSR = jnp.einsum(
            "bthsk,bthrk->bthsr",
            query_BTHSK,
            key_BTHSK,
            preferred_element_type=summing_dtype(key_BTHSK),
        ) / math.sqrt(self.width // self.heads)
        # Every stream sees all streams of its frame.
        weight_BTHSR = AttentionWeights(name="weights")(scores_BTHSR, jnp.ones((), bool))
        weight_BTHSR = weight_BTHSR.astype(self.dtype)
        attended_BTHSK = weight_BTHSR @ value_BTHSK + value_BTHSK

        y_BTF: Array = attended_BTHSK.reshape(*attended_BTHSK.shape[:2], -1)
        output = nn.Dense(y_BTF.shape[-1], kernel_init=initial, dtype=self.dtype, name="output")
        y_BTF = Dropout(self.dropout)(output(y_BTF), train=train)
        return layer_norm("norm", self.dtype)(y_BTF)


class LFAN(nn.Module):
    """Leader-follower attention over any set of streams.

    Parameters: "encoder_<stream>", "norm_<stream>", "attention", and "head_<task>".

    Attributes:
        outputs: task -> C, columns to predict.
        streams: the streams used, in the order of the attention's output.
        leader: the stream that is concatenated with the attention's output, one of ``streams``.
        window: not used: windows may have any length.
        channels: stream -> width of each block of its TCN.
        causal: TCNs see only the past; else they are centred.
        kernel_size: taps of the TCNs.
        temporal_dropout: rate in the TCNs.
        batch_norm: batch normalisation after the TCNs; the code of ABAW3 had none.
        modal_width: width of each stream in the attention.
        attention_heads: divides ``modal_width``.
        dropout: rate in the attention.
        output: "tanh" ends continuous tasks' heads in tanh; the code of ABAW3 was "linear".
        dtype: of the computation, as a name ("float32", "bfloat16") or a dtype; parameters,
            statistics, softmax and outputs are float32.
    """

    outputs: Mapping[str, int]
    streams: tuple[str, ...] = ("ir50", "bert", "vggish")
    leader: str = "ir50"
    window: int = 300
    channels: Mapping[str, tuple[int, ...]] = PAPER_CHANNELS
    causal: bool = True
    kernel_size: int = 5
    temporal_dropout: float = 0.1
    batch_norm: bool = True
    modal_width: int = 32
    attention_heads: int = 2
    dropout: float = 0.1
    output: str = "tanh"
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
            streams: stream -> (B, T, D_s), normalised features, one row per video frame;
                exactly the streams of the field ``streams``, in any order.
            masks: stream -> (B, T) bool, False on padding. A frame is real if every stream
                says so; real frames do not depend on what padded frames hold.
            valid: not used: missing faces and silence are zeros, and their frames count.
            train: dropout acts (needs a "dropout" key) and batch normalisation uses and
                updates batch statistics ("batch_stats" has to be mutable).

        Returns:
            task -> (B, T, C) float32, and ``{"losses": {}}``. Each task has one linear layer.

        Raises:
            InputError: while tracing, for bad fields or streams that do not fit them.
        """
        del valid
        self._check_fields()
        mask_BT = frame_mask(NAME, self.streams, streams, masks)
        dtype = jnp.dtype(self.dtype)

        features: dict[str, Array] = {}
        for name in self.streams:
            with stream_widths({name: streams[name]}):
                x_BTD = TemporalConvNet(
                    tuple(self.channels[name]),
                    kernel_size=self.kernel_size,
                    dropout=self.temporal_dropout,
                    causal=self.causal,
                    dtype=dtype,
                    name=f"encoder_{name}",
                )(streams[name], mask_BT, train=train)
            if self.batch_norm:
                norm = MaskedBatchNorm(dtype=dtype, name=f"norm_{name}")
                x_BTD = norm(x_BTD, mask_BT, train=train)
            features[name] = x_BTD

        follower_BTF = ModalityAttention(
            self.modal_width, self.attention_heads, self.dropout, dtype, name="attention"
        )(features, train=train)
        joint_BTD = jnp.concatenate([features[self.leader], follower_BTF], axis=-1)
        predictions = task_heads(
            joint_BTD,
            mask_BT,
            self.outputs,
            heads="joint",
            hidden=0,
            output=self.output,
            dtype=dtype,
            train=train,
        )
        return predictions, {"losses": {}}

    def mechanisms(self) -> dict[str, Mechanism]:
        """Names the attention between the streams of a frame."""
        followers = tuple(name for name in self.streams if name != self.leader)
        return {
            "cross-modality attention": Mechanism(
                "uniform: every stream weighs the same in every frame",
                ("attention/weights",),
                uniform,
                others=followers,
            )
        }

    def extent(self) -> Extent:
        """Returns the frames that a prediction sees: those of the deepest TCN."""
        blocks = max(len(self.channels[name]) for name in self.streams)
        return tcn_extent(blocks, self.kernel_size, causal=self.causal)

    def _check_fields(self) -> None:
        """Refuses fields with values that are not allowed."""
        check_outputs(NAME, self.streams, self.outputs)
        check_choice(NAME, "leader", self.leader, self.streams)
        check_choice(NAME, "output", self.output, OUTPUTS)
        check_rates(NAME, temporal_dropout=self.temporal_dropout, dropout=self.dropout)
        heads, width = self.attention_heads, self.modal_width
        fits = heads >= 1 and width >= 1 and width % heads == 0
        check_range(NAME, "attention_heads", heads, fits, f"a divisor of modal_width = {width}")
        check_range(NAME, "kernel_size", self.kernel_size, self.kernel_size >= 1, "at least 1")
        if not self.causal:
            odd = self.kernel_size % 2 == 1
            check_range(NAME, "kernel_size", self.kernel_size, odd, "odd, to be centred")
        check_channels(NAME, self.streams, self.channels)
