"""RJCMA: recursive joint cross-modal attention (Praveen and Alam, arXiv:2403.13659).

Each stream passes a temporal encoder, ``recursions`` joint cross-attention blocks with
weights of their own refine all streams together (eq. 1-13), and an MLP predicts each frame
from the concatenated streams (eq. 14).
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import flax
import jax.numpy as jnp
from flax import linen as nn

from emojax.errors import InputError
from emojax.layers.fusion import JointCrossAttention, UpstreamCrossAttention
from emojax.layers.heads import MLPHead
from emojax.layers.normalisation import MaskedBatchNorm
from emojax.layers.recurrent import StackedLSTM
from emojax.layers.tcn import TemporalConvNet
from emojax.ops.masking import zero_where_padded
from emojax.specs import TASKS
from emojax.types import Array

# TCN widths of the authors' public code that fit together.
PAPER_CHANNELS: Mapping[str, tuple[int, ...]] = flax.core.freeze(
    {"ir50": (512, 512, 256, 256), "vggish": (128, 128, 128, 128), "bert": (256, 256, 128, 128)}
)


@dataclasses.dataclass(frozen=True)
class Variant:
    """What the paper and the authors' public code do differently.

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
HEADS = ("per_target", "joint")
OUTPUTS = ("linear", "tanh")


class RJCMA(nn.Module):
    """Recursive joint cross-modal attention over any set of streams.

    Fields that are None take the variant's own value (``VARIANTS``).

    Attributes:
        outputs: task -> C, columns to predict.
        streams: the streams used, in the order of concatenation.
        variant: "paper", or "upstream" for the authors' public code.
        window: K, the longest window in frames; the size of the time-mixing weights.
        recursions: l >= 1, number of fusion blocks.
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
        dtype: of the computation, as a name ("float32", "bfloat16") or a dtype;
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
        """Predict every frame of every window.

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
        mask_BT = self._check_streams(streams, masks)
        dtype = jnp.dtype(self.dtype)
        dropout = variant.dropout if self.dropout is None else self.dropout

        features: dict[str, Array] = {}
        for name in self.streams:
            x_BTD = zero_where_padded(streams[name].astype(dtype), mask_BT)
            with _stream_widths({name: streams[name]}):
                features[name] = self._encode(self.temporal, name, x_BTD, mask_BT, train=train)
        for i in range(self.recursions or variant.recursions):
            block = variant.block(self.window, dropout, dtype, name=f"recursion_{i}")
            with _stream_widths(streams):
                features = block(features, mask_BT, train=train)
        joint_BTD = jnp.concatenate(list(features.values()), axis=-1)
        fused_BTD = self._encode(self.fused_temporal, "fused", joint_BTD, mask_BT, train=train)

        output = self.output or variant.output
        predictions: dict[str, Array] = {}
        for task, heads in self._targets().items():
            continuous = task not in TASKS or TASKS[task].kind == "continuous"
            columns = [
                MLPHead(
                    outputs,
                    self.head_width,
                    batch_norm=variant.head_batch_norm,
                    bounded=continuous and output == "tanh",
                    dropout=0.0 if variant.head_batch_norm else dropout,
                    dtype=dtype,
                    name=f"head_{head}",
                )(fused_BTD, mask_BT, train=train)
                for head, outputs in heads.items()
            ]
            predictions[task] = jnp.concatenate(columns, axis=-1)
        return predictions, {"losses": {}}

    def _encode(self, kind: str, name: str, x_BTD: Array, mask_BT: Array, *, train: bool) -> Array:
        """One temporal encoder with its batch normalisation."""
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

    def _targets(self) -> dict[str, dict[str, int]]:
        """Task -> head name -> columns of that head."""
        targets: dict[str, dict[str, int]] = {}
        for task, columns in self.outputs.items():
            spec = TASKS.get(task)
            labels = spec.labels if spec is not None else ()
            if self.heads == "joint" or (spec is not None and spec.kind == "categorical"):
                targets[task] = {task: columns}
            else:
                names = labels if len(labels) == columns else map(str, range(columns))
                targets[task] = {f"{task}_{name}": 1 for name in names}
        return targets

    def _check_fields(self) -> Variant:
        """The variant's row, after every field has been checked."""
        _check_choice("variant", self.variant, VARIANTS)
        _check_choice("temporal", self.temporal, TEMPORAL)
        _check_choice("fused_temporal", self.fused_temporal, TEMPORAL)
        _check_choice("heads", self.heads, HEADS)
        if self.output is not None:
            _check_choice("output", self.output, OUTPUTS)
        if not self.streams or not self.outputs:
            raise InputError(
                "A model needs at least one stream and one task.",
                field="model.streams" if not self.streams else "model.outputs",
                found="none",
            )
        _check_range("window", self.window, self.window >= 1, "at least 1")
        if self.recursions is not None:
            _check_range("recursions", self.recursions, self.recursions >= 1, "at least 1")
        for field in ("temporal_dropout", "dropout"):
            rate = getattr(self, field)
            if rate is not None:
                _check_range(field, rate, 0 <= rate < 1, "0 <= rate < 1")
        if self.temporal == "tcn" and not self.causal:
            odd = self.kernel_size % 2 == 1
            _check_range("kernel_size", self.kernel_size, odd, "odd, to be centred")
        if self.temporal != "none":
            for name in self.streams:
                widths = tuple(self.channels.get(name, ()))
                field = f"channels.{name}"
                _check_range(field, widths, bool(widths), "one width per encoder layer")
                if self.temporal == "lstm" and not self.causal:
                    even = all(width % 2 == 0 for width in widths)
                    _check_range(field, widths, even, "even, half for each direction")
        return VARIANTS[self.variant]

    def _check_streams(self, streams: Mapping[str, Array], masks: Mapping[str, Array]) -> Array:
        """The frames that are real in every stream, (B, T), after checks on all shapes."""
        for role, given in (("streams", streams), ("masks", masks)):
            if set(given) != set(self.streams):
                raise InputError(
                    f"The {role} of the batch are not those of the model.",
                    field=", ".join(sorted(set(given) ^ set(self.streams))),
                    found=", ".join(sorted(given)),
                    expected=", ".join(sorted(self.streams)),
                    remedy="make model.streams the streams that the data pipeline yields",
                )
        shape_BT = streams[self.streams[0]].shape[:2]
        for name in self.streams:
            found = (streams[name].shape[:-1], masks[name].shape)
            if streams[name].ndim != 3 or found != (shape_BT, shape_BT):
                raise InputError(
                    "RJCMA mixes streams frame by frame, so all need the same frames.",
                    field=name,
                    found=f"features {streams[name].shape}, mask {masks[name].shape}",
                    expected=f"features {(*shape_BT, 'D')}, mask {shape_BT}",
                    remedy="resample every stream to the video's frames",
                )
        if shape_BT[1] > self.window:
            raise InputError(
                "The window is longer than the model's time-mixing weights.",
                field="model.window",
                found=f"a window of {shape_BT[1]} frames",
                expected=f"at most K = {self.window} frames",
                remedy=f"set model.window={shape_BT[1]} and train, or cut the data's window "
                f"to {self.window}",
            )
        mask_BT = masks[self.streams[0]].astype(bool)
        for name in self.streams[1:]:
            mask_BT = mask_BT & masks[name].astype(bool)
        return mask_BT


