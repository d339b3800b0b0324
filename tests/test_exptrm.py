"""ExpTrm as training and evaluation see it: streams in, predictions out, nothing from padding."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from configs import exptrm as configs
from emojax.core.session import build_session
from emojax.errors import InputError
from emojax.models import build_model
from emojax.models.exptrm import stack_context
from emojax.specs import STREAMS
from tests.applying import run as jitted
from tests.refusals import refused_by_model

KEY = jax.random.key(0)
WIDTHS = {"vggface": 6, "compare_lld": 3, "eda": 2}
NAMES = ("vggface", "compare_lld")
ROWS = {"compare_lld": 2}
WINDOW, BATCH = 10, 3
Variables = Any


def build(**fields: Any) -> nn.Module:
    """Returns a small model of two streams, without dropout unless asked for."""
    small: dict[str, Any] = {
        "streams": NAMES, "window": WINDOW, "stacked_width": 16, "width": 8, "layers": 1,
        "attention_heads": 2, "hidden": 6, "dropout": 0.0,
    }  # fmt: skip
    fields = small | fields
    fields.setdefault("context", {n: r for n, r in ROWS.items() if n in fields["streams"]})
    return build_model("exptrm", fields.pop("outputs", {"va": 2}), **fields)


def data(
    names: tuple[str, ...] = NAMES, steps: int = WINDOW, seed: int = 0
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    shape = {n: (BATCH, steps + 2 * ROWS.get(n, 0)) for n in names}
    streams = {n: rng.normal(size=(*shape[n], WIDTHS[n])).astype(np.float32) for n in names}
    return streams, {n: np.ones(shape[n], bool) for n in names}


def masks_of(mask_BT: np.ndarray, names: tuple[str, ...] = NAMES) -> dict[str, np.ndarray]:
    """Returns the same frames real in every stream, and no real row in the context."""
    return {n: np.pad(mask_BT, ((0, 0), (ROWS.get(n, 0),) * 2)) for n in names}


def randomised(model: nn.Module, streams: Any, masks: Any, seed: int = 1) -> Variables:
    """Variables of the right shapes that are not the initialiser's."""
    shapes = jax.eval_shape(lambda key: model.init(key, streams, masks, train=False), KEY)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: 0.4 * rng.normal(size=s.shape).astype(np.float32), shapes)


def run(model: nn.Module, variables: Variables, streams: Any, masks: Any, **options: Any) -> Any:
    """Returns predictions of every task."""
    outputs, aux = jitted(model, variables, streams, masks, **({"train": False} | options))
    assert aux == {"losses": {}}
    return outputs


# ---- streams ------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("vggface",), ("compare_lld",), NAMES, tuple(WIDTHS)])
def test_any_streams_in_any_order(names: tuple[str, ...]) -> None:
    """Neither the order of the batch nor that of the model's field changes a bit."""
    streams, masks = data(names)
    variables = randomised(build(streams=names), streams, masks)
    assert set(variables["params"]) == {
        "head_va",
        *(f"{part}_{name}" for name in names for part in ("projection", "encoder")),
        *(f"cross_{a}_{b}" for a in names for b in names if a != b),
        *(f"weight_{a}_{b}" for a in names for b in names if a != b),
    }
    outputs = run(build(streams=names), variables, streams, masks)["va"]
    assert outputs.shape == (BATCH, WINDOW, 2)
    assert outputs.dtype == jnp.float32
    reverse = {name: streams[name] for name in reversed(names)}
    other = run(build(streams=names[::-1]), variables, reverse, masks)["va"]
    np.testing.assert_array_equal(other, outputs)


@pytest.mark.parametrize(("rows", "width"), [(0, 0), (2, 0), (3, 30), (1, 4)])
def test_stacking_is_a_loop_over_frames(rows: int, width: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 6 + 2 * rows, 3)).astype(np.float32)
    mask = rng.uniform(size=x.shape[:2]) < 0.7
    poisoned = np.where(mask[..., None], x, np.nan)
    stacked = np.asarray(stack_context(poisoned, mask, rows, width))
    assert stacked.shape == (2, 6, max(width, (2 * rows + 1) * 3))
    for b in range(2):
        for t in range(6):
            parts = [x[b, t + i] * mask[b, t + i] for i in range(2 * rows + 1)]
            expected = np.zeros(stacked.shape[-1])
            expected[: (2 * rows + 1) * 3] = np.concatenate(parts)
            np.testing.assert_array_equal(stacked[b, t], expected)


