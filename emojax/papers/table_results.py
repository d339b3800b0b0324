"""Assembles a published table: the available numbers of emojax beside the paper's."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from emojax.datasets.origin import is_simulated
from emojax.datasets.source import Store
from emojax.papers.table_check import data_name, scheme_note
from emojax.papers.table_plan import Job, Recipes, places, plan
from emojax.papers.table_runs import Run, find_run
from emojax.papers.table_scores import measure, task_of
from emojax.papers.table_study import Comparison, compare, missing_scores, share_key
from emojax.published.schema import Column, PaperTable, Place, Row, place

PUBLISHED_ONLY, NOT_TRAINED, DIVERGED = "published only", "not trained", "diverged"
SUBMISSION = "submission written"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A number of emojax beside the paper's.

    Attributes:
        values: the value of each seed or trial, in the paper's unit; empty if there are none.
        published: the paper's number, or None.
        state: the text to show if there are no values.
        mark: a dagger for a significant difference, or "".
        published_mark: the paper's dagger, or "".
        optimum: the optimum of simulated data on the same frames; None for other data.
    """

    values: tuple[float, ...] = ()
    published: float | None = None
    state: str = ""
    mark: str = ""
    published_mark: str = ""
    optimum: float | None = None

    @property
    def sound(self) -> list[float]:
        """Returns the values without those of diverged seeds."""
        return [value for value in self.values if not math.isnan(value)]

    @property
    def mean(self) -> float | None:
        """Returns the mean of the sound values, or None if there are none."""
        return float(np.mean(self.sound)) if self.sound else None


@dataclasses.dataclass(frozen=True)
class Line:
    """A row with its numbers.

    Attributes:
        row: the published row.
        label: the label to show; says if emojax lacks the paper's pretraining.
        cells: one for each column.
        run: the folder of the run; "" for none.
        seconds: the time of its training.
    """

    row: Row
    label: str
    cells: tuple[Cell, ...]
    run: str = ""
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Result:
    """A table with the numbers of emojax and of the paper.

    Attributes:
        table: the published table.
        title: the heading, with the data set, the seeds and the budget.
        lines: the rows.
        notes: sentences to print below the table.
        comparisons: the comparisons of rows that are tested against others.
        data: the name of the data set.
        simulated: True if the data are simulated.
        budget: the budget of the trainings.
        seeds: the number of seeds.
    """

    table: PaperTable
    title: str
    lines: tuple[Line, ...]
    notes: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    data: str
    simulated: bool
    budget: str
    seeds: int


@dataclasses.dataclass(frozen=True)
class Context:
    """The inputs of a table: its plan, its store and the runs.

    Attributes:
        store: the data.
        runs: the folder of all runs.
        recipes: makes the recipes of rows.
        seeds: the number of seeds.
        trials: the number of draws in the missing-modality study.
        progress: called with the name of a step, the work done and the whole work.
    """

    store: Store
    runs: Path
    recipes: Recipes
    seeds: int
    trials: int
    progress: Callable[[str, int, int], None] = lambda what, done, total: None


def assemble(table: PaperTable, context: Context) -> Result:
    """Assembles the table from its finished runs; scores the runs that have no scores yet."""
    trained = [row for row in table.rows if row.training]
    jobs = {label: job for job in plan(table, trained, context.recipes, context.seeds)
            for label in job.rows}  # fmt: skip
    found = {row.label: _find(table, row, jobs[row.label], context) for row in trained}
    lines, comparisons = [], []
    for row in table.rows:
        run = found.get(row.label)
        tests = _comparisons(table, row, found, context) if row.versus else []
        comparisons += tests
        marks = {test.column: test.mark for test in tests}
        cells = tuple(
            dataclasses.replace(
                _cell(table, row, column, run, context),
                published=table.published(row, column),
                published_mark="†" if column.title in row.daggers else "",
                mark=marks.get(column.title, ""),
            )
            for column in table.columns
        )
        folder, seconds = (str(run.folder), run.seconds) if run else ("", 0.0)
        lines.append(Line(row, _label(row, context), cells, folder, seconds))
    return Result(
        table=table,
        title=_title(table, context),
        lines=tuple(lines),
        notes=tuple(_notes(table, lines, context)),
        comparisons=tuple(comparisons),
        data=context.store.name,
        simulated=is_simulated(context.store.metadata),
        budget=context.recipes.budget,
        seeds=context.seeds,
    )


def _find(table: PaperTable, row: Row, job: Job, context: Context) -> Run | None:
    """Finds the run of a row: that of the whole table, or one of the row's folds alone."""
    folds = tuple(sorted({one.fold for _, one in places(table, [row])}))
    return find_run(context.runs, job) or find_run(
        context.runs, dataclasses.replace(job, folds=folds)
    )


