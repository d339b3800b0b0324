"""Losses against float64 references; finite values and gradients where it hurts."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emojax.ops import losses
from emojax.ops.tasks import TASK_OPS
from emojax.specs import TASKS

CCC_FORMS = {"batch": losses.ccc_loss, "window": losses.ccc_window_loss}
EVERY_LOSS = [(task, name) for task, ops in TASK_OPS.items() for name in ops.losses]


def random_batch(task: str, seed: int = 0, shape: tuple[int, int] = (4, 30)) -> tuple:
    """Outputs, labels (with garbage where masked) and mask of a task."""
    spec, rng = TASKS[task], np.random.default_rng(seed)
    outputs = rng.normal(size=(*shape, spec.outputs)).astype(np.float32)
    size = (*shape, spec.columns)
    if spec.kind == "continuous":
        labels = rng.uniform(-1, 1, size)
    else:
        labels = rng.integers(0, spec.outputs if spec.kind == "categorical" else 2, size)
    mask = rng.random(size) > 0.4
    mask[-1] = False  # one window without a single annotated frame
    labels = np.where(mask, labels, spec.ignore).astype(np.float32)
    return outputs, labels, mask


def reference(
    task: str, name: str, outputs: np.ndarray, labels: np.ndarray, mask: np.ndarray
) -> np.ndarray:
    """Computes each loss from its definition in float64, frame by frame where that is natural."""
    outputs = outputs.astype(np.float64)
    if name == "cross_entropy":
        rows = [
            -np.log(np.exp(z[int(k)]) / np.exp(z).sum())
            for z, k, m in zip(outputs.reshape(-1, outputs.shape[-1]), labels.ravel(),
                               mask.ravel(), strict=True)
            if m
        ]  # fmt: skip
        return np.array([np.mean(rows)])
    values = []
    for c in range(outputs.shape[-1]):
        m = mask[..., c]
        x, y = outputs[..., c], labels[..., c].astype(np.float64)
        if name == "mse":
            values.append(np.mean((x[m] - y[m]) ** 2))
        elif name == "rmse_window":
            errors = [np.mean((x[b][m[b]] - y[b][m[b]]) ** 2) for b in range(len(m)) if m[b].any()]
            values.append(np.mean(np.sqrt(np.array(errors) + 1e-4)))
        elif name == "binary_cross_entropy":
            p = 1 / (1 + np.exp(-x[m]))
            values.append(-np.mean(y[m] * np.log(p) + (1 - y[m]) * np.log(1 - p)))
        else:
            cuts = [m] if name == "ccc" else []
            if name == "ccc_window":
                for b in range(len(m)):
                    if m[b].any():
                        alone = np.zeros_like(m)
                        alone[b] = m[b]
                        cuts.append(alone)
            terms = []
            for cut in cuts:
                a, b = x[cut], y[cut]
                cov = np.mean((a - a.mean()) * (b - b.mean()))
                terms.append(1 - 2 * cov / (a.var() + b.var() + (a.mean() - b.mean()) ** 2))
            values.append(np.mean(terms))
    return np.array(values)


@functools.cache
def compiled(loss: Callable) -> tuple[Callable, Callable]:
    """Value and Jacobian, compiled once per loss and shape for all tests together."""
    return jax.jit(loss), jax.jit(jax.jacrev(loss))


def finite_everywhere(
    loss: Callable, outputs: np.ndarray, labels: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Value and gradient (of every target apart) under jit; asserts that they are finite."""
    value, jacobian = (function(outputs, labels, mask) for function in compiled(loss))
    assert np.isfinite(value).all()
    assert np.isfinite(np.asarray(jacobian, np.float32)).all()
    return np.asarray(value), np.asarray(jacobian)


@pytest.mark.parametrize(("task", "name"), EVERY_LOSS)
def test_value_equals_the_reference(task: str, name: str) -> None:
    outputs, labels, mask = random_batch(task)
    value = compiled(TASK_OPS[task].losses[name])[0](outputs, labels, mask)
    assert value.shape == (len(TASK_OPS[task].targets),)
    np.testing.assert_allclose(
        value, reference(task, name, outputs, labels, mask), rtol=2e-6, atol=2e-6
    )


