"""Resampling by timestamps, against a loop over frames and rows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emojax.datasets.transforms import (
    RESAMPLERS,
    fill_nearest,
    nearest_rows,
    resample,
    row_spacing,
)

METHODS = sorted(RESAMPLERS)
# Clocks on multiples of 1/64 s, whose sums and halves are exact: ties are ties in both codes.
TICK = 1 / 64


def clocks(most: int) -> st.SearchStrategy[np.ndarray]:
    ticks = st.lists(st.integers(0, 400), min_size=1, max_size=most, unique=True)
    return ticks.map(lambda values: np.sort(np.array(values)) * TICK)


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns rows with garbage where invalid, their clock and validity, and the frames' clock."""
    row_pts_N, query_pts_T = draw(clocks(24)), draw(clocks(24))
    valid_N = np.array(draw(st.lists(st.booleans(), min_size=24, max_size=24)))[: len(row_pts_N)]
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    rows_ND = rng.normal(size=(len(row_pts_N), 2)).astype(np.float32)
    rows_ND[~valid_N] = np.nan
    return rows_ND, row_pts_N, valid_N, query_pts_T


def nearest_by_hand(row_pts_N: np.ndarray, t: float) -> int:
    distances = [abs(t - pts) for pts in row_pts_N]
    # The later one of two that are equally near.
    return max(i for i, distance in enumerate(distances) if distance == min(distances))


