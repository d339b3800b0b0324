"""Replicas: the many trainings of one network that a program runs at once.

A replica is (fold, seed, target weights, numeric hyper-parameters). Every leaf of the train
state has a leading axis R and every replica has its own data, schedule, early stopping and
best weights; the result equals R separate runs of the same ``epoch_steps``.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from emojax.config_schema import ReplicasConfig, TrainConfig
from emojax.errors import InputError
from emojax.ops.tasks import TASK_OPS


@dataclasses.dataclass(frozen=True)
class Replica:
    """One of the R trainings.

    Attributes:
        fold: name of the store's fold whose training and validation videos it uses.
        seed: decides its initial weights, its dropout and the order of its windows.
        target: what its loss and its selection look at: one label dimension ("valence"),
            one task ("va": the mean over its dimensions) or "all" tasks.
        learning_rate: the rate before warm-up and plateau.
        weight_decay: coefficient of the L2 (or decoupled) term.
    """

    fold: str
    seed: int
    target: str
    learning_rate: float
    weight_decay: float


@dataclasses.dataclass(frozen=True)
class Groups:
    """Replicas that share something, for example their training windows.

    Attributes:
        keys: one entry per group.
        members_R: (R,) int32, the group of each replica.
    """

    keys: tuple[Any, ...]
    members_R: np.ndarray


def expand(replicas: ReplicasConfig, train: TrainConfig) -> tuple[Replica, ...]:
    """Makes all combinations of ``config.replicas``' folds, targets and seeds, in this order.

    Learning rate and weight decay may be one number for all, or a sequence, which then is
    a further factor of the product.

    Raises:
        InputError: a list is empty, or holds a value twice.
    """
    factors: dict[str, Sequence[Any]] = {
        "folds": replicas.folds,
        "targets": replicas.targets,
        "seeds": replicas.seeds,
        "learning_rate": _as_sequence(train.learning_rate),
        "weight_decay": _as_sequence(train.weight_decay),
    }
    for name, values in factors.items():
        if not values:
            raise InputError(
                "A run needs at least one replica.",
                field=f"config.replicas.{name}",
                found="nothing",
                expected="at least one value",
            )
    expanded = tuple(
        Replica(str(fold), int(seed), str(target), float(rate), float(decay))
        for fold, target, seed, rate, decay in itertools.product(*factors.values())
    )
    twice = [replica for replica in expanded if expanded.count(replica) > 1]
    if twice:
        raise InputError(
            "Two replicas would be the same training.",
            field="config.replicas",
            found=twice[0],
            expected="every fold, target, seed, learning rate and weight decay once",
        )
    return expanded


def group_by(replicas: Sequence[Replica], key: Callable[[Replica], Hashable]) -> Groups:
    """Groups replicas by a key, in order of first appearance."""
    keys = tuple(dict.fromkeys(key(replica) for replica in replicas))
    members = np.array([keys.index(key(replica)) for replica in replicas], np.int32)
    return Groups(keys, members)


def short_names(replicas: Sequence[Replica]) -> tuple[str, ...]:
    """Names each replica by its target and by what else differs between replicas."""
    words: dict[str, Callable[[Replica], Any]] = {
        "fold": lambda replica: replica.fold,
        "seed": lambda replica: replica.seed,
        "rate": lambda replica: replica.learning_rate,
        "decay": lambda replica: replica.weight_decay,
    }
    telling = {word: get for word, get in words.items() if len({get(r) for r in replicas}) > 1}
    return tuple(
        " ".join([replica.target, *(f"{word} {get(replica)}" for word, get in telling.items())])
        for replica in replicas
    )


def target_weights(replicas: Sequence[Replica], tasks: Sequence[str]) -> dict[str, np.ndarray]:
    """Computes the weights of losses in each replica: task -> (R, targets), rows sum to 1.

    Raises:
        InputError: a replica's target belongs to none of these tasks, or a task is no
            replica's target.
    """
    names = [(task, target) for task in tasks for target in TASK_OPS[task].targets]
    rows = []
    for replica in replicas:
        row = np.array(
            [replica.target in (target, task, "all") for task, target in names], np.float32
        )
        # Targets weigh alike within a task, and tasks weigh alike among themselves.
        for task in tasks:
            of_task = np.array([name == task for name, _ in names])
            row[of_task] /= max(1.0, row[of_task].sum())
        if not row.any():
            raise InputError(
                f"Unknown target {replica.target!r}.",
                field="config.replicas.targets",
                found=replica.target,
                expected="one of " + ", ".join([*(t for _, t in names), *tasks, "all"]),
                remedy="choose a target of the tasks in config.data.tasks",
            )
        rows.append(row / row.sum())
    weights_RX = np.stack(rows)
    for task in tasks:
        columns = [i for i, (name, _) in enumerate(names) if name == task]
        if not weights_RX[:, columns].any():
            raise InputError(
                f"No replica is trained for task {task!r}.",
                field="config.replicas.targets",
                found=", ".join(dict.fromkeys(replica.target for replica in replicas)),
                expected=f"also {task!r}, or 'all' for one model of all tasks",
                remedy=f"add it, or take {task!r} out of config.data.tasks",
            )
    return {
        task: weights_RX[:, [i for i, (name, _) in enumerate(names) if name == task]]
        for task in tasks
    }


def _as_sequence(value: Any) -> Sequence[Any]:
    return (value,) if isinstance(value, int | float) else tuple(value)
