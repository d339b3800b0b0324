"""Segment MLP: what happened when in a whole recording, and the course of the rating.

Not from a paper. It is for recordings of one length that begin with the same kind of event, few
in number and with a weak signal (EPiC-2023: 50 s of physiology after a clip has begun), where
networks that output every frame on its own overfit. The model sees the mean of each stream in
a few segments of the window, and describes the window's labels by a polynomial in time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from emojax.errors import InputError
from emojax.layers.dropout import Dropout
from emojax.ops.masking import safe_divide, zero_where_padded
from emojax.types import Array


class SegmentMLP(nn.Module):
    """Means over segments, one hidden layer, Legendre coefficients of each output's course.

    Attributes:
        outputs: task -> C, columns to predict.
        streams: the streams used, in the order of concatenation.
        window: K, the longest window in frames; segments divide K, not the frames given.
        segments: the number of equal parts of the window with inputs of their own.
        hidden: width of the hidden layer.
        input_dropout: rate on segment means.
        dropout: rate on the hidden layer.
        degree: the degree of the polynomial in time; 0 predicts one value for the whole window.
        centre: the prediction of an untrained model; the middle of the labels' scale.
    """

    outputs: Mapping[str, int]
    streams: tuple[str, ...]
    window: int
    segments: int = 10
    hidden: int = 128
    input_dropout: float = 0.3
    dropout: float = 0.5
    degree: int = 2
    centre: float = 0.0

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
            streams: stream -> (B, T, D_s), normalised features, one row per frame, T <= K.
            masks: stream -> (B, T) bool, False on padding, which no mean includes.
            valid: not used: missing rows are zeros, and count as such.
            train: dropout acts (needs a "dropout" key).

        Returns:
            task -> (B, T, C) float32, and ``{"losses": {}}``. A segment without a real frame
            has mean zero; padded frames get a finite prediction that nothing looks at.

        Raises:
            InputError: streams are missing, lengths differ or exceed the window, or a field
                has a value that is not allowed.
        """
        length = self._checked_length(streams)
        # (K frames, segments), 1 where the frame lies in the segment.
        member_KS = np.arange(self.window)[:, None] * self.segments // self.window
        member_KS = (member_KS == np.arange(self.segments)[None]).astype(np.float32)
        member_TS = jnp.asarray(member_KS[:length])
        means = []
        for name in self.streams:
            x_BTD = zero_where_padded(streams[name], masks[name])
            total_BSD = jnp.einsum("btd,ts->bsd", x_BTD, member_TS)
            count_BS = jnp.einsum("bt,ts->bs", masks[name].astype(x_BTD.dtype), member_TS)
            mean_BSD = safe_divide(
                total_BSD, jnp.broadcast_to(count_BS[..., None], total_BSD.shape)
            )
            means.append(mean_BSD.reshape(len(mean_BSD), -1))
        h_BH = Dropout(self.input_dropout)(jnp.concatenate(means, axis=-1), train=train)
        h_BH = nn.gelu(nn.Dense(self.hidden, name="hidden")(h_BH))
        h_BH = Dropout(self.dropout)(h_BH, train=train)
        time_K = np.linspace(-1.0, 1.0, self.window)
        basis_KP = np.polynomial.legendre.legvander(time_K, self.degree)
        basis_TP = jnp.asarray(basis_KP[:length], jnp.float32)
        predicted: dict[str, Array] = {}
        for task, columns in self.outputs.items():
            output = nn.Dense(
                columns * (self.degree + 1),
                kernel_init=nn.initializers.zeros,
                name=f"output_{task}",
            )
            course_BCP = output(h_BH).reshape(-1, columns, self.degree + 1)
            predicted[task] = jnp.einsum("bcp,tp->btc", course_BCP, basis_TP) + self.centre
        return predicted, {"losses": {}}

    def _checked_length(self, streams: Mapping[str, Array]) -> int:
        for field, value, good, expected in (
            ("segments", self.segments, self.segments >= 1, "at least 1"),
            ("hidden", self.hidden, self.hidden >= 1, "at least 1"),
            ("degree", self.degree, self.degree >= 0, "at least 0"),
            ("input_dropout", self.input_dropout, 0 <= self.input_dropout < 1, "0 <= rate < 1"),
            ("dropout", self.dropout, 0 <= self.dropout < 1, "0 <= rate < 1"),
        ):
            if not good:
                raise InputError(
                    "A field of the model cannot have this value.",
                    field=f"config.model.{field}",
                    found=value,
                    expected=expected,
                )
        if not self.streams or set(streams) != set(self.streams):
            raise InputError(
                "The model was given other streams than it is for.",
                field="streams",
                found=", ".join(streams) or "none",
                expected=", ".join(self.streams) or "at least one",
            )
        lengths = {streams[name].shape[1] for name in self.streams}
        if len(lengths) > 1 or max(lengths) > self.window:
            raise InputError(
                "Streams do not fit the model's window.",
                field="config.data.window",
                found=f"{sorted(lengths)} frames",
                expected=f"one length for all streams, at most {self.window}",
                remedy="train with a window as long as the recordings",
            )
        return lengths.pop()
