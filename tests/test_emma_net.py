"""EMMA-Net: rates, causality, padding, dropout, dtypes, refusals."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from configs import emma_net as configs
from emojax.core.session import build_session
from emojax.errors import InputError
from emojax.layers.temporal_attention import AttentionFusion, Sequence
from emojax.models.emma_net import FUSIONS
from emojax.specs import STREAMS
from tests.emma_nets import (
    BATCH,
    KEY,
    NAMES,
    TICKS,
    WIDTHS,
    WINDOW,
    apply,
    build,
    data,
    jit,
    losses_of,
    randomised,
)
from tests.refusals import refused_by_model

# ---- streams and rates --------------------------------------------------------------------


@functools.cache
def gradients_and_outputs(fusion: str, causal: bool) -> tuple[Any, Any]:
    """Compiles (params, streams, masks) -> (gradients, outputs); returns it with parameters."""
    model = build(fusion=fusion, causal=causal)
    streams, masks = data(model)
    variables = randomised(model, streams, masks)
    weights = np.random.default_rng(2).normal(size=(BATCH, WINDOW, 8)).astype(np.float32)

    def scalar(params: Any, streams: Any, masks: Any) -> Any:
        outputs, aux = model.apply({"params": params}, streams, masks, train=True)
        seen = jnp.where(masks["fan"][..., None], outputs["expr"] * weights, 0.0)
        losses = losses_of(aux)
        return jnp.sum(seen) + sum(losses.values()), (outputs["expr"], losses)

    return jit(jax.grad(scalar, argnums=(0, 1), has_aux=True)), variables["params"]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_fusion_reads_its_streams_in_any_order(fusion: str) -> None:
    run, params = gradients_and_outputs(fusion, causal=False)
    streams, masks = data(build())
    gradients, (output_BTC, losses) = run(params, streams, masks)
    assert output_BTC.shape == (BATCH, WINDOW, 8)
    turned = [{name: x[name] for name in reversed(x)} for x in (streams, masks)]
    jax.tree.map(np.testing.assert_array_equal, run(params, *turned)[1], (output_BTC, losses))
    # Every parameter is reached, and exactly the streams that the fusion reads.
    for path, leaf in jax.tree_util.tree_flatten_with_path(gradients[0])[0]:
        assert np.any(leaf != 0), path
    reads = set(streams) if FUSIONS[fusion].reads == "all" else {"fan"}
    assert {name for name in streams if np.any(gradients[1][name] != 0)} == reads


@pytest.mark.parametrize("names", [("bert",), ("fan", "bert"), (*NAMES, "bert")])
def test_any_number_of_streams_and_any_anchor(names: tuple[str, ...]) -> None:
    model = build(streams=names, anchor="bert", ticks={"openpose": 2})
    streams, masks = data(model)
    shapes = jax.eval_shape(lambda: model.init_with_output(KEY, streams, masks, train=False))
    (outputs, _), variables = shapes
    assert outputs["expr"].shape == (BATCH, WINDOW, 8)
    encoders = {name for name in variables["params"] if name.startswith("encoder")}
    assert encoders == {f"encoder_{name}" for name in names}
    # The anchor's encoder, and no other, runs in both directions.
    for name in names:
        backward = "backward_recurrent" in variables["params"][f"encoder_{name}"]["gru_0"]
        assert backward == (name == "bert")


def test_rows_stand_at_their_ticks() -> None:
    rows_BSH = np.arange(1.0, 5.0)[None, :, None]
    mask_BS = np.array([[True, True, True, False]])
    centred = Sequence(rows_BSH, mask_BS, ticks=3, causal=False)
    assert centred.at_anchors()[0, :, 0].tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    assert centred.real_at_anchors()[0].tolist() == [True] * 9 + [False] * 3
    assert centred.visible().shape == (12, 4)
    assert centred.visible().all()
    assert centred.distance()[4].tolist() == [3, 0, 3, 6]

    # A row of the ticks 0, 1, 2 is known at tick 2.
    causal = Sequence(rows_BSH, mask_BS, ticks=3, causal=True)
    assert causal.at_anchors()[0, :, 0].tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4]
    assert causal.real_at_anchors()[0].tolist() == [False] * 2 + [True] * 9 + [False]
    assert causal.visible().sum(axis=1).tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4]

    # On the window's own clock every anchor has its row.
    for is_causal in (False, True):
        own = Sequence(rows_BSH, mask_BS, ticks=1, causal=is_causal)
        assert own.at_anchors()[0, :, 0].tolist() == [1, 2, 3, 4]
        expected = np.tril(np.ones((4, 4), bool)) if is_causal else np.ones((4, 4), bool)
        np.testing.assert_array_equal(own.visible(), expected)


def test_a_shorter_window_equals_a_padded_one() -> None:
    model = build()
    streams, masks = data(model)
    variables = randomised(model, streams, masks)
    short = {name: x[:, : 6 // TICKS[name]] for name, x in streams.items()}
    short_masks = {name: m[:, : 6 // TICKS[name]] for name, m in masks.items()}
    cut = {name: np.arange(m.shape[1]) < 6 // TICKS[name] for name, m in masks.items()}
    padded_masks = {name: masks[name] & cut[name][None] for name in masks}
    padded = apply(model, variables, streams, padded_masks)
    expected = apply(model, variables, short, short_masks)
    np.testing.assert_allclose(
        padded[0]["expr"][:, :6], expected[0]["expr"], rtol=1e-5, atol=1e-5
    )  # fmt: skip
    padded_losses = losses_of(padded[1])
    for name, loss in losses_of(expected[1]).items():
        np.testing.assert_allclose(padded_losses[name], loss, rtol=1e-5)


# ---- causality ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fusion", "causal"), [("attention", True), ("gating", True), ("attention", False)]
)
def test_a_causal_model_never_sees_the_future(fusion: str, causal: bool) -> None:
    model = build(fusion=fusion, causal=causal)
    streams, masks = data(model)
    variables = randomised(model, streams, masks)
    run = jit(functools.partial(model.apply, train=False))
    before = np.asarray(run(variables, streams, masks)[0]["expr"])
    rng = np.random.default_rng(3)
    for tick in (0, 4, 7) if causal else (7,):
        later = {}
        for name, x_BSD in streams.items():
            # Rows with a tick after this one may not be known yet.
            last_S = (np.arange(x_BSD.shape[1]) + 1) * TICKS[name] - 1
            noise_BSD = rng.normal(size=x_BSD.shape).astype(np.float32)
            later[name] = np.where((last_S > tick)[None, :, None], noise_BSD, x_BSD)
        after = np.asarray(run(variables, later, masks)[0]["expr"])
        unchanged = bool(np.array_equal(before[:, : tick + 1], after[:, : tick + 1]))
        assert unchanged == causal
        assert np.all(np.any(before[:, tick + 1 :] != after[:, tick + 1 :], axis=-1))


# ---- padding ------------------------------------------------------------------------------


def masks_of(rows: int) -> Any:
    row = st.lists(st.booleans(), min_size=rows, max_size=rows)
    return st.lists(row, min_size=BATCH, max_size=BATCH)


NOTHING = [[False] * WINDOW] * BATCH
GAPS = [[True] * WINDOW, [False] * WINDOW, [False] * 3 + [True] * 2 + [False] * 3 + [True] * 4]


@pytest.mark.parametrize(
    ("fusion", "causal"), [("attention", False), ("bilinear", True), ("gating", False)]
)
@settings(max_examples=6, deadline=None, derandomize=True)
@example(fan=NOTHING, audio=[row[:4] for row in NOTHING], poison=np.nan)
@example(fan=GAPS, audio=[row[:4] for row in NOTHING], poison=np.nan)
@example(fan=GAPS, audio=[row[8:] for row in GAPS], poison=np.inf)
@given(
    fan=masks_of(WINDOW), audio=masks_of(WINDOW // 3),
    poison=st.sampled_from([1e3, -1e30, np.nan, np.inf]),
)  # fmt: skip
def test_padding_changes_no_real_tick(
    fusion: str, causal: bool, fan: list, audio: list, poison: float
) -> None:
    """Masks of any form in each stream, also all padding; any content of padded rows."""
    run, params = gradients_and_outputs(fusion, causal)
    streams, _ = data(build())
    masks = {"fan": np.array(fan), "deepspectrum": np.array(audio)}
    poisoned = {
        name: np.where(masks[name][..., None], x, np.float32(poison)) for name, x in streams.items()
    }
    clean_gradients, clean = run(params, streams, masks)
    gradients, seen = run(params, poisoned, masks)
    jax.tree.map(np.testing.assert_array_equal, seen, clean)
    jax.tree.map(np.testing.assert_array_equal, gradients, clean_gradients)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((gradients, seen)))
    for name, gradient_BSD in gradients[1].items():
        np.testing.assert_array_equal(np.asarray(gradient_BSD)[~masks[name]], 0.0)


# ---- training behaviour and dtypes --------------------------------------------------------


def test_dropout_acts_in_the_encoders_and_the_head_in_training_only() -> None:
    for fields in ({"dropout": 0.5}, {"temporal_dropout": 0.5, "layers": 2}):
        model = build(**fields, fusion="video_only", streams=("fan",))
        streams, masks = data(model)
        variables = randomised(model, streams, masks)

        @functools.partial(jit, static_argnames="train")
        def run(key: jax.Array, train: bool, model: Any = model, args: Any = None) -> Any:
            return model.apply(*args, train=train, rngs={"dropout": key})[0]["expr"]

        args = (variables, streams, masks)
        first = run(KEY, True, args=args)
        np.testing.assert_array_equal(first, run(KEY, True, args=args))
        other = jax.random.key(1)
        assert not np.array_equal(first, run(other, True, args=args))
        np.testing.assert_array_equal(run(KEY, False, args=args), run(other, False, args=args))


# ---- eq. 4 --------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [False, True])
def test_attention_is_equations_4_to_6_in_float64(shared: bool) -> None:
    """With a pair of weights for each stream, or the one pair that eq. 4 prints."""
    rng = np.random.default_rng(0)
    anchor_BTD = rng.normal(size=(2, 6, 5))
    rows = {"fan": rng.normal(size=(2, 6, 4)), "deepspectrum": rng.normal(size=(2, 2, 4))}
    sequences = {
        name: Sequence(jnp.float32(x), jnp.ones(x.shape[:2], bool), 6 // x.shape[1], False)
        for name, x in rows.items()
    }
    fusion = AttentionFusion(features=3, shared=shared)
    anchor = jnp.float32(anchor_BTD)
    shapes = jax.eval_shape(lambda: fusion.init(KEY, anchor, sequences))["params"]
    names = ["w_q", "w_k"] if shared else [f"w_{w}_{name}" for name in rows for w in "qk"]
    assert shapes.keys() == set(names)
    params = {name: {"kernel": rng.normal(size=shapes[name]["kernel"].shape)} for name in names}
    expected = [anchor_BTD]
    for name, x_BSH in rows.items():
        end = "" if shared else f"_{name}"
        asked_BTK = anchor_BTD @ params[f"w_k{end}"]["kernel"]
        scores_BTS = asked_BTK @ (x_BSH @ params[f"w_q{end}"]["kernel"]).transpose(0, 2, 1)
        weights_BTS = np.exp(scores_BTS / np.sqrt(3))
        weights_BTS /= weights_BTS.sum(axis=-1, keepdims=True)
        expected.append(weights_BTS @ x_BSH)
    single = jax.tree.map(np.float32, params)
    found = jit(lambda p: fusion.apply({"params": p}, anchor, sequences))(single)
    np.testing.assert_allclose(found, np.concatenate(expected, axis=-1), atol=1e-5)


def test_one_pair_of_weights_reaches_every_stream() -> None:
    model = build(attention_shared=True)
    streams, masks = data(model)
    variables = randomised(model, streams, masks)
    (outputs, _, _) = apply(model, variables, streams, masks)
    apart = build()
    fusion = dict(variables["params"]["fusion"])
    copies = {f"{w}_{name}": fusion[w] for w in ("w_q", "w_k") for name in apart.streams}
    same = {"params": variables["params"] | {"fusion": copies}}
    expected, _, _ = apply(apart, same, streams, masks)
    np.testing.assert_allclose(outputs["expr"], expected["expr"], rtol=1e-6)


def test_the_face_at_2_hz_spans_the_same_six_seconds() -> None:
    """Section 4.2: T = 12 for all modalities."""
    paper, other = (
        build_session(configs.get_config(variant), STREAMS, jax.devices()[:1]).window_spec
        for variant in ("", "face_2hz")
    )
    assert paper.lengths == {"fan": 36, "deepspectrum": 12, "openpose": 12}
    assert other.lengths == {"fan": 12, "deepspectrum": 12, "openpose": 12}
    assert paper.window / paper.clock == other.window / other.clock == 6.0
    assert paper.stride / paper.clock == other.stride / other.clock
    assert set(other.ticks_per_row.values()) == {1}


# ---- refusals -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"fusion": "atention"}, "model.fusion"),
        ({"anchor": "fann"}, "model.anchor"),
        ({"heads": "shared"}, "model.heads"),
        ({"output": "relu"}, "model.output"),
        ({"dropout": 1.0}, "model.dropout"),
        ({"temporal_dropout": -0.1}, "model.temporal_dropout"),
        ({"layers": 0}, "model.layers"),
        ({"window": 0}, "model.window"),
        ({"attention_width": 0}, "model.attention_width"),
        ({"width": 0}, "model.width"),
        ({"width": 5}, "model.width"),
        ({"widths": {"fan": 5}}, "model.widths.fan"),
        ({"widths": {"fann": 4}}, "model.widths.fann"),
        (
            {"context_bidirectional": True, "widths": {"deepspectrum": 5}},
            "model.widths.deepspectrum",
        ),
        ({"context_bidirectional": True, "causal": True}, "model.context_bidirectional"),
        ({"head_width": -1}, "model.head_width"),
        ({"reconstruction_weight": -1.0}, "model.reconstruction_weight"),
        ({"smoothness_weight": float("nan")}, "model.smoothness_weight"),
        ({"ticks": {"deepspectrum": 0}}, "model.ticks.deepspectrum"),
        ({"fusion": "bilinear", "widths": {"fan": 8}}, "model.widths"),
        ({"fusion": "additive", "widths": {"deepspectrum": 8}}, "model.widths"),
        ({"outputs": {}}, "model.outputs"),
        ({"attention_shared": True, "fusion": "gating"}, "model.attention_shared"),
        ({"attention_shared": True, "widths": {"fan": 8}}, "model.widths"),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, Any], field: str) -> None:
    assert refused_by_model(build(**fields), *data(build())) == field


def test_streams_that_do_not_span_the_window_are_refused() -> None:
    model = build()
    streams, masks = data(model)
    found = refused_by_model(
        model,
        streams | {"deepspectrum": streams["deepspectrum"][:, :3]},
        masks | {"deepspectrum": masks["deepspectrum"][:, :3]},
    )
    assert found == "deepspectrum"
    assert refused_by_model(build(streams=NAMES), streams, masks) == "openpose"
    slow = build(ticks={"fan": 2})
    assert refused_by_model(slow, streams, masks) == "data.rates.fan"

    variables = randomised(model, streams, masks)
    for name in streams:
        other = streams | {name: streams[name][..., :-1]}
        with pytest.raises(InputError, match="widths") as caught:
            jax.eval_shape(functools.partial(model.apply, train=False), variables, other, masks)
        assert f"{name} of width {WIDTHS[name] - 1}" in str(caught.value)
