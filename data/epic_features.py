"""Label-free features of the EPiC-2023 recordings, relative to each person's own physiology.

How a person rates a clip hardly shows in absolute values: skin conductance, temperature and
muscle tone differ far more between people than between emotions. So every column is z-scored
within the person over all of that person's recordings (which uses no label), and what all of
them share at a frame, such as the course of a session's habituation, is taken away.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.ndimage import gaussian_filter1d, median_filter

# Plausible range of each column after de-spiking; the splines of the export overshoot far out.
_HEART_RATE = (40.0, 130.0)  # beats per minute
_TRANSIT_TIME = (0.15, 0.6)  # seconds
_PHASIC = (0.0, 8.0)  # microsiemens
_TONIC = (0.1, 100.0)  # microsiemens
_BREATHING = (4.0, 50.0)  # breaths per minute
_TEMPERATURE = (15.0, 40.0)  # Celsius
_MUSCLE = (0.02, 20.0)  # units of the source's envelopes
_STILL = 0.015  # log microsiemens; less movement of the phasic level counts as none
_LIMIT = 5.0  # standard deviations within a person

# Names of the columns that ``person_features`` returns, stream by stream.
COLUMNS: dict[str, tuple[str, ...]] = {
    "cardiac": ("heart_rate", "log_pulse_transit_time"),
    "eda": ("log_phasic", "log_tonic", "phasic_activity", "phasic_speed", "rise"),
    "resp": ("log_breathing_rate",),
    "temp": ("skin_temperature",),
    "emg": ("log_trapezius", "log_zygomaticus", "log_corrugator"),
}
# Columns that the source must have, stream by stream.
SOURCE_WIDTHS: dict[str, int] = {"cardiac": 2, "eda": 2, "resp": 1, "temp": 1, "emg": 3}


def person_features(
    streams: Mapping[str, np.ndarray], person_V: np.ndarray
) -> dict[str, np.ndarray]:
    """Computes all recordings' features, stream -> (V, N, D) float64, columns as in ``COLUMNS``.

    Args:
        streams: stream -> (V, N, source width), 20 Hz, finite, in the units of the source.
        person_V: (V,) who was recorded; nothing else about a recording is known here.

    Returns:
        z-scores within the person, at most 5 in size before the mean of the person's
        recordings is taken away at each frame. A person with one recording gets zeros.
    """
    columns = {
        "cardiac": _cardiac(streams["cardiac"]),
        "eda": _eda(streams["eda"]),
        "resp": _breathing(streams["resp"]),
        "temp": np.clip(streams["temp"].astype(np.float64), *_TEMPERATURE),
        "emg": np.log(np.clip(streams["emg"].astype(np.float64), *_MUSCLE)),
    }
    return {name: _relative(x_VND, person_V) for name, x_VND in columns.items()}


def _relative(x_VND: np.ndarray, person_V: np.ndarray) -> np.ndarray:
    """Computes z-scores within a person, less the mean of the person's recordings at each frame."""
    out_VND = np.empty_like(x_VND)
    for person in np.unique(person_V):
        own = person_V == person
        x_RND = x_VND[own]
        mean_D, std_D = x_RND.mean(axis=(0, 1)), x_RND.std(axis=(0, 1))
        z_RND = (x_RND - mean_D) / np.maximum(std_D, 1e-6)
        z_RND = np.clip(z_RND, -_LIMIT, _LIMIT)
        out_VND[own] = z_RND - z_RND.mean(axis=0)
    return out_VND


def _cardiac(x_VN2: np.ndarray) -> np.ndarray:
    rate_VN = np.clip(_despike(x_VN2[..., 0], 21), *_HEART_RATE)
    transit_VN = np.clip(_despike(x_VN2[..., 1], 41), *_TRANSIT_TIME)
    return np.stack([rate_VN, np.log(transit_VN)], axis=-1)


def _breathing(x_VN1: np.ndarray) -> np.ndarray:
    rate_VN = np.clip(_despike(x_VN1[..., 0], 41), *_BREATHING)
    return np.log(rate_VN)[..., None]


def _eda(x_VN2: np.ndarray) -> np.ndarray:
    """Computes phasic and tonic conductance, and three measures of responses under way."""
    raw_VN = x_VN2[..., 0].astype(np.float64)
    phasic_VN = np.log(np.clip(raw_VN, *_PHASIC) + 0.02)
    tonic_VN = np.log(np.clip(x_VN2[..., 1].astype(np.float64), *_TONIC))
    # The movement of the phasic level about its course over two seconds.
    residue_VN = np.abs(phasic_VN - _smooth(phasic_VN, 40))
    activity_VN = _smooth(np.log(residue_VN + _STILL), 20)
    speed_VN = _smooth(np.abs(_slope(raw_VN, 5)), 20)
    # Conductance rises in a response and falls slowly by itself: only rising counts.
    rise_VN = np.maximum(_slope(x_VN2.astype(np.float64).sum(axis=-1), 10), 0.0)
    return np.stack(
        [
            phasic_VN,
            tonic_VN,
            activity_VN,
            np.log(20.0 * speed_VN + 0.001),
            np.log(20.0 * rise_VN + 0.01),
        ],
        axis=-1,
    )


def _despike(x_VN: np.ndarray, frames: int) -> np.ndarray:
    return median_filter(x_VN.astype(np.float64), size=(1, frames))


def _smooth(x_VN: np.ndarray, sigma: float) -> np.ndarray:
    return gaussian_filter1d(x_VN, sigma, axis=1)


def _slope(x_VN: np.ndarray, sigma: float) -> np.ndarray:
    """Computes the change of the smoothed course from frame to frame."""
    return np.gradient(_smooth(x_VN, sigma), axis=1)
