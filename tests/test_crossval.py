"""Tests cross-validation: tables, out-of-fold predictions, and the commands."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emojax.datasets.source import Store
from emojax.errors import InputError
from emojax.ops.postprocessing import SMOOTHERS
from emojax.prediction.predictor import ensemble
from emojax.prediction.trained_run import TrainedRun, open_run
from emojax.scoring import cross_validation
from emojax.scoring.cross_validation import CrossValidation, cross_validate, seed_groups, spreads
from emojax.scoring.fitted_postprocessing import POSTPROCESSING_FILE
from emojax.scoring.fold_scores import BASELINE, OURS, PROCESSED, FoldResult, pooled_scores
from tests.forked_commands import run_forked, said
from tests.small_store import build_small_store
from tests.test_commands import as_tuples
from tests.test_metrics import reference_ccc
from tests.training_runs import (
    quick_compiling,  # noqa: F401 - a fixture
    tiny_config,
    train,
)

pytestmark = pytest.mark.slow

FOLDS = ("0", "1", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a store, a run of all of its folds with two seeds, and the run's configuration."""
    folder = tmp_path_factory.mktemp("crossval")
    store = Store(build_small_store(folder / "store"))
    config = tiny_config(store.path, train={"epochs": 1, "epoch_steps": 3})
    # Compiles in a second.
    config["model"] = {"name": "segment_mlp", "segments": 4, "hidden": 8, "dropout": 0.1}
    config["replicas"] |= {"seeds": [3, 5], "folds": ["0"]}
    (folder / "config.py").write_text(
        "from ml_collections import ConfigDict\n\n\n"
        f"def get_config() -> ConfigDict:\n    return ConfigDict({as_tuples(config)!r})\n"
    )
    config["replicas"]["folds"] = list(FOLDS)
    train(store, folder / "run", config)
    return folder


@pytest.fixture(scope="module")
def store(folder: Path) -> Store:
    return Store(folder / "store")


@pytest.fixture(scope="module")
def run(folder: Path) -> TrainedRun:
    return open_run(folder / "run")


@pytest.fixture(scope="module")
def found(run: TrainedRun, store: Store) -> CrossValidation:
    return cross_validate(run, store, "validation", steps=("smooth", "clip"))


def score(store: Store, predictions: Any, names: Any, column: int = 0) -> float:
    x, y = [], []
    for name in names:
        labels = store.read(store.index_of(name)).labels["va"]
        known = (labels != -5).all(axis=1)
        x.append(predictions[name]["va"][known, column])
        y.append(labels[known, column])
    return reference_ccc(np.concatenate(x), np.concatenate(y))


# -- what is found ---------------------------------------------------------------------------


def test_every_fold_and_seed_has_its_scores(
    run: TrainedRun, store: Store, found: CrossValidation
) -> None:
    videos = [list(store.fold(name).validation) for name in FOLDS]
    predictions = run.predict(store, videos)
    assert [result.fold for result in found.results] == list(FOLDS)
    for k, result in enumerate(found.results):
        assert set(result.scores["va"]) == {OURS, PROCESSED, BASELINE}
        groups = seed_groups(run.session.replicas, run.session.folds, k)
        assert list(groups) == ["seed 3", "seed 5"]
        assert sorted(r for members in groups.values() for r in members) == [
            r for r, replica in enumerate(run.session.replicas) if replica.fold == result.fold
        ]
        for label, members in groups.items():
            alone = ensemble(run.session.weights, predictions, members)
            by_hand = score(store, alone, videos[k])
            reported = found.seeds[result.fold][label]["va"]
            assert reported["ccc_valence"] == pytest.approx(by_hand, abs=1e-6)
            assert "ccc_mean" in reported
        both = [r for members in groups.values() for r in members]
        by_hand = score(store, ensemble(run.session.weights, predictions, both), videos[k], 1)
        assert result.scores["va"][OURS]["ccc_arousal"] == pytest.approx(by_hand, abs=1e-6)


