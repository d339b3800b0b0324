"""EMMA-Net: cross-modal temporal attention around the current face (Calloway et al. 2025).

doi:10.20944/preprints202506.2314.v1. Recurrent encoders over each stream at its own rate
(eq. 1-3), attention from the current face feature to every stream's rows (eq. 4-6), a head
(eq. 7), and two auxiliary losses (eq. 8-10). Table 2 and section 4.5 compare other fusions.

As printed the attention cannot turn a modality down: its softmax runs over time, within each
modality. Section 1 of the paper claims that it can. Among the fusions only "gating" can (see
``layers.temporal_attention``).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from emojax.errors import InputError
from emojax.layers.heads import HEADS, OUTPUTS, task_heads
from emojax.layers.recurrent import StackedGRU
from emojax.layers.temporal_attention import (
    AdditiveFusion,
    AnchorOnly,
    AttentionFusion,
    BilinearFusion,
    ConcatFusion,
    GatedFusion,
    Sequence,
    SequenceOnly,
)
from emojax.models.checks import (
    check_choice,
    check_outputs,
    check_range,
    check_rates,
    check_streams,
    stream_widths,
)
from emojax.models.extent import Extent
from emojax.models.mechanisms import Mechanism, uniform
from emojax.ops.masking import accumulable, masked_mean, zero_where_padded
from emojax.ops.stability import smoothness
from emojax.ops.tasks import TASK_OPS
from emojax.specs import TASKS
from emojax.types import Array

NAME = "EMMA-Net"
NOTHING: Mapping[str, int] = flax.core.freeze({})


@dataclasses.dataclass(frozen=True)
class Fusion:
    """One way to make z.

    Attributes:
        module: the module of ``emojax.layers.temporal_attention``.
        reads: the sequences it fuses: "all", those of the "anchor" stream alone, or "none".
        adds: True if it sums the sequences, which then need one width.
    """

    module: Callable[..., nn.Module]
    reads: str = "all"
    adds: bool = False


FUSIONS: dict[str, Fusion] = {
    "attention": Fusion(AttentionFusion),  # eq. 4-6
    "bilinear": Fusion(BilinearFusion, adds=True),  # eq. 11
    "concat": Fusion(ConcatFusion),  # Table 2
    "additive": Fusion(AdditiveFusion, adds=True),  # section 4.5
    "gating": Fusion(GatedFusion),  # section 4.5
    "current_face": Fusion(AnchorOnly, reads="none"),  # Table 2
    # "Only video without face", section 4.4: in our reading the GRU over the face stream, no f_c.
    "video_only": Fusion(SequenceOnly, reads="anchor"),  # Table 2
}


class EMMANet(nn.Module):
    """Predicts every tick of a window from the anchor stream and its context.

    Attributes:
        outputs: task -> C, columns to predict.
        streams: the streams used, in the order of concatenation.
        window: T, ticks of a window. No parameter depends on it.
        ticks: stream -> ticks of the window in each of its rows (3 for a stream of 2 Hz under a
            clock of 6 Hz); 1 for a stream that is not named.
        anchor: the stream that gives f_c, on the window's own clock; "fan" in the paper. The
            others are context, any number of them.
        fusion: a key of ``FUSIONS``. "video_only" ("only video without face" in section 4.4)
            reads the encoder over the anchor stream but not f_c: our reading.
        width: h, width of each stream's encoder.
        widths: one of ``streams`` -> h where it differs. "bilinear" and "additive" need one
            width.
        layers: GRU layers of each encoder.
        temporal_dropout: rate between them.
        causal: the anchor stream's encoder runs forward only and no anchor sees a row that
            ends after its tick; else that encoder is bidirectional and anchors see the whole
            window. The other encoders run forward.
        context_bidirectional: the other encoders run in both directions too; ours. Not with
            ``causal``.
        attention_width: d_k of "attention".
        attention_shared: one pair W_Q, W_K for all streams in "attention", as eq. 4 prints it;
            their encoders then need one width. Else a pair for each stream.
        attention_bias: a bias of the anchor's projection in "attention"; ours.
        attention_locality: "attention" may prefer rows near the anchor; ours.
        head_width: hidden width of the head.
        dropout: rate in the head.
        heads: "joint" (one head a task, as in the paper) or "per_target".
        output: "linear" or "tanh", the end of continuous tasks' heads.
        reconstruction_weight: lambda_rec of eq. 10; 0 leaves the decoders out.
        smoothness_weight: lambda_smooth of eq. 10.
        dtype: of the computation, as a name ("float32", "bfloat16") or a dtype; parameters,
            attention weights, losses and outputs are float32.
    """

    outputs: Mapping[str, int]
    streams: tuple[str, ...] = ("fan", "deepspectrum", "openpose")
    window: int = 36
    ticks: Mapping[str, int] = NOTHING
    anchor: str = "fan"
    fusion: str = "attention"
    width: int = 128
    widths: Mapping[str, int] = NOTHING
    layers: int = 2
    temporal_dropout: float = 0.1
    causal: bool = False
    context_bidirectional: bool = False
    attention_width: int = 128
    attention_shared: bool = False
    attention_bias: bool = False
    attention_locality: bool = False
    head_width: int = 128
    dropout: float = 0.3
    heads: str = "joint"
    output: str = "linear"
    reconstruction_weight: float = 0.01
    smoothness_weight: float = 0.01
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
        """Predicts every tick of every window.

        Args:
            streams: stream -> (B, T_s, D_s), normalised features, T_s * ticks = T; exactly the
                streams of the field ``streams``, in any order.
            masks: stream -> (B, T_s) bool, False on padding. Each stream has its own: a tick is
                predicted if the anchor stream is real there, from the real rows of each.
            valid: not used: missing rows are zeros, and count.
            train: dropout acts (needs a "dropout" key).

        Returns:
            task -> (B, T, C) float32, and an aux with the weighted losses "reconstruction" (in
            "losses") and "smoothness" (in "target_losses": task -> (targets,)); a loss of weight
            0 is not there. Attention weights, scalar weights or gates are sown into the
            collection "intermediates".

        Raises:
            InputError: while tracing, for bad fields or streams that do not fit them.
        """
        del valid
        self._check_fields()
        self._check_rows(streams, masks)
        dtype = jnp.dtype(self.dtype)
        mask_BT = masks[self.anchor].astype(bool)
        anchor_BTD = zero_where_padded(streams[self.anchor].astype(dtype), mask_BT)
        sequences = {
            name: self._encode(name, streams[name], masks[name].astype(bool), train=train)
            for name in self._read()
        }
        with stream_widths(streams):
            z_BTZ = self._module()(anchor_BTD, sequences)
            outputs = task_heads(
                z_BTZ,
                mask_BT,
                self.outputs,
                heads=self.heads,
                hidden=self.head_width,
                output=self.output,
                dropout=self.dropout,
                dtype=dtype,
                train=train,
            )
        losses: dict[str, Array] = {}
        target_losses: dict[str, dict[str, Array]] = {}
        if self.reconstruction_weight and sequences:
            error = self._reconstruction(z_BTZ, mask_BT, sequences)
            losses["reconstruction"] = self.reconstruction_weight * error
        if self.smoothness_weight:
            target_losses["smoothness"] = self._smoothness(outputs, mask_BT)
        return outputs, {"losses": losses, "target_losses": target_losses}

    def mechanisms(self) -> dict[str, Mechanism]:
        """Names what the fusion weighs: the rows of each stream, or the streams."""
        apart = {"attention": "attention to", "bilinear": "bilinear attention to"}
        if self.fusion in apart:
            return {
                f"{apart[self.fusion]} {name}": Mechanism(
                    "uniform: every row that is seen weighs the same",
                    (f"fusion/attention_{name}",),
                    uniform,
                    others=() if name == self.anchor else (name,),
                )
                for name in self.streams
            }
        others = tuple(name for name in self.streams if name != self.anchor)
        if self.fusion == "gating":
            half = "one half: no gate opens or closes"
            gates = {
                f"gate of {name}": Mechanism(half, parameters=(f"fusion/gate_{name}/*",))
                for name in self.streams
            }
            return {
                "gates": Mechanism(half, parameters=("fusion/gate_*/*",), others=others)
            } | gates
        if self.fusion == "additive":
            return {
                "weights of the streams": Mechanism(
                    "equal: every stream weighs the same, as at the start",
                    parameters=("fusion/logits",),
                    others=others,
                )
            }
        return {}

    def _encode(self, name: str, x_BSD: Array, mask_BS: Array, *, train: bool) -> Sequence:
        """Encodes one stream as H (eq. 1-3)."""
        encoder = StackedGRU(
            (self.widths.get(name, self.width),) * self.layers,
            dropout=self.temporal_dropout,
            causal=not self._both_ways(name),
            dtype=jnp.dtype(self.dtype),
            name=f"encoder_{name}",
        )
        with stream_widths({name: x_BSD}):
            rows_BSH = encoder(x_BSD, mask_BS, train=train)
        return Sequence(rows_BSH, mask_BS, self.ticks.get(name, 1), self.causal)

    def _both_ways(self, name: str) -> bool:
        """Tells if a stream's encoder also runs backward."""
        return not self.causal and (name == self.anchor or self.context_bidirectional)

    def _module(self) -> nn.Module:
        """Returns the fusion module."""
        module = FUSIONS[self.fusion].module
        if module is AttentionFusion:
            module = functools.partial(
                module,
                self.attention_width,
                self.attention_shared,
                self.attention_bias,
                self.attention_locality,
            )
        return module(dtype=jnp.dtype(self.dtype), name="fusion")

    def _reconstruction(
        self, z_BTZ: Array, mask_BT: Array, sequences: Mapping[str, Sequence]
    ) -> Array:
        """Computes eq. 8: the error of linear layers that decode each H_m at the anchor from z.

        The square is averaged over the real anchors (whose row is real too) and the width, not
        summed, so that the weight does not depend on window, batch or h. H_m is a constant
        here: otherwise the encoders would be paid for sequences that are easy to decode, in
        the end all zeros, and the loss would take away what it is to preserve.
        """
        total: Array = jnp.zeros(())
        for name, sequence in sequences.items():
            target_BTH = lax.stop_gradient(accumulable(sequence.at_anchors()))
            decoder = nn.Dense(
                target_BTH.shape[-1], dtype=jnp.dtype(self.dtype), name=f"reconstruction_{name}"
            )
            error_BTH = accumulable(decoder(z_BTZ)) - target_BTH
            real_BT = mask_BT & sequence.real_at_anchors()
            total = total + masked_mean(error_BTH**2, real_BT[..., None])
        return total

    def _smoothness(self, outputs: Mapping[str, Array], mask_BT: Array) -> dict[str, Array]:
        """Computes eq. 9, weighted: task -> (targets,), so that a target smooths its own head."""
        losses: dict[str, Array] = {}
        for task, output_BTC in outputs.items():
            decoded = TASK_OPS[task].decode(output_BTC) if task in TASK_OPS else output_BTC
            whole = task in TASKS and TASKS[task].kind == "categorical"
            parts = [decoded] if whole else jnp.split(decoded, decoded.shape[-1], axis=-1)
            changes = jnp.stack([smoothness(part, mask_BT) for part in parts])
            losses[task] = self.smoothness_weight * changes
        return losses

    def _read(self) -> tuple[str, ...]:
        """Returns the streams that are encoded."""
        reads = FUSIONS[self.fusion].reads
        return {"all": self.streams, "anchor": (self.anchor,), "none": ()}[reads]

    def extent(self) -> Extent:
        """Returns the ticks that a prediction sees: its own.

        Raises:
            InputError: the fusion reads more than the current face.
        """
        if self._read():
            raise InputError(
                f"{NAME} attends to all of a window, or sums it up, with this fusion.",
                field="config.model.fusion",
                found=self.fusion,
                expected=", ".join(
                    name for name, fusion in FUSIONS.items() if fusion.reads == "none"
                ),
            )
        return Extent()

    def _check_fields(self) -> None:
        """Raises InputError for a field with a value that is not allowed."""
        check_outputs(NAME, self.streams, self.outputs)
        check_choice(NAME, "anchor", self.anchor, self.streams)
        check_choice(NAME, "fusion", self.fusion, FUSIONS)
        check_choice(NAME, "heads", self.heads, HEADS)
        check_choice(NAME, "output", self.output, OUTPUTS)
        check_rates(NAME, dropout=self.dropout, temporal_dropout=self.temporal_dropout)
        for field in ("window", "layers", "attention_width"):
            value = getattr(self, field)
            check_range(NAME, field, value, value >= 1, "at least 1")
        check_range(NAME, "head_width", self.head_width, self.head_width >= 0, "at least 0")
        for field in ("reconstruction_weight", "smoothness_weight"):
            value = getattr(self, field)
            check_range(NAME, field, value, value >= 0, "at least 0")
        for name, ticks in self.ticks.items():
            check_range(NAME, f"ticks.{name}", ticks, ticks >= 1, "at least 1")
        for name in self.widths:
            check_choice(NAME, f"widths.{name}", name, self.streams)
        widths = {name: self.widths.get(name, self.width) for name in self._read()}
        for name, width in widths.items():
            field = f"widths.{name}" if name in self.widths else "width"
            check_range(NAME, field, width, width >= 1, "at least 1")
            if self._both_ways(name):
                even = width % 2 == 0
                check_range(NAME, field, width, even, "even, half for each direction")
        forward = not (self.causal and self.context_bidirectional)
        check_range(NAME, "context_bidirectional", True, forward, "False, for a causal model")
        one = len(set(widths.values())) == 1
        if FUSIONS[self.fusion].adds:
            check_range(NAME, "widths", widths, one, f"one width, for {self.fusion} adds them")
        if self.attention_shared:
            attends = self.fusion == "attention"
            check_range(NAME, "attention_shared", True, attends, f"False, for {self.fusion}")
            check_range(NAME, "widths", widths, one, "one width, for all pass the same W_Q")

    def _check_rows(self, streams: Mapping[str, Array], masks: Mapping[str, Array]) -> None:
        """Raises InputError unless every stream spans the same ticks."""
        check_streams(NAME, self.streams, streams, masks)
        if self.ticks.get(self.anchor, 1) != 1:
            raise InputError(
                "Anchors are the ticks of the window, so their stream has one row for each.",
                field=f"config.data.rates.{self.anchor}",
                found=f"a row for every {self.ticks[self.anchor]} ticks",
                remedy="set config.data.clock to the rate of the anchor stream",
            )
        shape_BT = streams[self.anchor].shape[:2]
        for name in self.streams:
            batch, rows = streams[name].shape[:2]
            ticks = self.ticks.get(name, 1)
            if (batch, rows * ticks) != shape_BT:
                raise InputError(
                    "The streams of a window do not span the same time.",
                    field=name,
                    found=f"{batch} windows of {rows} rows, {ticks} ticks each",
                    expected=f"{shape_BT[0]} windows of {shape_BT[1]} ticks, as {self.anchor}",
                    remedy="take the window and rates of config.data the model was built for",
                )
