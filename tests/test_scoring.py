"""Tests scores of folds and over folds, tuned decisions beside the papers', and their output."""

from __future__ import annotations

import functools
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from emojax.core.session import Session, build_session
from emojax.datasets.source import Store
from emojax.ops.scores import score_kind
from emojax.ops.tasks import TASK_OPS
from emojax.reporting.results_folder import write_predictions, write_results
from emojax.scoring.evaluation import Tuning, evaluate_folds, print_scores
from emojax.scoring.fold_scores import (
    BASELINE,
    MEAN,
    OURS,
    POOLED,
    TUNED,
    FoldResult,
    confusions,
    mean_scores,
    pooled_scores,
    score_rows,
    summary_rows,
)
from emojax.specs import TASKS
from tests.small_store import build_small_store, small_config
from tests.training_runs import one_device

FOLDS = ("1", "2")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("scoring") / "store"
    return Store(build_small_store(path, tasks=("va", "expr", "au")))


def session_for(store: Store, tasks: list[str], folds: tuple[str, ...] = FOLDS) -> Session:
    config = small_config(store.path)
    config["data"]["tasks"] = tasks
    config["loss"], config["evaluation"]["selection"] = {}, {}
    config["replicas"] = {"folds": list(folds), "targets": ["all"], "seeds": [0]}
    return build_session(config, store.streams, one_device())


def guesses(store: Store, names: Any, tasks: list[str], seed: int) -> dict[str, Any]:
    """Returns informed predictions that are too low for all but the first class and unit."""
    rng, found = np.random.default_rng(seed), {}
    for name in names:
        labels = store.read(store.index_of(name)).labels
        raw = {
            "va": 0.5 * labels["va"].clip(-1, 1) + 0.3 * rng.normal(size=labels["va"].shape),
            "expr": 4.0 * np.eye(8)[labels["expr"][:, 0].astype(int)]
            + rng.normal(size=(len(labels["expr"]), 8))
            + 3.0 * np.eye(8)[:1],
            "au": 3.0 * labels["au"] + rng.normal(size=labels["au"].shape) - 3.0,
        }
        found[name] = {task: TASK_OPS[task].decode(raw[task]) for task in tasks}
    return found


def evaluated(
    store: Store, tasks: list[str], *, tuned: bool = False, partition: str = "validation"
) -> tuple[Session, list[FoldResult]]:
    session = session_for(store, tasks)
    folds = [store.fold(name) for name in FOLDS]
    videos = [getattr(fold, partition) for fold in folds]
    predictions = [guesses(store, names, tasks, seed) for seed, names in enumerate(videos)]
    known = [guesses(store, fold.train, tasks, 10) for fold in folds]
    tuning = Tuning(store, folds, known) if tuned else None
    return session, evaluate_folds(session, store, predictions, folds, partition, tuning=tuning)


@pytest.fixture(scope="module")
def both(store: Store) -> tuple[Session, list[FoldResult]]:
    return evaluated(store, ["va", "expr", "au"], tuned=True)


def together(store: Store, results: list[FoldResult], system: str, task: str) -> dict[str, float]:
    """Returns scores of all folds' frames one after the other, as one data set."""
    predicted, labels = [], []
    for result in results:
        for name in result.names:
            predicted.append(result.predictions[system][name][task])
            labels.append(store.read(store.index_of(name)).labels[task])
    labels_NK = np.concatenate(labels).astype(np.float64)
    mask_NK = TASKS[task].annotated(labels_NK)
    return TASK_OPS[task].scores(np.concatenate(predicted).astype(float), labels_NK, mask_NK)


@pytest.mark.parametrize("task", ["va", "expr", "au"])
@pytest.mark.parametrize("system", [OURS, BASELINE])
def test_all_folds_are_scored_as_one_data_set(
    store: Store, both: tuple[Session, list[FoldResult]], system: str, task: str
) -> None:
    _, results = both
    pooled = pooled_scores(results, task)[system]
    expected = together(store, results, system, task)
    if system == BASELINE:  # its errors and accuracy are those of other predictions
        kept = {name for name in pooled if not score_kind(name).least_squares}
        pooled = {name: pooled[name] for name in kept}
        expected = {name: expected[name] for name in kept}
    assert pooled == pytest.approx(expected, abs=1e-12)
    means = mean_scores(results, task)[system]
    for name, value in means.items():
        folds = [result.scores[task][system][name] for result in results]
        assert value == pytest.approx(sum(folds) / 2, abs=1e-12)
    # The one is not the other: folds differ in size and in what they hold.
    primary = TASK_OPS[task].primary
    assert abs(means[primary] - pooled[primary]) > 1e-7


