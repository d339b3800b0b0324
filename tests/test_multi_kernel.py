"""Tests networks of several kernel sizes: together they equal separate networks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emojax.errors import InputError
from emojax.layers import kernels
from emojax.layers.convolution import convolve
from emojax.layers.multi_kernel import WAYS, MultiKernelTCN, stacked_kernels
from tests.training_runs import quick_compiling  # noqa: F401 - a fixture

WINDOW, INPUTS = 20, 6
MASK_BT = np.arange(WINDOW)[None] < np.array([[20], [13]])
MASK_BT[1, 5] = False  # a gap


def inputs(replicas: tuple[int, ...] = (), seed: int = 0) -> np.ndarray:
    shape = (*replicas, *MASK_BT.shape, INPUTS)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def parameters(layer: MultiKernelTCN, replicas: tuple[int, ...] = (), seed: int = 1) -> Any:
    """Parameters of the right shapes that are not the initialiser's: biases are not zero."""
    shapes = jax.eval_shape(
        lambda key: layer.init(key, inputs(), MASK_BT, train=False), jax.random.key(0)
    )
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda s: rng.normal(scale=0.5, size=(*replicas, *s.shape)).astype(np.float32), shapes
    )


def test_stacked_kernels_are_the_same_convolutions() -> None:
    rng = np.random.default_rng(2)
    x_BTD = inputs()
    for causal, sizes in ((True, (2, 5, 3)), (False, (1, 7, 3))):
        each = [rng.normal(size=(size, INPUTS, 4)).astype(np.float32) for size in sizes]
        stacked = stacked_kernels(each, causal)
        assert stacked.shape == (len(sizes), max(sizes), INPUTS, 4)
        for kernel_KIO, same_KIO in zip(each, stacked, strict=True):
            expected = convolve(x_BTD, kernel_KIO, 2, causal)
            np.testing.assert_allclose(convolve(x_BTD, same_KIO, 2, causal), expected, atol=1e-5)


# As many blocks as there are kinds: of shared input or own, of another width or the same.
CASES: dict[str, dict[str, Any]] = {
    "causal": {"channels": (4, 4), "kernel_sizes": (2, 5)},
    "centred": {"channels": (INPUTS, 4), "kernel_sizes": (3, 1), "causal": False},
}


@pytest.mark.parametrize("case", CASES)
def test_together_equals_apart_in_value_and_gradients(case: str) -> None:
    """Over two replicas, with padding that holds NaN."""
    fields = CASES[case]
    layers = {way: MultiKernelTCN(dropout=0.0, way=way, **fields) for way in WAYS}
    params, x_RBTD = parameters(layers["apart"], (2,)), inputs((2,))
    x_RBTD = np.where(MASK_BT[..., None], x_RBTD, np.nan)
    width = len(fields["kernel_sizes"]) * fields["channels"][-1]
    weight_BTF = np.random.default_rng(3).normal(size=(*MASK_BT.shape, width))

    def scalar(params: Any, x_BTD: Any, layer: MultiKernelTCN) -> tuple[Any, Any]:
        y_BTF = layer.apply(params, x_BTD, MASK_BT, train=True)
        return jnp.sum(y_BTF * weight_BTF), y_BTF

    gradient = jax.grad(scalar, argnums=(0, 1), has_aux=True)
    found = {
        way: jax.jit(jax.vmap(lambda p, x, layer=layer: gradient(p, x, layer)))(params, x_RBTD)
        for way, layer in layers.items()
    }
    np.testing.assert_array_equal(np.asarray(found["together"][1])[:, ~MASK_BT], 0.0)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5),
        found["together"],
        found["apart"],
    )


def test_new_parameters_do_not_depend_on_the_way() -> None:
    fresh = [
        jax.make_jaxpr(
            lambda key, way=way: MultiKernelTCN((4,), (3, 5), way=way).init(
                key, inputs(), MASK_BT, train=False
            )
        )(jax.random.key(5))
        for way in WAYS
    ]
    assert str(fresh[0]) == str(fresh[1])


def test_dropout_of_networks_together() -> None:
    """Each network has masks of its own, the same under vmap as in separate runs."""
    layer = MultiKernelTCN((64,), (1, 3), dropout=0.5, way="together")
    params, x_BTD = parameters(layer), inputs()
    # Equal networks: what differs between them is what dropout did.
    conv = {"direction": np.zeros((1, INPUTS, 64), np.float32), "scale": np.ones(64, np.float32)}
    conv["bias"] = np.ones(64, np.float32)
    after = conv | {"direction": np.eye(64, dtype=np.float32)[None], "bias": 0 * conv["bias"]}
    residual = {"kernel": np.zeros((INPUTS, 64), np.float32), "bias": np.zeros(64, np.float32)}
    block = {"conv_0": conv, "conv_1": after, "residual": residual}
    wide = jax.tree.map(lambda a: a, block)
    for name in ("conv_0", "conv_1"):
        taps = block[name]["direction"]
        wide[name] = {**block[name], "direction": np.pad(taps, ((2, 0), (0, 0), (0, 0)))}
    params = {"params": {"kernel_1": {"block_0": block}, "kernel_3": {"block_0": wide}}}

    def run(key: Any) -> Any:
        return layer.apply(params, x_BTD, MASK_BT, train=True, rngs={"dropout": key})

    keys = jax.random.split(jax.random.key(4), 2)
    alone = jax.jit(run)
    both = np.asarray(jax.jit(jax.vmap(run))(keys))
    for i in range(2):
        np.testing.assert_array_equal(both[i], alone(keys[i]))
    # Twice kept with probability 1/4, and then 4 times as large.
    real = both[:, MASK_BT].reshape(2, -1, 2, 64)
    assert set(np.unique(real)) == {0.0, 4.0}
    assert abs(real.mean() - 1.0) < 0.1
    masks = [real[0, :, 0], real[0, :, 1], real[1, :, 0]]
    for i, j in ((0, 1), (0, 2)):
        agree = np.mean((masks[i] > 0) == (masks[j] > 0))
        assert abs(agree - 0.625) < 0.05  # independent: 1/16 + 9/16


def test_every_backend_has_a_way() -> None:
    assert set(kernels.MULTI_KERNEL_TCN) == {"cpu", "gpu", "tpu"}
    assert set(kernels.MULTI_KERNEL_TCN.values()) <= set(WAYS)
    assert kernels.chosen({"cpu": "here", "gpu": "there"}) == "here"


def test_an_unknown_way_is_refused() -> None:
    layer = MultiKernelTCN((4,), way="sideways")
    with pytest.raises(InputError, match="apart, together"):
        layer.init(jax.random.key(0), inputs(), MASK_BT, train=False)
