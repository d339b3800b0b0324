"""Evaluates a trained run: ``python -m emojax.evaluate --checkpoint=RUN [--partition=test]``.

Everything but the data comes from the checkpoint: model, streams, normalisation, weights. With
``--decision=tuned`` classes and units are also decided as suits F1 best on the training videos,
beside the papers' argmax and 0.5; those videos have to be predicted for it. With
``--postprocess=smooth,clip`` predictions are also smoothed over time and clipped to the labels'
range, beside the raw ones. The width of smoothing is tuned on the training videos as well; the
model has seen them, so it comes out small. ``emojax.crossval`` tunes on unseen videos, and
``--widths=RUN/crossval/postprocessing.json`` takes what it found. With ``--full_sequence`` models
that allow it are applied to whole videos instead of windows, as in ``emojax.predict``.
"""

from __future__ import annotations

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
from emojax.scoring.evaluation import Tuning, evaluate_folds, partition_videos, print_scores
from emojax.scoring.fitted_postprocessing import Postprocessing, check_steps, prepare_postprocessing
from emojax.scoring.fold_scores import FoldResult, headline
from emojax.specs import TASKS

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "The --workdir of a training run.", required=True
)
_STEP = flags.DEFINE_integer("step", None, "Which saved step; the latest by default.")
_STORE = flags.DEFINE_string("store", "", "Store to evaluate on; the training store by default.")
_PARTITION = flags.DEFINE_enum(
    "partition", "validation", ["train", "validation", "test"], "Which videos of the fold(s)."
)
_DECISION = flags.DEFINE_enum(
    "decision",
    "paper",
    ["paper", "tuned"],
    "How classes and units are decided: by argmax and at 0.5, or also with offsets and "
    "thresholds tuned for F1 on the training videos.",
)
_POSTPROCESS = flags.DEFINE_list(
    "postprocess", [], "Also score predictions after these: smooth, clip."
)
_SMOOTHER = flags.DEFINE_enum(
    "smoother",
    "moving_average",
    list(SMOOTHERS),
    "How predictions are smoothed; the exponential one is causal. --widths brings its own.",
)
_WIDTHS = flags.DEFINE_string(
    "widths", "", "A postprocessing.json to take the widths from, instead of tuning them."
)
_FULL_SEQUENCE = flags.DEFINE_bool(
    "full_sequence", False, "Apply the model to whole videos instead of windows, if it allows it."
)
_OUT = flags.DEFINE_string(
    "out",
    "",
    "Folder for the report; RUN/PARTITION, or RUN/PARTITION-on-NAME for another store, and with "
    "-full-sequence after it for that.",
)


def main() -> None:
    """Predicts a partition with the best weights, prints scores and writes the report."""
    start()
    run = open_run(_CHECKPOINT.value, _STEP.value)
    cli.use_devices(run.session.layout.mesh.devices.flat)
    store = run.open_store(_STORE.value)
    if _FULL_SEQUENCE.value:
        run = run.full_sequence(store)
    partition = _PARTITION.value
    # What training wrote about its own store is not overwritten by another store's results.
    name = partition if run.trained_on(store) else f"{partition}-on-{Path(store.path).name}"
    name += "-full-sequence" if _FULL_SEQUENCE.value else ""
    folder = cli.folder("out", _OUT.value or str(run.workdir / name))
    folds = run.folds(store)
    videos = [partition_videos(store, fold, partition) for fold in folds]
    steps = check_steps(_POSTPROCESS.value)
    tuned = _DECISION.value == "tuned"
    if tuned:
        _check_decisions(run)
    to_smooth = "smooth" in steps and not _WIDTHS.value
    tuning = Tuning.on_training(run) if tuned or to_smooth else None
    postprocessing = prepare_postprocessing(
        steps, _SMOOTHER.value, _WIDTHS.value, run.session, run.open_store, tuning
    )
    results = evaluate_folds(
        run.session,
        store,
        run.predict(store, videos),
        folds,
        partition,
        baseline=run.trained_on(store),
        tuning=tuning if tuned else None,
        postprocessing=postprocessing,
    )
    if is_primary():
        _report(run, store, results, videos, folder, postprocessing)
    wait_for_all("the report")


def _report(
    run: TrainedRun,
    store: Store,
    results: list[FoldResult],
    videos: list[list[str]],
    folder: Path,
    postprocessing: Postprocessing | None,
) -> None:
    """Prints and writes what was found."""
    partition = _PARTITION.value
    cli.tell(
        workdir=path_text(run.workdir),
        checkpoint_step=run.step,
        partition=partition,
        videos=len({name for names in videos for name in names}),
        scores=headline(results),
        out=path_text(folder),
    )
    console = cli.console()
    print_scores(results, f"{store.name}, {partition}, step {run.step}", console)
    write_results(folder, run.session, store, results, partition)
    if postprocessing:
        for line in postprocessing.lines(run.session):
            console.print(line, highlight=False)
        with writing(folder, "The widths"):
            written = postprocessing.write(folder, run.session)
        console.print(f"widths: {written}", highlight=False)
    console.print(f"report: {folder / 'report.html'}", highlight=False)


def _check_decisions(run: TrainedRun) -> None:
    """Raises ``InputError`` where no task of the run decides anything."""
    if not any(TASKS[task].kind in DECISION_RULES for task in run.session.tasks):
        raise InputError(
            "There is no decision to tune.",
            field="--decision",
            found="tuned, for " + ", ".join(run.session.tasks),
            expected="a run with classes or units",
            remedy="leave the flag out",
        )


if __name__ == "__main__":
    cli.run(main, summary="emojax.evaluate")
