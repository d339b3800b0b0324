"""Warm-up by hand, the plateau against PyTorch's, releases and early stopping."""

from __future__ import annotations

import dataclasses

import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emojax.core.schedule import (
    ScheduleConfig,
    ScheduleState,
    final_objective,
    initial_state,
    learning_rates,
    lost,
    observe,
    saved_state,
)
from emojax.core.stages import Stage

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
    """Returns, for each epoch of a replica, its state, True if it improved, and the next rate."""
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


def test_rising_warmup_climbs_to_a_higher_peak_in_each_epoch() -> None:
    found = rates(config(warmup="rising", warmup_epochs=3), 14)
    # The public code sets batch * rate * (epoch + 1) / (total * epochs), where total is the number
    # of batches in all epochs of warm-up.
    expected = [b * (e + 1) / ((4 * 3) * 3) for e in range(3) for b in range(4)] + [1, 1]
    np.testing.assert_allclose(found, 1e-2 * np.array(expected), rtol=1e-6)


def test_linear_warmup_climbs_once_over_all_epochs() -> None:
    found = rates(config(warmup="linear", warmup_epochs=2), 11)
    expected = [0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1, 1, 1, 1]
    np.testing.assert_allclose(found, 1e-2 * np.array(expected), rtol=1e-6)


def test_no_warmup_is_full_rate_whatever_its_epochs() -> None:
    np.testing.assert_allclose(rates(config(warmup="none", warmup_epochs=3), 9), 1e-2, rtol=1e-6)


@pytest.mark.parametrize("warmup", ["repetitive", "rising", "linear"])
def test_zero_warmup_epochs_are_full_rate(warmup: str) -> None:
    np.testing.assert_allclose(rates(config(warmup=warmup, warmup_epochs=0), 9), 1e-2, rtol=1e-6)


def test_rates_are_float32_of_each_replica() -> None:
    base_R = np.array([1e-3, 2e-3, 4e-3])
    found = learning_rates(initial_state(3), config(), base_R, 0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, base_R, rtol=1e-6)


# -- cosine ----------------------------------------------------------------------------------


@pytest.mark.parametrize("warmup_epochs", [0, 2])
def test_the_cosine_is_optaxs(warmup_epochs: int) -> None:
    schedule = config(
        warmup="linear", warmup_epochs=warmup_epochs, decay="cosine", epochs=7, minimum_rate=1e-4
    )
    warm, total = 4 * warmup_epochs, 28
    theirs = optax.warmup_cosine_decay_schedule(0.0, 1e-2, warm, total, end_value=1e-4)
    found = rates(schedule, total + 5)
    expected = np.array([theirs(step) for step in range(total + 5)])
    np.testing.assert_allclose(found[warm:], expected[warm:], rtol=1e-5)
    # Optax's first step has rate 0 and so does nothing; ours has what its second step has.
    np.testing.assert_allclose(found[:warm], expected[1 : warm + 1], rtol=1e-5)
    assert found.max() == pytest.approx(1e-2)
    assert found[-1] == pytest.approx(1e-4)


def test_the_cosine_is_multiplied_by_the_plateaus_scale() -> None:
    schedule = config(decay="cosine", epochs=8, plateau_patience=0, plateau_factor=0.5)
    plain = rates(schedule, 32)
    log = run([0.5, 0.4, 0.3], schedule)
    np.testing.assert_allclose(log[0][2], plain[4], rtol=1e-6)
    np.testing.assert_allclose(log[1][2], plain[8] / 2, rtol=1e-6)
    np.testing.assert_allclose(log[2][2], plain[12] / 4, rtol=1e-6)


def test_the_cosine_starts_over_at_a_release_over_what_is_left() -> None:
    schedule = config(decay="cosine", epochs=10, releases=1, minimum_rate=0.0)
    state = dataclasses.replace(
        initial_state(2), stage=np.array([0, 1]), stage_start=np.array([0, 24])
    )
    found = np.stack([learning_rates(state, schedule, ONE, step) for step in range(24, 41)])
    theirs = [optax.cosine_decay_schedule(1e-2, steps) for steps in (40, 16)]
    np.testing.assert_allclose(found[:, 0], [theirs[0](s) for s in range(24, 41)], atol=1e-8)
    np.testing.assert_allclose(found[:, 1], [theirs[1](s) for s in range(17)], atol=1e-8)


