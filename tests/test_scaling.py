"""Scaled parameters: the scale declared is the one used, and L2 leaves the attention alive."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from emojax.core.optimizer import Optimizer
from emojax.layers.fusion import JointCrossAttention
from emojax.layers.scaling import recorded_scales

WINDOW = 16


def block_and_inputs() -> tuple[JointCrossAttention, dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(0)
    features = {n: rng.normal(size=(4, WINDOW, 3)).astype(np.float32) for n in ("a", "b")}
    return JointCrossAttention(WINDOW), features, np.ones((4, WINDOW), bool)


def test_declared_scales_are_those_of_the_forward_pass() -> None:
    """The derivative by a stored weight is that by the weight as it acts, over the scale."""
    block, features, mask_BT = block_and_inputs()
    with recorded_scales() as scales:
        params = block.init(jax.random.key(0), features, mask_BT, train=False)["params"]
    assert scales == {f"w_c_{n}": WINDOW for n in "ab"} | {f"w_h_{n}": WINDOW**0.5 for n in "ab"}

    rng = np.random.default_rng(1)
    params = {n: p if n == "joint" else rng.normal(size=p.shape) for n, p in params.items()}
    c_TU, h_TU = (params[f"{w}_a"] / scales[f"{w}_a"] for w in ("w_c", "w_h"))
    found_BTM = block.apply({"params": params}, features, mask_BT, train=False)["a"]
    joint_BTD = np.concatenate(list(features.values()), axis=-1) @ np.asarray(
        params["joint"]["kernel"]
    )
    c_BTU = np.tanh(
        np.einsum("btm,md,bud->btu", features["a"], params["w_j_a"], joint_BTD) / 6**0.5
    )
    mixed_BTM = np.einsum("bsm,st->btm", features["a"], c_TU)
    map_BUM = np.maximum(np.einsum("btu,btm->bum", c_BTU, mixed_BTM), 0)
    expected_BTM = features["a"] + np.einsum("bsm,st->btm", map_BUM, h_TU)
    np.testing.assert_allclose(found_BTM, expected_BTM, atol=1e-4)


@contextlib.contextmanager
def nothing_recorded() -> Iterator[dict[str, float]]:
    yield {}


@pytest.mark.parametrize("as_printed", [True, False])
def test_attention_lives_with_l2_on_the_weights_as_printed(as_printed: bool) -> None:
    """On stored weights L2 beats a weak gradient and W_h stays small; as printed it grows."""
    block, features, mask_BT = block_and_inputs()
    optimizer = Optimizer("adam_l2")
    params = block.init(jax.random.key(0), features, mask_BT, train=False)["params"]
    state = optimizer.init(params)
    target = {n: x + 0.5 * np.tanh(x[:, ::-1]) for n, x in features.items()}

    def loss(params: object) -> jax.Array:
        out = block.apply({"params": params}, features, mask_BT, train=False)
        return 1e-3 * sum(jnp.mean((out[n] - target[n]) ** 2) for n in out)

    @jax.jit
    def step(params: object, state: optax.OptState) -> tuple[object, optax.OptState]:
        with recorded_scales() if as_printed else nothing_recorded() as scales:
            grads = jax.grad(loss)(params)
        return optimizer.update(
            grads, state, params, jnp.float32(1e-3), jnp.float32(1e-3), scales=scales
        )

    for _ in range(300):
        params, state = step(params, state)
    rms = float(jnp.sqrt(jnp.mean(params["w_h_a"] ** 2)))
    assert (rms > 0.01) == as_printed, rms
