"""Dropout's counter hash: its equation, statistics, and the same masks however it is run."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from emojax.layers.dropout import Dropout, hashed_bits

RATE, KEYS, ROWS, WIDTH = 0.3, 400, 24, 128
SIZE = ROWS * WIDTH


def dropped() -> np.ndarray:
    """Returns (KEYS, ROWS, WIDTH) with mean 0 and variance 1, of keys as steps fold them in."""
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(jnp.arange(KEYS))
    bits = jax.jit(jax.vmap(lambda key: hashed_bits(key, (ROWS, WIDTH))))(keys)
    return ((np.asarray(bits) < RATE * 2**32) - RATE) / np.sqrt(RATE * (1 - RATE))


def assert_standard_normal(z: np.ndarray) -> None:
    """Numbers that should be N(0, 1): none too large for their count, variance 1."""
    z = np.ravel(z)
    assert np.abs(z).max() < np.sqrt(2 * np.log(z.size)) + 2, np.abs(z).max()
    assert abs(np.mean(z**2) - 1) < 6 * np.sqrt(2 / z.size) + 0.01, np.mean(z**2)


def test_bits_are_their_equation() -> None:
    key = jax.random.key(5)
    k_0, k_1 = (int(k) for k in jax.random.bits(key, (2,), jnp.uint32))
    word, expected = 2**32, []
    for i in range(2 * 3 * 5):
        h = (i ^ k_0) * 0x9E3779B1 % word
        h = ((h ^ h >> 16) * 0x85EBCA6B % word) ^ k_1
        h = (h ^ h >> 13) * 0xC2B2AE35 % word
        expected.append(h ^ h >> 16)
    np.testing.assert_array_equal(np.ravel(hashed_bits(key, (2, 3, 5))), expected)


def test_masks_have_the_right_rate_and_no_pattern() -> None:
    x = dropped()
    # Of each key over elements, and of each element over keys: a place is dropped as often as any.
    assert_standard_normal(x.mean((1, 2)) * np.sqrt(SIZE))
    assert_standard_normal(x.mean(0) * np.sqrt(KEYS))
    # Pairs of elements at every distance of the flat index, summed over all keys.
    flat = x.reshape(KEYS, SIZE)
    power = np.abs(np.fft.fft(flat)) ** 2
    pairs = np.fft.ifft(power).real[:, 1 : SIZE // 2] / np.sqrt(SIZE)
    assert_standard_normal(pairs.sum(0) / np.sqrt(KEYS))
    # A lattice of any orientation would be a peak; the power of noise is exponential.
    plane = np.abs(np.fft.fft2(x)[:, 1:, 1 : WIDTH // 2]) ** 2 / SIZE
    assert plane.max() < np.log(plane.size) + 8
    assert plane.mean(0).max() < 1 + 6 / np.sqrt(KEYS)


def test_layers_steps_and_replicas_draw_independent_masks() -> None:
    flat = dropped().reshape(KEYS, SIZE)
    pairs = flat @ flat.T / np.sqrt(SIZE)
    assert_standard_normal(pairs[np.triu_indices(KEYS, 1)])
    # Nor is one mask another one shifted.
    spectra = np.fft.fft(flat)
    shifted = np.fft.ifft(spectra[1:] * np.conj(spectra[:-1])).real / np.sqrt(SIZE)
    assert_standard_normal(shifted)


def test_masks_do_not_depend_on_devices_and_backward_uses_the_same() -> None:
    key, x = jax.random.key(3), jnp.ones((8, 6, 10))
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    spread = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))

    @jax.jit
    def both(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        def apply(x: jax.Array) -> jax.Array:
            y = Dropout(0.4).apply({}, x, train=True, rngs={"dropout": key})
            assert isinstance(y, jax.Array)
            return y

        return apply(x), jax.grad(lambda x: jnp.sum(apply(x)))(x)

    one, gradient = both(x)
    np.testing.assert_array_equal(one, gradient)
    np.testing.assert_array_equal(both(spread)[0], one)