def test_a_model_without_context_takes_streams_already_stacked() -> None:
    """A study can so remove stacked frames at the model's input."""
    streams, masks = data()
    model = build()
    variables = randomised(model, streams, masks)
    rows = ROWS["compare_lld"]
    stacked = stack_context(streams["compare_lld"], masks["compare_lld"], rows, 16)
    bare = model.clone(context={})
    outputs = run(
        bare,
        variables,
        streams | {"compare_lld": stacked},
        masks | {"compare_lld": masks["compare_lld"][:, rows:-rows]},
    )
    np.testing.assert_array_equal(outputs["va"], run(model, variables, streams, masks)["va"])


def test_the_two_weights_scale_the_two_attentions_and_are_learned() -> None:
    """F = alpha A + beta V: squared error is quadratic in them, so one Newton step fits them."""
    streams, masks = data()
    model = build()
    variables = randomised(model, streams, masks)
    names = ("weight_compare_lld_vggface", "weight_vggface_compare_lld")

    @jax.jit
    def predict(weights_2: jax.Array) -> jax.Array:
        scalars = dict(zip(names, weights_2, strict=True))
        return run(model, {"params": variables["params"] | scalars}, streams, masks)["va"]

    target = predict(jnp.array([1.3, -0.4]))
    bias = variables["params"]["head_va"]["output"]["bias"]
    np.testing.assert_allclose(
        predict(jnp.zeros(2)), np.broadcast_to(bias, target.shape), rtol=1e-6
    )
    error = lambda w: jnp.mean((predict(w) - target) ** 2)  # noqa: E731
    start = jnp.full(2, 0.5)
    gradient, hessian = jax.grad(error)(start), jax.hessian(error)(start)
    assert np.all(gradient != 0)
    fitted = start - jnp.linalg.solve(hessian, gradient)
    np.testing.assert_allclose(fitted, [1.3, -0.4], atol=1e-3)
    fresh = jax.jit(functools.partial(model.init, train=False))(KEY, streams, masks)["params"]
    assert [float(fresh[name]) for name in names] == [0.5, 0.5]


def test_audio_queries_attend_to_the_visual_stream() -> None:
    """Alpha's attention alone: its values are visual, so it is constant if they are."""
    streams, masks = data()
    model = build(width=4, attention_heads=1)
    variables = randomised(model, streams, masks)
    params = variables["params"] | {"weight_vggface_compare_lld": np.float32(0)}
    for stream, constant in (("vggface", True), ("compare_lld", False)):
        # The last normalisation of that encoder outputs its bias only.
        encoder = dict(params[f"encoder_{stream}"])
        layer = dict(encoder["layer_0"])
        layer["feed_norm"] = layer["feed_norm"] | {"scale": np.zeros(4, np.float32)}
        changed = params | {f"encoder_{stream}": encoder | {"layer_0": layer}}
        outputs = np.asarray(run(model, {"params": changed}, streams, masks)["va"])
        spread = np.ptp(outputs, axis=1).max()
        # Constant queries too attend alike in every frame, so the window has to be changed.
        other = np.asarray(run(model, {"params": changed}, data(seed=9)[0], masks)["va"])
        assert bool(np.abs(outputs - other).max() < 1e-5) is constant
        assert spread < 1e-5


# ---- gates --------------------------------------------------------------------------------


def gated(fields: Any, params: Any, gate: Any) -> Any:
    """Returns the gated model's variables for those of a model with alpha and beta."""
    kept = {name: leaf for name, leaf in params.items() if not name.startswith("weight_")}
    return build(fusion="gates", **fields), {"params": kept | {"gate": gate}}


def test_constant_gates_are_alpha_and_beta() -> None:
    streams, masks = data()
    params = randomised(build(), streams, masks)["params"]
    weights = {"weight_compare_lld_vggface": 0.8, "weight_vggface_compare_lld": 0.3}
    expected = run(build(), {"params": params | weights}, streams, masks)["va"]
    logits_2 = np.log([0.8 / 0.2, 0.3 / 0.7]).astype(np.float32)
    model, variables = gated(
        {}, params, {"kernel": np.zeros((16, 2), np.float32), "bias": logits_2}
    )
    np.testing.assert_allclose(run(model, variables, streams, masks)["va"], expected, atol=1e-6)
    # A fresh model is the paper's, with all gates one half.
    init = jax.jit(functools.partial(model.init, train=False))
    fresh = init(KEY, streams, masks)["params"]["gate"]
    np.testing.assert_array_equal(fresh["kernel"], np.zeros((16, 2)))
    np.testing.assert_array_equal(fresh["bias"], np.zeros(2))