def test_the_cosine_of_a_stage_takes_that_stages_epochs() -> None:
    stages = (Stage(epochs=3), Stage(epochs=2), Stage())
    schedule = config(decay="cosine", epochs=10, stages=stages, minimum_rate=0.0)
    state = dataclasses.replace(
        initial_state(3), stage=np.array([0, 1, 2]), stage_start=np.array([0, 12, 20])
    )
    for r, (start, steps) in enumerate(((0, 12), (12, 8), (20, 20))):
        theirs = optax.cosine_decay_schedule(1e-2, steps)
        for step in range(start, start + steps):
            found = learning_rates(state, schedule, ONE, step)[r]
            assert found == pytest.approx(float(theirs(step - start)), abs=1e-8)


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


def test_emma_nets_rate_is_halved_after_more_than_two_epochs_without_progress() -> None:
    """EMMA-Net, section 4: rate 0.02, halved when validation F1 stagnates for more than 2."""
    torch = pytest.importorskip("torch", reason="parity needs PyTorch")
    scores = [0.20, 0.25, 0.25, 0.24, 0.25, 0.26, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.27]
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.02)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode="max", factor=0.5, patience=2, threshold=0.0
    )
    log = run(scores, config(plateau_factor=0.5, plateau_patience=2), 0.02)
    expected = []
    for score in scores:
        theirs.step(score)
        expected.append(optimizer.param_groups[0]["lr"])
    np.testing.assert_allclose([rate for _, _, rate in log], expected, rtol=1e-6)
    np.testing.assert_allclose(expected, [0.02] * 4 + [0.01] * 4 + [0.005] * 3 + [0.0025] * 2)


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


def test_the_global_best_stays_the_reference_of_the_plateau_after_a_release() -> None:
    """As in the public code of RJCMA: a later stage has to beat the best score of all."""
    scores = [0.9, 0.5, 0.5, 0.6, 0.7, 0.95, 0.9]
    fields = {"plateau_patience": 1, "minimum_rate": 5e-3, "releases": 2}
    own = run(scores, config(**fields))
    shared = run(scores, config(**fields, plateau_reference="best"))
    # Epoch 3 exhausts the plateau of stage 0 in both. Then .6 and .7 improve on .5 alone.
    assert [int(state.stage[0]) for state, _, _ in own] == [0, 0, 1, 1, 1, 1, 1]
    assert [int(state.stage[0]) for state, _, _ in shared] == [0, 0, 1, 1, 2, 2, 2]
    assert float(own[3][0].stage_best[0]) == 0.6
    assert float(shared[3][0].stage_best[0]) == 0.9
    assert float(shared[-1][0].stage_best[0]) == 0.95
    # Another objective's scores do not compare, whatever the reference.
    staged = run([0.9, 0.8, 0.1], config(stages=BRANCHES_FIRST, plateau_reference="best"))
    assert float(staged[-1][0].stage_best[0]) == 0.1


def test_early_stopping_counts_epochs_since_the_best_score_of_all() -> None:
    schedule = config(plateau_patience=100, stop_patience=3)
    log = run([0.5, 0.4, 0.6, 0.5, 0.5, 0.5, 0.9], schedule)
    assert [bool(state.active[0]) for state, _, _ in log] == [True] * 5 + [False] * 2
    # What comes after the end changes nothing.
    assert log[-1][0].best[0] == 0.6
    assert not log[-1][1]


# -- stages ----------------------------------------------------------------------------------

BRANCHES_FIRST = (Stage("branches", 2), Stage("outputs", 3))


