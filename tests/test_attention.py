"""Tests attention and transformer layers against PyTorch, and the effect of padding."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import example, given, settings
from hypothesis import strategies as st

from emojax.errors import InputError
from emojax.layers.attention import (
    MultiHeadAttention,
    attention_weights,
    sinusoidal_positions,
)
from emojax.layers.transformer import EncoderLayer, TransformerEncoder
from tests.applying import run as jitted
from tests.torch_encoder import attention_names, encoder_names, load, relative_error

KEY = jax.random.key(0)
TOLERANCE = 1e-5
LENGTHS = (9, 5, 2)  # real rows of each window
BATCH, STEPS, WIDTH, HIDDEN = len(LENGTHS), 9, 8, 6
Params = Any


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def ragged(lengths: tuple[int, ...] = LENGTHS, steps: int = STEPS) -> np.ndarray:
    return np.arange(steps)[None] < np.array(lengths)[:, None]


def randomised(module: nn.Module, *args: Any, seed: int = 1) -> Params:
    """Returns parameters that are not the initialiser's."""
    shapes = jax.eval_shape(functools.partial(module.init, train=False), KEY, *args)["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: 0.4 * rng.normal(size=s.shape).astype(np.float32), shapes)


def value_and_gradients(module: nn.Module, weights_BTD: np.ndarray) -> Any:
    """Returns a compiled (params, inputs, *masks) -> (gradients of both, output)."""

    def scalar(params: Params, inputs: tuple, *masks: Any) -> Any:
        y_BTD = module.apply({"params": params}, *inputs, *masks, train=False)
        return jnp.sum(y_BTD * weights_BTD), y_BTD

    return jax.jit(jax.grad(scalar, argnums=(0, 1), has_aux=True))


# ---- against PyTorch ----------------------------------------------------------------------


def torch_gradients(
    module: Any, named: dict[str, np.ndarray], call: Any, weights_BTD: np.ndarray
) -> tuple[Any, dict[str, Any]]:
    """Returns output and parameter gradients of a PyTorch module given our numbers, in float64."""
    import torch

    module = module.double().train()
    load(module, named)
    y_BTD = call(module)
    torch.sum(y_BTD * torch.tensor(np.asarray(weights_BTD, np.float64))).backward()
    return y_BTD.detach().numpy(), {name: p.grad.numpy() for name, p in module.named_parameters()}


@pytest.mark.parametrize("heads", [1, 4])
def test_attention_agrees_with_pytorch(heads: int) -> None:
    """Ragged sources of another width and length than the queries, values and gradients."""
    torch = pytest.importorskip("torch", reason="parity tests need PyTorch (extra: parity)")
    query, source = draw(0, BATCH, 7, WIDTH), draw(1, BATCH, STEPS, 5)
    mask, weights = ragged(), draw(2, BATCH, 7, WIDTH)
    module = MultiHeadAttention(heads=heads)
    params = randomised(module, query, source, mask)

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1, 2), has_aux=True)
    def run(params: Params, query: Any, source: Any) -> Any:
        y_BTD = module.apply({"params": params}, query, source, mask, train=False)
        return jnp.sum(y_BTD * weights), y_BTD

    gradients, output = run(params, query, source)

    reference = torch.nn.MultiheadAttention(WIDTH, heads, kdim=5, vdim=5, batch_first=True)
    inputs = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (query, source)]

    def call(layer: Any) -> Any:
        return layer(inputs[0], inputs[1], inputs[1], key_padding_mask=torch.tensor(~mask))[0]

    named = attention_names(params, joined=False)
    expected, grads = torch_gradients(reference, named, call, weights)
    assert relative_error(output, expected) <= TOLERANCE
    ours = attention_names(gradients[0], joined=False)
    for name, gradient in grads.items():
        if name == "in_proj_bias":
            # A key bias shifts all scores of a query alike, so its gradient is zero.
            key = slice(WIDTH, 2 * WIDTH)
            np.testing.assert_allclose(ours[name][key], gradient[key], atol=1e-5)
        assert relative_error(ours[name], gradient) <= TOLERANCE, name
    for gradient, x in zip(gradients[1:], inputs, strict=True):
        assert relative_error(gradient, x.grad.numpy()) <= TOLERANCE


