"""A cache of compiled programs, which the runs of one process share.

A table trains its rows one after the other, a group of replicas follows another, an evaluation
follows a training. Each builds its steps from a model, losses and the like. A new function is
traced and lowered again, which takes seconds even if the compiled program is cached.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

Built = TypeVar("Built", bound=Callable[..., Any])

# Of each kind. A program that is not kept is only built again.
_MOST_KEPT = 16


def kept(build: Built) -> Built:
    """Caches the programs that a function builds, by its arguments.

    The program must depend on the arguments alone, all positional. Modules and other dataclasses
    are equal when their fields are. Arguments without a hash, such as arrays, are not cached.
    """

    @functools.lru_cache(maxsize=_MOST_KEPT)
    def remembering(call: _Call) -> Any:
        return build(*call.arguments)

    @functools.wraps(build)
    def find(*arguments: Any) -> Any:
        try:
            call = _Call(_key(arguments), arguments)
            hash(call)
        except TypeError:
            return build(*arguments)
        return remembering(call)

    return find  # type: ignore[return-value]


@dataclasses.dataclass(frozen=True)
class _Call:
    """Arguments, compared by what ``_key`` made of them."""

    key: Hashable
    arguments: tuple[Any, ...] = dataclasses.field(compare=False)


def _key(value: Any) -> Hashable:
    """Makes a hashable key that only equal values of one type share (1 is not True)."""
    kind = type(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return kind, tuple((name, _key(content)) for name, content in named)
    if isinstance(value, Mapping):
        return kind, tuple((_key(name), _key(content)) for name, content in value.items())
    if isinstance(value, (list, tuple)):
        return kind, tuple(_key(content) for content in value)
    return kind, value
