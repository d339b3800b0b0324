"""TCN-Transformer (Zhou, Lu, Xiong and Wang 2023, arXiv:2303.08356).

Each stream passes a temporal convolutional network of its own, the outputs are concatenated
frame by frame, a Transformer encoder relates the frames of a window, and an MLP predicts each
of them (sections 3.5.1-3.5.3). The paper gives the parts and the training; sizes, activations
and normalisation are those of the authors' public code (github.com/upczww/abaw5), and what
neither says is ours.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax
import jax.numpy as jnp
from flax import linen as nn

from emojax.layers.activations import ACTIVATIONS
from emojax.layers.attention import sinusoidal_positions
from emojax.layers.heads import MLPHead, head_columns
from emojax.layers.normalisation import MaskedBatchNorm
from emojax.layers.tcn import TemporalConvNet
from emojax.layers.transformer import NORMS, TransformerEncoder
from emojax.models.checks import (
    check_channels,
    check_choice,
    check_outputs,
    check_range,
    check_rates,
    frame_mask,
    stream_widths,
)
from emojax.models.mechanisms import Mechanism, identity, uniform
from emojax.ops.masking import summing_dtype
from emojax.specs import TASKS
from emojax.types import Array

NAME = "TCN-Transformer"

# Width of the three blocks of each stream's TCN, in the public code.
PAPER_CHANNELS: Mapping[str, tuple[int, ...]] = flax.core.freeze(
    {
        "eff": (1024, 512, 256),
        "affectnet8": (512, 256, 128),
        "raf_db": (512, 256, 128),
        "arcface": (512, 256, 128),
        "wav2vec2_emotion": (512, 256, 128),
    }
)


class LinearHead(nn.Module):
    """Dense, batch normalisation, Dense, for each frame and without an activation in between.

    The form of the public code: apart from its statistics in training it is a linear map.

    Attributes:
        outputs: C, columns of the output.
        hidden: width of the layer in between.
        dtype: the dtype of the hidden layer; the output is float32.
    """

    outputs: int
    hidden: int = 256
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_BTD: Array, mask_BT: Array, *, train: bool) -> Array:
        """Predicts (B, T, outputs) from (B, T, D); ``mask_BT`` is False on padding."""
        # Batch normalisation takes any bias before it away again.
        h_BTD = nn.Dense(self.hidden, use_bias=False, dtype=self.dtype, name="hidden")(x_BTD)
        h_BTD = MaskedBatchNorm(dtype=self.dtype, name="norm")(h_BTD, mask_BT, train=train)
        y_BTC = nn.Dense(self.outputs, dtype=self.dtype, name="output")(h_BTD)
        return y_BTC.astype(summing_dtype(y_BTC))


@dataclasses.dataclass(frozen=True)
class Variant:
    """Holds the choices in which the paper and the authors' public code differ.

    Attributes:
        width: the width of the Transformer; 0 is that of the concatenated streams.
        head: a key of ``HEADS``.
        heads: a key of ``SEPARATIONS``.
    """

    width: int
    head: str
    heads: str


VARIANTS: dict[str, Variant] = {
    # The encoder reads the concatenation itself and one "MLP ... non-linear" gives y in
    # R^(l x 2) (sections 3.5.2 and 3.5.3).
    "paper": Variant(0, "mlp", "joint"),
    # A 1x1 convolution to 512 first; valence and arousal each have a head.
    "upstream": Variant(512, "linear", "per_dimension"),
}
# Both normalise the hidden layer: code. LeakyReLU after it, where the paper wants a
# non-linearity, is ours.
HEADS: dict[str, Callable[..., nn.Module]] = {
    "mlp": functools.partial(MLPHead, batch_norm=True),
    "linear": LinearHead,
}
SEPARATIONS = ("joint", "per_dimension")
POSITIONS = ("none", "sinusoidal")
_LEAST = {
    "kernel_size": 1, "width": 0, "layers": 0, "attention_heads": 1, "feed_forward": 1,
    "head_width": 1,
}  # fmt: skip


class TCNTransformer(nn.Module):
    """A TCN for each stream, a Transformer encoder over all, an MLP for each frame.

    Any streams with one row per frame and any tasks, also several at once, which share all but
    the heads (ours; the paper trains one model per task). Fields that are None take the
    variant's own value (``VARIANTS``).

    Attributes:
        outputs: task -> C, columns to predict.
        streams: the streams used, in the order of concatenation.
        variant: "paper", or "upstream" for the authors' public code.
        window: frames of a training window. Nothing depends on it: no parameter has a time
            axis, so windows of any length may be given.
        channels: stream -> width of each TCN block; the paper has three blocks. An empty
            entry leaves that stream's TCN out.
        kernel_size: taps of the TCN; 5 in the code.
        activation: of the TCN, a key of ``layers.activations.ACTIVATIONS``; PReLU in the code.
        causal: TCNs see only the past, as in the code; else they are centred.
        width: of the Transformer; streams are projected to it. 0 takes the concatenation as
            it is.
        layers: the number of layers of the Transformer, 8 in the code; 0 leaves it out.
        attention_heads: divides the width; 4 in the code.
        feed_forward: hidden width of the Transformer's layers; 512 in the code.
        norm: "post" as in the code, or "pre" with one more normalisation at the end (ours).
        positions: "none" as in the code, where only the TCNs know about order, or
            "sinusoidal" codes added before the Transformer (ours).
        dropout: rate in TCNs and Transformer; 0.3 in section 4.1.
        head: "mlp", or "linear" without an activation.
        heads: "joint" has one head a task, "per_dimension" one for each dimension of a
            continuous task.
        head_width: hidden width of a head; 256 in the code.
        dtype: the dtype of the computation, as a name ("float32", "bfloat16") or a dtype;
            parameters, statistics and outputs are float32.
    """

    outputs: Mapping[str, int]
    streams: tuple[str, ...] = ("eff", "affectnet8", "raf_db", "wav2vec2_emotion")
    variant: str = "paper"
    window: int = 300
    channels: Mapping[str, tuple[int, ...]] = PAPER_CHANNELS
    kernel_size: int = 5
    activation: str = "prelu"
    causal: bool = True
    width: int | None = None
    layers: int = 8
    attention_heads: int = 4
    feed_forward: int = 512
    norm: str = "post"
    positions: str = "none"
    dropout: float = 0.3
    head: str | None = None
    heads: str | None = None
    head_width: int = 256
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
            streams: stream -> (B, T, D_s), normalised features, one row per frame; exactly
                the streams of the field ``streams``, in any order.
            masks: stream -> (B, T) bool, False on padding. A frame is real if every stream
                says so; real frames do not depend on what padded frames hold.
            valid: not used: the data pipeline gives frames without a face the nearest valid
                row (section 3.1), and their labels count.
            train: dropout acts (needs a "dropout" key) and batch normalisation uses and
                updates batch statistics ("batch_stats" has to be mutable).

        Returns:
            task -> (B, T, C) float32, and ``{"losses": {}}``.

        Raises:
            InputError: while tracing, for bad fields or streams that do not fit them.
        """
        del valid
        variant = self._check_fields()
        mask_BT = frame_mask(NAME, self.streams, streams, masks)
        dtype = jnp.dtype(self.dtype)

        encoded = []
        for name in self.streams:
            tcn = TemporalConvNet(
                tuple(self.channels[name]),
                kernel_size=self.kernel_size,
                dropout=self.dropout,
                causal=self.causal,
                dtype=dtype,
                activation=self.activation,
                name=f"tcn_{name}",
            )
            with stream_widths({name: streams[name]}):
                encoded.append(tcn(streams[name], mask_BT, train=train))
        joint_BTD = jnp.concatenate(encoded, axis=-1)

        width = variant.width if self.width is None else self.width
        with stream_widths(streams):
            hidden_BTD = self._relate(joint_BTD, mask_BT, width, train=train)
            return self._predict(hidden_BTD, mask_BT, variant, train=train), {"losses": {}}

    def mechanisms(self) -> dict[str, Mechanism]:
        """Names the encoder and its attention; a model without layers has neither."""
        if not self.layers:
            return {}
        return {
            "encoder": Mechanism("identity: no Transformer", ("transformer",), identity),
            "attention of the encoder": Mechanism(
                "uniform: every frame weighs the same",
                ("transformer/layer_*/attention/weights",),
                uniform,
            ),
        }

    def _relate(self, x_BTD: Array, mask_BT: Array, width: int, *, train: bool) -> Array:
        """Applies projection, position codes and Transformer: h = TransformerEncoder(g), 3.5.2."""
        dtype = jnp.dtype(self.dtype)
        if width:
            x_BTD = nn.Dense(width, dtype=dtype, name="projection")(x_BTD)
        length, width = x_BTD.shape[1:]
        if self.layers:
            divided = width % self.attention_heads == 0
            expected = f"a number that divides the Transformer's width, {width}"
            check_range(NAME, "attention_heads", self.attention_heads, divided, expected)
        if self.positions == "sinusoidal":
            x_BTD = x_BTD + jnp.asarray(sinusoidal_positions(length, width), dtype)[None]
        encoder = TransformerEncoder(
            self.layers,
            self.attention_heads,
            self.feed_forward,
            dropout=self.dropout,
            norm=self.norm,
            dtype=dtype,
            final_norm=self.norm == "pre",
            name="transformer",
        )
        return encoder(x_BTD, mask_BT, train=train)

    def _predict(
        self, x_BTD: Array, mask_BT: Array, variant: Variant, *, train: bool
    ) -> dict[str, Array]:
        """Heads "head_<task>" or "head_<task>_<dimension>": y = MLP(h), 3.5.3."""
        head = HEADS[self.head or variant.head]
        predictions: dict[str, Array] = {}
        for task, outputs in self.outputs.items():
            continuous = task not in TASKS or TASKS[task].kind == "continuous"
            apart = continuous and (self.heads or variant.heads) == "per_dimension"
            columns = head_columns({task: outputs}, "per_target" if apart else "joint")[task]
            parts = [
                head(count, self.head_width, dtype=jnp.dtype(self.dtype), name=f"head_{name}")(
                    x_BTD, mask_BT, train=train
                )
                for name, count in columns.items()
            ]
            predictions[task] = jnp.concatenate(parts, axis=-1)
        return predictions

    def _check_fields(self) -> Variant:
        """Checks every field and returns the row of the variant."""
        check_outputs(NAME, self.streams, self.outputs)
        choices: dict[str, Iterable[str]] = {
            "variant": VARIANTS,
            "activation": ACTIVATIONS,
            "norm": NORMS,
            "positions": POSITIONS,
            "head": HEADS,
            "heads": SEPARATIONS,
        }
        for field, known in choices.items():
            value = getattr(self, field)
            if value is not None:
                check_choice(NAME, field, value, known)
        check_rates(NAME, dropout=self.dropout)
        for field, least in _LEAST.items():
            value = getattr(self, field)
            if value is not None:
                check_range(NAME, field, value, value >= least, f"at least {least}")
        if not self.causal:
            odd = self.kernel_size % 2 == 1
            check_range(NAME, "kernel_size", self.kernel_size, odd, "odd, to be centred")
        check_channels(NAME, self.streams, self.channels, least=0)
        return VARIANTS[self.variant]
