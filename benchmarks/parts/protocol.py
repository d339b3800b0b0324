"""Estimates the time of RJCMA's whole cross-validation, 12 replicas, from a few steps."""

from __future__ import annotations

import csv
import dataclasses
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import jax

from benchmarks.context import Context
from benchmarks.machine import allow_tf32
from benchmarks.parts.systems import on_gpu
from benchmarks.random_store import random_store
from benchmarks.results import Column, Missing, Part, Table
from benchmarks.timing import told
from emojax.core.session import Session, build_session, fold_normalisation
from emojax.datasets.pipeline import window_list
from emojax.datasets.source import Store
from emojax.prediction.predictor import Predictor
from emojax.rundir.checkpoint import Checkpoints
from emojax.rundir.metric_log import METRICS_FILE
from emojax.training.loop import Trainer

FOLDS, TARGETS, EPOCHS = 6, ("valence", "arousal"), 100
# The training windows of a fold: five blocks of videos; it validates on the sixth block.
WINDOWS = 9000
VALIDATION_WINDOWS = WINDOWS // (FOLDS - 1)


@dataclasses.dataclass(frozen=True)
class Measured:
    """Seconds of the pieces of an epoch, all replicas together.

    Attributes:
        step: the seconds of a training step of the real loop, including the feed.
        window: the seconds of predicting one validation window of every fold.
        save: the seconds of a checkpoint.
        steps: the number of timed steps.
        windows: the number of predicted windows.
    """

    step: float
    window: float
    save: float
    steps: int
    windows: int


def protocol_part(context: Context) -> Part:
    """Measures the pieces of an epoch and adds up the protocol."""
    quick = context.quick
    folds, targets = (2 if quick else FOLDS), TARGETS
    table = Table(
        f"RJCMA's cross-validation, {folds} folds x {len(targets)} targets, {EPOCHS} epochs over "
        f"{WINDOWS:,} windows, {context.dtype}, {context.sizes}",
        (
            Column("piece", "piece"),
            Column("measured", "measured"),
            Column("each", "seconds each"),
            Column("times", "times"),
            Column("minutes", "minutes"),
        ),
        notes=[
            "Measured with emojax's own training loop on a small store of random numbers; the "
            "rest is multiplication, with no replica stopping early and compilation left out.",
            "Windows start at random, so that none is kept in memory, as few of a large store are.",
            f"Windows are counted, not stored: {WINDOWS:,} to train on a fold, and "
            f"{VALIDATION_WINDOWS:,} to validate on, one block of six beside five.",
        ],
    )
    part = Part("protocol", [table])
    late = context.out_of_time
    if late is not None:
        table.add(piece="all", minutes=late)
        return part
    context.say(f"protocol: {folds * len(targets)} replicas")
    allow_tf32(context.torch_or_none, True)
    case = context.case("rjcma")
    config = case.config()
    config.replicas.targets = targets
    config.replicas.folds = tuple(str(fold) for fold in range(folds))
    steps = 8 if quick else 256 if on_gpu() else 3
    config.train.epochs, config.train.epoch_steps = 2, steps
    config.train.warmup_epochs = min(config.train.warmup_epochs, 1)
    config.data.random_offset = True
    try:
        measured = measure(config, case.specs(), steps)
    except Exception as error:
        table.add(piece="all", minutes=Missing(told(error)))
        return part
    part.data["measured"] = dataclasses.asdict(measured)
    batch = config.data.batch_size
    pieces = {
        f"training step, {folds * len(targets)} replicas x {batch} windows": (
            f"{measured.steps} steps",
            measured.step,
            EPOCHS * math.ceil(WINDOWS / batch),
        ),
        "validation window of each fold": (
            f"{measured.windows} windows",
            measured.window,
            EPOCHS * VALIDATION_WINDOWS,
        ),
        "checkpoint": ("2 checkpoints", measured.save, EPOCHS),
    }
    total = 0.0
    for piece, (amount, each, times) in pieces.items():
        total += each * times
        table.add(piece=piece, measured=amount, each=each, times=times, minutes=each * times / 60)
    table.add(piece="all, extrapolated", measured="", each="", times="", minutes=total / 60)
    return part


def measure(config: Any, specs: Any, steps: int) -> Measured:
    """Trains two short epochs, of which the second counts, and times validation and saving.

    Args:
        config: a configuration of two epochs of ``steps`` steps.
        specs: stream -> specification.
        steps: the number of steps in an epoch.
    """
    with tempfile.TemporaryDirectory() as folder:
        session = build_session(config, specs, jax.devices()[:1])
        store = _store(Path(folder) / "store", session)
        workdir = Path(folder) / "run"
        run = Trainer(session, store, workdir).run()
        with (workdir / METRICS_FILE).open(newline="") as file:
            # The first epoch compiles.
            training = [float(row["seconds_training"]) for row in csv.DictReader(file)][-1]
        normalisation = fold_normalisation(store, session.folds.keys, session.streams)
        weights = run.state.evaluated
        videos = [store.fold(name).validation for name in session.folds.keys]
        predictor = Predictor(session, store)
        placed = session.layout.everywhere(normalisation)
        predictor(weights, placed, videos)
        began = time.perf_counter()
        predictor(weights, placed, videos)
        predicting = time.perf_counter() - began
        spec = session.window_spec
        windows = max(len(window_list(store, v, spec, evaluation=True)) for v in videos)
        saving = _saving(Path(folder) / "checkpoints", run.state, normalisation)
        store.close()
    return Measured(training / steps, predicting / windows, saving, steps, windows)


def _saving(folder: Path, state: Any, normalisation: Any) -> float:
    """Returns the seconds until a checkpoint is on disk; in training the next epoch overlaps."""
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(1, {"train": state, "normalisation": normalisation}, {}, 0.0)
    began = time.perf_counter()
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(2, {"train": state, "normalisation": normalisation}, {}, 0.0)
    return time.perf_counter() - began


def _store(path: Path, session: Session) -> Store:
    """Writes a store of one video for each fold, each a few batches of windows long."""
    spec = session.window_spec
    folds = len(session.folds.keys)
    windows = 2 * session.batch_size
    frames = spec.window + (windows - 1) * spec.stride
    streams = {name: session.streams[name] for name in spec.streams}
    return random_store(path, streams, spec.tasks, folds=folds, frames=frames)
