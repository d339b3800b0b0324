"""Tests replicas that diverge: their warnings, and the rest of the run."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from emojax.datasets.source import Store
from emojax.errors import InputError
from emojax.prediction.trained_run import open_run
from emojax.reporting.results_folder import write_results
from emojax.scoring.evaluation import evaluate_folds, partition_videos, print_scores
from tests.branch_model import branched, branched_config  # noqa: F401 - a fixture
from tests.small_store import build_small_store
from tests.training_runs import (
    quick_compiling,  # noqa: F401 - a fixture
    rewrite_meta,
    train,
)

pytestmark = [pytest.mark.usefixtures("branched"), pytest.mark.slow]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("store")
    return Store(build_small_store(folder / "small", tasks=("va", "expr")))


def test_a_replica_that_diverged_does_not_spoil_the_others_result(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = {"data": {"tasks": ["va", "expr"]}, "replicas": {"targets": ["va", "expr"]}}
    rates = {"learning_rate": [3e-3, 1e38], "warmup": "none", "epochs": 2}
    run, _ = train(store, tmp_path, branched_config(store.path, **tasks, train=rates))
    assert run.schedule.active.tolist() == [True, False, True, False]
    assert "warning: training of va rate 1e+38, expr rate 1e+38 diverged" in capsys.readouterr().err
    opened = open_run(tmp_path)
    assert opened.lost_R.tolist() == [False, True, False, True]
    folds = opened.folds(store)
    videos = [partition_videos(store, folds[0], "validation")]
    predictions = opened.predict(store, videos)
    results = evaluate_folds(
        opened.session, store, predictions, folds, "validation", baseline=False
    )
    for task, sound, value in (("va", 0, "ccc_mean"), ("expr", 2, "f1_macro")):
        for name in videos[0]:
            # The ensemble is the one that is left.
            np.testing.assert_allclose(
                results[0].predictions["model"][name][task], predictions[sound][name][task]
            )
            assert np.isnan(predictions[sound + 1][name][task]).all()
        assert np.isfinite(results[0].scores[task]["model"][value])


def test_what_only_diverged_replicas_were_trained_for_has_no_score(
    store: Store, tmp_path: Path
) -> None:
    config = branched_config(
        store.path,
        data={"tasks": ["va", "expr"]},
        replicas={"targets": ["valence", "arousal", "expr"]},
        train={"epochs": 1},
    )
    train(store, tmp_path, config)
    # As if arousal and expression had never given a finite score.
    best_stage = {"best_stage": [0, -1, -1]}
    rewrite_meta(tmp_path, 5, lambda meta: meta["schedule"].update(best_stage))
    opened = open_run(tmp_path)
    folds = opened.folds(store)
    videos = [partition_videos(store, folds[0], "validation")]
    predictions = opened.predict(store, videos)
    results = evaluate_folds(
        opened.session, store, predictions, folds, "validation", baseline=False
    )
    scores = results[0].scores["va"]["model"]
    assert np.isfinite(scores["ccc_valence"])
    assert not {"ccc_arousal", "ccc_mean"} & set(scores)
    assert "model" not in results[0].scores["expr"]
    # And it can be shown.
    console = Console(record=True, width=120)
    print_scores(results, "validation", console)
    assert "ccc_valence" in console.export_text()
    write_results(tmp_path / "validation", opened.session, store, results, "validation")
    assert (tmp_path / "validation" / "report.html").is_file()


def test_a_run_of_which_nothing_is_left_is_refused(store: Store, tmp_path: Path) -> None:
    rates = {"learning_rate": 1e38, "warmup": "none", "epochs": 2}
    config = branched_config(store.path, train=rates)
    with pytest.raises(InputError, match="diverged") as caught:
        train(store, tmp_path, config)
    assert caught.value.details["found"] == "valence, arousal"
    assert "learning_rate" in caught.value.details["remedy"]
    with pytest.raises(InputError, match="no trained weights"):
        open_run(tmp_path).predict(store, [list(store.fold("0").validation)])
    with (tmp_path / "metrics.csv").open(newline="") as table:
        assert "nan" in next(csv.DictReader(table))["valence/loss"]
