"""The recurrent and static baselines of ExpTrm (Brown et al., 2025, section 4.5).

Preprint doi:10.20944/preprints202503.1265.v1. All are one module: each stream passes a fully
connected layer and GRU layers, or one of the two; streams are concatenated and pass GRU layers
again; a dense layer predicts each frame.

    AffWildNet static (V)    hidden {vggface: 2000 or 4096}
    AffWildNet dynamic (V)   hidden {vggface: 4096}, recurrent {vggface: (128, 128)}
    VGGFace-RNN (V)          the same, trained on Aff-Wild2
    RNN (A)                  recurrent {compare_lld: (128, 128)}
    VGGFace-RNN (A+V)        both of the last two without their heads, fused (128, 128)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax
import jax.numpy as jnp
from flax import linen as nn

from emojax.errors import InputError
from emojax.layers.dropout import Dropout
from emojax.layers.heads import HEAD_ACTIVATIONS, HEADS, activate_heads, task_heads
from emojax.layers.recurrent import StackedGRU
from emojax.models.checks import (
    check_choice,
    check_outputs,
    check_range,
    check_rates,
    frame_mask,
    stream_widths,
)
from emojax.models.extent import Extent
from emojax.ops.masking import zero_where_padded
from emojax.types import Array

NAME = "RecurrentBaseline"


class RecurrentBaseline(nn.Module):
    """A fully connected layer and GRUs for each stream, GRUs on all, a dense layer.

    Parameters: "hidden_<stream>", "recurrent_<stream>", "fused", "head_<task>".

    Attributes:
        outputs: task -> C, columns to predict.
        streams: the streams used, in the order of concatenation.
        window: not used: windows may have any length.
        hidden: stream -> width of its fully connected layer with ReLU, acting on each frame
            alone; a stream that is not here, or has 0, has none. Every key is one of ``streams``.
        recurrent: stream -> widths of its GRU layers; a stream that is not here has none. Every
            key is one of ``streams``.
        fused: widths of the GRU layers after concatenation; () for none.
        causal: GRUs see only the past; else they run in both directions, each of half the
            width.
        dropout: rate after the fully connected layers and between layers of GRUs.
        heads: "joint" has one dense layer a task, "per_target" one for each label.
        head_activation: a key of ``layers.heads.HEAD_ACTIVATIONS``, the end of continuous
            tasks.
        dtype: of the computation, as a name ("float32", "bfloat16") or a dtype; parameters
            and outputs are float32.
    """

    outputs: Mapping[str, int]
    streams: tuple[str, ...] = ("vggface", "compare_lld")
    window: int = 100
    hidden: Mapping[str, int] = flax.core.freeze({"vggface": 4096})
    recurrent: Mapping[str, tuple[int, ...]] = flax.core.freeze(
        {"vggface": (128, 128), "compare_lld": (128, 128)}
    )
    fused: tuple[int, ...] = (128, 128)
    causal: bool = True
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
            streams: stream -> (B, T, D_s), normalised features, one row per video frame;
                exactly the streams of the field ``streams``, in any order.
            masks: stream -> (B, T) bool, False on padding. A frame is real if every stream
                says so; real frames do not depend on what padded frames hold.
            valid: not used: missing faces and silence are zeros, and their frames count.
            train: True if dropout acts (needs a "dropout" key).

        Returns:
            task -> (B, T, C) float32, and ``{"losses": {}}``.

        Raises:
            InputError: while tracing, for bad fields or streams that do not fit them.
        """
        del valid
        self._check_fields()
        mask_BT = frame_mask(NAME, self.streams, streams, masks)
        parts = []
        for name in self.streams:
            with stream_widths({name: streams[name]}):
                parts.append(self._encode(name, streams[name], mask_BT, train=train))
        x_BTD: Array = jnp.concatenate(parts, axis=-1)
        if self.fused:
            x_BTD = Dropout(self.dropout)(x_BTD, train=train)
            x_BTD = self._gru(self.fused, "fused")(x_BTD, mask_BT, train=train)
        predictions = task_heads(
            x_BTD,
            mask_BT,
            self.outputs,
            heads=self.heads,
            hidden=0,
            dtype=jnp.dtype(self.dtype),
            train=train,
        )
        return activate_heads(predictions, self.head_activation), {"losses": {}}

    def _encode(self, name: str, x_BTD: Array, mask_BT: Array, *, train: bool) -> Array:
        """Encodes one stream before streams meet, as (B, T, D)."""
        dtype = jnp.dtype(self.dtype)
        x_BTD = zero_where_padded(x_BTD.astype(dtype), mask_BT)
        if self.hidden.get(name, 0):
            x_BTD = nn.relu(nn.Dense(self.hidden[name], dtype=dtype, name=f"hidden_{name}")(x_BTD))
            x_BTD = Dropout(self.dropout)(x_BTD, train=train)
        widths = tuple(self.recurrent.get(name, ()))
        if widths:
            x_BTD = self._gru(widths, f"recurrent_{name}")(x_BTD, mask_BT, train=train)
        return x_BTD

    def _gru(self, widths: tuple[int, ...], name: str) -> StackedGRU:
        dtype = jnp.dtype(self.dtype)
        return StackedGRU(tuple(widths), self.dropout, self.causal, dtype, name=name)

    def extent(self) -> Extent:
        """Returns the frames that a prediction sees: its own, and the past in the state of GRUs.

        Raises:
            InputError: GRUs run in both directions.
        """
        recurrent = bool(self.fused) or any(self.recurrent.values())
        if recurrent and not self.causal:
            raise InputError(
                f"{NAME} reads a sequence from its end too, where it is not causal.",
                field="config.model.causal",
                found=False,
                expected="True",
            )
        return Extent(carries=recurrent)

    def _check_fields(self) -> None:
        check_outputs(NAME, self.streams, self.outputs)
        check_choice(NAME, "heads", self.heads, HEADS)
        check_choice(NAME, "head_activation", self.head_activation, HEAD_ACTIVATIONS)
        check_rates(NAME, dropout=self.dropout)
        for name, width in self.hidden.items():
            check_choice(NAME, f"hidden.{name}", name, self.streams)
            check_range(NAME, f"hidden.{name}", width, width >= 0, "0 or more")
        for name in self.recurrent:
            check_choice(NAME, f"recurrent.{name}", name, self.streams)
        layers = {f"recurrent.{name}": widths for name, widths in self.recurrent.items()}
        for field, widths in (layers | {"fused": self.fused}).items():
            good = all(width >= 1 for width in widths)
            check_range(NAME, field, tuple(widths), good, "a width of at least 1 for each layer")
            if not self.causal:
                even = all(width % 2 == 0 for width in widths)
                check_range(NAME, field, tuple(widths), even, "even, half for each direction")
