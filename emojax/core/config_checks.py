"""Checks of a configuration that need several keys, the tasks or the model.

The checks of single keys, with all types, bounds and defaults, are in ``emojax/config_schema.py``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from emojax.config_reading import as_plain, read
from emojax.config_schema import RunConfig, TrainConfig
from emojax.core.class_weights import WEIGHTED_KINDS
from emojax.core.stream_defaults import complete_streams
from emojax.errors import InputError, closest
from emojax.ops.tasks import TASK_OPS
from emojax.specs import TASKS


def read_config(values: Any) -> RunConfig:
    """Checks a configuration, and completes it with the defaults of keys that it leaves out.

    Args:
        values: nested mapping as ``configs/rjcma.py`` makes it.

    Returns:
        The configuration, in which each task has a loss and a selection score, and each stream a
        normalisation and what the model wants of it.

    Raises:
        InputError: a key is unknown, missing or not allowed; the error's field names it.
    """
    config = read(RunConfig, as_plain(values))
    if not isinstance(config.model.get("name"), str):
        raise InputError(
            "The configuration is incomplete.",
            field="config.model.name",
            found=str(config.model.get("name", "nothing")),
            expected="the name of a model, as in configs/rjcma.py",
        )
    tasks = config.data.tasks
    named: dict[str, Iterable[str]] = {"data.tasks": tasks, "loss": config.loss}
    named |= {"evaluation.selection": config.evaluation.selection}
    for key, names in named.items():
        for task in names:
            if task not in TASKS:
                raise _refusal(key, task, "some of " + ", ".join(TASKS), closest(task, TASKS))
    losses = {task: TASK_OPS[task].default_loss for task in tasks} | config.loss
    scores = {task: TASK_OPS[task].default_selection for task in tasks}
    scores |= config.evaluation.selection
    for task in tasks:
        _check_choice(f"loss.{task}", losses[task], TASK_OPS[task].losses)
        _check_choice(f"evaluation.selection.{task}", scores[task], TASK_OPS[task].selections)
    _check_training(config.train, tasks)
    evaluation = dataclasses.replace(config.evaluation, selection=scores)
    normalisation = dict.fromkeys(config.data.streams, "zscore") | config.data.normalisation
    data = dataclasses.replace(config.data, normalisation=normalisation)
    model = complete_streams(config.model, data.streams)
    return dataclasses.replace(config, data=data, model=model, loss=losses, evaluation=evaluation)


def _check_training(train: TrainConfig, tasks: tuple[str, ...]) -> None:
    kinds = {TASKS[task].kind for task in tasks}
    if train.class_weights != "none" and not kinds & set(WEIGHTED_KINDS):
        expected = "none, as none of the tasks " + ", ".join(tasks) + " has classes"
        raise _refusal("train.class_weights", train.class_weights, expected)
    rates = train.learning_rate
    lowest = min(rates, default=0.0) if isinstance(rates, tuple) else rates
    if train.decay == "cosine" and lowest < train.minimum_rate:
        expected = "at most the learning rate that decays to it"
        raise _refusal("train.minimum_rate", train.minimum_rate, expected)
    if train.stages:
        _check_stages(train)


def _check_stages(train: TrainConfig) -> None:
    count = len(train.stages)
    if train.releases not in (0, count - 1):
        expected = f"0, as {count} stages have {count - 1} releases"
        raise _refusal("train.releases", train.releases, expected)
    # A stage that its plateau ends takes at least one epoch.
    needed = sum(max(1, stage.epochs) for stage in train.stages)
    if train.epochs < needed:
        expected = f"at least {needed}, for all {count} stages"
        raise _refusal("train.epochs", train.epochs, expected)
    endless = [i for i, stage in enumerate(train.stages[:-1]) if not stage.epochs]
    if train.decay == "cosine" and endless:
        expected = "a number of epochs in each stage but the last, over which the cosine falls"
        raise _refusal(f"train.stages[{endless[0]}].epochs", 0, expected)


def _check_choice(key: str, found: str, known: Mapping[str, object]) -> None:
    if found not in known:
        raise _refusal(key, found, "one of " + ", ".join(known), closest(found, known))


def _refusal(key: str, found: object, expected: str, remedy: str | None = None) -> InputError:
    return InputError(
        "The configuration has a value that does not fit the rest of it.",
        field=f"config.{key}",
        found=found,
        expected=expected,
        remedy=remedy,
    )