@pytest.mark.parametrize(
    ("layers", "norm", "activation", "final"),
    [(1, "post", "gelu", False), (2, "post", "relu", False), (2, "pre", "gelu", True)],
)
def test_encoder_agrees_with_pytorch(layers: int, norm: str, activation: str, final: bool) -> None:
    torch = pytest.importorskip("torch", reason="parity tests need PyTorch (extra: parity)")
    x, mask = draw(0, BATCH, STEPS, WIDTH), ragged()
    weights = draw(2, BATCH, STEPS, WIDTH) * mask[..., None]
    module = TransformerEncoder(
        layers, 2, HIDDEN, dropout=0.0, activation=activation, norm=norm, final_norm=final
    )
    params = randomised(module, x, mask)
    gradients, output = value_and_gradients(module, weights)(params, (x,), mask)

    layer = torch.nn.TransformerEncoderLayer(
        WIDTH, 2, HIDDEN, 0.0, activation, batch_first=True, norm_first=norm == "pre"
    )
    reference = torch.nn.TransformerEncoder(
        layer, layers, torch.nn.LayerNorm(WIDTH) if final else None, enable_nested_tensor=False
    )

    inputs = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    expected, grads = torch_gradients(
        reference,
        encoder_names(params),
        lambda encoder: encoder(inputs, src_key_padding_mask=torch.tensor(~mask)),
        weights,
    )
    np.testing.assert_array_equal(np.asarray(output)[~mask], 0.0)
    assert relative_error(output, expected * mask[..., None]) <= TOLERANCE
    ours = encoder_names(gradients[0])
    errors = {name: relative_error(ours[name], gradient) for name, gradient in grads.items()}
    errors["input"] = relative_error(gradients[1][0], inputs.grad.numpy())
    assert max(errors.values()) <= TOLERANCE, errors


# ---- definitions --------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "width"), [(1, 1), (7, 4), (5, 5), (100, 64)])
def test_positions_are_their_equation(length: int, width: int) -> None:
    code_TD = sinusoidal_positions(length, width)
    assert code_TD.shape == (length, width)
    assert code_TD.dtype == np.float64
    for position in range(length):
        for column in range(width):
            angle = position / 10000 ** ((column - column % 2) / width)
            expected = np.cos(angle) if column % 2 else np.sin(angle)
            assert abs(code_TD[position, column] - expected) < 1e-13


def test_weights_are_exactly_zero_where_not_allowed_and_sum_to_one() -> None:
    scores = 50 * draw(0, 2, 2, 3, 5)
    allowed = np.array([True, False, True, True, False])[None, None, None]
    weights = np.asarray(attention_weights(scores, allowed))
    assert np.all(weights[..., [1, 4]] == 0)
    np.testing.assert_allclose(weights.sum(-1), 1.0, rtol=1e-6)
    raised = np.exp(scores.astype(np.float64)) * allowed
    np.testing.assert_allclose(
        weights, raised / raised.sum(-1, keepdims=True), rtol=1e-4, atol=1e-30
    )
    nothing = np.zeros((1, 1, 1, 5), bool)
    np.testing.assert_array_equal(attention_weights(scores, nothing), 0.0)


def test_a_query_that_sees_nothing_gives_the_output_bias() -> None:
    """Padded rows of the source hold NaN, which a weight of zero alone would let through."""
    query, source = draw(0, BATCH, STEPS, WIDTH), draw(1, BATCH, STEPS, WIDTH)
    mask = ragged((STEPS, 0, 4))
    source = np.where(mask[..., None], source, np.float32(np.nan))
    module = MultiHeadAttention(heads=2, features=4)
    params = randomised(module, query, source, mask)
    weights = np.ones((BATCH, STEPS, WIDTH), np.float32)
    gradients, output = value_and_gradients(module, weights)(params, (query, source), mask)
    bias = np.broadcast_to(params["output"]["bias"], (STEPS, WIDTH))
    np.testing.assert_array_equal(output[1], bias)
    assert not np.allclose(output[0], bias)
    for leaf in jax.tree.leaves((gradients, output)):
        assert np.all(np.isfinite(leaf))


# ---- padding ------------------------------------------------------------------------------


@functools.cache
def encoder(norm: str) -> tuple[Any, Params]:
    module = TransformerEncoder(2, 2, HIDDEN, dropout=0.0, norm=norm, final_norm=norm == "pre")
    x, mask = draw(0, BATCH, STEPS, WIDTH), ragged()
    run = value_and_gradients(module, draw(2, BATCH, STEPS, WIDTH))
    return run, randomised(module, x, mask)


