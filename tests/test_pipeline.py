"""Windows and batches: which frames they hold, in which order, and that nothing is misaligned."""

from __future__ import annotations

import collections
import itertools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emojax.core.session import build_session, fold_normalisation
from emojax.datasets.folds import Fold
from emojax.datasets.pipeline import (
    LoadWindow,
    WindowSpec,
    evaluation_batches,
    fingerprint,
    stack,
    training_batches,
    window_list,
)
from emojax.datasets.source import Store
from emojax.datasets.transforms import RESAMPLERS, resample
from emojax.errors import InputError
from emojax.ops.tasks import TASK_OPS
from emojax.prediction import predictor
from tests.small_store import build_coded_store, build_small_store, small_config

LENGTHS = (1, 2, 3, 5, 7, 8, 9, 16, 17, 23, 40, 61)
RATES = {"slow": 6.0, "fast": 100.0, "faster": 1000.0}


@pytest.fixture(scope="module")
def coded(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("coded") / "store"
    return Store(build_coded_store(path, lengths=LENGTHS, rates=RATES))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(build_small_store(tmp_path_factory.mktemp("small") / "store"))


def windows_of(**changes: Any) -> WindowSpec:
    fields: dict[str, Any] = {"streams": ("frames",), "tasks": ("va",), "window": 8, "stride": 5}
    return WindowSpec(**(fields | changes))


def names_of(store: Store) -> list[str]:
    return [video.name for video in store.videos]


def keys(batch: Any) -> list[tuple[int, int]]:
    """Returns (video, first frame) of each window of a batch."""
    pairs = zip(batch.video_ids, batch.frame_ids[:, 0], strict=True)
    return [(int(video), int(frame)) for video, frame in pairs]


def take_windows(feed: Any, count: int) -> list[tuple[int, int]]:
    taken: list[tuple[int, int]] = []
    while len(taken) < count:
        taken += keys(next(feed))
    return taken[:count]


# -- evaluation covers everything once -------------------------------------------------------


@st.composite
def cuts(draw: st.DrawFn) -> tuple[int, int, int, list[int]]:
    window = draw(st.integers(1, 20))
    stride = draw(st.integers(1, window))
    batch_size = draw(st.integers(1, 7))
    videos = draw(st.lists(st.sampled_from(range(len(LENGTHS))), min_size=1, unique=True))
    return window, stride, batch_size, videos


def echo_step(*_: Any) -> Any:
    """Returns a step that predicts the content of stream "frames", coded like the labels."""

    def predict(weights: Any, batch: Any, normalisation: Any) -> dict[str, np.ndarray]:
        batch = jax.device_get(batch)
        # Padding and windows that fill up a batch predict nonsense.
        real = (batch.frame_ids >= 0) & batch.example_mask[:, None]
        return {"va": np.where(real[..., None], batch.streams["frames"] / 1024, 1e9)[None]}

    return predict


@settings(max_examples=25, deadline=None)
@given(cut=cuts())
def test_every_annotated_frame_is_predicted_and_scored_exactly_once(
    coded: Store, cut: tuple[int, int, int, list[int]]
) -> None:
    window, stride, batch_size, numbers = cut
    config = small_config(coded.path)
    config["data"] |= {
        "streams": ["frames"],
        "window": window,
        "stride": stride,
        "batch_size": batch_size,
    }
    config["replicas"]["targets"] = ["va"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictor, "make_predict_step", echo_step)
        session = build_session(config, coded.streams, jax.devices()[:1])
        predict = predictor.Predictor(session, coded)
        names = [f"video-{number}" for number in numbers]
        (predictions,) = predict({}, {}, [names])
    truth = predictor.read_annotations(coded, coded.fold("0"), names, "va")
    records = [coded.read(coded.index_of(name)) for name in names]
    # Every frame of every video is there, and each has its own frame's value.
    assert list(predictions) == names
    for number, name, record in zip(numbers, names, records, strict=True):
        expected = np.stack([np.arange(record.num_frames), np.full(record.num_frames, number)], 1)
        np.testing.assert_array_equal(predictions[name]["va"], expected / 1024)
    # Each annotated frame counts once.
    predicted_NC = predictor.concatenate(truth, predictions, "va")
    state = TASK_OPS["va"].state(predicted_NC, truth.labels_NK, truth.mask_NK)
    annotated = sum(int((record.labels["va"][:, 0] != -5).sum()) for record in records)
    np.testing.assert_array_equal(state.count, annotated)
    np.testing.assert_array_equal(state.squared_error, 0.0)


@settings(max_examples=25, deadline=None)
@given(cut=cuts())
def test_evaluation_batches_hold_each_window_once_and_mask_what_fills_them_up(
    coded: Store, cut: tuple[int, int, int, list[int]]
) -> None:
    window, stride, batch_size, numbers = cut
    spec = windows_of(window=window, stride=stride)
    names = [f"video-{number}" for number in numbers]
    entries = window_list(coded, names, spec)
    more = -(-len(entries) // batch_size) + 2
    batches = list(evaluation_batches(coded, names, spec, batch_size=batch_size, num_batches=more))
    assert len(batches) == more
    real, covered = [], collections.Counter()
    for batch in batches:
        assert batch.frame_ids.shape == (batch_size, window)
        real += [
            key for key, is_real in zip(keys(batch), batch.example_mask, strict=True) if is_real
        ]
        filler = ~batch.example_mask
        assert (batch.video_ids[filler] == -1).all()
        assert (batch.frame_ids[filler] == -1).all()
        padding = batch.frame_ids < 0
        assert not batch.streams["frames"][padding].any()
        assert not batch.stream_mask["frames"][padding].any()
        assert not batch.stream_valid["frames"][padding].any()
        assert not batch.label_mask["va"][padding].any()
        assert batch.stream_mask["frames"][~padding].all()
        video_ids = np.broadcast_to(batch.video_ids[:, None], padding.shape)
        frames = zip(video_ids[~padding].tolist(), batch.frame_ids[~padding].tolist(), strict=True)
        covered.update(frames)
    assert real == entries
    assert set(covered) == {(n, frame) for n in numbers for frame in range(LENGTHS[n])}


def test_without_a_number_there_are_just_enough_batches(coded: Store) -> None:
    spec = windows_of(window=8, stride=8)
    # 61 frames make 8 windows, the last one of 5 frames; 8 windows make 3 batches of 3.
    batches = list(evaluation_batches(coded, ["video-11"], spec, batch_size=3))
    assert [batch.example_mask.tolist() for batch in batches] == [
        [True, True, True],
        [True, True, True],
        [True, True, False],
    ]
    assert (batches[-1].frame_ids[1] >= 0).sum() == 5


# -- labels and streams stay on their frames -------------------------------------------------


@pytest.mark.parametrize("method", sorted(RESAMPLERS))
def test_labels_and_streams_of_every_rate_stay_on_their_frames(coded: Store, method: str) -> None:
    streams = ("frames", *RATES)
    resampling = dict.fromkeys(RATES, method)
    spec = windows_of(streams=streams, window=12, stride=7, resampling=resampling)
    seen, late = 0, 0
    for batch in evaluation_batches(coded, names_of(coded), spec, batch_size=4):
        for b in np.flatnonzero(batch.example_mask):
            video = int(batch.video_ids[b])
            real_T = batch.frame_ids[b] >= 0
            frames_T = batch.frame_ids[b][real_T]
            seen += len(frames_T)
            np.testing.assert_array_equal(batch.streams["frames"][b][real_T, 0], frames_T)
            np.testing.assert_array_equal(batch.streams["frames"][b][real_T, 1], video)
            annotated_T = batch.label_mask["va"][b][real_T, 0]
            labels_TK = batch.labels["va"][b][real_T] * 1024
            np.testing.assert_array_equal(labels_TK[annotated_T, 0], frames_T[annotated_T])
            np.testing.assert_array_equal(labels_TK[annotated_T, 1], video)
            assert (labels_TK[~annotated_T] == 0).all()
            record = coded.read(video)
            np.testing.assert_array_equal(annotated_T, record.labels["va"][frames_T, 0] != -5)
            seconds_T = record.pts_N[frames_T] - record.pts_N[0]
            for name, rate in RATES.items():
                valid_T = batch.stream_valid[name][b][real_T]
                off_T = np.abs(batch.streams[name][b][real_T, 0] - seconds_T)
                # Half a row; a mean, over rows all around a frame, half of the widest frame too.
                around = 0.025 if method == "mean" else 0.0
                reach = 0.5 / rate + around + 1e-4
                # A video of one frame ends before its late stream begins.
                begin = min(record.streams[name].pts_N, default=np.inf)
                begun_T = record.pts_N[frames_T] >= begin
                assert valid_T[begun_T].all()
                assert (off_T[begun_T] <= reach).all()
                # Before its first row a stream is missing, but for the frame next to it.
                assert (off_T[~begun_T & valid_T] <= 1 / rate + around + 1e-4).all()
                assert begun_T.all() or name == "fast"
                late += int((~valid_T).sum())
    assert seen >= sum(LENGTHS)
    assert late > 0


@pytest.mark.parametrize("method", sorted(RESAMPLERS))
def test_a_frame_looks_the_same_in_every_window(coded: Store, method: str) -> None:
    """Whatever a window cuts off, a frame's row is that of the whole video resampled at once."""
    resampling = dict.fromkeys(RATES, method)
    spec = windows_of(streams=tuple(RATES), window=9, resampling=resampling)
    load = LoadWindow(coded, spec)
    video = LENGTHS.index(61)
    record = coded.read(video)
    whole = {
        name: resample(
            record.streams[name].rows_ND,
            record.streams[name].pts_N,
            record.streams[name].valid_N,
            record.pts_N,
            method,
        )
        for name in RATES
    }
    for start in (0, 1, 4, 20, 45, 52, 53, 60):
        window = load((video, start))
        frames_T = window.frame_ids[window.frame_ids >= 0]
        for name, (rows_ND, valid_N) in whole.items():
            # At the first and last frame of a video a mean reaches half of the mean spacing of
            # the frames at hand, which for an irregular clock depends on the window.
            inner_T = (frames_T > 0) & (frames_T < 60) if method == "mean" else frames_T >= 0
            np.testing.assert_array_equal(
                window.stream_valid[name][: len(frames_T)][inner_T], valid_N[frames_T][inner_T]
            )
            np.testing.assert_allclose(
                window.streams[name][: len(frames_T)][inner_T],
                rows_ND[frames_T][inner_T],
                rtol=0,
                atol=1e-6,
            )


def test_a_video_without_labels_for_a_task_is_masked(tmp_path: Path) -> None:
    path = build_coded_store(tmp_path / "store", lengths=(20,), tasks=("va", "expr"))
    spec = windows_of(tasks=("va", "expr"))
    (batch,) = evaluation_batches(Store(path), ["video-0"], spec, batch_size=4)
    assert batch.labels["expr"].shape == (4, 8, 1)
    assert not batch.label_mask["expr"].any()
    assert batch.label_mask["va"].any()


# -- training order --------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_each_epoch_holds_every_window_once_in_a_new_order(coded: Store, batch_size: int) -> None:
    spec = windows_of()
    names = names_of(coded)
    grid = window_list(coded, names, spec)
    feed = training_batches(coded, names, spec, batch_size=batch_size, seed=3)
    taken = take_windows(feed, 3 * len(grid))
    epochs = [taken[i * len(grid) : (i + 1) * len(grid)] for i in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == sorted(grid)
    assert epochs[0] != grid
    assert epochs[0] != epochs[1]
    assert epochs[1] != epochs[2]


@pytest.mark.parametrize("random_offset", [False, True])
def test_order_is_the_seeds_and_nothing_elses(coded: Store, random_offset: bool) -> None:
    spec = windows_of(random_offset=random_offset)
    names = names_of(coded)

    def first(seed: int) -> list[tuple[int, int]]:
        return take_windows(training_batches(coded, names, spec, batch_size=4, seed=seed), 40)

    assert first(5) == first(5)
    assert first(5) != first(6)
    np.random.seed(1)  # noqa: NPY002 - the global state must play no role
    assert first(5) == first(5)


@pytest.mark.parametrize("random_offset", [False, True])
def test_a_saved_feed_goes_on_with_the_very_next_batch(coded: Store, random_offset: bool) -> None:
    spec = windows_of(random_offset=random_offset, streams=("frames", "slow"))
    names = names_of(coded)

    def feed() -> Any:
        return training_batches(coded, names, spec, batch_size=4, seed=11)

    whole = feed()
    for _ in range(9):
        next(whole)
    # Through JSON, as a checkpoint keeps it.
    state = json.loads(json.dumps(whole.get_state()))
    expected = [next(whole) for _ in range(12)]
    resumed = feed()
    resumed.set_state(state)
    for batch in expected:
        jax.tree.map(np.testing.assert_array_equal, next(resumed), batch)


def test_a_state_is_that_of_the_batches_taken_not_of_those_prefetched(coded: Store) -> None:
    names = names_of(coded)
    feed = training_batches(coded, names, windows_of(), batch_size=2, seed=0)
    fresh = training_batches(coded, names, windows_of(), batch_size=2, seed=0)
    first = keys(next(feed))
    for _ in range(20):
        next(feed)
    fresh.set_state(feed.get_state())
    assert keys(next(fresh)) == keys(next(feed))
    assert keys(next(fresh)) != first


def test_random_offsets_stay_inside_and_reach_both_ends(coded: Store) -> None:
    spec = windows_of(random_offset=True)
    names = names_of(coded)
    grid = window_list(coded, names, spec)
    feed = training_batches(coded, names, spec, batch_size=8, seed=0)
    taken = take_windows(feed, 40 * len(grid))
    starts = collections.defaultdict(list)
    for video, start in taken:
        starts[video].append(start)
    per_video = collections.Counter(video for video, _ in grid)
    for number, video in enumerate(coded.videos):
        last = max(0, video.num_frames - spec.window)
        assert len(starts[number]) == 40 * per_video[number]
        assert min(starts[number]) == 0
        assert max(starts[number]) == last
        # Uniform: six standard errors about the middle.
        error = last / np.sqrt(12 * len(starts[number])) + 0.5
        assert abs(np.mean(starts[number]) - last / 2) <= 6 * error


def test_random_offsets_hold_the_frames_they_name(coded: Store) -> None:
    spec = windows_of(random_offset=True)
    feed = training_batches(coded, names_of(coded), spec, batch_size=8, seed=0)
    for batch in itertools.islice(feed, 10):
        real = batch.frame_ids >= 0
        np.testing.assert_array_equal(batch.streams["frames"][real][:, 0], batch.frame_ids[real])
        assert batch.example_mask.all()


def test_fewer_windows_than_a_batch_still_fill_it(coded: Store) -> None:
    feed = training_batches(coded, ["video-0"], windows_of(), batch_size=5, seed=0)
    assert keys(next(feed)) == [(0, 0)] * 5


# -- what a store cannot serve ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "field", "found"),
    [
        ({"streams": ("frames", "vgish")}, "config.data.streams", "vgish"),
        ({"tasks": ("va", "expr")}, "config.data.tasks", "expr"),
        ({"resampling": {"frames": "cubic"}}, "config.data.resampling.frames", "cubic"),
        ({"resampling": {"slowly": "mean"}}, "config.data.resampling.slowly", "slowly"),
        ({"window": 5, "stride": 6}, "config.data.stride", "stride 6, window 5"),
        ({"stride": 0}, "config.data.stride", "0"),
    ],
)
def test_impossible_windows_are_refused(
    coded: Store, changes: dict[str, Any], field: str, found: str
) -> None:
    with pytest.raises(InputError) as caught:
        windows_of(**changes).check(coded)
    assert caught.value.details["field"] == field
    assert caught.value.details["found"] == found
    assert "expected" in caught.value.details


def test_possible_windows_are_not_refused(coded: Store) -> None:
    windows_of(streams=("frames", "slow"), resampling={"slow": "mean"}).check(coded)


def test_the_fingerprint_tells_data_and_windows_apart(coded: Store, tmp_path: Path) -> None:
    one = fingerprint(coded, windows_of(), 4)
    assert one == fingerprint(Store(coded.path), windows_of(), 4)
    same = build_coded_store(tmp_path / "same", lengths=LENGTHS, rates=RATES)
    assert one == fingerprint(Store(same), windows_of(), 4)
    assert one != fingerprint(coded, windows_of(), 5)
    assert one != fingerprint(coded, windows_of(window=9), 4)
    assert one != fingerprint(coded, windows_of(resampling={"frames": "linear"}), 4)
    # The same videos of the same lengths, but another clock of one stream.
    other = build_coded_store(tmp_path / "other", lengths=LENGTHS, rates=RATES | {"slow": 6.1})
    assert one != fingerprint(Store(other), windows_of(), 4)


# -- normalisation and scored frames ---------------------------------------------------------


@pytest.mark.parametrize("folds", [["0"], ["1"], ["2", "0"]])
def test_statistics_are_those_of_the_training_fold(small: Store, folds: list[str]) -> None:
    config = small_config(small.path)
    config["replicas"]["folds"] = folds
    session = build_session(config, small.streams, jax.devices()[:1])
    normalisation = fold_normalisation(small, session.folds.keys, session.streams)
    for name, (mean, std) in normalisation.items():
        mean_FD, std_FD = (x.reshape(len(folds), -1) for x in (mean, std))
        for i, fold in enumerate(folds):
            train = small.fold(fold).train
            assert set(train) != set(names_of(small))
            streams = [small.read(small.index_of(video)).streams[name] for video in train]
            valid_ND = np.concatenate([s.rows_ND[s.valid_N] for s in streams]).astype(np.float64)
            np.testing.assert_allclose(mean_FD[i], valid_ND.mean(axis=0), rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(std_FD[i], valid_ND.std(axis=0), rtol=1e-6)


def test_scored_frames_bound_what_is_scored(coded: Store) -> None:
    fold = Fold("x", ("video-0",), ("video-10", "video-4"), scored_frames=(3, 30))
    truth = predictor.read_annotations(coded, fold, fold.validation, "va")
    expected = []
    for name in fold.validation:
        record = coded.read(coded.index_of(name))
        annotated = record.labels["va"][:, 0] != -5
        expected.append(
            annotated & (np.arange(len(annotated)) >= 3) & (np.arange(len(annotated)) < 30)
        )
    np.testing.assert_array_equal(truth.mask_NK[:, 0], np.concatenate(expected))
    np.testing.assert_array_equal(truth.mask_NK[:, 0], truth.mask_NK[:, 1])
    assert truth.mask_NK.any()


def test_stack_adds_a_leading_axis(coded: Store) -> None:
    load = LoadWindow(coded, windows_of())
    batch = stack([load((3, 0)), load((9, 5))])
    assert batch.frame_ids.shape == (2, 8)
    np.testing.assert_array_equal(batch.video_ids, [3, 9])
