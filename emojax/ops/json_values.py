"""Values as JSON can hold them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def json_values(value: Any) -> Any:
    """Replaces values that JSON does not have, at any depth.

    NaN and infinity become None, arrays and tuples lists, keys text; anything else that JSON
    does not know, such as a path, becomes its text.

    Args:
        value: mappings, lists, tuples, NumPy or JAX arrays, numbers, text, None.
    """
    if isinstance(value, Mapping):
        return {str(key): json_values(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [json_values(inner) for inner in value]
    if hasattr(value, "tolist"):  # NumPy and JAX
        return json_values(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | None) else str(value)
