"""Cross-validates a system: ``emojax crossval --config=... --workdir=RUN``.

Trains all folds of the store, times the configuration's targets and seeds, as replicas of one
program; a run that was interrupted is continued and one that is finished is not trained again.
Then it prints and saves the scores of every fold and seed, their means and spread, out-of-fold
predictions and, where the test videos are annotated, the scores of the ensemble of all folds.
"""

from __future__ import annotations

import json
from pathlib import Path

from absl import flags
from rich.console import Console
from rich.table import Table

from emojax.commands import cli
from emojax.commands.start import start
from emojax.commands.summary import path_text
from emojax.core.devices import is_primary, wait_for_all
from emojax.datasets.source import Store
from emojax.errors import writing
from emojax.ops.postprocessing import SMOOTHERS
from emojax.ops.scores import score_kind
from emojax.ops.tasks import TASK_OPS
from emojax.prediction.trained_run import TrainedRun
from emojax.reporting.fold_picture import plot_folds
from emojax.reporting.results_folder import write_predictions, write_results
from emojax.rundir.workdir import replace_text
from emojax.scoring.cross_validation import (
    CrossValidation,
    choose_folds,
    cross_validate,
    document,
    spreads,
)
from emojax.scoring.evaluation import print_scores
from emojax.scoring.fitted_postprocessing import check_steps
from emojax.scoring.fold_scores import OURS, PROCESSED, SYSTEMS, brief, headline, scored_tasks
from emojax.training.host_memory import keep_freed_memory
from emojax.training.train_run import open_training, train_run, training_store


def define_flags(define: cli.Flags) -> None:
    """Defines the command's flags."""
    define.config(
        "A name that emojax.systems lists, such as rjcma:demo, or the path of a Python file.",
        required=True,
    )
    define.string("workdir", None, "Folder of the run; created if missing.", required=True)
    define.bool("overwrite", False, "Delete the run in the workdir, and start anew.")
    define.list(
        "folds", ["all"], "Folds to train, instead of config.replicas.folds: names, or all."
    )
    define.enum(
        "partition", "validation", ["train", "validation", "test"], "Videos to score each fold on."
    )
    define.list(
        "postprocess",
        [],
        "Also score postprocessed predictions: smooth (a fold's width is tuned on the out-of-fold "
        "predictions of the other folds), clip.",
    )
    define.enum(
        "smoother",
        "moving_average",
        list(SMOOTHERS),
        "Kernel of the smoothing; the exponential one is causal.",
    )


def main(given: flags.FlagValues) -> None:
    """Trains the folds that are not trained yet, scores all folds, prints and saves the scores."""
    start()
    keep_freed_memory()
    config = cli.read_config(given)
    workdir = cli.folder("workdir", given.workdir)
    steps = check_steps(given.postprocess)
    store = training_store(config)
    config.replicas.folds = choose_folds(store, given.folds)
    session, store = open_training(config, store)
    cli.use_devices(session.layout.mesh.devices.flat)
    cli.tell(workdir=path_text(workdir), partition=given.partition)
    console = cli.console()
    about = (
        f"{session.config.model['name']} on {store.name}: "
        f"folds {', '.join(session.folds.keys)}, "
        f"{len(session.replicas)} replicas, {session.layout.mesh.size} device(s)"
    )

    def begins() -> None:
        console.print(about, highlight=False)

    with train_run(session, store, workdir, overwrite=given.overwrite, on_start=begins) as training:
        run = training.run
        cli.tell(**training.facts())
        done = f"trained to step {training.step} in {training.seconds:.0f} s"
        already = f"was trained already, to step {training.step}"
        console.print(already if training.step == training.first_step else done)
        found = cross_validate(run, store, given.partition, steps=steps, smoother=given.smoother)
        if is_primary():
            _report(given, found, run, store, workdir)
    wait_for_all("the report")


def _report(
    given: flags.FlagValues, found: CrossValidation, run: TrainedRun, store: Store, workdir: Path
) -> None:
    """Prints and writes the scores and the predictions."""
    console = cli.console()
    cli.tell(checkpoint_step=run.step, folds=len(found.results), scores=headline(found.results))
    _show(found, store, console)
    partition = given.partition
    folder = workdir / ("crossval" if partition == "validation" else f"crossval-{partition}")
    with writing(folder, "The results"):
        _save(folder, found, run, store)
    write_results(workdir / partition, run.session, store, found.results, partition)
    for line in found.postprocessing.lines() if found.postprocessing else ():
        console.print(line, highlight=False)
    console.print(f"scores:      {folder / 'scores.json'}", highlight=False)
    console.print(f"picture:     {folder / 'folds.png'}", highlight=False)
    console.print(f"out of fold: {folder / 'out_of_fold'}", highlight=False)
    console.print(f"report:      {workdir / partition / 'report.html'}", highlight=False)


