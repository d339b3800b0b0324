"""RJCMA as training and evaluation see it: streams in, predictions out, nothing from padding."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from emojax.errors import InputError
from emojax.models import build_model
from emojax.models.rjcma import VARIANTS
from tests.applying import run as jitted
from tests.refusals import refused_by_model
from tests.registering import registered

KEY = jax.random.key(0)
WIDTHS = {"ir50": 6, "vggish": 3, "bert": 5, "eda": 2, "logmel": 4}
WINDOW, BATCH = 12, 3
Variables = Any


def build(**fields: Any) -> nn.Module:
    """Returns a small model of the streams' first three, without dropout unless asked for."""
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
    (outputs, aux), _ = jitted(
        model, variables, streams, masks, train=train, mutable=["batch_stats"]
    )
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


# ---- padding ------------------------------------------------------------------------------


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


def test_without_recursions_it_is_its_encoders_and_heads() -> None:
    """An attention that adds nothing, as every fresh one of the paper variant, leaves the rest."""
    streams, masks = data()
    many, none = build(recursions=2), build(recursions=0)
    variables = many.init(KEY, streams, masks, train=False)
    params = variables["params"]
    kept = {name: leaf for name, leaf in params.items() if not name.startswith("recursion")}
    assert len(kept) == len(params) - 2
    expected = apply(many, variables, streams, masks)["va"]
    found = apply(none, {**variables, "params": kept}, streams, masks)["va"]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert not none.mechanisms()


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


def test_a_window_longer_than_k_is_refused() -> None:
    assert refused_by_model(build(), *data(steps=WINDOW + 3)) == "model.window"


def test_missing_unknown_and_ragged_streams_are_refused() -> None:
    model = build()
    streams, masks = data()
    assert refused_by_model(model, {n: streams[n] for n in ("ir50", "bert")}, masks) == "vggish"
    extra_streams, extra_masks = data((*streams, "eda"))
    assert refused_by_model(model, extra_streams, extra_masks) == "eda"
    assert refused_by_model(model, streams, {n: masks[n] for n in ("ir50", "bert")}) == "vggish"
    assert refused_by_model(model, streams | {"bert": streams["bert"][:, :-1]}, masks) == "bert"


@pytest.mark.parametrize("temporal", ["tcn", "lstm", "none"])
def test_streams_of_another_width_are_refused(temporal: str) -> None:
    model = build(temporal=temporal)
    streams, masks = data()
    variables = randomised(model, streams, masks)
    streams["vggish"] = streams["vggish"][..., :-1]
    with pytest.raises(InputError) as caught:
        jax.eval_shape(lambda: apply(model, variables, streams, masks))
    assert "vggish of width 2" in caught.value.details["found"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"variant": "upstrem"}, "model.variant"),
        ({"temporal": "gru"}, "model.temporal"),
        ({"fused_temporal": "mean"}, "model.fused_temporal"),
        ({"heads": "shared"}, "model.heads"),
        ({"output": "relu"}, "model.output"),
        ({"dropout": 1.0}, "model.dropout"),
        ({"temporal_dropout": -0.1}, "model.temporal_dropout"),
        ({"recursions": -1}, "model.recursions"),
        ({"window": 0}, "model.window"),
        ({"channels": {"ir50": (4,)}}, "model.channels.vggish"),
        ({"channels": dict.fromkeys(WIDTHS, ())}, "model.channels.ir50"),
        ({"channels": dict.fromkeys(WIDTHS, (4, 0))}, "model.channels.ir50"),
        ({"kernel_size": 0}, "model.kernel_size"),
        ({"causal": False, "kernel_size": 4}, "model.kernel_size"),
        (
            {"causal": False, "temporal": "lstm", "channels": dict.fromkeys(WIDTHS, (5,))},
            "model.channels.ir50",
        ),
        ({"streams": ()}, "model.streams"),
        ({"outputs": {}}, "model.outputs"),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, Any], field: str) -> None:
    assert refused_by_model(build(**fields), *data()) == field


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
