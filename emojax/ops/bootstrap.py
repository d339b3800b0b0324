"""Intervals of scores under another choice of videos: a block bootstrap over videos.

Frames of one video resemble one another, so videos are drawn and not frames: each draw takes as
many videos as there are, with replacement, and scores all their frames as one data set. Metric
states are merged with the number of times that their video was drawn, so predictions are not
needed. Intervals are percentiles (Efron and Tibshirani 1993, chapter 13); from few videos
(below about 20) they come out too narrow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from emojax.ops.masking import safe_divide
from emojax.ops.metrics import Moments
from emojax.ops.tasks import TASK_OPS
from emojax.types import Array

_DRAWS_AT_ONCE = 100


@dataclasses.dataclass(frozen=True)
class PairedDifference:
    """By how much one system's score exceeds another's on the same videos.

    Attributes:
        difference: the difference of the scores over all videos, first minus second.
        low, high: ends of the bootstrap interval of the difference; NaN below two videos.
        p: two-sided, for "the difference is 0"; at least 1 / draws, and NaN below two videos.
    """

    difference: float
    low: float
    high: float
    p: float


def drawn_videos(num_videos: int, draws: int, seed: int) -> np.ndarray:
    """Draws videos: counts (draws, videos), int64, of which every row sums to videos.

    Depends on nothing but the arguments, so that systems can be compared on the same draws.
    """
    rng = np.random.default_rng(seed)
    return rng.multinomial(num_videos, np.full(num_videos, 1.0 / num_videos), size=draws)


def stack_states(states: Sequence[Any]) -> Any:
    """Stacks one NumPy state per video into a state with a leading axis of videos.

    Raises:
        ValueError: there is no state.
    """
    if not states:
        raise ValueError("there is no metric state to stack")
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(x) for x in leaves]), *states)


def weighted_state(stacked: Any, weights_V: np.ndarray) -> Any:
    """Returns the state of a data set that holds video v ``weights_V[v]`` times.

    Equals merging each state that often.

    Args:
        stacked: see ``stack_states``.
        weights_V: (videos,) integers, at least 0, or (draws, videos); then the state has a
            leading axis of draws.
    """
    return jax.tree.map(
        lambda part: _weighted(part, weights_V),
        stacked,
        is_leaf=lambda part: isinstance(part, Moments),
    )


def _weighted(part: Any, weights_V: np.ndarray) -> Any:
    """Weighs a state; all states are sums, except for ``Moments``."""
    if not isinstance(part, Moments):
        return np.tensordot(weights_V, part, axes=(-1, 0))
    weights = weights_V.astype(np.float64)

    def total(values_VC: Array) -> np.ndarray:
        return np.einsum("...v,...vc->...c", weights, np.asarray(values_VC))

    count_VC = np.asarray(part.count)
    count = total(count_VC)
    # Around the mean of the draw, not raw sums: what is constant stays so to the last digit.
    mean_x = safe_divide(total(count_VC * part.mean_x), count)
    mean_y = safe_divide(total(count_VC * part.mean_y), count)
    dx, dy = part.mean_x - mean_x[..., None, :], part.mean_y - mean_y[..., None, :]
    return Moments(
        count=count,
        mean_x=mean_x,
        mean_y=mean_y,
        m2_x=total(part.m2_x + count_VC * dx**2),
        m2_y=total(part.m2_y + count_VC * dy**2),
        c_xy=total(part.c_xy + count_VC * dx * dy),
        squared_error=total(part.squared_error),
    )


def pooled_state(states: Sequence[Any]) -> Any:
    """Returns the state of all videos together, each once."""
    return weighted_state(stack_states(states), np.ones(len(states), np.int64))


def resampled_scores(
    task: str, states: Sequence[Any], *, draws: int = 1000, seed: int = 0
) -> dict[str, np.ndarray]:
    """Scores ``draws`` data sets made of videos drawn with replacement.

    Args:
        task: a key of ``TASK_OPS``.
        states: one metric state (``TASK_OPS[task].state``, of NumPy arrays) per video.
        draws: data sets to draw.
        seed: the same seed and number of videos draw the same videos, so that two systems can
            be paired.

    Returns:
        Score name -> (draws,) float64. All NaN for a single video, which says nothing about
        others. Scores of targets that a system was not trained for are in it as well.

    Raises:
        ValueError: there is no state.
    """
    ops = TASK_OPS[task]
    if len(states) < 2:
        return {name: np.full(draws, np.nan) for name in ops.summarise(pooled_state(states))}
    stacked = stack_states(states)
    weights_DV = drawn_videos(len(states), draws, seed)
    # Some draws at once: as fast as all of them, in little memory however many videos there are.
    blocks = [
        ops.read_scores(weighted_state(stacked, weights_DV[start : start + _DRAWS_AT_ONCE]))
        for start in range(0, draws, _DRAWS_AT_ONCE)
    ]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Returns the percentile interval: the middle ``level`` of values; (NaN, NaN) if any is NaN.

    Args:
        values: (draws,) scores, or differences of paired scores.
        level: in (0, 1).

    Raises:
        ValueError: the level is not, or there are no values.
    """
    if not 0.0 < level < 1.0 or not len(values):
        raise ValueError(f"level {level} must lie in (0, 1), and values must not be empty")
    low, high = np.quantile(values, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(low), float(high)


def two_sided_p(differences: np.ndarray) -> float:
    """Returns twice the share of draws on the other side of 0: at most 1, NaN if any draw is.

    One draw is added to either side, so that no finite number of draws gives 0 (Davison and
    Hinkley 1997, section 4.2). Differences of exactly 0 count for both sides.
    """
    if np.isnan(differences).any():
        return float("nan")
    below, above = (differences <= 0.0).sum(), (differences >= 0.0).sum()
    return float(min(1.0, 2.0 * (min(below, above) + 1) / (len(differences) + 1)))


def paired_difference(
    task: str,
    first: Sequence[Any],
    second: Sequence[Any],
    *,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, PairedDifference]:
    """Compares two systems on the same videos, drawn together.

    Args:
        task: a key of ``TASK_OPS``.
        first, second: one metric state per video, the same videos in the same order.
        draws: data sets to draw.
        seed: the seed of the draws.
        level: the level of the interval.

    Returns:
        Score name -> difference first - second, its interval and p.

    Raises:
        ValueError: the systems have different numbers of videos, or none.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} videos cannot be paired")
    summarise = TASK_OPS[task].summarise
    a, b = (summarise(pooled_state(states)) for states in (first, second))
    of_first, of_second = (
        resampled_scores(task, states, draws=draws, seed=seed) for states in (first, second)
    )
    differences = {}
    for name in a:
        values = of_first[name] - of_second[name]
        low, high = interval(values, level)
        differences[name] = PairedDifference(a[name] - b[name], low, high, two_sided_p(values))
    return differences