def test_folds_that_share_videos_are_not_pooled(store: Store) -> None:
    """The official test videos are the same in every fold: together they would count twice."""
    _, results = evaluated(store, ["expr"], partition="test")
    assert results[0].names == results[1].names
    assert pooled_scores(results, "expr") == {}
    assert set(confusions(results, "expr")) == set(FOLDS)
    assert {row[0] for row in summary_rows(results, "expr")} == {MEAN}


def test_one_fold_has_no_summary(both: tuple[Session, list[FoldResult]]) -> None:
    _, results = both
    assert summary_rows(results[:1], "expr") == []
    assert mean_scores(results[:1], "expr") == {}


def test_what_nobody_was_trained_for_has_no_score(store: Store) -> None:
    session = session_for(store, ["expr", "au"])
    folds = [store.fold(name) for name in FOLDS]
    predictions = [guesses(store, f.validation, ["expr", "au"], 0) for f in folds]
    for by_task in predictions[0].values():
        by_task["au"][:, 3] = np.nan
        by_task["expr"][:] = np.nan
    results = evaluate_folds(session, store, predictions, folds, "validation", baseline=False)
    unit = TASKS["au"].labels[3]
    assert not {f"f1_{unit}", "f1_mean"} & set(results[0].scores["au"][OURS])
    assert {f"f1_{unit}", "f1_mean"} < set(results[1].scores["au"][OURS])
    assert not {f"f1_{unit}", "f1_mean"} & set(pooled_scores(results, "au")[OURS])
    # An argmax over NaN would be class 0, and a score.
    assert results[0].scores["expr"] == {}
    assert OURS in results[1].scores["expr"]
    assert pooled_scores(results, "expr") == {}
    with io.StringIO() as printed:
        print_scores(results, "x", Console(file=printed, width=120))


# -- tuned decisions -------------------------------------------------------------------------


def test_tuned_decisions_stand_beside_the_papers(both: tuple[Session, list[FoldResult]]) -> None:
    _, results = both
    for result in results:
        assert list(result.scores["expr"]) == [OURS, TUNED, BASELINE]
        assert TUNED not in result.scores["va"]
        for task, primary in (("expr", "f1_macro"), ("au", "f1_mean")):
            scores = result.scores[task]
            assert scores[TUNED][primary] > scores[OURS][primary] + 0.03
            assert result.decisions[task].shape == (TASKS[task].outputs,)
        # The guesses are 1.5 too low for units, and class 0 is preferred by 3.
        assert (result.decisions["au"] < 0.5).all()
        assert result.decisions["expr"].argmin() == 0
    header, rows = score_rows(results, "expr")
    assert header == ["fold", "score", OURS, TUNED, BASELINE]
    assert len(rows) == 20


def test_decisions_are_tuned_on_training_videos_alone(store: Store) -> None:
    """Whatever the validation videos' labels are, and whatever is predicted for them."""
    session = session_for(store, ["expr"], ("1",))
    fold = store.fold("1")
    known = [guesses(store, fold.train, ["expr"], 3)]
    tuning = Tuning(store, [fold], known)
    found = [
        evaluate_folds(
            session, store, [guesses(store, fold.validation, ["expr"], seed)], [fold],
            "validation", baseline=False, tuning=tuning,
        )[0].decisions["expr"]
        for seed in (1, 2)
    ]  # fmt: skip
    np.testing.assert_array_equal(*found)


def test_the_baseline_suits_the_selection(store: Store) -> None:
    """Least squares for accuracy, the labels' variance for F1."""
    session = session_for(store, ["expr"], ("0",))
    fold = store.fold("0")
    predictions = [guesses(store, fold.validation, ["expr"], 0)]
    found = {}
    for selection in ("f1", "accuracy", "cross_entropy"):
        session.config.evaluation.selection["expr"] = selection
        (result,) = evaluate_folds(session, store, predictions, [fold], "validation")
        found[selection] = result.predictions[BASELINE][fold.validation[0]]["expr"]
    np.testing.assert_array_equal(found["accuracy"], found["cross_entropy"])
    spread = {name: values.std(axis=0).mean() for name, values in found.items()}
    assert spread["accuracy"] < spread["f1"]


