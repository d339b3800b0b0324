"""The schedule of a run in steps, which depends on how many windows its folds have."""

from __future__ import annotations

import math

from emojax.core.schedule import ScheduleConfig
from emojax.core.session import Session
from emojax.datasets.pipeline import window_list
from emojax.datasets.source import Store
from emojax.errors import InputError


def schedule_config(session: Session, store: Store) -> ScheduleConfig:
    """The schedule in steps. ``epoch_steps: 0`` is one pass over the largest training fold.

    Replicas validate together, so a fold with fewer windows than the largest sees some of them
    twice in such an epoch; alone it would validate earlier. Set ``epoch_steps`` where replicas
    of several folds have to equal separate runs.

    Raises:
        InputError: a training or validation fold is empty.
    """
    train = session.config["train"]
    windows = []
    for name in session.folds.keys:
        fold = store.fold(name)
        for part, videos in (("train", fold.train), ("validation", fold.validation)):
            if not videos:
                raise InputError(
                    f"Fold {name!r} has no {part} videos.",
                    file=store.path,
                    field="config.replicas.folds",
                    found=f"0 {part} videos",
                    expected="at least one",
                    remedy="train on another fold, or build the store with more videos",
                )
        windows.append(len(window_list(store, fold.train, session.window_spec)))
    return ScheduleConfig(
        epoch_steps=train["epoch_steps"] or math.ceil(max(windows) / session.batch_size),
        warmup=train["warmup"],
        warmup_epochs=train["warmup_epochs"],
        plateau_patience=train["plateau_patience"],
        plateau_factor=train["plateau_factor"],
        minimum_rate=train["minimum_rate"],
        releases=train["releases"],
        stop_patience=train["stop_patience"],
        decay=train["decay"],
        epochs=train["epochs"],
        stages=session.stages,
    )
