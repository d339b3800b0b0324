"""RJCMA as training and evaluation see it: streams in, predictions out, nothing from padding."""

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
from emojax.models import build_model
from emojax.models.rjcma import VARIANTS
from tests.registering import registered

KEY = jax.random.key(0)
WIDTHS = {"ir50": 6, "vggish": 3, "bert": 5, "eda": 2, "logmel": 4}
WINDOW, BATCH = 12, 3
Variables = Any


def build(**fields: Any) -> nn.Module:
    """A small model of the streams' first three, without dropout unless asked for."""
    small: dict[str, Any] = {
        "window": WINDOW, "head_width": 8, "dropout": 0.0, "temporal_dropout": 0.0,
        "kernel_size": 3, "recursions": 2, "channels": dict.fromkeys(WIDTHS, (4,)),
    }  # fmt: skip
    outputs = fields.pop("outputs", {"va": 2})
    return build_model("rjcma", outputs, **(small | fields))


def data(
    names: tuple[str, ...] = ("ir50", "vggish", "bert"), steps: int = WINDOW, seed: int = 0
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    streams = {n: rng.normal(size=(BATCH, steps, WIDTHS[n])).astype(np.float32) for n in names}
    return streams, {n: np.ones((BATCH, steps), bool) for n in names}


def randomised(model: nn.Module, streams: Any, masks: Any, seed: int = 1) -> Variables:
    """Variables of the right shapes that are not the initialiser's."""
    shapes = jax.eval_shape(lambda key: model.init(key, streams, masks, train=False), KEY)
    rng = np.random.default_rng(seed)
    drawn = jax.tree.map(lambda s: 0.3 * rng.normal(size=s.shape).astype(np.float32), shapes)
    drawn["batch_stats"] = jax.tree.map(np.abs, drawn.get("batch_stats", {}))
    return drawn


def apply(
    model: nn.Module, variables: Variables, streams: Any, masks: Any, train: bool = False
) -> dict[str, jax.Array]:
    (outputs, aux), _ = model.apply(variables, streams, masks, train=train, mutable=["batch_stats"])
    assert aux == {"losses": {}}
    return outputs


# ---- streams ------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_streams_in_any_order(variant: str, count: int) -> None:
    names = tuple(WIDTHS)[:count]
    model = build(variant=variant, streams=names, temporal="none")
    streams, masks = data(names)
    variables = randomised(model, streams, masks)
    run = jax.jit(functools.partial(apply, model))
    outputs = run(variables, streams, masks)["va"]
    assert outputs.shape == (BATCH, WINDOW, 2)
    assert outputs.dtype == jnp.float32
    reverse = {name: streams[name] for name in reversed(names)}
    np.testing.assert_array_equal(run(variables, reverse, masks)["va"], outputs)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_stream_and_every_parameter_matters(variant: str) -> None:
    model = build(variant=variant, temporal="tcn", fused_temporal="lstm")
    streams, masks = data()
    variables = randomised(model, streams, masks)
    weights = np.random.default_rng(2).normal(size=(BATCH, WINDOW, 2)).astype(np.float32)

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def gradient(params: Any, streams: Any) -> jax.Array:
        return jnp.sum(apply(model, variables | {"params": params}, streams, masks)["va"] * weights)

    for leaf in jax.tree.leaves(gradient(variables["params"], streams)):
        assert np.all(np.isfinite(leaf))
        assert np.any(leaf != 0)


# ---- padding ------------------------------------------------------------------------------


@functools.cache
def gradients_and_outputs(variant: str, temporal: str, train: bool) -> tuple[Any, Any]:
    """A compiled (params, streams, mask) -> (gradients, outputs), and parameters for it."""
    names = ("ir50", "vggish")
    model = build(variant=variant, temporal=temporal, causal=False, streams=names)
    streams, masks = data(names)
    variables = randomised(model, streams, masks)
    weights = np.random.default_rng(2).normal(size=(BATCH, WINDOW, 2)).astype(np.float32)

    def scalar(params: Any, streams: Any, mask: Any) -> Any:
        outputs = apply(
            model, variables | {"params": params}, streams, dict.fromkeys(streams, mask), train
        )["va"]
        return jnp.sum(jnp.where(mask[..., None], outputs * weights, 0.0)), outputs

    return jax.jit(jax.grad(scalar, argnums=(0, 1), has_aux=True)), variables["params"]


MASKS = st.lists(
    st.lists(st.booleans(), min_size=WINDOW, max_size=WINDOW), min_size=BATCH, max_size=BATCH
)


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("temporal", ["tcn", "lstm"])
@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=8, deadline=None, derandomize=True)
@example(mask=[[True] * WINDOW, [False] * WINDOW, [True] * 5 + [False] * 7], poison=np.nan)
@example(mask=[[False] * WINDOW] * BATCH, poison=np.nan)
@given(mask=MASKS, poison=st.sampled_from([1e3, -1e30, np.nan, np.inf]))
def test_padding_changes_no_real_frame(
    variant: str, temporal: str, train: bool, mask: list[list[bool]], poison: float
) -> None:
    """Masks of any form, also all padding; any content of padded frames, also NaN."""
    run, params = gradients_and_outputs(variant, temporal, train)
    streams, _ = data(("ir50", "vggish"))
    mask_BT = np.array(mask)
    poisoned = {n: np.where(mask_BT[..., None], x, np.float32(poison)) for n, x in streams.items()}

    clean_gradients, clean_outputs = run(params, streams, mask_BT)
    gradients, outputs = run(params, poisoned, mask_BT)
    np.testing.assert_array_equal(outputs, clean_outputs)
    assert np.all(np.isfinite(outputs))
    jax.tree.map(np.testing.assert_array_equal, gradients, clean_gradients)
    for leaf in jax.tree.leaves(gradients):
        assert np.all(np.isfinite(leaf))
    for gradient_BTD in gradients[1].values():
        np.testing.assert_array_equal(np.asarray(gradient_BTD)[~mask_BT], 0.0)