# -- what is shown ---------------------------------------------------------------------------


def printed_table(results: list[FoldResult]) -> str:
    with io.StringIO() as printed:
        print_scores(results, "here", Console(file=printed, width=100))
        return printed.getvalue()


def test_the_printed_table_stays_readable(both: tuple[Session, list[FoldResult]]) -> None:
    _, results = both
    several = printed_table(results)
    # Single classes and units once, over all folds; va's two dimensions in every fold.
    assert several.count("f1_Neutral") == several.count("f1_AU12") == 1
    assert several.count("f1_macro") == several.count("f1_mean") == len(FOLDS) + 2
    assert several.count("ccc_valence") == len(FOLDS) + 2
    assert several.count(POOLED) == several.count(MEAN) == 3
    assert max(len(line) for line in several.splitlines()) <= 100
    assert len(several.splitlines()) < 90
    one = printed_table(results[:1])
    assert one.count("f1_Neutral") == one.count("f1_AU12") == 1
    assert POOLED not in one


def test_results_hold_confusion_matrices_and_decisions(
    store: Store, both: tuple[Session, list[FoldResult]], tmp_path: Path
) -> None:
    session, results = both
    write_results(tmp_path, session, store, results, "validation")
    document = json.loads((tmp_path / "scores.json").read_text())
    assert set(document["folds"]) == set(FOLDS)
    assert document["all_folds"]["expr"][OURS] == pooled_scores(results, "expr")[OURS]
    assert document["mean_of_folds"]["au"][TUNED]["f1_mean"] > 0
    assert set(document["confusion"]) == {"expr"}
    matrices = document["confusion"]["expr"]
    assert matrices["labels"] == list(TASKS["expr"].labels)
    assert matrices["rows"] == "true class"
    for system in (OURS, TUNED, BASELINE):
        parts = [np.array(matrices["counts"][fold][system]) for fold in FOLDS]
        whole = np.array(matrices["counts"][POOLED][system])
        np.testing.assert_array_equal(whole, sum(parts))
        accuracy = whole.trace() / whole.sum()
        # Ridge is counted at the scale for F1, and its accuracy is that of least squares.
        if system != BASELINE:
            found = document["all_folds"]["expr"][system]["accuracy"]
            assert found == pytest.approx(accuracy)
        f1 = 2 * whole[2, 2] / (whole[2].sum() + whole[:, 2].sum())
        assert document["all_folds"]["expr"][system]["f1_Disgust"] == pytest.approx(f1)
    tuned = document["decisions"]["1"]
    assert tuned["expr"]["tuned"] == "offset"
    assert tuned["au"]["AU12"] == pytest.approx(results[0].decisions["au"][6])
    assert set(tuned) == {"expr", "au"}
    # The pictures of videos lie in a folder for each fold.
    assert {path.parent.name for path in tmp_path.glob("*/*.png")} == {"fold_1", "fold_2"}
    assert not list(tmp_path.glob("*.png"))
    assert (tmp_path / "report.html").is_file()


def test_a_single_fold_has_its_matrix_beside_its_scores(store: Store, tmp_path: Path) -> None:
    session, results = evaluated(store, ["expr"])
    write_results(tmp_path, session, store, results[:1], "validation")
    document = json.loads((tmp_path / "scores.json").read_text())
    assert list(document["confusion"]["expr"]["counts"]) == ["1"]
    assert "all_folds" not in document
    assert "decisions" not in document


def test_csvs_name_the_classes(store: Store, tmp_path: Path) -> None:
    predictions = guesses(store, ["test-0"], ["expr"], 0)
    assert write_predictions(tmp_path, store, predictions) == 1
    header = (tmp_path / "expr" / "test-0.csv").read_text().splitlines()[0]
    assert header == "frame,seconds," + ",".join(TASKS["expr"].labels)


# -- whole partitions --------------------------------------------------------------------------


