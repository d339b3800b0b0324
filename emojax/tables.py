r"""Trains and prints the tables of the five papers: ``emojax tables NAME --store=STORE``.

    emojax tables --list
    emojax tables rjcma.3 --store=STORE --workdir=runs/tables --budget=small
    emojax tables exptrm.1 --store=STORE --only="ExpTrm (A+V)" --only="RNN (A)"
    emojax tables --all --store=STORE --budget=tiny

Trains the missing runs, with all folds, targets and seeds of a row as replicas of one program.
Scores them on the partition and fold that the paper names, and prints the numbers of emojax beside
the paper's. Rows of systems that emojax does not have are shown as published. Tables share
trainings: a second call trains nothing twice and continues interrupted trainings.
``WORKDIR/DATA-BUDGET/TABLE`` holds ``TABLE.md``, ``TABLE.json``, ``TABLE.csv`` and, for a curve,
``TABLE.png``.

``--budget=paper`` trains as the configurations say: hours to days, for a real GPU and real data.
``small`` takes a minute or two for each row, on two cores and a simulated store of medium size.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import flags
from rich.console import Console

from emojax.commands import cli
from emojax.commands.summary import path_text
from emojax.core.devices import use_compilation_cache
from emojax.datasets.source import Store
from emojax.errors import InputError, closest
from emojax.papers.budgets import BUDGETS, PAPER
from emojax.papers.table_check import Needs
from emojax.papers.table_plan import Job, Recipes, plan
from emojax.papers.table_results import Context, assemble
from emojax.papers.table_runs import find_run, train
from emojax.papers.table_writers import print_list, print_table, write_table
from emojax.published import TABLES
from emojax.published.schema import PaperTable, Row
from emojax.shipped import config_folder
from emojax.training.host_memory import keep_freed_memory


def define_flags(define: cli.Flags) -> None:
    """Defines the command's flags."""
    define.bool("list", False, "List the tables, and stop.")
    define.bool("all", False, "Every table.")
    define.string("store", "", "Store to train and score on.")
    define.string("workdir", "runs/tables", "Folder of runs and tables.")
    define.enum("budget", PAPER, list(BUDGETS), "Size of the trainings.")
    define.integer("seeds", 3, "Number of seeds of each training.", lower_bound=1)
    define.multi_string(
        "only",
        [],
        "Label of a row to train, together with the row it is tested against; all by default.",
    )
    define.multi_string(
        "init_from", [], "ROW=RUN: start a row's training from the weights of a run."
    )
    define.integer("trials", 10, "Draws for each share of exptrm.missing.", lower_bound=1)
    define.bool("dry_run", False, "Print the trainings as commands, and stop.")
    define.bool("verbose", False, "Show every epoch.")
    define.string("configs", "", "Folder of configuration files, instead of those of emojax.")


def main(given: flags.FlagValues, *names: str) -> None:
    """Trains the missing runs of the named tables, and prints and writes the tables.

    Raises:
        InputError: a name is unknown, or the store lacks a stream, task or fold that a table needs.
    """
    use_compilation_cache()
    keep_freed_memory()
    configs = Path(given.configs) if given.configs else config_folder()
    # A list or the commands are the purpose of the call, so they are printed at any level.
    console = cli.console(asked=bool(given["list"].value or given.dry_run))
    if given["list"].value:
        _list(Recipes(configs, PAPER), console)
        return
    tables = _chosen(names, bool(given["all"].value))
    only, starts = given.only, dict(_start(text, tables) for text in given.init_from)
    _check_only(only, tables)
    workdir = cli.folder("workdir", given.workdir)
    store = Store(given.store) if given.store or not given.dry_run else None
    checksum = store.metadata["checksum"] if store else ""
    recipes = Recipes(configs, given.budget, checksum, starts)
    if store:
        for table in tables:
            Needs(table, _rows(table, only), recipes).check(store)
    jobs = {table.name: plan(table, _rows(table, only), recipes, given.seeds) for table in tables}
    if given.dry_run:
        path = str(given.store or "STORE")
        _print_commands(tables, only, jobs, recipes, workdir / "runs", path, console)
        return
    assert store is not None
    cli.use_devices(jax.devices())
    cli.tell(workdir=path_text(workdir), tables=[])
    context = Context(
        store, workdir / "runs", recipes, given.seeds, given.trials, _Lines(console).progress
    )
    done: list[str] = []
    # Tables with most folds come first: their trainings also serve the tables of a single fold.
    for table in sorted(tables, key=lambda table: -_folds(jobs[table.name])):
        folder = workdir / f"{Path(store.name).name}-{given.budget}" / table.name
        _train(jobs[table.name], context, folder, table, given.verbose, console)
        result = assemble(table, context)
        files = write_table(folder, result)
        done.append(table.name)
        cli.tell(tables=done)
        print_table(result, console)
        console.print("written: " + ", ".join(map(str, files)), highlight=False)


