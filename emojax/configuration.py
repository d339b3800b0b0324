"""Defaults for the files in ``configs/``, so that each sets only what differs.

``python -m emojax.configuration > docs/configuration.md`` writes the table of all keys.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from ml_collections import ConfigDict

from emojax.config_reading import all_keys, allowed_text
from emojax.config_schema import RunConfig
from emojax.errors import InputError, closest


def base_config() -> ConfigDict:
    """Returns every key of ``config_schema.RunConfig`` with its default; a system sets the rest.

    The defaults are one model of all of a task's targets on the official fold, Adam, no decay, no
    warm-up, no plateau, no clipping, and no regularisation beyond the model's own.
    """
    return ConfigDict(_mutable(RunConfig()))


def _mutable(section: Any) -> Any:
    """Turns sections into dicts, and leaves all other values as they are."""
    if not dataclasses.is_dataclass(section):
        return section
    return {f.name: _mutable(getattr(section, f.name)) for f in dataclasses.fields(section)}


def other_tasks(config: ConfigDict, *tasks: str) -> ConfigDict:
    """Changes a system to these tasks, as one model of all their targets.

    Args:
        config: changed in place. Tasks that it has a loss or a selection for keep them; others
            get the defaults of their kind.
        tasks: to train, in the order of ``config.data.tasks``.

    Returns:
        ``config``.
    """
    config.data.tasks = tasks
    for section in (config.loss, config.evaluation.selection):
        for task in set(section) - set(tasks):
            del section[task]
    config.replicas.targets = ("all",)
    return config


def some_streams(config: ConfigDict, *streams: str) -> ConfigDict:
    """Changes a system to some of its streams.

    Args:
        config: changed in place. Values for other streams in ``data`` (such as ``resampling``)
            and in ``model`` (such as ``channels``) are removed.
        streams: some of ``config.data.streams``, in their new order.

    Returns:
        ``config``.
    """
    gone = set(config.data.streams) - set(streams)
    for section in (*config.data.values(), *config.model.values()):
        if isinstance(section, ConfigDict):
            for name in gone & set(section):
                del section[name]
    config.data.streams = streams
    return config


def choose(variants: Mapping[str, Callable[[], ConfigDict]], variant: str, file: str) -> ConfigDict:
    """Makes the configuration of a variant; every ``get_config`` calls it.

    Args:
        variants: name -> function; "" is the paper's own.
        variant: the text after the colon of ``--config=NAME:VARIANT``.
        file: ``__file__`` of the configuration, for the message.

    Raises:
        InputError: there is no such variant.
    """
    if variant not in variants:
        named = [name for name in variants if name]
        raise InputError(
            f"Unknown variant of configs/{Path(file).name}.",
            field="--config",
            found=variant,
            expected="one of " + ", ".join(named),
            remedy=closest(variant, named),
        )
    return variants[variant]()


def key_table() -> str:
    """Returns docs/configuration.md: all keys with their defaults, allowed values and meaning."""
    lines = [
        "# Configuration keys",
        "",
        "Made by `python -m emojax.configuration > docs/configuration.md` from",
        "`emojax/config_schema.py`. Keys with a star must be in every configuration; files in",
        "`configs/` have them from `base_config()`. Keys with a plus change speed and memory but",
        "not results, and may change when a run is resumed.",
        "",
        "| `config.` | default | allowed | meaning |",
        "|---|---|---|---|",
    ]
    for name, kind, default, rule in all_keys():
        marks = "*" * rule.required + "+" * rule.runtime
        allowed = allowed_text(kind, rule)
        lines.append(f"| `{name}`{marks} | `{default!r}` | {allowed} | {rule.about} |")
        if get_origin(kind) is tuple and dataclasses.is_dataclass(get_args(kind)[0]):
            for inner, inner_kind, value, about in all_keys(get_args(kind)[0], f"{name}[i]."):
                allowed = allowed_text(inner_kind, about)
                lines.append(f"| `{inner}` | `{value!r}` | {allowed} | {about.about} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(key_table(), end="")
