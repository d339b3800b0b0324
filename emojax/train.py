"""Trains a system: ``emojax train --config=rjcma --workdir=RUN``.

Any value of the configuration can be overridden: ``--config.data.store=stores/mine``,
``--config.train.epochs=20``. Calling again with the same workdir continues the run exactly.
Nobody else can train there meanwhile. How the command ends is told by its status, by the last
line it prints and by ``summary.json`` in the workdir; see docs/operations.md.
"""

from __future__ import annotations

import time
from pathlib import Path

from absl import flags

from emojax.commands import cli
from emojax.commands.start import start
from emojax.commands.summary import path_text
from emojax.core.devices import is_primary, wait_for_all
from emojax.core.session import Session, build_session
from emojax.datasets.source import Store
from emojax.errors import InputError
from emojax.prediction.predictor import Predictions
from emojax.prediction.trained_run import TrainedRun, open_run
from emojax.reporting.results_folder import write_results
from emojax.rundir.checkpoint import saved_steps
from emojax.rundir.resume import discard_run
from emojax.rundir.workdir import SUMMARY_FILE, held, replace_text
from emojax.scoring.evaluation import evaluate_folds, partition_videos, print_scores
from emojax.scoring.fold_scores import headline
from emojax.training.host_memory import keep_freed_memory
from emojax.training.loop import Trainer
from emojax.training.progress import pace


def define_flags(define: cli.Flags) -> None:
    """Defines the command's flags."""
    define.config("Configuration file, see configs/.", required=True)
    define.string("workdir", None, "Folder of the run; made if it is not there.", required=True)
    define.string(
        "profile", None, "Folder for a profile of a few training steps, made with jax.profiler."
    )
    define.bool("overwrite", False, "Discard a run that lies in the workdir.")


def main(given: flags.FlagValues) -> None:
    """Trains, then evaluates the best weights on the validation videos."""
    start()
    keep_freed_memory()
    config = cli.read_config(given)
    workdir = cli.folder("workdir", given.workdir)
    if not config.get("data", {}).get("store"):
        raise InputError(
            "There is nothing to train on.",
            field="--config.data.store",
            found="nothing",
            expected="the folder of a store",
            remedy="build one: emojax simulate --out=stores/mine",
        )
    store = Store(config.data.store)
    session = build_session(config, store.streams)
    session.window_spec.check(store)
    cli.use_devices(session.layout.mesh.devices.flat)
    # Held before anything is written or discarded; what cannot be written to is refused here.
    existed = is_primary() and workdir.exists()
    with held(workdir):
        _train(given, session, store, workdir, existed)


def _train(
    given: flags.FlagValues, session: Session, store: Store, workdir: Path, existed: bool
) -> None:
    profile = cli.folder("profile", given.profile) if given.profile else None
    trainer = Trainer(session, store, workdir, fresh=given.overwrite, profile=profile)
    # An old run is discarded only when nothing is wrong with the new one.
    if given.overwrite and existed:
        discard_run(workdir)
    console = cli.console()
    console.print(
        f"{session.config.model['name']} on {store.name}: {len(session.replicas)} replicas "
        f"({', '.join(session.names[:6])}{', ...' if len(session.names) > 6 else ''}), "
        f"{session.layout.mesh.size} device(s)",
        highlight=False,
    )
    before = max(saved_steps(workdir), default=0)
    started, config = time.monotonic(), _changed(workdir)
    cli.tell(workdir=path_text(workdir))
    try:
        run = trainer.run()
    finally:
        # A call that was refused leaves the summary of the run before it alone.
        if _changed(workdir) != config:
            cli.keep_summary(lambda text: replace_text(workdir / SUMMARY_FILE, text, "The summary"))
    seconds = time.monotonic() - started
    cli.tell(step=run.step, **pace(run.step - before, session.batch_size, seconds))
    console.print(f"trained to step {run.step} in {seconds:.0f} s", highlight=False)
    for line in trainer.profile.lines():
        console.print(line, highlight=False, soft_wrap=True)
    trained = open_run(workdir)
    folds = trained.folds(store)
    videos = [partition_videos(store, fold, "validation") for fold in folds]
    predictions = trained.predict(store, videos)
    if is_primary():
        _report(session, store, workdir, trained, predictions)
    wait_for_all("the report")


def _report(
    session: Session,
    store: Store,
    workdir: Path,
    trained: TrainedRun,
    predictions: list[Predictions],
) -> None:
    folds, console = trained.folds(store), cli.console()
    results = evaluate_folds(session, store, predictions, folds, "validation")
    cli.tell(checkpoint_step=trained.step, partition="validation", scores=headline(results))
    print_scores(results, f"{store.name}, validation", console)
    write_results(workdir / "validation", session, store, results, "validation")
    console.print(f"report:     {workdir / 'validation' / 'report.html'}", highlight=False)
    console.print(f"scalars:    {workdir / 'metrics.csv'}", highlight=False)
    console.print(f"tensorboard --logdir {workdir}", highlight=False)


def _changed(workdir: Path) -> int | None:
    """When the run's configuration was written; training does so when it begins."""
    path = workdir / "config.json"
    return path.stat().st_mtime_ns if path.is_file() else None


COMMAND = cli.Command(main, define_flags, summary="emojax.train")

if __name__ == "__main__":
    COMMAND.run()
