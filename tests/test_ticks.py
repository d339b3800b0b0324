"""Windows on a clock of their own: which rows, labels and frames a tick stands for.

What a window must hold is worked out here row by row, in float64, from the stored videos.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emojax.datasets.folds import Fold
from emojax.datasets.pipeline import (
    LoadWindow,
    WindowSpec,
    evaluation_batches,
    fingerprint,
    training_batches,
    window_list,
)
from emojax.datasets.record import StreamRows, VideoRecord
from emojax.datasets.source import Store, VideoEntry
from emojax.datasets.store import StoreWriter
from emojax.datasets.transforms import RESAMPLERS
from emojax.specs import StreamSpec
from emojax.types import Batch
from tests.small_store import build_coded_store, coded_record

LENGTHS = (1, 2, 3, 9, 23, 61, 140)
RATES = {"slow": 6.0, "fast": 100.0, "faster": 1000.0}
STREAMS = ("frames", *RATES)


def with_gaps(number: int, num_frames: int) -> VideoRecord:
    """Returns a coded video with missing rows, dropped frames and a stream that ends early."""
    record = coded_record(
        f"video-{number}", "train", number=number, num_frames=num_frames, rates=RATES
    )
    rng = np.random.default_rng(number)
    pts_N = record.pts_N + 2.0 * (np.arange(num_frames) >= num_frames // 2)
    streams = {}
    for name, rows in record.streams.items():
        times = pts_N if name == "frames" else rows.pts_N
        count = len(times) * 2 // 3 if name == "fast" else len(times)
        valid = np.repeat(rng.random(len(times) // 8 + 1) > 0.3, 8)[: len(times)]
        if name == "slow" and number % 2:
            valid = np.zeros(len(times), bool)
        kept = [x[:count] for x in (rows.rows_ND * valid[:, None], times, valid)]
        streams[name] = StreamRows(*kept)
    return dataclasses.replace(record, pts_N=pts_N, streams=streams)


@pytest.fixture(scope="module")
def coded(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("coded") / "store"
    return Store(build_coded_store(path, lengths=LENGTHS, rates=RATES))


@pytest.fixture(scope="module")
def gappy(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("gappy") / "store"
    specs = [StreamSpec("frames", 2, "visual")]
    specs += [StreamSpec(name, 1, "audio", rate) for name, rate in RATES.items()]
    with StoreWriter(path, name="gappy", streams=specs, tasks=("va",), dtype="float32") as writer:
        for number, num_frames in enumerate(LENGTHS):
            writer.add(with_gaps(number, num_frames))
        writer.finish([Fold("0", tuple(f"video-{number}" for number in range(len(LENGTHS))), ())])
    return Store(path)


def windows_of(**changes: Any) -> WindowSpec:
    fields: dict[str, Any] = {"streams": STREAMS, "tasks": ("va",), "window": 12, "stride": 7}
    return WindowSpec(**(fields | changes))


def names_of(store: Store) -> list[str]:
    return [video.name for video in store.videos]


# -- what must be there, by hand ---------------------------------------------------------------


def nearest(times: np.ndarray, t: float) -> int:
    """Returns the later one of those that are equally near."""
    distance = np.abs(times - t)
    return int(np.flatnonzero(distance == distance.min())[-1])


def tick_times(record: VideoRecord, clock: float) -> np.ndarray:
    """Instants of all ticks of a video."""
    if not clock:
        return record.pts_N
    seconds = record.pts_N[-1] - record.pts_N[0]
    return record.pts_N[0] + np.arange(int(seconds * clock + 0.5) + 1) / clock


def usual_step(stream: StreamRows, record: VideoRecord) -> float:
    """Returns the median step of the rows, or of the frames beside a single row."""
    for pts_N in (stream.pts_N, record.pts_N):
        if len(pts_N) > 1:
            return float(np.median(np.diff(pts_N)))
    return np.inf


def expected_row(
    stream: StreamRows, t: float, low: float, high: float, spacing: float, spec: WindowSpec
) -> tuple[np.ndarray, bool]:
    """Returns the row at instant t, which stands for the time from low to high."""
    nothing = np.zeros(stream.rows_ND.shape[1]), False
    inside = stream.valid_N & (stream.pts_N >= low) & (stream.pts_N < high)
    if spec.resampling["fast"] == "mean" and inside.any():
        return stream.rows_ND[inside].astype(np.float64).mean(axis=0), True
    if len(stream.pts_N):
        i = nearest(stream.pts_N, t)
        if stream.valid_N[i] and abs(stream.pts_N[i] - t) <= max(spacing, (high - low) / 2) + 1e-6:
            return stream.rows_ND[i], True
    if spec.fill == "nearest" and stream.valid_N.any():
        known = np.flatnonzero(stream.valid_N)
        return stream.rows_ND[known[nearest(stream.pts_N[known], t)]], True
    return nothing


def check_window(store: Store, spec: WindowSpec, video: int, start: int, window: Batch) -> None:
    record = store.read(video)
    ticks = tick_times(record, spec.clock)
    stop = min(start + spec.window, len(ticks))
    real = stop - start
    np.testing.assert_array_equal(window.frame_ids[:real], np.arange(start, stop))
    assert (window.frame_ids[real:] == -1).all()
    for k in range(spec.window):
        label = np.zeros(2)
        if k < real:
            frame = nearest(record.pts_N, ticks[start + k])
            label = record.labels["va"][frame]
        known = k < real and label[0] != -5
        assert window.label_mask["va"][k].tolist() == [known] * 2
        np.testing.assert_array_equal(window.labels["va"][k], label if known else [0, 0])
    for name in spec.streams:
        stream = record.streams[name]
        spacing = usual_step(stream, record)
        rate = spec.rates.get(name, spec.clock)
        span = 1.0 if not spec.clock else spec.clock / rate
        extra = spec.context.get(name, 0)
        count = round(spec.window / span) + 2 * extra
        assert spec.lengths[name] == count
        assert window.streams[name].shape == (count, stream.rows_ND.shape[1])
        assert window.streams[name].dtype == stream.rows_ND.dtype
        for k in range(count):
            # Ticks from begin to end, in units of ticks, the middle of each at its instant.
            begin, end = start + (k - extra) * span, start + (k - extra + 1) * span
            is_real = end > 1e-9 and begin < len(ticks) - 1e-9
            assert window.stream_mask[name][k] == is_real, (name, k)
            row, valid = np.zeros(stream.rows_ND.shape[1]), False
            if is_real and spec.clock:
                low, high = (record.pts_N[0] + (x - 0.5) / spec.clock for x in (begin, end))
                row, valid = expected_row(stream, (low + high) / 2, low, high, spacing, spec)
            elif is_real:
                t = ticks[round(begin)]
                row, valid = expected_row(stream, t, t, t, spacing, spec)
            assert window.stream_valid[name][k] == valid, (name, k)
            np.testing.assert_allclose(window.streams[name][k], row, rtol=1e-6, atol=1e-6)


SPECS: dict[str, dict[str, Any]] = {
    "slower than frames": {"clock": 6.0},
    "faster than frames": {"clock": 40.0, "window": 30, "stride": 30},
    "as frames, nearly": {"clock": 25.0, "align_end": True},
    "no whole number": {"clock": 9.7, "window": 5, "stride": 3},
    "slow and fast rows": {"clock": 6.0, "rates": {"slow": 2.0, "fast": 24.0, "faster": 6.0}},
    "rows of one and a half ticks": {"clock": 6.0, "rates": {"slow": 4.0}},
    "one row a window": {"clock": 12.0, "rates": {"slow": 1.0, "fast": 1.0}},
    "context": {"clock": 6.0, "context": {"fast": 3, "slow": 20, "frames": 0}},
    "context of other rates": {
        "clock": 6.0, "rates": {"slow": 2.0, "fast": 12.0}, "context": {"slow": 2, "fast": 5},
        "stride": 4,
    },
    # A video of 140 frames has 21 windows, the last of them empty.
    "an empty window": {"window_count": "floor"},
    "empty windows of ticks": {"clock": 6.0, "stride": 1, "window_count": "floor"},
    "context on frames": {"context": {"fast": 2, "frames": 9}},
}  # fmt: skip


CASES = [(case, method) for case in SPECS for method in ("nearest", "mean")]
# How far a frame's mean reaches is the matter of test_transforms.
CASES.remove(("context on frames", "mean"))
CASES.remove(("an empty window", "mean"))


@pytest.mark.parametrize("fill", ["zeros", "nearest"])
@pytest.mark.parametrize(("case", "method"), CASES)
def test_every_row_and_label_is_the_one_it_must_be(
    coded: Store, gappy: Store, case: str, method: str, fill: str
) -> None:
    spec = windows_of(**SPECS[case], fill=fill, resampling=dict.fromkeys(STREAMS, method))
    for store in (coded, gappy):
        load = LoadWindow(store, spec)
        spec.check(store)
        entries = window_list(store, names_of(store), spec)
        assert len({video for video, _ in entries}) == len(store)
        # The first, the last and some inner windows of every video.
        for video, group in itertools.groupby(entries, lambda entry: entry[0]):
            starts = [start for _, start in group]
            for start in sorted({*starts[:2], *starts[len(starts) // 2 :][:2], starts[-1]}):
                check_window(store, spec, video, start, load((video, start)))


def test_a_straight_line_is_interpolated_at_the_instants_of_rows(coded: Store) -> None:
    rates = {"slow": 5.0, "fast": 20.0}
    spec = windows_of(clock=10.0, rates=rates, resampling=dict.fromkeys(RATES, "linear"))
    video = LENGTHS.index(140)
    window = LoadWindow(coded, spec)((video, 21))
    # Rows tell seconds since the first frame: the mean of the ticks 21, 22 | 23, 24 | ...
    np.testing.assert_allclose(window.streams["slow"][:, 0], 2.15 + np.arange(6) / 5, atol=1e-5)
    np.testing.assert_allclose(window.streams["fast"][:, 0], 2.075 + np.arange(24) / 20, atol=1e-5)
    np.testing.assert_allclose(window.streams["faster"][:, 0], 2.1 + np.arange(12) / 10, atol=1e-5)


@pytest.mark.parametrize("method", sorted(RESAMPLERS))
@pytest.mark.parametrize("fill", ["zeros", "nearest"])
def test_a_tick_looks_the_same_in_every_window(gappy: Store, method: str, fill: str) -> None:
    options = {"clock": 12.0, "fill": fill, "resampling": dict.fromkeys(STREAMS, method)}
    video = LENGTHS.index(61)
    num_ticks = windows_of(**options).num_ticks(gappy.videos[video])
    whole = LoadWindow(gappy, windows_of(**options, window=num_ticks))((video, 0))
    load = LoadWindow(gappy, windows_of(**options, context={"slow": 3, "faster": 1}))
    for start in (0, 1, 6, 20, num_ticks - 12, num_ticks - 5, num_ticks - 1):
        window = load((video, start))
        for name, extra in {"frames": 0, "slow": 3, "fast": 0, "faster": 1}.items():
            real_T = window.stream_mask[name]
            ticks_T = (start - extra + np.arange(12 + 2 * extra))[real_T]
            for field in ("streams", "stream_valid"):
                np.testing.assert_array_equal(
                    getattr(window, field)[name][real_T], getattr(whole, field)[name][ticks_T]
                )


# -- how many ticks ----------------------------------------------------------------------------


def entry_of(pts_N: np.ndarray) -> VideoEntry:
    """Returns the entry of a video with these frame times in the index of a store."""
    seconds = pts_N[-1] - pts_N[0]
    fps = float((len(pts_N) - 1) / seconds) if seconds else 0.0
    return VideoEntry("x", "x", "train", len(pts_N), fps, {}, 0, 0, 0, 0)


@settings(max_examples=200, deadline=None)
@given(
    gaps=st.lists(st.floats(1e-3, 5.0), max_size=30),
    begin=st.floats(0, 1e4),
    clock=st.floats(0.2, 200.0),
)
def test_every_frame_has_a_nearest_tick(gaps: list[float], begin: float, clock: float) -> None:
    pts_N = begin + np.concatenate([[0.0], np.cumsum(gaps)])
    spec = windows_of(clock=clock)
    num_ticks = spec.num_ticks(entry_of(pts_N))
    ticks_N = spec.frame_ticks(pts_N, num_ticks)
    assert ticks_N[0] == 0
    # The last tick is there because the last frame needs it.
    assert ticks_N[-1] == num_ticks - 1
    assert (np.diff(ticks_N) >= 0).all()
    instants = spec.tick_pts(pts_N, np.arange(num_ticks + 2))
    off_N = np.abs(instants[None] - pts_N[:, None])
    assert (off_N[np.arange(len(pts_N)), ticks_N] <= off_N.min(axis=1) + 1e-5 / clock).all()


@pytest.mark.parametrize("begin", [0.0, 0.1, 977.7])
@pytest.mark.parametrize(
    ("fps", "clock", "frames", "ticks"),
    [
        (24.0, 2.0, 1, 1),
        (24.0, 2.0, 6, 1),
        # A quarter of a second is midway between the ticks 0 and 1.
        (24.0, 2.0, 7, 2),
        (24.0, 2.0, 24 * 60 + 7, 122),
        (30.0, 6.0, 3, 1),
        (30.0, 6.0, 4, 2),
        (30.0, 6.0, 30 * 600, 3601),
        (25.0, 25.0, 1000, 1000),
        (30.0, 15.0, 302, 152),
        (50.0, 25.0, 3001, 1501),
        (30.0, 60.0, 100, 199),
    ],
)
def test_ties_do_not_hang_on_rounding(
    begin: float, fps: float, clock: float, frames: int, ticks: int
) -> None:
    pts_N = begin + np.arange(frames) / fps
    spec = windows_of(clock=clock)
    assert spec.num_ticks(entry_of(pts_N)) == ticks
    # Exactly: frame i is nearest to tick floor(i clock / fps + 1/2).
    expected = (2 * np.arange(frames) * int(clock) + int(fps)) // (2 * int(fps))
    np.testing.assert_array_equal(spec.frame_ticks(pts_N, ticks), expected)
    # For models that do not look ahead, the last tick that is not later than the frame.
    causal = windows_of(clock=clock, scored="last")
    passed = np.arange(frames) * int(clock) // int(fps)
    np.testing.assert_array_equal(causal.frame_ticks(pts_N, ticks), passed)


def test_without_a_clock_frames_are_ticks() -> None:
    pts_N = np.array([3.0, 3.1, 9.0])
    spec = windows_of()
    assert spec.num_ticks(entry_of(pts_N)) == 3
    np.testing.assert_array_equal(spec.frame_ticks(pts_N, 3), [0, 1, 2])
    np.testing.assert_array_equal(spec.tick_pts(pts_N, np.array([2, 0])), [9.0, 3.0])


# -- training and evaluation -------------------------------------------------------------------


def test_random_offsets_reach_both_ends_in_ticks(coded: Store) -> None:
    spec = windows_of(clock=6.0, window=9, stride=4, random_offset=True)
    names = names_of(coded)
    feed = training_batches(coded, names, spec, batch_size=8, seed=0)
    starts: dict[int, set[int]] = {}
    for batch in itertools.islice(feed, 60):
        for video, ids_T in zip(batch.video_ids.tolist(), batch.frame_ids, strict=True):
            starts.setdefault(video, set()).add(int(ids_T[0]))
    for number, video in enumerate(coded.videos):
        last = max(0, spec.num_ticks(video) - 9)
        assert min(starts[number]) == 0
        assert max(starts[number]) == last
    assert spec.num_ticks(coded.videos[LENGTHS.index(140)]) < 140 / 3


def test_a_saved_feed_of_ticks_goes_on_with_the_very_next_batch(gappy: Store) -> None:
    spec = windows_of(random_offset=True, fill="nearest", **SPECS["context of other rates"])

    def feed() -> Any:
        return training_batches(gappy, names_of(gappy), spec, batch_size=4, seed=11)

    whole = feed()
    for _ in range(5):
        next(whole)
    state = json.loads(json.dumps(whole.get_state()))
    resumed = feed()
    resumed.set_state(state)
    for _ in range(5):
        jax.tree.map(np.testing.assert_array_equal, next(resumed), next(whole))


def test_evaluation_has_a_stride_of_its_own(coded: Store) -> None:
    spec = windows_of(clock=6.0, evaluation_stride=1)
    grid = window_list(coded, ["video-6"], spec)
    ticks = spec.num_ticks(coded.videos[6])
    assert [start for _, start in grid] == list(range(0, ticks - 12 + 7, 7))
    entries = window_list(coded, ["video-6"], spec, evaluation=True)
    assert entries == [(6, start) for start in range(ticks - 12 + 1)]
    batches = list(evaluation_batches(coded, ["video-6"], spec, batch_size=4))
    assert sum(batch.example_mask.sum() for batch in batches) == len(entries)
    plain = windows_of(clock=6.0)
    assert window_list(coded, ["video-6"], plain, evaluation=True) == grid


def test_windows_that_only_fill_up_a_batch_are_all_padding(coded: Store) -> None:
    spec = windows_of(**SPECS["context of other rates"], fill="nearest")
    *_, last = evaluation_batches(coded, ["video-6"], spec, batch_size=3, num_batches=9)
    assert not last.example_mask.any()
    assert (last.frame_ids == -1).all()
    for field in ("streams", "stream_mask", "stream_valid", "labels", "label_mask"):
        for name, leaf in getattr(last, field).items():
            assert not leaf.any()
            length = spec.lengths.get(name, spec.window)
            assert leaf.shape[:2] == (3, length)


# -- fingerprint -------------------------------------------------------------------------------


def test_options_that_are_not_used_say_nothing_in_the_fingerprint(coded: Store) -> None:
    options = {
        "streams": ["frames", "slow"], "tasks": ["va"], "window": 12, "stride": 7,
        "resampling": {"slow": "mean"}, "align_end": False, "random_offset": True,
    }  # fmt: skip
    text = json.dumps(
        {"version": 2, "spec": options, "batch_size": 4, "store": coded.metadata["checksum"]},
        sort_keys=True,
    )
    spec = windows_of(streams=("frames", "slow"), resampling={"slow": "mean"}, random_offset=True)
    expected = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert fingerprint(coded, spec, 4) == expected
    same = dataclasses.replace(spec, clock=0, context={"slow": 0})
    assert fingerprint(coded, same, 4) == expected


def test_the_fingerprint_tells_every_option_apart(coded: Store) -> None:
    others: list[dict[str, Any]] = [
        {}, {"clock": 6.0}, {"clock": 6.5}, {"clock": 6.0, "rates": {"slow": 2.0}},
        {"clock": 6.0, "rates": {"slow": 3.0}}, {"context": {"slow": 1}},
        {"context": {"fast": 1}}, {"fill": "nearest"}, {"scored": "last"},
        {"scored": "centre"}, {"evaluation_stride": 3},
        {"window_count": "floor"}, {"unannotated": "excluded"},
    ]  # fmt: skip
    found = [fingerprint(coded, windows_of(**changes), 4) for changes in others]
    assert len(set(found)) == len(others)
    whole = windows_of(clock=6, rates={"slow": 2})
    assert fingerprint(coded, whole, 4) == found[3]
