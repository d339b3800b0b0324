"""Measures the gaps between two trainings of the same configuration, from their files."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from emojax.ops.tasks import TASK_OPS
from emojax.reporting.results_folder import TIMELINES_FILE
from emojax.rundir.metric_log import METRICS_FILE, read_metrics
from emojax.scoring.fold_scores import OURS

# The greatest relative difference of training losses that counts as agreement.
TOLERANCE = 1e-5

_Rows = Mapping[int, Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Gaps:
    """The greatest differences between two trainings; infinite if one lacks a number of the other.

    Attributes:
        first: relative, of the training losses of the first epoch, over all replicas.
        loss: relative, of the training losses of all epochs.
        gradient: relative, of the gradients' norms of all epochs and replicas.
        score: absolute, of the validation scores of all epochs and replicas.
        prediction: absolute, of the final weights' predictions of every validation frame.
    """

    first: float
    loss: float
    gradient: float
    score: float
    prediction: float

    @property
    def same(self) -> bool:
        """Returns True if the losses agree to ``TOLERANCE`` and no number is missing."""
        return self.loss <= TOLERANCE and math.isfinite(
            self.gradient + self.score + self.prediction
        )


def gaps(expected: Path, found: Path) -> Gaps:
    """Compares the workdirs of two finished runs of ``emojax.train``.

    Raises:
        InputError: there is no metrics.csv in one of them.
        FileNotFoundError: there are no predictions in one of them.
    """
    before, after = (read_metrics(folder / METRICS_FILE) for folder in (expected, found))
    first = min(before)
    start, other = ({step: row for step, row in rows.items() if step == first}
                    for rows in (before, after))  # fmt: skip
    return Gaps(
        _greatest(start, other, _is_loss, relative=True),
        _greatest(before, after, _is_loss, relative=True),
        _greatest(before, after, _is_gradient, relative=True),
        _greatest(before, after, _is_score),
        prediction_gap(predictions(expected), predictions(found)),
    )


def predictions(workdir: Path) -> dict[str, np.ndarray]:
    """Returns the predictions of a finished run: task -> (T, C), NaN where there are none."""
    with np.load(workdir / "validation" / TIMELINES_FILE) as arrays:
        # The file also has the optimum of tasks that the model does not predict.
        named = {task: f"{task}/{OURS}" for task in arrays["tasks"].tolist()}
        return {task: arrays[name] for task, name in named.items() if name in arrays}


def prediction_gap(expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> float:
    """Returns the greatest absolute difference; infinite if shapes or predicted frames differ."""
    if expected.keys() != found.keys():
        return math.inf
    greatest = 0.0
    for task, y_TC in expected.items():
        other_TC = found[task]
        if y_TC.shape != other_TC.shape or (np.isnan(y_TC) != np.isnan(other_TC)).any():
            return math.inf
        greatest = max(greatest, float(np.nanmax(np.abs(y_TC - other_TC), initial=0.0)))
    return greatest


def _is_loss(column: str) -> bool:
    return column.endswith("/loss")


def _is_gradient(column: str) -> bool:
    return column.endswith("/gradient_norm")


def _is_score(column: str) -> bool:
    return column.rpartition("/")[2] in _SCORES


_SCORES = {"best"}.union(*(operations.score_names for operations in TASK_OPS.values()))


def _greatest(
    before: _Rows, after: _Rows, chosen: Callable[[str], bool], *, relative: bool = False
) -> float:
    """Returns the greatest difference over the chosen columns; infinite if there are none."""
    pairs = []
    if before.keys() != after.keys():
        return math.inf
    for step, row in before.items():
        if row.keys() != after[step].keys():
            return math.inf
        pairs += [(value, after[step][name]) for name, value in row.items() if chosen(name)]
    if not pairs:
        return math.inf
    a_N, b_N = np.array(pairs, np.float64).T
    gap_N = np.abs(a_N - b_N)
    if relative:
        gap_N = gap_N / np.abs(a_N)
    # NaN in both counts as equal; it occurs where a class did not occur.
    gap_N = np.where(np.isnan(a_N) & np.isnan(b_N), 0.0, gap_N)
    return float(np.where(np.isnan(gap_N), np.inf, gap_N).max())
