"""Compares the scores of two or more runs on the same videos, and tests the differences."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from emojax.errors import InputError
from emojax.ops.bootstrap import interval, pooled_state, two_sided_p
from emojax.ops.metrics import Moments
from emojax.ops.scores import score_kind, split_score
from emojax.ops.significance import fisher_test
from emojax.specs import TASKS
from emojax.studies.study_data import StudiedRun, VideoStates


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A score of the first run and of another one.

    Attributes:
        task, score: the task and the name of the score.
        first, second: the names of the runs.
        value, other: their scores.
        difference: value - other.
        z, z_p: Fisher's z and its p, **approximate** (see ``ops.significance``); None for scores
            that are not a correlation of one column.
        low, high, p: interval and two-sided p of the difference, by paired bootstrap over videos.
    """

    task: str
    score: str
    first: str
    second: str
    value: float
    other: float
    difference: float
    z: float | None
    z_p: float | None
    low: float
    high: float
    p: float


def compare_runs(
    runs: Sequence[StudiedRun],
    progress: Callable[[int, int], None],
    *,
    draws: int = 1000,
    seed: int = 0,
) -> list[Comparison]:
    """Compares the first run with every other one, by the scores that both have.

    Args:
        runs: two or more runs on the same store and partition.
        progress: called with the work done and the whole work after each run.
        draws: the number of draws of the bootstrap.
        seed: the seed of the draws.

    Raises:
        InputError: there are fewer than two runs, they are scored on different videos, or they
            have no score in common.
    """
    if len(runs) < 2:
        raise InputError(
            "A comparison needs two or more runs.",
            field="--checkpoint",
            found=", ".join(one.name for one in runs),
            expected="two or more: --checkpoint=A --checkpoint=B",
        )
    scored = []
    for number, studied in enumerate(runs):
        predictions = studied.run.predict(studied.store, [list(names) for names in studied.videos])
        scored.append(VideoStates(studied).add(studied.ensembles(predictions)))
        progress(number + 1, len(runs))
    found: list[Comparison] = []
    for studied, states in zip(runs[1:], scored[1:], strict=True):
        pair = (runs[0].name, studied.name)
        for task in scored[0].tasks:
            if task in states.tasks:
                _check_videos(studied, scored[0], states, task, pair)
                found += _compare(scored[0], states, task, pair, draws, seed)
    if not found:
        raise InputError(
            "The runs have no score in common.",
            field="--checkpoint",
            found="; ".join(f"{one.name}: {', '.join(one.run.session.tasks)}" for one in runs),
            expected="runs that were trained for the same task",
        )
    return found


def _check_videos(
    studied: StudiedRun, first: VideoStates, second: VideoStates, task: str, pair: tuple[str, str]
) -> None:
    videos = [states.videos(task) for states in (first, second)]
    if videos[0] != videos[1]:
        counts = [" + ".join(str(len(group)) for group in groups) for groups in videos]
        raise InputError(
            "The runs are scored on different videos, or in different folds.",
            file=studied.store.path,
            field="--checkpoint",
            found=f"{pair[0]}: {counts[0]} videos, {pair[1]}: {counts[1]} videos",
            expected="the same videos in the same folds",
            remedy="compare runs that were trained with the same config.replicas.folds",
        )


def _compare(
    first: VideoStates,
    second: VideoStates,
    task: str,
    pair: tuple[str, str],
    draws: int,
    seed: int,
) -> list[Comparison]:
    a, b = first.scores(task), second.scores(task)
    of_a, of_b = first.draws(task, draws, seed), second.draws(task, draws, seed)
    found = []
    for name in first.names(task):
        if name not in b:
            continue
        differences = of_a[name] - of_b[name]
        num_frames = _frames(first.groups(task), task, name)
        test = None if num_frames is None else fisher_test(a[name], b[name], num_frames)
        found.append(
            Comparison(
                task,
                name,
                *pair,
                a[name],
                b[name],
                a[name] - b[name],
                test.z if test else None,
                test.p if test else None,
                *interval(differences),
                two_sided_p(differences),
            )
        )
    return found


def _frames(groups: Sequence[Sequence[Any]], task: str, score: str) -> int | None:
    """Returns the number of frames behind a correlation of one column; None for other scores."""
    labels, label = TASKS[task].labels, split_score(score)[1]
    # A mean over folds is not a correlation of all frames.
    if not score_kind(score).correlation or label not in labels or len(groups) > 1:
        return None
    state = pooled_state(groups[0])
    count_C = np.asarray(state.count) if isinstance(state, Moments) else None
    return None if count_C is None else int(count_C[labels.index(label)])
