"""Models, each found by its name.

A model is a file of this folder that holds one Linen module with the fields ``outputs`` and
``streams``; its name is that of the file. A model that lives elsewhere is registered, see
``register``. Start reading in ``segment_mlp.py``, the smallest one; docs/extending.md shows how a
new one is written.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from flax import linen as nn

from emojax.errors import InputError, closest

Model = TypeVar("Model", bound=type[nn.Module])

# Fields by which a model is told from other Linen modules.
_FIELDS = frozenset({"outputs", "streams"})
_REGISTERED: dict[str, type[nn.Module]] = {}


def register(name: str) -> Callable[[Model], Model]:
    """Registers a model under a name, by which configurations and checkpoints find it.

        >>> @register("gated_gru")
        ... class GatedGRU(nn.Module):
        ...     outputs: Mapping[str, int]
        ...     streams: tuple[str, ...]
        ...     window: int

    A name may be registered again, as happens when a notebook's cell runs twice; the latest class
    counts.

    Args:
        name: the value of ``config.model.name``.

    Raises:
        InputError: emojax has a model of this name, or the class is not a model.
    """
    if name in _files():
        raise InputError(
            "This name belongs to a module of emojax.",
            field="name of a model",
            found=name,
            expected="a name of your own",
        )

    def add(model: Model) -> Model:
        if not _is_model(model):
            raise InputError(
                "Only a model can be registered.",
                field=f"model {name}",
                found=getattr(model, "__name__", repr(model)),
                expected="a flax.linen.Module with the fields outputs, streams and window",
            )
        _REGISTERED[name] = model
        return model

    return add


def model_names() -> tuple[str, ...]:
    """Returns the names of all models: those of emojax, then those that were registered."""
    shipped = [name for name in _files() if _model_in(name) is not None]
    return (*shipped, *_REGISTERED)


def model_class(name: str) -> type[nn.Module]:
    """Returns the Linen module of a name. It executes nothing that is not part of emojax.

    The place of a file, "path/to/file.py:Class", finds the class that was registered under it. A
    checkpoint may name a file that has moved since: the class of the only registered file with
    the same last part, "file.py:Class", is taken for it.

    Raises:
        InputError: there is no such model.
    """
    if name in _REGISTERED:
        return _REGISTERED[name]
    if is_place(name):
        moved = {place for place in _REGISTERED if is_place(place) and _last(place) == _last(name)}
        if len(moved) == 1:
            return _REGISTERED[moved.pop()]
        raise InputError(
            "The model is defined in a file, and opening a run does not execute files.",
            field="config.model.name",
            found=name,
            expected="a registered model",
            remedy=f"if you trust the file, name it: --register={name}; in Python, call "
            f"emojax.register({name!r})(CLASS) first",
        )
    model = _model_in(name) if name in _files() else None
    if model is None:
        names = model_names()
        raise InputError(
            "There is no model of this name.",
            field="model",
            found=name,
            expected=", ".join(sorted(names)),
            remedy=closest(name, names)
            or "choose one of those, or give the file that registers it: --register=FILE",
        )
    return model


def is_place(name: str) -> bool:
    """Tells whether the name of a model is the place of a file, "path/to/file.py:Class"."""
    return ".py:" in name


def build_model(name: str, outputs: Mapping[str, int], **fields: Any) -> nn.Module:
    """Builds a model from its name and its fields, which are its whole configuration.

    Args:
        name: the name of the model, see ``model_class``.
        outputs: task -> C, the number of output columns.
        **fields: the module's other fields. Lists become tuples and mappings (of a config)
            plain dicts.

    Raises:
        InputError: the model or one of the fields does not exist, or a field without a
            default is missing.
    """
    module: Any = model_class(name)
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
    """Returns the names of the fields that a model has.

    Raises:
        InputError: the model does not exist.
    """
    members = dataclasses.fields(model_class(name))
    return {member.name for member in members if member.init} - {"parent", "name"}


@functools.cache
def _files() -> frozenset[str]:
    """Returns the modules of this folder, by which names are checked before any import."""
    return frozenset(module.name for module in pkgutil.iter_modules(__path__))


@functools.cache
def _model_in(file: str) -> type[nn.Module] | None:
    """Returns the model that a module of this folder defines; None if it defines none."""
    module = importlib.import_module(f"{__name__}.{file}")
    own = [
        member
        for name, member in vars(module).items()
        if not name.startswith("_") and _is_model(member) and member.__module__ == module.__name__
    ]
    assert len(own) <= 1, f"emojax/models/{file}.py defines several models: {own}"
    return own[0] if own else None


def _is_model(member: Any) -> bool:
    if not (isinstance(member, type) and issubclass(member, nn.Module)):
        return False
    return {field.name for field in dataclasses.fields(member)} >= _FIELDS


def _last(place: str) -> str:
    return place.replace("\\", "/").rpartition("/")[2]


def _plain(value: Any) -> Any:
    """Turns a configuration's containers into the immutable ones that modules hold."""
    if hasattr(value, "items"):
        return {key: _plain(item) for key, item in value.items()}
    return tuple(_plain(item) for item in value) if isinstance(value, list | tuple) else value
