"""Scores of a report: with confidence intervals, and by how much systems differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from emojax.ops.bootstrap import interval, resampled_scores, two_sided_p
from emojax.reporting.page_runs import ReportedRun
from emojax.reporting.timelines import VideoTimeline, assess_video
from emojax.scoring.fold_scores import OURS

# Draws of the bootstrap behind each interval, and the videos below which it comes out too narrow.
DRAWS, FEW_VIDEOS = 1000, 20
# The number of a run in the report, and a system of it.
System = tuple[int, str]


@dataclasses.dataclass(frozen=True)
class Scored:
    """A score and its 95 % bootstrap interval over videos; the ends are NaN if there is none."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Difference:
    """The score of a system minus that of the reference, on the same videos.

    Attributes:
        value: the difference.
        low, high: ends of the paired 95 % bootstrap interval.
        p: two-sided, of the hypothesis that there is no difference.
    """

    value: float
    low: float
    high: float
    p: float


@dataclasses.dataclass(frozen=True)
class ScoreTable:
    """The scores of one task on one group of videos, of all runs that have the group.

    Attributes:
        task: name of the task.
        group: a fold, or "all folds".
        num_videos: annotated videos of each run.
        names: score names, in printing order.
        scores: system -> score name -> score.
        reference: the system that the others are compared with.
        differences: system -> score name -> difference; without the systems that were not
            scored on the same annotations as the reference.
    """

    task: str
    group: str
    num_videos: dict[int, int]
    names: list[str]
    scores: dict[System, dict[str, Scored]]
    reference: System
    differences: dict[System, dict[str, Difference]]


def score_tables(runs: Sequence[ReportedRun], draws: int) -> list[ScoreTable]:
    """Makes a table for each task and group of videos that any run was scored on.

    Videos are drawn ``draws`` times with replacement; see ``ops.bootstrap``. The reference is
    the model of the first run that has the group. Across runs only models are compared;
    optimum and baseline are compared with the model of their own run.
    """
    keys = dict.fromkeys(
        (task, group)
        for run in runs
        for group in run.groups
        for task in dict.fromkeys(t for video in run.videos for t in video.tasks)
        if run.scores(group, task)
    )
    return [_table(runs, task, group, draws) for task, group in keys]


def _table(runs: Sequence[ReportedRun], task: str, group: str, draws: int) -> ScoreTable:
    scores: dict[System, dict[str, Scored]] = {}
    drawn: dict[System, dict[str, np.ndarray]] = {}
    annotated: dict[int, list[VideoTimeline]] = {}
    for number, run in enumerate(runs):
        if group not in run.groups or not run.scores(group, task):
            continue
        annotated[number] = _annotated(run.groups[group], task)
        for system, values in run.scores(group, task).items():
            states = [assess_video(video, task, system)[0] for video in annotated[number]]
            if not states or any(state is None for state in states):
                scores[number, system] = {
                    name: Scored(value, np.nan, np.nan) for name, value in values.items()
                }
                continue
            drawn[number, system] = resampled_scores(task, states, draws=draws)
            scores[number, system] = {
                name: Scored(value, *interval(drawn[number, system][name]))
                for name, value in values.items()
            }
    reference = next((key for key in scores if key[1] == OURS), next(iter(scores)))
    differences = {
        (number, system): _differences(
            scores[number, system],
            scores[reference],
            drawn[number, system],
            drawn[reference],
        )
        for number, system in drawn
        if reference in drawn
        and (number, system) != reference
        and (number == reference[0] or system == OURS)
        and _same(annotated[number], annotated[reference[0]], task)
    }
    names = list(dict.fromkeys(name for by_name in scores.values() for name in by_name))
    counts = {number: len(videos) for number, videos in annotated.items()}
    return ScoreTable(task, group, counts, names, scores, reference, differences)


def _annotated(videos: Sequence[VideoTimeline], task: str) -> list[VideoTimeline]:
    """Returns the videos with annotations, by name, so that two runs have them in one order."""
    some = [video for video in videos if task in video.tasks and video.tasks[task].mask_NK.any()]
    return sorted(some, key=lambda video: video.name)


def _same(a: Sequence[VideoTimeline], b: Sequence[VideoTimeline], task: str) -> bool:
    """Tells whether two runs were scored on the same annotations."""
    if a is b:
        return True
    return [video.name for video in a] == [video.name for video in b] and all(
        np.array_equal(first.tasks[task].mask_NK, second.tasks[task].mask_NK)
        and np.array_equal(first.tasks[task].labels_NK, second.tasks[task].labels_NK)
        for first, second in zip(a, b, strict=True)
    )


def _differences(
    scores: dict[str, Scored],
    reference: dict[str, Scored],
    drawn: dict[str, np.ndarray],
    drawn_reference: dict[str, np.ndarray],
) -> dict[str, Difference]:
    """Compares the scores that both have, draw by draw, because both saw the same draws."""
    found = {}
    for name in scores:
        if name in reference:
            values = drawn[name] - drawn_reference[name]
            found[name] = Difference(
                scores[name].value - reference[name].value, *interval(values), two_sided_p(values)
            )
    return found
