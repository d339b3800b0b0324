"""The predictions and per-video scores that an evaluation leaves."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from emojax.datasets.source import Store
from emojax.errors import InputError
from emojax.ops.scores import score_kind
from emojax.ops.tasks import TASK_OPS
from emojax.reporting.page_runs import read_runs
from emojax.reporting.page_sections import confusion_matrices, score_sections
from emojax.reporting.page_statistics import score_tables
from emojax.reporting.timelines import (
    assess_video,
    read_timelines,
    video_timelines,
    write_per_video,
    write_timelines,
)
from emojax.scoring.fold_scores import MEAN, POOLED, FoldResult
from emojax.specs import TASKS
from tests.reported_runs import ALL, evaluated_run, guesses, invented_videos
from tests.small_store import build_small_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("timelines") / "store"
    return Store(build_small_store(path, tasks=ALL))


@pytest.fixture(scope="module")
def run(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns two folds that share no video."""
    workdir = tmp_path_factory.mktemp("runs") / "folds"
    return evaluated_run(workdir, store, folds=("1", "2"), baseline=True)


def test_the_file_holds_what_was_scored(store: Store, run: Path) -> None:
    document = json.loads((run / "validation" / "scores.json").read_text())
    videos = read_timelines(run / "validation" / "timelines.npz")
    names = [(fold, name) for fold in ("1", "2") for name in store.fold(fold).validation]
    assert [(video.fold, video.name) for video in videos] == names
    for video in videos:
        record = store.read(store.index_of(video.name))
        np.testing.assert_array_equal(video.seconds_N, record.pts_N)
        for task in ALL:
            line = video.tasks[task]
            np.testing.assert_array_equal(line.mask_NK, TASKS[task].annotated(record.labels[task]))
            np.testing.assert_array_equal(
                line.labels_NK, np.where(line.mask_NK, record.labels[task], 0)
            )
            assert {"model", "ridge + smoothing"} <= set(line.predictions)
    # The states of videos merge to the scores of all of them.
    for task in ALL:
        for system in ("model", "ridge + smoothing"):
            states = [assess_video(video, task, system)[0] for video in videos]
            whole = states[0]
            for state in states[1:]:
                whole = whole.merge(state)
            expected = document["all_folds"][task][system]
            found = TASK_OPS[task].summarise(whole)
            if system != "model":  # the curve that is shown has one scale, its scores have two
                expected = {n: x for n, x in expected.items() if not score_kind(n).least_squares}
                found = {name: found[name] for name in expected}
            assert found == pytest.approx(expected, abs=1e-5)


def test_the_table_has_each_videos_scores(store: Store, run: Path) -> None:
    with (run / "validation" / "per_video.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    videos = read_timelines(run / "validation" / "timelines.npz")
    assert [row["video"] for row in rows] == [video.name for video in videos]
    for row, video in zip(rows, videos, strict=True):
        assert row["fold"] == video.fold
        assert int(row["frames"]) == len(video.seconds_N)
        for task, line in video.tasks.items():
            assert int(row[f"{task}/annotated"]) == line.mask_NK.any(axis=1).sum()
            for system in line.predictions:
                for name, value in assess_video(video, task, system)[1].items():
                    assert float(row[f"{task}/{system}/{name}"]) == pytest.approx(value, abs=1e-4)


def test_folds_without_common_videos_are_reported_as_one(run: Path) -> None:
    runs = read_runs([str(run)], "validation")
    tables = score_sections(score_tables(runs, 20), runs, "validation")
    assert {table.facts["group"] for table in tables if table.facts["part"] == "scores"} == {POOLED}
    folds = {table.facts["task"]: table for table in tables if table.facts["part"] == "folds"}
    assert set(folds) == set(ALL)
    assert list(dict.fromkeys(row[0] for row in folds["va"].rows)) == ["1", "2", MEAN]
    groups = {table.facts["group"] for table in confusion_matrices(runs)}
    assert groups == {POOLED}


def test_only_scored_frames_count(store: Store) -> None:
    names = store.partitions["validation"]
    result = FoldResult(
        "x", names, {"model": guesses(store, names, ["va"], 0)}, {}, scored_frames=(3, 9)
    )
    for video in video_timelines(store, [result]):
        mask_N = video.tasks["va"].mask_NK.any(axis=1)
        assert mask_N[3:9].any()
        assert not mask_N[:3].any()
        assert not mask_N[9:].any()


def test_what_is_not_there_stays_away(tmp_path: Path) -> None:
    whole, partly = invented_videos(["a", "b"], tasks=("va", "expr"))
    whole.tasks["va"].predictions["optimum"] = np.ones((40, 2), np.float32)
    partly.tasks["va"].predictions["model"][:, 1] = np.nan
    partly.tasks["va"].mask_NK.setflags(write=False)
    del partly.tasks["expr"]
    write_timelines(tmp_path / "timelines.npz", [whole, partly])
    first, second = read_timelines(tmp_path / "timelines.npz")
    assert set(first.tasks["va"].predictions) == {"model", "optimum"}
    assert set(second.tasks["va"].predictions) == {"model"}
    assert not second.tasks["expr"].mask_NK.any()
    assert second.tasks["expr"].predictions == {}
    assert assess_video(second, "expr", "model") == (None, {})
    # A target that no one was trained for has no score, nor has their mean.
    scores = assess_video(second, "va", "model")[1]
    assert {"ccc_valence", "rmse_valence"} <= set(scores)
    assert not [name for name in scores if name.endswith(("arousal", "_mean"))]
    write_per_video(tmp_path / "per_video.csv", [first, second])
    with (tmp_path / "per_video.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[1]["expr/annotated"] == "0"
    assert rows[1]["expr/model/f1_macro"] == rows[1]["va/optimum/ccc_mean"] == ""
    assert not list(tmp_path.glob("*.partial"))


def test_no_pickle_is_opened(tmp_path: Path) -> None:
    objects = np.array([{"a": 1}], object)
    np.savez(tmp_path / "timelines.npz", frames=objects)
    with pytest.raises(InputError) as caught:
        read_timelines(tmp_path / "timelines.npz")
    assert "allow_pickle" in caught.value.details["found"]
