"""Tuned decisions: as good as brute force on small cases, never worse than the papers' rule."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emojax.ops.decisions import (
    DECISION_RULES,
    add_offsets,
    move_to_half,
    tune_offsets,
    tune_thresholds,
)
from emojax.ops.tasks import TASK_OPS
from emojax.specs import TASKS

PRIMARY = {"expr": "f1_macro", "ekman": "f1_macro", "au": "f1_mean"}


def f1(said: np.ndarray, true: np.ndarray) -> float:
    """From its definition; 0 where nothing is said or true."""
    hits = np.sum(said & true)
    return 2 * hits / (said.sum() + true.sum()) if said.sum() + true.sum() else 0.0


def macro_f1(said: np.ndarray, true: np.ndarray, classes: int) -> float:
    return float(np.mean([f1(said == k, true == k) for k in range(classes)]))


def units(seed: int, frames: int, columns: int, grid: int) -> tuple[np.ndarray, ...]:
    """Probabilities (with ties if the grid is coarse), labels with garbage where masked, mask."""
    rng = np.random.default_rng(seed)
    mask = rng.random((frames, columns)) > 0.2
    labels = (rng.random((frames, columns)) < rng.uniform(0, 0.6, columns)).astype(float)
    p = np.clip(0.3 * labels + 0.5 * rng.random((frames, columns)), 0, 1)
    return np.round(p * grid) / grid, np.where(mask, labels, -1.0), mask


@given(seed=st.integers(0, 2**31), frames=st.integers(0, 12), grid=st.sampled_from([1, 4, 10**6]))
@settings(max_examples=150)
def test_thresholds_equal_brute_force(seed: int, frames: int, grid: int) -> None:
    p, labels, mask = units(seed, frames, 3, grid)
    thresholds = tune_thresholds(p, labels, mask)
    moved = move_to_half(p, thresholds)
    for c in range(3):
        kept, true = p[mask[:, c], c], labels[mask[:, c], c] > 0.5
        cuts = [0.5, *kept, 0.0, 2.0]
        best = max(f1(kept >= cut, true) for cut in cuts)
        assert f1(moved[mask[:, c], c] >= 0.5, true) == pytest.approx(best, abs=1e-12)
        if f1(kept >= 0.5, true) == best:
            assert thresholds[c] == 0.5


def test_moved_probabilities_decide_as_the_threshold_does() -> None:
    p = np.linspace(0, 1, 1001)[:, None]
    for threshold in (0.0, 0.003, 0.25, 0.5, 0.9985, 1.0):
        moved = move_to_half(p, np.array([threshold]))
        np.testing.assert_array_equal(moved >= 0.5, p >= threshold)
        assert (np.diff(moved[:, 0]) >= 0).all()
        assert ((moved >= 0) & (moved <= 1)).all()
    np.testing.assert_allclose(move_to_half(p, np.array([0.5])), p, atol=1e-11)


def classes_of(seed: int, frames: int, classes: int, rare: float = 0.5) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    shares = rare ** np.arange(classes)
    true = rng.choice(classes, frames, p=shares / shares.sum())
    logits = rng.normal(size=(frames, classes)) + 1.2 * np.eye(classes)[true] + np.log(shares)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    mask = rng.random((frames, 1)) > 0.2
    return p, np.where(mask, true[:, None], -1.0), mask


@given(seed=st.integers(0, 2**31), frames=st.integers(0, 14))
@settings(max_examples=60)
def test_offsets_of_two_classes_equal_brute_force(seed: int, frames: int) -> None:
    """Two classes have one degree of freedom, so coordinate ascent must find the best."""
    p, labels, mask = classes_of(seed, frames, 2)
    kept, true = p[mask[:, 0]], labels[mask[:, 0], 0]
    gaps = np.sort(np.log(kept[:, 0] / kept[:, 1]))
    cuts = [0.0, *(gaps - 1e-9), *(gaps + 1e-9)]
    best = max(
        macro_f1((np.log(kept[:, 0] / kept[:, 1]) < cut).astype(int), true, 2) for cut in cuts
    )
    decided = add_offsets(kept, tune_offsets(p, labels, mask)).argmax(axis=1)
    assert macro_f1(decided, true, 2) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_no_single_offset_can_be_improved(seed: int) -> None:
    """Brute force over one offset at a time, and nearly the best of a grid over all."""
    p, labels, mask = classes_of(seed, 30, 3)
    kept, true = p[mask[:, 0]], labels[mask[:, 0], 0]
    offsets = tune_offsets(p, labels, mask)
    found = macro_f1(add_offsets(kept, offsets).argmax(axis=1), true, 3)
    grid = np.linspace(-8, 8, 321)
    for c in range(3):
        for value in grid:
            tried = offsets.copy()
            tried[c] = value
            score = macro_f1((np.log(kept) + tried[None]).argmax(axis=1), true, 3)
            assert score <= found + 1e-12
    coarse = np.linspace(-3, 3, 31)
    everywhere = max(
        macro_f1((np.log(kept) + np.array([[0.0, a, b]])).argmax(axis=1), true, 3)
        for a, b in itertools.product(coarse, coarse)
    )
    assert found > everywhere - 0.06


@given(
    seed=st.integers(0, 2**31),
    frames=st.integers(0, 60),
    task=st.sampled_from(sorted(PRIMARY)),
    grid=st.sampled_from([2, 10, 10**6]),
)
@settings(max_examples=80)
def test_tuning_is_never_worse_where_it_was_tuned(
    seed: int, frames: int, task: str, grid: int
) -> None:
    """Whatever is predicted, certain and impossible classes and ties included."""
    spec, ops = TASKS[task], TASK_OPS[task]
    rule = DECISION_RULES[spec.kind]
    rng = np.random.default_rng(seed)
    p = np.round(ops.decode(2 * rng.normal(size=(frames, spec.outputs))) * grid) / grid
    top = spec.outputs if spec.kind == "categorical" else 2
    mask = rng.random((frames, spec.columns)) > 0.3
    labels = np.where(mask, rng.integers(0, top, mask.shape), spec.ignore).astype(float)
    parameters = rule.tune(p, labels, mask)
    assert parameters.shape == (spec.outputs,)
    assert np.isfinite(parameters).all()
    before = ops.scores(p, labels, mask)[PRIMARY[task]]
    assert ops.scores(rule.move(p, parameters), labels, mask)[PRIMARY[task]] >= before - 1e-12


def test_offsets_help_rare_classes_on_new_frames() -> None:
    p, labels, mask = classes_of(0, 4000, 4, rare=0.25)
    new_p, new_labels, new_mask = classes_of(1, 4000, 4, rare=0.25)
    offsets = tune_offsets(p, labels, mask)
    kept, true = new_p[new_mask[:, 0]], new_labels[new_mask[:, 0], 0]
    plain = macro_f1(kept.argmax(axis=1), true, 4)
    assert macro_f1(add_offsets(kept, offsets).argmax(axis=1), true, 4) > plain + 0.03
    # The rarest class is the one that is helped most.
    assert offsets.argmax() == 3


def test_shared_offsets_change_nothing_and_probabilities_stay_such() -> None:
    p, *_ = classes_of(3, 50, 5)
    np.testing.assert_allclose(add_offsets(p, np.full(5, 7.0)), p, atol=1e-12)
    moved = add_offsets(p, np.arange(5.0))
    np.testing.assert_allclose(moved.sum(axis=1), 1.0)
    # Bayes' rule for classes that became e^k times as frequent.
    expected = p * np.exp(np.arange(5.0))[None]
    np.testing.assert_allclose(moved, expected / expected.sum(axis=1, keepdims=True), atol=1e-12)


def test_what_cannot_be_tuned_keeps_the_papers_rule() -> None:
    p, labels, mask = units(0, 40, 4, 100)
    p[:, 0] = np.nan  # nobody predicts it
    labels[mask[:, 1], 1] = 0.0  # never present
    mask[:, 2] = False
    thresholds = tune_thresholds(p, labels, mask)
    np.testing.assert_array_equal(thresholds[:3], 0.5)
    assert np.isnan(move_to_half(p, thresholds)[:, 0]).all()
    p, labels, mask = classes_of(0, 40, 3)
    np.testing.assert_array_equal(tune_offsets(p, labels, np.zeros_like(mask)), np.zeros(3))
    np.testing.assert_array_equal(tune_offsets(np.full_like(p, np.nan), labels, mask), np.zeros(3))
    perfect = np.eye(3)[labels[mask[:, 0], 0].astype(int)]
    kept = labels[mask[:, 0]]
    np.testing.assert_array_equal(
        tune_offsets(perfect, kept, np.ones_like(kept, bool)), np.zeros(3)
    )


def test_continuous_tasks_have_nothing_to_decide() -> None:
    assert {spec.kind for spec in TASKS.values()} - set(DECISION_RULES) == {"continuous"}
