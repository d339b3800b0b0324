"""Predictions on ticks, held to the frames they are nearest to; scores and training on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emojax.core.session import build_session
from emojax.datasets.record import VideoRecord
from emojax.datasets.source import Store
from emojax.prediction import predictor
from emojax.prediction.trained_run import open_run
from tests.clocked_model import clocked_config, register
from tests.small_store import build_coded_store, small_config
from tests.training_runs import (
    assert_same_bits,
    host,
    quick_compiling,  # noqa: F401 - a fixture
    train,
)

pytestmark = pytest.mark.slow

LENGTHS = (1, 2, 3, 9, 23, 61, 140)
RATES = {"slow": 6.0, "fast": 100.0}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("coded") / "store"
    return Store(build_coded_store(path, lengths=LENGTHS, validation_lengths=(50, 33), rates=RATES))


def tick_times(record: VideoRecord, clock: float) -> np.ndarray:
    if not clock:
        return record.pts_N
    seconds = record.pts_N[-1] - record.pts_N[0]
    return record.pts_N[0] + np.arange(int(seconds * clock + 0.5) + 1) / clock


def nearest(times: np.ndarray, instants: np.ndarray) -> np.ndarray:
    return np.abs(times[None] - instants[:, None]).argmin(axis=1)


# -- which window answers for which frame ------------------------------------------------------


@st.composite
def cuts(draw: st.DrawFn) -> dict[str, Any]:
    window = draw(st.integers(1, 20))
    return {
        "window": window,
        "stride": draw(st.integers(1, window)),
        "evaluation_stride": draw(st.integers(0, window)),
        "scored": draw(st.sampled_from(["all", "centre", "last"])),
        "clock": draw(st.sampled_from([0.0, 2.0, 6.0, 25.0, 33.3, 100.0])),
        "align_end": draw(st.booleans()),
        "batch_size": draw(st.integers(1, 9)),
    }


def telling_step(*_: Any) -> Any:
    """Returns a step that predicts each tick's own number, and the first tick of its window."""

    def predict(weights: Any, batch: Any, normalisation: Any) -> dict[str, np.ndarray]:
        batch = jax.device_get(batch)
        ticks_BT = batch.frame_ids.astype(np.float32)
        own_BTC = np.stack([ticks_BT, np.broadcast_to(ticks_BT[:, :1], ticks_BT.shape)], axis=-1)
        # Padding and windows that fill up a batch predict nonsense.
        return {"va": np.where(ticks_BT[..., None] >= 0, own_BTC, np.nan)[None]}

    return predict


def answers(num_ticks: int, cut: dict[str, Any]) -> np.ndarray:
    """Averages the first ticks of the windows that count for a tick, tick by tick."""
    window, stride = cut["window"], cut["evaluation_stride"] or cut["stride"]
    starts = [0]
    while starts[-1] + window < num_ticks:
        starts.append(starts[-1] + stride)
    regular = list(starts)
    if cut["align_end"]:
        starts[-1] = max(0, num_ticks - window)
    counted: list[list[int]] = [[] for _ in range(num_ticks)]
    for tick in range(num_ticks):
        if cut["scored"] == "all":
            counted[tick] = [s for s in starts if s <= tick < s + window]
            continue
        skipped = window - stride
        begin = skipped // 2 if cut["scored"] == "centre" else skipped
        # The last window of those whose scored ticks have begun, else the first.
        begun = [i for i, s in enumerate(regular) if s + begin <= tick]
        counted[tick] = [starts[max(begun, default=0)]]
        assert counted[tick][0] <= tick < counted[tick][0] + window
    return np.array([np.mean(windows) for windows in counted])


