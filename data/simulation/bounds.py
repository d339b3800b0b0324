"""A predictor that anybody could build, which bounds the optimum of ``cross_cued`` from below.

There the optimum of ``data.simulation.optimum`` is an upper bound: its smoother is told by how much
each modality is late in a video, and which rows are reliable. Here both are read from the features
alone: the lag by matching marks, a row's reliability from the cues that valid rows of other
modalities show at that moment. Rows that no cue tells about are left out. The smoother on what
remains is a real predictor, so the best possible one lies between the two.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from .presets import Preset
from .processes import Rows, Video
from .sensors import Sensor, code_slices

# A cue tells about rows of another modality that describe a moment this near, in seconds.
_NEAR = 0.05
_STEP = 0.01  # of the lags tried


def told(
    video: Video, preset: Preset, sensors: tuple[Sensor, ...], tasks: tuple[str, ...]
) -> Video:
    """Returns the video as it appears to someone who is told neither lags nor reliabilities.

    Args:
        video: a video of a preset with ``crossed`` and ``marks``.
        preset, sensors, tasks: those it was simulated with. One modality is "visual", since labels
            follow its clock.

    Returns:
        The video with instants that rows describe and reliabilities as estimated. Rows whose
        reliability is not told are not valid.
    """
    modalities = sorted({sensor.spec.modality for sensor in sensors})
    slices = code_slices(tasks, cues=preset.cues(len(modalities)), marks=preset.marks)
    by_modality: dict[str, list[Sensor]] = {m: [] for m in modalities}
    for sensor in sensors:
        by_modality[sensor.spec.modality].append(sensor)
    leader = by_modality["visual"][0]
    lag = {"visual": 0.0}
    for m in modalities:
        if m != "visual":
            lag[m] = _lag(video, leader, by_modality[m][0], slices["marks"], preset.lag)

    described = {
        s.spec.name: video.rows[s.spec.name].pts_N - s.delay - lag[s.spec.modality] for s in sensors
    }
    rows = {}
    for sensor in sensors:
        name, own = sensor.spec.name, modalities.index(sensor.spec.modality)
        known = video.rows[name]
        others = [s for s in sensors if s.spec.modality != sensor.spec.modality]
        time_N = np.concatenate([described[s.spec.name] for s in others])
        cue_N = np.concatenate([video.rows[s.spec.name].code_NQ[:, own] for s in others])
        valid_N = np.concatenate([video.rows[s.spec.name].valid_N for s in others])
        order_N = np.argsort(time_N[valid_N], kind="stable")
        time_N, cue_N = time_N[valid_N][order_N], cue_N[valid_N][order_N]
        # All cues nearby have to agree: close to a switch the row may be on its other side.
        yes_N = np.concatenate([[0], np.cumsum(cue_N > 0)])
        low_N = np.searchsorted(time_N, described[name] - _NEAR)
        high_N = np.searchsorted(time_N, described[name] + _NEAR)
        count_N, yes_N = high_N - low_N, yes_N[high_N] - yes_N[low_N]
        agreed_N = (count_N > 0) & ((yes_N == 0) | (yes_N == count_N))
        rows[name] = dataclasses.replace(
            known,
            described_N=described[name],
            valid_N=known.valid_N & agreed_N,
            reliable_N=yes_N > 0,
        )
    return dataclasses.replace(video, rows=rows)


def _nearest(time_N: np.ndarray, wanted_M: np.ndarray) -> np.ndarray:
    """Returns the index of the nearest of sorted times to each wanted one."""
    after_M = np.clip(np.searchsorted(time_N, wanted_M), 1, max(1, time_N.size - 1))
    after_M = np.minimum(after_M, time_N.size - 1)
    before_M = np.maximum(after_M - 1, 0)
    earlier_M = wanted_M - time_N[before_M] < time_N[after_M] - wanted_M
    return np.where(earlier_M, before_M, after_M)


def _lag(video: Video, leader: Sensor, sensor: Sensor, marks: slice, greatest: float) -> float:
    """Returns the lag at which a stream's marks are nearest to the leader's, in seconds."""

    def seen(one: Sensor) -> tuple[np.ndarray, np.ndarray]:
        rows: Rows = video.rows[one.spec.name]
        kept_N = rows.valid_N
        return rows.pts_N[kept_N] - one.delay, rows.code_NQ[kept_N][:, marks] / one.gain

    time_N, mark_NL = seen(leader)
    late_M, mark_ML = seen(sensor)
    if not time_N.size or not late_M.size:
        return 0.5 * greatest
    lags = np.arange(0.0, greatest + _STEP, _STEP)
    distances = []
    for lag in lags:
        nearest_M = _nearest(time_N, late_M - lag)
        near_M = np.abs(time_N[nearest_M] - (late_M - lag)) <= _NEAR
        error_M = ((mark_NL[nearest_M] - mark_ML) ** 2).mean(axis=1)
        distances.append(error_M[near_M].mean() if near_M.any() else np.inf)
    return float(lags[int(np.argmin(distances))])
