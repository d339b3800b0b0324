"""The tables of the report with scores and confusion matrices.

They are made here as data; ``page.html.j2`` turns them into HTML.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from emojax.ops.metrics import ConfusionCounts
from emojax.ops.scores import SCORES, is_error, score_kind
from emojax.ops.tasks import TASK_OPS
from emojax.reporting.page_runs import ReportedRun
from emojax.reporting.page_statistics import FEW_VIDEOS, Difference, Scored, ScoreTable, System
from emojax.scoring.fold_scores import (
    BASELINE,
    MEAN,
    OPTIMUM,
    OURS,
    POOLED,
    PROCESSED,
    SYSTEMS,
    TUNED,
)
from emojax.specs import TASKS

NOTHING = "–"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table that is more than its text.

    Attributes:
        text: the text of the cell.
        note: faint, behind the text.
        below: small, below the text.
        strong: printed bold.
        marked: highlighted.
        bar: a share of 1, drawn as a bar before the text; None for no bar.
        shade: class of the style sheet, such as "h7".
    """

    text: str
    note: str = ""
    below: str = ""
    strong: bool = False
    marked: bool = False
    bar: float | None = None
    shade: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of the page.

    Attributes:
        caption: heads it.
        header: names of the columns.
        rows: cells, the first of which heads its row.
        kind: class of the style sheet: "" for numbers, "words", or "matrix".
        folded: shown on demand.
        facts: what the table is of, written as its ``data-`` attributes.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    kind: str = ""
    folded: bool = False
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)


def system_title(system: System, runs: Sequence[ReportedRun]) -> str:
    """Names a system, with its run where there are several runs."""
    number, name = system
    return name if len(runs) == 1 else f"{runs[number].name}: {name}"


# -- scores ----------------------------------------------------------------------------------


def score_sections(
    tables: Sequence[ScoreTable], runs: Sequence[ReportedRun], partition: str
) -> list[Table]:
    """Lists scores with intervals, their differences, single classes and single folds."""
    found = [part for table in tables for part in _of_group(table, runs, partition)]
    return found + [part for run in runs for part in _of_folds(run, runs)]


def _of_group(found: ScoreTable, runs: Sequence[ReportedRun], partition: str) -> list[Table]:
    systems, task = list(found.scores), found.task
    where = _where(found.group)
    details = dict(zip(TASK_OPS[task].details, TASKS[task].labels, strict=False))
    names = [name for name in found.names if name not in details]
    titles = [system_title(system, runs) for system in systems]
    counts = " and ".join(str(n) for n in dict.fromkeys(found.num_videos.values()))
    shares = [(n, s) for n, s in systems if s == OURS and (n, OPTIMUM) in found.scores]
    rows = [
        [
            _score_name(name),
            *(_scored(name, found.scores[system].get(name)) for system in systems),
            *(_share(name, found.scores[s], found.scores[s[0], OPTIMUM]) for s in shares),
        ]
        for name in names
    ]
    share_titles = [system_title((number, "of optimum"), runs) for number, _ in shares]
    facts = {"part": "scores", "task": task, "group": found.group}
    header = ["score", *titles, *share_titles]
    caption = f"{task}, {partition}, {where}: {counts} videos"
    parts = [Table(caption, header, rows, facts=facts)]
    if found.differences:
        others, few = found.differences, max(found.num_videos.values()) < FEW_VIDEOS
        rows = [
            [_score_name(name), *(_difference(name, of.get(name), few) for of in others.values())]
            for name in names
        ]
        reference = system_title(found.reference, runs)
        parts.append(
            Table(
                f"{task}, {where}: difference from {reference}, on the same draws of videos",
                ["score", *(system_title(system, runs) for system in others)],
                rows,
                facts=facts | {"part": "differences"},
            )
        )
    if details:
        rows = [
            [details[name], *(_bar(name, found.scores[system].get(name)) for system in systems)]
            for name in found.names
            if name in details
        ]
        each = "class" if TASKS[task].kind == "categorical" else "unit"
        caption = f"{task}, {where}: F1 of each {each}"
        parts.append(Table(caption, [each, *titles], rows, facts=facts | {"part": "details"}))
    return parts


def not_compared(tables: Sequence[ScoreTable], runs: Sequence[ReportedRun]) -> list[str]:
    """Names the models that were scored on other annotations than the reference, by task."""
    found = {}
    for table in tables:
        left_out = [
            system_title(system, runs)
            for system in table.scores
            if system[1] == OURS and system not in (table.reference, *table.differences)
        ]
        if left_out:
            found[f"{table.task}, {_where(table.group)}"] = ", ".join(left_out)
    return [f"{where}: {models}" for where, models in found.items()]


def _of_folds(run: ReportedRun, runs: Sequence[ReportedRun]) -> list[Table]:
    """Lists scores fold by fold and their mean, for a run of several folds."""
    folds = run.document["folds"]
    if len(folds) < 2:
        return []
    parts = []
    for task in dict.fromkeys(task for by_task in folds.values() for task in by_task):
        lines = {fold: by_task[task] for fold, by_task in folds.items() if task in by_task}
        lines |= {MEAN: run.document.get("mean_of_folds", {}).get(task, {})}
        systems = [s for s in SYSTEMS if any(s in by_system for by_system in lines.values())]
        rows = [
            [fold, score, *(score_kind(score).text(by.get(s, {}).get(score)) for s in systems)]
            for fold, by in lines.items()
            for score in by.get(OURS, {})
        ]
        caption = f"{task}: fold by fold" + (f", {run.name}" if len(runs) > 1 else "")
        facts = {"part": "folds", "task": task}
        header = ["fold", "score", *systems]
        parts.append(Table(caption, header, rows, folded=True, facts=facts))
    return parts


