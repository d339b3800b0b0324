"""Predictions and scores as tables of pandas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from emojax.datasets.source import Store
from emojax.ops.scores import split_score
from emojax.prediction.predictor import Predictions
from emojax.scoring.fold_scores import BASELINE, OPTIMUM, OURS, FoldResult
from emojax.specs import TASKS


def label_columns(tasks: Sequence[str]) -> dict[str, list[str]]:
    """Returns task -> the columns of its labels; "task/label" where two tasks share a label."""
    counts = Counter(label for task in tasks for label in TASKS[task].labels)
    return {
        task: [label if counts[label] == 1 else f"{task}/{label}" for label in TASKS[task].labels]
        for task in tasks
    }


def prediction_frame(
    store: Store, tasks: Sequence[str], predictions: Mapping[str, Predictions]
) -> pd.DataFrame:
    """Makes a table of predictions, a row for every frame.

    Args:
        store: the store with the videos.
        tasks: the tasks that were predicted.
        predictions: replica -> predictions. The key "" is an ensemble and has no column.

    Returns:
        Columns video, frame (from 1, as in Aff-Wild2), time (seconds), replica, and one for each
        label: a value, or the probability of a class or unit; NaN where no replica was trained
        for it.
    """
    columns = label_columns(tasks)
    parts = []
    for replica, by_video in predictions.items():
        for name, by_task in by_video.items():
            times_N = store.read(store.index_of(name)).pts_N
            head = {"video": name, "frame": 1 + np.arange(len(times_N)), "time": times_N}
            labels = {
                label: by_task[task][:, c]
                for task in tasks
                for c, label in enumerate(columns[task])
            }
            parts.append(pd.DataFrame(head | ({"replica": replica} if replica else {}) | labels))
    return pd.concat(parts, ignore_index=True)


def score_frame(results: Sequence[FoldResult], references: bool) -> pd.DataFrame:
    """Makes a table of the scores of each fold's ensemble.

    Args:
        results: the results of the folds.
        references: add the scores of the best possible prediction (simulated data) and of a ridge
            regression, NaN where there are none.

    Returns:
        Columns fold, task, score, target, value, and with ``references`` optimum and baseline.
    """
    rows = []
    for result in results:
        for task, by_system in result.scores.items():
            for name, value in by_system.get(OURS, {}).items():
                row = score_row(result.fold, task, name, value)
                if references:
                    for column, system in (("optimum", OPTIMUM), ("baseline", BASELINE)):
                        row[column] = by_system.get(system, {}).get(name, np.nan)
                rows.append(row)
    heads = ["fold", "task", "score", "target", "value"]
    return pd.DataFrame(rows, columns=heads + ["optimum", "baseline"] * references)


def score_row(fold: str, task: str, name: str, value: float) -> dict[str, object]:
    """Returns one row of a table of scores; ``name`` is such as "ccc_valence"."""
    score, target = split_score(name)
    return {"fold": fold, "task": task, "score": score, "target": target, "value": value}