def test_gates_are_sigmoids_of_both_attentions_frame_by_frame() -> None:
    """Against float64 NumPy, from the two attentions that the model computes."""
    streams, masks = data()
    rng = np.random.default_rng(3)
    names = ("cross_compare_lld_vggface", "cross_vggface_compare_lld")
    params = randomised(build(), streams, masks)["params"]
    # Sharp attention, which differs from frame to frame.
    params |= {name: jax.tree.map(lambda leaf: 4 * leaf, params[name]) for name in names}
    kernel = 0.1 * rng.normal(size=(16, 2)).astype(np.float32)
    gate = {"kernel": kernel, "bias": np.float32([0.5, -1.0])}
    model, variables = gated({}, params, gate)
    apply = jax.jit(
        lambda v: model.apply(
            v, streams, masks, train=False, capture_intermediates=lambda m, _: m.name in names
        )
    )
    (outputs, _), state = apply(variables)
    found = state["intermediates"]
    attended = [np.asarray(found[name]["__call__"][0], np.float64) for name in names]
    logits_BTP = np.concatenate(attended, axis=-1) @ gate["kernel"] + gate["bias"]
    gates_BTP = 1 / (1 + np.exp(-logits_BTP))
    np.testing.assert_allclose(found["gates"][0], gates_BTP, atol=1e-4)
    assert np.ptp(gates_BTP, axis=1).max() > 0.05
    fused_BTD = sum(gates_BTP[..., p, None] * attended[p] for p in range(2))
    head = variables["params"]["head_va"]["output"]
    expected = fused_BTD @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(outputs["va"], expected, atol=1e-4)


