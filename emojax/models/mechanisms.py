"""Mechanisms: the parts that carry a model's idea, and the replacement of each for a test.

A model names its mechanisms in a method ``mechanisms``. Each covers some modules, whose results
are replaced while the model runs, or some parameters, which are. Nothing in the model's own code
asks for that: modules are intercepted from outside (``flax.linen.intercept_methods``). So the model
can be scored with a mechanism turned into what it would be if it had learned nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from emojax.ops.masking import masked_mean, zero_where_padded
from emojax.types import Array


@dataclasses.dataclass(frozen=True)
class Call:
    """A call of a module that a mechanism covers.

    Attributes:
        given: name of an argument -> its value.
        output: the result.
    """

    given: Mapping[str, Any]
    output: Any


@dataclasses.dataclass(frozen=True)
class Mechanism:
    """A part of a model that can be replaced: modules, or else parameters.

    A pattern has the form of a path, "encoder_*/layer_*/attention"; ``*`` stands for any letters
    but "/".

    Attributes:
        becomes: one sentence about the replacement, for tables and pictures.
        modules: patterns over paths of modules, of which all calls are replaced.
        instead: makes the result that replaces that of a call.
        parameters: patterns over paths of parameters.
        value: every number of those parameters is replaced by it.
        others: the streams whose rows come from another video when the mechanism's input from
            other modalities is shuffled; () for a mechanism that reads no other modality.
    """

    becomes: str
    modules: tuple[str, ...] = ()
    instead: Callable[[Call], Any] | None = None
    parameters: tuple[str, ...] = ()
    value: float = 0.0
    others: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuses a mechanism that covers nothing, or modules without a replacement."""
        assert bool(self.modules) == (self.instead is not None), "modules need an `instead`"
        assert self.modules or self.parameters, "a mechanism covers modules or parameters"


def mechanisms_of(model: nn.Module) -> dict[str, Mechanism]:
    """Returns the mechanisms that a model declares, by name; none if it declares none."""
    declare = getattr(model, "mechanisms", None)
    return {} if declare is None else dict(declare())


# -- replacements ------------------------------------------------------------------------------


def identity(call: Call) -> Any:
    """Returns the first argument, zero where an argument ``mask_BT`` says so."""
    given = next(iter(call.given.values()))
    mask_BT = call.given.get("mask_BT")

    def passed(x_BTD: Array, like_BTD: Array) -> Array:
        x_BTD = x_BTD.astype(like_BTD.dtype)
        return x_BTD if mask_BT is None else zero_where_padded(x_BTD, mask_BT.astype(bool))

    return _map(passed, given, call.output)


def uniform(call: Call) -> Array:
    """Returns equal weights over what is allowed, for calls of ``layers.attention``'s weights."""
    allowed = jnp.broadcast_to(call.given["allowed"], call.output.shape)
    count = jnp.sum(allowed, axis=-1, keepdims=True)
    return jnp.where(allowed, 1.0 / jnp.maximum(count, 1), 0.0).astype(call.output.dtype)


def time_mean(call: Call, part: int = 0, parts: int = 1) -> Array:
    """Returns the result with columns replaced by their mean over the window's real frames.

    Args:
        call: its result is (B, T, D), its argument ``mask_BT`` False on padding.
        part: which of the equal parts of D.
        parts: the number of parts; all of D by default.
    """
    mask_BT1 = call.given["mask_BT"].astype(bool)[..., None]
    output_BTD = call.output
    mean_B1D = masked_mean(output_BTD, mask_BT1, axis=1, keepdims=True).astype(output_BTD.dtype)
    in_part_D = jnp.arange(output_BTD.shape[-1]) // (output_BTD.shape[-1] // parts) == part
    return jnp.where(mask_BT1 & in_part_D[None, None], mean_B1D, output_BTD)


# -- running a model with replacements -----------------------------------------------------------


@contextlib.contextmanager
def replaced(mechanisms: Mapping[str, Mechanism], chosen_M: Array) -> Iterator[None]:
    """Replaces the modules of some mechanisms in models that are applied within the block.

    One traced program serves all choices, as both results are computed.

    Args:
        mechanisms: all mechanisms of the model, by name.
        chosen_M: (M,) bool, those to replace, in the order of ``mechanisms``; may be traced.
    """

    def intercept(
        run: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        output = run(*args, **kwargs)
        if context.method_name != "__call__":
            return output
        path = "/".join(context.module.path)
        for m, mechanism in enumerate(mechanisms.values()):
            if mechanism.instead is None or not matches(path, mechanism.modules):
                continue
            bound = inspect.signature(context.orig_method).bind(*args, **kwargs)
            instead = mechanism.instead(Call(bound.arguments, output))
            output = _map(functools.partial(_choose, chosen_M[m]), instead, output)
        return output

    with nn.intercept_methods(intercept):
        yield


def replaced_parameters(mechanisms: Mapping[str, Mechanism], chosen_M: Array, params: Any) -> Any:
    """Returns parameters with those of some mechanisms replaced; see ``replaced``."""

    def one(path: Any, leaf: Array) -> Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        for m, mechanism in enumerate(mechanisms.values()):
            if matches(name, mechanism.parameters):
                leaf = jnp.where(chosen_M[m], jnp.asarray(mechanism.value, leaf.dtype), leaf)
        return leaf

    return jax.tree_util.tree_map_with_path(one, params)


def _choose(chosen: Array, instead: Array, output: Array) -> Array:
    return jnp.where(chosen, instead, output)


def _map(function: Callable[[Array, Array], Array], first: Any, second: Any) -> Any:
    """Maps over two arrays, or mappings of arrays, whose order it keeps as JAX does not."""
    if isinstance(second, Mapping):
        return {name: function(first[name], second[name]) for name in second}
    return function(first, second)


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Tells whether a path fits one of the patterns, part by part."""
    parts = path.split("/")
    return any(
        len(wanted) == len(parts) and all(map(fnmatchcase, parts, wanted))
        for wanted in (pattern.split("/") for pattern in patterns)
    )
