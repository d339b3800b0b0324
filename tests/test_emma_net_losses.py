"""EMMA-Net: fusion weights, auxiliary losses and the shipped configurations."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.emma_net import VARIANTS, get_config
from emojax.core.session import build_session
from emojax.errors import InputError
from emojax.layers.recurrent import StackedGRU
from emojax.models.emma_net import FUSIONS
from emojax.specs import STREAMS, StreamSpec
from tests.emma_nets import (
    BATCH,
    KEY,
    NAMES,
    TICKS,
    WINDOW,
    apply,
    build,
    data,
    jit,
    losses_of,
    randomised,
)

# ---- weights ------------------------------------------------------------------------------


@pytest.mark.parametrize(("fusion", "causal"), [("attention", True), ("bilinear", False)])
def test_attention_weights_sum_to_one_over_the_rows_that_may_be_seen(
    fusion: str, causal: bool
) -> None:
    model = build(fusion=fusion, causal=causal)
    streams, masks = data(model)
    masks["deepspectrum"][1] = [False, True, True, False]
    masks["deepspectrum"][2] = False
    variables = randomised(model, streams, masks)
    _, _, sown = apply(model, variables, streams, masks)
    for name in model.streams:
        (weight_BTS,) = sown[f"weights_{name}"]
        last_S = (np.arange(WINDOW // TICKS[name]) + 1) * TICKS[name] - 1
        visible_TS = (last_S[None] <= np.arange(WINDOW)[:, None]) | (not causal)
        allowed_BTS = masks[name][:, None] & visible_TS[None]
        assert np.all((np.asarray(weight_BTS) > 0) == allowed_BTS)
        np.testing.assert_allclose(weight_BTS.sum(-1), allowed_BTS.any(-1), atol=1e-6)


def test_scalar_weights_start_equal_and_sum_to_one_and_gates_are_open_intervals() -> None:
    model = build(fusion="additive", streams=NAMES)
    streams, masks = data(model)
    fresh = jit(functools.partial(model.init, train=False))(KEY, streams, masks)
    (weight_M,) = apply(model, fresh, streams, masks)[2]["weights"]
    np.testing.assert_allclose(weight_M, 1 / 3, rtol=1e-6)
    assert "intermediates" not in fresh
    (weight_M,) = apply(model, randomised(model, streams, masks), streams, masks)[2]["weights"]
    assert np.ptp(weight_M) > 0.01
    np.testing.assert_allclose(np.sum(weight_M), 1, rtol=1e-6)

    model = build(fusion="gating")
    streams, masks = data(model)
    sown = apply(model, randomised(model, streams, masks), streams, masks)[2]
    for name in model.streams:
        (gate_BTH,) = sown[f"gates_{name}"]
        assert gate_BTH.shape == (BATCH, WINDOW, 4)
        assert 0 < np.min(gate_BTH) < 0.4 < 0.6 < np.max(gate_BTH) < 1


# ---- auxiliary losses ---------------------------------------------------------------------


def test_losses_are_their_equations_and_leave_with_their_weights() -> None:
    fields = {"fusion": "concat", "outputs": {"expr": 8, "au": 3, "va": 2}}
    model = build(**fields, reconstruction_weight=0.25, smoothness_weight=2.0)
    streams, masks = data(model)
    masks["fan"][1, 5] = False
    masks["fan"][2, 7:] = False
    masks["deepspectrum"][0, :2] = False
    variables = randomised(model, streams, masks)
    outputs, aux, _ = apply(model, variables, streams, masks)

    decode = {
        "expr": lambda y: np.exp(y) / np.exp(y).sum(-1, keepdims=True),
        "au": lambda y: 1 / (1 + np.exp(-y)),
        "va": lambda y: y,
    }
    expected = 0.0
    for task, output_BTC in outputs.items():
        values_BTC, changes = decode[task](np.asarray(output_BTC, np.float64)), []
        for b in range(BATCH):
            changes += [
                np.abs(values_BTC[b, t] - values_BTC[b, t - 1]).sum()
                for t in range(1, WINDOW)
                if masks["fan"][b, t - 1] and masks["fan"][b, t]
            ]
        expected += np.mean(changes)
    np.testing.assert_allclose(losses_of(aux)["smoothness"], 2 * expected, rtol=1e-5)
    shapes = {task: loss.shape for task, loss in aux["target_losses"]["smoothness"].items()}
    assert shapes == {"expr": (1,), "au": (3,), "va": (2,)}

    # z of "concat" is [f_c; H_fan; H_deepspectrum] at the anchors: decode it by hand.
    capture = functools.partial(
        model.apply, train=False, mutable=["intermediates"],
        capture_intermediates=lambda module, _: isinstance(module, StackedGRU),
    )  # fmt: skip
    _, state = jit(capture)(variables, streams, masks)
    rows = {
        name: np.repeat(state["intermediates"][f"encoder_{name}"]["__call__"][0], ticks, axis=1)
        for name, ticks in (("fan", 1), ("deepspectrum", 3))
    }
    z_BTZ = np.concatenate(
        [np.where(masks["fan"][..., None], streams["fan"], 0), *rows.values()], axis=-1
    )
    real = {"fan": masks["fan"], "deepspectrum": np.repeat(masks["deepspectrum"], 3, axis=1)}
    expected = 0.0
    for name, row_BTH in rows.items():
        decoder = variables["params"][f"reconstruction_{name}"]
        error_BTH = z_BTZ @ decoder["kernel"] + decoder["bias"] - row_BTH
        expected += np.mean(np.asarray(error_BTH, np.float64)[masks["fan"] & real[name]] ** 2)
    np.testing.assert_allclose(aux["losses"]["reconstruction"], 0.25 * expected, rtol=1e-5)


def test_losses_of_weight_zero_are_not_there() -> None:
    for weights, names in (
        ((0.0, 0.0), set()),
        ((0.5, 0.0), {"reconstruction"}),
        ((0.0, 0.5), {"smoothness"}),
    ):
        model = build(reconstruction_weight=weights[0], smoothness_weight=weights[1])
        streams, masks = data(model)
        init = functools.partial(model.init_with_output, train=False)
        (_, aux), variables = jax.eval_shape(init, KEY, streams, masks)
        assert {*aux["losses"], *aux["target_losses"]} == names
        decoders = any(name.startswith("reconstruction") for name in variables["params"])
        assert decoders == ("reconstruction" in names)


def test_a_collapse_of_the_encoders_does_not_pay() -> None:
    """With z fixed, what is reconstructed has no gradient: it cannot move to meet the decoder."""
    model = build(fusion="current_face")
    assert "reconstruction" not in _losses(model)
    # In "video_only" z is H_f: against a decoder of zeros only the target could be shrunk.
    model = build(fusion="video_only", reconstruction_weight=1.0, smoothness_weight=0.0)
    streams, masks = data(model)
    variables = randomised(model, streams, masks)
    for leaf in variables["params"]["reconstruction_fan"].values():
        leaf[:] = 0

    def loss(params: Any) -> Any:
        return model.apply({"params": params}, streams, masks, train=True)[1]["losses"]

    value, gradients = jit(jax.value_and_grad(lambda p: loss(p)["reconstruction"]))(
        variables["params"]
    )  # fmt: skip
    assert value > 0.01
    for leaf in jax.tree.leaves(gradients["encoder_fan"]):
        np.testing.assert_array_equal(leaf, 0.0)
    assert np.any(gradients["reconstruction_fan"]["bias"] != 0)


def _losses(model: Any) -> Any:
    streams, masks = data(model)
    init = functools.partial(model.init_with_output, train=False)
    return jax.eval_shape(init, KEY, streams, masks)[0][1]["losses"]


# ---- configurations -----------------------------------------------------------------------


@pytest.mark.nightly
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_configuration_builds_its_model(variant: str) -> None:
    config = get_config(variant)
    specs = STREAMS | {name: StreamSpec(name, 768, "text") for name in ("roberta", "wav2vec2")}
    session = build_session(config, specs, devices=jax.devices()[:1])
    spec, model = session.window_spec, session.model
    streams = {
        name: jax.ShapeDtypeStruct((2, length, specs[name].width), jnp.float32)
        for name, length in spec.lengths.items()
    }
    masks = {name: jax.ShapeDtypeStruct(x.shape[:2], jnp.bool_) for name, x in streams.items()}
    init = functools.partial(model.init_with_output, train=False)
    (outputs, _), variables = jax.eval_shape(init, KEY, streams, masks)
    assert set(outputs) == set(config.data.tasks)
    assert all(x.shape[:2] == (2, config.data.window) for x in outputs.values())
    encoders = {name for name in variables["params"] if name.startswith("encoder")}
    fusion = FUSIONS[config.model.fusion]
    assert len(encoders) == {"all": len(spec.streams), "anchor": 1, "none": 0}[fusion.reads]


def test_the_configuration_is_the_papers() -> None:
    config = get_config()
    session = build_session(config, STREAMS, devices=jax.devices()[:1])
    assert session.window_spec.lengths == {"fan": 36, "deepspectrum": 12, "openpose": 12}
    assert session.model.ticks == {"fan": 1, "deepspectrum": 3, "openpose": 3}
    for rows in (6, 9, 15, 18):
        spec = build_session(get_config(f"t{rows}"), STREAMS, jax.devices()[:1]).window_spec
        assert spec.lengths == {"fan": 3 * rows, "deepspectrum": rows, "openpose": rows}
    assert get_config("causal").data.scored == "last"
    with pytest.raises(InputError, match="variant"):
        get_config("gated")
