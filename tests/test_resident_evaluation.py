"""Evaluation over resident data: the same predictions as from disk, each frame once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emojax.core.session import Session, build_session, fold_normalisation
from emojax.datasets.resident import load_resident
from emojax.datasets.source import Store
from emojax.prediction import predictor
from emojax.prediction.predictor import Predictor
from tests.small_store import build_small_store
from tests.training_runs import one_device, tiny_config
from tests.uneven_store import LENGTHS, build_uneven_store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return build_uneven_store(tmp_path_factory.mktemp("uneven") / "store", "float32")


def echo_step(*_: Any) -> Callable[..., Any]:
    """Predicts each replica's weight plus stream "frames"; NaN where padded."""

    def predict(weights: Any, batch: Any, normalisation: Any, drop: Any = None) -> Any:
        rows_BTC = jnp.asarray(batch.streams["frames"], jnp.float32)[..., :2]
        real_BT = jnp.asarray(batch.frame_ids) >= 0
        rows_BTC = jnp.where(real_BT[..., None], rows_BTC, jnp.nan)
        if rows_BTC.ndim == 4:  # both folds, one replica of each
            return {"va": weights["add"][:, None, None, None] + rows_BTC}
        return {"va": weights["add"][:, None, None, None] + rows_BTC[None]}

    return predict


def session_of(store: Store, devices: Any = None, **sections: Any) -> Session:
    config = tiny_config(store.path, **sections)
    return build_session(config, store.streams, devices or one_device())


def assert_close(found: list[Any], expected: list[Any], atol: float) -> None:
    assert [list(p) for p in found] == [list(p) for p in expected]
    for of_replica, wanted in zip(found, expected, strict=True):
        for name, tasks in wanted.items():
            for task, values_NC in tasks.items():
                assert of_replica[name][task].dtype == np.float32
                np.testing.assert_allclose(
                    of_replica[name][task], values_NC, rtol=0, atol=atol, err_msg=name
                )


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("the store was read")


@settings(max_examples=6)
@given(
    window=st.integers(1, 12),
    overlap=st.integers(1, 5),
    batch_size=st.integers(1, 7),
    scored=st.sampled_from(("all", "centre", "last")),
    align_end=st.booleans(),
    clock=st.sampled_from((0.0, 7.5)),
    two=st.booleans(),
)
def test_overlaps_are_averaged_and_every_frame_counts_once(
    store: Store,
    window: int,
    overlap: int,
    batch_size: int,
    scored: str,
    align_end: bool,
    clock: float,
    two: bool,
) -> None:
    data = {
        "streams": ["frames"],
        "window": window,
        "stride": max(1, window // overlap),
        "batch_size": batch_size,
        "random_offset": False,
        "scored": scored,
        "align_end": align_end,
        "clock": clock,
    }
    folds = ["a", "b"] if two else ["a"]
    session = session_of(store, data=data, replicas={"folds": folds, "targets": ["va"]})
    videos = [["video-6", "video-0", "video-4"], ["video-1", "video-5"]][: len(folds)]
    weights = {"add": np.arange(len(folds), dtype=np.float32)}
    loaded = load_resident(store, [name for names in videos for name in names], session.window_spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictor, "make_predict_step", echo_step)
        expected = Predictor(session, store)(weights, {}, videos)
        predict = Predictor(session, store, session.layout.everywhere(loaded))
        patch.setattr(predictor, "evaluation_batches", refuse)
        for _ in range(2):
            assert_close(predict(weights, {}, videos), expected, 2e-6)
    if not clock:
        # Windows agree on a frame, so that their mean is what each of them says.
        for r, names in enumerate(videos):
            for name in names:
                rows_ND = store.read(store.index_of(name)).streams["frames"].rows_ND[:, :2]
                wanted_NC = rows_ND + np.float32(r)
                np.testing.assert_allclose(expected[r][name]["va"], wanted_NC, rtol=0, atol=2e-6)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(build_small_store(tmp_path_factory.mktemp("small") / "store"))


@pytest.mark.parametrize("devices", [1, 8])
def test_a_model_predicts_alike_from_the_device_and_from_disk(small: Store, devices: int) -> None:
    """Two folds, two targets of each, overlapping windows, over one device and over eight."""
    session = session_of(
        small,
        jax.devices()[:devices],
        data={"batch_size": 6, "evaluation_stride": 4},
        replicas={"folds": ["0", "1"]},
    )
    assert session.layout.mesh.shape == {1: {"replica": 1, "data": 1}}.get(
        devices, {"replica": 4, "data": 2}
    )
    videos = [list(small.fold(name).validation) for name in session.folds.keys]
    state = session.init_state()
    weights = {"params": state.params, "model_state": state.model_state}
    normalisation = session.layout.everywhere(
        fold_normalisation(small, session.folds.keys, session.streams)
    )
    names = [name for of_fold in videos for name in of_fold]
    data = session.layout.everywhere(load_resident(small, names, session.window_spec))
    predict = Predictor(session, small, data)
    found = predict(weights, normalisation, videos)
    expected = predict.run(weights, normalisation, videos, predict.feed(videos))
    assert_close(found, expected, 1e-6)
    assert np.std(found[0][videos[0][0]]["va"]) > 0
    # In place of the validation videos some that are not there, which are read.
    others = [list(small.fold(name).train[:2]) for name in session.folds.keys]
    if devices == 1:
        read = predict(weights, normalisation, others)
        fed = predict.feed(others)
        assert_close(read, predict.run(weights, normalisation, others, fed), 0)
        assert_close(predict.on(small)(weights, normalisation, videos), expected, 0)


def test_a_fold_without_videos_has_no_predictions(store: Store) -> None:
    replicas = {"folds": ["a", "b"], "targets": ["va"]}
    session = session_of(store, data={"streams": ["frames"]}, replicas=replicas)
    data = load_resident(store, ["video-3"], session.window_spec)
    weights = {"add": np.zeros(2, np.float32)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictor, "make_predict_step", echo_step)
        predict = Predictor(session, store, session.layout.everywhere(data))
        assert predict(weights, {}, [[], []]) == [{}, {}]
        (first, second) = predict(weights, {}, [[], ["video-3"]])
    assert first == {}
    assert second["video-3"]["va"].shape == (LENGTHS[3], 2)
