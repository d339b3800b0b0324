"""Frames without annotation, left out before windows are cut, and windows as many as printed.

Labels, rows and predictions stay with their frames in both, whatever the feed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from emojax.core.session import build_session
from emojax.datasets.pipeline import LoadWindow, training_batches, window_list
from emojax.datasets.source import Store
from emojax.datasets.ticks import count_ticks, counted_frames, held_ticks
from emojax.datasets.window_spec import WindowSpec
from emojax.prediction import predictor
from emojax.prediction.trained_run import open_run
from emojax.studies.missing_modality import without_rows
from tests.small_store import build_coded_store, build_small_store
from tests.test_held_predictions import telling_step
from tests.training_runs import (
    assert_same_bits,
    host,
    quick_compiling,  # noqa: F401 - a fixture
    tiny_config,
    train,
)
from tests.uneven_store import NAMES, build_uneven_store, names_of


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return build_uneven_store(tmp_path_factory.mktemp("uneven") / "store", "float32")


def spec_of(**changes: Any) -> WindowSpec:
    fields: dict[str, Any] = {
        "streams": NAMES,
        "tasks": ("va",),
        "window": 12,
        "stride": 7,
        "unannotated": "excluded",
        "resampling": {"slow": "linear", "fast": "mean"},
    }
    return WindowSpec(**(fields | changes))


def known_frames(store: Store, number: int, *tasks: str) -> np.ndarray:
    """Returns the frames with a label of one of these tasks, by hand."""
    labels = store.read(number).labels
    known_N = np.zeros(store.videos[number].num_frames, bool)
    if "va" in tasks:
        known_N |= (labels["va"] != -5).all(axis=1)
    if "expr" in tasks and "expr" in labels:
        known_N |= labels["expr"][:, 0] != -1
    return np.flatnonzero(known_N)


@pytest.mark.parametrize("tasks", [("va",), ("expr",), ("va", "expr")])
def test_windows_hold_the_annotated_frames_with_their_own_rows_and_labels(
    uneven: Store, tasks: tuple[str, ...]
) -> None:
    spec = spec_of(tasks=tasks)
    # One window of all frames of a video, as they are without the option.
    whole = LoadWindow(uneven, spec_of(tasks=tasks, unannotated="masked", window=100, stride=100))
    load, shortened = LoadWindow(uneven, spec), 0
    for number, video in enumerate(uneven.videos):
        known = known_frames(uneven, number, *tasks)
        # A video without any annotation is one to predict: nothing is left out.
        known = known if len(known) else np.arange(video.num_frames)
        shortened += len(known) < video.num_frames
        assert count_ticks(uneven, number, spec) == len(known)
        every = whole((number, 0))
        for _, start in window_list(uneven, [video.name], spec):
            window, frames = load((number, start)), known[start : start + 12]
            real = len(frames)
            assert (window.frame_ids[:real] == start + np.arange(real)).all()
            assert (window.frame_ids[real:] == -1).all()
            for field in ("streams", "stream_mask", "stream_valid", "labels", "label_mask"):
                for name, found in getattr(window, field).items():
                    np.testing.assert_array_equal(found[:real], getattr(every, field)[name][frames])
                    assert not found[real:].any()
    assert shortened >= 3


def test_an_excluded_frame_takes_the_prediction_of_the_nearest_one_that_counts(
    tmp_path: Path,
) -> None:
    store = Store(build_coded_store(tmp_path / "store", lengths=(23, 61)))
    config = tiny_config(store.path)
    config["data"] |= {"streams": ["frames"], "unannotated": "excluded"}
    config["model"]["channels"] = {"frames": [4]}
    config["replicas"]["targets"] = ["va"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictor, "make_predict_step", telling_step)
        session = build_session(config, store.streams, jax.devices()[:1])
        (predictions,) = predictor.Predictor(session, store)({}, {}, [names_of(store)])
    spec, causal = session.window_spec, spec_of(scored="last")
    for number, video in enumerate(store.videos):
        known = known_frames(store, number, "va")
        frames = np.arange(video.num_frames)
        distance = np.abs(known[None] - frames[:, None])
        # The later one of two that are equally near.
        expected = len(known) - 1 - distance[:, ::-1].argmin(axis=1)
        assert predictions[video.name]["va"].shape == (video.num_frames, 2)
        np.testing.assert_array_equal(predictions[video.name]["va"][:, 0], expected)
        record = store.read(number)
        assert (counted_frames(record, spec) == known).all()
        passed = [max(0, int((known <= frame).sum()) - 1) for frame in frames]
        assert held_ticks(record, causal, len(known)).tolist() == passed


def test_rows_go_missing_at_the_ticks_that_a_study_drops(uneven: Store) -> None:
    spec, rng = spec_of(), np.random.default_rng(2)
    count = range(len(uneven.videos))
    dropped = {i: rng.random(count_ticks(uneven, i, spec)) < 0.4 for i in count}
    altered = without_rows(uneven, spec, dropped, ["frames"])
    before, after, gone = LoadWindow(uneven, spec), LoadWindow(altered, spec), 0
    for number, start in window_list(uneven, names_of(uneven), spec):
        intact, cleared = before((number, start)), after((number, start))
        real = intact.frame_ids[intact.frame_ids >= 0]
        drop = np.zeros(spec.window, bool)
        drop[: len(real)] = dropped[number][real]
        expected = intact.stream_valid["frames"] & ~drop
        np.testing.assert_array_equal(cleared.stream_valid["frames"], expected)
        np.testing.assert_array_equal(cleared.stream_valid["fast"], intact.stream_valid["fast"])
        gone += int((intact.stream_valid["frames"] & drop).sum())
    assert gone > 10


def test_a_stream_of_batches_goes_on_where_it_was(uneven: Store) -> None:
    spec = spec_of(random_offset=True, window_count="floor")

    def feed() -> Any:
        return training_batches(uneven, names_of(uneven), spec, batch_size=4, seed=3)

    first = feed()
    for _ in range(3):
        next(first)
    second = feed()
    second.set_state(json.loads(json.dumps(first.get_state())))
    for _ in range(4):
        assert_same_bits(next(second), next(first))


OPTIONS: dict[str, dict[str, Any]] = {
    "excluded": {"unannotated": "excluded"},
    "excluded, aligned": {"unannotated": "excluded", "align_end": True},
    # A length of 90 and 20 frames is a multiple of the stride: the last window is empty.
    "floor": {"window_count": "floor", "random_offset": False},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", OPTIONS)
def test_training_with_them_is_the_same_in_both_feeds_and_resumes(
    tmp_path: Path, case: str
) -> None:
    store = Store(build_small_store(tmp_path / "store"))
    config = tiny_config(store.path, data=OPTIONS[case])
    config["loss"]["va"] = "ccc_window"  # an empty window must not count as one
    config["train"] |= {
        "epochs": 2, "epoch_steps": 2, "warmup": "rising", "warmup_epochs": 2,
        "plateau_reference": "best",
    }  # fmt: skip
    runs = {}
    for feed in ("stream", "resident"):
        own = config | {"data": config["data"] | {"feed": feed}}
        runs[feed], _ = train(store, tmp_path / feed, own)
    train(store, tmp_path / "parts", config, stop_after=1)
    resumed, _ = train(store, tmp_path / "parts", config)
    expected = host(runs["stream"].state)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(expected.params))
    assert_same_bits(host(runs["resident"].state), expected)
    assert_same_bits(host(resumed.state), expected)
    opened = open_run(tmp_path / "stream")
    names = list(store.fold("0").validation)
    replicas = opened.predict(store, [names])
    for name in names:
        frames = store.videos[store.index_of(name)].num_frames
        for predictions in replicas:
            values_NC = predictions[name]["va"]
            assert values_NC.shape == (frames, 2)
            assert np.isfinite(values_NC).all()
