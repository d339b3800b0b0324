"""Trains a system: ``emojax train --config=rjcma --workdir=RUN``.

Any value of the configuration can be overridden: ``--config.data.store=stores/mine``,
``--config.train.epochs=20``. A second call with the same workdir continues the run exactly. The
workdir is locked meanwhile. The exit status, the last line on standard output and ``summary.json``
in the workdir report how the command ended; see docs/operations.md.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from emojax.commands import cli
from emojax.commands.start import start
from emojax.commands.summary import path_text
from emojax.core.devices import is_primary, wait_for_all
from emojax.core.session import Session
from emojax.datasets.source import Store
from emojax.reporting.results_folder import write_results
from emojax.rundir.workdir import SUMMARY_FILE, replace_text
from emojax.scoring.evaluation import evaluate_run, print_scores
from emojax.scoring.fold_scores import headline
from emojax.training.host_memory import keep_freed_memory
from emojax.training.train_run import Training, open_training, train_run


def define_flags(define: cli.Flags) -> None:
    """Defines the command's flags."""
    define.config(
        "A name that emojax.systems lists, such as rjcma:demo, or the path of a Python file.",
        required=True,
    )
    define.string("workdir", None, "Folder of the run; made if it is not there.", required=True)
    define.string(
        "profile", None, "Folder for a profile of a few training steps, made with jax.profiler."
    )
    define.bool("overwrite", False, "Discard a run that lies in the workdir.")


def main(given: flags.FlagValues) -> None:
    """Trains, then evaluates the best weights on the validation videos."""
    start()
    keep_freed_memory()
    session, store = open_training(cli.read_config(given))
    workdir = cli.folder("workdir", given.workdir)
    profile = cli.folder("profile", given.profile) if given.profile else None
    cli.use_devices(session.layout.mesh.devices.flat)
    before: dict[str, int | None] = {}

    def begins() -> None:
        _announce(session, store)
        cli.tell(workdir=path_text(workdir))
        before["config"] = _changed(workdir)

    options = {"overwrite": given.overwrite, "profile": profile, "on_start": begins}
    try:
        with train_run(session, store, workdir, **options) as training:
            _report(training, store)
    finally:
        # A refused call keeps the summary of the run before it.
        if before and _changed(workdir) != before["config"]:
            cli.keep_summary(lambda text: replace_text(workdir / SUMMARY_FILE, text, "The summary"))
    wait_for_all("the report")


def _announce(session: Session, store: Store) -> None:
    """Prints the model, the data and the replicas before the training."""
    names = session.names
    cli.console().print(
        f"{session.config.model['name']} on {store.name}: {len(names)} replicas "
        f"({', '.join(names[:6])}{', ...' if len(names) > 6 else ''}), "
        f"{session.layout.mesh.size} device(s)",
        highlight=False,
    )


def _report(training: Training, store: Store) -> None:
    """Prints the scores of the trained run and writes its report."""
    console, run, workdir = cli.console(), training.run, training.run.workdir
    cli.tell(**training.facts())
    console.print(f"trained to step {training.step} in {training.seconds:.0f} s", highlight=False)
    for line in training.notes:
        console.print(line, highlight=False, soft_wrap=True)
    results = evaluate_run(run, store, "validation")
    if not is_primary():
        return
    cli.tell(checkpoint_step=run.step, partition="validation", scores=headline(results))
    print_scores(results, f"{store.name}, validation", console)
    write_results(workdir / "validation", run.session, store, results, "validation")
    console.print(f"report:     {workdir / 'validation' / 'report.html'}", highlight=False)
    console.print(f"scalars:    {workdir / 'metrics.csv'}", highlight=False)
    console.print(f"tensorboard --logdir {workdir}", highlight=False)


def _changed(workdir: Path) -> int | None:
    """Returns when the run's configuration was written, which training does when it begins."""
    path = workdir / "config.json"
    return path.stat().st_mtime_ns if path.is_file() else None


COMMAND = cli.Command(main, define_flags, summary="emojax.train")

if __name__ == "__main__":
    COMMAND.run()