def test_the_spread_is_that_of_folds_and_of_seeds(found: CrossValidation) -> None:
    spread = spreads(found, "va")["ccc_mean"]
    ensembles = np.array([result.scores["va"][OURS]["ccc_mean"] for result in found.results])
    single_KS = np.array(
        [[s["va"]["ccc_mean"] for s in found.seeds[fold].values()] for fold in FOLDS]
    )
    assert spread.mean == pytest.approx(ensembles.mean(), abs=1e-12)
    assert spread.deviation == pytest.approx(np.std(ensembles, ddof=1), abs=1e-12)
    assert (spread.low, spread.high) == (ensembles.min(), ensembles.max())
    assert spread.seed_mean == pytest.approx(single_KS.mean(), abs=1e-12)
    deviation = np.std(single_KS.mean(axis=0), ddof=1)
    assert spread.seed_deviation == pytest.approx(deviation, abs=1e-12)
    assert (spread.seed_low, spread.seed_high) == (single_KS.min(), single_KS.max())
    assert spreads(found, "va", PROCESSED)["ccc_mean"].mean != spread.mean
    assert spreads(found, "expr") == {}


def test_a_seed_that_diverged_is_left_out_of_the_spread(found: CrossValidation) -> None:
    seeds = json.loads(json.dumps(found.seeds))
    seeds["1"]["seed 5"] = {}
    spread = spreads(dataclasses.replace(found, seeds=seeds), "va")["ccc_mean"]
    left = [s["va"]["ccc_mean"] for by_seed in seeds.values() for s in by_seed.values() if s]
    assert len(left) == 5
    assert spread.seed_mean == pytest.approx(np.mean(left), abs=1e-12)
    # Only one seed is complete, and one number has no deviation.
    assert np.isnan(spread.seed_deviation)
    one = spreads(dataclasses.replace(found, results=found.results[:1]), "va")["ccc_mean"]
    assert np.isnan(one.deviation)


def test_each_video_is_predicted_by_replicas_that_did_not_train_on_it(
    run: TrainedRun, store: Store, found: CrossValidation
) -> None:
    everyone = {*store.partitions["train"], *store.partitions["validation"]}
    assert set(found.out_of_fold) == set(found.processed) == everyone
    names = sorted(everyone)
    predictions = run.predict(store, [names] * len(FOLDS))
    for name in names:
        folds = [k for k, f in enumerate(FOLDS) if name in store.fold(f).validation]
        # Official validation videos by fold 0.
        assert (name in store.partitions["validation"]) == (folds == [0])
        members = np.flatnonzero(run.session.folds.members_R == folds[0])
        assert not any(name in store.fold(run.session.replicas[r].fold).train for r in members)
        expected = ensemble(run.session.weights, predictions, [int(r) for r in members])[name]["va"]
        np.testing.assert_allclose(found.out_of_fold[name]["va"], expected, rtol=0, atol=1e-6)
    # So together they are one data set, scored as such.
    whole = pooled_scores(found.results, "va")[OURS]["ccc_valence"]
    assert whole == pytest.approx(score(store, found.out_of_fold, names), abs=1e-9)


def test_a_video_that_two_folds_validate_on_is_the_first_ones(
    store: Store, monkeypatch: pytest.MonkeyPatch, run: TrainedRun
) -> None:
    folds = [store.fold(name) for name in FOLDS]
    twice = [folds[0], folds[1], dataclasses.replace(folds[2], validation=folds[1].validation)]
    assert set(cross_validation._first_fold(twice).values()) == {"0", "1"}
    alone: list[Any] = [{"a": {}, "b": {}}, {"c": {}}, {"d": {}}]
    others = cross_validation._others(twice, alone, 1, ["b"])
    assert [(fold.name, list(p)) for fold, p in others] == [("0", ["a"]), ("2", ["d"])]


