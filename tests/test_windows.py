"""Windows cover every frame, and averaging puts each frame back exactly once."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emojax.ops.windows import OverlapAverage, scored_bounds, window_starts

LENGTHS = st.integers(1, 400)
WINDOWS = st.tuples(st.integers(1, 80), st.integers(1, 80)).map(lambda ws: (max(ws), min(ws)))


@pytest.mark.parametrize(
    ("num_frames", "window", "stride", "starts", "aligned"),
    [
        (1, 300, 200, [0], [0]),
        (300, 300, 200, [0], [0]),
        (301, 300, 200, [0, 200], [0, 1]),
        (500, 300, 200, [0, 200], [0, 200]),
        (501, 300, 200, [0, 200, 400], [0, 200, 201]),
        (600, 300, 300, [0, 300], [0, 300]),  # floor(n / s) + 1 would add an empty window
        (5, 1, 1, [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]),
    ],
)
def test_starts_by_hand(
    num_frames: int, window: int, stride: int, starts: list[int], aligned: list[int]
) -> None:
    assert window_starts(num_frames, window, stride).tolist() == starts
    assert window_starts(num_frames, window, stride, align_end=True).tolist() == aligned


SCORED = ("all", "centre", "last")


@given(num_frames=LENGTHS, sizes=WINDOWS, align_end=st.booleans())
@settings(max_examples=300, deadline=None)
def test_every_frame_is_covered_and_no_window_is_idle(
    num_frames: int, sizes: tuple[int, int], align_end: bool
) -> None:
    window, stride = sizes
    starts = window_starts(num_frames, window, stride, align_end=align_end)
    assert len(starts) == max(1, math.ceil((num_frames - window) / stride) + 1)
    assert starts[0] == 0
    assert (np.diff(starts) > 0).all()
    assert starts[-1] < num_frames
    covered = np.zeros(num_frames, int)
    for start in starts:
        covered[start : start + window] += 1
    assert covered.min() >= 1
    if align_end and num_frames >= window:
        assert starts[-1] + window == num_frames
    if len(starts) > 1:  # leaving the last window out would leave frames out
        assert starts[-2] + window < num_frames


SCORED = ("all", "centre", "last")


@pytest.mark.parametrize(
    ("num_frames", "window", "stride", "starts"),
    [
        (1, 300, 200, [0]),
        (199, 300, 200, [0]),
        (200, 300, 200, [0, 200]),  # the second is empty
        (300, 300, 200, [0, 200]),  # the second repeats frames
        (501, 300, 200, [0, 200, 400]),
        (600, 300, 300, [0, 300, 600]),  # the third is empty
    ],
)
def test_the_printed_number_of_windows_by_hand(
    num_frames: int, window: int, stride: int, starts: list[int]
) -> None:
    assert window_starts(num_frames, window, stride, count="floor").tolist() == starts
    with pytest.raises(ValueError, match="aligned"):
        window_starts(num_frames, window, stride, align_end=True, count="floor")


@given(num_frames=LENGTHS, sizes=WINDOWS, scored=st.sampled_from(SCORED))
@settings(max_examples=300, deadline=None)
def test_the_printed_windows_hold_those_that_cover_and_score_each_frame_once(
    num_frames: int, sizes: tuple[int, int], scored: str
) -> None:
    window, stride = sizes
    starts = window_starts(num_frames, window, stride, count="floor")
    assert len(starts) == num_frames // stride + 1
    assert (starts[-1] == num_frames) == (num_frames % stride == 0)
    cover = window_starts(num_frames, window, stride)
    np.testing.assert_array_equal(starts[: len(cover)], cover)
    first, stop = scored_bounds(starts, num_frames, window, stride, scored)
    counts = np.zeros(num_frames, int)
    for start, low, high in zip(starts, first, stop, strict=True):
        assert low >= start
        inside = range(max(low, 0), min(high, start + window, num_frames))
        counts[inside.start : inside.stop] += 1
    assert counts.min() >= 1
    if scored != "all":
        assert counts.max() == 1


@given(num_frames=LENGTHS, sizes=WINDOWS, align_end=st.booleans(), seed=st.integers(0, 2**31))
@settings(max_examples=200, deadline=None)
def test_every_annotated_frame_is_scored_exactly_once(
    num_frames: int, sizes: tuple[int, int], align_end: bool, seed: int
) -> None:
    """Windows that are cut, padded, shuffled and put back give the video, frame by frame."""
    window, stride = sizes
    rng = np.random.default_rng(seed)
    truth_NC = rng.normal(size=(num_frames, 2))
    annotated_N = rng.random(num_frames) > 0.3
    starts = window_starts(num_frames, window, stride, align_end=align_end)
    frames_BT = starts[:, None] + np.arange(window)
    mask_BT = frames_BT < num_frames
    ids_BT = np.where(mask_BT, frames_BT, -1)
    values_BTC = np.where(mask_BT[..., None], truth_NC[ids_BT], np.nan)
    order = rng.permutation(len(starts))

    average = OverlapAverage(num_frames, 2)
    for b in order:
        average.add(ids_BT[b], values_BTC[b], mask_BT[b])
    mean_NC, covered_N = average.result()
    assert covered_N.all()
    assert (covered_N & annotated_N).sum() == annotated_N.sum()
    np.testing.assert_allclose(mean_NC, truth_NC, atol=1e-12)

    stacked = OverlapAverage(num_frames, 2)
    stacked.add(ids_BT, values_BTC, mask_BT)
    np.testing.assert_allclose(stacked.result()[0], mean_NC, atol=1e-12)


def test_overlaps_are_averaged_and_uncovered_frames_told() -> None:
    average = OverlapAverage(5, 1)
    average.add(np.array([0, 1, 2]), np.array([[1.0], [2.0], [3.0]]), np.array([True, True, True]))
    average.add(
        np.array([1, 2, -1]), np.array([[4.0], [9.0], [7.0]]), np.array([True, True, False])
    )
    mean_NC, covered_N = average.result()
    np.testing.assert_allclose(mean_NC[:, 0], [1, 3, 6, 0, 0])
    assert covered_N.tolist() == [True, True, True, False, False]
    assert mean_NC.dtype == np.float64


def test_a_window_that_starts_inside_the_video_keeps_frame_numbers() -> None:
    average = OverlapAverage(10, 1)
    average.add(np.arange(4, 7), np.ones((3, 1)), np.ones(3, bool))
    np.testing.assert_array_equal(np.flatnonzero(average.result()[1]), [4, 5, 6])


@pytest.mark.parametrize(("num_frames", "window", "stride"), [(0, 1, 1), (5, 0, 1), (5, 3, 0)])
def test_sizes_below_one_are_refused(num_frames: int, window: int, stride: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        window_starts(num_frames, window, stride)


@given(window=st.integers(1, 50), more=st.integers(1, 50))
def test_stride_beyond_the_window_is_refused(window: int, more: int) -> None:
    with pytest.raises(ValueError, match="left out"):
        window_starts(100, window, window + more)


@pytest.mark.parametrize(
    ("scored", "align_end", "spans"),
    [
        ("all", False, [(0, 6), (2, 8), (4, 10), (6, 11)]),
        ("all", True, [(0, 6), (2, 8), (4, 10), (5, 11)]),
        ("centre", False, [(0, 4), (4, 6), (6, 8), (8, 11)]),
        ("centre", True, [(0, 4), (4, 6), (6, 8), (8, 11)]),
        ("last", False, [(0, 6), (6, 8), (8, 10), (10, 11)]),
        ("last", True, [(0, 6), (6, 8), (8, 10), (10, 11)]),
    ],
)
def test_scored_frames_by_hand(scored: str, align_end: bool, spans: list[tuple[int, int]]) -> None:
    """Eleven frames, windows of six every two."""
    starts = window_starts(11, 6, 2, align_end=align_end)
    first, stop = scored_bounds(starts, 11, 6, 2, scored)
    assert list(zip(first.tolist(), stop.tolist(), strict=True)) == spans


@given(
    num_frames=LENGTHS,
    sizes=WINDOWS,
    align_end=st.booleans(),
    scored=st.sampled_from(SCORED),
)
@settings(max_examples=300, deadline=None)
def test_every_frame_has_a_window_that_answers_for_it(
    num_frames: int, sizes: tuple[int, int], align_end: bool, scored: str
) -> None:
    window, stride = sizes
    starts = window_starts(num_frames, window, stride, align_end=align_end)
    first, stop = scored_bounds(starts, num_frames, window, stride, scored)
    assert len(first) == len(stop) == len(starts)
    # A window answers only for what it has seen, and none is computed for nothing.
    assert (first >= starts).all()
    assert (stop <= np.minimum(starts + window, num_frames)).all()
    assert (first < stop).all()
    answers = np.zeros(num_frames, int)
    for a, b in zip(first, stop, strict=True):
        answers[a:b] += 1
    if scored == "all":
        assert answers.min() >= 1
        assert answers.sum() == np.minimum(starts + window, num_frames).sum() - starts.sum()
        return
    assert (answers == 1).all()
    # Inner windows of the regular grid answer for their middle or last frames.
    for i in range(1, len(starts) - 1):
        before, after = first[i] - starts[i], starts[i] + window - stop[i]
        assert stop[i] - first[i] == stride
        assert after - before in ((0, 1) if scored == "centre" else (-before,))


@given(seed=st.integers(0, 2**31), repeated=st.booleans())
@settings(max_examples=50, deadline=None)
def test_frames_in_any_order_and_even_twice_in_a_window_are_averaged(
    seed: int, repeated: bool
) -> None:
    rng = np.random.default_rng(seed)
    ids_BT = np.stack([rng.permutation(30)[:8] for _ in range(5)])
    if repeated:
        ids_BT[:, 3] = ids_BT[:, 6]
    values_BTC = rng.normal(size=(5, 8, 3))
    mask_BT = rng.random((5, 8)) > 0.3
    average = OverlapAverage(30, 3)
    average.add(ids_BT, values_BTC, mask_BT)
    by_hand, count = np.zeros((30, 3)), np.zeros(30, int)
    for frame, value, kept in zip(
        ids_BT.ravel(), values_BTC.reshape(-1, 3), mask_BT.ravel(), strict=True
    ):
        if kept:
            by_hand[frame] += value
            count[frame] += 1
    mean_NC, covered_N = average.result()
    np.testing.assert_array_equal(covered_N, count > 0)
    np.testing.assert_array_equal(mean_NC, by_hand / np.maximum(count, 1)[:, None])


def test_foreign_frames_and_shapes_are_refused() -> None:
    average = OverlapAverage(3, 2)
    with pytest.raises(ValueError, match="outside a video of 3"):
        average.add(np.array([2, 3]), np.zeros((2, 2)), np.ones(2, bool))
    with pytest.raises(ValueError, match="outside"):
        average.add(np.array([-1, 0]), np.zeros((2, 2)), np.ones(2, bool))
    with pytest.raises(ValueError, match="do not fit"):
        average.add(np.array([0, 1]), np.zeros((2, 1)), np.ones(2, bool))
    with pytest.raises(ValueError, match="do not fit"):
        average.add(np.array([0, 1]), np.zeros((2, 2)), np.ones(3, bool))
