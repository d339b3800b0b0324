"""Tests that ridge stands beside every score at the scale that suits the score."""

from __future__ import annotations

import numpy as np
import pytest

from emojax.datasets.source import Store
from emojax.prediction.predictor import Predictions
from emojax.scoring.baseline import fit_ridge
from emojax.scoring.evaluation import evaluate_folds
from emojax.scoring.fold_scores import BASELINE, FoldResult, pooled_scores, summary_rows
from tests.small_store import build_small_store, small_config
from tests.training_runs import session_of


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(build_small_store(tmp_path_factory.mktemp("store") / "small"))


def results(store: Store, selection: str, folds: tuple[str, ...] = ("0",)) -> list[FoldResult]:
    """Scores a model that predicts zeros and is selected by this score."""
    config = small_config(store.path)
    config["evaluation"] = {"selection": {"va": selection}}
    config["replicas"] |= {"folds": list(folds), "targets": ["va"]}
    config["model"]["heads"] = "joint"
    session = session_of(store, config)
    known = [store.fold(name) for name in folds]
    zeros: list[Predictions] = [
        {n: {"va": np.zeros((store.read(store.index_of(n)).num_frames, 2))} for n in f.validation}
        for f in known
    ]
    return evaluate_folds(session, store, zeros, known, "validation")


def test_ridge_is_the_same_beside_every_model(store: Store) -> None:
    (by_ccc,), (by_rmse,) = results(store, "ccc"), results(store, "rmse")
    assert by_ccc.scores["va"][BASELINE] == by_rmse.scores["va"][BASELINE]
    # Only the curve that is shown follows the model's selection.
    name = by_ccc.names[0]
    pair = [found.predictions[BASELINE][name]["va"] for found in (by_ccc, by_rmse)]
    fit = fit_ridge(store, "0", ("ir50", "vggish"), "va")
    np.testing.assert_allclose(pair[0], fit.predict(store.read(store.index_of(name))), atol=1e-12)
    np.testing.assert_allclose(pair[1], fit.to_least_squares(pair[0]), atol=1e-12)


def test_each_score_has_its_own_scale(store: Store) -> None:
    """Against float64 numpy, on the pooled frames of the validation videos."""
    (found,) = results(store, "rmse")
    fit = fit_ridge(store, "0", ("ir50", "vggish"), "va")
    records = [store.read(store.index_of(name)) for name in found.names]
    label_N = np.concatenate([record.labels["va"][:, 0] for record in records]).astype(np.float64)
    own_N = np.concatenate([fit.predict(record)[:, 0] for record in records])
    least_N = np.concatenate([fit.to_least_squares(fit.predict(r))[:, 0] for r in records])
    kept_N = label_N != -5
    label_N, own_N, least_N = label_N[kept_N], own_N[kept_N], least_N[kept_N]
    covariance = np.mean((own_N - own_N.mean()) * (label_N - label_N.mean()))
    ccc = 2 * covariance / (own_N.var() + label_N.var() + (own_N.mean() - label_N.mean()) ** 2)
    shown = found.scores["va"][BASELINE]
    assert shown["ccc_valence"] == pytest.approx(ccc, abs=1e-6)
    assert shown["rmse_valence"] == pytest.approx(
        np.sqrt(np.mean((least_N - label_N) ** 2)), abs=1e-6
    )
    assert not np.allclose(own_N, least_N)


def test_folds_are_pooled_on_the_same_terms(store: Store) -> None:
    by_ccc, by_rmse = (results(store, score, ("1", "2")) for score in ("ccc", "rmse"))
    pooled = pooled_scores(by_rmse, "va")
    assert pooled[BASELINE] == pooled_scores(by_ccc, "va")[BASELINE]
    assert set(pooled) <= {"model", BASELINE}
    assert summary_rows(by_rmse, "va") == summary_rows(by_ccc, "va")
