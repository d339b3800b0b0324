"""Combining members, against float64 NumPy written out member by member."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emojax.ops.ensembles import (
    ENSEMBLES,
    agreements,
    ccc_centred_mean,
    combine,
    mean_of_members,
)
from tests.test_metrics import reference_ccc


def reference_centring(traces_MN: np.ndarray) -> np.ndarray:
    """As the formula says, one member and one pair after the other."""
    count = len(traces_MN)
    weights = []
    for i in range(count):
        others = [reference_ccc(traces_MN[i], traces_MN[j]) for j in range(count) if j != i]
        weights.append(max(0.0, sum(others) / len(others)))
    levels = [trace.mean() for trace in traces_MN]
    common = sum(w * m for w, m in zip(weights, levels, strict=True)) / sum(weights)
    total = np.zeros(traces_MN.shape[1])
    for trace, level in zip(traces_MN, levels, strict=True):
        total += trace - level + common
    return total / count


def members(seed: int, count: int, frames: int = 40, columns: int = 2) -> np.ndarray:
    """Traces of one signal with noise, gain and level of their own."""
    rng = np.random.default_rng(seed)
    signal_NC = np.cumsum(rng.normal(size=(frames, columns)), axis=0) / 5
    gains = rng.uniform(0.5, 1.5, (count, 1, 1))
    return (
        gains * signal_NC
        + rng.normal(0, 0.3, (count, 1, columns))
        + 0.05 * rng.normal(size=(count, frames, columns))
    )


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), count=st.integers(2, 7))
def test_ccc_centring_equals_the_formula(seed: int, count: int) -> None:
    values_MNC = members(seed, count)
    found_NC = ccc_centred_mean(values_MNC, np.ones((count, 2), bool))
    for c in range(2):
        expected_N = reference_centring(values_MNC[:, :, c])
        np.testing.assert_allclose(found_NC[:, c], expected_N, rtol=0, atol=1e-12)
    agreed_M = agreements(values_MNC[:, :, 0])
    by_hand = np.mean(
        [reference_ccc(values_MNC[0, :, 0], values_MNC[j, :, 0]) for j in range(1, count)]
    )
    assert agreed_M[0] == pytest.approx(by_hand, abs=1e-12)


def test_an_outlier_has_a_say_in_the_course_but_not_in_the_level() -> None:
    values_MNC = members(1, 5, columns=1)
    values_MNC[4] += 20.0
    used_MC = np.ones((5, 1), bool)
    centred_NC = ccc_centred_mean(values_MNC, used_MC)
    mean_NC = mean_of_members(values_MNC, used_MC)
    np.testing.assert_allclose(np.diff(centred_NC, axis=0), np.diff(mean_NC, axis=0), atol=1e-12)
    level = values_MNC[:4].mean()
    assert abs(centred_NC.mean() - level) < 0.2 < 3.5 < mean_NC.mean() - level


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_members_are_averaged(count: int) -> None:
    values_MNC = members(2, count)
    used_MC = np.ones((count, 2), bool)
    np.testing.assert_allclose(
        ccc_centred_mean(values_MNC, used_MC), values_MNC.mean(axis=0), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("kind", ["constant", "opposite", "one frame"])
def test_members_that_agree_in_nothing_are_averaged(kind: str) -> None:
    rng = np.random.default_rng(0)
    values_MNC = np.broadcast_to(rng.normal(size=(3, 1, 1)), (3, 9, 1)).copy()
    if kind == "opposite":
        wave_N1 = np.sin(np.arange(9.0))[:, None]
        # Each is negatively correlated with the mean of the others.
        turned = [wave_N1, np.roll(wave_N1, 2, axis=0), np.roll(wave_N1, 4, axis=0)]
        values_MNC = np.stack(turned) + values_MNC
    values_MNC = values_MNC[:, :1] if kind == "one frame" else values_MNC
    with np.errstate(all="raise"):
        found_NC = ccc_centred_mean(values_MNC, np.ones((3, 1), bool))
    weights_M = agreements(values_MNC[:, :, 0])
    if (weights_M <= 0).all():
        np.testing.assert_allclose(found_NC, values_MNC.mean(axis=0), rtol=0, atol=1e-12)
    else:
        assert values_MNC.mean(axis=1).min() <= found_NC.mean() <= values_MNC.mean(axis=1).max()


@pytest.mark.parametrize("rule", ENSEMBLES)
def test_only_members_trained_for_a_column_count(rule: str) -> None:
    values_MNC = members(3, 4, columns=3)
    used_MC = np.array([[1, 0, 0], [1, 1, 0], [1, 1, 0], [0, 1, 0]], bool)
    spoilt_MNC = np.where(used_MC[:, None], values_MNC, 99.0)
    found_NC = ENSEMBLES[rule](spoilt_MNC, used_MC)
    for c, some in enumerate(([0, 1, 2], [1, 2, 3])):
        alone_N1 = ENSEMBLES[rule](values_MNC[some][:, :, [c]], np.ones((3, 1), bool))
        np.testing.assert_allclose(found_NC[:, [c]], alone_N1, rtol=0, atol=1e-12)
    assert np.isnan(found_NC[:, 2]).all()


def test_probabilities_are_averaged_whatever_the_rule() -> None:
    values_MNC = np.random.default_rng(4).dirichlet(np.ones(5), (3, 8))
    used_MC = np.ones((3, 5), bool)
    for kind in ("categorical", "binary"):
        found_NC = combine("ccc_centring", kind, values_MNC, used_MC)
        np.testing.assert_allclose(found_NC, values_MNC.mean(axis=0), rtol=0, atol=1e-12)
    assert not np.allclose(
        combine("ccc_centring", "continuous", values_MNC, used_MC), values_MNC.mean(axis=0)
    )
