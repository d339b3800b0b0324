"""Predicts whole videos: ``emojax predict --checkpoint=RUN --out=FOLDER``.

Writes one CSV per video and task, with a row for every frame. Replicas of all folds and seeds are
averaged; with ``--ensemble=ccc_centring`` their traces are shifted to a common level first (see
``emojax/ops/ensembles.py``). ``--fold`` uses only the replicas of one fold. With
``--postprocess=smooth,clip`` each fold's replicas are smoothed with that fold's width, and their
mean is clipped to the range of the labels. ``--widths=RUN/crossval/postprocessing.json`` takes the
widths that ``emojax crossval`` tuned on unseen videos; without it they are tuned on the training
videos.

Videos may be hours long: memory holds a few batches and the predictions, not the video. With
``--full_sequence`` a video is not cut into overlapping windows; every frame gets what the model,
applied to the whole video at once, predicts. That is for models that see a bounded neighbourhood
or carry a state forward (see ``emojax/prediction/full_sequence.py``); others refuse.
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
from emojax.ops.ensembles import ENSEMBLES
from emojax.ops.postprocessing import SMOOTHERS
from emojax.prediction.long_videos import predict_groups
from emojax.prediction.predictor import ensemble
from emojax.prediction.trained_run import TrainedRun, open_run
from emojax.reporting.results_folder import write_predictions
from emojax.scoring.evaluation import Tuning
from emojax.scoring.fitted_postprocessing import Postprocessing, check_steps, prepare_postprocessing


def define_flags(define: cli.Flags) -> None:
    """Defines the command's flags."""
    define.string("checkpoint", None, "The --workdir of a training run.", required=True)
    define.integer("step", None, "The saved step to open; the latest by default.")
    define.string("store", "", "Store with the videos; the training store by default.")
    define.enum(
        "partition",
        "test",
        ["train", "validation", "test", "all"],
        "The store's videos to predict.",
    )
    define.list("videos", [], "Names of single videos, instead of a partition.")
    define.string("fold", "", "Use only the replicas of this fold.")
    define.enum(
        "ensemble", "mean", list(ENSEMBLES), "Rule to combine replicas; classes and units by mean."
    )
    define.list("postprocess", [], "Steps after the prediction: smooth, clip.")
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
    define.string("out", None, "Folder for the CSV files.", required=True)


def main(given: flags.FlagValues) -> None:
    """Predicts with the best weights of each replica and writes the CSV files."""
    start()
    out = cli.folder("out", given.out)
    run = open_run(given.checkpoint, given.step)
    cli.use_devices(run.session.layout.mesh.devices.flat)
    store = run.open_store(given.store, labelled=False)
    if given.full_sequence:
        run = run.full_sequence(store)
    session = run.session
    if given.videos:
        names = [store.videos[store.index_of(name)].name for name in given.videos]
    elif given.partition == "all":
        names = [video.name for video in store.videos]
    else:
        names = list(store.partitions.get(given.partition, ()))
    if not names:
        raise InputError(
            f"The store has no {given.partition!r} videos.",
            file=store.path,
            field="--partition",
            found=given.partition,
            expected="one of " + ", ".join(k for k, v in store.partitions.items() if v) + ", all",
        )
    members = [r for r, replica in enumerate(session.replicas) if given.fold in ("", replica.fold)]
    if not members:
        raise InputError(
            "The checkpoint has no replica of this fold.",
            field="--fold",
            found=given.fold,
            expected="one of " + ", ".join(map(str, session.folds.keys)),
        )
    steps = check_steps(given.postprocess)
    to_tune = "smooth" in steps and not given.widths
    postprocessing = prepare_postprocessing(
        steps,
        given.smoother,
        given.widths,
        session,
        run.open_store,
        Tuning.on_training(run) if to_tune else None,
    )
    count = 0
    for _, per_replica in predict_groups(run, store, names):
        if postprocessing:
            per_replica = [
                postprocessing.smooth(store, predictions, int(fold))
                for predictions, fold in zip(per_replica, session.folds.members_R, strict=True)
            ]
        combined = ensemble(session.weights, per_replica, members, given.ensemble)
        if postprocessing:
            combined = postprocessing.clip(combined)
        if is_primary():
            count += write_predictions(out, store, combined)
    if is_primary():
        _report(given, run, store, names, len(members), count, postprocessing, out)
    wait_for_all("the report")


def _report(
    given: flags.FlagValues,
    run: TrainedRun,
    store: Store,
    names: list[str],
    members: int,
    count: int,
    postprocessing: Postprocessing | None,
    out: Path,
) -> None:
    """Prints the number of files and their folder."""
    cli.tell(
        workdir=path_text(run.workdir),
        checkpoint_step=run.step,
        videos=len(names),
        frames=sum(store.videos[store.index_of(name)].num_frames for name in names),
        files=count,
        out=path_text(out),
    )
    console = cli.console()
    if postprocessing:
        for line in postprocessing.lines():
            console.print(line, highlight=False)
        with writing(out, "The widths"):
            postprocessing.write(out)
    console.print(
        f"{count} files for {len(names)} videos, {given.ensemble} of {members} replica(s): {out}",
        highlight=False,
        soft_wrap=True,
    )


COMMAND = cli.Command(main, define_flags, summary="emojax.predict")

if __name__ == "__main__":
    COMMAND.run()
