"""Tests the duties of all models and of all shipped configurations.

Each variant is built in full size, without computing anything. Variants whose small forms are
the same program are tested once: one gradient step, with masks of any form and any content of the
padding. What costs further compiling is tested once a model.
"""

from __future__ import annotations

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from emojax.core.session import Session, build_session
from emojax.models import model_names
from emojax.papers.variants import Variant
from emojax.specs import STREAMS, TASKS
from emojax.studies.system_facts import abstract_variables, parameter_counts, quick_compiling
from tests.small_models import (
    OWN_STREAMS,
    WINDOW,
    Inputs,
    make_inputs,
    random_variables,
    shipped,
    small_session,
    structure,
)


def distinct() -> dict[str, Variant]:
    """Returns one variant for each different small program, by its title."""
    found: dict[str, Variant] = {}
    for variant in shipped():
        found.setdefault(structure(small_session(variant)), variant)
    return {variant.title: variant for variant in found.values()}


def one_of_each() -> dict[str, Variant]:
    """Returns the first variant of each model."""
    found: dict[str, Variant] = {}
    for variant in DISTINCT.values():
        found.setdefault(variant.make().model.name, variant)
    return found


quick_jit = functools.partial(jax.jit, compiler_options=quick_compiling())
DISTINCT = distinct()
FIRST = one_of_each()
# Variants whose layers are others than those of the model's first.
AGREEING = FIRST | {
    title: variant
    for title, variant in DISTINCT.items()
    if variant.make().model.get("variant") == "upstream"
}


def test_every_model_has_a_configuration() -> None:
    assert set(FIRST) == set(model_names())


# -- in full size --------------------------------------------------------------------------------

_BUILT: dict[str, dict[str, int]] = {}


@pytest.mark.slow
@pytest.mark.parametrize("variant", shipped(), ids=lambda variant: variant.title)
def test_a_shipped_configuration_builds(variant: Variant) -> None:
    session = build_session(variant.make(), STREAMS | OWN_STREAMS, jax.devices()[:1])
    key = structure(session)
    if key not in _BUILT:
        variables = abstract_variables(session)
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
        _BUILT[key] = parameter_counts(variables)
    counts = _BUILT[key]
    assert sum(counts.values()) > 5_000
    assert all(counts.values())
    for task in session.tasks:
        # Each task has an end of its own, and each stream a beginning.
        assert any(task in part for part in counts), counts


# -- every program -------------------------------------------------------------------------------


def apply(
    model: Any, variables: Any, inputs: Inputs, *, train: bool = False, **options: Any
) -> Any:
    return model.apply(
        variables, inputs.streams, inputs.masks, valid=inputs.valid, train=train, **options
    )


