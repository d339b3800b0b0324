"""Programs that the runs of one process share.

A table trains its rows one after the other, a group of replicas follows another, an evaluation
follows a training. Each builds its steps from a model, losses and the like, and a function that is
built anew is traced and lowered anew, for seconds, even where what it compiles to is cached.
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
    """A function that builds a program, and gives it again when it is called with equal arguments.

    What is built may depend on nothing but the arguments, all positional. Modules and other
    dataclasses are equal when their fields are. Where something cannot be compared by a hash, as
    arrays cannot, nothing is kept.
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
    """What can be hashed and is the same for equal values alone; types count (1 is not True)."""
    kind = type(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return kind, tuple((name, _key(content)) for name, content in named)
    if isinstance(value, Mapping):
        return kind, tuple((_key(name), _key(content)) for name, content in value.items())
    if isinstance(value, (list, tuple)):
        return kind, tuple(_key(content) for content in value)
    return kind, value
