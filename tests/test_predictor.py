"""Predictions of whole videos and their scores, against float64 NumPy over all frames."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from emojax.core.devices import make_layout
from emojax.core.session import Session, fold_normalisation
from emojax.datasets.folds import Fold
from emojax.datasets.source import Store
from emojax.datasets.store import StoreWriter
from emojax.errors import InputError
from emojax.prediction.predictor import (
    Annotations,
    Predictions,
    Predictor,
    ensemble,
    read_annotations,
    replica_scores,
)
from emojax.prediction.trained_run import open_run
from emojax.scoring.evaluation import FoldResult, print_scores, score_rows, scored_tasks
from tests.small_store import STREAMS, build_small_store, make_record
from tests.training_runs import (
    host,
    one_device,
    quick_compiling,  # noqa: F401 - a fixture
    session_of,
    tiny_config,
    train,
)

VALENCE, AROUSAL = 0, 1


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(build_small_store(tmp_path_factory.mktemp("store") / "small"))


@pytest.fixture(scope="module")
def trained(store: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    workdir = tmp_path_factory.mktemp("trained")
    run, _ = train(store, workdir, tiny_config(store.path))
    return run, workdir


def ccc_by_hand(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x.astype(np.float64), y.astype(np.float64)
    covariance = ((x - x.mean()) * (y - y.mean())).mean()
    return 2 * covariance / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)


def annotated_frames(store: Store, predictions: Any, names: Any, column: int) -> tuple[Any, Any]:
    """Prediction and label of every annotated frame, one after the other."""
    xs, ys = [], []
    for name in names:
        labels_NK = store.read(store.index_of(name)).labels["va"]
        known_N = (labels_NK != -5).all(axis=1)
        xs.append(predictions[name]["va"][known_N, column])
        ys.append(labels_NK[known_N, column])
    return np.concatenate(xs), np.concatenate(ys)


# -- predictions -------------------------------------------------------------------------------


def test_a_video_is_predicted_alike_in_any_company_and_batch_size(
    store: Store, trained: tuple[Any, Path]
) -> None:
    """Absolute 1e-6: other batch sizes are other programs, which round sums differently."""
    run, workdir = trained
    opened = open_run(workdir)
    names = [video.name for video in store.videos]
    alone = [opened.predict(store, [[name]]) for name in names[:3]]
    (together, _) = opened.predict(store, [names])
    for name, predictions in zip(names[:3], alone, strict=True):
        assert list(predictions[0]) == [name]
        np.testing.assert_array_equal(predictions[0][name]["va"], together[name]["va"])
    (backwards, _) = opened.predict(store, [names[::-1]])
    assert list(backwards) == names[::-1]
    for name in names:
        assert together[name]["va"].shape == (store.videos[store.index_of(name)].num_frames, 2)
        np.testing.assert_allclose(backwards[name]["va"], together[name]["va"], rtol=0, atol=1e-6)
    for batch_size in (1, 7):
        config = tiny_config(store.path, data={"batch_size": batch_size})
        session = session_of(store, config)
        normalisation = session.layout.everywhere(
            fold_normalisation(store, session.folds.keys, session.streams)
        )
        weights = session.layout.replicas(host(run.state.best))
        found = Predictor(session, store)(weights, normalisation, [names])[VALENCE]
        for name in names:
            np.testing.assert_allclose(found[name]["va"], together[name]["va"], rtol=0, atol=1e-6)


def test_predictions_vary_over_time_and_videos(store: Store, trained: tuple[Any, Path]) -> None:
    (first, *_) = open_run(trained[1]).predict(store, [["validation-0", "validation-1"]])
    assert all(first[name]["va"].std(axis=0).min() > 1e-3 for name in first)


def test_no_videos_are_no_predictions(store: Store, trained: tuple[Any, Path]) -> None:
    assert open_run(trained[1]).predict(store, [[]]) == [{}, {}]


# -- scores ------------------------------------------------------------------------------------


def scores_of(
    session: Session, predictions: Sequence[Predictions], truths: list[dict[str, Annotations]]
) -> tuple[np.ndarray, list[dict[str, float]]]:
    """Returns scores replicas that are all of one fold."""
    selection = session.config.evaluation.selection
    return replica_scores(predictions, truths * len(predictions), session.weights, selection)


def test_scores_are_ccc_over_all_annotated_frames(store: Store, trained: tuple[Any, Path]) -> None:
    run, workdir = trained
    opened = open_run(workdir)
    # On the device it was trained on, since spread over several its sums round differently.
    layout = make_layout(2, opened.session.batch_size, one_device())
    session = dataclasses.replace(opened.session, layout=layout)
    opened = dataclasses.replace(opened, session=session, best=layout.replicas(host(opened.best)))
    fold = store.fold("0")
    predictions = opened.predict(store, [list(fold.validation)])
    truths = [{"va": read_annotations(store, fold, fold.validation, "va")}]
    scores_R, named = scores_of(session, predictions, truths)
    for r, name in enumerate(("valence", "arousal")):
        by_hand = ccc_by_hand(*annotated_frames(store, predictions[r], fold.validation, r))
        assert scores_R[r] == pytest.approx(by_hand, abs=1e-12)
        assert named[r][f"ccc_{name}"] == pytest.approx(by_hand, abs=1e-12)
        # A replica shows the scores of what it was trained for.
        assert {key.rsplit("_", 1)[1] for key in named[r]} == {name}
        # And the checkpoint's best weights give the score that chose them, up to float32
        # rounding: the program was compiled anew.
        assert scores_R[r] == pytest.approx(run.schedule.best[r], abs=1e-8)


def test_only_scored_frames_are_scored(store: Store) -> None:
    session = session_of(store, tiny_config(store.path))
    fold = dataclasses.replace(store.fold("0"), scored_frames=(5, 25))
    names = fold.validation
    rng = np.random.default_rng(0)
    predictions = {
        name: {"va": rng.normal(size=(store.videos[store.index_of(name)].num_frames, 2))}
        for name in names
    }
    truths = [{"va": read_annotations(store, fold, names, "va")}]
    scores_R, _ = scores_of(session, [predictions] * 2, truths)
    cut = {name: {"va": values["va"][5:25]} for name, values in predictions.items()}
    xs, ys = [], []
    for name in names:
        labels_NK = store.read(store.index_of(name)).labels["va"][5:25]
        known_N = (labels_NK != -5).all(axis=1)
        xs.append(cut[name]["va"][known_N])
        ys.append(labels_NK[known_N])
    x, y = np.concatenate(xs), np.concatenate(ys)
    for r in (VALENCE, AROUSAL):
        assert scores_R[r] == pytest.approx(ccc_by_hand(x[:, r], y[:, r]), abs=1e-12)
    # Whatever the frames outside hold.
    for values in predictions.values():
        values["va"][:5] = 100.0
        values["va"][25:] = -100.0
    again_R, _ = scores_of(session, [predictions] * 2, truths)
    np.testing.assert_array_equal(again_R, scores_R)


def test_a_score_is_not_a_mean_over_videos(store: Store) -> None:
    session = session_of(store, tiny_config(store.path))
    fold = store.fold("0")
    rng = np.random.default_rng(1)
    predictions = {}
    for k, name in enumerate(fold.validation):
        labels_NK = store.read(store.index_of(name)).labels["va"]
        predictions[name] = {"va": 0.5 * k + np.clip(labels_NK, -1, 1) * rng.normal(1, 0.1)}
    truths = [{"va": read_annotations(store, fold, fold.validation, "va")}]
    scores_R, _ = scores_of(session, [predictions] * 2, truths)
    per_video = [
        ccc_by_hand(*annotated_frames(store, predictions, [name], VALENCE))
        for name in fold.validation
    ]
    whole = ccc_by_hand(*annotated_frames(store, predictions, fold.validation, VALENCE))
    assert scores_R[VALENCE] == pytest.approx(whole, abs=1e-12)
    assert abs(np.mean(per_video) - whole) > 0.01


def all_tasks(store: Store, targets: list[str]) -> dict[str, Any]:
    config = tiny_config(store.path, data={"tasks": ["va", "expr", "au"]})
    config["loss"] = {"va": "ccc", "expr": "cross_entropy", "au": "binary_cross_entropy"}
    config["evaluation"]["selection"] = {"va": "ccc", "expr": "f1", "au": "f1"}
    config["replicas"]["targets"] = targets
    return config


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("labelled") / "store"
    return Store(build_small_store(path, tasks=("va", "expr", "au")))


@pytest.mark.slow
def test_all_tasks_train_together(labelled: Store, tmp_path: Path) -> None:
    config = all_tasks(labelled, ["all", "expr", "AU12"])
    config["train"] |= {"epochs": 1}
    run, recorder = train(labelled, tmp_path, config)
    assert np.isfinite(run.history[0]["score"]).all()
    (everything, *_) = open_run(tmp_path).predict(labelled, [["test-0"]])
    values = everything["test-0"]
    assert {task: x.shape for task, x in values.items()} == {
        "va": (41, 2),
        "expr": (41, 8),
        "au": (41, 12),
    }
    # Averages over windows are taken of probabilities.
    np.testing.assert_allclose(values["expr"].sum(axis=1), 1.0, rtol=0, atol=1e-5)
    assert ((values["au"] > 0) & (values["au"] < 1)).all()
    assert recorder.session.names == ("all", "expr", "AU12")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_predictions_that_are_not_finite_never_score(labelled: Store, bad: float) -> None:
    """An argmax over NaN is class 0, and NaN >= 0.5 is False: both would score as decisions."""
    session = session_of(labelled, all_tasks(labelled, ["all", "valence", "expr", "au"]))
    fold = labelled.fold("0")
    truths = [
        {task: read_annotations(labelled, fold, fold.validation, task) for task in session.tasks}
    ]

    def predictions(value: float) -> dict[str, dict[str, np.ndarray]]:
        columns = {"va": 2, "expr": 8, "au": 12}
        frames = {
            name: labelled.videos[labelled.index_of(name)].num_frames for name in fold.validation
        }
        return {
            name: {task: np.full((count, columns[task]), value) for task in session.tasks}
            for name, count in frames.items()
        }

    good_R, _ = scores_of(session, [predictions(0.5)] * 4, truths)
    assert np.isfinite(good_R).all()
    bad_R, _ = scores_of(session, [predictions(bad)] * 4, truths)
    assert np.isnan(bad_R).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["constant", "unlabelled", "one frame"])
def test_odd_validation_videos_do_not_break_training(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "store"
    records = [
        make_record(name, name.split("-")[0], num_frames=30, seed=seed)
        for seed, name in enumerate(["train-0", "train-1", "validation-0", "validation-1"])
    ]
    labels = records[2].labels["va"].copy()
    labels[:] = 0.25 if kind == "constant" else -5.0
    if kind == "one frame":
        labels[7] = 0.25
    records[2] = dataclasses.replace(records[2], labels={"va": labels})
    with StoreWriter(path, name="odd", streams=STREAMS, tasks=("va",)) as writer:
        for record in records:
            writer.add(record)
        names = [record.name for record in records]
        writer.finish([Fold("0", tuple(names[:2]), tuple(names[2:]))])
    store = Store(path)
    config = tiny_config(path, train={"epochs": 1}, replicas={"targets": ["valence"]})
    run, _ = train(store, tmp_path / "run", config)
    (score,) = run.history[0]["score"]
    assert np.isfinite(score)
    assert score != 0.0


def fold_result(fold: str, scores: dict[str, Any]) -> FoldResult:
    return FoldResult(fold, ("x",), {}, scores)


def test_tables_show_what_each_fold_has() -> None:
    """Folds may differ in what they are annotated for and in what they bring along."""
    model = {"ccc_valence": 0.45, "rmse_valence": 0.2}
    whole = {"va": {"model": model, "optimum": {"ccc_valence": 0.5, "rmse_valence": 0.1}}}
    results = [
        fold_result("0", {}),
        fold_result("1", {"va": {"model": model}}),
        fold_result("2", whole),
    ]
    assert scored_tasks(results) == ["va"]
    header, rows = score_rows(results, "va")
    assert header == ["fold", "score", "model", "optimum", "of optimum"]
    assert rows == [
        ["1", "ccc_valence", 0.45, "-", "-"],
        ["1", "rmse_valence", 0.2, "-", "-"],
        ["2", "ccc_valence", 0.45, 0.5, "90.0%"],
        ["2", "rmse_valence", 0.2, 0.1, "-"],
    ]
    with io.StringIO() as printed:
        print_scores(results[:1], "somewhere", Console(file=printed))
        assert "no annotations" in printed.getvalue()


def test_a_fold_without_validation_videos_is_refused(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store", name="x", streams=STREAMS, tasks=("va",)) as writer:
        writer.add(make_record("train-0", "train", num_frames=30, seed=0))
        writer.finish([Fold("0", ("train-0",), ())])
    store = Store(tmp_path / "store")
    with pytest.raises(InputError, match="no validation videos") as caught:
        train(store, tmp_path / "run", tiny_config(store.path))
    assert caught.value.details["field"] == "config.replicas.folds"
    assert not (tmp_path / "run").exists()


# -- ensembles ---------------------------------------------------------------------------------


def test_an_ensemble_averages_only_replicas_trained_for_the_target(store: Store) -> None:
    config = tiny_config(
        store.path, replicas={"targets": ["valence", "arousal", "va"], "seeds": [0, 1]}
    )
    session = session_of(store, config)
    # Replicas: valence, valence, arousal, arousal, va, va. Replica r predicts (r, 10 r).
    predictions = [{"x": {"va": np.full((3, 2), [r, 10.0 * r])}} for r in range(6)]
    found = ensemble(session.weights, predictions, range(6))["x"]["va"]
    np.testing.assert_allclose(found, [[(0 + 1 + 4 + 5) / 4, 10 * (2 + 3 + 4 + 5) / 4]] * 3)
    found = ensemble(session.weights, predictions, [1, 2])["x"]["va"]
    np.testing.assert_allclose(found, [[1.0, 20.0]] * 3)
    # What nobody was trained for is no prediction.
    found = ensemble(session.weights, predictions, [0, 1])["x"]["va"]
    np.testing.assert_allclose(found[:, VALENCE], 0.5)
    assert np.isnan(found[:, AROUSAL]).all()


def test_an_ensemble_of_classes_averages_probabilities(labelled: Store) -> None:
    session = session_of(labelled, all_tasks(labelled, ["expr", "valence", "all"]))
    rng = np.random.default_rng(0)
    columns = {"va": 2, "expr": 8, "au": 12}
    predictions = [
        {"x": {task: rng.random((3, count)) for task, count in columns.items()}} for _ in range(3)
    ]
    found = ensemble(session.weights, predictions, range(3))["x"]
    values = [p["x"] for p in predictions]
    np.testing.assert_allclose(found["expr"], (values[0]["expr"] + values[2]["expr"]) / 2)
    np.testing.assert_allclose(found["au"], values[2]["au"])
    np.testing.assert_allclose(
        found["va"][:, VALENCE], (values[1]["va"][:, 0] + values[2]["va"][:, 0]) / 2
    )
    np.testing.assert_allclose(found["va"][:, AROUSAL], values[2]["va"][:, 1])