@pytest.mark.parametrize(("variant", "temporal"), [("paper", "tcn"), ("upstream", "lstm")])
def test_a_shorter_window_equals_one_padded_to_k(variant: str, temporal: str) -> None:
    model = build(variant=variant, temporal=temporal)
    streams, masks = data()
    variables = randomised(model, streams, masks)
    steps = WINDOW - 5
    mask_BT = np.broadcast_to(np.arange(WINDOW) < steps, (BATCH, WINDOW))
    run = jax.jit(functools.partial(apply, model))
    padded = run(variables, streams, dict.fromkeys(streams, mask_BT))["va"]
    cut = {name: x_BTD[:, :steps] for name, x_BTD in streams.items()}
    short = run(variables, cut, {name: m[:, :steps] for name, m in masks.items()})["va"]
    np.testing.assert_allclose(padded[:, :steps], short, rtol=1e-5, atol=1e-5)


def test_a_frame_is_real_if_every_stream_says_so() -> None:
    model = build(temporal="none")
    streams, masks = data()
    variables = randomised(model, streams, masks)
    run = jax.jit(functools.partial(apply, model))
    mask_BT = np.ones((BATCH, WINDOW), bool)
    mask_BT[:, 7:] = False
    one = run(variables, streams, masks | {"vggish": mask_BT})["va"]
    every = run(variables, streams, dict.fromkeys(streams, mask_BT))["va"]
    np.testing.assert_array_equal(one, every)


