"""Adam with either weight decay and with clipping, against PyTorch, for several steps."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emojax.core.optimizer import OPTIMIZERS, Optimizer
from emojax.errors import InputError

STEPS = 12
# A gradient that vanishes, a tiny one, and one that changes its sign: where Adams differ.
RATES = np.geomspace(1e-1, 1e-4, STEPS)


def problem() -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(3, 4)), "b": rng.normal(size=(4,))}
    grads = []
    for step in range(STEPS):
        grad = {name: rng.normal(size=value.shape) * 10.0 for name, value in params.items()}
        grad["w"][0] = 0.0
        grad["w"][1] *= 1e-7
        grad["b"] *= (-1) ** step
        grads.append(grad)
    return jax.tree.map(lambda x: x.astype(np.float32), (params, grads))


def ours(name: str, clip_norm: float, weight_decay: float) -> dict[str, np.ndarray]:
    params, grads = problem()
    optimizer = Optimizer(name, clip_norm)
    update = jax.jit(optimizer.update)
    params = jax.tree.map(jnp.asarray, params)
    state = optimizer.init(params)
    for grad, rate in zip(grads, RATES, strict=True):
        params, state = update(grad, state, params, jnp.float32(rate), jnp.float32(weight_decay))
    return jax.device_get(params)


def theirs(name: str, clip_norm: float, weight_decay: float) -> dict[str, np.ndarray]:
    torch = pytest.importorskip("torch", reason="parity needs PyTorch")
    params, grads = problem()
    tensors = {key: torch.nn.Parameter(torch.tensor(value)) for key, value in params.items()}
    kind: Any = {"adam_l2": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    optimizer = kind(tensors.values(), lr=1.0, weight_decay=weight_decay)
    for grad, rate in zip(grads, RATES, strict=True):
        for key, value in grad.items():
            tensors[key].grad = torch.tensor(value)
        if clip_norm:
            torch.nn.utils.clip_grad_norm_(list(tensors.values()), clip_norm)
        optimizer.param_groups[0]["lr"] = float(rate)
        optimizer.step()
    return {key: value.detach().numpy() for key, value in tensors.items()}


@pytest.mark.parametrize("weight_decay", [0.0, 1e-3, 0.3])
@pytest.mark.parametrize("clip_norm", [0.0, 0.5, 1e6])
@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_parameters_are_pytorchs(name: str, clip_norm: float, weight_decay: float) -> None:
    found = ours(name, clip_norm, weight_decay)
    for key, expected in theirs(name, clip_norm, weight_decay).items():
        np.testing.assert_allclose(found[key], expected, rtol=0, atol=2e-5)


def test_the_two_kinds_of_decay_differ_and_so_does_clipping() -> None:
    """Guards the comparison above against cases that would agree by accident."""
    plain = ours("adam_l2", 0.0, 0.0)["w"]
    coupled = ours("adam_l2", 0.0, 0.3)["w"]
    decoupled = ours("adamw", 0.0, 0.3)["w"]
    clipped = ours("adam_l2", 0.5, 0.3)["w"]
    for one, other in ((plain, coupled), (coupled, decoupled), (coupled, clipped)):
        assert np.abs(one - other).max() > 1e-3
    np.testing.assert_array_equal(ours("adamw", 0.0, 0.0)["w"], plain)


def test_a_gradient_below_the_norm_is_left_alone() -> None:
    # Not bit for bit, because the compiler fuses the two programs differently.
    found, expected = ours("adam_l2", 1e6, 0.1)["w"], ours("adam_l2", 0.0, 0.1)["w"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_frozen_parameters_stand_still_and_count_for_nothing(name: str) -> None:
    """Against PyTorch with requires_grad off, and a new optimiser once all are released."""
    torch = pytest.importorskip("torch", reason="parity needs PyTorch")
    params, grads = problem()
    optimizer, clip_norm, released = Optimizer(name, 0.5), 0.5, STEPS // 2
    update = jax.jit(optimizer.update)
    ours = jax.tree.map(jnp.asarray, params)
    state = optimizer.init(ours)
    tensors = {key: torch.nn.Parameter(torch.tensor(value)) for key, value in params.items()}
    kind: Any = {"adam_l2": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    for step, (grad, rate) in enumerate(zip(grads, RATES, strict=True)):
        if step in (0, released):
            trained = ["b"] if step == 0 else ["w", "b"]
            chosen = [tensors[key] for key in trained]
            theirs = kind(chosen, lr=1.0, weight_decay=0.3)
            state = optimizer.init(ours)
        trainable = {key: jnp.asarray(key in trained) for key in params}
        before = ours["w"]
        ours, state = update(
            grad, state, ours, jnp.float32(rate), jnp.float32(0.3), trainable=trainable
        )
        if step < released:
            np.testing.assert_array_equal(ours["w"], before)
            assert not np.any(state.mu["w"])
            assert not np.any(state.nu["w"])
        for key in trained:
            tensors[key].grad = torch.tensor(grad[key])
        torch.nn.utils.clip_grad_norm_(chosen, clip_norm)
        theirs.param_groups[0]["lr"] = float(rate)
        theirs.step()
    for key, tensor in tensors.items():
        np.testing.assert_allclose(ours[key], tensor.detach().numpy(), rtol=0, atol=2e-5)
        assert np.abs(ours[key] - params[key]).max() > 1e-3


def test_an_unknown_optimiser_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        Optimizer("sgd")
    assert caught.value.details["field"] == "config.train.optimizer"
    assert caught.value.details["found"] == "sgd"
    assert "adamw" in caught.value.details["expected"]


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_l2_acts_on_weights_as_they_act(name: str) -> None:
    """Adam's first moment after a step without a loss is a tenth of wd raw / scale^2."""
    rng = np.random.default_rng(1)
    params = {"layer": {"w": rng.normal(size=(3, 4)), "b": rng.normal(size=(4,))}}
    scale, decay = 17.0, 0.3
    optimizer = Optimizer(name)
    _, state = optimizer.update(
        jax.tree.map(np.zeros_like, params),
        optimizer.init(params),
        params,
        jnp.float32(1e-3),
        jnp.float32(decay),
        scales={"layer/w": scale},
    )
    moments = state.mu["layer"]
    l2 = decay * 0.1 if name == "adam_l2" else 0.0
    np.testing.assert_allclose(moments["w"], l2 * params["layer"]["w"] / scale**2, atol=1e-8)
    np.testing.assert_allclose(moments["b"], l2 * params["layer"]["b"], atol=1e-7)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_named_parameters_do_not_decay(name: str) -> None:
    params, grads = problem()
    update = {
        patterns: jax.jit(Optimizer(name, 0.0, patterns).update)
        for patterns in ((), ("b",), ("*",), ("w/*",))
    }
    rate, decay = jnp.float32(0.1), jnp.float32(0.3)
    tree = jax.tree.map(jnp.asarray, {"w": {"kernel": params["w"]}, "b": params["b"]})
    grad = {"w": {"kernel": grads[0]["w"]}, "b": grads[0]["b"]}
    state = Optimizer(name).init(tree)
    found = {
        p: jax.device_get(step(grad, state, tree, rate, decay)[0]) for p, step in update.items()
    }
    undecayed = jax.device_get(update[()](grad, state, tree, rate, jnp.float32(0.0))[0])
    for patterns, spared in {("b",): {"b"}, ("*",): {"b", "w"}, ("w/*",): {"w"}}.items():
        for part in ("b", "w"):
            expected = undecayed if part in spared else found[()]
            jax.tree.map(np.testing.assert_array_equal, found[patterns][part], expected[part])
    assert not np.array_equal(found[()]["w"]["kernel"], undecayed["w"]["kernel"])
