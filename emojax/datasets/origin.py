"""Tells simulated data from real data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Lies beside simulated annotations, so that a store built from them is known as simulated.
SIMULATED_FILE = "SIMULATED.txt"


def is_simulated(metadata: Mapping[str, Any]) -> bool:
    """Returns True if a store holds data simulated by this package.

    Args:
        metadata: the content of ``dataset.json``; only "builder" is read.
    """
    builder = metadata.get("builder", {})
    return builder.get("command") == "data.synthetic" or bool(builder.get("simulated"))
