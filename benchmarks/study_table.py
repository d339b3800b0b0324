"""Makes the scores, tables and pictures of the studies."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.study_cases import Case
from emojax.prediction.predictor import read_annotations, replica_scores
from emojax.prediction.trained_run import open_run
from emojax.scoring.evaluation import (
    BASELINE,
    OPTIMUM,
    OURS,
    evaluate_folds,
    partition_videos,
)

# The scores of tasks that tables show.
SHOWN = ("ccc_valence", "ccc_arousal", "f1_macro", "f1_mean")


@dataclasses.dataclass(frozen=True)
class Row:
    """A score of a case on a partition.

    Attributes:
        group, label: the group and label of the case.
        partition: the partition of the store.
        score: the name of the score.
        seeds: the value of each seed.
        ensemble: the value of the mean of the seeds' predictions.
        optimum, ridge: the values of the references on the same frames.
        seconds: the time of training all seeds and targets together.
    """

    group: str
    label: str
    partition: str
    score: str
    seeds: tuple[float, ...]
    ensemble: float
    optimum: float
    ridge: float
    seconds: float

    @property
    def name(self) -> str:
        """Returns the label, with the group where the label does not begin with it."""
        named = self.label.startswith(self.group)
        return self.label if named else f"{self.group}: {self.label}".removesuffix(": ")

    @property
    def mean(self) -> float:
        """Returns the mean over the seeds."""
        return float(np.mean(self.seeds))

    @property
    def share(self) -> float:
        """Returns the mean over the seeds as a share of the optimum."""
        return self.mean / self.optimum

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Row:
        """Returns the row that ``as_dict`` made this of."""
        fields = {field.name: values[field.name] for field in dataclasses.fields(cls)}
        return cls(**{**fields, "seeds": tuple(fields["seeds"])})

    def as_dict(self) -> dict[str, Any]:
        """Returns the row for JSON."""
        return dataclasses.asdict(self) | {"mean": self.mean, "share": self.share}


def score(case: Case, workdir: Path, partition: str, seconds: float) -> list[Row]:
    """Scores a trained case seed by seed, beside its ensemble, the optimum and ridge."""
    run = open_run(workdir)
    store = run.open_store()
    (fold,) = run.folds(store)
    names = partition_videos(store, fold, partition)
    predictions = run.predict(store, [names])
    (result,) = evaluate_folds(run.session, store, predictions, [fold], partition)
    session = run.session
    truths = {task: read_annotations(store, fold, names, task) for task in session.tasks}
    selection = session.config.evaluation.selection
    _, named = replica_scores(predictions, [truths] * len(predictions), session.weights, selection)
    rows = []
    for by_system in result.scores.values():
        for name in SHOWN:
            if name not in by_system[OURS]:
                continue
            rows.append(
                Row(
                    group=case.group,
                    label=case.label,
                    partition=partition,
                    score=name,
                    seeds=tuple(scores[name] for scores in named if name in scores),
                    ensemble=by_system[OURS][name],
                    optimum=by_system[OPTIMUM][name],
                    ridge=by_system[BASELINE][name],
                    seconds=seconds,
                )
            )
    return rows


def markdown(rows: Sequence[Row], title: str) -> str:
    """Returns the table in Markdown."""
    head = (
        "system", "partition", "score", "mean of seeds", "spread", "ensemble", "optimum", "ridge",
        "share of optimum", "training s",
    )  # fmt: skip
    lines = [f"# {title}", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        spread = f"{min(row.seeds):.3f} .. {max(row.seeds):.3f}" if len(row.seeds) > 1 else "-"
        cells = (
            row.name, row.partition, row.score, f"{row.mean:.3f}", spread,
            f"{row.ensemble:.3f}", f"{row.optimum:.3f}", f"{row.ridge:.3f}", f"{row.share:.1%}",
            f"{row.seconds:.0f}",
        )  # fmt: skip
        # A row of late fusion has no training, ridge or ensemble of its own.
        lines.append("| " + " | ".join("-" if c == "nan" else c for c in cells) + " |")
    return "\n".join(lines) + "\n"


def draw(path: Path, rows: Sequence[Row], title: str) -> None:
    """Draws a panel per group and score: a dot for each seed, a line for each reference."""
    shown = [row for row in rows if row.partition == rows[0].partition]
    panels = list(dict.fromkeys((row.group, row.score) for row in shown))
    tall = [sum((row.group, row.score) == panel for row in shown) for panel in panels]
    figure = Figure(figsize=(9.0, 0.9 + sum(0.3 * n + 0.75 for n in tall)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=[n + 1.2 for n in tall])
    for axis, (group, name) in zip(axes[:, 0], panels, strict=True):
        members = [row for row in shown if (row.group, row.score) == (group, name)]
        for y, row in enumerate(members):
            axis.plot(row.seeds, [y] * len(row.seeds), "o", color="#d1495b", alpha=0.8, zorder=3)
            axis.plot([row.mean], [y], "|", color="#d1495b", markersize=16, zorder=3)
        optimum, ridge = members[0].optimum, max(row.ridge for row in members)
        axis.axvline(optimum, color="#2a7fb8", label=f"optimum {optimum:.3f}")
        axis.axvline(0.9 * optimum, color="#2a7fb8", linestyle=":", label="90 % of it")
        if np.isfinite(ridge):
            axis.axvline(ridge, color="#8a8f98", linestyle="--", label=f"ridge {ridge:.3f}")
        axis.set_yticks(range(len(members)), [row.label for row in members])
        axis.set_ylim(len(members) - 0.5, -0.5)
        axis.set_title(f"{group}, {name}, {members[0].partition}", fontsize=10, loc="left")
        axis.grid(axis="x", color="#e3e6ea")
        axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=110)
