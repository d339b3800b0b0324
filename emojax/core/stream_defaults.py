"""Completes what a configuration says of a model's streams, so that streams of any name fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# The fields of models that name one stream: the one whose rows ask, or that predictions stand on.
LEADING = ("leader", "anchor")
# The key of a field such as ``channels`` for streams without an entry of their own.
DEFAULT = "default"


def complete_streams(model: Mapping[str, Any], streams: Sequence[str]) -> dict[str, Any]:
    """Returns the fields of a model with a value for each of its streams.

    Args:
        model: ``config.model``. An empty ``leader`` or ``anchor`` becomes the first stream. A
            mapping with the key "default" gets an entry for each stream that has none, and loses
            those of other streams.
        streams: ``config.data.streams``.

    Returns:
        The fields, without the keys "default".

    >>> complete_streams({"leader": "", "channels": {"default": (8,), "a": (4,)}}, ("a", "b"))
    {'leader': 'a', 'channels': {'a': (4,), 'b': (8,)}}
    """
    found: dict[str, Any] = {}
    for field, value in model.items():
        if field in LEADING and value == "" and streams:
            found[field] = streams[0]
        elif isinstance(value, Mapping) and DEFAULT in value:
            entries = {name: entry for name, entry in value.items() if name in streams}
            missing = {name: value[DEFAULT] for name in streams if name not in entries}
            found[field] = entries | missing
        else:
            found[field] = value
    return found