@settings(max_examples=40, deadline=None)
@given(cut=cuts(), numbers=st.lists(st.sampled_from(range(9)), min_size=1, unique=True))
def test_every_frame_has_the_value_of_its_tick(
    store: Store, cut: dict[str, Any], numbers: list[int]
) -> None:
    config = small_config(store.path)
    config["data"] |= {"streams": ["frames"], **cut}
    config["model"]["channels"] = {"frames": [4]}
    config["replicas"]["targets"] = ["va"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictor, "make_predict_step", telling_step)
        session = build_session(config, store.streams, jax.devices()[:1])
        names = [f"video-{number}" for number in numbers]
        (predictions,) = predictor.Predictor(session, store)({}, {}, [names])
    assert list(predictions) == names
    for name in names:
        record = store.read(store.index_of(name))
        ticks = tick_times(record, cut["clock"])
        frames_N = nearest(ticks, record.pts_N)
        if cut["scored"] == "last" and cut["clock"]:
            # What does not look ahead holds for the frames from its tick on.
            frames_N = np.searchsorted(ticks, record.pts_N + 1e-9, side="right") - 1
        found_NC = predictions[name]["va"]
        assert found_NC.shape == (record.num_frames, 2)
        assert found_NC.dtype == np.float32
        np.testing.assert_array_equal(found_NC[:, 0], frames_N)
        np.testing.assert_allclose(found_NC[:, 1], answers(len(ticks), cut)[frames_N], rtol=1e-6)


# -- from the store to frames, through the real step -------------------------------------------


def test_a_function_of_time_comes_out_at_its_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch)
    config = clocked_config(
        store.path, clock=6.0, rates={"slow": 2.0, "fast": 6.0}, fill="nearest", stride=9,
        context={"slow": 2, "fast": 1}, streams=["slow", "fast"], evaluation_stride=3,
        scored="centre",
    )  # fmt: skip
    session = build_session(config, store.streams, jax.devices()[:1])
    # Output 0 is what stream "fast" says, output 1 what "slow" says.
    kernel_DC = np.array([[0.0, 1.0], [1.0, 0.0]], np.float32)
    head = {"kernel": kernel_DC[None], "bias": np.zeros((1, 2), np.float32)}
    weights = {"params": {"head_va": head}, "model_state": {}}
    normalisation = {
        name: (np.zeros(1, np.float32), np.ones(1, np.float32)) for name in session.streams
    }
    names = [video.name for video in store.videos]
    predict = predictor.Predictor(session, store)
    (predictions,) = predict(weights, normalisation, [names])
    for name in names:
        record = store.read(store.index_of(name))
        frames_N = nearest(tick_times(record, 6.0), record.pts_N)
        for column, stream, instants in (
            (0, "fast", frames_N / 6.0),
            # Rows of three ticks stand at the middle one; windows start at multiples of three.
            (1, "slow", (frames_N // 3 * 3 + 1) / 6.0),
        ):
            rows = record.streams[stream]
            told_N = np.zeros(record.num_frames)
            # A video of one frame ends before its stream "fast" begins.
            if len(rows.pts_N):
                told_N = rows.rows_ND[nearest(rows.pts_N, record.pts_N[0] + instants), 0]
            np.testing.assert_allclose(
                predictions[name]["va"][:, column], told_N, rtol=0, atol=1e-6
            )


def test_training_on_ticks_resumes_and_scores_frames(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch)
    config = clocked_config(
        store.path, clock=6.0, rates={"slow": 2.0, "fast": 6.0}, context={"slow": 1},
        fill="nearest", evaluation_stride=1, scored="last",
    )  # fmt: skip
    config["train"] |= {"epochs": 2, "epoch_steps": 3, "learning_rate": 0.1}
    whole, _ = train(store, tmp_path / "whole", config)
    train(store, tmp_path / "parts", config, stop_after=1)
    resumed, _ = train(store, tmp_path / "parts", config)
    assert_same_bits(host(resumed.state), host(whole.state))
    assert resumed.history == whole.history
    opened = open_run(tmp_path / "parts")
    names = list(store.fold("0").validation)
    (predictions,) = opened.predict(store, [names])
    xs, ys = [], []
    for name in names:
        labels_NK = store.read(store.index_of(name)).labels["va"].astype(np.float64)
        known_N = labels_NK[:, 0] != -5
        xs.append(predictions[name]["va"][known_N].astype(np.float64))
        ys.append(labels_NK[known_N])
    x_NC, y_NC = np.concatenate(xs), np.concatenate(ys)
    covariance_C = ((x_NC - x_NC.mean(axis=0)) * (y_NC - y_NC.mean(axis=0))).mean(axis=0)
    spread_C = x_NC.var(axis=0) + y_NC.var(axis=0) + (x_NC.mean(axis=0) - y_NC.mean(axis=0)) ** 2
    expected = float((2 * covariance_C / spread_C).mean())
    assert max(row["score"][0] for row in whole.history) == pytest.approx(expected, abs=1e-6)
