"""The recursions and their derivatives are those of the plain equations, mask or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emojax.layers.recursions import gru_scan, lstm_scan

BATCH, STEPS, HIDDEN = 3, 5, 4
# Padding at an end, at the start and in between.
MASK = np.array([[1, 1, 1, 1, 0], [0, 1, 1, 1, 1], [1, 1, 0, 1, 1]], bool)
FAST = {"xla_backend_optimization_level": 0}  # compiling is most of the time


def draw(seed: int, gates: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    shapes = {
        "gates": (BATCH, STEPS, gates * HIDDEN),
        "kernel": (HIDDEN, gates * HIDDEN),
        "bias": (HIDDEN,),
        "initial": (BATCH, HIDDEN),
    }
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def plain_gru(x: dict[str, Any], reverse: bool) -> Any:
    h, outputs = x["initial"], [jnp.zeros(())] * STEPS
    for t in reversed(range(STEPS)) if reverse else range(STEPS):
        a_r, a_z, a_n = jnp.split(x["gates"][:, t], 3, axis=-1)
        u_r, u_z, u_n = jnp.split(h @ x["kernel"], 3, axis=-1)
        r, z = jax.nn.sigmoid(a_r + u_r), jax.nn.sigmoid(a_z + u_z)
        n = jnp.tanh(a_n + r * (u_n + x["bias"][None]))
        real = MASK[:, t, None]
        h = jnp.where(real, (1 - z) * n + z * h, h)
        outputs[t] = jnp.where(real, h, 0)
    return jnp.stack(outputs, axis=1)


def plain_lstm(x: dict[str, Any], reverse: bool) -> Any:
    c = h = jnp.zeros((BATCH, HIDDEN))
    outputs = [jnp.zeros(())] * STEPS
    for t in reversed(range(STEPS)) if reverse else range(STEPS):
        i, f, g, o = jnp.split(x["gates"][:, t] + h @ x["kernel"], 4, axis=-1)
        new = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        real = MASK[:, t, None]
        h = jnp.where(real, jax.nn.sigmoid(o) * jnp.tanh(new), h)
        c = jnp.where(real, new, c)
        outputs[t] = jnp.where(real, h, 0)
    return jnp.stack(outputs, axis=1)


def our_gru(x: dict[str, Any], reverse: bool) -> Any:
    x_BTG, kernel, bias = x["gates"], x["kernel"], x["bias"]
    return gru_scan(x_BTG, kernel, bias, MASK, reverse=reverse, initial_BH=x["initial"])


def our_lstm(x: dict[str, Any], reverse: bool) -> Any:
    return lstm_scan(x["gates"], x["kernel"], MASK, reverse=reverse)


KINDS: dict[str, tuple[int, Callable[..., Any], Callable[..., Any]]] = {
    "gru": (3, our_gru, plain_gru),
    "lstm": (4, our_lstm, plain_lstm),
}


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_are_those_of_the_equations(kind: str, reverse: bool) -> None:
    gates, ours, plain = KINDS[kind]
    weight_BTH = np.random.default_rng(9).normal(size=(BATCH, STEPS, HIDDEN)).astype(np.float32)

    def value_and_gradient(run: Callable[..., Any], x: Any) -> Any:
        def scalar(x: Any) -> Any:
            h_BTH = run(x, reverse)
            return jnp.sum(h_BTH * weight_BTH), h_BTH

        return jax.value_and_grad(scalar, has_aux=True)(x)

    # Two replicas at once, as in training.
    both = jax.tree.map(lambda *leaves: np.stack(leaves), draw(0, gates), draw(1, gates))
    step = jax.jit(
        lambda x: [
            jax.vmap(lambda x, run=run: value_and_gradient(run, x))(x) for run in (ours, plain)
        ],
        compiler_options=FAST,
    )
    found, expected = step(both)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected
    )
    # The content of padding reaches nothing.
    slope_BTG = np.asarray(found[1]["gates"])
    assert np.all(slope_BTG[:, ~MASK] == 0)
    assert np.all(np.any(slope_BTG[:, MASK] != 0, axis=-1))


def test_gradients_of_a_gru_s_recurrent_weights_are_not_summed_in_the_loop() -> None:
    x = draw(0, 3)
    gradient = jax.make_jaxpr(jax.grad(lambda x: jnp.sum(our_gru(x, False))))(x)
    loops = [e for e in gradient.eqns if e.primitive.name == "scan"]
    assert len(loops) == 2
    for loop in loops:
        # What has an axis of time comes frame by frame; the rest is carried along.
        carried = [out.aval.shape for out in loop.outvars if out.aval.ndim < 3]
        assert carried
        assert set(carried) == {(BATCH, HIDDEN)}
