"""Submissions: rows as the template has them, and every way in which a file can be wrong."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from emojax.errors import InputError
from emojax.exchange.submission_check import check_annotations, check_submission
from emojax.exchange.submission_frames import (
    check_same_videos,
    every_frame,
    header_of,
    read_template,
    read_test_list,
)
from emojax.exchange.submission_writing import (
    Decision,
    answer,
    read_decision,
    read_prediction,
    read_predictions,
    summary,
    write_annotations,
    write_submission,
)
from emojax.ops.decisions import DECISION_RULES
from emojax.specs import TASKS

CLASSES = len(TASKS["expr"].labels)
UNITS = len(TASKS["au"].labels)


def template(folder: Path, rows: list[str], task: str = "va", end: str = "") -> Path:
    path = folder / "template.txt"
    path.write_text("\n".join([",".join(header_of(task)), *(row + end for row in rows)]) + "\n")
    return path


def write_csv(folder: Path, task: str, name: str, values_NC: np.ndarray) -> None:
    """As ``emojax.predict`` writes them."""
    (folder / task).mkdir(parents=True, exist_ok=True)
    with (folder / task / f"{name}.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["frame", "seconds", *TASKS[task].labels])
        for i, row in enumerate(values_NC):
            writer.writerow([i + 1, f"{i / 25:.4f}", *(f"{value:.5f}" for value in row)])


# -- what is asked for -------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["", ",", ",,", ",0,0"])
def test_a_template_is_read_in_its_order(tmp_path: Path, end: str) -> None:
    rows = ["b_left/00003.jpg", "b_left/00001.jpg", "a/00001.jpg"]
    frames = read_template(template(tmp_path, rows, end=end), "va")
    assert frames.locations == tuple(rows)
    assert frames.videos == ("b_left", "a")
    assert frames.video_N.tolist() == [0, 0, 1]
    assert frames.number_N.tolist() == [3, 1, 1]


def test_a_template_from_windows_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "template.txt"
    path.write_bytes(b"\xef\xbb\xbfimage_location,valence,arousal\r\na/00001.jpg,,\r\n\r\n")
    assert read_template(path, "va").locations == ("a/00001.jpg",)


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        (["a/00001.jpg", "a/00001.jpg"], "as in line 2"),
        (["a/00000.jpg"], "a/00000.jpg"),
        (["00001.jpg"], "00001.jpg"),
        (["a/b/00001.jpg"], "a/b/00001.jpg"),
        (["a/frame.jpg"], "a/frame.jpg"),
        (["a/00001.jpg", "", "a/00002.jpg"], "nothing"),
        ([], "a header alone"),
    ],
)
def test_bad_templates_are_refused(tmp_path: Path, rows: list[str], found: str) -> None:
    with pytest.raises(InputError) as caught:
        read_template(template(tmp_path, rows), "va")
    assert found in caught.value.details["found"]


def test_a_template_of_another_task_is_named(tmp_path: Path) -> None:
    path = template(tmp_path, ["a/00001.jpg"], "au")
    with pytest.raises(InputError, match="header") as caught:
        read_template(path, "expr")
    assert "--task=au" in caught.value.details["remedy"]


def test_test_lists(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("7-60_left\n12-24-1920x1080\n\n")
    names = read_test_list(path)
    assert names == ["7-60_left", "12-24-1920x1080"]
    rows = [f"{name}/00001.jpg" for name in names]
    check_same_videos(read_template(template(tmp_path, rows[::-1]), "va"), names, "t")
    with pytest.raises(InputError, match="different videos") as caught:
        check_same_videos(read_template(template(tmp_path, rows[:1]), "va"), names, "t")
    assert "12-24-1920x1080" in caught.value.details["found"]
    for text, found in [
        ("a\nb\na\n", "as in line 1"),
        ("a.mp4\n", "a.mp4"),
        ("image_location,valence,arousal\n", "image_location"),
        ("../a\n", "../a"),
        ("", "no line"),
    ]:
        path.write_text(text)
        with pytest.raises(InputError) as caught:
            read_test_list(path)
        assert found in caught.value.details["found"]


# -- how it is answered ------------------------------------------------------------------------


@given(
    asked=st.lists(st.integers(1, 9), min_size=1, max_size=9, unique=True),
    count=st.integers(1, 9),
)
def test_each_row_takes_its_frame_or_the_last_prediction(asked: list[int], count: int) -> None:
    frames = every_frame({"other": 2, "video": 9})
    rows = [i for i, n in enumerate(frames.number_N) if frames.video_N[i] == 0 or n in asked]
    frames = type(frames)(
        tuple(frames.locations[i] for i in rows),
        frames.videos,
        frames.video_N[rows],
        frames.number_N[rows],
    )
    predicted = {"other": np.full((2, 2), 0.5), "video": np.linspace(-1, 1, 2 * count)}
    predicted["video"] = predicted["video"].reshape(count, 2)
    values_NK, answers = answer(frames, predicted.get, "va")
    wanted = [min(number, count) - 1 for number in sorted(asked)]
    np.testing.assert_array_equal(values_NK[2:], predicted["video"][wanted])
    np.testing.assert_array_equal(values_NK[:2], 0.5)
    one = answers["video"]
    assert (one.asked, one.predicted) == (len(asked), count)
    assert one.repeated == sum(number > count for number in asked)
    assert one.cut == count - sum(number <= count for number in asked)
    assert summary(answers).asked == len(asked) + 2


def test_values_beyond_the_scale_are_cut_to_it_and_counted() -> None:
    values_NK, answers = answer(
        every_frame({"a": 2}), {"a": np.array([[1.25, 0], [-3, 1]])}.get, "va"
    )
    np.testing.assert_array_equal(values_NK, [[1, 0], [-1, 1]])
    assert answers["a"].clipped == 2


def test_classes_and_units_are_decided() -> None:
    rng = np.random.default_rng(0)
    expr = rng.dirichlet(np.ones(CLASSES), 50)
    au = rng.random((50, UNITS))
    frames = every_frame({"a": 50})
    np.testing.assert_array_equal(
        answer(frames, {"a": expr}.get, "expr")[0][:, 0], expr.argmax(axis=1)
    )
    np.testing.assert_array_equal(answer(frames, {"a": au}.get, "au")[0], au >= 0.5)
    thresholds = np.linspace(0.1, 0.9, UNITS)
    decided = answer(frames, {"a": au}.get, "au", Decision(thresholds, ""))[0]
    np.testing.assert_array_equal(decided, au >= thresholds)
    offsets = np.zeros(CLASSES)
    offsets[3] = 50.0
    decided = answer(frames, {"a": expr}.get, "expr", Decision(offsets, ""))[0]
    assert (decided == 3).all()


@pytest.mark.parametrize("task", ["va", "expr", "au"])
def test_a_video_without_predictions_is_neutral(task: str) -> None:
    values_NK, answers = answer(every_frame({"a": 3}), {}.get, task)
    assert not values_NK.any()
    assert answers["a"].predicted == 0


@pytest.mark.parametrize(
    ("task", "values", "message"),
    [
        ("va", [[0.0, np.nan]], "No replica predicts arousal"),
        ("va", [[0.0, 0.0], [0.0, np.inf]], "arousal of frame 2 of a"),
        ("au", [[1.5] * UNITS], "probabilities from 0 to 1"),
    ],
)
def test_predictions_that_cannot_be_submitted(task: str, values: Any, message: str) -> None:
    predicted = np.array(values)
    with pytest.raises(InputError, match=message):
        answer(every_frame({"a": 2}), {"a": predicted}.get, task)


def test_predictions_are_read_from_the_files_of_predict(tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(-1, 1, (4, 2))
    write_csv(tmp_path, "va", "a", values)
    files = read_predictions(tmp_path, "va")
    np.testing.assert_allclose(read_prediction(files["a"], "va"), values, atol=1e-5)
    with pytest.raises(InputError, match="no predictions of 'au'") as caught:
        read_predictions(tmp_path, "au")
    assert "va" in caught.value.details["found"]
    for before, after, message in [
        ("valence,arousal", "valence", "all labels"),
        ("\n3,", "\n4,", "damaged"),
        ("0.1200", "0.1200,7", "damaged"),
        ("0.1200,", "0.1200,x", "not a number"),
    ]:
        text = files["a"].read_text()
        assert before in text
        (tmp_path / "b.csv").write_text(text.replace(before, after))
        with pytest.raises(InputError, match=message):
            read_prediction(tmp_path / "b.csv", "va")
    (tmp_path / "b.csv").write_text("frame,seconds,valence,arousal\n")
    with pytest.raises(InputError, match="one row per frame"):
        read_prediction(tmp_path / "b.csv", "va")


def scores(path: Path, task: str, **changes: Any) -> Path:
    """Writes the scores.json of an evaluation with tuned decisions, for two folds."""
    rule = DECISION_RULES[TASKS[task].kind].parameter
    folds = {
        fold: {task: {"tuned": rule, **dict.fromkeys(TASKS[task].labels, value)} | changes}
        for fold, value in (("0", 0.2), ("1", 0.4))
    }
    path.write_text(json.dumps({"store": "x", "decisions": folds}))
    return path


def test_decisions_come_from_an_evaluation(tmp_path: Path) -> None:
    path = scores(tmp_path / "scores.json", "au")
    one, mean = read_decision(path, "au", "1"), read_decision(path, "au")
    np.testing.assert_allclose(one.parameters_C, 0.4)
    np.testing.assert_allclose(mean.parameters_C, 0.3)
    assert "thresholds of fold 1" in one.about
    assert "mean of 2 folds" in mean.about
    for changes in ({"AU1": 2.0}, {"AU1": float("nan")}, {"AU1": True}, {"tuned": "offset"},
                    {"AU1": "0.5"}, {"AU99": 0.5}):  # fmt: skip
        with pytest.raises(InputError, match="damaged"):
            read_decision(scores(path, "au", **changes), "au")
    scores(path, "au")
    for task, fold in (("expr", ""), ("au", "7")):
        with pytest.raises(InputError, match="no tuned decision"):
            read_decision(path, task, fold)
    with pytest.raises(InputError, match="classes or units"):
        read_decision(path, "va")
    path.write_text("{")
    with pytest.raises(InputError, match="damaged"):
        read_decision(path, "au")
    path.write_text('["decisions"]')
    with pytest.raises(InputError, match="no tuned decision"):
        read_decision(path, "au")


# -- what is written ---------------------------------------------------------------------------


def values_of(task: str, count: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    if task == "va":
        return rng.uniform(-1, 1, (count, 2))
    high = CLASSES if task == "expr" else 2
    return rng.integers(0, high, (count, TASKS[task].columns)).astype(np.float64)


@pytest.mark.parametrize("task", ["va", "expr", "au"])
def test_what_is_written_reads_back(tmp_path: Path, task: str) -> None:
    frames = every_frame({"b_left": 12, "a": 3})
    values_NK = values_of(task, len(frames))
    path = tmp_path / "new" / "submission.txt"
    write_submission(path, frames, task, values_NK)
    lines = path.read_text().splitlines()
    assert lines[0] == ",".join(["image_location", *TASKS[task].labels])
    assert lines[1].startswith("b_left/00001.jpg,")
    if task == "expr":
        assert lines[1] == f"b_left/00001.jpg,{int(values_NK[0, 0])}"
    for known in (None, frames):
        found, again_NK = check_submission(path, task, known)
        assert found.locations == frames.locations
        np.testing.assert_allclose(again_NK, values_NK, rtol=0, atol=1e-6)
    write_annotations(tmp_path / "folder", frames, task, values_NK)
    by_video = check_annotations(tmp_path / "folder", task, {"b_left": 12, "a": None})
    np.testing.assert_allclose(by_video["b_left"], values_NK[:12], rtol=0, atol=1e-6)
    assert (tmp_path / "folder" / "a.txt").read_text().count("\n") == 4
    assert not list(tmp_path.rglob("*.partial*"))


Change = Callable[[list[str]], list[str]]
CORRUPTIONS: list[tuple[str, Change, str, str]] = [
    ("va", lambda x: x[:-1], "lacks rows", "b/00002.jpg"),
    ("va", lambda x: [*x, "c/00001.jpg,0,0"], "template does not have", "c/00001.jpg"),
    ("va", lambda x: [x[0], x[2], x[1], *x[3:]], "order of the template", "a/00002.jpg"),
    ("va", lambda x: [*x, x[-1]], "occurs twice", "as in line 6"),
    ("va", lambda x: ["image_location,arousal,valence", *x[1:]], "header", "arousal,valence"),
    ("va", lambda x: x[1:], "header", "a/00001.jpg"),
    ("va", lambda x: [], "header", "empty line"),
    ("va", lambda x: [x[0], "a/00001.jpg,0.5", *x[2:]], "columns", "2 in"),
    ("va", lambda x: [x[0], "", *x[1:]], "columns", "empty line"),
    ("va", lambda x: [x[0], "a/00001.jpg,1.01,0", *x[2:]], "value", "1.01"),
    ("va", lambda x: [x[0], "a/00001.jpg,nan,0", *x[2:]], "value", "nan"),
    ("va", lambda x: [x[0], "a/00001.jpg,,0", *x[2:]], "value", "nothing"),
    ("va", lambda x: [x[0], "a/1.png.txt,0,0", *x[2:]], "name a frame", "a/1.png.txt"),
    ("expr", lambda x: [x[0], "a/00001.jpg,3.0", *x[2:]], "value", "3.0"),
    ("expr", lambda x: [x[0], "a/00001.jpg,8", *x[2:]], "value", "8"),
    ("expr", lambda x: [x[0], "a/00001.jpg,-1", *x[2:]], "value", "-1"),
    ("expr", lambda x: [x[0], "a/00001.jpg,²", *x[2:]], "value", "²"),
    ("au", lambda x: [x[0], x[1][:-1] + "2", *x[2:]], "value", "2"),
    ("au", lambda x: [x[0], x[1] + ",0", *x[2:]], "columns", "14 in"),
]


@pytest.mark.parametrize(("task", "change", "message", "found"), CORRUPTIONS)
def test_corrupted_submissions_are_refused(
    tmp_path: Path, task: str, change: Change, message: str, found: str
) -> None:
    frames = every_frame({"a": 3, "b": 2})
    path = tmp_path / "submission.txt"
    write_submission(path, frames, task, values_of(task, 5))
    path.write_text("".join(f"{line}\n" for line in change(path.read_text().splitlines())))
    with pytest.raises(InputError, match=message) as caught:
        check_submission(path, task, frames)
    assert found in caught.value.details["found"]
    assert caught.value.details["file"] == str(path)


@pytest.mark.parametrize("drop", [1, 2, 4])
def test_without_a_template_frames_must_follow_one_another(tmp_path: Path, drop: int) -> None:
    path = tmp_path / "submission.txt"
    write_submission(path, every_frame({"a": 3, "b": 2}), "va", values_of("va", 5))
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:drop] + lines[drop + 1 :]))
    with pytest.raises(InputError, match="numbered 1, 2, 3"):
        check_submission(path, "va")
    path.write_text("\n".join([*lines, "a/00004.jpg,0,0"]))
    with pytest.raises(InputError, match="numbered 1, 2, 3"):
        check_submission(path, "va")


def test_corrupted_folders_of_the_third_edition_are_refused(tmp_path: Path) -> None:
    frames = {"a": 3, "b": 2}
    write_annotations(tmp_path, every_frame(frames), "au", values_of("au", 5))
    with pytest.raises(InputError, match="number of rows"):
        check_annotations(tmp_path, "au", {"a": 3, "b": 5})
    for expected in ({"a": 3}, {"a": 3, "b": 2, "c": 1}):
        with pytest.raises(InputError, match="not those of the test set"):
            check_annotations(tmp_path, "au", expected)
    with pytest.raises(InputError, match="header"):
        check_annotations(tmp_path, "expr", frames)
    text = (tmp_path / "a.txt").read_text()
    (tmp_path / "a.txt").write_text(text[:-3] + ",\n")
    with pytest.raises(InputError, match="value"):
        check_annotations(tmp_path, "au", frames)
    shutil.rmtree(tmp_path)
    with pytest.raises(InputError, match="not those of the test set"):
        check_annotations(tmp_path, "au", {})
