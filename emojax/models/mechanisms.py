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


Given = Mapping[str, Any]
# (own arguments, those of another video's windows) -> key -> arguments to call the module with. The
# result under a key replaces that part of the module's own result; "" is all of it.
Views = Callable[[Given, Given], Mapping[str, Given]]


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
        others: the streams that reach the rest of the model only through this mechanism and the
            stream that asks. They are another video's when its input from other modalities is
            shuffled.
        views: makes that input another video's for the modules alone, where the streams also
            reach the model in other ways; see ``other_source`` and ``other_streams``. A mechanism
            with neither reads no other modality, or reads all of them as one.
        viewing: patterns over the modules that ``views`` is for; ``modules`` by default.
    """

    becomes: str
    modules: tuple[str, ...] = ()
    instead: Callable[[Call], Any] | None = None
    parameters: tuple[str, ...] = ()
    value: float = 0.0
    others: tuple[str, ...] = ()
    views: Views | None = None
    viewing: tuple[str, ...] = ()

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


# -- views of another video ---------------------------------------------------------------------


def other_source(argument: str) -> Views:
    """Returns views in which one argument is another video's."""
    return lambda own, other: {"": {**own, argument: other[argument]}}


def other_streams(own: Given, other: Given) -> dict[str, Given]:
    """Shows each stream of an argument ``features`` the other streams of another video."""
    features: Mapping[str, Array] = own["features"]
    return {
        name: {**own, "features": {**other["features"], name: features[name]}} for name in features
    }


# -- running a model with replacements -----------------------------------------------------------


@contextlib.contextmanager
def replaced(
    mechanisms: Mapping[str, Mechanism], chosen_M: Array, shuffled_M: Array | None = None
) -> Iterator[None]:
    """Replaces the modules of some mechanisms in models that are applied within the block.

    One traced program serves all choices, as both results are computed.

    Args:
        mechanisms: all mechanisms of the model, by name.
        chosen_M: (M,) bool, those to replace, in the order of ``mechanisms``; may be traced.
        shuffled_M: (M,) bool, those with ``views`` whose input from other modalities is another
            video's; may be traced. Then the second half of a batch holds the windows of the other
            videos, in the order of the first half, and only the first half's results are altered.
    """

    def intercept(
        run: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        if context.method_name != "__call__":
            return run(*args, **kwargs)
        path = "/".join(context.module.path)
        given = inspect.signature(context.orig_method).bind(*args, **kwargs).arguments
        views = {
            m: mechanism.views
            for m, mechanism in enumerate(mechanisms.values())
            if mechanism.views and matches(path, mechanism.viewing or mechanism.modules)
        }
        if shuffled_M is None or not views:
            output = run(*args, **kwargs)
        else:
            # All mechanisms that read a module's input have the same views of it.
            output, altered = _viewed(run, given, next(iter(views.values())))
            shuffled = jnp.any(jnp.stack([shuffled_M[m] for m in views]))
            output = _map(functools.partial(_choose, shuffled), altered, output)
        for m, mechanism in enumerate(mechanisms.values()):
            if mechanism.instead is not None and matches(path, mechanism.modules):
                instead = mechanism.instead(Call(given, output))
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


def _viewed(run: Callable[..., Any], given: Given, views: Views) -> tuple[Any, Any]:
    """Calls a module once, for a batch and for views of its first half.

    Returns:
        The result for the batch, and the result in which the first half is that of the views.
    """
    size = next(x.shape[0] for x in jax.tree.leaves(given) if hasattr(x, "shape"))
    own, other = (_rows(given, half) for half in (slice(size // 2), slice(size // 2, size)))
    seen = views(own, other)
    joined = _concatenated([given, *seen.values()])
    found = run(**joined)
    output = _rows(found, slice(size))
    altered = output
    for i, key in enumerate(seen):
        start = size + i * (size // 2)
        part = _rows(found, slice(start, start + size // 2))
        second = _rows(output, slice(size // 2, size))
        whole = _concatenated([part, second])
        altered = {**altered, key: whole[key]} if key else whole
    return output, altered


def _rows(tree: Any, rows: slice) -> Any:
    """Takes some rows of every array; mappings keep their order, and other values stay."""
    if isinstance(tree, Mapping):
        return {name: _rows(part, rows) for name, part in tree.items()}
    return tree[rows] if hasattr(tree, "shape") else tree


def _concatenated(trees: Sequence[Any]) -> Any:
    """Joins the rows of every array; other values are those of the first tree."""
    first = trees[0]
    if isinstance(first, Mapping):
        return {name: _concatenated([tree[name] for tree in trees]) for name in first}
    return jnp.concatenate(trees) if hasattr(first, "shape") else first


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
