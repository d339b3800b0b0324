"""Layers: their equations against float64 numpy, and masks that nothing leaks through."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from emojax.errors import InputError
from emojax.layers.activations import ACTIVATIONS
from emojax.layers.dropout import Dropout
from emojax.layers.fusion import JointCrossAttention, UpstreamCrossAttention
from emojax.layers.heads import MLPHead
from emojax.layers.normalisation import MaskedBatchNorm
from emojax.layers.recurrent import LSTM, StackedLSTM
from emojax.layers.tcn import TemporalConvNet, WeightNormConv
from tests.applying import initialised, run

KEY = jax.random.key(0)


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def real(*lengths: int, steps: int) -> jax.Array:
    return jnp.arange(steps)[None, :] < jnp.array(lengths)[:, None]


def randomised(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Variables of the right shapes that are not the initialiser's."""
    shapes = jax.eval_shape(lambda key: module.init(key, *args, **kwargs), KEY)
    rng = np.random.default_rng(1)
    drawn = jax.tree.map(lambda s: 0.3 * rng.normal(size=s.shape).astype(np.float32), shapes)
    # Running variances are positive.
    drawn["batch_stats"] = jax.tree.map(np.abs, drawn.get("batch_stats", {}))
    return drawn


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("dilation", [1, 3])
def test_weight_norm_conv_is_its_equation(causal: bool, dilation: int) -> None:
    layer = WeightNormConv(4, kernel_size=3, dilation=dilation, causal=causal)
    x_BTD = draw(0, 2, 9, 5)
    variables = randomised(layer, x_BTD)
    y_BTC = run(layer, variables, x_BTD)

    p = {name: np.asarray(value, np.float64) for name, value in variables["params"].items()}
    norm = np.sqrt((p["direction"] ** 2).sum((0, 1)))
    kernel = p["direction"] / norm * p["scale"]
    expected = np.zeros((2, 9, 4)) + p["bias"]
    taps = [-2 * dilation, -dilation, 0] if causal else [-dilation, 0, dilation]
    for tap, offset in enumerate(taps):
        for t in range(9):
            if 0 <= t + offset < 9:
                expected[:, t] += x_BTD[:, t + offset] @ kernel[tap]
    np.testing.assert_allclose(y_BTC, expected, rtol=1e-5, atol=1e-5)


