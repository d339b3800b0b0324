"""Turns predictions into a submission: decides, fits them to the template's frames, and writes.

The organisers' template lists the frames of the submission. If a video has fewer predictions than
the template has frames, the last one is repeated. Predictions of other frames are cut.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emojax.errors import InputError
from emojax.exchange.submission_frames import FrameList, header_of, read_lines, shortened
from emojax.file_writing import replacing
from emojax.ops.decisions import DECISION_RULES
from emojax.ops.tasks import TASK_OPS
from emojax.specs import TASKS

# So many decimals that a number read back differs from the prediction by less than 1e-6.
_DECIMALS = 7
_CLOCK = ["frame", "seconds"]


@dataclasses.dataclass(frozen=True)
class Decision:
    """Tuned thresholds of units or offsets of classes.

    Attributes:
        parameters_C: the threshold or offset of each label of the task.
        about: a description of the parameters and their source, to be printed.
    """

    parameters_C: np.ndarray
    about: str


@dataclasses.dataclass(frozen=True)
class VideoAnswer:
    """The fit of one video's predictions to the frames of the submission, in numbers.

    Attributes:
        asked: rows of the submission.
        predicted: frames with a prediction.
        repeated: rows after the last prediction, which take its value.
        cut: predictions of frames that the submission does not have.
        clipped: values outside [-1, 1], which were set to the nearest end.
    """

    asked: int
    predicted: int
    repeated: int
    cut: int
    clipped: int


def read_predictions(folder: str | Path, task: str) -> dict[str, Path]:
    """Finds the CSV files that ``emojax predict`` wrote for a task: video -> file.

    Raises:
        InputError: the folder has no such files.
    """
    files = {path.stem: path for path in sorted(Path(folder, task).glob("*.csv"))}
    if not files:
        other = sorted(path.name for path in Path(folder).glob("*") if path.is_dir())
        raise InputError(
            f"The folder has no predictions of {task!r}.",
            file=Path(folder, task),
            field="--predictions",
            found="folders " + ", ".join(other) if other else "nothing",
            expected=f"{task}/VIDEO.csv, as written by emojax predict",
        )
    return files


def read_prediction(path: Path, task: str) -> np.ndarray:
    """Reads the decoded predictions of a video, (N, C) float64, from its CSV file.

    Raises:
        InputError: the file is damaged or does not predict every label.
    """
    labels = list(TASKS[task].labels)
    lines = read_lines(path, "file of predictions", "--predictions")
    rows = list(csv.reader(lines))
    header = rows[0] if rows else []
    if header != _CLOCK + labels:
        missing = [label for label in labels if label not in header]
        raise InputError(
            "The file does not predict all labels of the task.",
            file=path,
            field="header",
            found=",".join(header) or "an empty file",
            expected=",".join(_CLOCK + labels),
            remedy=f"predict with a run that was trained for {', '.join(missing)} as well"
            if missing
            else None,
        )
    if len(rows) < 2:
        raise InputError(
            "The file of predictions has no rows.",
            file=path,
            field="rows",
            found="a header alone",
            expected="one row per frame",
        )
    values_NC = np.empty((len(rows) - 1, len(labels)))
    for i, row in enumerate(rows[1:]):
        if len(row) != len(header) or row[0] != str(i + 1):
            raise InputError(
                "A row of the predictions is damaged.",
                file=path,
                field=f"line {i + 2}",
                found=lines[i + 1],
                expected=f"frame {i + 1} and {len(header)} columns",
            )
        try:
            values_NC[i] = [float(cell) for cell in row[2:]]
        except ValueError as error:
            raise InputError(
                "A prediction is not a number.",
                file=path,
                field=f"line {i + 2}",
                found=lines[i + 1],
                expected="numbers",
            ) from error
    return values_NC


def read_decision(path: str | Path, task: str, fold: str = "") -> Decision:
    """Reads the decision that ``evaluate --decision=tuned`` found best from its ``scores.json``.

    Args:
        path: the file to read.
        task: "expr" or "au".
        fold: the fold whose decision to read; "" takes the mean over folds, because the
            predictions of a submission are means over folds, too.

    Raises:
        InputError: the file has no such decision, or not one number for each label.
    """
    path = Path(path)
    field = "--decisions"
    rule = DECISION_RULES.get(TASKS[task].kind)
    if rule is None:
        raise InputError(
            "The task has no decisions to tune.",
            field=field,
            found=f"--task={task}",
            expected="a task with classes or units",
            remedy="leave the flag out",
        )
    try:
        content = json.loads("\n".join(read_lines(path, "file of decisions", field)))
    except (ValueError, RecursionError) as error:
        raise InputError(
            "The file of decisions is damaged.",
            file=path,
            field=field,
            found=str(error),
            expected="the scores.json of an evaluation",
        ) from error
    by_fold = content.get("decisions") if isinstance(content, dict) else None
    by_fold = by_fold if isinstance(by_fold, dict) else {}
    chosen = {
        name: tasks[task]
        for name, tasks in by_fold.items()
        if isinstance(tasks, dict) and task in tasks and fold in ("", name)
    }
    if not chosen:
        raise InputError(
            f"The file holds no tuned decision for {task!r}" + (" of this fold." if fold else "."),
            file=path,
            field=field,
            found="decisions of folds " + ", ".join(by_fold) if by_fold else "no decisions",
            expected="the scores.json of emojax evaluate --decision=tuned",
        )
    each = [_parameters(found, task, rule.parameter, path, name) for name, found in chosen.items()]
    whose = f"fold {next(iter(chosen))}" if len(each) == 1 else f"the mean of {len(each)} folds"
    about = f"tuned {rule.parameter}s of {whose}, from {path}"
    return Decision(np.mean(each, axis=0), about)


def _parameters(found: Any, task: str, parameter: str, path: Path, fold: str) -> np.ndarray:
    """Returns the checked parameters of one fold, (C,)."""
    labels = TASKS[task].labels
    sound = (
        isinstance(found, dict)
        and set(found) == {"tuned", *labels}
        and found["tuned"] == parameter
        and all(_is_number(found[label]) for label in labels)
        and (parameter != "threshold" or all(0 <= found[label] <= 1 for label in labels))
    )
    if not sound:
        raise InputError(
            "A tuned decision is damaged.",
            file=path,
            field=f"decisions, fold {fold}, {task}",
            found=shortened([json.dumps(found)[:200]]),
            expected=f"tuned: {parameter}, and a number for each of " + ", ".join(labels),
            remedy="write it again with emojax evaluate --decision=tuned",
        )
    return np.array([found[label] for label in labels], np.float64)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def answer(
    frames: FrameList,
    predict: Callable[[str], np.ndarray | None],
    task: str,
    decision: Decision | None = None,
) -> tuple[np.ndarray, dict[str, VideoAnswer]]:
    """Returns the values of every row, and the fit of each video's predictions.

    Args:
        frames: the N rows of the submission.
        predict: video -> (frames, C) decoded predictions. None for a video without predictions,
            whose rows become neutral: valence and arousal 0, the first class, no unit.
        task: the task that is predicted.
        decision: tuned thresholds or offsets; without them, argmax and 0.5 decide.

    Returns:
        (N, columns) float64 in the order of the rows, with whole numbers for classes and units;
        and video -> the fit of its predictions.

    Raises:
        InputError: a prediction is not finite, or is not a probability where the task needs one.
    """
    spec = TASKS[task]
    values_NK = np.zeros((len(frames), spec.columns))
    answers = {}
    order = np.argsort(frames.video_N, kind="stable")
    stops = np.cumsum(np.bincount(frames.video_N, minlength=len(frames.videos)))
    for rows, name in zip(np.split(order, stops[:-1]), frames.videos, strict=True):
        predicted_MC = predict(name)
        if predicted_MC is None:
            answers[name] = VideoAnswer(len(rows), 0, 0, 0, 0)
            continue
        _check_predictions(predicted_MC, task, name)
        decided_MK, clipped = _decide(predicted_MC, task, decision)
        asked = frames.number_N[rows] - 1
        late = asked >= len(decided_MK)
        values_NK[rows] = decided_MK[np.where(late, len(decided_MK) - 1, asked)]
        answers[name] = VideoAnswer(
            asked=len(rows),
            predicted=len(decided_MK),
            repeated=int(late.sum()),
            cut=len(decided_MK) - int((~late).sum()),
            clipped=clipped,
        )
    return values_NK, answers


def _check_predictions(predicted_MC: np.ndarray, task: str, name: str) -> None:
    wrong_MC = ~np.isfinite(predicted_MC)
    expected = "finite numbers"
    if not wrong_MC.any() and TASKS[task].kind != "continuous":
        wrong_MC = (predicted_MC < -1e-6) | (predicted_MC > 1 + 1e-6)
        expected = "probabilities from 0 to 1"
    if not wrong_MC.any():
        return
    row, column = np.argwhere(wrong_MC)[0]
    label = TASKS[task].labels[column]
    untrained = np.isnan(predicted_MC[:, column]).all()
    raise InputError(
        f"No replica predicts {label}." if untrained else "A prediction is not a valid value.",
        field=f"{label} of frame {row + 1} of {name}",
        found=predicted_MC[row, column],
        expected=expected,
        remedy=f"use a run that was trained for {label} and did not diverge" if untrained else None,
    )


def _decide(
    predicted_MC: np.ndarray, task: str, decision: Decision | None
) -> tuple[np.ndarray, int]:
    """Returns the values to write, (M, columns), and the number of clipped ones."""
    if TASKS[task].kind == "continuous":
        kept_MC = np.clip(predicted_MC, -1.0, 1.0)
        return kept_MC, int((kept_MC != predicted_MC).sum())
    if decision is not None:
        rule = DECISION_RULES[TASKS[task].kind]
        predicted_MC = rule.move(predicted_MC, decision.parameters_C)
    return np.asarray(TASK_OPS[task].decide(predicted_MC), np.float64), 0


def neutral(task: str) -> str:
    """Returns the row that is written for a frame of a video without any prediction."""
    spec = TASKS[task]
    return f"{spec.labels[0]}" if spec.kind == "categorical" else "0 for " + ", ".join(spec.labels)


def write_submission(path: str | Path, frames: FrameList, task: str, values_NK: np.ndarray) -> None:
    """Writes the file of the 5th to 8th edition: a header, and a row for each frame.

    Args:
        path: the file to write; it is replaced as a whole or not at all.
        frames: the N rows of the submission.
        task: the task, which gives the header.
        values_NK: (N, columns), see ``answer``.

    Raises:
        InputError: the file cannot be written.
    """
    texts = _texts(values_NK, task)
    rows = (f"{place},{text}" for place, text in zip(frames.locations, texts, strict=True))
    _write(Path(path), [",".join(header_of(task)), *rows])


def write_annotations(
    folder: str | Path, frames: FrameList, task: str, values_NK: np.ndarray
) -> None:
    """Writes a submission to the 3rd edition: one .txt per video, in the form of the annotations.

    Args:
        folder: the folder of the files.
        frames: all frames of each video, in order.
        task: the task, which gives the header.
        values_NK: (N, columns), see ``answer``.

    Raises:
        InputError: a file cannot be written.
    """
    texts = _texts(values_NK, task)
    by_video: dict[int, list[str]] = {}
    for video, text in zip(frames.video_N.tolist(), texts, strict=True):
        by_video.setdefault(video, []).append(text)
    for video, lines in by_video.items():
        path = Path(folder, f"{frames.videos[video]}.txt")
        _write(path, [",".join(TASKS[task].labels), *lines])


def _texts(values_NK: np.ndarray, task: str) -> Sequence[str]:
    """Returns the columns of each row as text."""
    if TASKS[task].kind == "continuous":
        return [",".join(f"{value:.{_DECIMALS}f}" for value in row) for row in values_NK.tolist()]
    whole_NK: list[list[int]] = values_NK.astype(np.int64).tolist()
    return [",".join(map(str, row)) for row in whole_NK]


def _write(path: Path, lines: Sequence[str]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            replacing(path) as partial,
            partial.open("w", encoding="utf-8", newline="\n") as file,
        ):
            file.writelines(f"{line}\n" for line in lines)
    except OSError as error:
        raise InputError(
            "The submission cannot be written.",
            file=path,
            field="--out",
            found=error.strerror,
            remedy="choose another place with --out",
        ) from error


def summary(answers: Mapping[str, VideoAnswer]) -> VideoAnswer:
    """Returns the sums over all videos."""
    fields = [field.name for field in dataclasses.fields(VideoAnswer)]
    return VideoAnswer(
        **{name: sum(getattr(one, name) for one in answers.values()) for name in fields}
    )
