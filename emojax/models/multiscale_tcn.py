"""Multi-scale TCNs with cross-modal attention (Yu et al. 2025, arXiv:2503.10523).

Each stream passes three temporal convolutional networks of kernel 3, 5 and 7, whose outputs are
concatenated (eq. 5-7). The visual stream queries each audio stream (eq. 8-10), and a small
network predicts each frame from the visual features and what they found (eq. 11-15).

What the paper leaves open, and is ours: the TCNs' widths, depth and inside (those of
``layers.tcn``), dropout rates, the width of the hidden layer. Section 3.7 trains a "Transformer
encoder", which neither the equations nor the figure's text describe: it is left out. The
authors' public repository cannot run as published, so there is no ``upstream`` variant.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import flax
import jax.numpy as jnp
from flax import linen as nn

from emojax.errors import InputError
from emojax.layers.attention import AttentionWeights
from emojax.layers.dropout import Dropout
from emojax.layers.heads import HEADS, head_columns
from emojax.layers.multi_kernel import MultiKernelTCN
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
from emojax.models.mechanisms import Mechanism, time_mean, uniform
from emojax.ops.masking import summing_dtype, zero_where_padded
from emojax.types import Array

NAME = "MultiscaleTCN"

# Of each of a stream's three TCNs. Visual: the widths of leader-follower attention's public
# code; audio: ours, to end at the same width.
DEFAULT_CHANNELS: Mapping[str, tuple[int, ...]] = flax.core.freeze(
    {
        "ir50": (256, 256, 128, 128),
        "vggish": (128, 128, 128, 128),
        "logmel": (128, 128, 128, 128),
    }
)


class CrossModalAttention(nn.Module):
    """softmax(Q K^T / sqrt(d)) V without projections, K = V = the source (eq. 8)."""

    @nn.compact
    def __call__(self, query_BTD: Array, source_BSD: Array, source_mask_BS: Array) -> Array:
        """Attends from every query to the real rows of the source.

        Args:
            query_BTD: finite features.
            source_BSD: features of the same width; padded rows may hold anything.
            source_mask_BS: bool, False on padding, which gets a weight of exactly zero.

        Returns:
            (B, T, D); zero where no row of the source is real. The softmax is float32.
        """
        source_BSD = zero_where_padded(source_BSD, source_mask_BS)
        scores_BTS = jnp.einsum(
            "btd,bsd->bts", query_BTD, source_BSD, preferred_element_type=summing_dtype(source_BSD)
        ) / math.sqrt(query_BTD.shape[-1])
        weight_BTS = AttentionWeights(name="weights")(scores_BTS, source_mask_BS[:, None, :])
        return weight_BTS.astype(source_BSD.dtype) @ source_BSD


class RegressionLayer(nn.Module):
    """LayerNorm, Dense, GELU, dropout, Dense, for each frame (eq. 12-15).

    Attributes:
        outputs: C, columns of the output.
        hidden: width of the layer in between.
        dropout: rate on the hidden layer.
        dtype: the dtype of the hidden layer; statistics and the output are float32.
    """

    outputs: int
    hidden: int
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_BTD: Array, *, train: bool) -> Array:
        """Predicts (B, T, outputs) from (B, T, D)."""
        h_BTD = layer_norm("norm", self.dtype)(x_BTD)
        h_BTD = nn.Dense(self.hidden, dtype=self.dtype, name="hidden")(h_BTD)
        h_BTD = nn.gelu(h_BTD, approximate=False)
        h_BTD = Dropout(self.dropout)(h_BTD, train=train)
        y_BTC = nn.Dense(self.outputs, dtype=self.dtype, name="output")(h_BTD)
        return y_BTC.astype(summing_dtype(y_BTC))


class MultiscaleTCN(nn.Module):
    """Multi-scale TCNs and cross-modal attention over any set of streams.

    Parameters: "encoder_<stream>" / "kernel_<k>", "head_<task>" (or "head_<task>_<label>"), and
    "branch_<stream>_<task>", the temporary heads.

    Attributes:
        outputs: task -> C, columns to predict.
        streams: the streams used. Those that are not the leader are concatenated in this order.
        leader: the stream whose frames are the queries; all others are keys and values. With a
            single stream there is no attention.
        queries: False concatenates the features of all streams, without section 3.5; ours.
        window: not used: windows may have any length.
        kernel_sizes: taps of each stream's TCNs (section 3.4).
        channels: stream -> width of each block, in each of its TCNs. All streams end at one
            width, for eq. 8 has no projections.
        causal: TCNs see only the past; else they are centred.
        temporal_dropout: rate in the TCNs.
        hidden: width of the regression layer.
        dropout: rate in the regression layer (eq. 14).
        heads: "joint" shares one regression layer between the columns of a task, as eq. 15
            does; "per_target" gives each column its own.
        branch_heads: also predict from each stream alone, for staged training (section 3.7).
        dtype: of the computation, as a name ("float32", "bfloat16") or a dtype; parameters,
            statistics, softmax and outputs are float32.
    """

    outputs: Mapping[str, int]
    streams: tuple[str, ...] = ("ir50", "vggish", "logmel")
    leader: str = "ir50"
    queries: bool = True
    window: int = 300
    kernel_sizes: tuple[int, ...] = (3, 5, 7)
    channels: Mapping[str, tuple[int, ...]] = DEFAULT_CHANNELS
    causal: bool = True
    temporal_dropout: float = 0.1
    hidden: int = 256
    dropout: float = 0.3
    heads: str = "joint"
    branch_heads: bool = True
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
            train: dropout acts (needs a "dropout" key).

        Returns:
            task -> (B, T, C) float32, and ``{"losses": {}}``. With ``branch_heads`` also
            "branches": stream -> task -> (B, T, C) float32. A branch is a stream with its
            three TCNs together: so the paper counts its branches (sections 3.2, 3.3, "the
            TCNs in each branch", 3.7), and their concatenation is all that eq. 8 sees.

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
                features[name] = MultiKernelTCN(
                    tuple(self.channels[name]),
                    kernel_sizes=self.kernel_sizes,
                    dropout=self.temporal_dropout,
                    causal=self.causal,
                    dtype=dtype,
                    name=f"encoder_{name}",
                )(streams[name], mask_BT, train=train)

        query_BTD = features[self.leader]
        found = [
            CrossModalAttention(name=f"attention_{name}")(query_BTD, features[name], mask_BT)
            if self.queries
            else features[name]
            for name in self.streams
            if name != self.leader
        ]
        fused_BTD = jnp.concatenate([query_BTD, *found], axis=-1)

        aux: dict[str, Any] = {"losses": {}}
        predictions: dict[str, Array] = {}
        for task, columns in head_columns(self.outputs, self.heads).items():
            parts = [
                RegressionLayer(width, self.hidden, self.dropout, dtype, name=f"head_{head}")(
                    fused_BTD, train=train
                )
                for head, width in columns.items()
            ]
            predictions[task] = jnp.concatenate(parts, axis=-1)
        if self.branch_heads:
            aux["branches"] = {name: self._branch(name, x_BTD) for name, x_BTD in features.items()}
        return predictions, aux

    def mechanisms(self) -> dict[str, Mechanism]:
        """Names the TCNs of each kernel size, and the query to each stream but the leader."""
        sizes = self.kernel_sizes
        found = {
            f"kernel {size}": Mechanism(
                "mean over time: its TCN gives the window's mean in every frame",
                ("encoder_*",),
                functools.partial(time_mean, part=i, parts=len(sizes)),
            )
            for i, size in enumerate(sizes)
        }
        for name in self.streams:
            if self.queries and name != self.leader:
                found[f"query to {name}"] = Mechanism(
                    "uniform: every frame weighs the same",
                    (f"attention_{name}/weights",),
                    uniform,
                    others=(name,),
                )
        return found

    def _branch(self, stream: str, x_BTD: Array) -> dict[str, Array]:
        """Predicts from one stream alone: task -> (B, T, C), one linear layer each."""
        found = {}
        for task, columns in self.outputs.items():
            name = f"branch_{stream}_{task}"
            y_BTC = nn.Dense(columns, dtype=jnp.dtype(self.dtype), name=name)(x_BTD)
            found[task] = y_BTC.astype(summing_dtype(y_BTC))
        return found

    def extent(self) -> Extent:
        """Returns the frames that a prediction sees: those of the widest TCN.

        Raises:
            InputError: there are several streams, and so attention over the whole window.
        """
        if len(self.streams) > 1 and self.queries:
            raise InputError(
                f"{NAME} attends to all of a window, where it has several streams.",
                field="config.data.streams",
                found=", ".join(self.streams),
                expected="one stream, such as multiscale_tcn:visual",
            )
        blocks = len(self.channels[self.leader])
        return tcn_extent(blocks, max(self.kernel_sizes), causal=self.causal)

    def _check_fields(self) -> None:
        """Refuses fields with values that are not allowed."""
        check_outputs(NAME, self.streams, self.outputs)
        check_choice(NAME, "leader", self.leader, self.streams)
        check_choice(NAME, "heads", self.heads, HEADS)
        check_rates(NAME, temporal_dropout=self.temporal_dropout, dropout=self.dropout)
        check_range(NAME, "hidden", self.hidden, self.hidden >= 1, "at least 1")
        sizes = tuple(self.kernel_sizes)
        different = bool(sizes) and len(set(sizes)) == len(sizes) and min(sizes) >= 1
        check_range(NAME, "kernel_sizes", sizes, different, "different sizes, each at least 1")
        if not self.causal:
            odd = all(size % 2 == 1 for size in sizes)
            check_range(NAME, "kernel_sizes", sizes, odd, "odd, to be centred")
        check_channels(NAME, self.streams, self.channels)
        last = self.channels[self.streams[0]][-1]
        expected = f"{last} as the last width, the same in every stream (eq. 8)"
        for name in self.streams:
            widths = tuple(self.channels[name])
            check_range(NAME, f"channels.{name}", widths, widths[-1] == last, expected)
