"""Normalisation by stream: the statistics, their way into training, checkpoint and prediction."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import emojax
from emojax.core.session import build_session, fold_normalisation
from emojax.datasets.source import Store
from emojax.errors import InputError
from emojax.prediction.trained_run import TrainedRun, open_run
from emojax.rundir.resume import check_same_run
from emojax.scoring.baseline import fit_ridge
from tests.small_store import build_small_store
from tests.training_runs import (
    one_device,
    quick_compiling,  # noqa: F401 - a fixture
    session_of,
    tiny_config,
    train,
)

KINDS = {"ir50": "none", "vggish": "half"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(build_small_store(tmp_path_factory.mktemp("store") / "small"))


def config_of(store: Store, kinds: dict[str, str]) -> dict[str, Any]:
    return tiny_config(store.path, data={"normalisation": kinds}, train={"epochs": 1})


@pytest.fixture(scope="module")
def run(store: Store, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    workdir = tmp_path_factory.mktemp("run")
    train(store, workdir, config_of(store, KINDS))
    return open_run(workdir)


@pytest.mark.parametrize("folds", [("0",), ("0", "1")])
def test_shift_and_scale_of_every_kind(store: Store, folds: tuple[str, ...]) -> None:
    plain = fold_normalisation(store, folds, ("ir50", "vggish"))
    mixed = fold_normalisation(store, folds, ("ir50", "vggish"), KINDS)
    for stream, (shift, scale) in {"ir50": (0.0, 1.0), "vggish": (0.5, 0.5)}.items():
        for found, expected, like in zip(mixed[stream], (shift, scale), plain[stream], strict=True):
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, np.full_like(like, expected))
            assert not np.allclose(like, expected)
    for kinds in ({}, {"ir50": "zscore"}):
        for found, expected in zip(
            jax.tree.leaves(fold_normalisation(store, folds, plain, kinds)),
            jax.tree.leaves(plain),
            strict=True,
        ):
            np.testing.assert_array_equal(found, expected)


def test_a_checkpoint_predicts_with_what_it_was_trained_with(run: TrainedRun) -> None:
    """Arrays given to the opened run meet the model as the configuration says."""
    rng = np.random.default_rng(0)
    rows = {
        name: rng.normal(2.0, 3.0, (12, stream.width)).astype(np.float32)
        for name, stream in run.session.streams.items()
    }
    found = emojax.open_run(run.workdir).predict(rows, fps=25.0, replicas=True)
    inputs = {"ir50": rows["ir50"][None], "vggish": (rows["vggish"][None] - 0.5) / 0.5}
    masks = {name: np.ones((1, 12), bool) for name in rows}
    params, model_state = (
        jax.tree.map(lambda leaf: leaf[0], run.best[key]) for key in ("params", "model_state")
    )
    apply = jax.jit(lambda v, x: run.session.model.apply(v, x, masks, train=False)[0]["va"])
    expected = apply({"params": params, **model_state}, inputs)[0, :, 0]
    first = found[found["replica"] == run.session.names[0]]
    np.testing.assert_allclose(first["valence"], expected, atol=1e-5)


def test_training_sees_the_normalised_rows(store: Store, run: TrainedRun, tmp_path: Path) -> None:
    """Other inputs give other weights; an old run, which knows no kinds, has z-scores."""
    train(store, tmp_path / "plain", config_of(store, {}))
    plain = open_run(tmp_path / "plain")
    assert plain.session.config.data.normalisation == dict.fromkeys(KINDS, "zscore")
    expected = fold_normalisation(store, ("0",), KINDS)
    for found, wanted in zip(
        jax.tree.leaves(plain.normalisation), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)
    pairs = zip(jax.tree.leaves(run.best), jax.tree.leaves(plain.best), strict=True)
    assert any(not np.allclose(one, other, atol=1e-3) for one, other in pairs)


def test_a_run_goes_on_with_its_own_normalisation_only(store: Store, tmp_path: Path) -> None:
    configs = {
        name: session_of(store, config_of(store, kinds)).config
        for name, kinds in {"none": {}, "said": {"ir50": "zscore"}, "other": KINDS}.items()
    }
    saved = copy.deepcopy(config_of(store, {}))
    del saved["data"]["normalisation"]  # a run from before there was the key
    meta = {"config": saved, "fingerprint": "same"}
    check_same_run(meta, configs["none"], "same", tmp_path)
    check_same_run(meta, configs["said"], "same", tmp_path)
    with pytest.raises(InputError) as caught:
        check_same_run(meta, configs["other"], "same", tmp_path)
    assert caught.value.details["field"] == "config.data.normalisation.ir50"


def test_wrong_names_and_kinds_are_refused(store: Store) -> None:
    # A stream that is left out may be named, here one of the papers' that the store lacks.
    left_out = session_of(store, config_of(store, {"fan": "none"}))
    assert left_out.normalisation(store).keys() == KINDS.keys()
    misspelt = session_of(store, config_of(store, {"ir05": "none"}))
    with pytest.raises(InputError) as caught:
        misspelt.normalisation(store)
    assert caught.value.details["field"] == "config.data.normalisation.ir05"
    with pytest.raises(InputError) as caught:
        build_session(config_of(store, {"ir50": "minmax"}), store.streams, one_device())
    assert caught.value.details["field"] == "config.data.normalisation.ir50"


def test_the_ridge_baseline_is_not_touched(store: Store) -> None:
    fitted = fit_ridge(store, "0", ("ir50", "vggish"), "va")
    for stream, (mean_D, std_D) in fold_normalisation(store, ("0",), KINDS).items():
        np.testing.assert_allclose(fitted.statistics[stream][0], mean_D, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(fitted.statistics[stream][1], std_D, rtol=1e-4)
