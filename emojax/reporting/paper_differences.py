"""Lists where a configuration differs from the paper of its system."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from emojax.config_files import load_config, load_module
from emojax.config_reading import as_plain, read
from emojax.config_schema import RunConfig
from emojax.core.stream_defaults import complete_streams
from emojax.differences import Difference, find, holding
from emojax.models import declared_fields, model_class
from emojax.shipped import config_folder, config_names


def differences_from_paper(config: Any) -> list[dict[str, Any]] | None:
    """Lists where a configuration differs from the paper of its system.

        >>> for entry in emojax.differences_from_paper("rjcma:upstream"):
        ...     print(entry["where"], entry["text"])

    A system's list lies in its configuration file, ``configs/NAME.py``. A configuration of your own
    is compared with the list of its ``model.name``.

    Args:
        config: a configuration, as a nested mapping, or the name of one as for ``load_config``.

    Returns:
        For each difference its "text", "where" (the paper's section or equation), "kind" and
        "because" (the values that cause it, by key). None if no list is known for the model.

    Raises:
        InputError: there is no such configuration, or it has a key that is not allowed.
    """
    plain = as_plain(load_config(config) if isinstance(config, str) else config)
    known = listed(str(find(plain, "model.name")))
    return None if known is None else holding(known, complete(plain))


@functools.cache
def listed(model: str) -> Sequence[Difference] | None:
    """Returns the differences that emojax's configuration of a model lists, or None."""
    if model not in config_names():
        return None
    return getattr(load_module(config_folder() / f"{model}.py"), "DIFFERENCES", None)


def complete(config: Any) -> dict[str, Any]:
    """Returns a configuration as plain types, with the defaults of all keys that it leaves out.

    Raises:
        InputError: a key is not allowed.
    """
    values = as_plain(read(RunConfig, as_plain(config)))
    name = str(values["model"].get("name"))
    defaults: Mapping[str, Any] = {}
    if name in config_names():
        known = declared_fields(name)
        defaults = {
            field.name: field.default
            for field in dataclasses.fields(model_class(name))
            if field.name in known and field.default is not dataclasses.MISSING
        }
    model = complete_streams(values["model"], values["data"]["streams"])
    return values | {"model": as_plain(defaults) | model}


def causes(because: Mapping[str, Any]) -> str:
    """Writes the values that cause a difference: "model.fusion = attention, ...", or "always"."""
    return ", ".join(f"{key} = {value}" for key, value in because.items()) or "always"
