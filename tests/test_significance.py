"""Fisher's z against figures worked out in other ways."""

from __future__ import annotations

import math

import numpy as np
import pytest

from emojax.ops.significance import DAGGER, dagger, fisher_test


def test_z_and_p_of_a_worked_example() -> None:
    # a = tanh 1, b = tanh 0.5, n = 35: z = 0.5 / sqrt(2 / 32) = 2, and P(|Z| > 2) = 0.04550.
    found = fisher_test(math.tanh(1.0), math.tanh(0.5), 35)
    assert found.z == pytest.approx(2.0, abs=1e-12)
    assert found.p == pytest.approx(0.0455002638963584, abs=1e-12)
    turned = fisher_test(math.tanh(0.5), math.tanh(1.0), 35)
    assert (turned.z, turned.p) == pytest.approx((-found.z, found.p))


def test_daggers_are_those_of_one_percent() -> None:
    # P(|Z| > 2.5758) = 0.01.
    step = 2.5758293 * math.sqrt(2 / 1000)
    below, above = (fisher_test(math.tanh(step * f), 0.0, 1003).p for f in (0.999, 1.001))
    assert dagger(below) == ""
    assert dagger(above) == DAGGER
    assert dagger(math.nan) == ""


def test_p_is_uniform_for_independent_frames_without_a_difference() -> None:
    """The test is made for two samples of one population, and Pearson's r."""
    rng = np.random.default_rng(0)
    rejected = 0
    for _ in range(1500):
        x, y, u, v = rng.normal(size=(4, 60))
        first = np.corrcoef(x, 0.6 * x + y)[0, 1]
        second = np.corrcoef(u, 0.6 * u + v)[0, 1]
        rejected += fisher_test(first, second, 60).p < 0.05
    assert rejected / 1500 == pytest.approx(0.05, abs=0.018)


def test_ends_and_too_few_frames() -> None:
    assert fisher_test(0.3, 0.3, 100) == fisher_test(1.0, 1.0, 100)
    assert fisher_test(0.3, 0.3, 100).p == 1.0
    assert fisher_test(1.0, 0.3, 100).p == 0.0
    assert fisher_test(0.3, -1.0, 100).z == math.inf
    assert math.isnan(fisher_test(0.5, 0.3, 3).p)
    with pytest.raises(ValueError, match=r"\[-1, 1\]"):
        fisher_test(1.2, 0.3, 100)
