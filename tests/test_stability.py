"""Tests changes of predictions between steps, eq. 9 and 12 of EMMA-Net, against float64 numpy."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emojax.ops.stability import StabilityCounts, smoothness, stability_counts


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), steps=st.integers(1, 8), epsilon=st.sampled_from([0.1, 0.5, 1]))
def test_context_utility_and_smoothness_against_numpy(
    seed: int, steps: int, epsilon: float
) -> None:
    rng = np.random.default_rng(seed)
    values_BTC = rng.dirichlet(np.ones(4), size=(3, steps))
    mask_BT = rng.random((3, steps)) < 0.7
    changes = [
        sum(abs(values_BTC[b, t, c] - values_BTC[b, t - 1, c]) for c in range(4))
        for b in range(3)
        for t in range(1, steps)
        if mask_BT[b, t] and mask_BT[b, t - 1]
    ]
    poisoned_BTC = np.where(mask_BT[..., None], values_BTC, np.nan)
    counts = stability_counts(poisoned_BTC, mask_BT, epsilon)
    expected = np.mean([change < epsilon for change in changes]) if changes else 0.0
    assert counts.pairs == len(changes)
    assert counts.utility() == expected
    np.testing.assert_allclose(
        smoothness(poisoned_BTC, mask_BT), np.mean(changes) if changes else 0, rtol=1e-12
    )
    # Videos one by one and merged are the same; no pair joins two of them.
    merged = StabilityCounts.empty()
    for b in range(3):
        merged = merged.merge(stability_counts(values_BTC[b], mask_BT[b], epsilon))
    assert merged == counts


def test_context_utility_of_known_sequences() -> None:
    steady = np.full((5, 2), 0.5)
    everything = np.ones(5, bool)
    assert stability_counts(steady, everything, 1e-9).utility() == 1.0
    flips = np.array([[1, 0], [0, 1], [1, 0], [1, 0], [0, 1.0]])
    assert stability_counts(flips, everything, 0.5).utility() == 0.25
    assert stability_counts(flips, np.array([1, 0, 1, 1, 0], bool), 0.5).utility() == 1.0
    assert stability_counts(flips, np.zeros(5, bool), 0.5).utility() == 0.0
    traced = jax.jit(stability_counts)(flips.astype(np.float32), everything, 0.5)
    assert (int(traced.stable), int(traced.pairs)) == (1, 4)
    assert float(traced.utility()) == 0.25
    with pytest.raises(ValueError, match="do not fit"):
        stability_counts(flips, np.ones(4, bool), 0.5)


def test_smoothness_has_gradients_of_real_pairs_only() -> None:
    values_BTC = np.array([[[0.0, 1.0], [0.5, 0.5], [9.0, 9.0], [0.5, 0.5], [0.5, 0.5]]])
    mask_BT = np.array([[True, True, False, True, True]])
    gradient = jax.grad(smoothness)(values_BTC.astype(np.float32), mask_BT)
    # Two pairs count. The first moves by (0.5, -0.5); the second does not move.
    expected = [[[-0.5, 0.5], [0.5, -0.5], [0, 0], [0, 0], [0, 0]]]
    np.testing.assert_allclose(gradient, expected)