# ---- transformations ----------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_jit_is_eager_and_vmap_is_separate_and_one_trace(variant: str) -> None:
    model = build(variant=variant, temporal="none")
    streams, masks = data()
    replicas = [randomised(model, streams, masks, seed) for seed in (1, 2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *replicas)
    traces = 0

    def run(variables: Variables, streams: Any, masks: Any) -> jax.Array:
        nonlocal traces
        traces += 1
        return apply(model, variables, streams, masks, train=True)["va"]

    eager = [run(variables, streams, masks) for variables in replicas]
    traces = 0
    jitted = jax.jit(run)
    for variables, expected in zip(replicas, eager, strict=True):
        got = jitted(variables, streams, masks)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    jitted(replicas[0], *data(seed=5))
    assert traces == 1
    together = jax.jit(jax.vmap(run, in_axes=(0, None, None)))(stacked, streams, masks)
    np.testing.assert_allclose(together, jnp.stack(eager), rtol=1e-4, atol=1e-5)


def test_dropout_and_running_statistics_only_in_training() -> None:
    model = build(dropout=0.5, temporal_dropout=0.5)
    streams, masks = data()
    variables = randomised(model, streams, masks)

    @functools.partial(jax.jit, static_argnames="train")
    def run(key: jax.Array, train: bool) -> Any:
        (outputs, _), updated = model.apply(
            variables, streams, masks, train=train, rngs={"dropout": key}, mutable=["batch_stats"]
        )
        return outputs["va"], updated["batch_stats"]

    first, stats = run(KEY, train=True)
    again, _ = run(KEY, train=True)
    other, _ = run(jax.random.key(1), train=True)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), stats, variables["batch_stats"])
    assert all(jax.tree.leaves(moved))

    first, stats = run(KEY, train=False)
    other, _ = run(jax.random.key(1), train=False)
    np.testing.assert_array_equal(first, other)
    jax.tree.map(np.testing.assert_array_equal, stats, variables["batch_stats"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_bfloat16_computes_near_float32_and_keeps_float32_parameters(variant: str) -> None:
    streams, masks = data()
    outputs = {}
    for dtype in ("float32", "bfloat16"):
        model = build(variant=variant, dtype=dtype)
        variables = randomised(model, streams, masks)
        outputs[dtype] = jax.jit(functools.partial(apply, model))(variables, streams, masks)["va"]
        assert outputs[dtype].dtype == jnp.float32
        init = functools.partial(model.init, train=False)
        for leaf in jax.tree.leaves(jax.eval_shape(init, KEY, streams, masks)):
            assert leaf.dtype == jnp.float32
    np.testing.assert_allclose(outputs["bfloat16"], outputs["float32"], rtol=0.1, atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "count"), [("paper", 13_743_266), ("upstream", 11_814_122)])
def test_paper_widths_build(variant: str, count: int) -> None:
    model = build_model("rjcma", {"va": 2}, variant=variant)
    widths = {"ir50": 512, "vggish": 128, "bert": 768}
    streams = {n: jax.ShapeDtypeStruct((12, 300, d), jnp.float32) for n, d in widths.items()}
    masks = dict.fromkeys(widths, jax.ShapeDtypeStruct((12, 300), jnp.bool_))
    variables = jax.eval_shape(functools.partial(model.init, train=True), KEY, streams, masks)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == count
    recursions = [name for name in variables["params"] if name.startswith("recursion")]
    assert len(recursions) == VARIANTS[variant].recursions


# ---- heads --------------------------------------------------------------------------------


def test_heads_per_target_are_separate_models_and_joint_is_one() -> None:
    streams, masks = data()
    model = build(temporal="none", outputs={"va": 2, "expr": 8, "au": 12})
    variables = randomised(model, streams, masks)
    outputs = apply(model, variables, streams, masks)
    assert {task: x.shape[-1] for task, x in outputs.items()} == {"va": 2, "expr": 8, "au": 12}
    heads = {name for name in variables["params"] if name.startswith("head")}
    assert {"head_va_valence", "head_va_arousal", "head_expr", "head_au_AU1"} <= heads
    assert len(heads) == 2 + 1 + 12

    def valence(params: Any) -> jax.Array:
        outputs = apply(model, variables | {"params": params}, streams, masks)
        return jnp.sum(outputs["va"][..., 0])

    gradients = jax.jit(jax.grad(valence))(variables["params"])
    for leaf in jax.tree.leaves(gradients["head_va_arousal"]):
        np.testing.assert_array_equal(leaf, 0.0)
    assert np.any(gradients["head_va_valence"]["output"]["kernel"] != 0)

    joint = build(temporal="none", heads="joint")
    heads = [n for n in randomised(joint, streams, masks)["params"] if n.startswith("head")]
    assert heads == ["head_va"]


def test_tanh_bounds_continuous_tasks_only() -> None:
    streams, masks = data()
    streams = {name: 100 * x_BTD for name, x_BTD in streams.items()}
    model = build(temporal="none", output="tanh", outputs={"va": 2, "expr": 8})
    outputs = apply(model, randomised(model, streams, masks), streams, masks)
    assert np.all(np.abs(outputs["va"]) <= 1)
    assert np.any(np.abs(outputs["expr"]) > 1)


# ---- refusals -----------------------------------------------------------------------------


def refusal(model: nn.Module, streams: Any, masks: Any) -> str:
    """The error met while tracing; nothing is computed."""
    with pytest.raises(InputError) as caught:
        jax.eval_shape(lambda: model.init(KEY, streams, masks, train=False))
    return str(caught.value)


def test_a_window_longer_than_k_is_refused() -> None:
    text = refusal(build(), *data(steps=WINDOW + 3))
    assert "model.window" in text
    assert "15 frames" in text
    assert "K = 12" in text


def test_missing_unknown_and_ragged_streams_are_refused() -> None:
    model = build()
    streams, masks = data()
    text = refusal(model, {n: streams[n] for n in ("ir50", "bert")}, masks)
    assert "field:    vggish" in text
    extra_streams, extra_masks = data((*streams, "eda"))
    assert "field:    eda" in refusal(model, extra_streams, extra_masks)
    assert "vggish" in refusal(model, streams, {n: masks[n] for n in ("ir50", "bert")})
    text = refusal(model, streams | {"bert": streams["bert"][:, :-1]}, masks)
    assert "field:    bert" in text
    assert "same frames" in text


@pytest.mark.parametrize("temporal", ["tcn", "lstm", "none"])
def test_streams_of_another_width_are_refused(temporal: str) -> None:
    model = build(temporal=temporal)
    streams, masks = data()
    variables = randomised(model, streams, masks)
    streams["vggish"] = streams["vggish"][..., :-1]
    with pytest.raises(InputError, match="widths") as caught:
        jax.eval_shape(lambda: apply(model, variables, streams, masks))
    assert "vggish of width 2" in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"variant": "upstrem"}, ["model.variant", "did you mean upstream?"]),
        ({"temporal": "gru"}, ["model.temporal", "tcn, lstm, none"]),
        ({"fused_temporal": "mean"}, ["model.fused_temporal"]),
        ({"heads": "shared"}, ["model.heads", "per_target, joint"]),
        ({"output": "relu"}, ["model.output", "linear, tanh"]),
        ({"dropout": 1.0}, ["model.dropout", "1.0"]),
        ({"temporal_dropout": -0.1}, ["model.temporal_dropout"]),
        ({"recursions": 0}, ["model.recursions", "at least 1"]),
        ({"window": 0}, ["model.window", "at least 1"]),
        ({"channels": {"ir50": (4,)}}, ["model.channels.vggish"]),
        ({"channels": dict.fromkeys(WIDTHS, ())}, ["model.channels.ir50", "at least 1"]),
        ({"channels": dict.fromkeys(WIDTHS, (4, 0))}, ["model.channels.ir50", "at least 1"]),
        ({"kernel_size": 0}, ["model.kernel_size", "at least 1"]),
        ({"causal": False, "kernel_size": 4}, ["model.kernel_size", "odd"]),
        (
            {"causal": False, "temporal": "lstm", "channels": dict.fromkeys(WIDTHS, (5,))},
            ["model.channels.ir50", "even"],
        ),
        ({"streams": ()}, ["model.streams"]),
        ({"outputs": {}}, ["model.outputs"]),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, Any], words: list[str]) -> None:
    text = refusal(build(**fields), *data())
    for word in words:
        assert word in text


def test_build_model_knows_names_and_fields() -> None:
    with pytest.raises(InputError, match="no model") as caught:
        build_model("rjmca", {"va": 2})
    assert "did you mean rjcma?" in str(caught.value)
    with pytest.raises(InputError, match="no such field") as caught:
        build_model("rjcma", {"va": 2}, recursion=3)
    assert "did you mean recursions?" in str(caught.value)
    model = build_model("rjcma", {"va": 2}, streams=["ir50"], channels={"ir50": [4, 4]})
    assert model.streams == ("ir50",)
    assert model.channels["ir50"] == (4, 4)


def test_build_model_names_a_missing_field() -> None:
    class Needy(nn.Module):
        outputs: dict[str, int]
        streams: tuple[str, ...]
        size: int

    with registered("needy", Needy):
        assert build_model("needy", {"va": 2}, streams=(), size=3).size == 3
        with pytest.raises(InputError, match="one more field") as caught:
            build_model("needy", {"va": 2}, streams=())
    assert caught.value.details["field"] == "model.size"