def _cell(table: PaperTable, row: Row, column: Column, run: Run | None, context: Context) -> Cell:
    """Returns the number of emojax; the caller adds the paper's."""
    store, where = context.store, place(table, row, column)
    if row.stream:
        there = row.stream in store.streams
        return Cell((float(store.streams[row.stream].width),)) if there else Cell(state="-")
    if where is None:
        return Cell(state=PUBLISHED_ONLY if row.training is None else "-")
    if run is None:
        return Cell(state=NOT_TRAINED)
    if run.diverged:
        return Cell(state=DIVERGED)
    measured = measure(run, store, where.partition)
    task = task_of(context.recipes(row).config)
    if not measured.frames[where.fold][task]:
        written = task in measured.submissions[where.fold]
        return Cell(state=SUBMISSION if written else DIVERGED)
    if row.share is not None:
        return _missing(table, where, run, context)
    values = measured.values(where.fold, where.scores, range(context.seeds))
    if all(map(math.isnan, values)):
        # The score belongs to another task, as F1 does in a row of valence, or all seeds diverged.
        known = {n for s in range(context.seeds) for n in measured.scores[where.fold][s]}
        return Cell(state="-" if known else DIVERGED)
    optimum = measured.optimum[where.fold]
    best = next((optimum[name] for name in where.scores if name in optimum), None)
    return Cell(
        tuple(table.scale * value for value in values),
        optimum=None if best is None else table.scale * best,
    )


def _missing(table: PaperTable, where: Place, run: Run, context: Context) -> Cell:
    shares = sorted({row.share for row in table.rows if row.share is not None})
    found = missing_scores(
        run,
        context.store,
        where.fold,
        where.partition,
        shares,
        context.trials,
        lambda done, total: context.progress("frames go missing", done, total),
    )
    by_score = found[where.missing][share_key(where.share)]
    score = next((name for name in where.scores if name in by_score), None)
    values = by_score[score] if score else []
    return Cell(tuple(table.scale * v for v in values), state="" if values else DIVERGED)


def _comparisons(
    table: PaperTable, row: Row, found: Mapping[str, Run | None], context: Context
) -> list[Comparison]:
    first, second = found.get(row.label), found.get(row.versus)
    if first is None or second is None or first.diverged or second.diverged:
        return []
    task = task_of(context.recipes(row).config)
    comparisons = []
    for column in table.columns:
        where = place(table, row, column)
        if where is None:
            continue
        ours, other = (measure(run, context.store, where.partition) for run in (first, second))
        if ours.frames[where.fold][task]:
            labels = (row.label, row.versus, column.title)
            score, seeds = where.scores[0], range(context.seeds)
            test = compare(labels, ours, other, where.fold, task, score, seeds)
            comparisons += [test] if test else []
    return comparisons


# -- words -------------------------------------------------------------------------------------


def _label(row: Row, context: Context) -> str:
    lacks = row.pretrained and not context.recipes.started(row)
    return f"{row.label} (ours without {row.pretrained})" if lacks else row.label


def _title(table: PaperTable, context: Context) -> str:
    seeds = "1 seed" if context.seeds == 1 else f"{context.seeds} seeds"
    spread = "" if context.seeds == 1 else ", mean [lowest, highest]"
    trained = any(row.training for row in table.rows)
    how = f"{seeds}{spread}, budget {context.recipes.budget}; " if trained else ""
    return (
        f"{table.paper}, {table.title}: {table.shows}. Ours on {data_name(context.store)}, "
        f"{how}the paper's on Aff-Wild2"
    )


def _notes(table: PaperTable, lines: Sequence[Line], context: Context) -> list[str]:
    where = {(one.partition, one.fold) for _, one in places(table, table.rows)}
    told: dict[str, list[str]] = {}
    for partition, fold in sorted(where):
        told.setdefault(partition, []).append(fold)
    notes = []
    if told:
        parts = [
            f"{part} of fold{'s' if len(folds) > 1 else ''} {', '.join(folds)}"
            for part, folds in told.items()
        ]
        notes.append("Scored on " + "; ".join(parts) + ".")
    if told and is_simulated(context.store.metadata):
        notes.append(
            "The data are simulated: our numbers say nothing about Aff-Wild2 and are not "
            "comparable with the paper's. Compare them with the optimum, the best possible "
            "prediction from all streams of the store, whichever streams the row reads."
        )
    notes += table.notes
    if any(row.share is not None for row in table.rows):
        draws = "trial" if context.trials == 1 else "trials"
        notes.append(f"{context.trials} {draws} for each share; the paper's are 10.")
    notes += [f"{line.row.label}: {line.row.note}" for line in lines if line.row.note]
    notes.append(scheme_note(table, context.store, sorted({fold for _, fold in where})))
    if any(cell.state == SUBMISSION for line in lines for cell in line.cells):
        notes.append(
            "The test videos are not annotated here. Submission files lie in "
            "RUN/submissions/PARTITION; for the organisers' own list of frames: emojax submit "
            "--checkpoint=RUN --task=TASK --fold=FOLD --template=TEMPLATE --out=FILE"
        )
    if any(math.isnan(v) for line in lines for cell in line.cells for v in cell.values):
        notes.append("Seeds that diverged are left out; /n is the number of seeds in a mean.")
    return [note for note in notes if note]