def cotangents(session: Session, batch: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {
        task: rng.normal(size=(batch, WINDOW, TASKS[task].outputs)).astype(np.float32)
        for task in session.tasks
    }


def with_gaps(session: Session, inputs: Inputs, seed: int, share: float) -> Inputs:
    """Returns the windows with this share of real ticks, scattered over all streams alike."""
    spec = session.window_spec
    real_BT = np.random.default_rng(seed).random(inputs.frames_BT.shape) < share
    masks = {}
    for name, mask in inputs.masks.items():
        ticks_T = (np.arange(mask.shape[1]) - spec.context.get(name, 0)) * spec.ticks_per_row[name]
        inside_T = (ticks_T >= 0) & (ticks_T < spec.window)
        masks[name] = mask & real_BT[:, np.where(inside_T, ticks_T, 0)] & inside_T
    valid = {name: inputs.valid[name] & mask for name, mask in masks.items()}
    return Inputs(inputs.streams, masks, valid, inputs.frames_BT & real_BT)


def only_real(found: Any, frames_BT: np.ndarray) -> Any:
    """Returns a step's result with the predictions of real frames alone."""
    (loss, (outputs, state)), gradients = found
    return loss, {task: y_BTC[frames_BT] for task, y_BTC in outputs.items()}, state, gradients


@pytest.mark.parametrize("title", DISTINCT)
def test_padding_is_never_seen_and_gradients_reach_everything(title: str) -> None:
    session = small_session(DISTINCT[title])
    # A whole window, two that end early, and one that only fills up the batch.
    lengths = (12, 6, 9, 0)
    weights = cotangents(session, len(lengths))
    traces: list[None] = []

    @quick_jit
    def step(variables: Any, streams: Any, masks: Any, valid: Any, real_BT: Any) -> Any:
        traces.append(None)
        inputs = Inputs(streams, masks, valid, real_BT)

        def scalar(params: Any, streams: Any) -> Any:
            inputs.streams = streams
            (outputs, aux), state = apply(
                session.model,
                {**variables, "params": params},
                inputs,
                train=True,
                mutable=[name for name in variables if name != "params"],
            )
            auxiliary = (aux["losses"], aux.get("target_losses", {}))
            loss = sum((jnp.sum(leaf) for leaf in jax.tree.leaves(auxiliary)), jnp.zeros(()))
            for branch in (outputs, *aux.get("branches", {}).values()):
                chex.assert_trees_all_equal_shapes(branch, weights)
                for task, y_BTC in branch.items():
                    real_BTC = jnp.where(real_BT[..., None], y_BTC * weights[task], 0)
                    loss = loss + jnp.sum(real_BTC)
            return loss, (outputs, state)

        return jax.value_and_grad(scalar, argnums=(0, 1), has_aux=True)(
            variables["params"], streams
        )

    variables = random_variables(session)

    def run(inputs: Inputs, value: float) -> Any:
        streams = inputs.poisoned(value).streams
        return jax.device_get(
            step(variables, streams, inputs.masks, inputs.valid, inputs.frames_BT)
        )

    # A few examples for each of some dozens of programs; each is two calls of a compiled one.
    @settings(max_examples=6, deadline=None)
    @example(seed=0, share=0.6, value=np.nan)
    @example(seed=0, share=0.0, value=np.inf)
    @given(
        seed=st.integers(0, 2**32 - 1),
        share=st.floats(0, 1),
        value=st.sampled_from([1e3, -1e30, np.nan, np.inf]),
    )
    def masks_of_any_form(seed: int, share: float, value: float) -> None:
        gappy = with_gaps(session, make_inputs(session, lengths), seed, share)
        clean = run(gappy, 0.0)
        chex.assert_tree_all_finite(clean)
        chex.assert_trees_all_equal(
            only_real(run(gappy, value), gappy.frames_BT), only_real(clean, gappy.frames_BT)
        )
        for name, gradient in clean[1][1].items():
            np.testing.assert_array_equal(gradient[~gappy.masks[name]], 0)

    masks_of_any_form()
    inputs = make_inputs(session, lengths)
    found = [run(inputs, value) for value in (0.0, np.nan)]
    assert len(traces) == 1
    (loss, (outputs, state)), (of_params, of_streams) = found[0]
    assert np.isfinite(loss)
    chex.assert_tree_all_finite((outputs, state, of_params, of_streams))
    assert {y.dtype for y in outputs.values()} == {np.dtype("float32")}
    for name, y_BTC in outputs.items():
        assert y_BTC[inputs.frames_BT].std(axis=0).max() > 1e-4, name

    (other_loss, (other_outputs, other_state)), other_gradients = found[1]
    assert other_loss == loss
    for task, y_BTC in outputs.items():
        np.testing.assert_array_equal(
            other_outputs[task][inputs.frames_BT], y_BTC[inputs.frames_BT]
        )
    chex.assert_trees_all_equal((other_state, other_gradients), (state, (of_params, of_streams)))
    for name, gradient in of_streams.items():
        np.testing.assert_array_equal(gradient[~inputs.masks[name]], 0)
        assert gradient[0].any(), f"nothing depends on {name}"
    chex.assert_trees_all_equal_shapes(of_params, variables["params"])
    untouched = [
        jax.tree_util.keystr(path)
        for path, gradient in jax.tree_util.tree_leaves_with_path(of_params)
        if not gradient.any()
    ]
    assert not untouched


# -- once a model --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AGREEING)
def test_programs_of_a_model_agree(name: str) -> None:
    """Compiled and not, alone and as one of R replicas, padded and cut short, in bfloat16."""
    session = small_session(AGREEING[name])
    model = session.model
    first, second = (random_variables(session, seed) for seed in (0, 1))
    inputs = make_inputs(session, (12, 6))
    parts = (inputs.streams, inputs.masks, inputs.valid)

    def predict(model: Any, variables: Any, *parts: Any) -> Any:
        return apply(model, variables, Inputs(*parts, inputs.frames_BT))[0]

    compiled = quick_jit(functools.partial(predict, model))
    expected = compiled(first, *parts)
    near = functools.partial(chex.assert_trees_all_close, rtol=2e-5, atol=2e-5)
    near(predict(model, first, *parts), expected)

    # In evaluation, too, the content of padding reaches no real frame.
    poisoned = compiled(first, inputs.poisoned(np.nan).streams, *parts[1:])
    for task, y_BTC in poisoned.items():
        np.testing.assert_array_equal(y_BTC[inputs.frames_BT], expected[task][inputs.frames_BT])

    # The order of the streams is that of the model, not of the dict. (jit would sort it.)
    turned = [dict(reversed(part.items())) for part in parts]
    assert str(trace_of(session, first, *turned)) == str(trace_of(session, first, *parts))

    both = jax.tree.map(lambda *leaves: np.stack(leaves), first, second)
    replicas = quick_jit(jax.vmap(functools.partial(predict, model), in_axes=(0, None, None, None)))
    found = replicas(both, *parts)
    for r, alone in enumerate((expected, compiled(second, *parts))):
        near(jax.tree.map(lambda leaf, r=r: leaf[r], found), alone)

    short = inputs.cut(session, 6)
    shorter = quick_jit(functools.partial(predict, model))(
        first, short.streams, short.masks, short.valid
    )
    for task, y_BTC in shorter.items():
        chex.assert_shape(y_BTC, (2, 6, TASKS[task].outputs))
        near(y_BTC[1], expected[task][1, :6])

    if "dtype" in model.__dataclass_fields__:
        half = quick_jit(functools.partial(predict, model.clone(dtype="bfloat16")))(first, *parts)
        for task, y_BTC in half.items():
            assert y_BTC.dtype == jnp.float32
            gap = np.abs(y_BTC - expected[task])[inputs.frames_BT].max()
            assert 0 < gap < 0.2, (task, gap)
        variables = abstract_variables(small_session(AGREEING[name], dtype="bfloat16"))
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def trace_of(session: Session, variables: Any, *parts: Any) -> Any:
    """Returns the program of a model; dicts are made within it, in the order of ``parts``."""
    names = [list(part) for part in parts]

    def run(*flat: Any) -> Any:
        arrays = iter(flat)
        dicts = [{name: next(arrays) for name in part} for part in names]
        return apply(session.model, variables, Inputs(*dicts, np.zeros(0)))[0]

    # Arguments by name, so that both orders number them alike.
    order = [(i, name) for i, part in enumerate(parts) for name in sorted(part)]

    def sorted_run(*flat: Any) -> Any:
        by_name = dict(zip(order, flat, strict=True))
        return run(*(by_name[i, name] for i, part in enumerate(names) for name in part))

    return jax.make_jaxpr(sorted_run)(*(parts[i][name] for i, name in order))
