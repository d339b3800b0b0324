"""Finds, trains and resumes the runs of a published table."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from emojax.core.session import Session
from emojax.datasets.source import Store
from emojax.errors import InputError
from emojax.papers.table_plan import Job
from emojax.prediction.trained_run import open_run
from emojax.rundir.checkpoint import saved_steps
from emojax.rundir.workdir import WorkdirLock, replace_text
from emojax.training.train_run import open_training, train_run

FINISHED_FILE = "finished.json"
LOG_FILE = "train.log"


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes:
        folder: the workdir of the run.
        folds: the folds of its replicas.
        seeds: the seeds of its replicas.
        seconds: the time of all calls together, including compiling and validation.
        diverged: True if all replicas diverged, so that there are no weights.
    """

    folder: Path
    folds: tuple[str, ...]
    seeds: tuple[int, ...]
    seconds: float
    diverged: bool


def find_run(runs: Path, job: Job) -> Run | None:
    """Finds the finished run with the fewest replicas that has all of the job's folds and seeds.

    Its other folds have no effect on those of the job, except on the number of steps between
    validations where ``config.train.epoch_steps`` is 0.
    """
    found = []
    for file in (runs / job.recipe.name).glob(f"*/{FINISHED_FILE}"):
        content = json.loads(file.read_text())
        run = Run(
            folder=file.parent,
            folds=tuple(content["folds"]),
            seeds=tuple(content["seeds"]),
            seconds=content["seconds"],
            diverged=content["diverged"],
        )
        if set(job.folds) <= set(run.folds) and set(range(job.seeds)) <= set(run.seeds):
            found.append(run)
    return min(
        found, key=lambda run: (len(run.folds) * len(run.seeds), str(run.folder)), default=None
    )


def train(
    job: Job,
    store: Store,
    runs: Path,
    *,
    verbose: bool = False,
    say: Callable[[str], None] = print,
) -> Run:
    """Trains a job, continues an interrupted one, or returns a finished one.

    Args:
        job: the training.
        store: the store to train on.
        runs: the folder of all runs.
        verbose: if True, epochs are printed instead of written to the run's log.
        say: called with one line about the run before it begins.

    Raises:
        InputError: the configuration does not fit the store, or another process trains the job.
    """
    known = find_run(runs, job)
    if known is not None:
        return known
    folder = runs / job.folder
    again = bool(saved_steps(folder)) if folder.is_dir() else False
    config = job.recipe.with_replicas(str(store.path), job.folds, job.seeds)
    session, store = open_training(config, store)
    with WorkdirLock(folder, primary=jax.process_index() == 0):
        say("resumed" if again else "begun")
        with _timed(folder) as seconds, _epochs(folder / LOG_FILE, verbose):
            diverged = _train(session, store, folder)
        content = {
            "config": job.recipe.training.config,
            "folds": [*job.folds],
            "seeds": [*range(job.seeds)],
            "seconds": seconds(),
            "diverged": diverged,
        }
        write_atomically(folder / FINISHED_FILE, json.dumps(content, indent=1) + "\n")
    # The next job needs other programs; those of this one stay in the cache on disk.
    jax.clear_caches()
    known = find_run(runs, job)
    assert known is not None
    return known


def _train(session: Session, store: Store, folder: Path) -> bool:
    """Trains to the end; returns True if all replicas diverged."""
    try:
        with train_run(session, store, folder):
            return False
    except InputError as error:
        # A diverged row is shown as such, and the table continues; a full disk ends the command.
        if error.status != InputError.status or not saved_steps(folder):
            raise
        if not open_run(folder).lost_R.all():
            raise
        return True
    return False


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file so that a kill or a full disk leaves the former file, or none.

    Raises:
        MachineError: the file could not be written.
    """
    replace_text(path, text, "A result")


@contextlib.contextmanager
def _timed(folder: Path) -> Iterator[Callable[[], float]]:
    """Measures the seconds that all calls of this run took together, over interruptions."""
    file = folder / "seconds.json"
    before = json.loads(file.read_text()) if file.is_file() else 0.0
    started = time.monotonic()

    def seconds() -> float:
        return float(before + time.monotonic() - started)

    try:
        yield seconds
    finally:
        write_atomically(file, json.dumps(seconds()))


@contextlib.contextmanager
def _epochs(log: Path, verbose: bool) -> Iterator[None]:
    """Sends the lines of epochs to the run's log, unless ``verbose``."""
    if verbose:
        yield
        return
    with log.open("a", encoding="utf-8") as file, contextlib.redirect_stderr(file):
        yield
