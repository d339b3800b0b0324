"""Trains a system: ``python -m emojax.train --config=configs/rjcma.py --workdir=RUN``.

Any value of the configuration can be overridden: ``--config.data.store=stores/mine``,
``--config.train.epochs=20``. Calling again with the same workdir continues the run exactly.
"""

from __future__ import annotations

import time

from absl import flags
from ml_collections import config_flags

from emojax import cli
from emojax.datasets.source import Store
from emojax.engine.evaluation import evaluate_folds, partition_videos, print_scores
from emojax.engine.host_memory import keep_freed_memory
from emojax.engine.loop import Trainer
from emojax.engine.restore import open_run
from emojax.engine.results import write_results
from emojax.engine.resume import discard_run
from emojax.engine.runtime import use_compilation_cache
from emojax.engine.session import build_session
from emojax.errors import InputError

config_flags.DEFINE_config_file("config", None, "Configuration file, see configs/.")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run; made if it is not there.", required=True
)
_PROFILE = flags.DEFINE_string(
    "profile", None, "Folder for a profile of a few training steps, made with jax.profiler."
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Discard a run that lies in the workdir.")


def main() -> None:
    """Trains, then evaluates the best weights on the validation videos."""
    use_compilation_cache()
    keep_freed_memory()
    config = cli.read_config("config")
    workdir = cli.folder("workdir", _WORKDIR.value)
    if not config.get("data", {}).get("store"):
        raise InputError(
            "There is nothing to train on.",
            field="--config.data.store",
            found="nothing",
            expected="the folder of a store",
            remedy="build one: python -m data.synthetic --out=stores/mine",
        )
    store = Store(config.data.store)
    session = build_session(config, store.streams)
    session.window_spec.check(store)
    profile = cli.folder("profile", _PROFILE.value) if _PROFILE.value else None
    trainer = Trainer(session, store, workdir, fresh=_OVERWRITE.value, profile=profile)
    # An old run is discarded only when nothing is wrong with the new one.
    if _OVERWRITE.value and workdir.exists():
        discard_run(workdir)
    console = cli.console()
    console.print(
        f"{config.model.name} on {store.name}: {len(session.replicas)} replicas "
        f"({', '.join(session.names[:6])}{', ...' if len(session.names) > 6 else ''}), "
        f"{session.layout.mesh.size} device(s)",
        highlight=False,
    )
    started = time.monotonic()
    run = trainer.run()
    console.print(
        f"trained to step {run.step} in {time.monotonic() - started:.0f} s", highlight=False
    )
    for line in trainer.profile.lines():
        console.print(line, highlight=False, soft_wrap=True)
    trained = open_run(workdir)
    folds = trained.folds(store)
    videos = [partition_videos(store, fold, "validation") for fold in folds]
    results = evaluate_folds(session, store, trained.predict(store, videos), folds, "validation")
    print_scores(results, f"{store.name}, validation", console)
    write_results(workdir / "validation", session, store, results, "validation")
    console.print(f"report:     {workdir / 'validation' / 'report.html'}", highlight=False)
    console.print(f"scalars:    {workdir / 'metrics.csv'}", highlight=False)
    console.print(f"tensorboard --logdir {workdir}", highlight=False)


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    cli.run(main)