def _where(group: str) -> str:
    return group if group == POOLED else f"fold {group}"


def _score_name(name: str) -> str | Cell:
    return Cell(name, note="lower is better") if is_error(name) else name


def _scored(name: str, score: Scored | None) -> str | Cell:
    """Prints a score and its interval."""
    if score is None:
        return NOTHING
    text = score_kind(name).text
    if not math.isfinite(score.low):
        return text(score.value)
    return Cell(text(score.value), note=f"[{text(score.low)}, {text(score.high)}]")


def _share(name: str, scores: Mapping[str, Scored], optimum: Mapping[str, Scored]) -> str:
    """Prints a score as a share of the optimum's; nothing for errors, where less is better."""
    if is_error(name) or name not in scores or name not in optimum or optimum[name].value <= 0:
        return NOTHING
    return f"{scores[name].value / optimum[name].value:.1%}"


def _difference(name: str, found: Difference | None, few: bool) -> str | Cell:
    """Prints a difference with sign, interval and p.

    It is bold if the interval leaves out 0, but not for few videos, of which an interval says
    little.
    """
    if found is None:
        return NOTHING
    decimals = score_kind(name).decimals
    value, low, high = (f"{x:+.{decimals}f}" for x in (found.value, found.low, found.high))
    if not math.isfinite(found.low):
        return value
    p = "< 0.01" if found.p < 0.01 else f"= {found.p:.2f}"
    sure = not few and (found.low > 0 or found.high < 0)
    return Cell(value, note=f"[{low}, {high}], p {p}", strong=sure)


def _bar(name: str, score: Scored | None) -> str | Cell:
    """Prints a score in [0, 1] with its interval, behind a bar of that length."""
    cell = _scored(name, score)
    if score is None or not math.isfinite(score.value):
        return cell
    share = min(1.0, max(0.0, score.value))
    return Cell(cell, bar=share) if isinstance(cell, str) else dataclasses.replace(cell, bar=share)


_MEANINGS = {
    OURS: "mean of the replicas that were trained for the target; every annotated frame counts "
    "once",
    TUNED: "the model's probabilities, with a threshold for each unit or an offset for each class "
    "chosen for F1 on the training videos of the fold; the papers decide at 0.5 and by argmax",
    PROCESSED: "the model's predictions, smoothed over time, clipped, or both; see "
    "postprocessing.json",
    OPTIMUM: "exact posterior of the simulation given every stream of the store, scored on the "
    "same frames; no model can be expected to do better. For CCC it is the posterior mean, "
    "rescaled to the variance of the labels",
    BASELINE: "linear regression on the model's own streams and training videos, smoothed over "
    "time",
    POOLED: "no video is in two folds, so the predictions of all folds are scored as one data set, "
    "each made by replicas that did not train on it",
}


def glossary(tables: Sequence[ScoreTable]) -> dict[str, str]:
    """Explains the systems and groups that occur in the tables."""
    there = {system for found in tables for _, system in found.scores}
    there |= {found.group for found in tables}
    return {name: meaning for name, meaning in _MEANINGS.items() if name in there}


# -- confusion matrices ----------------------------------------------------------------------


def confusion_matrices(runs: Sequence[ReportedRun]) -> list[Table]:
    """Makes a matrix for each run, task with classes, group of videos and system."""
    return [
        _matrix(
            system_title((number, f"{task}, {_where(group)}: {system}"), runs),
            document["labels"],
            np.asarray(counts),
            {"part": "confusion", "task": task, "group": group, "system": system},
        )
        for number, run in enumerate(runs)
        for task, document in run.document.get("confusion", {}).items()
        for group in run.groups
        for system, counts in document["counts"].get(group, {}).items()
    ]


def _matrix(
    caption: str, labels: Sequence[str], counts_CC: np.ndarray, facts: Mapping[str, str]
) -> Table:
    rows: list[list[str | Cell]] = []
    for label, counts_C in zip(labels, counts_CC, strict=True):
        total = int(counts_C.sum())
        cells = [_confused(int(count), total) for count in counts_C]
        rows.append([Cell(label, below=short_count(total)), *cells])
    state = ConfusionCounts(counts_CC)
    scores = {"accuracy": state.accuracy(), "f1": state.macro_f1()}
    accuracy, f1 = (SCORES[name].text(float(value)) for name, value in scores.items())
    caption = f"{caption} (accuracy {accuracy}, macro F1 {f1})"
    return Table(caption, ["true \\ decided", *labels], rows, kind="matrix", facts=facts)


def _confused(count: int, total: int) -> Cell:
    if not total:
        return Cell(NOTHING, shade="none")
    share = count / total
    return Cell(percent(share), below=short_count(count), shade=f"h{round(10 * share)}")


def percent(share: float) -> str:
    """Prints a share of 1 as a whole percentage; "<1%" and ">99%" where rounding would lie."""
    if 0 < share < 0.005:
        return "<1%"
    if 0.995 <= share < 1:
        return ">99%"
    return f"{share:.0%}"


def short_count(count: int) -> str:
    """Prints a count in at most five characters: 9999, 12.3k, 123k, 1.2M."""
    for size, unit in ((10**6, "M"), (10**3, "k")):
        if count >= 10 * size or (unit == "M" and count >= size):
            return f"{count / size:.1f}{unit}" if count < 100 * size else f"{count // size}{unit}"
    return str(count)
