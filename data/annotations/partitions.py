"""Chooses one partition for each video of Aff-Wild2, whose tasks have different partitions.

Each task has a split of its own: a video may train valence-arousal and validate expressions.
A store has one partition a video, so a video goes to the most held-out one that any of the
chosen tasks or a test list gives it, test before validation before training, and labels of a
task count only where the task itself has the video in that partition. So no task learns from
its own validation or test videos, and validation scores are over no video that is not
officially a validation video. The price is that labels are left out; a store of one task
leaves out none.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from emojax.datasets.record import PARTITIONS
from emojax.datasets.store_checks import check_name
from emojax.errors import InputError

from .challenge_files import Annotation
from .lines import read_lines

_SHOWN = 5  # videos named in a note


@dataclasses.dataclass(frozen=True)
class LabelledVideo:
    """A video of Aff-Wild2 before it has a clock.

    Attributes:
        name: the name of the annotation ("7-60-1920x1080_left").
        source_video: the name of the recording ("7-60-1920x1080").
        partition: the only one it has.
        labels: task -> (n, columns) float32 of the tasks that have it in this partition; n
            may differ between tasks.
        frames: task -> n of every annotation there is, also of those left out.
    """

    name: str
    source_video: str
    partition: str
    labels: dict[str, np.ndarray]
    frames: dict[str, int]


def source_of(name: str) -> str:
    """Returns the recording of a video: its name without ``_left`` or ``_right``."""
    for person in ("_left", "_right"):
        if name.endswith(person) and name != person:
            return name.removesuffix(person)
    return name


def read_test_list(path: Path) -> list[str]:
    """Reads an official test list: one video a line, no header.

    Raises:
        InputError: the file cannot be read, or a line is no name or comes twice.
    """
    names: dict[str, int] = {}
    for number, line in enumerate(read_lines(path), 1):
        name = line.strip()
        check_name(name, f"line {number}, video name", path)
        if name in names:
            raise InputError(
                "A test list names a video twice.",
                file=path,
                field=f"line {number}",
                found=name,
                expected=f"each video once; it is on line {names[name]} already",
            )
        names[name] = number
    return list(names)


def merge_tasks(
    annotations: Iterable[Annotation], test_names: Sequence[str]
) -> tuple[list[LabelledVideo], list[str]]:
    """Gives every video one partition.

    Args:
        annotations: the annotations of all tasks to build for.
        test_names: videos of test lists, whatever the task.

    Returns:
        the videos, by partition and then by name; and notes for the user: videos that are in
        several partitions, and what was decided.
    """
    files: dict[str, dict[tuple[str, str], Annotation]] = collections.defaultdict(dict)
    for annotation in annotations:
        files[annotation.video][annotation.task, annotation.partition] = annotation
    notes = []
    videos = []
    left_out: dict[tuple[str, str, str], list[LabelledVideo]] = collections.defaultdict(list)
    listed = set(test_names)
    for name in sorted(listed | set(files)):
        roles: dict[str, str] = {}
        for task, partition in files[name]:
            known = roles.get(task)
            if known is not None:
                kept = _most_held_out((known, partition))
                notes.append(
                    f"{name} is in the {known} and the {partition} set of {task}: kept in {kept}"
                )
                partition = kept
            roles[task] = partition
        chosen = _most_held_out([*roles.values(), *(["test"] if name in listed else [])])
        video = LabelledVideo(
            name=name,
            source_video=source_of(name),
            partition=chosen,
            labels={
                task: files[name][task, role].labels_NK
                for task, role in roles.items()
                if role == chosen
            },
            frames={task: len(files[name][task, role].labels_NK) for task, role in roles.items()},
        )
        videos.append(video)
        for task, role in roles.items():
            if role != chosen:
                left_out[task, role, chosen].append(video)
    for (task, role, chosen), concerned in left_out.items():
        frames = sum(video.frames[task] for video in concerned)
        notes.append(
            f"{len(concerned)} videos of the {task} {role} set are in {chosen}, where another "
            f"task or a test list has them; their {frames} frames of {task} labels are left out: "
            + _named([video.name for video in concerned])
        )
    notes += _shared_sources(videos)
    videos.sort(key=lambda video: (PARTITIONS.index(video.partition), video.name))
    return videos, notes


def _most_held_out(partitions: Iterable[str]) -> str:
    return max(partitions, key=PARTITIONS.index)


def _shared_sources(videos: list[LabelledVideo]) -> list[str]:
    by_source: dict[str, set[str]] = collections.defaultdict(set)
    for video in videos:
        by_source[video.source_video].add(video.partition)
    shared = [source for source, parts in by_source.items() if "train" in parts and len(parts) > 1]
    if not shared:
        return []
    return [
        f"{len(shared)} source videos are on both sides of the official split, one person each: "
        + _named(shared)
    ]


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