def reach_by_hand(pts: np.ndarray, frames: np.ndarray) -> float:
    """The median step of the rows, of the frames beside a single row, and else no limit."""
    for clock in (pts, frames):
        steps = sorted(later - earlier for earlier, later in itertools.pairwise(clock))
        if steps:
            return (steps[len(steps) // 2] + steps[(len(steps) - 1) // 2]) / 2
    return np.inf


def nearest_frame_by_hand(
    rows: np.ndarray, pts: np.ndarray, valid: np.ndarray, t: float, reach: float
) -> tuple[np.ndarray, bool]:
    i = nearest_by_hand(pts, t)
    if not valid[i] or abs(pts[i] - t) > reach + 1e-6:
        return np.zeros(rows.shape[1]), False
    return rows[i], True


@settings(max_examples=150, deadline=None)
@given(case=cases())
def test_nearest_is_the_row_with_the_smallest_distance(case: tuple) -> None:
    rows, pts, valid, frames = case
    values_TD, valid_T = resample(rows, pts, valid, frames, "nearest")
    reach = reach_by_hand(pts, frames)
    for t, value_D, is_valid in zip(frames, values_TD, valid_T, strict=True):
        expected_D, expected_valid = nearest_frame_by_hand(rows, pts, valid, t, reach)
        assert is_valid == expected_valid
        np.testing.assert_array_equal(value_D, expected_D)


@settings(max_examples=150, deadline=None)
@given(case=cases())
def test_linear_interpolates_between_valid_neighbours(case: tuple) -> None:
    rows, pts, valid, frames = case
    values_TD, valid_T = resample(rows, pts, valid, frames, "linear")
    reach = reach_by_hand(pts, frames)
    for t, value_D, is_valid in zip(frames, values_TD, valid_T, strict=True):
        expected_D, expected_valid = nearest_frame_by_hand(rows, pts, valid, t, reach)
        before = [i for i in range(len(pts)) if pts[i] <= t]
        after = [i for i in range(len(pts)) if pts[i] >= t]
        if expected_valid and before and after and before[-1] != after[0]:
            left, right = before[-1], after[0]
            near = pts[right] - pts[left] <= 2 * (reach + 1e-6)
            if valid[left] and valid[right] and near:
                share = (t - pts[left]) / (pts[right] - pts[left])
                expected_D = (1 - share) * rows[left] + share * rows[right]
        assert is_valid == expected_valid
        np.testing.assert_allclose(value_D, expected_D, rtol=0, atol=1e-6)


@settings(max_examples=150, deadline=None)
@given(case=cases())
def test_mean_takes_the_valid_rows_that_are_nearest_to_the_frame(case: tuple) -> None:
    rows, pts, valid, frames = case
    values_TD, valid_T = resample(rows, pts, valid, frames, "mean")
    reach = reach_by_hand(pts, frames)
    spacing = (frames[-1] - frames[0]) / max(1, len(frames) - 1)
    for f, t in enumerate(frames):
        expected_D, expected_valid = nearest_frame_by_hand(rows, pts, valid, t, reach)
        mine = [
            n
            for n, row_t in enumerate(pts)
            if valid[n]
            and nearest_by_hand(frames, row_t) == f
            and frames[0] - spacing / 2 <= row_t < frames[-1] + spacing / 2
        ]
        if mine and len(frames) > 1:
            expected_D, expected_valid = rows[mine].mean(axis=0), True
        assert valid_T[f] == expected_valid
        np.testing.assert_allclose(values_TD[f], expected_D, rtol=0, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(case=cases(), method=st.sampled_from(METHODS))
def test_what_an_invalid_row_holds_reaches_nothing(case: tuple, method: str) -> None:
    rows, pts, valid, frames = case
    values_TD, valid_T = resample(rows, pts, valid, frames, method)
    assert np.isfinite(values_TD).all()
    assert (values_TD[~valid_T] == 0).all()
    assert valid.any() or not valid_T.any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rate", [2.0, 6.0, 12.5, 25.0, 29.97, 100.0, 1000.0])
def test_a_stream_that_holds_its_own_clock_gives_back_the_frames_clock(
    method: str, rate: float
) -> None:
    frames_T = 3.0 + np.arange(200) / 24.0
    pts_N = 2.5 + np.arange(int(10 * rate)) / rate
    rows_ND = pts_N[:, None].astype(np.float32)
    values_TD, valid_T = resample(rows_ND, pts_N, np.ones(len(pts_N), bool), frames_T, method)
    assert valid_T.all()
    # Half a row for the nearest; interpolation of a straight line is exact; a mean over rows
    # that lie about a frame is off by at most half a row too.
    tolerance = 1e-5 if method == "linear" else 0.5 / rate + 1e-5
    assert np.abs(values_TD[:, 0] - frames_T).max() <= tolerance


@pytest.mark.parametrize("method", METHODS)
def test_a_delayed_stream_is_shifted_back_by_its_timestamps(method: str) -> None:
    """Row n describes 0.4 s later than row n of an undelayed stream would."""
    frames_T = np.arange(100) / 25.0
    pts_N = 0.4 + np.arange(100) / 25.0
    rows_ND = np.arange(100, dtype=np.float32)[:, None]
    values_TD, valid_T = resample(rows_ND, pts_N, np.ones(100, bool), frames_T, method)
    # Ten frames come before the first row; the one right before it is within one spacing.
    np.testing.assert_array_equal(valid_T, np.arange(100) >= 9)
    np.testing.assert_allclose(values_TD[10:, 0], np.arange(90), atol=1e-4)


def test_an_irregular_clock_is_followed_row_by_row() -> None:
    pts_N = np.array([0.0, 0.1, 0.15, 0.4, 0.41, 0.42, 0.8])
    frames_T = np.array([0.0, 0.12, 0.13, 0.2, 0.3, 0.414, 0.5, 0.7])
    np.testing.assert_array_equal(nearest_rows(frames_T, pts_N), [0, 1, 2, 2, 3, 4, 5, 6])


def test_rows_of_the_same_instant_are_allowed() -> None:
    pts_N = np.array([0.0, 0.5, 0.5, 0.5, 1.0])
    rows_ND = np.array([0, 1, 2, 3, 4], np.float32)[:, None]
    for method in METHODS:
        values_TD, valid_T = resample(
            rows_ND, pts_N, np.ones(5, bool), np.array([0, 0.5, 1]), method
        )
        assert valid_T.all()
        assert values_TD[0, 0] == 0
        assert 1 <= values_TD[1, 0] <= 3
        assert values_TD[2, 0] == 4


@pytest.mark.parametrize("method", METHODS)
def test_frames_after_an_early_end_are_missing_and_not_the_last_row(method: str) -> None:
    frames_T = np.arange(50) / 25.0
    pts_N = np.arange(30) / 25.0
    rows_ND = np.ones((30, 3), np.float16)
    values_TD, valid_T = resample(rows_ND, pts_N, np.ones(30, bool), frames_T, method)
    np.testing.assert_array_equal(valid_T, np.arange(50) <= 30)
    assert (values_TD[31:] == 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_gap_of_missing_rows_stays_a_gap(method: str) -> None:
    pts_N = np.arange(100) / 25.0
    valid_N = (np.arange(100) < 40) | (np.arange(100) >= 60)
    rows_ND = np.where(valid_N[:, None], 5.0, 99.0).astype(np.float32)
    values_TD, valid_T = resample(rows_ND, pts_N, valid_N, pts_N, method)
    np.testing.assert_array_equal(valid_T, valid_N)
    np.testing.assert_array_equal(values_TD[:, 0], np.where(valid_N, 5.0, 0.0))


@pytest.mark.parametrize("method", METHODS)
def test_a_stream_of_one_row_describes_the_frames_beside_it(method: str) -> None:
    frames_T = np.arange(7) / 25.0
    one = np.array([[2.0, 3.0]], np.float16)
    values_TD, valid_T = resample(one, np.array([0.12]), np.array([True]), frames_T, method)
    np.testing.assert_array_equal(np.flatnonzero(valid_T), [2, 3, 4])
    np.testing.assert_array_equal(values_TD, valid_T[:, None] * one)
    values_TD, valid_T = resample(one, np.array([0.12]), np.array([False]), frames_T, method)
    assert not valid_T.any()
    assert (values_TD == 0).all()
    assert row_spacing(np.array([0.1])) == np.inf
    assert resample(one, np.array([9.0]), np.array([True]), frames_T[:1], method)[1].all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num_frames", [0, 1, 5])
def test_a_stream_without_rows_is_missing_everywhere(method: str, num_frames: int) -> None:
    nothing = np.zeros((0, 4), np.float16)
    frames_T = np.arange(num_frames) / 25.0
    values_TD, valid_T = resample(nothing, np.zeros(0), np.zeros(0, bool), frames_T, method)
    assert values_TD.shape == (num_frames, 4)
    assert not values_TD.any()
    assert not valid_T.any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_dtype_is_kept(method: str, dtype: type) -> None:
    pts_N = np.arange(20) / 50.0
    rows_ND = np.ones((20, 1), dtype)
    values_TD, _ = resample(rows_ND, pts_N, np.ones(20, bool), np.arange(10) / 25.0, method)
    assert values_TD.dtype == dtype


def test_a_mean_of_half_floats_does_not_overflow() -> None:
    pts_N = np.arange(400) / 1000.0
    rows_ND = np.full((400, 1), 60000.0, np.float16)
    values_TD, _ = resample(rows_ND, pts_N, np.ones(400, bool), np.arange(10) / 25.0, "mean")
    np.testing.assert_array_equal(values_TD, np.float16(60000.0))


# -- filling what is missing -----------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(case=cases(), method=st.sampled_from(METHODS))
def test_filled_rows_are_the_nearest_valid_ones(case: tuple, method: str) -> None:
    rows, pts, valid, frames = case
    missing_TD, valid_T = resample(rows, pts, valid, frames, method)
    before_TD = missing_TD.copy()
    filled_TD, filled_T = fill_nearest(missing_TD, valid_T, frames, rows, pts, valid)
    np.testing.assert_array_equal(missing_TD, before_TD)
    assert filled_TD.dtype == rows.dtype
    if not valid.any():
        np.testing.assert_array_equal(filled_TD, missing_TD)
        assert not filled_T.any()
        return
    assert filled_T.all()
    known = np.flatnonzero(valid)
    for t, value_D, was_valid, old_D in zip(frames, filled_TD, valid_T, before_TD, strict=True):
        nearest = known[nearest_by_hand(pts[known], t)]
        np.testing.assert_array_equal(value_D, old_D if was_valid else rows[nearest])


def test_a_far_row_fills_a_whole_gap_and_both_ends() -> None:
    pts_N = np.arange(100) / 32.0
    rows_ND = np.arange(100, dtype=np.float16)[:, None]
    valid_N = np.isin(np.arange(100), (10, 60))
    frames_T = np.arange(-20, 140) / 32.0
    rows_TD, valid_T = resample(rows_ND, pts_N, valid_N, frames_T)
    filled_TD, filled_T = fill_nearest(rows_TD, valid_T, frames_T, rows_ND, pts_N, valid_N)
    assert filled_T.all()
    # Midway between both, at frame 35, the later one counts.
    expected = np.where(np.arange(-20, 140) < 35, 10, 60)
    np.testing.assert_array_equal(filled_TD[:, 0], expected)


@pytest.mark.parametrize("method", METHODS)
def test_an_instant_that_stands_for_much_time_takes_any_row_of_it(method: str) -> None:
    """A slow clock's last tick comes after the last row, but stands for rows before it."""
    pts_N = np.arange(31) / 30.0
    rows_ND = np.ones((31, 1), np.float32)
    ticks_T = np.arange(5) * 0.28
    arguments = (rows_ND, pts_N, np.ones(31, bool), ticks_T, method)
    # By default one row spacing, but a mean reaches to the middle between ticks by itself.
    np.testing.assert_array_equal(resample(*arguments)[1], [True] * 4 + [method == "mean"])
    assert resample(*arguments, reach=0.14)[1].all()
    assert not resample(*arguments[:3], ticks_T + 0.15, method, reach=0.14)[1][4]


@pytest.mark.parametrize("method", METHODS)
def test_rows_left_out_are_missing_frames(method: str) -> None:
    """Ten rows in two seconds and one near the end of a minute describe eleven frames of 300."""
    frames_T = np.arange(300) / 5
    for pts_N in (np.r_[np.arange(10) / 5, 59.8], np.array([30.0])):
        rows_ND = pts_N[:, None].astype(np.float32)
        _, valid_T = resample(rows_ND, pts_N, np.ones(len(pts_N), bool), frames_T, method)
        distance_T = np.abs(pts_N[None] - frames_T[:, None]).min(axis=1)
        assert valid_T[distance_T < 1e-6].all()
        assert not valid_T[distance_T > 0.2 + 1e-5].any()
