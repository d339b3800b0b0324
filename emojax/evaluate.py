"""Evaluates a trained run: ``emojax evaluate --checkpoint=RUN [--partition=test]``.

Model, streams, normalisation and weights come from the checkpoint; only the data are read anew.
With ``--decision=tuned`` the report also has scores of decisions tuned for F1 on the training
videos, beside the papers' argmax and 0.5; the training videos are predicted for this. With
``--postprocess=smooth,clip`` it also has scores of predictions that are smoothed over time and
clipped to the labels' range, beside the raw ones. The width of the smoothing is tuned on the
training videos, too. The model has seen them, so the width comes out small. ``emojax crossval``
tunes on unseen videos, and ``--widths=RUN/crossval/postprocessing.json`` takes its widths. With
``--full_sequence`` a model that allows it is applied to whole videos instead of windows, as in
``emojax predict``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from emojax.commands import cli
from emojax.commands.start import start
from emojax.commands.summary import path_text
from emojax.core.devices import is_primary, wait_for_all
from emojax.datasets.source import Store
from emojax.errors import InputError, writing
from emojax.ops.decisions import DECISION_RULES
from emojax.ops.postprocessing import SMOOTHERS
from emojax.prediction.trained_run import TrainedRun, open_run
from emojax.reporting.results_folder import write_results
from emojax.scoring.evaluation import Tuning, evaluate_run, partition_videos, print_scores
from emojax.scoring.fitted_postprocessing import Postprocessing, check_steps, prepare_postprocessing
from emojax.scoring.fold_scores import FoldResult, headline
from emojax.specs import TASKS


def define_flags(define: cli.Flags) -> None:
    """Defines the command's flags."""
    define.string("checkpoint", None, "The --workdir of a training run.", required=True)
    define.integer("step", None, "The saved step to open; the latest by default.")
    define.string("store", "", "Store to evaluate on; the training store by default.")
    define.enum(
        "partition", "validation", ["train", "validation", "test"], "Videos of the fold(s)."
    )
    define.enum(
        "decision",
        "paper",
        ["paper", "tuned"],
        "Decisions of classes and units: by argmax and at 0.5, or also with offsets and "
        "thresholds tuned for F1 on the training videos.",
    )
    define.list("postprocess", [], "Also score predictions after these: smooth, clip.")
    define.enum(
        "smoother",
        "moving_average",
        list(SMOOTHERS),
        "Kernel of the smoothing; the exponential one is causal. --widths has its own.",
    )
    define.string(
        "widths", "", "A postprocessing.json to take the widths from, instead of tuning them."
    )
    define.bool(
        "full_sequence",
        False,
        "Apply the model to whole videos instead of windows, if it allows it.",
    )
    define.string(
        "out",
        "",
        "Folder for the report; by default RUN/PARTITION, for another store "
        "RUN/PARTITION-on-NAME, and with -full-sequence added for that.",
    )


def main(given: flags.FlagValues) -> None:
    """Predicts a partition with the best weights, prints scores and writes the report."""
    start()
    run = open_run(given.checkpoint, given.step)
    cli.use_devices(run.session.layout.mesh.devices.flat)
    store = run.open_store(given.store)
    if given.full_sequence:
        run = run.full_sequence(store)
    partition = given.partition
    # Results of another store must not overwrite those of the training store.
    name = partition if run.trained_on(store) else f"{partition}-on-{Path(store.path).name}"
    name += "-full-sequence" if given.full_sequence else ""
    folder = cli.folder("out", given.out or str(run.workdir / name))
    for fold in run.folds(store):
        partition_videos(store, fold, partition)  # refuses at once what has none
    steps = check_steps(given.postprocess)
    tuned = given.decision == "tuned"
    if tuned:
        check_decisions(run.session.tasks)
    to_smooth = "smooth" in steps and not given.widths
    tuning = Tuning.on_training(run) if tuned or to_smooth else None
    postprocessing = prepare_postprocessing(
        steps, given.smoother, given.widths, run.session, run.open_store, tuning
    )
    results = evaluate_run(
        run,
        store,
        partition,
        tuning=tuning if tuned else None,
        postprocessing=postprocessing,
    )
    if is_primary():
        _report(given, run, store, results, folder, postprocessing)
    wait_for_all("the report")


def _report(
    given: flags.FlagValues,
    run: TrainedRun,
    store: Store,
    results: list[FoldResult],
    folder: Path,
    postprocessing: Postprocessing | None,
) -> None:
    """Prints the scores and writes the report."""
    partition = given.partition
    cli.tell(
        workdir=path_text(run.workdir),
        checkpoint_step=run.step,
        partition=partition,
        videos=len({name for result in results for name in result.names}),
        scores=headline(results),
        out=path_text(folder),
    )
    console = cli.console()
    print_scores(results, f"{store.name}, {partition}, step {run.step}", console)
    write_results(folder, run.session, store, results, partition)
    if postprocessing:
        for line in postprocessing.lines():
            console.print(line, highlight=False)
        with writing(folder, "The widths"):
            written = postprocessing.write(folder)
        console.print(f"widths: {written}", highlight=False)
    console.print(f"report: {folder / 'report.html'}", highlight=False)


def check_decisions(tasks: Sequence[str]) -> None:
    """Refuses ``--decision=tuned`` for tasks without classes or units.

    Args:
        tasks: the tasks of the run.

    Raises:
        InputError: none of the tasks has decisions.
    """
    if not any(TASKS[task].kind in DECISION_RULES for task in tasks):
        raise InputError(
            "The run has no decisions to tune.",
            field="--decision",
            found="tuned, for " + ", ".join(tasks),
            expected="a run with classes or units",
            remedy="leave the flag out",
        )


COMMAND = cli.Command(main, define_flags, summary="emojax.evaluate")

if __name__ == "__main__":
    COMMAND.run()