@contextlib.contextmanager
def _stream_widths(streams: Mapping[str, Array]) -> Iterator[None]:
    """Tell a user whose streams do not fit the parameters which stream that is."""
    try:
        yield
    except flax.errors.ScopeParamShapeError as error:
        widths = {name: x_BTD.shape[-1] for name, x_BTD in streams.items()}
        raise InputError(
            "The streams do not have the widths that the parameters were made for.",
            field=", ".join(widths),
            found=", ".join(f"{name} of width {width}" for name, width in widths.items()),
            expected=f"the widths and model fields of training ({error})",
            remedy="use the feature files and the configuration the parameters came from",
        ) from error


def _check_choice(field: str, value: str, choices: Iterable[str]) -> None:
    """Refuse a name that is not in a table, with the closest that is."""
    known = list(choices)
    if value not in known:
        close = difflib.get_close_matches(str(value), known, n=1)
        raise InputError(
            "RJCMA has no such option.",
            field=f"model.{field}",
            found=value,
            expected=", ".join(known),
            remedy=f"did you mean {close[0]}?" if close else None,
        )


def _check_range(field: str, value: object, good: bool, expected: str) -> None:
    """Refuse a number out of range."""
    if not good:
        raise InputError(
            "RJCMA cannot be built with this value.",
            field=f"model.{field}",
            found=value,
            expected=expected,
        )
