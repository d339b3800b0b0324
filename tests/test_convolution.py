"""Convolution over time: every way is the equation, alone and over replicas."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emojax.errors import InputError
from emojax.layers import kernels
from emojax.layers.convolution import CONVOLUTIONS, convolve

CASES = [(5, 3, True), (5, 3, False), (1, 2, False), (2, 8, True)]


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def by_hand(x_BTI: np.ndarray, kernel_KIO: np.ndarray, dilation: int, causal: bool) -> np.ndarray:
    taps, steps = len(kernel_KIO), x_BTI.shape[1]
    before = (taps - 1) * dilation if causal else (taps - 1) * dilation // 2
    y = np.zeros((*x_BTI.shape[:2], kernel_KIO.shape[2]))
    for t, k in itertools.product(range(steps), range(taps)):
        seen = t + k * dilation - before
        if 0 <= seen < steps:
            y[:, t] += x_BTI[:, seen].astype(np.float64) @ kernel_KIO[k]
    return y


@pytest.mark.parametrize("way", CONVOLUTIONS)
@pytest.mark.parametrize(("taps", "dilation", "causal"), CASES)
def test_every_way_is_the_equation(way: str, taps: int, dilation: int, causal: bool) -> None:
    x_BTI, kernel_KIO = draw(0, 2, 7, 3), draw(1, taps, 3, 4)
    y_BTO = convolve(x_BTI, kernel_KIO, dilation, causal, way)
    expected = by_hand(x_BTI, kernel_KIO, dilation, causal)
    np.testing.assert_allclose(y_BTO, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("way", CONVOLUTIONS)
def test_replicas_and_their_gradients_are_those_of_separate_runs(way: str) -> None:
    x_RBTI, kernel_RKIO, weight_BTO = draw(0, 3, 2, 9, 4), draw(1, 3, 5, 4, 2), draw(2, 2, 9, 2)

    def loss(x_BTI: jax.Array, kernel_KIO: jax.Array, way: str = way) -> jax.Array:
        return jnp.sum(jnp.sin(convolve(x_BTI, kernel_KIO, 2, True, way)) * weight_BTO)

    together = jax.jit(jax.vmap(jax.grad(loss, (0, 1))))(x_RBTI, kernel_RKIO)
    first = jax.jit(jax.grad(lambda x, k: loss(x, k, "convolution"), (0, 1)))
    for r in range(3):
        for ours, expected in zip(together, first(x_RBTI[r], kernel_RKIO[r]), strict=True):
            np.testing.assert_allclose(ours[r], expected, rtol=1e-4, atol=1e-5)


def test_the_table_names_ways_that_exist() -> None:
    assert set(kernels.TEMPORAL_CONVOLUTION) >= {"cpu", "gpu", "tpu"}
    assert set(kernels.TEMPORAL_CONVOLUTION.values()) <= set(CONVOLUTIONS)
    with pytest.raises(InputError, match="one_product"):
        convolve(draw(0, 1, 3, 2), draw(1, 1, 2, 2), 1, True, "fft")
