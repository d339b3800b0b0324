"""The systems by name, and the one way to build them."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

from flax import linen as nn

from emojax.errors import InputError, closest

MODELS: dict[str, str] = {
    "emma_net": "emojax.models.emma_net:EMMANet",
    "exptrm": "emojax.models.exptrm:ExpTrm",
    "lfan": "emojax.models.lfan:LFAN",
    "multiscale_tcn": "emojax.models.multiscale_tcn:MultiscaleTCN",
    "recurrent_baselines": "emojax.models.recurrent_baselines:RecurrentBaseline",
    "rjcma": "emojax.models.rjcma:RJCMA",
    "segment_mlp": "emojax.models.segment_mlp:SegmentMLP",
    "tcn_transformer": "emojax.models.tcn_transformer:TCNTransformer",
}


def build_model(name: str, outputs: Mapping[str, int], **fields: Any) -> nn.Module:
    """Build a model from its name and its fields, which are its whole configuration.

    Args:
        name: a key of ``MODELS``.
        outputs: task -> C, the number of output columns.
        **fields: the module's other fields. Lists become tuples and mappings (of a config)
            plain dicts.

    Raises:
        InputError: the model or one of the fields does not exist, or a field without a
            default is missing.
    """
    module = model_class(name)
    members = [f for f in dataclasses.fields(module) if f.init]
    known = declared_fields(name)
    for field in fields:
        if field not in known:
            raise InputError(
                f"Model {name} has no such field.",
                field=field,
                found=fields[field],
                expected=", ".join(sorted(known)),
                remedy=closest(field, known) or "choose one of those",
            )
    for member in members:
        needed = member.default is member.default_factory is dataclasses.MISSING
        if needed and member.name not in {"outputs", *fields}:
            raise InputError(
                f"Model {name} needs one more field.",
                field=f"model.{member.name}",
                found="nothing",
                remedy="set it in the configuration",
            )
    plain = {key: _plain(value) for key, value in fields.items()}
    return module(outputs=dict(outputs), **plain)


def declared_fields(name: str) -> set[str]:
    """Names of the fields that a model has.

    Raises:
        InputError: the model does not exist.
    """
    members = dataclasses.fields(model_class(name))
    return {member.name for member in members if member.init} - {"parent", "name"}


def model_class(name: str) -> Any:
    """The module of a name.

    Raises:
        InputError: the model does not exist.
    """
    if name not in MODELS:
        raise InputError(
            "There is no model of this name.",
            field="model",
            found=name,
            expected=", ".join(sorted(MODELS)),
            remedy=closest(name, MODELS) or "choose one of those",
        )
    module_name, class_name = MODELS[name].split(":")
    return getattr(importlib.import_module(module_name), class_name)


def _plain(value: Any) -> Any:
    """Config containers as the hashable or frozen ones that modules hold."""
    if hasattr(value, "items"):
        return {key: _plain(item) for key, item in value.items()}
    return tuple(_plain(item) for item in value) if isinstance(value, list | tuple) else value