def test_widths_come_from_the_other_folds_alone(
    run: TrainedRun, store: Store, found: CrossValidation, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found.postprocessing is not None
    assert "other folds" in found.postprocessing.tuned_on
    seen: list[Any] = []
    real: Callable[..., Any] = cross_validation.tuned_postprocessing

    def spy(steps: Any, smoother: Any, session: Any, store: Any, known: Any, on: str) -> Any:
        seen.extend(known)
        return real(steps, smoother, session, store, known, on)

    monkeypatch.setattr(cross_validation, "tuned_postprocessing", spy)
    again = cross_validate(run, store, "test", steps=("smooth", "clip"))
    for k, known in enumerate(seen):
        used = {name for _, predictions in known for name in predictions}
        own = set(store.fold(FOLDS[k]).validation)
        assert used == set(found.out_of_fold) - own
    assert again.postprocessing is not None
    for before, after in zip(found.postprocessing.widths, again.postprocessing.widths, strict=True):
        np.testing.assert_array_equal(before["va"], after["va"])


def test_one_fold_has_no_others_to_tune_on(
    run: TrainedRun, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainedRun, "folds", lambda *_: [store.fold("0")])
    with pytest.raises(InputError, match="tuned on the other folds"):
        cross_validate(run, store, "validation", steps=("smooth",))


def test_the_test_videos_are_scored_by_all_folds_together(
    run: TrainedRun, store: Store, found: CrossValidation
) -> None:
    names = list(store.partitions["test"])
    predictions = run.predict(store, [names] * len(FOLDS))
    table = found.test["va"]
    assert {"mean", "ccc_centring", "mean, postprocessed", "ccc_centring, postprocessed"} < set(
        table
    )
    everyone = range(len(run.session.replicas))
    for rule in ("mean", "ccc_centring"):
        combined = ensemble(run.session.weights, predictions, everyone, rule)
        by_hand = score(store, combined, names)
        assert table[rule]["ccc_valence"] == pytest.approx(by_hand, abs=1e-6)
    assert table["mean"]["ccc_valence"] != table["ccc_centring"]["ccc_valence"]


def test_no_ensemble_where_folds_have_test_videos_of_their_own(store: Store) -> None:
    folds = [store.fold(name) for name in FOLDS]
    assert cross_validation._shared_test(store, folds, ["va"]) == list(store.partitions["test"])
    own = dataclasses.replace(folds[1], test=("train-0",))
    assert cross_validation._shared_test(store, [folds[0], own], ["va"]) == []
    assert cross_validation._shared_test(store, [own], ["va"]) == []  # trained on
    assert cross_validation._shared_test(store, folds, ["expr"]) == []  # not annotated


def test_folds_are_chosen_by_name(store: Store) -> None:
    assert cross_validation.choose_folds(store, ["all"]) == FOLDS
    assert cross_validation.choose_folds(store, ["2", "0"]) == ("2", "0")
    with pytest.raises(InputError, match="no such fold") as caught:
        cross_validation.choose_folds(store, ["0", "9"])
    assert caught.value.details["field"] == "--folds"


def test_documents_have_no_nan(run: TrainedRun, store: Store, found: CrossValidation) -> None:
    bare = FoldResult("0", ("x",), {}, {})
    lone = dataclasses.replace(found, results=[found.results[0], bare])
    text = json.dumps(cross_validation.document(lone, run, store), allow_nan=False)
    assert json.loads(text)["spread"]["va"][OURS]["ccc_mean"]["deviation"] is None


# -- the commands ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def commands(folder: Path) -> Path:
    """Runs all commands, each in a process forked after the imports."""
    config, run = f"--config={folder / 'config.py'}", f"--workdir={folder / 'run'}"
    trained = f"--checkpoint={folder / 'run'}"
    widths = f"--widths={folder / 'run' / 'crossval' / POSTPROCESSING_FILE}"
    both = "--postprocess=smooth,clip"
    cases = {
        "crossval": ["emojax.crossval", config, run, both, "--smoother=gaussian"],
        "evaluate": ["emojax.evaluate", trained, "--postprocess=smooth", "--partition=test"],
        "predict": [
            "emojax.predict", trained, f"--out={folder / 'out'}", "--ensemble=ccc_centring",
            both, widths,
        ],
        "other_folds": ["emojax.crossval", config, run, "--folds=0"],
        "unknown_step": ["emojax.predict", trained, "--out=p", "--postprocess=median"],
        "widths_alone": ["emojax.evaluate", trained, widths],
    }  # fmt: skip
    return run_forked(folder / "done", cases, columns=160)


def test_crossval_prints_and_saves(
    folder: Path, commands: Path, store: Store, found: CrossValidation
) -> None:
    printed, _ = said(commands, "crossval")
    assert "was trained already, to step 3" in printed
    for words in ("seed by seed", "seed 5", "spread over folds and seeds", "ridge + smoothing",
                  "ccc_centring, postprocessed", "smoothing: gaussian", "fold 2: "):  # fmt: skip
        assert words in printed
    saved = folder / "run" / "crossval"
    document = json.loads((saved / "scores.json").read_text())
    assert set(document["folds"]) == set(FOLDS)
    expected = found.results[1].scores["va"][OURS]
    assert document["folds"]["1"]["va"][OURS] == pytest.approx(expected, abs=1e-6)
    assert document["seeds"]["2"]["seed 3"]["va"]["ccc_mean"] is not None
    assert document["spread"]["va"][OURS]["ccc_mean"]["deviation"] > 0
    assert document["test_ensembles"]["va"]["ccc_centring"]["ccc_mean"] is not None
    assert document["postprocessing"]["smoother"] == "gaussian"
    assert (saved / "folds.png").stat().st_size > 1000
    for kind in ("out_of_fold", "out_of_fold_postprocessed"):
        files = {path.stem for path in (saved / kind / "va").glob("*.csv")}
        assert files == set(found.out_of_fold)
    with (saved / "out_of_fold" / "va" / "train-1.csv").open(newline="") as file:
        header, *rows = list(csv.reader(file))
    assert header == ["frame", "seconds", "valence", "arousal"]
    values = np.array(rows, float)[:, 2:]
    np.testing.assert_allclose(values, found.out_of_fold["train-1"]["va"], rtol=0, atol=2e-5)


def test_evaluate_and_predict_postprocess(folder: Path, commands: Path, store: Store) -> None:
    printed, _ = said(commands, "evaluate")
    assert PROCESSED in printed
    assert "optimistic" in printed
    tuned = json.loads((folder / "run" / "test" / POSTPROCESSING_FILE).read_text())
    assert set(tuned["seconds"]) == set(FOLDS)
    assert tuned["seconds"]["0"]["va"]["valence"] in SMOOTHERS["moving_average"].seconds
    printed, _ = said(commands, "predict")
    assert "1 files for 1 videos, ccc_centring of 12 replica(s)" in printed
    assert "smoothing: gaussian" in printed
    with (folder / "out" / "va" / "test-0.csv").open(newline="") as file:
        values = np.array(list(csv.reader(file))[1:], float)[:, 2:]
    assert len(values) == store.videos[store.index_of("test-0")].num_frames
    assert np.abs(values).max() <= 1.0
    kept = json.loads((folder / "out" / POSTPROCESSING_FILE).read_text())
    there = json.loads((folder / "run" / "crossval" / POSTPROCESSING_FILE).read_text())
    assert kept == there


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("other_folds", "config.replicas.folds"),
        ("unknown_step", "--postprocess"),
        ("widths_alone", "--postprocess=smooth"),
    ],
)
def test_bad_calls_are_told_on_one_screen(commands: Path, name: str, words: str) -> None:
    _, errors = said(commands, name, 2)
    assert words in errors
    assert "Traceback" not in errors
