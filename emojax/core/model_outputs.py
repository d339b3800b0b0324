"""The contract between a model and the readers of its outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flax import linen as nn

from emojax.errors import InputError


def checked_outputs(model: nn.Module, result: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the outputs and ``aux`` of a model's call.

    Only structure and shapes are read, so a compiled program pays nothing for it.

    Args:
        model: the model that was called.
        result: what the call returned: outputs task -> (B, T, C), and aux with "losses".

    Raises:
        InputError: the result has another form, a task is missing or its C is wrong.
    """
    if not (isinstance(result, tuple) and len(result) == 2):
        raise _error(model, "the returned value", _kind(result), "a tuple of outputs and aux")
    outputs, aux = result
    if not isinstance(outputs, Mapping):
        raise _error(model, "outputs", _kind(outputs), "a dict, task -> (B, T, C)")
    if not (isinstance(aux, Mapping) and isinstance(aux.get("losses"), Mapping)):
        expected = 'a dict with the model\'s own losses: {"losses": {}} if it has none'
        raise _error(model, "aux", _kind(aux), expected)
    for task, columns in getattr(model, "outputs", {}).items():
        if task not in outputs:
            found = ", ".join(map(str, outputs)) or "none"
            raise _error(model, "tasks of the outputs", found, ", ".join(model.outputs))
        shape = getattr(outputs[task], "shape", None)
        if shape is None or len(shape) != 3 or shape[-1] != columns:
            found = _kind(outputs[task]) if shape is None else f"shape {shape}"
            raise _error(model, f"output {task}", found, f"shape (B, T, {columns})")
    return dict(outputs), dict(aux)


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a dict of {', '.join(map(str, value)) or 'nothing'}"
    length = f" of {len(value)}" if isinstance(value, tuple) else ""
    return f"{type(value).__name__}{length}"


def _error(model: nn.Module, field: str, found: str, expected: str) -> InputError:
    name = type(model).__name__
    return InputError(
        f"Model {name} does not return what its losses and scores read.",
        field=f"{name}.__call__, {field}",
        found=found,
        expected=expected,
        remedy='let __call__ return outputs (task -> (B, T, C)), {"losses": {}}',
    )
