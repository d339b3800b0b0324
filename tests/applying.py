"""Modules applied within ``jax.jit``: outside it, each operation compiles alone."""

from __future__ import annotations

import functools
from typing import Any

import jax
from flax import linen as nn


def run(module: nn.Module, variables: Any, *arrays: Any, **options: Any) -> Any:
    """Returns what the module's ``apply`` returns; options are static."""
    return jax.jit(functools.partial(module.apply, **options))(variables, *arrays)


def initialised(module: nn.Module, *arrays: Any, seed: int = 0, **options: Any) -> Any:
    """Returns what the module's ``init`` draws from this seed."""
    return jax.jit(functools.partial(module.init, **options))(jax.random.key(seed), *arrays)
