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
from emojax.core.schedule import ScheduleState
from emojax.core.session import Session
from emojax.datasets.source import Store
from emojax.errors import InputError
from emojax.rundir.workdir import empty_folder


def run_meta(
    session: Session,
    store: Store,
    identity: str,
    schedule: ScheduleState,
    iterators: Sequence[Any],
    history: Sequence[Any],
) -> dict[str, Any]:
    """The JSON item of a checkpoint, all but the description of its arrays.

    Args:
        session: what is trained.
        store: on what.
        identity: fingerprint of the data pipeline.
        schedule: where each replica stands.
        iterators: states of the training feeds.
        history: scores so far.
    """
    return {
        "code_version": __version__,
        "config": as_plain(session.config),
        "streams": {name: dataclasses.asdict(s) for name, s in session.streams.items()},
        "tasks": list(session.tasks),
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
        meta: of the checkpoint.
        config: of this call.
        identity: fingerprint of this call's data pipeline.
        workdir: where the checkpoint lies.

    Raises:
        InputError: the configuration or the data differ.
    """
    # A run saved before a key existed was trained with its default.
    defaults = flatten(as_plain(RunConfig()))
    saved = defaults | flatten(meta["config"])
    current = defaults | flatten(as_plain(config))
    # Where the store lies, how long to train and on what machine may change; nothing else may.
    free = {"data.store", "train.epochs"}
    free |= {name for name, _, _, rule in all_keys() if rule.runtime}
    if current["train.decay"] != "none":
        # The rates so far would have been others.
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
    """Refuses to go on within an epoch with other replicas taking turns than before.

    Args:
        saved: members of each group when the run stopped.
        found: members of each group now.
        workdir: of the run.

    Raises:
        InputError: the groups differ.
    """
    if saved == found:
        return
    raise InputError(
        "The run stopped within an epoch in which replicas took other turns than they would here.",
        file=workdir,
        field="config.train.replicas_at_once, memory_limit",
        found=f"replicas in turns of {_sizes(found)}",
        expected=f"turns of {_sizes(saved)}, as when it stopped",
        remedy="continue with config.train.replicas_at_once of the largest of those, or with the "
        "memory limit or the devices it had; after the next validation it may move",
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
    """Refuses a run that is not trained.

    Args:
        names: of the replicas.
        lost_R: (R,) bool, see ``schedule.lost``.
        late_R: (R,) bool, who never reached the last stage's objective.
        workdir: of the run.
        epochs: ``config.train.epochs``.
        about: where losses began not to be finite, for the message.

    Returns:
        Warnings about single replicas, for people.

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
            remedy=f"{remedy}, and use --overwrite or a new --workdir{seen}",
        )
    if late_R.any():
        raise InputError(
            "Training ended before its last stage.",
            file=workdir,
            field="config.train.epochs",
            found=f"{epochs}; still in an earlier stage: " + named(late_R),
            expected="enough epochs for all stages",
            remedy="call again with more epochs, which continues the run, or give the stages a "
            "number of epochs in a new one",
        )
    if not lost_R.any():
        return []
    return [f"warning: training of {named(lost_R)} diverged; their weights are not used ({remedy})"]


def discard_run(workdir: Path) -> None:
    """Deletes a run, and nothing that is not a run.

    Raises:
        InputError: the folder is none of a run, or another run is at work in it.
    """
    if not (workdir / "config.json").is_file():
        raise InputError(
            "--overwrite only discards what a training run has written.",
            file=workdir,
            found="a folder without config.json",
            expected="the folder of a run",
            remedy="choose another --workdir",
        )
    empty_folder(workdir)
