"""Parameters that are stored larger than they act, and how an optimiser learns of them.

A layer may store ``raw`` and use ``raw / scale`` as its weight. Adam moves every stored entry by
the learning rate whatever its size, so the scale decides how fast the weight moves. L2, however,
has to act on the weight that the equations print: the derivative of wd / 2 |raw / scale|^2 is
wd raw / scale^2, not wd raw, which would beat the loss where the scale is large.

A layer with such parameters has a method ``scale_of(name) -> float``, 1 for parameters that act as
they are stored, and uses it in its own forward pass. ``recorded_scales`` asks the method of every
such layer that runs. (Weight normalisation is no such scale: its weight is g v / |v|, and L2 acts
on g and v, as in the papers' PyTorch code.)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from flax import linen as nn


@contextlib.contextmanager
def recorded_scales() -> Iterator[dict[str, float]]:
    """Collects the scales of the parameters of all layers that run within the block.

    Yields:
        path of a parameter, "recursion_0/w_c_ir50" -> scale, for scales other than 1. It fills
        while models run, also while they are traced.
    """
    scales: dict[str, float] = {}

    def intercept(
        run: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        output = run(*args, **kwargs)
        module = context.module
        if context.method_name == "__call__" and hasattr(module, "scale_of"):
            for name in module.variables.get("params", {}):
                scale = float(module.scale_of(name))
                if scale != 1.0:
                    scales["/".join((*module.path, name))] = scale
        return output

    with nn.intercept_methods(intercept):
        yield scales


def as_printed(params: Any, scales: Mapping[str, float]) -> Any:
    """Returns the derivative of |raw / scale|^2 / 2 by raw: every parameter over its scale^2."""

    def one(path: Any, leaf: jax.Array) -> jax.Array:
        scale = scales.get(jax.tree_util.keystr(path, simple=True, separator="/"), 1.0)
        return leaf if scale == 1.0 else leaf / scale**2

    return jax.tree_util.tree_map_with_path(one, params)
