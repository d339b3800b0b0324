"""Describes a run in its checkpoint, and checks that a run may be resumed from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emojax import __version__
from emojax.config_reading import all_keys, as_plain, flatten
from emojax.config_schema import RunConfig
from emojax.core.config_checks import read_config
from emojax.core.schedule import ScheduleState
from emojax.core.session import Session
from emojax.datasets.source import Store
from emojax.errors import InputError
from emojax.ops.own_tasks import described_tasks
from emojax.rundir.workdir import empty_folder


def run_meta(
    session: Session,
    store: Store,
    identity: str,
    schedule: ScheduleState,
    iterators: Sequence[Any],
    history: Sequence[Any],
) -> dict[str, Any]:
    """Returns the JSON item of a checkpoint, without the description of its arrays.

    Args:
        session: the session of the training.
        store: the store that it trains on.
        identity: the fingerprint of the data pipeline.
        schedule: the state of each replica's schedule.
        iterators: the states of the training feeds.
        history: the scores so far.
    """
    return {
        "code_version": __version__,
        "config": as_plain(session.config),
        "streams": {name: dataclasses.asdict(s) for name, s in session.streams.items()},
        "tasks": list(session.tasks),
        "own_tasks": described_tasks(session.tasks),
        "replicas": [dataclasses.asdict(replica) for replica in session.replicas],
        "store": {
            "name": store.name,
            "path": str(store.path),
            "checksum": store.metadata["checksum"],
        },
        "fingerprint": identity,
        "schedule": {
            field.name: getattr(schedule, field.name).tolist()
            for field in dataclasses.fields(schedule)
        },
        "iterators": list(iterators),
        "history": list(history),
    }


def check_same_run(meta: dict[str, Any], config: RunConfig, identity: str, workdir: Path) -> None:
    """Refuses to continue a run with another configuration or on other data.

    Args:
        meta: the JSON item of the checkpoint.
        config: the configuration of this call.
        identity: the fingerprint of this call's data pipeline.
        workdir: the folder of the run.

    Raises:
        InputError: the configuration or the data differ.
    """
    # A run saved before a key existed was trained with its default.
    defaults = flatten(as_plain(RunConfig()))
    saved = defaults | flatten(as_plain(read_config(meta["config"])))
    current = defaults | flatten(as_plain(config))
    # Only the path of the store, the number of epochs and the machine may change.
    free = {"data.store", "train.epochs"}
    free |= {name for name, _, _, rule in all_keys() if rule.runtime}
    if current["train.decay"] != "none":
        # Another number of epochs would have given other learning rates so far.
        free -= {"train.epochs"}
    for key in sorted((saved.keys() | current.keys()) - free):
        if saved.get(key) != current.get(key):
            raise InputError(
                "The run in this workdir was trained with another configuration.",
                file=workdir,
                field=f"config.{key}",
                found=f"{saved.get(key)} in the checkpoint",
                expected=f"{current.get(key)}, as in this call",
                remedy="use a new --workdir, or --overwrite to discard the old run",
            )
    if meta["fingerprint"] != identity:
        raise InputError(
            "The run in this workdir was trained on other data.",
            file=workdir,
            field="data pipeline fingerprint",
            found=meta["fingerprint"],
            expected=identity,
            remedy="use the store it was trained on, or a new --workdir",
        )


def check_same_groups(saved: list[list[int]], found: list[list[int]], workdir: Path) -> None:
    """Refuses to continue within an epoch if replicas are grouped differently than before.

    Args:
        saved: the members of each group when the run stopped.
        found: the members of each group now.
        workdir: the folder of the run.

    Raises:
        InputError: the groups differ.
    """
    if saved == found:
        return
    raise InputError(
        "The run stopped within an epoch, and its replicas were grouped in another way.",
        file=workdir,
        field="config.train.replicas_at_once, memory_limit",
        found=f"groups of {_sizes(found)} replicas",
        expected=f"groups of {_sizes(saved)}, as when it stopped",
        remedy="set config.train.replicas_at_once to the largest of those groups, or use the "
        "memory limit or the devices it had; after the next validation the groups may change",
    )


def _sizes(groups: list[list[int]]) -> str:
    return " + ".join(str(len(members)) for members in groups)


def check_trained(
    names: Sequence[str],
    lost_R: np.ndarray,
    late_R: np.ndarray,
    workdir: Path,
    *,
    epochs: int,
    about: str = "",
) -> list[str]:
    """Refuses a run that has no trained weights or did not reach its last stage.

    Args:
        names: the names of the replicas.
        lost_R: (R,) bool, see ``schedule.lost``.
        late_R: (R,) bool, True for replicas that never reached the last stage's objective.
        workdir: the folder of the run.
        epochs: ``config.train.epochs``.
        about: the place of the first loss that is not finite, for the message.

    Returns:
        Warnings about single replicas, to be printed.

    Raises:
        InputError: all replicas diverged, or one was still in an earlier stage at the end.
    """

    def named(chosen_R: np.ndarray) -> str:
        return ", ".join(name for name, found in zip(names, chosen_R, strict=True) if found)

    remedy = "lower config.train.learning_rate or set config.train.clip_norm"
    if lost_R.all():
        seen = f" (losses are not finite {about})" if about else ""
        raise InputError(
            "Training diverged: no validation of these replicas gave a finite score.",
            file=workdir,
            field="replicas",
            found=named(lost_R),
            expected="finite losses and predictions",
            remedy=f"{remedy}, and use a new --workdir{seen}",
        )
    if late_R.any():
        raise InputError(
            "Training ended before its last stage.",
            file=workdir,
            field="config.train.epochs",
            found=f"{epochs}; still in an earlier stage: " + named(late_R),
            expected="enough epochs for all stages",
            remedy="continue the run with more epochs, or start a new run whose stages have a "
            "number of epochs",
        )
    if not lost_R.any():
        return []
    return [f"warning: training of {named(lost_R)} diverged; their weights are not used ({remedy})"]


def discard_run(workdir: Path) -> None:
    """Deletes the files of a run, after checking that the folder is one of a run.

    Raises:
        InputError: the folder is not one of a run, or another run is active in it.
    """
    if not (workdir / "config.json").is_file():
        raise InputError(
            "--overwrite only deletes the folder of a training run.",
            file=workdir,
            found="a folder without config.json",
            expected="the folder of a run",
            remedy="choose another --workdir",
        )
    empty_folder(workdir)
