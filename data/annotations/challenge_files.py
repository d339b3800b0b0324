"""Aff-Wild2's annotation files, of the 3rd to 7th ABAW edition, read strictly.

    <root>/VA_Estimation_Challenge/Train_Set/<video>.txt            3rd, 5th, 6th edition
    <root>/EXPR_Recognition_Challenge/Validation_Set/<video>.txt    or EXPR_Classification_...
    <root>/AU_Detection_Challenge/Test_Set/<video>.txt              only of simulated data
    <root>/training_set_annotations.txt                             4th, 7th edition: multi-task
    <root>/validation_set_annotations.txt

The folders and files may also lie one folder deeper. In the files of the challenges line i
after the header is frame i of the video, counted from 1. A line of a multi-task file names its
frame (``video/00001.jpg``), so that frames without a crop are simply not there.

-5 (VA) and -1 (EXPR, AU) mean "not annotated" and stay in the labels as they are: they are a
mask, never a reason to leave a frame out. A frame without valence or without arousal has
neither.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from emojax.datasets.store_checks import check_known, check_name
from emojax.errors import InputError, closest
from emojax.specs import TASKS

from .lines import (
    as_labels,
    bad_line,
    check_header,
    check_values,
    columns_order,
    parse_numbers,
    read_lines,
)

# Task -> names of its folder over the editions.
CHALLENGES: dict[str, tuple[str, ...]] = {
    "va": ("VA_Estimation_Challenge",),
    "expr": ("EXPR_Recognition_Challenge", "EXPR_Classification_Challenge"),
    "au": ("AU_Detection_Challenge",),
}
SETS = {"train": "Train_Set", "validation": "Validation_Set", "test": "Test_Set"}
MULTITASK_FILES = {
    "train": "training_set_annotations.txt",
    "validation": "validation_set_annotations.txt",
    "test": "test_set_annotations.txt",
}
MULTITASK_HEADER = ("image", "valence", "arousal", "expression", "aus")
# Columns of a multi-task row after the image.
_MULTITASK_COLUMNS = {"va": slice(0, 2), "expr": slice(2, 3), "au": slice(3, 15)}
_MULTITASK_WIDTH = 15
_IMAGE = re.compile(r"(?P<video>.+)/(?P<number>[0-9]{1,9})\.(?:jpg|jpeg|png)", re.IGNORECASE)
_MOST_FRAMES = 1_000_000  # 9 hours; a larger frame number is a typing error


@dataclasses.dataclass(frozen=True)
class Annotation:
    """The labels that one file gives one video.

    Attributes:
        task: "va", "expr" or "au".
        partition: "train", "validation" or "test", by the file's folder.
        video: the annotation's name ("7-60-1920x1080_left").
        file: the file that it was read from.
        labels_NK: (N, columns) float32, row i the i-th frame; the task's ignore value where
            not annotated.
    """

    task: str
    partition: str
    video: str
    file: Path
    labels_NK: np.ndarray


@dataclasses.dataclass(frozen=True)
class AnnotationFiles:
    """The places of annotations below a root: the challenges' folders, or multi-task files.

    Attributes:
        root: the folder that the user named.
        folders: task -> its folder.
        multitask: partition -> file.
    """

    root: Path
    folders: dict[str, Path]
    multitask: dict[str, Path]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Returns the tasks that have annotations."""
        return tuple(CHALLENGES) if self.multitask else tuple(self.folders)


def header_of(task: str) -> tuple[str, ...]:
    """Returns the columns that the header of a task's annotation file names."""
    return TASKS[task].labels


