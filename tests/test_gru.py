"""The GRU: PyTorch's, its equation, and a state that padding cannot touch."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from emojax.layers.recurrent import GRU, LSTM, StackedGRU, gru_scan, orthogonal_gates
from tests.applying import initialised, run

KEY = jax.random.key(0)
WIDTH, STEPS, CHANNELS = 5, 9, (6, 4)
TOLERANCE = 1e-5


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@functools.cache
def stacked(causal: bool) -> tuple[Any, Any]:
    """Returns parameters of a two-layer network that are not the initialiser's, and its gradients.

    The compiled function takes (params, x, mask) and returns the gradients with regard to both
    of a weighted sum of the outputs, and the outputs.
    """
    model = StackedGRU(CHANNELS, dropout=0.0, causal=causal)
    shapes = jax.eval_shape(
        functools.partial(model.init, train=False),
        KEY,
        jnp.zeros((1, 2, WIDTH)),
        jnp.ones((1, 2), bool),
    )
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda s: rng.normal(scale=0.5, size=s.shape).astype(np.float32), shapes)
    weights_TC = np.random.default_rng(2).uniform(0.5, 1.5, (STEPS, CHANNELS[-1]))

    def scalar(params: Any, x_BTD: Any, mask_BT: Any) -> Any:
        y_BTC = model.apply(params, x_BTD, mask_BT, train=False)
        return jnp.sum(y_BTC * weights_TC.astype(np.float32)[None]), y_BTC

    return params, jax.jit(jax.grad(scalar, argnums=(0, 1), has_aux=True))


def test_a_layer_is_its_equation() -> None:
    layer = GRU(3)
    x_BTD, mask_BT = draw(0, 2, STEPS, WIDTH), jnp.ones((2, STEPS), bool)
    shapes = jax.eval_shape(layer.init, KEY, x_BTD, mask_BT)
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)
    y_BTC = run(layer, variables, x_BTD, mask_BT)

    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    w, b, u = p["forward_input"]["kernel"], p["forward_input"]["bias"], p["forward_recurrent"]
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    h = np.zeros((2, 3))
    for t in range(STEPS):
        a = x_BTD[:, t] @ w + b
        r = sigmoid(a[:, :3] + h @ u[:, :3])
        z = sigmoid(a[:, 3:6] + h @ u[:, 3:6])
        n = np.tanh(a[:, 6:] + r * (h @ u[:, 6:] + p["forward_recurrent_bias"]))
        h = (1 - z) * n + z * h
        np.testing.assert_allclose(y_BTC[:, t], h, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("causal", [True, False])
def test_forward_and_gradients_agree_with_pytorch(causal: bool) -> None:
    torch = pytest.importorskip("torch", reason="parity tests need PyTorch (extra: parity)")
    params, run = stacked(causal)
    lengths = (STEPS, 5, 1)
    x_BTD = draw(3, len(lengths), STEPS, WIDTH)
    mask_BT = np.arange(STEPS)[None] < np.array(lengths)[:, None]
    (gradients, x_gradient_BTD), y_BTC = run(params, x_BTD, mask_BT)
    weights_TC = np.random.default_rng(2).uniform(0.5, 1.5, (STEPS, CHANNELS[-1]))

    leaves: dict[str, Any] = {}  # path -> float64 leaf
    sides = (("forward", ""), ("backward", "_reverse"))[: 1 if causal else 2]
    layers = []
    for i, (inputs, width) in enumerate(zip((WIDTH, *CHANNELS), CHANNELS, strict=False)):
        hidden = width if causal else width // 2
        layer = torch.nn.GRU(inputs, hidden, bidirectional=not causal, batch_first=True).double()
        ours, theirs = params["params"][f"gru_{i}"], {}
        for side, suffix in sides:
            for path, leaf in (
                (f"{side}_input/kernel", ours[f"{side}_input"]["kernel"]),
                (f"{side}_input/bias", ours[f"{side}_input"]["bias"]),
                (f"{side}_recurrent", ours[f"{side}_recurrent"]),
                (f"{side}_recurrent_bias", ours[f"{side}_recurrent_bias"]),
            ):
                leaves[f"gru_{i}/{path}"] = torch.tensor(
                    np.asarray(leaf, np.float64), requires_grad=True
                )
            at = f"gru_{i}/{side}"
            zeros = torch.zeros(2 * hidden, dtype=torch.float64)
            theirs |= {
                f"weight_ih_l0{suffix}": leaves[f"{at}_input/kernel"].T,
                f"weight_hh_l0{suffix}": leaves[f"{at}_recurrent"].T,
                f"bias_ih_l0{suffix}": leaves[f"{at}_input/bias"],
                f"bias_hh_l0{suffix}": torch.cat((zeros, leaves[f"{at}_recurrent_bias"])),
            }
        layers.append((layer, theirs))

    total = 0.0
    for b, length in enumerate(lengths):
        x_TD = torch.tensor(x_BTD[b, :length], dtype=torch.float64, requires_grad=True)
        y_TC = x_TD
        for layer, weights in layers:
            y_TC = torch.func.functional_call(layer, weights, y_TC)[0]
        np.testing.assert_allclose(y_BTC[b, :length], y_TC.detach(), rtol=0, atol=TOLERANCE)
        share = torch.sum(y_TC * torch.tensor(weights_TC[:length]))
        (x_grad,) = torch.autograd.grad(share, x_TD, retain_graph=True)
        worst = np.abs(x_gradient_BTD[b, :length] - x_grad.numpy()).max()
        assert worst <= TOLERANCE * np.abs(x_grad.numpy()).max()
        np.testing.assert_array_equal(x_gradient_BTD[b, length:], 0.0)
        total = total + share
    total.backward()
    compared = jax.tree_util.tree_flatten_with_path(gradients["params"])[0]
    assert len(compared) == len(leaves)
    for path, ours in compared:
        reference = leaves["/".join(str(key.key) for key in path)].grad.numpy()
        assert np.abs(ours - reference).max() <= TOLERANCE * np.abs(reference).max(), path


MASKS = st.lists(st.booleans(), min_size=STEPS, max_size=STEPS)


@pytest.mark.parametrize("causal", [True, False])
@settings(max_examples=15)
@example(mask=[False] * STEPS, poison=np.nan)
@example(mask=[False, True, True, False, False, True, True, True, False], poison=np.inf)
@given(mask=MASKS, poison=st.sampled_from([1e3, -1e30, np.nan, np.inf]))
def test_a_padded_window_is_the_cut_one(causal: bool, mask: list[bool], poison: float) -> None:
    """Padding before, between and after real frames, with any content, is as if not there."""
    params, run = stacked(causal)
    x_BTD, mask_BT = draw(4, 1, STEPS, WIDTH), np.array([mask])
    poisoned_BTD = np.where(mask_BT[..., None], x_BTD, np.float32(poison))
    (gradients, x_gradient_BTD), y_BTC = run(params, x_BTD, mask_BT)
    (again, x_again_BTD), y_again_BTC = run(params, poisoned_BTD, mask_BT)
    np.testing.assert_array_equal(y_again_BTC, y_BTC)
    np.testing.assert_array_equal(x_again_BTD, x_gradient_BTD)
    jax.tree.map(np.testing.assert_array_equal, again, gradients)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((gradients, y_BTC)))
    np.testing.assert_array_equal(y_BTC[~mask_BT], 0.0)

    # The real frames moved to the front: the same numbers, without gaps.
    count = int(mask_BT.sum())
    cut_BTD = np.zeros_like(x_BTD)
    cut_BTD[:, :count] = x_BTD[mask_BT]
    _, cut_BTC = run(params, cut_BTD, np.arange(STEPS)[None] < count)
    np.testing.assert_allclose(y_BTC[mask_BT], cut_BTC[0, :count], rtol=1e-5, atol=1e-6)


def test_the_forward_layer_never_sees_the_future() -> None:
    params, run = stacked(True)
    x_BTD, mask_BT = draw(5, 1, STEPS, WIDTH), np.ones((1, STEPS), bool)
    changed_BTD = x_BTD.copy()
    changed_BTD[:, 6:] += 1
    before, after = run(params, x_BTD, mask_BT)[1], run(params, changed_BTD, mask_BT)[1]
    np.testing.assert_array_equal(before[:, :6], after[:, :6])
    assert np.all(before[:, 6:] != after[:, 6:])


def test_a_step_that_keeps_its_state_and_one_that_replaces_it() -> None:
    # z = 1 keeps h_(t-1), here zero; z = 0 and r = 0 leave tanh of the input's share.
    gates_BTG = np.zeros((1, 2, 6), np.float32)
    gates_BTG[..., 2:4] = 40.0
    gates_BTG[..., 4:] = 0.5
    kernel_HG, bias_H = np.ones((2, 6), np.float32), np.full((2,), 7.0, np.float32)
    mask_BT = np.ones((1, 2), bool)
    np.testing.assert_array_equal(gru_scan(gates_BTG, kernel_HG, bias_H, mask_BT), 0.0)
    gates_BTG[..., :4] = -40.0
    h_BTH = gru_scan(gates_BTG, kernel_HG, bias_H, mask_BT)
    np.testing.assert_allclose(h_BTH, np.tanh(0.5), rtol=1e-6)


def test_each_gate_starts_orthogonal() -> None:
    kernel_HG = np.asarray(orthogonal_gates(KEY, (5, 15)))
    for g in range(3):
        gate_HH = kernel_HG[:, 5 * g : 5 * (g + 1)]
        np.testing.assert_allclose(gate_HH @ gate_HH.T, np.eye(5), atol=1e-5)
    assert not np.allclose(kernel_HG[:, :5], kernel_HG[:, 5:10])


def test_each_gate_of_an_lstm_starts_orthogonal() -> None:
    params = initialised(LSTM(4), draw(8, 1, 2, 3), jnp.ones((1, 2), bool))["params"]
    kernel_HG = np.asarray(params["forward_recurrent"])
    assert kernel_HG.shape == (4, 16)
    for g in range(4):
        gate_HH = kernel_HG[:, 4 * g : 4 * (g + 1)]
        np.testing.assert_allclose(gate_HH @ gate_HH.T, np.eye(4), atol=1e-5)


def test_the_input_is_projected_outside_the_recursion() -> None:
    layer = GRU(4)
    x_BTD, mask_BT = draw(8, 2, STEPS, 64), jnp.ones((2, STEPS), bool)
    variables = jax.eval_shape(layer.init, KEY, x_BTD, mask_BT)
    equations = jax.make_jaxpr(layer.apply)(variables, x_BTD, mask_BT).eqns
    # The recursion has a derivative of its own.
    (own,) = (e.params["call_jaxpr"] for e in equations if "call_jaxpr" in e.params)
    (scan,) = (equation for equation in own.eqns if equation.primitive.name == "scan")
    assert not any(64 in operand.aval.shape for operand in scan.invars)


def test_dropout_is_between_layers_and_only_in_training() -> None:
    x_BTD, mask_BT = draw(6, 2, STEPS, WIDTH), jnp.ones((2, STEPS), bool)
    for channels, differs in (((4,), False), ((4, 4), True)):
        model = StackedGRU(channels, dropout=0.5)
        variables = initialised(model, x_BTD, mask_BT, train=False)
        plain = run(model, variables, x_BTD, mask_BT, train=False)
        noisy = run(model, variables, x_BTD, mask_BT, train=True, rngs={"dropout": KEY})
        assert np.array_equal(plain, noisy) != differs


def test_bfloat16_computes_in_it_and_keeps_float32_parameters() -> None:
    x_BTD, mask_BT = draw(7, 2, STEPS, WIDTH), jnp.ones((2, STEPS), bool)
    outputs = {}
    for dtype in (jnp.float32, jnp.bfloat16):
        model = StackedGRU(CHANNELS, causal=False, dtype=dtype)
        variables = initialised(model, x_BTD, mask_BT, train=False)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
        y_BTC = run(model, variables, x_BTD, mask_BT, train=False)
        assert y_BTC.dtype == dtype
        outputs[dtype] = np.asarray(y_BTC, np.float32)
    np.testing.assert_allclose(outputs[jnp.bfloat16], outputs[jnp.float32], rtol=0.1, atol=0.05)
