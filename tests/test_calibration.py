"""Calibration against its definitions, frame by frame, and where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emojax.ops.calibration import Calibration, class_calibration, unit_calibration


def by_hand(p: np.ndarray, truth: np.ndarray, mask: np.ndarray, bins: int) -> dict[str, float]:
    """ECE and Brier score of one column, from their definitions."""
    p, truth = p[mask].astype(np.float64), truth[mask].astype(np.float64)
    error, edges = 0.0, [m / bins for m in range(bins + 1)]
    for m in range(bins):
        last = m == bins - 1
        inside = [edges[m] <= x < edges[m + 1] or (last and x == 1.0) for x in p]
        if any(inside):
            error += sum(inside) / len(p) * abs(p[inside].mean() - truth[inside].mean())
    return {"ece": error, "brier": float(((p - truth) ** 2).mean()) if len(p) else 0.0}


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), frames=st.integers(1, 60), bins=st.sampled_from([1, 4, 8]))
def test_units_against_their_definitions(seed: int, frames: int, bins: int) -> None:
    rng = np.random.default_rng(seed)
    p = rng.choice([0.0, 0.25, 0.5, 1.0, *rng.random(5)], (frames, 3))
    truth = (rng.random(p.shape) < p).astype(np.float64)
    mask = rng.random(p.shape) < 0.8
    state = unit_calibration(p, np.where(mask, truth, -1.0), mask, bins)
    np.testing.assert_array_equal(state.frames(), mask.sum(axis=0))
    for c in range(3):
        expected = by_hand(p[:, c], truth[:, c], mask[:, c], bins)
        assert state.expected_error()[c] == pytest.approx(expected["ece"], abs=1e-12)
        assert state.brier()[c] == pytest.approx(expected["brier"], abs=1e-12)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), frames=st.integers(1, 60))
def test_classes_are_events_and_the_last_column_is_the_decision(seed: int, frames: int) -> None:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(4), frames)
    truth = rng.integers(0, 4, (frames, 1)).astype(np.float64)
    mask = rng.random((frames, 1)) < 0.8
    state = class_calibration(p, np.where(mask, truth, -1.0), mask, 8)
    for c in range(4):
        expected = by_hand(p[:, c], truth[:, 0] == c, mask[:, 0], 8)
        assert state.expected_error()[c] == pytest.approx(expected["ece"], abs=1e-12)
        assert state.brier()[c] == pytest.approx(expected["brier"], abs=1e-12)
    right = p.argmax(axis=1) == truth[:, 0]
    expected = by_hand(p.max(axis=1), right, mask[:, 0], 8)
    assert state.expected_error()[4] == pytest.approx(expected["ece"], abs=1e-12)
    if mask.any():
        assert state.prevalence()[4] == pytest.approx(right[mask[:, 0]].mean())
        # Brier's score of several classes is the sum over them.
        one_hot = truth == np.arange(4)[None]
        whole = ((p - one_hot) ** 2).sum(axis=1)[mask[:, 0]].mean()
        assert state.brier()[:4].sum() == pytest.approx(whole)


def test_probabilities_that_are_meant_and_others() -> None:
    rng = np.random.default_rng(0)
    p = rng.random((100_000, 1))
    everywhere = np.ones(p.shape, bool)
    honest = unit_calibration(p, (rng.random(p.shape) < p).astype(float), everywhere)
    assert honest.expected_error()[0] < 0.01
    assert honest.brier()[0] == pytest.approx(1 / 6, abs=0.005)  # the integral of p (1 - p)
    np.testing.assert_allclose(honest.reliability(), honest.confidence(), atol=0.03)
    # Twice as sure as it should be.
    bold = unit_calibration(p, (rng.random(p.shape) < 0.25 + p / 2).astype(float), everywhere)
    assert bold.expected_error()[0] == pytest.approx(0.125, abs=0.01)
    certain = unit_calibration(np.ones((10, 1)), np.ones((10, 1)), np.ones((10, 1), bool))
    assert (certain.expected_error()[0], certain.brier()[0]) == (0.0, 0.0)
    assert certain.frames_CM[0].tolist() == [0] * 9 + [10]


def test_parts_merge_to_the_whole_and_nothing_is_zero() -> None:
    rng = np.random.default_rng(1)
    p, truth = rng.random((50, 3)), rng.integers(0, 2, (50, 3)).astype(float)
    mask = rng.random((50, 3)) < 0.7
    whole = unit_calibration(p, truth, mask)
    parts: Calibration | None = None
    for part in (slice(0, 20), slice(20, 20), slice(20, 50)):
        state = unit_calibration(p[part], truth[part], mask[part])
        parts = state if parts is None else parts.merge(state)
    assert parts is not None
    np.testing.assert_allclose(parts.reliability(), whole.reliability())
    np.testing.assert_allclose(parts.brier(), whole.brier())
    nothing = unit_calibration(p, truth, np.zeros_like(mask))
    for values in (nothing.expected_error(), nothing.brier(), nothing.prevalence()):
        np.testing.assert_array_equal(values, 0.0)
    assert np.isnan(nothing.reliability()).all()


def test_shapes_must_fit() -> None:
    with pytest.raises(ValueError, match="one shape"):
        unit_calibration(np.zeros((3, 2)), np.zeros((3, 1)), np.zeros((3, 2), bool))
    with pytest.raises(ValueError, match="bins"):
        unit_calibration(np.zeros((3, 2)), np.zeros((3, 2)), np.zeros((3, 2), bool), 0)
    with pytest.raises(ValueError, match="target"):
        class_calibration(np.zeros((3, 2)), np.zeros((3, 2)), np.zeros((3, 2), bool))
