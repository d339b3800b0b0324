"""RJCMA: recursive joint cross-modal attention (Praveen and Alam, arXiv:2403.13659).

Each stream passes a temporal encoder, ``recursions`` joint cross-attention blocks with
weights of their own refine all streams together (eq. 1-13), and an MLP predicts each frame
from the concatenated streams (eq. 14).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax.numpy as jnp
from flax import linen as nn

from emojax.layers.fusion import JointCrossAttention, UpstreamCrossAttention
from emojax.layers.heads import HEADS, OUTPUTS, task_heads
from emojax.layers.normalisation import MaskedBatchNorm
from emojax.layers.recurrent import StackedLSTM
from emojax.layers.tcn import TemporalConvNet
from emojax.models.checks import (
    check_channels,
    check_choice,
    check_outputs,
    check_range,
    check_rates,
    frame_mask,
    stream_widths,
)
from emojax.models.mechanisms import Mechanism, identity, other_streams
from emojax.ops.masking import zero_where_padded
from emojax.types import Array

# Ours, from code for ABAW8: the paper gives no widths, and those of the authors' public code
# (512 x 4, 128 x 4, 512 x 4) do not fit its own fusion layer, which wants 256, 128 and 128.
PAPER_CHANNELS: Mapping[str, tuple[int, ...]] = flax.core.freeze(
    {"ir50": (512, 512, 256, 256), "vggish": (128, 128, 128, 128), "bert": (256, 256, 128, 128)}
)


@dataclasses.dataclass(frozen=True)
class Variant:
    """Holds the choices in which the paper and the authors' public code differ.

    Attributes:
        block: the fusion block.
        recursions: l.
        dropout: rate in the fusion (and the paper variant's head).
        output: "linear" or "tanh", for continuous tasks.
        head_batch_norm: batch normalisation in the head, in the place of dropout.
    """

    block: Callable[..., nn.Module]
    recursions: int
    dropout: float
    output: str
    head_batch_norm: bool


VARIANTS: dict[str, Variant] = {
    # Section 4.2.2 says l = 3. Dropout and the head's form are not stated: ours.
    "paper": Variant(JointCrossAttention, 3, 0.3, "linear", False),
    "upstream": Variant(UpstreamCrossAttention, 2, 0.6, "tanh", True),
}
TEMPORAL: dict[str, Callable[..., nn.Module] | None] = {
    "tcn": TemporalConvNet,
    "lstm": StackedLSTM,
    "none": None,
}
NAME = "RJCMA"


class RJCMA(nn.Module):
    """Recursive joint cross-modal attention over any set of streams.

    Fields that are None take the variant's own value (``VARIANTS``).

    Attributes:
        outputs: task -> C, columns to predict.
        streams: the streams used, in the order of concatenation.
        variant: "paper", or "upstream" for the authors' public code.
        window: K, the longest window in frames; the size of the time-mixing weights.
        recursions: l, the number of fusion blocks; 0 concatenates the encoded streams.
        temporal: "tcn", "lstm" or "none" (features enter the fusion as they are), the
            encoder of each stream. Batch normalisation follows the first two.
        fused_temporal: the same choice for the concatenated streams before the head
            ("lstm" gives RJCA, Praveen et al. 2023).
        channels: stream -> width of each layer of its temporal encoder.
        causal: temporal encoders see only the past; else they are centred (tcn) or
            bidirectional (lstm).
        kernel_size: taps of the TCN.
        temporal_dropout: rate in the temporal encoders.
        dropout: rate in the fusion and, in the paper variant, the head.
        heads: "per_target" gives each column its own MLP, so training one column alone is
            the paper's separate model; a categorical task is one target. "joint" shares
            one MLP between the columns of a task.
        head_width: hidden width of the head.
        output: "linear" or "tanh", the end of continuous tasks' heads.
        dtype: the dtype of the computation, as a name ("float32", "bfloat16") or a dtype;
            parameters, statistics and outputs are float32.
    """

    outputs: Mapping[str, int]
    streams: tuple[str, ...] = ("ir50", "vggish", "bert")
    variant: str = "paper"
    window: int = 300
    recursions: int | None = None
    temporal: str = "tcn"
    fused_temporal: str = "none"
    channels: Mapping[str, tuple[int, ...]] = PAPER_CHANNELS
    causal: bool = True
    kernel_size: int = 5
    temporal_dropout: float = 0.1
    dropout: float | None = None
    heads: str = "per_target"
    head_width: int = 256
    output: str | None = None
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
            streams: stream -> (B, T, D_s), normalised features, one row per video frame,
                T <= K; exactly the streams of the field ``streams``, in any order.
            masks: stream -> (B, T) bool, False on padding. A frame is real if every stream
                says so; real frames do not depend on what padded frames hold.
            valid: not used: missing faces and silence are zeros, which stand for the black
                frames of the paper (section 4.2.1), and their frames count.
            train: dropout acts (needs a "dropout" key) and batch normalisation uses and
                updates batch statistics ("batch_stats" has to be mutable).

        Returns:
            task -> (B, T, C) float32, and ``{"losses": {}}``.

        Raises:
            InputError: while tracing, for bad fields or streams that do not fit them.
        """
        del valid
        variant = self._check_fields()
        mask_BT = frame_mask(NAME, self.streams, streams, masks, self.window)
        dtype = jnp.dtype(self.dtype)
        dropout = variant.dropout if self.dropout is None else self.dropout

        features: dict[str, Array] = {}
        for name in self.streams:
            x_BTD = zero_where_padded(streams[name].astype(dtype), mask_BT)
            with stream_widths({name: streams[name]}):
                features[name] = self._encode(self.temporal, name, x_BTD, mask_BT, train=train)
        for i in range(self._count()):
            block = variant.block(self.window, dropout, dtype, name=f"recursion_{i}")
            with stream_widths(streams):
                features = block(features, mask_BT, train=train)
        joint_BTD = jnp.concatenate(list(features.values()), axis=-1)
        fused_BTD = self._encode(self.fused_temporal, "fused", joint_BTD, mask_BT, train=train)

        predictions = task_heads(
            fused_BTD,
            mask_BT,
            self.outputs,
            heads=self.heads,
            hidden=self.head_width,
            output=self.output or variant.output,
            batch_norm=variant.head_batch_norm,
            dropout=0.0 if variant.head_batch_norm else dropout,
            dtype=dtype,
            train=train,
        )
        return predictions, {"losses": {}}

    def mechanisms(self) -> dict[str, Mechanism]:
        """Names the attention of all recursions together, and of each one if there are several."""
        count = self._count()
        becomes = "identity: the streams pass unchanged"
        covered = {"attention": "recursion_*"} if count else {}
        if count > 1:
            covered |= {f"recursion {i + 1}": f"recursion_{i}" for i in range(count)}
        return {
            name: Mechanism(becomes, (modules,), identity, views=other_streams)
            for name, modules in covered.items()
        }

    def _count(self) -> int:
        """Returns the number of recursions."""
        return VARIANTS[self.variant].recursions if self.recursions is None else self.recursions

    def _encode(self, kind: str, name: str, x_BTD: Array, mask_BT: Array, *, train: bool) -> Array:
        """Applies a temporal encoder and its batch normalisation."""
        encoder = TEMPORAL[kind]
        if encoder is None:
            return x_BTD
        dtype = jnp.dtype(self.dtype)
        options: dict[str, Any] = {"kernel_size": self.kernel_size} if kind == "tcn" else {}
        channels = (x_BTD.shape[-1],) if name == "fused" else tuple(self.channels[name])
        x_BTD = encoder(
            channels,
            dropout=self.temporal_dropout,
            causal=self.causal,
            dtype=dtype,
            name=f"encoder_{name}",
            **options,
        )(x_BTD, mask_BT, train=train)
        return MaskedBatchNorm(dtype=dtype, name=f"norm_{name}")(x_BTD, mask_BT, train=train)

    def _check_fields(self) -> Variant:
        """Checks every field and returns the row of the variant."""
        check_choice(NAME, "variant", self.variant, VARIANTS)
        check_choice(NAME, "temporal", self.temporal, TEMPORAL)
        check_choice(NAME, "fused_temporal", self.fused_temporal, TEMPORAL)
        check_choice(NAME, "heads", self.heads, HEADS)
        if self.output is not None:
            check_choice(NAME, "output", self.output, OUTPUTS)
        check_outputs(NAME, self.streams, self.outputs)
        check_range(NAME, "window", self.window, self.window >= 1, "at least 1")
        if self.recursions is not None:
            check_range(NAME, "recursions", self.recursions, self.recursions >= 0, "at least 0")
        check_rates(NAME, temporal_dropout=self.temporal_dropout, dropout=self.dropout)
        check_range(NAME, "kernel_size", self.kernel_size, self.kernel_size >= 1, "at least 1")
        if self.temporal == "tcn" and not self.causal:
            odd = self.kernel_size % 2 == 1
            check_range(NAME, "kernel_size", self.kernel_size, odd, "odd, to be centred")
        if self.temporal != "none":
            check_channels(NAME, self.streams, self.channels)
        if self.temporal == "lstm" and not self.causal:
            for name in self.streams:
                widths = tuple(self.channels[name])
                even = all(width % 2 == 0 for width in widths)
                expected = "even, half for each direction"
                check_range(NAME, f"channels.{name}", widths, even, expected)
        return VARIANTS[self.variant]
