"""Postprocessing of predictions: smoothing over time, and clipping.

Filters work on seconds, not on numbers of frames, so a jump in the clock is a gap: frames beyond
it count as far away as they are. Each output is a weighted mean of the frames in reach, so
towards the ends of a video, and beside frames that are not predicted, the weights of what is
there add up to 1. NumPy alone, in float64: this happens on the host, after training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

# A frame whose clock is off by less than this still lies on the edge of a window.
_EDGE_SECONDS = 1e-6
# Standard deviations after which a Gaussian counts as 0.
_REACH = 4.0

# (values_NC with 0 in gaps, weights of 0 and 1 as (N, C) or (N, 1), pts_N, seconds) -> weighted
# sums (N, C) and sums of weights.
Filter = Callable[[np.ndarray, np.ndarray, np.ndarray, float], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Smoother:
    """A filter and the widths that are tried when it is tuned.

    Attributes:
        filter: the filter.
        width: the meaning of its width.
        seconds: widths to choose from, ascending, beginning with 0, which leaves values alone.
        causal: True if it looks only back, so that it may run on a stream.
    """

    filter: Filter
    width: str
    seconds: tuple[float, ...]
    causal: bool = False


def _moving_average(
    values_NC: np.ndarray, weights_NC: np.ndarray, pts_N: np.ndarray, seconds: float
) -> tuple[np.ndarray, np.ndarray]:
    half = 0.5 * seconds + _EDGE_SECONDS
    first_N = np.searchsorted(pts_N, pts_N - half, side="left")
    stop_N = np.searchsorted(pts_N, pts_N + half, side="right")

    def window_sums(x_NC: np.ndarray) -> np.ndarray:
        sums = np.concatenate([np.zeros((1, x_NC.shape[1])), np.cumsum(x_NC, axis=0)])
        return sums[stop_N] - sums[first_N]

    return window_sums(values_NC), window_sums(weights_NC)


def _gaussian(
    values_NC: np.ndarray, weights_NC: np.ndarray, pts_N: np.ndarray, seconds: float
) -> tuple[np.ndarray, np.ndarray]:
    reach = _REACH * seconds + _EDGE_SECONDS
    sums_NC, totals_NC = values_NC.copy(), weights_NC.copy()
    furthest = np.searchsorted(pts_N, pts_N + reach, side="right") - 1 - np.arange(len(pts_N))
    for lag in range(1, int(furthest.max(initial=0)) + 1):
        apart = pts_N[lag:] - pts_N[:-lag]
        weight = np.where(apart <= reach, np.exp(-0.5 * (apart / seconds) ** 2), 0.0)[:, None]
        for total_NC, x_NC in ((sums_NC, values_NC), (totals_NC, weights_NC)):
            total_NC[:-lag] += weight * x_NC[lag:]
            total_NC[lag:] += weight * x_NC[:-lag]
    return sums_NC, totals_NC


def _exponential(
    values_NC: np.ndarray, weights_NC: np.ndarray, pts_N: np.ndarray, seconds: float
) -> tuple[np.ndarray, np.ndarray]:
    sums_NC, totals_NC = values_NC.copy(), weights_NC.copy()
    lag = 1
    # After each round a frame holds the sum over twice as many frames up to itself.
    while lag < len(pts_N):
        decay = np.exp(-(pts_N[lag:] - pts_N[:-lag]) / seconds)[:, None]
        for total_NC in (sums_NC, totals_NC):
            total_NC[lag:] += decay * total_NC[:-lag].copy()
        lag *= 2
    return sums_NC, totals_NC


SMOOTHERS: dict[str, Smoother] = {
    "moving_average": Smoother(
        _moving_average,
        "length of the centred window",
        (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0),
    ),
    "gaussian": Smoother(
        _gaussian, "standard deviation", (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0)
    ),
    "exponential": Smoother(
        _exponential,
        "time constant",
        (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0),
        causal=True,
    ),
}


def smooth(
    values_NC: np.ndarray,
    pts_N: np.ndarray,
    seconds: float,
    *,
    smoother: str = "moving_average",
    mask_NC: np.ndarray | None = None,
) -> np.ndarray:
    """Smooths each column over time.

    With weights w(d) of the distance d in seconds, y(t) = sum_s w(s - t) x(s) / sum_s w(s - t)
    over the frames s that are predicted. ``moving_average``: w = 1 for |d| <= seconds / 2.
    ``gaussian``: w = exp(-d^2 / (2 seconds^2)) for |d| <= 4 seconds. Both look equally far to
    either side and so delay nothing. ``exponential``: w = exp(d / seconds) for d <= 0 alone, a
    causal low-pass filter whose start is not drawn towards 0.

    Args:
        values_NC: decoded predictions. What is not finite counts as not predicted.
        pts_N: (N,) seconds of the frames, never decreasing.
        seconds: the width, see ``SMOOTHERS``; 0 returns a copy.
        smoother: a key of ``SMOOTHERS``.
        mask_NC: bool, False where there is no prediction; None: all are.

    Returns:
        (N, C) float64. Frames that are not predicted influence none and stay what they are.
        Probabilities that add up to 1 still do, if all columns have the same mask.

    Raises:
        KeyError: there is no such smoother.
        ValueError: the shapes differ, or the width is negative or not finite.
    """
    found = SMOOTHERS[smoother]
    values_NC = np.array(values_NC, np.float64)
    known_NC = np.isfinite(values_NC)
    if mask_NC is not None:
        if mask_NC.shape != values_NC.shape:
            raise ValueError(f"values {values_NC.shape} and mask {mask_NC.shape} differ in shape")
        known_NC &= mask_NC
    if pts_N.shape != values_NC.shape[:1]:
        raise ValueError(f"{len(values_NC)} frames have times of shape {pts_N.shape}")
    if not 0.0 <= seconds < np.inf:
        raise ValueError(f"a width of {seconds} seconds")
    if seconds == 0.0 or len(values_NC) < 2:
        return values_NC
    # Columns that lack the same frames share their weights.
    alike = (known_NC == known_NC[:, :1]).all()
    weights_NC = (known_NC[:, :1] if alike else known_NC).astype(np.float64)
    sums_NC, totals_NC = found.filter(
        np.where(known_NC, values_NC, 0.0),
        weights_NC,
        np.asarray(pts_N, np.float64),
        seconds,
    )
    # A predicted frame weighs itself, so its total is never 0.
    return np.where(known_NC, sums_NC / np.where(known_NC, totals_NC, 1.0), values_NC)


def clip(values_NC: np.ndarray, low: float, high: float) -> np.ndarray:
    """Moves values below ``low`` or above ``high`` there; NaN stays NaN.

    Raises:
        ValueError: ``low`` is above ``high``.
    """
    if low > high:
        raise ValueError(f"the range from {low} to {high} is empty")
    return np.clip(values_NC, low, high)
