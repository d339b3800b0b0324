"""Warm-up by hand, the plateau against PyTorch's, releases and early stopping."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emojax.engine.schedule import (
    ScheduleConfig,
    ScheduleState,
    initial_state,
    learning_rates,
    observe,
)

ONE = np.array([1e-2])
FIELDS = [field.name for field in dataclasses.fields(ScheduleState)]


def config(**changes: object) -> ScheduleConfig:
    fields: dict = {
        "epoch_steps": 4,
        "warmup": "none",
        "warmup_epochs": 0,
        "plateau_patience": 2,
        "plateau_factor": 0.1,
        "minimum_rate": 1e-8,
        "releases": 0,
        "stop_patience": 1000,
    }
    return ScheduleConfig(**(fields | changes))


def run(
    scores: list[float], schedule: ScheduleConfig, base: float = 1e-2
) -> list[tuple[ScheduleState, bool, float]]:
    """State, whether the best improved, and the rate after it, of each epoch of one replica."""
    state, base_R, log = initial_state(1), np.array([base]), []
    for epoch, score in enumerate(scores, 1):
        step = epoch * schedule.epoch_steps
        state, improved = observe(state, schedule, base_R, np.array([score]), step)
        rate = learning_rates(state, schedule, base_R, step)[0]
        log.append((state, bool(improved[0]), float(rate)))
    return log


# -- warm-up ---------------------------------------------------------------------------------


def rates(schedule: ScheduleConfig, steps: int) -> np.ndarray:
    state = initial_state(1)
    return np.array([learning_rates(state, schedule, ONE, step)[0] for step in range(steps)])


def test_repetitive_warmup_climbs_within_each_epoch() -> None:
    quarters = [0.25, 0.5, 0.75, 1.0]
    found = rates(config(warmup="repetitive", warmup_epochs=2), 11)
    np.testing.assert_allclose(found, 1e-2 * np.array(quarters * 2 + [1, 1, 1]), rtol=1e-6)


def test_linear_warmup_climbs_once_over_all_epochs() -> None:
    found = rates(config(warmup="linear", warmup_epochs=2), 11)
    expected = [0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1, 1, 1, 1]
    np.testing.assert_allclose(found, 1e-2 * np.array(expected), rtol=1e-6)


def test_no_warmup_is_full_rate_whatever_its_epochs() -> None:
    np.testing.assert_allclose(rates(config(warmup="none", warmup_epochs=3), 9), 1e-2, rtol=1e-6)


@pytest.mark.parametrize("warmup", ["repetitive", "linear"])
def test_zero_warmup_epochs_are_full_rate(warmup: str) -> None:
    np.testing.assert_allclose(rates(config(warmup=warmup, warmup_epochs=0), 9), 1e-2, rtol=1e-6)


def test_rates_are_float32_of_each_replica() -> None:
    base_R = np.array([1e-3, 2e-3, 4e-3])
    found = learning_rates(initial_state(3), config(), base_R, 0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, base_R, rtol=1e-6)


# -- plateau ---------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    scores=st.lists(
        # Few values, so that ties and repeats are common.
        st.one_of(st.sampled_from([0.1, 0.2, 0.3, 0.4, float("nan")]), st.floats(-1, 1)),
        min_size=1,
        max_size=50,
    ),
    patience=st.integers(0, 4),
    factor=st.sampled_from([0.1, 0.5]),
)
def test_plateau_is_pytorchs(scores: list[float], patience: int, factor: float) -> None:
    torch = pytest.importorskip("torch", reason="parity needs PyTorch")
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode="max", factor=factor, patience=patience, threshold=0.0, eps=0.0
    )
    ours = run(
        scores, config(plateau_patience=patience, plateau_factor=factor, minimum_rate=0.0), 1.0
    )
    for score, (state, _, rate) in zip(scores, ours, strict=True):
        theirs.step(score)
        assert state.scale[0] == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
        assert state.stage_bad[0] == theirs.num_bad_epochs
        assert state.active[0]


def test_the_rate_drops_after_patience_plus_one_bad_epochs() -> None:
    found = [rate for _, _, rate in run([0.5, 0.4, 0.5, 0.4, 0.4, 0.4, 0.4], config())]
    np.testing.assert_allclose(found, [1e-2] * 3 + [1e-3] * 3 + [1e-4], rtol=1e-6)


def test_the_plateau_does_not_count_during_warmup() -> None:
    schedule = config(warmup="linear", warmup_epochs=3)
    drops = [state.scale[0] for state, _, _ in run([0.5, 0.1, 0.1, 0.1, 0.1, 0.1], schedule)]
    # Epochs 4, 5 and 6 are the first three that count.
    np.testing.assert_allclose(drops, [1, 1, 1, 1, 1, 0.1])


def test_a_score_reached_in_warmup_is_the_reference_afterwards() -> None:
    schedule = config(warmup="linear", warmup_epochs=1)
    log = run([0.9, 0.5, 0.6, 0.7], schedule)
    assert log[-1][0].scale[0] == pytest.approx(0.1)


def test_the_best_is_the_highest_score_and_ties_do_not_improve() -> None:
    improved = [better for _, better, _ in run([0.1, 0.3, 0.2, 0.3, 0.4], config())]
    assert improved == [True, True, False, False, True]


def test_nan_never_improves_and_counts_as_a_bad_epoch() -> None:
    log = run([float("nan"), 0.2, float("nan"), float("nan")], config())
    assert [better for _, better, _ in log] == [False, True, False, False]
    assert [state.bad[0] for state, _, _ in log] == [1, 0, 1, 2]
    assert log[0][0].best[0] == -np.inf
    assert log[-1][0].best[0] == 0.2
    assert np.isfinite(log[-1][0].stage_best[0])


# -- floor, releases, end --------------------------------------------------------------------


def test_a_rate_exactly_at_the_floor_is_still_used() -> None:
    """1e-5 falls three times to 1e-8, which is not below the floor of 1e-8."""
    schedule = config(plateau_patience=0, minimum_rate=1e-8)
    log = run([0.5] * 5, schedule, base=1e-5)
    used = [rate for _, _, rate in log]
    np.testing.assert_allclose(used[:4], [1e-5, 1e-6, 1e-7, 1e-8], rtol=1e-5)
    assert [bool(state.active[0]) for state, _, _ in log] == [True, True, True, True, False]


def test_an_exhausted_plateau_starts_over_as_often_as_there_are_releases() -> None:
    schedule = config(plateau_patience=0, minimum_rate=1e-3, releases=2)
    # Epoch 1 improves; each later epoch is bad, except the first after a release.
    log = run([0.5] * 9, schedule)
    stages = [int(state.stage[0]) for state, _, _ in log]
    scales = [float(state.scale[0]) for state, _, _ in log]
    active = [bool(state.active[0]) for state, _, _ in log]
    assert stages == [0, 0, 1, 1, 1, 2, 2, 2, 2]
    np.testing.assert_allclose(scales[:8], [1, 0.1, 1, 1, 0.1, 1, 1, 0.1])
    assert active == [True] * 8 + [False]
    # The best weights are those of the best score of all, not of a stage.
    assert [better for _, better, _ in log] == [True] + [False] * 8


def test_a_release_resets_rate_reference_and_warmup_but_not_the_best() -> None:
    schedule = config(
        plateau_patience=0, minimum_rate=1e-2, releases=1, warmup="linear", warmup_epochs=1
    )
    state = initial_state(1)
    for epoch, score in enumerate([0.9, 0.5], 1):
        state, _ = observe(state, schedule, ONE, np.array([score]), 4 * epoch)
    assert state.stage[0] == 1
    assert state.stage_start[0] == 8
    assert state.scale[0] == 1
    assert state.stage_best[0] == -np.inf
    assert state.stage_bad[0] == 0
    assert state.best[0] == 0.9
    assert state.bad[0] == 0  # a new stage is not stopped for the epochs of the last
    found = [learning_rates(state, schedule, ONE, step)[0] for step in range(8, 14)]
    np.testing.assert_allclose(found, 1e-2 * np.array([0.25, 0.5, 0.75, 1, 1, 1]), rtol=1e-6)
    # A score below the old best is news to the plateau, and not to the best weights.
    state, improved = observe(state, schedule, ONE, np.array([0.6]), 12)
    assert not improved[0]
    assert state.stage_best[0] == 0.6


def test_early_stopping_counts_epochs_since_the_best_score_of_all() -> None:
    schedule = config(plateau_patience=100, stop_patience=3)
    log = run([0.5, 0.4, 0.6, 0.5, 0.5, 0.5, 0.9], schedule)
    assert [bool(state.active[0]) for state, _, _ in log] == [True] * 5 + [False] * 2
    # What comes after the end changes nothing.
    assert log[-1][0].best[0] == 0.6
    assert not log[-1][1]


@settings(max_examples=60, deadline=None)
@given(
    data=st.lists(
        st.tuples(*[st.sampled_from([0.1, 0.2, 0.3, float("nan")])] * 3), min_size=1, max_size=40
    ),
    warmup=st.sampled_from(["none", "linear", "repetitive"]),
    releases=st.integers(0, 2),
)
def test_replicas_do_not_touch_each_other_and_finished_ones_stand_still(
    data: list[tuple[float, float, float]], warmup: str, releases: int
) -> None:
    schedule = config(
        plateau_patience=1,
        minimum_rate=1e-4,
        stop_patience=7,
        warmup=warmup,
        warmup_epochs=2,
        releases=releases,
    )
    base_R = np.array([1e-2, 1e-3, 1e-2])
    together, alone = initial_state(3), [initial_state(1) for _ in range(3)]
    for epoch, scores in enumerate(data, 1):
        step = epoch * schedule.epoch_steps
        before = together
        together, improved_R = observe(together, schedule, base_R, np.array(scores), step)
        for r in range(3):
            alone[r], improved = observe(
                alone[r], schedule, base_R[r : r + 1], np.array(scores[r : r + 1]), step
            )
            assert improved[0] == improved_R[r]
            for name in FIELDS:
                assert getattr(alone[r], name)[0] == getattr(together, name)[r]
                if not before.active[r]:
                    assert getattr(together, name)[r] == getattr(before, name)[r]
        assert not (improved_R & ~before.active).any()
        assert not (together.active & ~before.active).any()


def test_a_state_is_not_changed_in_place() -> None:
    state = initial_state(2)
    kept = {name: getattr(state, name).copy() for name in FIELDS}
    observe(state, config(), np.array([1e-2, 1e-2]), np.array([0.5, np.nan]), 4)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(state, name), kept[name])