def _train(
    jobs: Sequence[Job],
    context: Context,
    folder: Path,
    table: PaperTable,
    verbose: bool,
    console: Console,
) -> None:
    """Trains the missing runs; prints their progress and writes the table after each of them."""
    for number, job in enumerate(jobs, 1):
        where = context.runs / job.folder
        what = f"{table.name} [{number}/{len(jobs)}] {job.recipe.training.config}"
        known = find_run(context.runs, job)
        if known:
            console.print(
                f"{what}: trained before, {known.folder}",
                highlight=False,
                markup=False,
                emoji=False,
            )
            continue
        shown = "" if verbose else f", epochs in {where / 'train.log'}"
        models = "1 model" if job.replicas == 1 else f"{job.replicas} models"
        about = f"{what}: {models}, fold {', '.join(job.folds)}{shown}"
        started = time.monotonic()
        run = train(
            job,
            context.store,
            context.runs,
            verbose=verbose,
            say=lambda state, about=about: console.print(  # type: ignore[misc]
                f"{about}; {state}", highlight=False, markup=False, emoji=False
            ),
        )
        outcome = "diverged" if run.diverged else "trained"
        console.print(
            f"{what}: {outcome} in {time.monotonic() - started:.0f} s",
            highlight=False,
            markup=False,
            emoji=False,
        )
        write_table(folder, assemble(table, context))


class _Lines:
    """Prints the progress of long studies, a line at a time."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def progress(self, what: str, done: int, total: int) -> None:
        """Prints one line after about every quarter of the work."""
        if done * 4 // total > (done - 1) * 4 // total:
            self._console.print(f"{what}: {done} of {total} predictions", highlight=False)


def _chosen(names: Sequence[str], everything: bool) -> list[PaperTable]:
    if everything != bool(names):
        for name in names:
            if name not in TABLES:
                raise InputError(
                    "No table has this name.",
                    field="table",
                    found=name,
                    expected="one of " + ", ".join(TABLES),
                    remedy=closest(name, TABLES),
                )
        return [TABLES[name] for name in names] or list(TABLES.values())
    raise InputError(
        "The tables to train are not named.",
        field="table",
        found=f"--all and {', '.join(names)}" if names else "nothing",
        expected="names of tables, such as rjcma.3, or --all",
        remedy="see emojax tables --list",
    )


def _rows(table: PaperTable, only: Sequence[str]) -> list[Row]:
    """Returns the rows to train and the rows that they are tested against."""
    rows = [row for row in table.rows if row.ours and (not only or row.label in only)]
    versus = {row.versus for row in rows}
    return [row for row in table.rows if row in rows or (row.label in versus and row.ours)]


def _check_only(only: Sequence[str], tables: Sequence[PaperTable]) -> None:
    ours = [row.label for table in tables for row in table.rows if row.ours]
    published = [row.label for table in tables for row in table.rows if not row.ours]
    for label in only:
        if label not in ours:
            raise InputError(
                "This row is only published, so it has no training."
                if label in published
                else "No row has this label.",
                field="--only",
                found=label,
                expected="one of " + ", ".join(map(repr, ours)),
                remedy=closest(label, ours),
            )


def _start(text: str, tables: Sequence[PaperTable]) -> tuple[str, str]:
    """Returns the row and the run of an ``--init_from``."""
    label, _, run = text.rpartition("=")
    labels = [row.label for table in tables for row in table.rows if row.training]
    if label not in labels or not run:
        raise InputError(
            "The flag does not name a row and a run.",
            field="--init_from",
            found=text,
            expected="ROW=RUN, with a row out of " + ", ".join(map(repr, labels)),
            remedy=closest(label, labels),
        )
    return label, run


def _folds(jobs: Sequence[Job]) -> int:
    return max((len(job.folds) for job in jobs), default=0)


def _list(recipes: Recipes, console: Console) -> None:
    found = []
    for table in TABLES.values():
        jobs = plan(table, [row for row in table.rows if row.training], recipes, 1)
        found.append((table, len(jobs), sum(job.replicas for job in jobs)))
    print_list(found, console)
    console.print(
        "Without --only a table trains all of its rows. --dry_run says how, and how to simulate a "
        "store.",
        highlight=False,
    )


def _print_commands(
    tables: Sequence[PaperTable],
    only: Sequence[str],
    jobs: dict[str, list[Job]],
    recipes: Recipes,
    runs: Path,
    store: str,
    console: Console,
) -> None:
    """Prints the commands that train the missing runs."""
    for table in tables:
        lines = [f"# {table.name}: {len(jobs[table.name])} trainings"]
        if store == "STORE":
            lines.append("# a store: " + Needs(table, _rows(table, only), recipes).command())
        for job in jobs[table.name]:
            known = find_run(runs, job)
            state = f"trained before, {known.folder}" if known else f"{job.replicas} models"
            lines.append(f"# {', '.join(job.rows)}: {state}")
            command = job.recipe.command(store, job.folds, job.seeds, runs / job.folder)
            lines.append(shlex.join(command))
        for line in lines:
            console.print(line, soft_wrap=True, markup=False, emoji=False, highlight=False)


COMMAND = cli.Command(main, define_flags, arguments=True, summary="emojax.tables")

if __name__ == "__main__":
    COMMAND.run()
