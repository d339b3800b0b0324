"""The five streams of EPiC-2023 from the signals of CASE: 1 kHz to 20 Hz.

The streams are the ones of the challenge entry that our export comes from (team Cafeteros,
public code), in its units: heart rate and pulse transit time from R peaks and pulse peaks, phasic
and tonic skin conductance by cvxEDA, breathing rate, skin temperature, and three EMG envelopes.
Events (heartbeats, pulses, breaths) and the parts of skin conductance come from NeuroKit2
(Makowski et al. 2021, Behavior Research Methods 53:1689) where the entry had MATLAB functions, so
values are of the same kind as the export's and not equal; filters and resampling are SciPy.

NeuroKit2 and cvxopt, which cvxEDA solves with, are optional: ``pip install ".[physiology]"``.
cvxopt is under GPL-3.0.
"""

from __future__ import annotations

import dataclasses
import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.ndimage import uniform_filter1d
from scipy.signal import butter, sosfiltfilt

from data.case_files import FRAME_MS
from emojax.errors import InputError

_RATE = 1000  # Hz of the signals
_FRAME_RATE = _RATE // FRAME_MS
_EMG_BAND = (15.0, 400.0)  # Hz
_LONGEST_TRANSIT = 1.0  # seconds; a pulse without a beat this long before it counts not

Signals = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Events:
    """What is found in the signals of one recording of N frames.

    Attributes:
        beats: seconds of the R peaks after the first frame, increasing.
        pulses: seconds of the peaks of the blood volume pulse, increasing.
        breaths: seconds of the peaks of respiration, increasing.
        phasic_N: fast part of skin conductance, microsiemens.
        tonic_N: slow part.
    """

    beats: np.ndarray
    pulses: np.ndarray
    breaths: np.ndarray
    phasic_N: np.ndarray
    tonic_N: np.ndarray


EventFinder = Callable[[Signals], Events]


def load_neurokit() -> Any:
    """The module ``neurokit2``.

    Raises:
        InputError: it or cvxopt is not installed; says how to install them.
    """
    try:
        importlib.import_module("cvxopt")
        return importlib.import_module("neurokit2")
    except ImportError as error:
        raise InputError(
            "Features from the CASE release need NeuroKit2 and cvxopt.",
            field="optional extra physiology",
            found=error,
            expected="the modules neurokit2 and cvxopt",
            remedy='pip install ".[physiology]" in this repository, or neurokit2 and cvxopt',
        ) from error


def neurokit_finder() -> EventFinder:
    """Finds events with NeuroKit2's own methods for each signal.

    Raises:
        InputError: see ``load_neurokit``.
    """
    nk = load_neurokit()

    def find(signals: Signals) -> Events:
        with warnings.catch_warnings():
            # NeuroKit2 warns of what it cannot find; no event is an answer here.
            warnings.simplefilter("ignore")
            phasic_N, tonic_N = _conductance(nk, signals["gsr"])
            return Events(
                _peaks(lambda: _beats(nk, signals["ecg"])),
                _peaks(lambda: _pulses(nk, signals["bvp"])),
                _peaks(lambda: _breaths(nk, signals["rsp"])),
                phasic_N,
                tonic_N,
            )

    return find


def source_streams(signals: Signals, events: Events) -> dict[str, np.ndarray]:
    """Streams of one recording in the units of ``data.epic_features``.

    Args:
        signals: column of the release -> (50 (N - 1) + 1,) samples at 1 kHz.
        events: what was found in them.

    Returns:
        stream -> (N, ``data.epic_features.SOURCE_WIDTHS``) float32. A column is all NaN where a
        sensor showed too few events: two beats, one pulse after a beat, two breaths.
    """
    ticks_N = np.arange(len(events.tonic_N)) / _FRAME_RATE
    envelopes = [muscle_envelope(signals[f"emg_{name}"]) for name in ("trap", "zygo", "coru")]
    columns = {
        "cardiac": [
            rate(events.beats, ticks_N),
            transit_time(events.beats, events.pulses, ticks_N),
        ],
        "eda": [events.phasic_N, events.tonic_N],
        "resp": [rate(events.breaths, ticks_N)],
        "temp": [frame_means(signals["skt"])],
        "emg": envelopes,
    }
    return {name: np.stack(parts, axis=-1).astype(np.float32) for name, parts in columns.items()}


