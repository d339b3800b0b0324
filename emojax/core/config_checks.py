"""What a configuration must hold, and what it may leave out; every refusal names its key."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from emojax.core.class_weights import CLASS_WEIGHTS, WEIGHTED_KINDS
from emojax.core.schedule import DECAYS, WARMUPS
from emojax.core.stages import parse_stages
from emojax.datasets.pipeline import WindowSpec
from emojax.errors import InputError, closest
from emojax.ops.tasks import TASK_OPS
from emojax.specs import TASKS

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

# How batches come to the devices, see training/feeds.py.
FEEDS = ("auto", "stream", "resident")

# What becomes of losses that are not finite, see training/non_finite.py.
NON_FINITE = ("drop", "stop", "skip")

# Keys of config.data, beside those of windows, that may be left out, and what then holds.
_DATA_DEFAULTS: dict[str, Any] = {"feed": "auto"}

# Keys of config.mesh, the devices along each axis at most, which may be left out as a whole.
_MESH_DEFAULTS: dict[str, Any] = {"replica": 0, "data": 0}

# Keys of config.train that may be left out, and what then holds.
_TRAIN_DEFAULTS: dict[str, Any] = {
    "decay": "none",
    "stages": [],
    "ema": 0.0,
    "modality_dropout": {"frames": 0.0, "streams": 0.0},
    "class_weights": "none",
    "init_from": "",
    "non_finite": "drop",
    "steps_per_dispatch": 0,
    "memory_limit": 0,
    "replicas_at_once": 0,
}

# Keys that decide how fast a run is and on how much memory, but not what it computes.
RUNTIME_KEYS = (
    "data.feed", "mesh.replica", "mesh.data", "train.steps_per_dispatch", "train.memory_limit",
    "train.replicas_at_once",
)  # fmt: skip

# Numbers of config.train.
_POSITIVE = ("epochs", "learning_rate", "plateau_factor", "stop_patience")
_NOT_NEGATIVE = (
    "epoch_steps", "weight_decay", "clip_norm", "warmup_epochs", "plateau_patience",
    "minimum_rate", "releases",
)  # fmt: skip

# Lists of names, which a flag may also give as "a,b".
_NAMES = (("data", "streams"), ("data", "tasks"), ("replicas", "folds"), ("replicas", "targets"))


def check_complete(config: dict[str, Any]) -> None:
    """Checks that nothing is missing and numbers can be; splits names, fills in defaults.

    Args:
        config: plain nested dict, changed in place.

    Raises:
        InputError: a key is missing or holds a number that cannot be.
    """
    for section, keys in _REQUIRED.items():
        missing = [f"{section}.{key}" for key in keys if key not in config.get(section, {})]
        if section not in config or missing:
            raise InputError(
                "The configuration is incomplete.",
                field=f"config.{missing[0] if missing else section}",
                found="nothing",
                expected="a value, as in configs/rjcma.py",
            )
    for section, key in _NAMES:
        config[section][key] = _split_names(config[section][key])
    config["data"] = _DATA_DEFAULTS | config["data"]
    config["mesh"] = _MESH_DEFAULTS | config.get("mesh", {})
    for key, size in config["mesh"].items():
        if key not in _MESH_DEFAULTS or not _is_whole(size) or size < 0:
            raise InputError(
                "A setting of the devices cannot be.",
                field=f"config.mesh.{key}",
                found=size,
                expected="a whole number of devices, 0 for as many as there are, for "
                + " and ".join(_MESH_DEFAULTS),
            )
    train = config["train"]
    for key, default in _TRAIN_DEFAULTS.items():
        given = train.get(key, default)
        # A mapping may give some of its keys.
        mappings = isinstance(default, dict) and isinstance(given, dict)
        train[key] = default | given if mappings else given
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


def check_choices(config: dict[str, Any], tasks: tuple[str, ...]) -> None:
    """Refuses unknown names; a task without a loss or a selection takes the default one.

    Args:
        config: complete, changed in place.
        tasks: the tasks to train.

    Raises:
        InputError: a name is none of a table.
    """
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
    choices = {
        "warmup": WARMUPS,
        "decay": DECAYS,
        "class_weights": CLASS_WEIGHTS,
        "non_finite": NON_FINITE,
    }
    tables += [(f"train.{key}", config["train"][key], table) for key, table in choices.items()]
    tables += [("data.feed", config["data"]["feed"], FEEDS)]
    for field, found, table in tables:
        if found not in table:
            raise InputError(
                f"config.{field} names nothing that exists.",
                field=f"config.{field}",
                found=found,
                expected="one of " + ", ".join(table),
            )


def check_training(config: dict[str, Any], tasks: tuple[str, ...]) -> None:
    """Refuses settings of ``config.train`` that cannot be, alone or together.

    Args:
        config: complete; stages are written out in full, in place.
        tasks: the tasks to train.

    Raises:
        InputError: as said.
    """
    train = config["train"]
    if not _is_rate(train["ema"]):
        _refuse("ema", train["ema"], "0 (off) or a decay below 1, such as 0.999")
    _check_modality_dropout(train["modality_dropout"])
    if not isinstance(train["init_from"], str):
        _refuse("init_from", train["init_from"], "the workdir of a run, or nothing")
    for key in ("steps_per_dispatch", "memory_limit", "replicas_at_once"):
        if not _is_whole(train[key]) or train[key] < 0:
            _refuse(key, train[key], "a whole number, 0 for what suits the device")
    kinds = {TASKS[task].kind for task in tasks}
    if train["class_weights"] != "none" and not kinds & set(WEIGHTED_KINDS):
        _refuse(
            "class_weights",
            train["class_weights"],
            "none, as none of the tasks " + ", ".join(tasks) + " has classes",
        )
    if train["decay"] == "cosine" and min(_as_list(train["learning_rate"])) < train["minimum_rate"]:
        _refuse("minimum_rate", train["minimum_rate"], "at most the learning rate it decays from")
    _check_stages(train)


def _check_modality_dropout(rates: Any) -> None:
    known = _TRAIN_DEFAULTS["modality_dropout"]
    if not isinstance(rates, dict):
        _refuse("modality_dropout", rates, "a mapping with " + " and ".join(known))
    for key, rate in rates.items():
        if key not in known:
            expected = "one of " + ", ".join(known)
            _refuse(f"modality_dropout.{key}", rate, expected, closest(key, known))
        if not _is_rate(rate):
            _refuse(f"modality_dropout.{key}", rate, "a probability, at least 0 and below 1")


def _check_stages(train: dict[str, Any]) -> None:
    stages = parse_stages(train["stages"])
    # Written out, so that a run may be continued with defaults said or left out.
    train["stages"] = [
        dataclasses.asdict(stage) | {"frozen": list(stage.frozen)} for stage in stages
    ]
    if not stages:
        return
    if train["releases"] not in (0, len(stages) - 1):
        _refuse(
            "releases",
            train["releases"],
            f"0: with {len(stages)} stages there are {len(stages) - 1} releases",
        )
    # A stage that ends with its plateau takes an epoch at the very least.
    needed = sum(max(1, stage.epochs) for stage in stages)
    if train["epochs"] < needed:
        _refuse("epochs", train["epochs"], f"at least {needed}, for all {len(stages)} stages")
    endless = [i for i, stage in enumerate(stages[:-1]) if not stage.epochs]
    if train["decay"] == "cosine" and endless:
        _refuse(
            f"stages[{endless[0]}].epochs",
            0,
            "a number of epochs: a cosine needs to know its end, in all stages but the last",
        )


def _refuse(key: str, found: object, expected: str, remedy: str | None = None) -> None:
    raise InputError(
        "A setting of the training cannot be.",
        field=f"config.train.{key}",
        found=found,
        expected=expected,
        remedy=remedy,
    )


def _is_rate(value: Any) -> bool:
    """Whether it is a number in [0, 1); NaN is not."""
    return isinstance(value, int | float) and 0 <= value < 1


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def optional_defaults() -> dict[str, Any]:
    """Dotted key -> value of what a configuration may leave out of data and training.

    A run that was saved before a key existed was trained with this value.
    """
    defaults: dict[str, Any] = {}
    for member in dataclasses.fields(WindowSpec):
        if member.default is not dataclasses.MISSING:
            defaults[f"data.{member.name}"] = member.default
        elif member.default_factory is not dataclasses.MISSING:
            defaults[f"data.{member.name}"] = member.default_factory()
    sections = {"data": _DATA_DEFAULTS, "mesh": _MESH_DEFAULTS, "train": _TRAIN_DEFAULTS}
    for section, values in sections.items():
        defaults |= flatten(values, f"{section}.")
    return defaults


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested configuration -> dotted key -> value."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _split_names(names: Any) -> list[str]:
    """["ir50,bert"], what a flag without quotes and parentheses gives -> ["ir50", "bert"]."""
    return [part.strip() for name in _as_list(names) for part in str(name).split(",")]


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