def find_annotations(root: str | Path) -> AnnotationFiles:
    """Finds the challenges' folders or the multi-task files, at most one folder deep.

    Raises:
        InputError: there are none, two for one task, or both forms.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(
            "The annotations are not there.",
            file=root,
            field="--annotations",
            found="no such folder",
            expected="the folder that holds "
            + ", ".join(names[0] for names in CHALLENGES.values()),
        )
    inside = sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
    places = [root, *inside]
    folders = {}
    for task, names in CHALLENGES.items():
        found = [place / name for place in places for name in names if (place / name).is_dir()]
        if found:
            folders[task] = _only(found, root, f"folder of task {task}")
    multitask = {}
    for partition, name in MULTITASK_FILES.items():
        found = [place / name for place in places if (place / name).is_file()]
        if found:
            multitask[partition] = _only(found, root, name)
    if folders and multitask:
        _only([*folders.values(), *multitask.values()], root, "form of annotations")
    if not folders and not multitask:
        raise InputError(
            "There are no annotations in this folder.",
            file=root,
            field="--annotations",
            found=", ".join(path.name for path in inside[:5]) or "no folders",
            expected="one of "
            + ", ".join(name for names in CHALLENGES.values() for name in names)
            + f", or {MULTITASK_FILES['train']}",
            remedy="give the folder that was unpacked from the organisers' archive",
        )
    return AnnotationFiles(root, folders, multitask)


def read_annotations(
    files: AnnotationFiles,
    tasks: Sequence[str],
    *,
    by_name: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    problem: Callable[[InputError], None] | None = None,
) -> Iterator[Annotation]:
    """Reads all annotations of some tasks, in a fixed order.

    Args:
        files: see ``find_annotations``.
        tasks: some of ``files.tasks``.
        by_name: accept columns in another order than the official one.
        progress: called with the number of files read and their total.
        problem: called with the error about a file of one video, which is then left out; without
            it, the first error is raised.

    Raises:
        InputError: a task has no annotations, or a file is not of the official form, naming
            the file and the line.
    """
    check_known(tasks, files.tasks, "task of these annotations", "--tasks", files.root)
    if files.multitask:
        for done, (partition, path) in enumerate(files.multitask.items(), 1):
            yield from _read_multitask(path, partition, tasks)
            progress(done, len(files.multitask))
        return
    listed = [
        (task, partition, path)
        for task in tasks
        for partition, path in _label_files(files.folders[task])
    ]
    for done, (task, partition, path) in enumerate(listed, 1):
        check_name(path.stem, "video name", path)
        try:
            labels_NK = read_annotation(path, task, by_name=by_name)
        except InputError as error:
            if problem is None:
                raise
            problem(error)
            continue
        yield Annotation(task, partition, path.stem, path, labels_NK)
        progress(done, len(listed))


def read_annotation(path: Path, task: str, *, by_name: bool = False) -> np.ndarray:
    """Reads the annotations of one video and task.

    Args:
        path: a file with a header and one line per frame.
        task: "va", "expr" or "au".
        by_name: accept columns in another order than the official one. Classes have numbers, not
            columns, and so no other order.

    Returns:
        (N, columns) float32 with the task's ignore value where not annotated.

    Raises:
        InputError: the file cannot be read, has another header, no frame, or a line that is
            not what the task asks for, naming file and line.
    """
    lines = read_lines(path)
    order = None
    if by_name and TASKS[task].columns > 1:
        order = columns_order(lines[0], header_of(task))
    if order is None:
        check_header(path, lines[0], header_of(task))
    if len(lines) == 1:
        raise InputError(
            "An annotation file holds no frame.",
            file=path,
            field="line 2",
            found="the end of the file",
            expected="one line per frame after the header",
        )
    columns = TASKS[task].columns
    values_NK = parse_numbers(path, lines[1:], columns)
    if order is not None:
        values_NK = values_NK[:, order]
    check_values(path, values_NK, task)
    return as_labels(values_NK, task)


def read_multitask(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Reads a multi-task file of the 4th or 7th edition.

    Returns:
        video -> task -> (N, columns) float32, where N is the largest frame number that the
        file names and frames that it does not name are not annotated.

    Raises:
        InputError: as ``read_annotation``, or an image twice.
    """
    lines = read_lines(path)
    check_header(path, lines[0], MULTITASK_HEADER, (*MULTITASK_HEADER[:-1], *header_of("au")))
    frames: dict[str, list[int]] = {}
    rows: dict[str, list[int]] = {}
    rest = []
    for row, line in enumerate(lines[1:]):
        image, _, numbers = line.partition(",")
        match = _IMAGE.fullmatch(image.strip())
        number = int(match["number"]) if match else 0
        if match is None or not 1 <= number <= _MOST_FRAMES:
            raise bad_line(path, row, line, "video/00001.jpg and 15 numbers, frames from 1")
        video = match["video"]
        if video not in frames:
            check_name(video, f"line {row + 2}, video name", path)
        frames.setdefault(video, []).append(number - 1)
        rows.setdefault(video, []).append(row)
        rest.append(numbers)
    if not rest:
        raise InputError(
            "An annotation file holds no frame.", file=path, field="line 2", found="the end"
        )
    values_RK = parse_numbers(path, rest, _MULTITASK_WIDTH)
    for task, columns in _MULTITASK_COLUMNS.items():
        check_values(path, values_RK[:, columns], task)
    result: dict[str, dict[str, np.ndarray]] = {}
    for video, indices in frames.items():
        frame_M, row_M = np.asarray(indices), np.asarray(rows[video])
        order_M = np.argsort(frame_M, kind="stable")
        again = np.flatnonzero(np.diff(frame_M[order_M]) == 0)
        if again.size:
            row = int(row_M[order_M[again[0] + 1]])
            raise bad_line(path, row, lines[row + 1], "each image once")
        result[video] = {}
        for task, columns in _MULTITASK_COLUMNS.items():
            shape = (int(frame_M.max()) + 1, TASKS[task].columns)
            labels_NK = np.full(shape, TASKS[task].ignore, np.float32)
            labels_NK[frame_M] = as_labels(values_RK[row_M, columns], task)
            result[video][task] = labels_NK
    return result


def _read_multitask(path: Path, partition: str, tasks: Sequence[str]) -> Iterator[Annotation]:
    for video, by_task in read_multitask(path).items():
        for task in tasks:
            yield Annotation(task, partition, video, path, by_task[task])


def _label_files(folder: Path) -> list[tuple[str, Path]]:
    """Lists (partition, file) of every annotation file of a challenge."""
    known = {name.lower(): partition for partition, name in SETS.items()}
    result = []
    for inner in sorted(folder.iterdir()):
        if inner.name.startswith("."):
            continue
        if inner.name.lower() not in known or not inner.is_dir():
            raise InputError(
                "The folder of a challenge holds something else.",
                file=inner,
                found=inner.name,
                expected="only the folders " + ", ".join(SETS.values()),
                remedy=closest(inner.name, SETS.values()) or "move it away",
            )
        for path in sorted(inner.iterdir()):
            if path.name.startswith("."):
                continue
            if path.suffix != ".txt" or not path.is_file():
                raise InputError(
                    "A folder of annotations holds something else.",
                    file=path,
                    found=path.name,
                    expected="only files <video>.txt",
                    remedy="move it away, or rename it",
                )
            result.append((known[inner.name.lower()], path))
    if not result:
        raise InputError(
            "The folder of a challenge holds no annotations.",
            file=folder,
            found="no .txt file",
            expected=f"{SETS['train']}/<video>.txt",
        )
    return result


def _only(found: list[Path], root: Path, what: str) -> Path:
    if len(found) > 1:
        raise InputError(
            "There are several editions of annotations in this folder.",
            file=root,
            field=what,
            found=", ".join(str(path.relative_to(root)) for path in found[:4]),
            expected="one",
            remedy="give the folder of one edition as --annotations",
        )
    return found[0]
