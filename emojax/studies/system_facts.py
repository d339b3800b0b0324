"""Measures a system on the model itself: parameters, operations and receptive field."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from emojax.core.session import Session
from emojax.core.state import init_variables, named_leaves
from emojax.datasets.window_spec import WindowSpec
from emojax.specs import StreamSpec
from emojax.studies.flops import count_flops


@dataclasses.dataclass(frozen=True)
class Reach:
    """The receptive field: the ticks on either side of an output that influence it.

    Attributes:
        before: the number of ticks before the output's own; None for the whole window.
        after: the number of ticks after it; None for the whole window.
    """

    before: int | None
    after: int | None


@functools.cache
def quick_compiling() -> dict[str, Any]:
    """Returns options of ``jax.jit`` with which CPU programs compile in a third of the time.

    The program then runs slower. On other devices, or if this version of XLA lacks the options,
    the result is empty.
    """
    options: dict[str, Any] = {
        "xla_backend_optimization_level": 0,
        "xla_cpu_use_fusion_emitters": False,
        "xla_cpu_parallel_codegen_split_count": 1,
    }
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except (jax.errors.JaxRuntimeError, ValueError):
        return {}
    return options if jax.default_backend() == "cpu" else {}


def abstract_variables(session: Session) -> dict[str, Any]:
    """Returns the shapes of one replica's variables: {"params", "batch_stats", ...}."""
    arguments = session.model, session.streams, session.window_spec.lengths
    params, model_state = jax.eval_shape(
        lambda key: init_variables(*arguments, key), jax.random.key(0)
    )
    return {"params": params, **model_state}


def parameter_counts(variables: Mapping[str, Any]) -> dict[str, int]:
    """Counts the trainable parameters in ``abstract_variables``: part of the model -> number."""
    counts: dict[str, int] = {}
    for name, leaf in named_leaves(variables["params"]).items():
        part = name.split("/")[0]
        counts[part] = counts.get(part, 0) + math.prod(leaf.shape)
    return counts


def forward_flops(session: Session, variables: Mapping[str, Any]) -> float:
    """Counts the operations of predicting one window: those of products and convolutions.

    Elementwise operations (activations, norms, softmax) are left out; they are a few percent. See
    ``flops.count_flops``.
    """
    inputs = _inputs(session.streams, session.window_spec, 1)
    return count_flops(functools.partial(_apply, session.model), variables, inputs)


def receptive_field(session: Session, variables: Mapping[str, Any]) -> Reach:
    """Finds the ticks that an output depends on: those where a gradient is not 0.

    The gradient of the window's last output shows how far back an output sees, that of the first
    output how far ahead. A gradient that reaches the other end means the whole window. Through a
    recurrence a gradient can fade to 0, so a loop in the program counts as the whole window on the
    side that it comes from.
    """
    model, spec = session.model, session.window_spec
    inputs = _inputs(session.streams, spec, 2)
    rng = np.random.default_rng(0)
    weights_BT = np.zeros((2, spec.window), np.float32)
    weights_BT[0, -1] = weights_BT[1, 0] = 1.0

    def scalar(streams: Any, variables: Any) -> jax.Array:
        outputs = _apply(model, variables, streams)
        # Outputs have distinct weights; with equal ones those of a softmax would cancel.
        total = jnp.zeros(())
        for y_BTC in outputs.values():
            weights_C = np.linspace(0.7, 1.3, y_BTC.shape[-1], dtype=np.float32)
            total += jnp.sum(y_BTC * weights_BT[..., None] * weights_C[None, None])
        return total

    # Compiling costs more than the single call that follows.
    gradient_of = jax.jit(jax.grad(scalar), compiler_options=quick_compiling())
    streams = {name: rng.normal(size=x.shape).astype(np.float32) for name, x in inputs.items()}
    gradients = gradient_of(streams, jax.tree.map(functools.partial(_random, rng), variables))
    ticks = spec.ticks_per_row
    before = after = 0
    for name, gradient in gradients.items():
        context = spec.context.get(name, 0)
        for b, own in ((0, spec.window - 1), (1, 0)):
            rows = np.flatnonzero((np.asarray(gradient[b]) != 0).any(axis=-1)) - context
            if len(rows):
                before = max(before, own - int(rows[0]) * ticks[name])
                after = max(after, (int(rows[-1]) + 1) * ticks[name] - 1 - own)
    reverse = set(_loops(_trace(model, variables, inputs).jaxpr))
    far = max(1, spec.window - 1)
    return Reach(
        None if False in reverse or before >= far else before,
        None if True in reverse or after >= far else after,
    )


def _inputs(
    streams: Mapping[str, StreamSpec], spec: WindowSpec, batch: int
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of the streams of a batch."""
    return {
        name: jax.ShapeDtypeStruct((batch, spec.lengths[name], stream.width), jnp.float32)
        for name, stream in streams.items()
    }


def _apply(model: nn.Module, variables: Any, streams: Mapping[str, Any]) -> dict[str, jax.Array]:
    masks = {name: jnp.ones(x_BTD.shape[:2], bool) for name, x_BTD in streams.items()}
    outputs: Any = model.apply(variables, streams, masks, valid=masks, train=False)
    return outputs[0]


def _trace(model: nn.Module, variables: Any, inputs: Any) -> Any:
    return jax.make_jaxpr(functools.partial(_apply, model))(variables, inputs)


def _random(rng: np.random.Generator, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
    """Draws weights under which signals neither fade nor saturate.

    Initialisers are not used, because some return zeros, which would hide connections.
    """
    if len(leaf.shape) < 2:
        return rng.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype)
    values = rng.standard_normal(leaf.shape, np.float32) / math.sqrt(math.prod(leaf.shape[:-1]))
    return values.astype(leaf.dtype)


# -- the traced program --------------------------------------------------------------------------


def _inner(equation: Any) -> Iterator[Any]:
    """Yields the programs within a step of a program."""
    for value in equation.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            program = getattr(item, "jaxpr", item)
            if hasattr(program, "eqns"):
                yield program


def _loops(program: Any) -> Iterator[bool]:
    """Yields, for each loop in a program, True if it runs from the end."""
    for equation in program.eqns:
        if equation.primitive.name == "scan":
            yield bool(equation.params["reverse"])
        for part in _inner(equation):
            yield from _loops(part)