def _show(found: CrossValidation, store: Store, console: Console) -> None:
    """Prints the tables: folds, seeds, spread, test."""
    title = f"{store.name}, {found.partition}"
    print_scores(found.results, title, console)
    for task in scored_tasks(found.results):
        details = TASK_OPS[task].details
        _seeds_table(found, task, title, console)
        table = Table(title=f"{title}: {task}, spread over folds and seeds", title_justify="left")
        for name in ("system", "score", "mean of folds", "sd", "range", "single seeds", "sd of"
                     " seeds", "range of seeds"):  # fmt: skip
            table.add_column(name, justify="left" if name in ("system", "score") else "right")
        for system in (OURS, PROCESSED) if found.postprocessing else (OURS,):
            for score, spread in spreads(found, task, system).items():
                if score in details:
                    continue
                row = [f"{spread.mean:.3f}", _number(spread.deviation)]
                row.append(f"{spread.low:.3f} ... {spread.high:.3f}")
                if system == OURS:
                    row += [_number(spread.seed_mean), _number(spread.seed_deviation)]
                    row.append(f"{spread.seed_low:.3f} ... {spread.seed_high:.3f}")
                table.add_row(system, score, *row, *([] if system == OURS else ["", "", ""]))
        console.print(table)
    for task, by_system in found.test.items():
        table = Table(title=f"{store.name}, test, all folds: {task}", title_justify="left")
        for name in ("score", *by_system):
            table.add_column(name, justify="left" if name == "score" else "right")
        rows = [["", score] for score in next(iter(by_system.values()), {})]
        for _, score in brief(rows, task):
            cells = [_number(scores.get(score, float("nan"))) for scores in by_system.values()]
            table.add_row(score, *cells)
        console.print(table)


def _seeds_table(found: CrossValidation, task: str, title: str, console: Console) -> None:
    """Prints the scores of every seed beside those of the ensemble of a fold's seeds."""
    labels = list(dict.fromkeys(label for seeds in found.seeds.values() for label in seeds))
    if len(labels) < 2:
        return  # the table of folds says the same
    table = Table(title=f"{title}: {task}, seed by seed", title_justify="left")
    for name in ("fold", "score", "ensemble", *labels):
        table.add_column(name, justify="left" if name in ("fold", "score") else "right")
    for result in found.results:
        scores = result.scores.get(task, {}).get(OURS, {})
        for place, (_, score) in enumerate(brief([["", name] for name in scores], task)):
            cells = [
                found.seeds[result.fold].get(label, {}).get(task, {}).get(score, float("nan"))
                for label in labels
            ]
            name = "" if place else result.fold
            table.add_row(name, score, f"{scores[score]:.3f}", *map(_number, cells))
        table.add_section()
    console.print(table)


def _number(value: float) -> str:
    return "-" if value != value else f"{value:.3f}"


def _save(folder: Path, found: CrossValidation, run: TrainedRun, store: Store) -> None:
    """Writes scores, picture, predictions and widths."""
    folder.mkdir(parents=True, exist_ok=True)
    write_predictions(folder / "out_of_fold", store, found.out_of_fold)
    if found.postprocessing:
        write_predictions(folder / "out_of_fold_postprocessed", store, found.processed)
        found.postprocessing.write(folder)
    panels: dict[str, dict[str, list[float]]] = {}
    seeds: dict[str, list[list[float]]] = {}
    nothing = float("nan")
    for task in scored_tasks(found.results):
        ops = TASK_OPS[task]
        by_fold = [result.scores.get(task, {}) for result in found.results]
        names = dict.fromkeys(name for scores in by_fold for name in scores.get(OURS, {}))
        for name in names:
            # One family of scores, the one that a task is judged by.
            if name in ops.details or score_kind(name) is not score_kind(ops.primary):
                continue
            systems = [s for s in SYSTEMS if any(name in scores.get(s, {}) for scores in by_fold)]
            panel = name if len(scored_tasks(found.results)) == 1 else f"{task} {name}"
            panels[panel] = {
                system: [scores.get(system, {}).get(name, nothing) for scores in by_fold]
                for system in systems
            }
            seeds[panel] = [
                [of_seed.get(task, {}).get(name, nothing) for of_seed in by_seed.values()]
                for by_seed in found.seeds.values()
            ]
    title = f"{run.session.config.model['name']} on {store.name}, {found.partition}"
    folds = [result.fold for result in found.results]
    path = folder / "folds.png"
    plot_folds(path, title=title, folds=folds, panels=panels, seeds=seeds, bar=OURS)
    # Written last and atomically: whoever finds this file may rely on all the others.
    text = json.dumps(document(found, run, store), indent=1) + "\n"
    replace_text(folder / "scores.json", text, "The scores")


COMMAND = cli.Command(main, define_flags, summary="emojax.crossval")

if __name__ == "__main__":
    COMMAND.run()
