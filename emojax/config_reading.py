"""Checks configurations against their schema, and turns them into other forms and back."""

from __future__ import annotations

import dataclasses
import math
import numbers
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from emojax.config_schema import Rule, RunConfig
from emojax.errors import InputError, closest

Section = TypeVar("Section")


def read(section: type[Section], values: Any, path: str = "config") -> Section:
    """Checks a mapping against a section of the schema, and returns it as that section.

    Args:
        section: a class of ``emojax.config_schema``.
        values: key -> value, of plain types. Keys that are left out take their defaults.
        path: the name of the section in messages, such as "config.train".

    Raises:
        InputError: a key is unknown or missing, or its value has another type or is out of
            bounds. The error's field is ``path.key``.
    """
    known = {field.name: field for field in dataclasses.fields(section)}  # type: ignore[arg-type]
    if not isinstance(values, Mapping):
        raise _refusal(path, values, "a mapping with some of " + ", ".join(known))
    for name in values:
        if name not in known:
            expected = "one of " + ", ".join(known)
            raise _refusal(f"{path}.{name}", values[name], expected, closest(name, known))
    hints = typing.get_type_hints(section)
    found = {}
    for name, field in known.items():
        rule: Rule = field.metadata["rule"]
        if name in values:
            found[name] = _read_value(values[name], hints[name], f"{path}.{name}", rule)
        elif rule.required and dataclasses.is_dataclass(hints[name]):
            read(typing.cast(type, hints[name]), {}, f"{path}.{name}")  # names what it lacks
        elif rule.required:
            raise InputError(
                "The configuration is incomplete.",
                field=f"{path}.{name}",
                found="nothing",
                expected="a value, as in configs/rjcma.py",
            )
    return section(**found)


def _read_value(value: Any, kind: Any, path: str, rule: Rule) -> Any:
    """Checks one value, or each of a list or mapping; lists become tuples."""
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return read(typing.cast(type, kind), value, path)
    outer, inner = typing.get_origin(kind), typing.get_args(kind)
    is_list = isinstance(value, list | tuple)
    if outer is types.UnionType:  # one number, or several
        return _read_value(value, inner[1] if is_list else inner[0], path, rule)
    if outer is dict:
        if not isinstance(value, Mapping):
            raise _refusal(path, value, "a mapping")
        return {str(k): _read_value(v, inner[1], f"{path}.{k}", rule) for k, v in value.items()}
    if outer is tuple:
        if dataclasses.is_dataclass(inner[0]):
            if not is_list:
                raise _refusal(path, value, "a list of mappings")
            return tuple(
                _read_value(v, inner[0], f"{path}[{i}]", rule) for i, v in enumerate(value)
            )
        items = value if is_list else (value,)
        if rule.names:
            items = [part.strip() for item in items for part in str(item).split(",")]
        return tuple(_read_value(item, inner[0], path, rule) for item in items)
    if not _allowed(value, kind, rule):
        raise _refusal(path, value, allowed_text(kind, rule), closest(value, rule.choices))
    return value


def _allowed(value: Any, kind: type, rule: Rule) -> bool:
    if kind in (int, float):
        number: Any = numbers.Integral if kind is int else numbers.Real
        if isinstance(value, bool) or not isinstance(value, number):
            return False
        value = typing.cast(float, value)
        if not math.isfinite(value):
            return False
        return not (
            (rule.least is not None and value < rule.least)
            or (rule.above is not None and value <= rule.above)
            or (rule.below is not None and value >= rule.below)
        )
    return isinstance(value, kind) and (not rule.choices or value in rule.choices)


def allowed_text(kind: Any, rule: Rule) -> str:
    """Says which values a key may have, such as "a finite number, above 0"."""
    outer, inner = typing.get_origin(kind), typing.get_args(kind)
    if outer is types.UnionType:
        return allowed_text(inner[0], rule) + ", or a list of those"
    if outer is tuple:
        mappings = dataclasses.is_dataclass(inner[0])
        return "list of mappings" if mappings else "list: " + allowed_text(inner[0], rule)
    if outer is dict:
        return "mapping" if inner[1] is Any else "mapping: " + allowed_text(inner[1], rule)
    if rule.choices:
        return "one of " + ", ".join(rule.choices)
    bounds = {"at least": rule.least, "above": rule.above, "below": rule.below}
    limits = [f"{word} {bound}" for word, bound in bounds.items() if bound is not None]
    words = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text"}
    return ", ".join([words[kind], " and ".join(limits)] if limits else [words[kind]])


def _refusal(field: str, found: object, expected: str, remedy: str | None = None) -> InputError:
    return InputError(
        "The configuration has a key or a value that is not allowed.",
        field=field,
        found=str(found)[:100],
        expected=expected,
        remedy=remedy,
    )


def part(kind: type[Section], section: Any, **changes: Any) -> Section:
    """Makes a ``kind`` from the values of a section that it has fields for.

    Args:
        kind: a class whose fields are some of the section's, such as ``WindowSpec``.
        section: a section of a configuration, such as ``config.data``.
        **changes: values that replace those of the section, by field.
    """
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: getattr(section, name) for name in names} | changes)


def as_plain(config: Any) -> Any:
    """Turns sections, nested mappings and sequences into dicts and lists, as JSON has them."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: as_plain(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping) or hasattr(config, "items"):
        return {str(key): as_plain(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [as_plain(value) for value in config]
    return config


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turns a nested configuration into dotted key -> value."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def all_keys(section: Any = RunConfig, prefix: str = "") -> Iterator[tuple[str, Any, Any, Rule]]:
    """Yields (dotted key, type, default, rule) of every key that is not a section."""
    hints = typing.get_type_hints(section)
    for field in dataclasses.fields(section):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind):
            yield from all_keys(kind, f"{prefix}{field.name}.")
            continue
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        yield prefix + field.name, kind, default, field.metadata["rule"]
