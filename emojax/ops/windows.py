"""Cutting a video into windows, and putting per-window predictions back on its frames."""

from __future__ import annotations

import numpy as np


def window_starts(
    num_frames: int,
    window: int,
    stride: int,
    *,
    align_end: bool = False,
    count: str = "cover",
) -> np.ndarray:
    """Returns the first frames of the windows that cover a video.

    There are max(1, ceil((n - w) / s) + 1) windows at multiples of s. The last one may reach
    beyond the video and is then padded. Every frame lies in at least one window.

    With ``count="floor"`` there are floor(n / s) + 1, as section 3.4 of the TCN-Transformer's paper
    prints (arXiv:2303.08356). All windows of "cover" are among them. Windows that begin within
    w - s frames of the end repeat frames of the window before, and where s divides n the last one
    begins at n: it has no frame and is all padding.

    Args:
        num_frames: n, frames of the video.
        window: w, frames of a window.
        stride: s, frames between starts.
        align_end: shift the last window back so that it ends with the video, instead of
            padding it. A video shorter than a window is padded either way.
        count: "cover" or "floor".

    Returns:
        int64 (windows,), strictly increasing, the first is 0.

    Raises:
        ValueError: a number is below 1, or s > w, which would leave frames uncovered, or "floor"
            is combined with ``align_end``, which would give several windows one place.
    """
    if num_frames < 1 or window < 1 or stride < 1:
        raise ValueError(
            f"num_frames {num_frames}, window {window} and stride {stride} must be at least 1"
        )
    if stride > window:
        raise ValueError(f"stride {stride} exceeds window {window}: frames would be left out")
    if count == "floor":
        if align_end:
            raise ValueError("floor(n / s) + 1 windows cannot be aligned to the end")
        return np.arange(num_frames // stride + 1, dtype=np.int64) * stride
    steps = max(0, -(-(num_frames - window) // stride))
    starts = np.arange(steps + 1, dtype=np.int64) * stride
    if align_end:
        starts[-1] = max(0, num_frames - window)
    return starts


def scored_bounds(
    starts: np.ndarray, num_frames: int, window: int, stride: int, scored: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the frames that each window of a video is scored on.

    Args:
        starts: (windows,) the result of ``window_starts`` for the same sizes, aligned or not, of
            either count.
        num_frames: n, the frames of the video.
        window: w, the frames of a window.
        stride: s, the frames between starts.
        scored: "all": every frame of the window, so that windows overlap. "centre": its
            middle s frames, beginning with (w - s) // 2. "last": its last s frames. With
            "centre" and "last" the first window also has all frames before, and the last
            window all frames after, so that every frame has exactly one window. Windows that
            repeat frames or are empty may score none: then the first is not below the end.

    Returns:
        (windows,) first frames, and (windows,) frames after the last.
    """
    if scored == "all":
        return starts, np.minimum(starts + window, num_frames)
    offset = (window - stride) // 2 if scored == "centre" else window - stride
    # Not computed from the starts, because the last one may have been shifted back.
    inner = np.arange(1, len(starts), dtype=np.int64) * stride + offset
    return np.concatenate([[0], inner]), np.concatenate([inner, [num_frames]])


class OverlapAverage:
    """Averages, per frame of one video, the values of all windows that cover it.

    Sums are float64 and every frame comes out once, however many windows covered it. Average
    values or probabilities, never decisions.

    Args:
        num_frames: N, frames of the video.
        columns: C, values per frame.
    """

    def __init__(self, num_frames: int, columns: int) -> None:
        self._sum_NC = np.zeros((num_frames, columns), np.float64)
        self._count_N = np.zeros(num_frames, np.int64)

    def add(self, frame_ids_T: np.ndarray, values_TC: np.ndarray, mask_T: np.ndarray) -> None:
        """Adds the values of one window, or of several stacked along leading axes.

        Args:
            frame_ids_T: (..., T) integers, frame of each row; ignored where masked.
            values_TC: (..., T, C).
            mask_T: (..., T) bool, False on padding.

        Raises:
            ValueError: shapes disagree, or a counted frame lies outside the video.
        """
        keep = np.asarray(mask_T, bool)
        frames = np.asarray(frame_ids_T)
        values = np.asarray(values_TC)
        if frames.shape != keep.shape or values.shape != (*keep.shape, self._sum_NC.shape[1]):
            raise ValueError(
                f"frame ids {frames.shape}, values {values.shape} and mask {keep.shape} "
                f"do not fit {self._sum_NC.shape[1]} columns"
            )
        frames, values = frames[keep], values[keep]
        if frames.size and not 0 <= frames.min() <= frames.max() < len(self._count_N):
            raise ValueError(
                f"frames {frames.min()}..{frames.max()} lie outside a video of "
                f"{len(self._count_N)} frames"
            )
        if (frames[1:] > frames[:-1]).all():
            # As in one window: no frame twice, which is many times faster to add.
            self._sum_NC[frames] += values
            self._count_N[frames] += 1
        elif keep.ndim > 1:
            for frame_ids, rows, kept in zip(frame_ids_T, values_TC, mask_T, strict=True):
                self.add(frame_ids, rows, kept)
        else:
            # An indexed += would count a repeated frame once.
            np.add.at(self._sum_NC, frames, values)
            np.add.at(self._count_N, frames, 1)

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns ``(mean_NC, covered_N)``: float64 means, 0 where ``covered_N`` is False."""
        covered_N = self._count_N > 0
        return self._sum_NC / np.maximum(self._count_N, 1)[:, None], covered_N