MASKS = st.lists(
    st.lists(st.booleans(), min_size=STEPS, max_size=STEPS), min_size=BATCH, max_size=BATCH
)


@pytest.mark.parametrize("norm", ["post", "pre"])
@settings(max_examples=15)
@example(mask=[[False] * STEPS] * BATCH, poison=np.nan)
@given(mask=MASKS, poison=st.sampled_from([1e3, -1e30, np.nan, np.inf]))
def test_padding_changes_no_real_frame(norm: str, mask: list[list[bool]], poison: float) -> None:
    run, params = encoder(norm)
    x, mask_BT = draw(0, BATCH, STEPS, WIDTH), np.array(mask)
    poisoned = np.where(mask_BT[..., None], x, np.float32(poison))
    clean_gradients, clean = run(params, (x,), mask_BT)
    gradients, output = run(params, (poisoned,), mask_BT)
    np.testing.assert_array_equal(output, clean)
    np.testing.assert_array_equal(np.asarray(output)[~mask_BT], 0.0)
    jax.tree.map(np.testing.assert_array_equal, gradients, clean_gradients)
    for leaf in jax.tree.leaves((gradients, output)):
        assert np.all(np.isfinite(leaf))


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_a_padded_window_is_the_cut_one(norm: str) -> None:
    run, params = encoder(norm)
    x = draw(0, BATCH, STEPS, WIDTH)
    _, padded = run(params, (x,), ragged())
    module = TransformerEncoder(2, 2, HIDDEN, dropout=0.0, norm=norm, final_norm=norm == "pre")
    for b, length in enumerate(LENGTHS):
        cut = np.ones((1, length), bool)
        alone = jitted(module, {"params": params}, x[b : b + 1, :length], cut, train=False)
        np.testing.assert_allclose(padded[b, :length], alone[0], rtol=1e-5, atol=1e-5)


# ---- training -----------------------------------------------------------------------------


def test_dropout_acts_in_training_only_and_also_on_the_weights() -> None:
    x, mask = draw(0, 1, 40, WIDTH), np.ones((1, 40), bool)
    module = MultiHeadAttention(heads=2, dropout=0.5)
    params = randomised(module, x, x, mask)
    # All keys and values alike: only the sum of the weights is seen, 1 on average.
    alike = np.broadcast_to(x[:, :1], x.shape)
    run = jax.jit(functools.partial(module.apply, train=True))
    keys = jax.random.split(KEY, 2)
    first, second = (run({"params": params}, x, alike, mask, rngs={"dropout": key}) for key in keys)
    clean = jitted(module, {"params": params}, x, alike, mask, train=False)
    assert not np.allclose(first, second)
    np.testing.assert_allclose(np.mean(first, axis=1), np.mean(clean, axis=1), rtol=0.2, atol=0.1)

    layer = EncoderLayer(2, HIDDEN, dropout=0.5)
    params = randomised(layer, x, mask)
    run = jax.jit(functools.partial(layer.apply, train=True))
    first, second = (run({"params": params}, x, mask, rngs={"dropout": key}) for key in keys)
    assert not np.allclose(first, second)


def test_bfloat16_computes_near_float32_with_float32_parameters() -> None:
    x, mask = draw(0, BATCH, STEPS, WIDTH), ragged()
    outputs = {}
    for dtype in (jnp.float32, jnp.bfloat16):
        module = TransformerEncoder(2, 2, HIDDEN, dropout=0.0, dtype=dtype)
        variables = jax.jit(functools.partial(module.init, train=False))(KEY, x, mask)
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
        outputs[dtype] = jitted(module, variables, x, mask, train=False)
        assert outputs[dtype].dtype == dtype
    close = np.asarray(outputs[jnp.bfloat16], np.float32)
    np.testing.assert_allclose(close, outputs[jnp.float32], rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"heads": 3}, ["heads", "3 heads of 8 features"]),
        ({"activation": "rleu"}, ["activation", "did you mean relu?"]),
        ({"norm": "both"}, ["norm", "post, pre"]),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, Any], words: list[str]) -> None:
    layer = EncoderLayer(**({"heads": 2, "hidden": HIDDEN} | fields))
    x, mask = draw(0, BATCH, STEPS, WIDTH), ragged()
    with pytest.raises(InputError) as caught:
        jax.eval_shape(lambda: layer.init(KEY, x, mask, train=False))
    for word in words:
        assert word in str(caught.value)
