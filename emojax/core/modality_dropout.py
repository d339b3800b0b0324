"""Modality dropout: training on streams that fail, as faces and microphones do.

The robust training that ExpTrm leaves as future work. What it does to a batch is what the
missing-modality study (ExpTrm section 5.3) does to a test partition: rows become zero after
normalisation (the training mean of a z-scored stream), and every mask stays as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

# Keeps these draws apart from the model's dropout, whose key they derive from.
_PURPOSE = 0x6D6F64


def zero_rows(
    streams: Mapping[str, jax.Array], drop: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """Sets the dropped rows of streams to zero: the training mean, if they are z-scored.

    Args:
        streams: stream -> (B, T_s, D_s), normalised.
        drop: stream -> (B, T_s) bool, True where a row goes; a stream may be left out.
    """
    return {
        name: jnp.where(drop[name][..., None], jnp.zeros_like(x_BTD), x_BTD)
        if name in drop
        else x_BTD
        for name, x_BTD in streams.items()
    }


@dataclasses.dataclass(frozen=True)
class ModalityDropout:
    """Zeroes rows and streams in training, at random.

    Attributes:
        frames: probability that a row of a stream is zeroed, independently of all others.
        streams: probability that a whole stream of a window is zeroed. Never all streams of
            a window: where all would be, one drawn at random is kept. A single stream is
            therefore never dropped as a whole.
    """

    frames: float = 0.0
    streams: float = 0.0

    def __bool__(self) -> bool:
        """Returns True if a probability is above 0."""
        return self.frames > 0 or self.streams > 0

    def __call__(self, streams: Mapping[str, jax.Array], key: jax.Array) -> dict[str, jax.Array]:
        """Zeroes rows and streams of a batch.

        Args:
            streams: stream -> (B, T_s, D_s), normalised.
            key: the key of this step; the draws do not depend on the order of the streams.
        """
        key = jax.random.fold_in(key, _PURPOSE)
        names = sorted(streams)
        frames_key, streams_key, kept_key = jax.random.split(key, 3)
        batch = streams[names[0]].shape[0]
        drop_BS = jax.random.bernoulli(streams_key, self.streams, (batch, len(names)))
        kept_B = jax.random.randint(kept_key, (batch,), 0, len(names))
        is_kept_BS = jnp.arange(len(names))[None] == kept_B[:, None]
        drop_BS = drop_BS & ~(jnp.all(drop_BS, axis=1, keepdims=True) & is_kept_BS)
        drop = {}
        for i, name in enumerate(names):
            row_key = jax.random.fold_in(frames_key, i)
            drop_BT = jax.random.bernoulli(row_key, self.frames, streams[name].shape[:2])
            drop[name] = drop_BT | drop_BS[:, i : i + 1]
        return zero_rows({name: streams[name] for name in names}, drop)
