"""Everything a run is made of, built from a configuration and a store.

Training and evaluation share it, so that a checkpoint's configuration rebuilds exactly the
model, streams, windows and normalisation it was trained with.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from emojax.datasets.pipeline import WindowSpec
from emojax.datasets.source import Store
from emojax.engine.optim import Optimizer
from emojax.engine.replicas import (
    Groups,
    Replica,
    expand,
    group_by,
    short_names,
    target_weights,
)
from emojax.engine.runtime import Layout, make_layout
from emojax.engine.schedule import WARMUPS
from emojax.engine.state import TrainState, abstract_state, init_state
from emojax.engine.step import LossTable, Shared, loss_table
from emojax.errors import InputError
from emojax.models import build_model
from emojax.ops.tasks import TASK_OPS
from emojax.specs import TASKS, StreamSpec

# Configuration keys without which nothing can be built; the configs show what they hold.
_REQUIRED: dict[str, tuple[str, ...]] = {
    "data": (
        "store", "streams", "tasks", "window", "stride", "batch_size", "random_offset",
        "resampling",
    ),
    "model": ("name",),
    "loss": (),
    "replicas": ("folds", "targets", "seeds"),
    "train": (
        "epochs", "epoch_steps", "optimizer", "learning_rate", "weight_decay", "clip_norm",
        "warmup", "warmup_epochs", "plateau_patience", "plateau_factor", "minimum_rate",
        "releases", "reload_best", "stop_patience",
    ),
    "evaluation": ("selection",),
}  # fmt: skip

# Numbers of config.train.
_POSITIVE = ("epochs", "learning_rate", "plateau_factor", "stop_patience")
_NOT_NEGATIVE = (
    "epoch_steps", "weight_decay", "clip_norm", "warmup_epochs", "plateau_patience",
    "minimum_rate", "releases",
)  # fmt: skip

# Lists of names, which a flag may also give as "a,b".
_NAMES = (("data", "streams"), ("data", "tasks"), ("replicas", "folds"), ("replicas", "targets"))


@dataclasses.dataclass(frozen=True)
class Session:
    """A configuration made concrete.

    Attributes:
        config: plain nested dict, JSON-able.
        streams: the specification of each stream the model reads, in the model's order.
        window_spec: what windows hold.
        model: the Linen module.
        optimizer: Adam, without the learning rate.
        losses: task -> loss function.
        replicas: the R replicas.
        weights: task -> (R, targets), see ``replicas.target_weights``.
        folds: replicas grouped by fold; normalisation and evaluation go by fold.
        samplers: replicas grouped by (fold, seed), which share their training windows.
        layout: devices.
    """

    config: dict[str, Any]
    streams: dict[str, StreamSpec]
    window_spec: WindowSpec
    model: nn.Module
    optimizer: Optimizer
    losses: LossTable
    replicas: tuple[Replica, ...]
    weights: dict[str, np.ndarray]
    folds: Groups
    samplers: Groups
    layout: Layout

    @property
    def names(self) -> tuple[str, ...]:
        """Short labels of the replicas."""
        return short_names(self.replicas)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks the model predicts."""
        return self.window_spec.tasks

    @property
    def batch_size(self) -> int:
        """B."""
        return self.config["data"]["batch_size"]

    def shared(self, groups: Groups) -> Shared:
        """How the step finds each replica's data when batches are grouped like this."""
        return Shared(members=_members(groups), fold_members=_members(self.folds))

    def init_state(self) -> TrainState:
        """Fresh train state, on the devices."""
        state = init_state(*self._state_arguments())
        return self.layout.replicas(state)

    def abstract_state(self) -> TrainState:
        """Shapes and shardings of the train state, to restore a checkpoint onto."""
        shapes = abstract_state(*self._state_arguments())
        sharding = self.layout.replica_sharding
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes
        )

    def _state_arguments(self) -> tuple[Any, ...]:
        return self.model, self.streams, self.window_spec.window, self.optimizer, self.replicas


def build_session(
    config: Mapping[str, Any],
    streams: Mapping[str, StreamSpec],
    devices: list[jax.Device] | None = None,
) -> Session:
    """Builds a session.

    Args:
        config: nested mapping as ``configs/rjcma.py`` makes it.
        streams: specifications of at least the streams the configuration names, from the
            store or from a checkpoint.
        devices: to run on; all by default.

    Raises:
        InputError: anything in the configuration that cannot be.
    """
    plain = as_plain(config)
    _check_complete(plain)
    for section, key in _NAMES:
        plain[section][key] = _split_names(plain[section][key])
    data, train = plain["data"], plain["train"]
    window_spec = WindowSpec(
        streams=tuple(data["streams"]),
        tasks=tuple(data["tasks"]),
        window=data["window"],
        stride=data["stride"],
        resampling=data["resampling"],
        align_end=data.get("align_end", False),
        random_offset=data["random_offset"],
    )
    _check_choices(plain, window_spec.tasks)
    replicas = expand(plain["replicas"], train)
    model_fields = dict(plain["model"])
    # What data and model must agree on is said once, in config.data.
    model_fields |= {"streams": window_spec.streams, "window": window_spec.window}
    outputs = {task: TASKS[task].outputs for task in window_spec.tasks}
    model = build_model(model_fields.pop("name"), outputs, **model_fields)
    return Session(
        config=plain,
        streams=_known_streams(streams, window_spec.streams),
        window_spec=window_spec,
        model=model,
        optimizer=Optimizer(train["optimizer"], train["clip_norm"]),
        losses=loss_table({task: plain["loss"][task] for task in window_spec.tasks}),
        replicas=replicas,
        weights=target_weights(replicas, window_spec.tasks),
        folds=group_by(replicas, lambda replica: replica.fold),
        samplers=group_by(replicas, lambda replica: (replica.fold, replica.seed)),
        layout=make_layout(len(replicas), data["batch_size"], devices),
    )


