"""Groups of parameters that are told together, such as a layer's weight and bias, and their norms.

A group is a layer with its weights and biases, such as "cross_face_voice/query", or all that lies
three modules deep, such as "transformer/layer_0/attention". A parameter that a module names itself,
such as "recursion_0/w_h_ir50", is a group of its own.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from emojax.core.programs import kept

# The names that layers give to their parameters.
_OF_LAYERS = ("kernel", "bias", "scale", "direction", "slope", "recurrent")
_DEPTH = 3


def group_sizes(params: Any) -> dict[str, int]:
    """Returns group -> the count of its numbers in one replica; leaves lead with R."""
    sizes: dict[str, int] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        group = group_of(jax.tree_util.keystr(path, simple=True, separator="/"))
        sizes[group] = sizes.get(group, 0) + math.prod(leaf.shape[1:])
    return sizes


def group_norms(params: Any) -> dict[str, jax.Array]:
    """Returns group -> (R,) Euclidean norm of all its parameters; leaves lead with R."""
    return _norms()(params)


@kept
def _norms() -> Any:
    @jax.jit
    def norms(params: Any) -> dict[str, jax.Array]:
        squares: dict[str, Any] = {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            group = group_of(jax.tree_util.keystr(path, simple=True, separator="/"))
            axes = tuple(range(1, leaf.ndim))
            square_R = jnp.sum(jnp.square(leaf.astype(jnp.float32)), axis=axes)
            squares[group] = squares.get(group, 0.0) + square_R
        return {group: jnp.sqrt(square_R) for group, square_R in squares.items()}

    return norms


def group_of(path: str) -> str:
    """Returns the group of a parameter, whose path is joined by "/"."""
    parts = path.split("/")
    if len(parts) > 1 and parts[-1].endswith(_OF_LAYERS):
        parts = parts[:-1]
    return "/".join(parts[:_DEPTH])
