"""Streams from signals of a millisecond: what SciPy does, and NeuroKit2 where it is installed."""

import numpy as np
import pytest

from data.case_physiology import (
    frame_means,
    muscle_envelope,
    neurokit_finder,
    rate,
    source_streams,
    transit_time,
)


def test_rate_is_that_of_the_interval_that_ends() -> None:
    events = np.array([0.5, 1.5, 2.0])
    np.testing.assert_allclose(
        rate(events, np.array([0.0, 1.5, 1.75, 2.0, 9.0])), [60, 60, 90, 120, 120]
    )
    assert np.isnan(rate(events[:1], np.zeros(3))).all()


def test_transit_time_pairs_a_pulse_with_the_last_beat() -> None:
    beats = np.array([1.0, 2.0, 5.0])
    pulses = np.array([0.3, 1.3, 2.4, 3.9, 5.2])  # the first and the fourth have no beat
    ticks = np.array([0.0, 1.3, 1.85, 2.4, 5.2])
    np.testing.assert_allclose(transit_time(beats, pulses, ticks), [0.3, 0.3, 0.35, 0.4, 0.2])
    assert np.isnan(transit_time(np.zeros(0), pulses, ticks)).all()


def test_frame_means_and_envelope_know_their_size() -> None:
    seconds = np.arange(5001) / 1000.0
    np.testing.assert_allclose(frame_means(seconds)[1:-1], np.arange(1, 100) / 20.0, atol=6e-4)
    tone = 3.0 * np.sin(2 * np.pi * 97 * seconds) + 7.0 + 5.0 * np.sin(2 * np.pi * seconds)
    envelope = muscle_envelope(tone)
    assert envelope.shape == (101,)
    np.testing.assert_allclose(envelope[5:-5], 3.0 * 2 / np.pi, rtol=0.02)


def test_neurokit_finds_what_was_put_in() -> None:
    pytest.importorskip("cvxopt")
    pytest.importorskip("neurokit2", exc_type=ImportError)
    rng = np.random.default_rng(0)
    seconds = np.arange(50_001) / 1000.0
    beats = np.arange(0.4, 50.0, 60 / 75)

    def bumps(centres: np.ndarray, width: float) -> np.ndarray:
        return np.exp(-0.5 * ((seconds - centres[:, None]) / width) ** 2).sum(axis=0)

    ecg = bumps(beats, 0.012) - 0.15 * bumps(beats + 0.03, 0.015) + 0.25 * bumps(beats + 0.25, 0.05)
    response = np.maximum(seconds - 20.0, 0)
    signals = {
        "ecg": ecg + 0.01 * rng.normal(size=len(seconds)),
        "bvp": 40 + 10 * bumps(beats + 0.3, 0.08) + 0.05 * rng.normal(size=len(seconds)),
        "gsr": 8 + 0.01 * seconds + 3.0 * (np.exp(-response / 2.0) - np.exp(-response / 0.7)),
        "rsp": 30 + 3 * np.sin(2 * np.pi * seconds * 15 / 60),
        "skt": np.full(len(seconds), 31.5),
        **{f"emg_{name}": rng.normal(size=len(seconds)) for name in ("zygo", "coru", "trap")},
    }
    find = neurokit_finder()
    streams = source_streams(signals, find(signals))
    assert all(np.isfinite(x).all() and len(x) == 1001 for x in streams.values())
    np.testing.assert_allclose(np.median(streams["cardiac"], axis=0), [75.0, 0.3], rtol=0.03)
    np.testing.assert_allclose(np.median(streams["resp"]), 15.0, rtol=0.03)
    phasic_N, tonic_N = streams["eda"].T
    assert 410 < phasic_N.argmax() < 450  # the response peaks about 1.1 s after its onset
    assert phasic_N.max() > 0.5
    assert np.abs(tonic_N - 8.25).max() < 1.0
    # A sensor that fell off shows no events and stops nothing.
    lost = find({**signals, "ecg": np.zeros(len(seconds)), "rsp": np.zeros(len(seconds)),
                 "bvp": np.zeros(len(seconds)), "gsr": np.full(len(seconds), 4.0)})  # fmt: skip
    assert np.isnan(source_streams(signals, lost)["cardiac"][:, 0]).all()
    np.testing.assert_array_equal(lost.phasic_N, 0.0)
    np.testing.assert_allclose(lost.tonic_N, 4.0)