def fold_normalisation(session: Session, store: Store) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Training statistics: stream -> (mean, standard deviation), float32.

    Each is (D,) when all replicas use one fold, else (folds, D) in the order of
    ``session.folds``.
    """
    per_fold = [store.statistics(fold) for fold in session.folds.keys]
    normalisation = {}
    for name in session.streams:
        mean, std = (
            np.stack([statistics[name][i] for statistics in per_fold]).astype(np.float32)
            for i in (0, 1)
        )
        normalisation[name] = (mean[0], std[0]) if len(per_fold) == 1 else (mean, std)
    return normalisation


def abstract_normalisation(session: Session) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Arrays of the shapes that ``fold_normalisation`` returns, to restore onto."""
    count = len(session.folds.keys)
    lead = () if count == 1 else (count,)
    return {
        name: (np.zeros((*lead, spec.width), np.float32), np.zeros((*lead, spec.width), np.float32))
        for name, spec in session.streams.items()
    }


def as_plain(config: Any) -> Any:
    """Nested mappings and sequences -> dicts and lists that JSON knows."""
    if isinstance(config, Mapping) or hasattr(config, "items"):
        return {str(key): as_plain(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [as_plain(value) for value in config]
    return config


def _members(groups: Groups) -> tuple[int, ...] | None:
    return None if len(groups.keys) == 1 else tuple(int(i) for i in groups.members_R)


def _known_streams(
    streams: Mapping[str, StreamSpec], names: tuple[str, ...]
) -> dict[str, StreamSpec]:
    for name in names:
        if name not in streams:
            raise InputError(
                f"The data has no stream {name!r}.",
                field="config.data.streams",
                found=name,
                expected="some of " + ", ".join(streams),
                remedy="change config.data.streams, or build the store with this stream",
            )
    return {name: streams[name] for name in names}


def _check_complete(config: Mapping[str, Any]) -> None:
    for section, keys in _REQUIRED.items():
        missing = [f"{section}.{key}" for key in keys if key not in config.get(section, {})]
        if section not in config or missing:
            raise InputError(
                "The configuration is incomplete.",
                field=f"config.{missing[0] if missing else section}",
                found="nothing",
                expected="a value, as in configs/rjcma.py",
            )
    train = config["train"]
    numbers = [("data.batch_size", config["data"]["batch_size"])]
    for key in (*_POSITIVE, *_NOT_NEGATIVE):
        numbers += [(f"train.{key}", value) for value in _as_list(train[key])]
    for field, value in numbers:
        zero = field.removeprefix("train.") in _NOT_NEGATIVE
        # The first comparison is also what refuses NaN.
        if isinstance(value, int | float) and 0 <= value < math.inf and (zero or value > 0):
            continue
        raise InputError(
            "The configuration holds a number that cannot be.",
            field=f"config.{field}",
            found=value,
            expected="a finite number, " + ("at least 0" if zero else "above 0"),
        )


def _split_names(names: Any) -> list[str]:
    """["ir50,bert"], what a flag without quotes and parentheses gives -> ["ir50", "bert"]."""
    return [part.strip() for name in _as_list(names) for part in str(name).split(",")]


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _check_choices(config: Mapping[str, Any], tasks: tuple[str, ...]) -> None:
    """Refuses unknown names; a task without a loss or a selection takes the default one."""
    for task in tasks:
        if task not in TASKS:
            raise InputError(
                "Unknown task.",
                field="config.data.tasks",
                found=task,
                expected="some of " + ", ".join(TASKS),
            )
        config["loss"].setdefault(task, TASK_OPS[task].default_loss)
        config["evaluation"]["selection"].setdefault(task, TASK_OPS[task].default_selection)
    tables: list[tuple[str, Any, Any]] = [
        (f"loss.{task}", config["loss"][task], TASK_OPS[task].losses) for task in tasks
    ]
    tables += [
        (
            f"evaluation.selection.{task}",
            config["evaluation"]["selection"][task],
            TASK_OPS[task].selections,
        )
        for task in tasks
    ]
    tables.append(("train.warmup", config["train"]["warmup"], WARMUPS))
    for field, found, table in tables:
        if found not in table:
            raise InputError(
                f"config.{field} names nothing that exists.",
                field=f"config.{field}",
                found=found,
                expected="one of " + ", ".join(table),
            )
