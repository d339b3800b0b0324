"""Counts the FLOPs of a traced JAX function: those of its matrix products and convolutions.

A product of (m, k) and (k, n) counts 2 m k n. A convolution counts two for every product of a
number and a tap. Taps that meet padding, or the zeros between strided rows, count nothing, so that
the number does not depend on the way in which a program pads. Everything else (activations, norms,
losses, the optimiser) counts nothing. So the count divided by a measured matmul rate is a lower
bound of the time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np


def count_flops(function: Callable[..., Any], *arguments: Any) -> float:
    """Counts the FLOPs of one call from the traced program, without executing it.

    Operations that no output depends on count nothing, because the compiler drops them. Of a
    ``cond`` the most expensive branch counts. A ``while`` with an unknown number of iterations
    counts one iteration.

    Args:
        function: the function to trace; it may be under ``jax.jit``.
        arguments: its arguments: arrays or ``jax.ShapeDtypeStruct``.
    """
    closed = jax.make_jaxpr(function)(*arguments)
    return _count(closed.jaxpr, [True] * len(closed.jaxpr.outvars))[0]


def _count(jaxpr: Any, wanted: list[bool]) -> tuple[float, list[bool]]:
    """Returns the FLOPs that the wanted outputs need, and True for each input that they need."""
    needed = {var for var, want in zip(jaxpr.outvars, wanted, strict=True) if want and _named(var)}
    total = 0.0
    for equation in reversed(jaxpr.eqns):
        outs = [var in needed for var in equation.outvars]
        if not any(outs) and not equation.effects:
            continue
        flops, ins = _of_equation(equation, outs)
        total += flops
        needed |= {v for v, need in zip(equation.invars, ins, strict=True) if need and _named(v)}
    return total, [var in needed for var in jaxpr.invars]


def _named(var: Any) -> bool:
    # Literals are not variables and need not be hashable.
    return not hasattr(var, "val")


def _of_equation(equation: Any, outs: list[bool]) -> tuple[float, list[bool]]:
    name, params = equation.primitive.name, equation.params
    everything = [True] * len(equation.invars)
    if name == "dot_general":
        return _dot(equation), everything
    if name == "conv_general_dilated":
        return _convolution(equation), everything
    if name == "scan":
        (inner,) = _programs([params["jaxpr"]])
        # The needed carries depend on the iteration; counting all of them is close enough.
        return params["length"] * _count(inner, [True] * len(inner.outvars))[0], everything
    inner_programs = list(_programs(params.values()))
    if name == "cond":
        return max(_count(inner, outs)[0] for inner in inner_programs), everything
    # jit, remat and the like: inputs and outputs are those of the program inside.
    if len(inner_programs) == 1:
        inner = inner_programs[0]
        if len(inner.outvars) == len(outs) and len(inner.invars) == len(everything):
            return _count(inner, outs)
    whole = sum(_count(inner, [True] * len(inner.outvars))[0] for inner in inner_programs)
    return whole, everything


def _programs(values: Iterable[Any]) -> Iterable[Any]:
    for value in values:
        if isinstance(value, tuple | list):
            yield from _programs(value)
        else:
            # A closed program holds the open one.
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns") and hasattr(inner, "outvars"):
                yield inner


def _dot(equation: Any) -> float:
    (left, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    contracted = math.prod(shape[axis] for axis in left)
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * contracted


def _convolution(equation: Any) -> float:
    params = equation.params
    numbers = params["dimension_numbers"]
    lhs, rhs = (var.aval.shape for var in equation.invars)
    out = equation.outvars[0].aval.shape
    # Groups are in these shapes: each output number sees rhs.shape[in] features.
    total = 2.0 * out[numbers.out_spec[0]] * out[numbers.out_spec[1]] * rhs[numbers.rhs_spec[1]]
    for axis in range(len(params["window_strides"])):
        total *= _taps(
            length=lhs[numbers.lhs_spec[2 + axis]],
            kernel=rhs[numbers.rhs_spec[2 + axis]],
            out=out[numbers.out_spec[2 + axis]],
            stride=params["window_strides"][axis],
            before=params["padding"][axis][0],
            spread=params["lhs_dilation"][axis],
            dilation=params["rhs_dilation"][axis],
        )
    return total


def _taps(
    *, length: int, kernel: int, out: int, stride: int, before: int, spread: int, dilation: int
) -> int:
    """Counts the pairs of an output and a tap that meet a number of the input, on one axis."""
    at = np.arange(out)[:, None] * stride + np.arange(kernel) * dilation - before
    return int(np.sum((at >= 0) & (at <= (length - 1) * spread) & (at % spread == 0)))