def test_a_stage_ends_after_its_epochs_and_its_scores_do_not_compare() -> None:
    log = run([0.9, 0.8, 0.1, 0.3, 0.2, 0.9], config(stages=BRANCHES_FIRST))
    states = [state for state, _, _ in log]
    assert [int(state.stage[0]) for state in states] == [0, 1, 1, 1, 1, 1]
    assert [better for _, better, _ in log] == [True, False, True, True, False, False]
    assert [bool(state.active[0]) for state in states] == [True] * 4 + [False] * 2
    assert states[1].best[0] == -np.inf
    assert states[-1].best[0] == 0.3
    assert [int(state.best_stage[0]) for state in states] == [0, 0, 1, 1, 1, 1]
    assert [bool(final_objective(state, BRANCHES_FIRST)[0]) for state in states[:3]] == [
        False,
        False,
        True,
    ]


def test_scores_of_stages_with_one_objective_compare() -> None:
    """Progressive release: only what is frozen changes."""
    stages = (Stage(epochs=2, frozen=("a",)), Stage(epochs=2))
    log = run([0.9, 0.8, 0.1, 0.3], config(stages=stages))
    assert [better for _, better, _ in log] == [True, False, False, False]
    assert log[-1][0].best[0] == 0.9
    assert log[-1][0].stage[0] == 1
    assert not log[-1][0].active[0]


@pytest.mark.parametrize(
    "why",
    [
        {"plateau_patience": 0, "minimum_rate": 1e-3, "plateau_factor": 0.01},
        {"plateau_patience": 99, "stop_patience": 1},
    ],
    ids=["plateau", "early stopping"],
)
@pytest.mark.parametrize("epochs", [0, 5])
def test_plateau_and_early_stopping_end_a_stage_and_in_the_last_one_the_training(
    why: dict, epochs: int
) -> None:
    stages = (Stage("branches", epochs), Stage("outputs", epochs))
    log = run([0.5, 0.4, 0.2, 0.3, 0.1], config(stages=stages, **why))
    assert [int(state.stage[0]) for state, _, _ in log] == [0, 1, 1, 1, 1]
    assert [bool(state.active[0]) for state, _, _ in log] == [True] * 4 + [False]
    assert log[1][0].stage_start[0] == 8
    assert log[1][0].bad[0] == 0
    assert log[-1][0].best[0] == 0.3


def test_a_replica_without_a_finite_score_in_a_last_stage_of_its_own_objective_is_lost() -> None:
    nan = float("nan")
    schedule = config(stages=BRANCHES_FIRST, stop_patience=2)
    never, late, sound = ([nan] * 5, [0.5, 0.4, nan, nan, nan], [nan, nan, 0.1, nan, nan])
    for scores, expected in ((never, True), (late, True), (sound, False)):
        state = run(scores, schedule)[-1][0]
        assert not state.active[0]
        assert bool(lost(state, BRANCHES_FIRST)[0]) == expected
    # While it trains it may still come to something.
    assert not lost(run(late[:3], schedule)[-1][0], BRANCHES_FIRST)[0]


def test_a_state_is_read_back_as_it_was_saved() -> None:
    state = run([0.5, 0.4, 0.3, 0.2], config(releases=2, plateau_patience=0))[-1][0]
    fields = {name: getattr(state, name).tolist() for name in FIELDS}
    assert saved_state(fields) == state
    assert lost(saved_state(fields), ()).tolist() == [False]
    assert lost(saved_state(fields | {"best_stage": [-1]}), ()).tolist() == [True]


@settings(max_examples=60, deadline=None)
@given(
    data=st.lists(
        st.tuples(*[st.sampled_from([0.1, 0.2, 0.3, float("nan")])] * 3), min_size=1, max_size=40
    ),
    warmup=st.sampled_from(["none", "linear", "repetitive", "rising"]),
    releases=st.sampled_from([0, 1, 2, BRANCHES_FIRST, (Stage(), Stage("branches"), Stage())]),
    reference=st.sampled_from(["release", "best"]),
)
def test_replicas_do_not_touch_each_other_and_finished_ones_stand_still(
    data: list[tuple[float, float, float]],
    warmup: str,
    releases: int | tuple[Stage, ...],
    reference: str,
) -> None:
    stages = releases if isinstance(releases, tuple) else ()
    schedule = config(
        plateau_patience=1,
        minimum_rate=1e-4,
        stop_patience=7,
        warmup=warmup,
        warmup_epochs=2,
        plateau_reference=reference,
        releases=0 if stages else releases,
        stages=stages,
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
