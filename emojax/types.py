"""The batch every model, loss and metric sees, and the axis legend of the whole code base.

Axes, as used in names such as ``x_BTD``:
    R replicas   B batch (windows)   T time (frames or stream rows)
    D feature width   C outputs or label columns of a task   S streams
    N frames of one whole video
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.struct
import jax
import numpy as np

Array = jax.Array | np.ndarray


@flax.struct.dataclass
class Batch:
    """A batch of windows cut from videos. A frozen dataclass and a JAX pytree.

    Three masks that are easily confused:
    ``stream_mask`` is False on padding, that is beyond the end of a video. Models must not
    let padding change any real frame. ``stream_valid`` is False where the extractor had
    nothing to say (no face, silence); such rows are zeros, they are *not* padding, and
    their frames count. ``label_mask`` is False where there is no annotation (-5 / -1) or
    padding; only the loss and the metrics look at it.

    Attributes:
        streams: stream name -> (B, T_s, D_s), as stored (float16) or float32.
        stream_mask: stream name -> (B, T_s) bool, False on padding.
        stream_valid: stream name -> (B, T_s) bool, False on padding and missing rows.
        labels: task name -> (B, T, columns) float32; arbitrary finite where masked.
        label_mask: task name -> (B, T, columns) bool.
        example_mask: (B,) bool, False on windows that only fill up the batch.
        video_ids: (B,) int32, index of the video in its store.
        frame_ids: (B, T) int32, frame of the video, or tick of the clock (``config.data.clock``)
            that windows count; -1 on padding.
    """

    streams: Mapping[str, Array]
    stream_mask: Mapping[str, Array]
    stream_valid: Mapping[str, Array]
    labels: Mapping[str, Array]
    label_mask: Mapping[str, Array]
    example_mask: Array
    video_ids: Array
    frame_ids: Array
