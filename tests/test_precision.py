"""Tests the parts of programs that use bfloat16, and the distance of gradients from float32's.

With ``config.model.dtype = "bfloat16"`` matrix products, convolutions, recurrences and what goes
number by number between them are bfloat16. Everything that adds up many numbers in the forward
pass (softmax, norms, losses) and everything that lasts (parameters, moments, running statistics,
averages) is float32.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emojax.core.session import Session
from emojax.core.step import Hyper, forward, make_train_step, total_loss
from emojax.models import declared_fields
from emojax.papers.variants import Variant
from emojax.specs import TASKS
from emojax.types import Batch
from tests.small_models import (
    WINDOW,
    make_inputs,
    random_variables,
    shipped,
    small_session,
)

# What may be bfloat16 in a forward pass: movement, products, and functions of single numbers.
HARMLESS = {
    *("convert_element_type", "broadcast_in_dim", "transpose", "reshape", "squeeze", "slice"),
    *(
        "dynamic_slice",
        "concatenate",
        "reshard",
        "pad",
        "split",
        "stack",
        "unstack",
        "gather",
        "rev",
        "copy",
    ),
    *("select_n", "ge", "gt", "lt", "le", "eq", "ne", "stop_gradient", "optimization_barrier"),
    *("add", "sub", "mul", "neg", "max", "abs", "sign"),
    *("dot_general", "conv_general_dilated"),  # add up in float32 inside, and round the sum
    "div",  # of products by the root of their number of terms
    *("tanh", "logistic", "erfc"),  # activations
}
# And beside it in a backward pass.
BACKWARD = {
    "add_any",  # a number that was used twice
    *("exp", "square", "integer_pow"),  # the derivative of GELU
    "reduce_sum",  # gradients of biases, which XLA adds up in float32 on CPUs, and rounds then
    *("scatter", "scatter-add", "dynamic_update_slice"),  # the other way around of slices
}


def by_choices() -> dict[str, Variant]:
    """Returns one variant for each choice by name or by flag that a model has, by its title."""
    found: dict[str, Variant] = {}
    for variant in shipped():
        if "dtype" not in declared_fields(variant.make().model.name):
            continue
        model = small_session(variant).model
        named = {
            field.name: value
            for field in dataclasses.fields(model)
            if isinstance(value := getattr(model, field.name), str | bool)
            and field.name not in NO_CHOICE
        }
        named["name"] = type(model).__name__
        found.setdefault(str(sorted(named.items())), variant)
    return {variant.title: variant for variant in found.values()}


# Names of streams, which way time runs, and what comes after the last sum.
NO_CHOICE = ("leader", "anchor", "causal", "context_bidirectional")
NO_CHOICE += ("heads", "output", "head_activation", "branch_heads")
CHOICES = by_choices()
# A form of each model that compiles soon, and whether it is compiled.
GRADIENTS = {
    "emma_net": False,
    "exptrm:v": True,
    "lfan": False,
    "multiscale_tcn": False,
    "recurrent_baselines:rnn_a": True,
    "rjcma:joint": True,
    "tcn_transformer:expr": False,
}


def steps_of(program: Any) -> Iterator[Any]:
    """Returns all steps of a traced program that hold no program themselves."""
    for equation in program.eqns:
        inner = []
        for value in equation.params.values():
            for item in value if isinstance(value, tuple | list) else (value,):
                part = getattr(item, "jaxpr", item)
                inner += [part] if hasattr(part, "eqns") else []
        for part in inner:
            yield from steps_of(part)
        if not inner:
            yield equation


def in_bfloat16(program: Any) -> set[str]:
    """Names of the primitives that read or give bfloat16."""
    return {
        equation.primitive.name
        for equation in steps_of(program)
        for variable in (*equation.invars, *equation.outvars)
        if getattr(variable.aval, "dtype", None) == jnp.bfloat16
    }


def batch_of(session: Session) -> Batch:
    """Returns two windows with labels, one of them half padding."""
    inputs = make_inputs(session, (12, 6))
    rng = np.random.default_rng(3)
    labels, label_mask = {}, {}
    for task in session.tasks:
        shape = (2, WINDOW, TASKS[task].columns)
        classes = TASKS[task].kind == "categorical"
        values = rng.integers(0, 5, shape) if classes else rng.uniform(-1, 1, shape)
        labels[task] = values.astype(np.float32)
        label_mask[task] = np.broadcast_to(inputs.frames_BT[..., None], shape)
    return Batch(
        streams=inputs.streams,
        stream_mask=inputs.masks,
        stream_valid=inputs.valid,
        labels=labels,
        label_mask=label_mask,
        example_mask=np.ones(2, bool),
        video_ids=np.zeros(2, np.int32),
        frame_ids=np.where(inputs.frames_BT, np.arange(WINDOW)[None], -1).astype(np.int32),
    )


def plain_normalisation(session: Session) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {
        name: (np.zeros(spec.width, np.float32), np.ones(spec.width, np.float32))
        for name, spec in session.streams.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("title", CHOICES)
def test_a_forward_pass_adds_up_nothing_in_bfloat16(title: str) -> None:
    session = small_session(CHOICES[title], dtype="bfloat16")
    batch, normalisation = batch_of(session), plain_normalisation(session)

    def run(variables: Any) -> Any:
        params = variables["params"]
        state = {name: part for name, part in variables.items() if name != "params"}
        return forward(session.model, params, state, batch, normalisation, train=True)

    program, shapes = jax.make_jaxpr(run, return_shape=True)(random_variables(session))
    touched = in_bfloat16(program.jaxpr)
    assert "dot_general" in touched
    assert touched <= HARMLESS
    # Outputs, auxiliary losses and running statistics.
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


def test_a_training_step_keeps_what_lasts_in_float32() -> None:
    # The one with running statistics.
    session = small_session(CHOICES["lfan"], dtype="bfloat16")
    step = make_train_step(session.learner, session.shared(session.samplers))
    hyper = Hyper(
        learning_rate=np.ones(1, np.float32),
        weight_decay=np.ones(1, np.float32),
        target_weights={task: w_RX.astype(np.float32) for task, w_RX in session.weights.items()},
        active=np.ones(1, bool),
    )
    arguments = session.abstract_state(), batch_of(session), plain_normalisation(session), hyper
    program, (after, metrics) = jax.make_jaxpr(step, return_shape=True)(*arguments)
    assert "dot_general" in in_bfloat16(program.jaxpr)
    assert after.model_state
    kept = {leaf.dtype for leaf in jax.tree.leaves((after, metrics))}
    assert {dtype for dtype in kept if jnp.issubdtype(dtype, jnp.inexact)} == {jnp.dtype("float32")}


@pytest.mark.slow
@pytest.mark.parametrize("title", GRADIENTS)
def test_gradients_are_near_those_of_float32(title: str) -> None:
    (variant,) = (variant for variant in shipped() if variant.title == title)
    exact, rounded = (small_session(variant, dtype=dtype) for dtype in ("float32", "bfloat16"))
    batch, normalisation = batch_of(exact), plain_normalisation(exact)
    variables = random_variables(exact)
    params = variables.pop("params")

    def gradient(session: Session, params: Any) -> Any:
        def loss(params: Any) -> Any:
            outputs, aux, _ = forward(
                session.model, params, variables, batch, normalisation, train=True
            )
            weights = {task: w_RX[0] for task, w_RX in session.weights.items()}
            return total_loss(outputs, aux, batch, session.losses, weights)

        return jax.grad(loss)(params)

    found = []
    for session in (exact, rounded) if GRADIENTS[title] else (rounded,):
        traced = jax.jit(functools.partial(gradient, session)).trace(params)
        touched = in_bfloat16(traced.jaxpr)
        assert touched <= HARMLESS | BACKWARD
        assert bool(touched) == (session is rounded)
        assert {leaf.dtype for leaf in jax.tree.leaves(traced.out_info)} == {jnp.dtype("float32")}
        if not GRADIENTS[title]:
            continue
        leaves = jax.tree.leaves(traced.lower().compile()(params))
        found.append(np.concatenate([np.ravel(leaf) for leaf in leaves]))
    if found:
        assert np.isfinite(found[1]).all()
        # A bfloat16 number is within 0.4 % of what it stands for.
        error = np.linalg.norm(found[1] - found[0]) / np.linalg.norm(found[0])
        assert 1e-4 < error < 0.05
