"""The one way from a configuration to a trained run, for commands, tables and the Python API."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from emojax.core.devices import is_primary
from emojax.core.session import Session, build_session
from emojax.datasets.source import Store
from emojax.errors import InputError
from emojax.prediction.trained_run import TrainedRun, open_run
from emojax.rundir.checkpoint import saved_steps
from emojax.rundir.resume import discard_run
from emojax.rundir.workdir import held
from emojax.training.loop import Trainer
from emojax.training.progress import pace


@dataclasses.dataclass(frozen=True)
class Training:
    """A finished training, with the steps and the time of this call.

    Attributes:
        run: the trained run, opened from its checkpoint.
        first_step: the step at the start of this call; 0 for a new run.
        step: the step at its end; ``first_step`` if no steps were left to train.
        seconds: between the two, with compiling, validating and saving.
        notes: lines about the profile, if one was made.
    """

    run: TrainedRun
    first_step: int
    step: int
    seconds: float
    notes: Sequence[str] = ()

    def facts(self) -> dict[str, Any]:
        """Returns step and speed for the summary of a command."""
        steps = self.step - self.first_step
        return {"step": self.step, **pace(steps, self.run.session.batch_size, self.seconds)}


def open_training(
    config: Mapping[str, Any],
    store: Store | None = None,
    devices: list[jax.Device] | None = None,
) -> tuple[Session, Store]:
    """Builds the session of a configuration on its store.

    Args:
        config: the configuration, a mapping of mappings or a ConfigDict.
        store: the store to train on; the one that ``config.data.store`` names by default.
        devices: the devices to run on; all by default.

    Raises:
        InputError: the configuration is wrong, or the store does not serve it.
    """
    store = training_store(config) if store is None else store
    session = build_session(config, store.streams, devices)
    session.window_spec.check(store)
    return session, store


def training_store(config: Mapping[str, Any]) -> Store:
    """Opens the store that ``config.data.store`` names.

    Raises:
        InputError: it names none, or there is no store.
    """
    path = config.get("data", {}).get("store")
    if not path:
        raise InputError(
            "The configuration names no store to train on.",
            field="--config.data.store",
            found="nothing",
            expected="the folder of a store",
            remedy="build one: emojax simulate --out=stores/mine",
        )
    return Store(path)


@contextlib.contextmanager
def train_run(
    session: Session,
    store: Store,
    workdir: Path,
    *,
    overwrite: bool = False,
    profile: Path | None = None,
    on_start: Callable[[], None] = lambda: None,
) -> Iterator[Training]:
    """Trains to the end and opens the result; a run found in ``workdir`` is continued.

    The folder is locked until the ``with`` block ends, so a report can be written there.

    Args:
        session: the session to train.
        store: the store to train on.
        workdir: the folder of the run; created if needed.
        overwrite: if True, discards a run in the folder after the checks of the new one.
        profile: folder for a profile of a few steps; None for none.
        on_start: called after all checks, before the first step.

    Raises:
        InputError: the run found there has another configuration or data, another process trains
            it, or every replica diverged.
        Stopped: SIGTERM or Ctrl-C asked for it; where the run stands is saved.
    """
    existed = is_primary() and workdir.exists()
    with held(workdir):
        trainer = Trainer(session, store, workdir, fresh=overwrite, profile=profile)
        if overwrite and existed:
            discard_run(workdir)
        before = max(saved_steps(workdir), default=0)
        on_start()
        started = time.monotonic()
        step = trainer.run().step
        seconds = time.monotonic() - started
        yield Training(open_run(workdir), before, step, seconds, trainer.profile.lines())
