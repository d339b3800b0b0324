"""Runs the studies that published tables show: missing modalities, and significance."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from emojax.datasets.source import Store
from emojax.ops.bootstrap import interval, resampled_scores, two_sided_p
from emojax.ops.significance import dagger, fisher_test
from emojax.papers.table_runs import Run, write_atomically
from emojax.papers.table_scores import Measured
from emojax.prediction.trained_run import open_run
from emojax.scoring.evaluation import partition_videos
from emojax.studies.missing_modality import MissingPlan, missing_modality
from emojax.studies.study_data import StudiedRun

_DRAWS = 1000


def missing_scores(
    run: Run,
    store: Store,
    fold: str,
    partition: str,
    shares: Sequence[float],
    trials: int,
    progress: Callable[[int, int], None],
) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Scores a run while frames of a stream go missing, and keeps the scores on disk.

    Rows are zeroed at the model's input while their validity stays on (ExpTrm, section 5.3). The
    mean of the seeds' predictions is scored.

    Args:
        run: a run that has the fold.
        store: the store that it was trained on.
        fold, partition: the videos to score.
        shares: shares of the frames that go missing, 0 to 1.
        trials: draws of the frames for each share.
        progress: called with the work done and the whole work.

    Returns:
        Stream -> share ("0.3") -> score name -> value of each trial.
    """
    name = f"missing-{partition}-{fold}-{trials}-{len(shares)}.json"
    file = run.folder / name
    if file.is_file():
        return json.loads(file.read_text())
    trained = open_run(run.folder)
    folds = tuple(trained.folds(store))
    # Other folds of the run get no videos, so they cost nothing and are not scored.
    videos = tuple(
        tuple(partition_videos(store, one, partition)) if one.name == fold else () for one in folds
    )
    studied = StudiedRun(name, trained, store, partition, folds, videos)
    plan = MissingPlan(
        shares=tuple(shares), trials=trials, patterns=("frames",), stream_by="stream"
    )
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for point in missing_modality(studied, plan, progress):
        by_share = found.setdefault(point.group, {}).setdefault(share_key(point.share), {})
        by_share[point.score] = list(point.values)
    write_atomically(file, json.dumps(found, indent=1) + "\n")
    return found


def share_key(share: float) -> str:
    """Returns a share as a key of ``missing_scores``."""
    return f"{share:g}"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The comparison of a row's score with another row's.

    Attributes:
        row, versus: the labels of the two rows.
        column: the title of the column.
        difference: the difference of the means over seeds, row minus versus.
        z, fisher_p: Fisher's z and its p; both are approximate.
        low, high, p: the interval and p of the paired bootstrap over videos.
    """

    row: str
    versus: str
    column: str
    difference: float
    z: float
    fisher_p: float
    low: float
    high: float
    p: float

    @property
    def mark(self) -> str:
        """Returns a dagger if Fisher's p is below the paper's level, else ""."""
        return dagger(self.fisher_p)

    def line(self) -> str:
        """Returns the comparison as one line of text."""
        return (
            f"{self.row} - {self.versus}, {self.column}: {self.difference:+.3f}; Fisher's z "
            f"{self.z:.1f}, p {_p(self.fisher_p)} (approximate); paired bootstrap over videos "
            f"[{self.low:+.3f}, {self.high:+.3f}], p {_p(self.p)}"
        )


def compare(
    labels: tuple[str, str, str],
    first: Measured,
    second: Measured,
    fold: str,
    task: str,
    score: str,
    seeds: Sequence[int],
) -> Comparison | None:
    """Compares two runs on the videos of a fold; None where a seed of either diverged.

    Fisher's z takes the means over seeds. In each draw of the bootstrap the seeds' scores are
    averaged likewise, and both runs are scored on the same videos.

    Args:
        labels: the labels of the row, the other row and the column.
        first, second: the scores of the two runs on the same partition.
        fold, task, score: the fold, task and score to compare.
        seeds: the seeds to average over.
    """
    means, draws = [], []
    for measured in (first, second):
        means.append(float(np.mean(measured.values(fold, [score], seeds))))
        states = [measured.states(fold, seed, task) for seed in seeds]
        if math.isnan(means[-1]) or not all(states):
            return None
        draws.append(np.mean([_draws(task, of_seed)[score] for of_seed in states], axis=0))
    fisher = fisher_test(means[0], means[1], first.frames[fold][task])
    differences = draws[0] - draws[1]
    low, high = interval(differences)
    return Comparison(
        *labels, means[0] - means[1], fisher.z, fisher.p, low, high, two_sided_p(differences)
    )


def _draws(task: str, states: Sequence[Any]) -> dict[str, np.ndarray]:
    return resampled_scores(task, states, draws=_DRAWS)


def _p(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}" if value >= 0.001 else "< 0.001"
