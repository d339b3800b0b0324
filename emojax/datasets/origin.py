"""Where data come from, as far as it must never be mistaken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Beside annotations that a simulation made up; whatever is built from them is simulated too.
SIMULATED_FILE = "SIMULATED.txt"


def is_simulated(metadata: Mapping[str, Any]) -> bool:
    """Whether a store's data were made up by the simulation of this package.

    Args:
        metadata: what ``dataset.json`` holds, of which "builder" is looked at.
    """
    builder = metadata.get("builder", {})
    return builder.get("command") == "data.synthetic" or bool(builder.get("simulated"))