def official_va(predicted: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """CCC and RMSE over the frames that have both annotations."""
    known = (labels[:, 0] != -5) & (labels[:, 1] != -5)
    scores = {}
    for c, name in enumerate(("valence", "arousal")):
        x, y = predicted[known, c], labels[known, c]
        (var_x, covariance), (_, var_y) = np.cov(x, y, ddof=0)
        difference = x.mean() - y.mean()
        scores[f"ccc_{name}"] = 2 * covariance / (var_x + var_y + difference**2)
        scores[f"rmse_{name}"] = np.sqrt(np.mean((x - y) ** 2))
    scores["ccc_mean"] = (scores["ccc_valence"] + scores["ccc_arousal"]) / 2
    return scores


def f1_by_sets(said: set[int], true: set[int]) -> float:
    """F1 of frames named by their numbers: twice what both have, over what each has."""
    return 2 * len(said & true) / (len(said) + len(true)) if said or true else 0.0


def official_expr(predicted: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Macro F1 over all eight classes, annotated frames alone."""
    known = [int(i) for i in np.flatnonzero(labels[:, 0] != -1)]
    f1 = [
        f1_by_sets(
            {i for i in known if predicted[i].argmax() == k},
            {i for i in known if labels[i, 0] == k},
        )
        for k in range(8)
    ]
    right = [predicted[i].argmax() == labels[i, 0] for i in known]
    return {"f1_macro": sum(f1) / 8, "f1_Fear": f1[3], "accuracy": sum(right) / len(right)}


def official_au(predicted: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Mean F1 of twelve units at 0.5, each over the frames that it is annotated in."""
    f1 = []
    for c in range(12):
        known = [int(i) for i in np.flatnonzero(labels[:, c] != -1)]
        said = {i for i in known if predicted[i, c] >= 0.5}
        f1.append(f1_by_sets(said, {i for i in known if labels[i, c] == 1}))
    return {"f1_mean": sum(f1) / 12, "f1_AU12": f1[6]}


OFFICIAL = {"va": official_va, "expr": official_expr, "au": official_au}


@pytest.fixture(scope="module")
def partition() -> list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Returns labels and predictions of videos that are annotated in parts, one not at all."""
    rng, videos = np.random.default_rng(7), []
    for k, frames in enumerate((1, 60, 133, 17, 90)):
        va = np.round(rng.uniform(-1, 1, (frames, 2)), 3) + 0.2 * k
        expr = rng.integers(0, 7, (frames, 1)).astype(float)  # class 7 is never true
        au = (rng.random((frames, 12)) < np.linspace(0.0, 0.7, 12)).astype(float)
        raw = {
            "va": va + rng.normal(0, 0.4, va.shape),
            "expr": 2 * np.eye(8)[expr[:, 0].astype(int)] + rng.normal(size=(frames, 8)),
            "au": 3 * au - 1.5 + rng.normal(0, 1.5, au.shape),
        }
        labels = {"va": va, "expr": expr, "au": au}
        for task, values in labels.items():
            values[rng.random(values.shape) < (1.0 if k == 3 else 0.2)] = TASKS[task].ignore
        videos.append((labels, {task: TASK_OPS[task].decode(x) for task, x in raw.items()}))
    return videos


@pytest.mark.parametrize("task", OFFICIAL)
@pytest.mark.parametrize("seed", range(6))
def test_a_partition_has_its_official_score_in_any_split(
    partition: list[Any], task: str, seed: int
) -> None:
    """Videos in any order, cut into batches anywhere: to 1e-9 the definition over all frames."""
    labels = np.concatenate([video[0][task] for video in partition])
    predicted = np.concatenate([video[1][task] for video in partition])
    expected = OFFICIAL[task](predicted, labels)
    rng, ops = np.random.default_rng(seed), TASK_OPS[task]
    states = []
    for k in rng.permutation(len(partition)):
        of_video, guesses_NC = (part[task] for part in partition[k])
        cuts = np.sort(rng.integers(0, len(of_video) + 1, seed))
        for some, guessed in zip(np.split(of_video, cuts), np.split(guesses_NC, cuts), strict=True):
            states.append(ops.state(guessed, some, np.asarray(TASKS[task].annotated(some))))
    merged = ops.summarise(functools.reduce(lambda a, b: a.merge(b), states))
    for name, value in expected.items():
        assert merged[name] == pytest.approx(value, abs=1e-9)
    # The mean over videos is another number.
    primary = [
        OFFICIAL[task](guessed[task], known[task])[ops.primary]
        for known, guessed in partition
        if len(known[task]) not in (1, 17)
    ]
    assert abs(np.mean(primary) - expected[ops.primary]) > 1e-3