@pytest.mark.parametrize(("task", "name"), EVERY_LOSS)
def test_gradient_equals_finite_differences_of_the_reference(task: str, name: str) -> None:
    outputs, labels, mask = random_batch(task, shape=(3, 8))
    loss = TASK_OPS[task].losses[name]
    gradient = jax.jit(jax.grad(lambda *a: loss(*a).sum()))(outputs, labels, mask)
    step, numeric = 1e-5, np.zeros(outputs.shape)
    base = outputs.astype(np.float64)
    for index in np.ndindex(*outputs.shape):
        ends = []
        for sign in (1, -1):
            moved = base.copy()
            moved[index] += sign * step
            ends.append(reference(task, name, moved, labels, mask).sum())
        numeric[index] = (ends[0] - ends[1]) / (2 * step)
    np.testing.assert_allclose(gradient, numeric, atol=2e-5)


@pytest.mark.parametrize(("task", "name"), EVERY_LOSS)
def test_bfloat16_outputs_are_summed_in_float32(task: str, name: str) -> None:
    outputs, labels, mask = random_batch(task, shape=(8, 500))
    rounded = jnp.asarray(outputs, jnp.bfloat16)
    value, jacobian = finite_everywhere(TASK_OPS[task].losses[name], rounded, labels, mask)
    assert value.dtype == jnp.float32
    assert jacobian.dtype == jnp.bfloat16
    exact = reference(task, name, np.asarray(rounded.astype(jnp.float32)), labels, mask)
    np.testing.assert_allclose(value, exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("task", "name"), EVERY_LOSS)
def test_fully_masked_batch_is_zero_with_zero_gradient(task: str, name: str) -> None:
    outputs, labels, mask = random_batch(task)
    value, jacobian = finite_everywhere(
        TASK_OPS[task].losses[name], outputs, labels, np.zeros_like(mask)
    )
    np.testing.assert_array_equal(value, np.zeros_like(value))
    np.testing.assert_array_equal(jacobian, np.zeros_like(jacobian))


@pytest.mark.parametrize(("task", "name"), EVERY_LOSS)
@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (1, 1)])
def test_empty_and_single_frame_batches_are_finite(
    task: str, name: str, shape: tuple[int, int]
) -> None:
    outputs, labels, mask = random_batch(task, shape=(max(shape[0], 1), max(shape[1], 1)))
    cut = (slice(0, shape[0]), slice(0, shape[1]))
    labels = np.abs(labels)  # the ignore value is no class
    finite_everywhere(
        TASK_OPS[task].losses[name], outputs[cut], labels[cut], np.ones_like(mask)[cut]
    )


@pytest.mark.parametrize(("task", "name"), EVERY_LOSS)
def test_one_valid_frame_is_finite(task: str, name: str) -> None:
    outputs, labels, mask = random_batch(task)
    mask = np.zeros_like(mask)
    mask[1, 3] = True
    finite_everywhere(TASK_OPS[task].losses[name], outputs, np.abs(labels), mask)


@pytest.mark.parametrize(("task", "name"), EVERY_LOSS)
def test_what_is_masked_reaches_neither_value_nor_gradient(task: str, name: str) -> None:
    outputs, labels, mask = random_batch(task)
    loss = TASK_OPS[task].losses[name]
    value, jacobian = finite_everywhere(loss, outputs, labels, mask)
    row_mask = mask.any(axis=-1)
    dirty_outputs = np.where(row_mask[..., None], outputs, np.float32(1e30))
    dirty_labels = np.where(mask, labels, np.float32(-1e30))
    dirty_value, dirty_jacobian = finite_everywhere(loss, dirty_outputs, dirty_labels, mask)
    np.testing.assert_array_equal(value, dirty_value)
    np.testing.assert_array_equal(jacobian, dirty_jacobian)
    assert not jacobian[:, ~row_mask].any()


@pytest.mark.parametrize(("task", "name"), EVERY_LOSS)
def test_vmap_over_replicas_equals_a_loop(task: str, name: str) -> None:
    outputs, labels, mask = (jnp.asarray(part) for part in random_batch(task))
    loss = TASK_OPS[task].losses[name]
    outputs_R = jnp.stack([outputs, -outputs, jnp.zeros_like(outputs)])
    mask_R = jnp.stack([mask, mask, jnp.zeros_like(mask)])

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None, 0))
    def replicas(*parts: jax.Array) -> tuple[jax.Array, jax.Array]:
        return loss(*parts), jax.grad(lambda *a: loss(*a).sum())(*parts)

    together, gradients = replicas(outputs_R, labels, mask_R)
    assert np.isfinite(gradients).all()
    alone = compiled(loss)[0]
    for r in range(3):
        np.testing.assert_allclose(together[r], alone(outputs_R[r], labels, mask_R[r]), atol=1e-6)