def rate(events: np.ndarray, ticks_N: np.ndarray) -> np.ndarray:
    """(N,) events per minute: 60 over the interval that ends at an event, linear in between.

    Args:
        events: seconds, increasing.
        ticks_N: seconds of the frames; before the first and after the last interval the rate is
            held. NaN with fewer than two events.
    """
    if len(events) < 2:
        return np.full(len(ticks_N), np.nan)
    return np.interp(ticks_N, events[1:], 60.0 / np.diff(events))


def transit_time(beats: np.ndarray, pulses: np.ndarray, ticks_N: np.ndarray) -> np.ndarray:
    """(N,) seconds from a beat to the next pulse peak, linear between pulses and held outside.

    Pulses without a beat in the second before them do not count; NaN if none counts.
    """
    last = np.searchsorted(beats, pulses) - 1
    pulses, last = pulses[last >= 0], last[last >= 0]
    transit = pulses - beats[last]
    near = transit < _LONGEST_TRANSIT
    if not near.any():
        return np.full(len(ticks_N), np.nan)
    return np.interp(ticks_N, pulses[near], transit[near])


def muscle_envelope(emg: np.ndarray) -> np.ndarray:
    """(N,) mean size of the EMG between 15 and 400 Hz, in its units."""
    sos = butter(4, _EMG_BAND, btype="bandpass", fs=_RATE, output="sos")
    return frame_means(np.abs(sosfiltfilt(sos, emg)))


def frame_means(signal: np.ndarray) -> np.ndarray:
    """(N,) mean over the 50 ms about each frame; the ends are held."""
    return uniform_filter1d(np.asarray(signal, np.float64), FRAME_MS, mode="nearest")[::FRAME_MS]


def _peaks(find: Callable[[], Any]) -> np.ndarray:
    """Seconds of the peaks that ``find`` gives as sample numbers; none where it cannot cope."""
    try:
        found = np.asarray(find(), np.float64)
    except (ValueError, IndexError, ZeroDivisionError):
        # What NeuroKit2's methods do on a sensor that fell off: their filters and thresholds
        # run out of samples.
        return np.zeros(0)
    return np.unique(found[np.isfinite(found)]) / _RATE


def _beats(nk: Any, ecg: np.ndarray) -> Any:
    clean = nk.ecg_clean(ecg, sampling_rate=_RATE, method="neurokit")
    return nk.ecg_peaks(clean, sampling_rate=_RATE, method="neurokit")[1]["ECG_R_Peaks"]


def _pulses(nk: Any, bvp: np.ndarray) -> Any:
    clean = nk.ppg_clean(bvp, sampling_rate=_RATE, method="elgendi")
    return nk.ppg_findpeaks(clean, sampling_rate=_RATE, method="elgendi")["PPG_Peaks"]


def _breaths(nk: Any, rsp: np.ndarray) -> Any:
    clean = nk.rsp_clean(rsp, sampling_rate=_RATE, method="khodadad2018")
    return nk.rsp_peaks(clean, sampling_rate=_RATE, method="khodadad2018")[1]["RSP_Peaks"]


def _conductance(nk: Any, gsr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Phasic and tonic part (N,), decomposed at 20 Hz and at unit variance as cvxEDA asks for."""
    gsr_N = frame_means(gsr)
    mean, spread = gsr_N.mean(), gsr_N.std()
    if spread < 1e-6:
        return np.zeros_like(gsr_N), gsr_N
    smooth_N = nk.eda_clean((gsr_N - mean) / spread, sampling_rate=_FRAME_RATE, method="neurokit")
    parts = nk.eda_phasic(smooth_N, sampling_rate=_FRAME_RATE, method="cvxeda")
    phasic_N, tonic_N = (np.asarray(parts[name]) for name in ("EDA_Phasic", "EDA_Tonic"))
    return phasic_N * spread, tonic_N * spread + mean