def test_weight_norm_conv_starts_as_its_initialiser_and_ignores_the_length_of_direction() -> None:
    layer = WeightNormConv(4)
    x_BTD = draw(0, 2, 9, 5)
    variables = initialised(layer, x_BTD)
    params = variables["params"]
    norm = jnp.sqrt(jnp.sum(params["direction"] ** 2, (0, 1)))
    np.testing.assert_allclose(params["scale"], norm, rtol=1e-6)
    longer = {"params": {**params, "direction": 7 * params["direction"]}}
    np.testing.assert_allclose(
        run(layer, variables, x_BTD), run(layer, longer, x_BTD), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("causal", [True, False])
def test_tcn_sees_exactly_its_receptive_field(causal: bool) -> None:
    # Two convolutions in each of three blocks: reach 2 * (5 - 1) * (1 + 2 + 4) = 56 frames.
    steps, reach = 130, 56
    tcn = TemporalConvNet((6, 6, 6), dropout=0.0, causal=causal)
    mask_BT = jnp.ones((1, steps), bool)
    variables = randomised(tcn, jnp.zeros((1, steps, 3)), mask_BT, train=False)
    at = 60 if causal else 65

    def output(x_BTD: jax.Array) -> jax.Array:
        return jnp.sum(tcn.apply(variables, x_BTD, mask_BT, train=False)[0, at])

    seen = np.abs(jax.jit(jax.grad(output))(draw(3, 1, steps, 3))[0]).sum(-1) > 0
    first, last = np.flatnonzero(seen)[[0, -1]]
    expected = (at - reach, at) if causal else (at - reach // 2, at + reach // 2)
    assert (first, last) == expected


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_tcn_activations_are_their_equations(activation: str) -> None:
    tcn = TemporalConvNet((3,), kernel_size=1, dropout=0.0, activation=activation)
    x_BTD, mask_BT = draw(0, 2, 5, 3), jnp.ones((2, 5), bool)
    variables = randomised(tcn, x_BTD, mask_BT, train=False)
    y_BTD = run(tcn, variables, x_BTD, mask_BT, train=False)

    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"]["block_0"])
    # PReLU has a slope of its own in each of the three places; the others have no parameters.
    slopes = {name: p["slope"] for name, p in params.items() if "slope" in p}
    places = ("activation_0", "activation_1", "activation_sum")
    assert sorted(slopes) == (list(places) if activation == "prelu" else [])

    def act(place: str, x: np.ndarray) -> np.ndarray:
        if activation == "gelu":
            return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2
        slope = {"leaky_relu": 0.01, "relu": 0.0, "prelu": slopes.get(place)}[activation]
        return np.where(x > 0, x, slope * x)

    h = np.asarray(x_BTD, np.float64)
    for i in range(2):
        conv = params[f"conv_{i}"]
        norm = np.sqrt((conv["direction"][0] ** 2).sum(0))
        h = act(places[i], h @ (conv["direction"][0] / norm * conv["scale"]) + conv["bias"])
    np.testing.assert_allclose(y_BTD, act(places[2], x_BTD + h), rtol=1e-5, atol=1e-6)


def test_prelu_starts_at_a_quarter_and_unknown_activations_are_refused() -> None:
    x_BTD, mask_BT = draw(0, 2, 5, 3), jnp.ones((2, 5), bool)
    params = initialised(TemporalConvNet((3,), activation="prelu"), x_BTD, mask_BT, train=False)
    slopes = [p["slope"] for p in params["params"]["block_0"].values() if "slope" in p]
    np.testing.assert_array_equal(slopes, [0.25] * 3)
    with pytest.raises(InputError) as caught:
        TemporalConvNet((3,), activation="prelo").init(KEY, x_BTD, mask_BT, train=False)
    assert caught.value.details["found"] == "prelo"


@pytest.mark.parametrize("causal", [True, False])
def test_lstm_of_a_padded_window_is_that_of_the_cut_one(causal: bool) -> None:
    layer = StackedLSTM((6, 4), causal=causal)
    x_BTD = draw(0, 1, 11, 3)
    variables = randomised(layer, x_BTD, jnp.ones((1, 11), bool), train=False)
    # Padding before, inside and after the real frames.
    mask_BT = jnp.array([[0, 1, 1, 0, 1, 1, 1, 0, 1, 0, 0]], bool)
    y_BTD = run(layer, variables, x_BTD, mask_BT, train=False)
    cut_BTD = x_BTD[:, np.asarray(mask_BT)[0]]
    short_BTD = run(layer, variables, cut_BTD, jnp.ones(cut_BTD.shape[:2], bool), train=False)
    np.testing.assert_allclose(y_BTD[:, mask_BT[0]], short_BTD, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(y_BTD[:, ~mask_BT[0]], 0.0)


def test_lstm_is_its_equation() -> None:
    layer = LSTM(3)
    x_BTD = draw(0, 2, 5, 4)
    variables = randomised(layer, x_BTD, jnp.ones((2, 5), bool))
    y_BTD = run(layer, variables, x_BTD, jnp.ones((2, 5), bool))

    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    h, c = np.zeros((2, 3)), np.zeros((2, 3))
    for t in range(5):
        gates = x_BTD[:, t] @ params["forward_input"]["kernel"] + params["forward_input"]["bias"]
        i, f, g, o = np.split(gates + h @ params["forward_recurrent"], 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        np.testing.assert_allclose(y_BTD[:, t], h, rtol=1e-5, atol=1e-6)


def test_batch_norm_uses_real_frames_only() -> None:
    layer = MaskedBatchNorm(momentum=0.75)
    x_BTD = 3 * draw(0, 3, 7, 4) + 2
    mask_BT = real(7, 4, 0, steps=7)
    variables = initialised(layer, x_BTD, mask_BT, train=True)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], 0.0)

    poisoned_BTD = np.where(np.asarray(mask_BT)[..., None], x_BTD, np.nan)
    y_BTD, updated = run(
        layer, variables, poisoned_BTD, mask_BT, train=True, mutable=["batch_stats"]
    )
    rows = x_BTD[np.asarray(mask_BT)].astype(np.float64)
    expected = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)
    np.testing.assert_allclose(y_BTD[mask_BT], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(y_BTD[~mask_BT], 0.0)
    stats = jax.tree.map(np.asarray, updated["batch_stats"])
    np.testing.assert_allclose(stats["mean"], 0.25 * rows.mean(0), rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.75 + 0.25 * rows.var(0), rtol=1e-5)

    y_BTD = run(layer, {**variables, **updated}, x_BTD, mask_BT, train=False)
    expected = (rows - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
    np.testing.assert_allclose(y_BTD[mask_BT], expected, rtol=1e-4, atol=1e-5)


def test_batch_norm_survives_a_batch_of_padding() -> None:
    layer = MaskedBatchNorm()
    x_BTD, mask_BT = jnp.full((2, 3, 4), jnp.nan), jnp.zeros((2, 3), bool)
    variables = randomised(layer, x_BTD, mask_BT, train=True)

    def total(params: Any) -> Any:
        y_BTD, updated = run(
            layer,
            {**variables, "params": params},
            x_BTD,
            mask_BT,
            train=True,
            mutable=["batch_stats"],
        )
        return jnp.sum(y_BTD), updated["batch_stats"]

    gradients, stats = jax.jit(jax.grad(total, has_aux=True))(variables["params"])
    jax.tree.map(np.testing.assert_array_equal, stats, variables["batch_stats"])
    jax.tree.map(lambda g: np.testing.assert_array_equal(g, 0.0), gradients)


def test_dropout_rate_mean_and_keys() -> None:
    x = jnp.ones((64, 33, 31))
    layer = Dropout(0.3)
    key = {"dropout": KEY}
    y = layer.apply({}, x, train=True, rngs=key)
    assert y.shape == x.shape
    values = np.unique(y)
    np.testing.assert_allclose(values, [0.0, 1 / 0.7], rtol=1e-4)
    assert abs(float(jnp.mean(y)) - 1) < 0.01
    # Neighbours are draws of their own.
    dropped = np.asarray(y == 0)[..., :30].reshape(-1, 2)
    assert abs((dropped[:, 0] & dropped[:, 1]).mean() - 0.09) < 0.01

    np.testing.assert_array_equal(layer.apply({}, x, train=False), x)
    np.testing.assert_array_equal(Dropout(0.0).apply({}, x, train=True), x)
    other = layer.apply({}, x, train=True, rngs={"dropout": jax.random.key(1)})
    assert not np.array_equal(y, other)


def test_dropout_is_the_same_under_vmap() -> None:
    keys = jax.random.split(KEY, 2)
    x = jnp.ones((5, 6))

    def dropped(key: jax.Array) -> jax.Array:
        return Dropout(0.5).apply({}, x, train=True, rngs={"dropout": key})

    together = jax.vmap(dropped)(keys)
    np.testing.assert_array_equal(together, jnp.stack([dropped(key) for key in keys]))


BLOCKS = {"paper": JointCrossAttention, "upstream": UpstreamCrossAttention}


@pytest.mark.parametrize("names", [("a",), ("a", "b", "c")])
def test_a_fresh_paper_block_is_exactly_the_identity(names: tuple[str, ...]) -> None:
    features = {n: draw(i, 2, 8, 3 + i) for i, n in enumerate(names)}
    mask_BT = jnp.ones((2, 8), bool)
    block = JointCrossAttention(8)
    variables = initialised(block, features, mask_BT, train=False)
    attended = run(block, variables, features, mask_BT, train=False)
    assert list(attended) == list(names)
    for name in names:
        np.testing.assert_array_equal(attended[name], features[name])


@pytest.mark.parametrize("variant", BLOCKS)
def test_a_short_window_equals_one_padded_to_k(variant: str) -> None:
    block = BLOCKS[variant](10, dropout=0.0)
    features = {"a": draw(0, 2, 10, 3), "b": draw(1, 2, 10, 4)}
    mask_BT = real(6, 6, steps=10)
    padded = {n: np.where(np.asarray(mask_BT)[..., None], x, 0.0) for n, x in features.items()}
    variables = randomised(block, features, mask_BT, train=False)
    long = run(block, variables, padded, mask_BT, train=False)
    short = run(
        block, variables, {n: x[:, :6] for n, x in features.items()}, mask_BT[:, :6], train=False
    )
    for name in features:
        np.testing.assert_allclose(long[name][:, :6], short[name], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(long[name][:, 6:], 0.0)


@pytest.mark.nightly
@pytest.mark.parametrize("variant", BLOCKS)
def test_feature_rms_stays_of_order_one(variant: str) -> None:
    """At initialisation and after 50 steps of Adam; as printed it would reach hundreds."""
    window, recursions, optimiser = 300, 3, optax.adam(3e-3)
    block = BLOCKS[variant](window, dropout=0.0)
    features = {"a": draw(0, 2, window, 16), "b": draw(1, 2, window, 8)}
    mask_BT = jnp.ones((2, window), bool)
    target_BT = jnp.sin(jnp.arange(2 * window) / 40.0).reshape(2, window)
    params = [initialised(block, features, mask_BT, seed=i, train=False) for i in range(recursions)]

    def attend(params: Any) -> list[jax.Array]:
        x = features
        for own in params:
            x = run(block, own, x, mask_BT, train=False)
        return list(x.values())

    def loss(params: Any) -> jax.Array:
        mean_BT = sum(jnp.mean(x_BTD, axis=-1) for x_BTD in attend(params))
        return jnp.mean(jnp.square(mean_BT - target_BT))

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = optimiser.update(gradients, state)
        return optax.apply_updates(params, updates), state, value

    @jax.jit
    def rms(params: Any) -> list[jax.Array]:
        return [jnp.sqrt(jnp.mean(jnp.square(x_BTD))) for x_BTD in attend(params)]

    before = rms(params)
    state, values = optimiser.init(params), []
    for _ in range(50):
        params, state, value = step(params, state)
        values.append(float(value))
    assert all(0.5 < r < 3 for r in before), before
    assert all(0.5 < r < 5 for r in rms(params)), rms(params)
    assert values[-1] < values[0]


def test_head_is_bounded_by_tanh_and_float32() -> None:
    x_BTD, mask_BT = 100 * draw(0, 2, 5, 6), real(5, 2, steps=5)
    head = MLPHead(2, hidden=8, batch_norm=True, bounded=True, dtype=jnp.bfloat16)
    y_BTC = run(head, randomised(head, x_BTD, mask_BT, train=False), x_BTD, mask_BT, train=False)
    assert y_BTC.shape == (2, 5, 2)
    assert y_BTC.dtype == jnp.float32
    assert np.all(np.abs(y_BTC) <= 1)