@pytest.mark.parametrize("form", ["batch", "window"])
@pytest.mark.parametrize("label", [0.0, 0.1, -0.7, 1.0])
@pytest.mark.parametrize("spread", [0.0, 1e-30, 1e-12, 1e-8, 1e-6, 1e-3])
@pytest.mark.parametrize("offset", [0.0, 1e-7, 0.3])
def test_ccc_on_constant_targets_is_one_and_pushes_nowhere(
    form: str, label: float, spread: float, offset: float
) -> None:
    """Covariance with a constant is 0, so is the exact gradient; rounding must not blow up."""
    rng = np.random.default_rng(4)
    y = np.full((4, 25, 1), label, np.float32)
    x = (y + offset + spread * rng.normal(size=y.shape)).astype(np.float32)
    value, jacobian = finite_everywhere(CCC_FORMS[form], x, y, np.ones(y.shape, bool))
    np.testing.assert_allclose(value, [1.0], atol=2e-2)
    assert np.abs(jacobian).max() < 1.0


@pytest.mark.parametrize("form", ["batch", "window"])
@pytest.mark.parametrize("scale", [1e-20, 1e-12, 1e-6, 1.0, 1e6])
def test_ccc_gradient_is_finite_at_any_scale(form: str, scale: float) -> None:
    rng = np.random.default_rng(5)
    y = (scale * rng.normal(size=(4, 25, 2))).astype(np.float32)
    x = (scale * rng.normal(size=y.shape)).astype(np.float32)
    finite_everywhere(CCC_FORMS[form], x, y, np.ones(y.shape, bool))


@pytest.mark.parametrize("form", ["batch", "window"])
def test_ccc_gradient_is_finite_where_prediction_is_constant_but_labels_are_not(form: str) -> None:
    """The start of training with a zero-initialised head: gradient must exist and help."""
    y = np.random.default_rng(6).normal(size=(4, 25, 1)).astype(np.float32)
    x = np.zeros_like(y)
    loss = CCC_FORMS[form]
    value, jacobian = finite_everywhere(loss, x, y, np.ones(y.shape, bool))
    np.testing.assert_allclose(value, [1.0], atol=1e-6)
    stepped = compiled(loss)[0](x - 0.5 * jacobian[0], y, np.ones(y.shape, bool))
    assert stepped[0] < value[0]


def test_batch_and_window_forms_differ_and_are_equal_for_one_window() -> None:
    parts = random_batch("va")
    forms = [compiled(form)[0] for form in CCC_FORMS.values()]
    batch, window = (form(*parts) for form in forms)
    assert np.abs(batch - window).max() > 1e-3
    batch, window = (form(*(part[:1] for part in parts)) for form in forms)
    np.testing.assert_allclose(batch, window, atol=1e-6)


def test_unknown_form_is_refused() -> None:
    outputs, labels, mask = random_batch("va")
    with pytest.raises(ValueError, match="window"):
        losses.ccc_loss(outputs, labels, mask, form="video")


@pytest.mark.parametrize("logit", [-200.0, 200.0])
def test_extreme_logits_stay_finite(logit: float) -> None:
    yes = np.ones((1, 2, 1), bool)
    labels = np.array([[[0.0], [1.0]]], np.float32)
    value, _ = finite_everywhere(
        losses.binary_cross_entropy_loss, np.full((1, 2, 1), logit, np.float32), labels, yes
    )
    assert value[0] == pytest.approx(100.0)
    classes = np.array([[[logit, 0.0, -logit]] * 2], np.float32)
    value, _ = finite_everywhere(losses.cross_entropy_loss, classes, labels, yes)
    assert value[0] == pytest.approx(np.mean([200 - logit, 200]), rel=1e-6)


def test_action_units_are_masked_one_by_one() -> None:
    outputs, labels, mask = random_batch("au")
    value, jacobian = finite_everywhere(losses.binary_cross_entropy_loss, outputs, labels, mask)
    mask[..., 3] = False
    masked, _ = finite_everywhere(losses.binary_cross_entropy_loss, outputs, labels, mask)
    others = np.arange(12) != 3
    np.testing.assert_array_equal(masked[others], value[others])
    assert masked[3] == 0
    for c in range(12):
        assert not jacobian[c][..., np.arange(12) != c].any()