@pytest.mark.slow
def test_gates_learn_when_a_stream_is_to_be_trusted() -> None:
    """Vision is noise in half of the frames and audio alone says which: alpha and beta cannot."""
    rng = np.random.default_rng(0)
    length, count = 8, 32
    good_BT = rng.random((count, length)) < 0.5
    target_BT = rng.normal(size=(count, length))
    visual = np.where(good_BT, target_BT, rng.normal(size=(count, length)))
    streams = {
        "vggface": np.stack([visual, np.ones_like(visual)], axis=-1).astype(np.float32),
        "compare_lld": np.stack([good_BT, ~good_BT], axis=-1).astype(np.float32),
    }
    masks = {name: np.ones((count, length), bool) for name in streams}
    wanted = np.where(good_BT, target_BT, 0.0).astype(np.float32)
    errors = {}
    for fusion in ("weights", "gates"):
        model = build(fusion=fusion, context={}, window=length, width=16, hidden=16)
        params = jax.jit(functools.partial(model.init, train=False))(KEY, streams, masks)["params"]
        optimiser = optax.adam(5e-3)

        def loss(params: Any, model: nn.Module = model) -> jax.Array:
            outputs, _ = model.apply({"params": params}, streams, masks, train=False)
            return jnp.mean((outputs["va"][..., 0] - wanted) ** 2)

        first = jax.jit(jax.grad(loss))(params)
        if fusion == "gates":
            assert all(np.any(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(first["gate"]))

        @jax.jit
        def train(params: Any, loss: Any = loss, optimiser: Any = optimiser) -> Any:
            def step(carry: Any, _: Any) -> Any:
                params, state = carry
                updates, state = optimiser.update(jax.grad(loss)(params), state)
                return (optax.apply_updates(params, updates), state), None

            return jax.lax.scan(step, (params, optimiser.init(params)), None, length=200)[0][0]

        trained = train(params)
        errors[fusion] = float(loss(trained))
        if fusion == "gates":
            still = trained | {"gate": jax.tree.map(jnp.zeros_like, trained["gate"])}
            errors["still"] = float(loss(still))
    assert errors["gates"] < 0.5 * errors["weights"]
    assert errors["gates"] < 0.1 * errors["still"]


# ---- padding ------------------------------------------------------------------------------


def test_a_frame_is_real_if_every_stream_says_so_and_missing_rows_count() -> None:
    model = build()
    streams, masks = data()
    variables = randomised(model, streams, masks)
    call = jax.jit(functools.partial(run, model))
    visual = masks["vggface"].copy()
    visual[:, 7:] = False
    one = call(variables, streams, masks | {"vggface": visual})["va"]
    audio = masks["compare_lld"].copy()
    audio[:, 9:] = False
    # Audio behind the last real frame is still its context.
    context = masks["compare_lld"].copy()
    context[:, 11:] = False
    both = call(variables, streams, {"vggface": visual, "compare_lld": context})["va"]
    np.testing.assert_array_equal(one[:, :7], both[:, :7])
    nothing = call(variables, streams, {"vggface": visual, "compare_lld": audio})["va"]
    assert not np.allclose(one[:, :7], nothing[:, :7])

    valid = {n: np.zeros_like(m) for n, m in masks.items()}
    ignored = model.apply(variables, streams, masks, valid=valid, train=False)[0]["va"]
    np.testing.assert_allclose(ignored, call(variables, streams, masks)["va"], rtol=1e-5, atol=1e-6)


# ---- heads and configurations -------------------------------------------------------------


def test_head_activation_is_for_continuous_tasks() -> None:
    streams, masks = data()
    outputs = {"va": 2, "expr": 8, "au": 12}
    plain = build(outputs=outputs)
    variables = randomised(plain, streams, masks)
    variables["params"]["head_va"]["output"]["kernel"] *= 5
    expected = run(plain, variables, streams, masks)
    assert {task: y.shape[-1] for task, y in expected.items()} == outputs
    assert np.any(expected["va"] < 0)
    for name, act in (("tanh", np.tanh), ("relu", lambda y: np.maximum(y, 0))):
        got = run(build(outputs=outputs, head_activation=name), variables, streams, masks)
        np.testing.assert_allclose(got["va"], act(expected["va"]), rtol=1e-5, atol=1e-6)
        for task in ("expr", "au"):
            np.testing.assert_array_equal(got[task], expected[task])
    per_target = randomised(build(heads="per_target", outputs=outputs), streams, masks)
    assert {"head_va_valence", "head_va_arousal", "head_expr", "head_au_AU1"} <= set(
        per_target["params"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("variant", configs.VARIANTS)
def test_every_variant_is_a_session(variant: str) -> None:
    session = build_session(configs.get_config(variant), STREAMS, jax.devices()[:1])
    lengths = session.window_spec.lengths
    streams = {
        n: jax.ShapeDtypeStruct((2, lengths[n], spec.width), jnp.float32)
        for n, spec in session.streams.items()
    }
    masks = {n: jax.ShapeDtypeStruct(x.shape[:2], jnp.bool_) for n, x in streams.items()}
    init = functools.partial(session.model.init, train=True)
    params = jax.eval_shape(init, {"params": KEY, "dropout": KEY}, streams, masks)["params"]
    if not variant.startswith("simulated"):
        for name in session.streams:
            # Both encoders see 4096 numbers a frame (section 4.4).
            assert params[f"projection_{name}"]["kernel"].shape == (4096, 512)


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(InputError, match=r"exptrm\.py") as caught:
        configs.get_config("simulate")
    assert "did you mean simulated?" in str(caught.value)


# ---- refusals -----------------------------------------------------------------------------


def test_streams_that_do_not_fit_are_refused() -> None:
    streams, masks = data()
    assert refused_by_model(build(), *data(steps=WINDOW + 3)) == "model.window"
    assert (
        refused_by_model(build(), {"vggface": streams["vggface"]}, {"vggface": masks["vggface"]})
        == "compare_lld"
    )
    # A stream whose context was not asked of the data.
    assert refused_by_model(build(context={}), streams, masks) == "compare_lld"
    assert (
        refused_by_model(build(context={"compare_lld": 7}), streams, masks)
        == "model.context.compare_lld"
    )
    variables = randomised(build(), streams, masks)
    narrow = streams | {"vggface": streams["vggface"][..., :-1]}
    with pytest.raises(InputError) as caught:
        jax.eval_shape(lambda: run(build(), variables, narrow, masks))
    assert "vggface of width 5" in caught.value.details["found"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"head_activation": "tahn"}, "model.head_activation"),
        ({"norm": "none"}, "model.norm"),
        ({"activation": "tanh"}, "model.activation"),
        ({"heads": "shared"}, "model.heads"),
        ({"dropout": 1.0}, "model.dropout"),
        ({"layers": 0}, "model.layers"),
        ({"attention_heads": 3}, "model.attention_heads"),
        ({"context": {"compare_ldl": 2}}, "model.context"),
        ({"context": {"compare_lld": -1}}, "model.context.compare_lld"),
        ({"streams": ()}, "model.streams"),
        ({"outputs": {}}, "model.outputs"),
        ({"fusion": "gate"}, "model.fusion"),
        ({"fusion": "gates", "streams": ("vggface",)}, "model.fusion"),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, Any], field: str) -> None:
    assert refused_by_model(build(**fields), *data()) == field
