"""Measures what a study's mechanisms are worth, and what late fusion of single streams reaches."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.study_table import Row
from emojax.models.mechanisms import mechanisms_of
from emojax.ops.tasks import TASK_OPS
from emojax.prediction.predictor import Annotations, read_annotations
from emojax.prediction.trained_run import open_run
from emojax.scoring.evaluation import OPTIMUM, evaluate_folds, partition_videos
from emojax.studies.mechanism_study import mechanism_study
from emojax.studies.study_data import open_studied

# The score in which effects are told, for valence and arousal.
_SCORE, _DRAWS = "ccc_mean", 1000


def effects(run: Path, partition: str) -> list[dict[str, Any]]:
    """Returns the fall of the score without each mechanism of a run; empty if it has none."""
    studied = open_studied([str(run)], None, "", partition)[0]
    if not mechanisms_of(studied.run.session.model):
        return []
    found = mechanism_study(studied, lambda done, total: None, shuffles=1, draws=_DRAWS)
    return [dataclasses.asdict(one) for one in found if one.score == _SCORE]


def effects_table(found: Mapping[str, Sequence[Mapping[str, Any]]], title: str) -> str:
    """Returns the effects of all cases in Markdown.

    Args:
        found: label of a case -> its effects, as ``effects`` returns them.
        title: the title of the study.
    """
    head = (
        "system", "mechanism", "without it", "as trained", "fall", "95 % interval",
        "over the seeds", "seeds' range as trained", "earns its place",
    )  # fmt: skip
    lines = [f"# {title}: {_SCORE} without each mechanism", ""]
    lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for label, of_case in found.items():
        for one in of_case:
            earns = one["low"] > 0.0 and one["drop"] > one["intact_range"]
            cells = (
                label,
                one["mechanism"],
                one["how"],
                f"{one['intact']:.3f}",
                f"{one['drop']:.3f}",
                f"{one['low']:.3f} .. {one['high']:.3f}",
                f"{one['least']:.3f} .. {one['greatest']:.3f}",
                f"{one['intact_range']:.3f}",
                "yes" if earns else "no",
            )
            lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        '"replaced": the mechanism gives what it would if it had learned nothing. "shuffled": it '
        "reads the other modalities of another video. The interval is a paired bootstrap over "
        "videos. A mechanism earns its place here if the interval is above zero and the fall "
        "greater than the range of the seeds' scores.",
    ]
    return "\n".join(lines) + "\n"


def late_fusion(label: str, runs: Sequence[Path], partition: str) -> list[Row]:
    """Scores the best weighted sum of the predictions of runs that read a stream each.

    The weights are chosen on the scored frames themselves, so no late fusion with fixed weights
    reaches more: the sum with the highest CCC is the least-squares fit, scaled to the labels'
    deviation, and its CCC is the multiple correlation.

    Args:
        label: the name of the row.
        runs: trained with the same seeds.
        partition: the partition that is scored.
    """
    opened = [open_run(run) for run in runs]
    store = opened[0].open_store()
    (fold,) = opened[0].folds(store)
    names = partition_videos(store, fold, partition)
    predicted = [run.predict(store, [names]) for run in opened]
    truth = read_annotations(store, fold, names, "va")
    seeds = [
        _fused([replicas[r] for replicas in predicted], truth) for r in range(len(predicted[0]))
    ]
    (result,) = evaluate_folds(opened[0].session, store, predicted[0], [fold], partition)
    known = result.scores["va"]
    return [
        Row(
            group=label,
            label="",
            partition=partition,
            score=score,
            seeds=tuple(of_seed[score] for of_seed in seeds),
            ensemble=float("nan"),
            optimum=known[OPTIMUM][score],
            ridge=float("nan"),  # of one stream, beside which nobody looks
            seconds=float("nan"),
        )
        for score in ("ccc_valence", "ccc_arousal")
    ]


def _fused(runs: Sequence[Mapping[str, Any]], truth: Annotations) -> dict[str, float]:
    """Returns the scores of the best weighted sum of the predictions of several runs."""
    columns = truth.labels_NK.shape[1]
    fused_NK = np.zeros(truth.labels_NK.shape)
    for k in range(columns):
        each = [np.concatenate([run[name]["va"][:, k] for name in truth.names]) for run in runs]
        x_NM = np.stack([*each, np.ones_like(each[0])], axis=1).astype(np.float64)
        kept_N = truth.mask_NK[:, k]
        label_N = truth.labels_NK[kept_N, k].astype(np.float64)
        weights_M, *_ = np.linalg.lstsq(x_NM[kept_N], label_N, rcond=None)
        fitted_N = x_NM @ weights_M
        mean, scale = label_N.mean(), label_N.std() / fitted_N[kept_N].std()
        fused_NK[:, k] = mean + scale * (fitted_N - fitted_N[kept_N].mean())
    return TASK_OPS["va"].scores(fused_NK, truth.labels_NK, truth.mask_NK)
