"""Reads a submission as the organisers would, and refuses one that is wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from emojax.errors import InputError
from emojax.exchange.submission_frames import (
    FrameList,
    check_header,
    frame_list,
    header_of,
    read_lines,
    shortened,
)
from emojax.specs import TASKS, TaskSpec


def check_submission(
    path: str | Path, task: str, frames: FrameList | None = None
) -> tuple[FrameList, np.ndarray]:
    """Checks a file of the 5th to 8th edition.

    Args:
        path: the file to read.
        task: the task whose header and values the file must hold.
        frames: the rows that the file must hold, in order. If None, the rows of each video must
            be contiguous, with frames 1, 2, 3 and so on.

    Returns:
        The rows, and their values (N, columns) float64.

    Raises:
        InputError: the header is wrong; a row is missing, surplus, repeated or misplaced; or a
            value is not a number, not whole or out of range. The error names the first such line.
    """
    path = Path(path)
    lines = read_lines(path, "submission", "--validate")
    check_header(lines[0] if lines else "", task, path, "header")
    cells = [_cells(lines[i], task, path, i + 1) for i in range(1, len(lines))]
    found = frame_list([row[0] for row in cells], path)
    if frames is None:
        _check_sequence(found, path)
    else:
        _check_rows(found, frames, path)
    spec = TASKS[task]
    values_NK = np.empty((len(cells), spec.columns))
    for i, row in enumerate(cells):
        values_NK[i] = [_value(text, spec, path, i + 2) for text in row[1:]]
    return found, values_NK


def check_annotations(
    folder: str | Path, task: str, frames: Mapping[str, int | None]
) -> dict[str, np.ndarray]:
    """Checks a submission to the 3rd edition: a folder with one .txt per video.

    Args:
        folder: the folder of the files.
        task: the task whose header and values the files must hold.
        frames: video -> its number of frames, or None if it is not known.

    Returns:
        The values: video -> (frames, columns) float64.

    Raises:
        InputError: a file is missing, surplus or wrong. The error names its first wrong line.
    """
    folder = Path(folder)
    files = {path.stem: path for path in sorted(folder.glob("*.txt"))}
    missing = [name for name in frames if name not in files]
    surplus = [name for name in files if name not in frames]
    if missing or (surplus and frames) or not files:
        raise InputError(
            "The files are not those of the test set.",
            file=folder,
            field="files",
            found=f"{len(missing)} missing, {len(surplus)} too many: "
            + shortened([*missing, *surplus])
            if files
            else "no .txt file",
            expected="one .txt for each video",
        )
    spec = TASKS[task]
    values = {}
    for name, path in files.items():
        lines = read_lines(path, "submission", "--validate")
        if not lines or lines[0] != ",".join(spec.labels):
            raise InputError(
                f"The header is not that of {task!r}.",
                file=path,
                field="header, line 1",
                found=lines[0] if lines else "an empty file",
                expected=",".join(spec.labels),
            )
        expected = frames.get(name)
        if expected not in (None, len(lines) - 1):
            raise InputError(
                "The number of rows of a file is not the number of frames of its video.",
                file=path,
                field="rows",
                found=len(lines) - 1,
                expected=expected,
            )
        rows = [_split(lines[i], spec.columns, path, i + 1) for i in range(1, len(lines))]
        values[name] = np.array(
            [[_value(text, spec, path, i) for text in row] for i, row in enumerate(rows, 2)]
        ).reshape(-1, spec.columns)
    return values


def _cells(line: str, task: str, path: Path, number: int) -> list[str]:
    return _split(line, 1 + TASKS[task].columns, path, number, header_of(task))


def _split(
    line: str, count: int, path: Path, number: int, columns: list[str] | None = None
) -> list[str]:
    cells = line.split(",")
    if len(cells) != count:
        what = f"{count} columns" + (f", the first of them {columns[0]}" if columns else "")
        raise InputError(
            "A row does not have the columns of the task.",
            file=path,
            field=f"line {number}",
            found=f"{len(cells)} in {line!r}" if line else "an empty line",
            expected=what,
        )
    return cells


def _check_rows(found: FrameList, frames: FrameList, path: Path) -> None:
    """Refuses rows that are missing, surplus or in another order."""
    if found.locations == frames.locations:
        return
    missing = list(dict.fromkeys(frames.locations).keys() - set(found.locations))
    surplus = list(dict.fromkeys(found.locations).keys() - set(frames.locations))
    for names, summary in (
        (missing, "The submission lacks rows."),
        (surplus, "The submission has rows that the template does not have."),
    ):
        if names:
            raise InputError(
                summary,
                file=path,
                field="rows",
                found=f"{len(found)} rows; concerned: {shortened(sorted(names))}",
                expected=f"the {len(frames)} rows of the template",
            )
    pairs = zip(found.locations, frames.locations, strict=True)
    line, (is_there, should_be) = next(
        (line, pair) for line, pair in enumerate(pairs, 2) if pair[0] != pair[1]
    )
    raise InputError(
        "The rows are not in the order of the template.",
        file=path,
        field=f"line {line}",
        found=is_there,
        expected=should_be,
    )


def _check_sequence(found: FrameList, path: Path) -> None:
    """Refuses videos whose rows are not contiguous with frames 1, 2, 3 and so on."""
    if not len(found):
        raise InputError(
            "The submission has no rows.",
            file=path,
            field="rows",
            found="a header alone",
            expected="one row per frame",
        )
    first_N = np.concatenate([[True], found.video_N[1:] != found.video_N[:-1]])
    starts = np.flatnonzero(first_N)
    expected_N = np.arange(len(found)) - np.repeat(starts, np.diff([*starts, len(found)])) + 1
    wrong = np.flatnonzero(found.number_N != expected_N)
    if wrong.size:
        row = int(wrong[0])
        raise InputError(
            "The frames of a video are not numbered 1, 2, 3 and so on.",
            file=path,
            field=f"line {row + 2}",
            found=found.locations[row],
            expected=f"frame {expected_N[row]} of {found.videos[found.video_N[row]]}",
            remedy="name the organisers' --template, if it leaves frames out",
        )


def _value(text: str, spec: TaskSpec, path: Path, line: int) -> float:
    """Parses a cell as a number, which must be whole for classes and units."""
    if spec.kind == "continuous":
        expected = "a number from -1 to 1"
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        sound = -1.0 <= value <= 1.0
    else:
        largest = len(spec.labels) - 1 if spec.kind == "categorical" else 1
        expected = f"a whole number from 0 to {largest}"
        sound = text.isascii() and text.isdigit() and int(text) <= largest
        value = float(text) if sound else math.nan
    if not sound:
        raise InputError(
            "A value is not allowed in a submission.",
            file=path,
            field=f"line {line}",
            found=text or "nothing",
            expected=expected,
        )
    return value
