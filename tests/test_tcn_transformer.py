"""TCN-Transformer as training sees it: streams in, predictions out, nothing from padding."""

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
from emojax.models.tcn_transformer import VARIANTS

KEY = jax.random.key(0)
WIDTHS = {"eff": 6, "wav2vec2_emotion": 3, "raf_db": 5, "bert": 4, "eda": 2}
NAMES = ("eff", "wav2vec2_emotion")
WINDOW, BATCH = 12, 3
ALL = {"va": 2, "expr": 8, "au": 12}
Variables = Any


def build(**fields: Any) -> nn.Module:
    """A small model, without dropout unless asked for."""
    small: dict[str, Any] = {
        "streams": NAMES, "window": WINDOW, "channels": dict.fromkeys(WIDTHS, (4,)),
        "kernel_size": 3, "layers": 1, "attention_heads": 2, "feed_forward": 6, "head_width": 6,
        "dropout": 0.0,
    }  # fmt: skip
    if fields.get("variant") == "upstream":
        small["width"] = 8
    outputs = fields.pop("outputs", {"va": 2})
    return build_model("tcn_transformer", outputs, **(small | fields))


def data(
    names: tuple[str, ...] = NAMES, steps: int = WINDOW, seed: int = 0
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    streams = {n: rng.normal(size=(BATCH, steps, WIDTHS[n])).astype(np.float32) for n in names}
    return streams, {n: np.ones((BATCH, steps), bool) for n in names}


def randomised(model: nn.Module, streams: Any, masks: Any, seed: int = 1) -> Variables:
    """Variables of the right shapes that are not the initialiser's."""
    shapes = jax.eval_shape(lambda key: model.init(key, streams, masks, train=False), KEY)
    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        # Gains near zero would leave nothing but biases.
        mean = 1.0 if path[-1].key == "scale" else 0.0
        return np.asarray(mean + 0.4 * rng.normal(size=leaf.shape), np.float32)

    drawn = jax.tree_util.tree_map_with_path(draw, shapes)
    drawn["batch_stats"] = jax.tree.map(np.abs, drawn["batch_stats"])
    return drawn


def apply(
    model: nn.Module, variables: Variables, streams: Any, masks: Any, train: bool = False
) -> dict[str, jax.Array]:
    (outputs, aux), _ = model.apply(variables, streams, masks, train=train, mutable=["batch_stats"])
    assert aux == {"losses": {}}
    return outputs


def weighted(outputs: dict[str, jax.Array]) -> jax.Array:
    """One number in which every output counts differently."""
    rng = np.random.default_rng(2)
    return sum(
        jnp.sum(x_BTC * rng.normal(size=x_BTC.shape).astype(np.float32))
        for _, x_BTC in sorted(outputs.items())
    )


# ---- streams ------------------------------------------------------------------------------


@pytest.mark.parametrize(("variant", "count"), [("paper", 1), ("paper", 5), ("upstream", 3)])
def test_any_streams_in_any_order(variant: str, count: int) -> None:
    names = tuple(WIDTHS)[:count]
    model = build(variant=variant, streams=names, outputs=ALL)
    streams, masks = data(names)
    variables = randomised(model, streams, masks)
    run = jax.jit(functools.partial(apply, model))
    outputs = run(variables, streams, masks)
    reverse = {name: streams[name] for name in reversed(names)}
    again = run(variables, reverse, masks)
    for task, columns in ALL.items():
        assert outputs[task].shape == (BATCH, WINDOW, columns)
        assert outputs[task].dtype == jnp.float32
        np.testing.assert_array_equal(again[task], outputs[task])


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_stream_and_every_parameter_matters(variant: str) -> None:
    model = build(variant=variant, outputs=ALL, positions="sinusoidal")
    streams, masks = data()
    variables = randomised(model, streams, masks)

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def gradient(params: Any, streams: Any) -> jax.Array:
        return weighted(apply(model, variables | {"params": params}, streams, masks))

    leaves = jax.tree_util.tree_leaves_with_path(gradient(variables["params"], streams))
    assert any("slope" in jax.tree_util.keystr(path) for path, _ in leaves)
    for path, leaf in leaves:
        assert np.all(np.isfinite(leaf))
        # A bias of the keys adds one number to all scores of a query, which no softmax sees.
        assert "['key']['bias']" in jax.tree_util.keystr(path) or np.any(leaf != 0), path


# ---- padding ------------------------------------------------------------------------------


@functools.cache
def gradients_and_outputs(variant: str, train: bool) -> tuple[Any, Any]:
    """A compiled (params, streams, mask) -> (gradients, outputs), and parameters for it."""
    model = build(
        variant=variant, causal=False, outputs={"va": 2, "expr": 8}, positions="sinusoidal"
    )
    streams, masks = data()
    variables = randomised(model, streams, masks)

    def scalar(params: Any, streams: Any, mask: Any) -> Any:
        predicted = apply(
            model, variables | {"params": params}, streams, dict.fromkeys(streams, mask), train
        )
        real = {t: jnp.where(mask[..., None], x, 0.0) for t, x in predicted.items()}
        return weighted(real), predicted

    return jax.jit(jax.grad(scalar, argnums=(0, 1), has_aux=True)), variables["params"]


MASKS = st.lists(
    st.lists(st.booleans(), min_size=WINDOW, max_size=WINDOW), min_size=BATCH, max_size=BATCH
)


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=8, deadline=None, derandomize=True)
@example(mask=[[True] * WINDOW, [False] * WINDOW, [True] * 5 + [False] * 7], poison=np.nan)
@example(mask=[[False] * WINDOW] * BATCH, poison=np.inf)
@given(mask=MASKS, poison=st.sampled_from([1e3, -1e30, np.nan, np.inf]))
def test_padding_changes_no_real_frame(
    variant: str, train: bool, mask: list[list[bool]], poison: float
) -> None:
    """Masks of any form, also all padding; any content of padded frames, also NaN."""
    run, params = gradients_and_outputs(variant, train)
    streams, _ = data()
    mask_BT = np.array(mask)
    poisoned = {n: np.where(mask_BT[..., None], x, np.float32(poison)) for n, x in streams.items()}

    clean_gradients, clean_outputs = run(params, streams, mask_BT)
    gradients, outputs = run(params, poisoned, mask_BT)
    for task, found in outputs.items():
        np.testing.assert_array_equal(found, clean_outputs[task])
        assert np.all(np.isfinite(found))
    jax.tree.map(np.testing.assert_array_equal, gradients, clean_gradients)
    for leaf in jax.tree.leaves(gradients):
        assert np.all(np.isfinite(leaf))
    for gradient_BTD in gradients[1].values():
        np.testing.assert_array_equal(np.asarray(gradient_BTD)[~mask_BT], 0.0)


def test_padding_does_nothing_and_windows_may_have_any_length() -> None:
    """Shorter and longer than ``window``; equal to a longer one that ends in padding."""
    model = build(causal=False, window=5)
    streams, masks = data()
    variables = randomised(model, streams, masks)
    steps = WINDOW - 5
    mask_BT = np.broadcast_to(np.arange(WINDOW) < steps, (BATCH, WINDOW))
    run = jax.jit(functools.partial(apply, model), static_argnames="train")
    cut = {name: x_BTD[:, :steps] for name, x_BTD in streams.items()}
    short_masks = {name: m[:, :steps] for name, m in masks.items()}
    for train in (False, True):
        padded = run(variables, streams, dict.fromkeys(streams, mask_BT), train=train)["va"]
        short = run(variables, cut, short_masks, train=train)["va"]
        np.testing.assert_allclose(padded[:, :steps], short, rtol=1e-4, atol=1e-5)
    full = run(variables, streams, masks, train=False)["va"]
    assert not np.allclose(full[:, :steps], short, atol=1e-3)  # or the masks would show nothing


def test_a_frame_is_real_if_every_stream_says_so() -> None:
    model = build()
    streams, masks = data()
    variables = randomised(model, streams, masks)
    run = jax.jit(functools.partial(apply, model))
    mask_BT = np.ones((BATCH, WINDOW), bool)
    mask_BT[:, 7:] = False
    one = run(variables, streams, masks | {"eff": mask_BT})["va"]
    every = run(variables, streams, dict.fromkeys(streams, mask_BT))["va"]
    np.testing.assert_array_equal(one, every)


def test_without_tcn_position_codes_and_padding_order_is_unknown_to_the_transformer() -> None:
    """What the code relies on: only the TCNs tell one frame's place from another's."""
    streams, masks = data()
    swapped = {n: x_BTD[:, ::-1] for n, x_BTD in streams.items()}
    same = {}
    for positions, channels in (("none", ()), ("sinusoidal", ()), ("none", (4,))):
        fields = {"positions": positions, "channels": dict.fromkeys(NAMES, channels)}
        model = build(width=8, **fields)
        variables = randomised(model, streams, masks)
        run = jax.jit(functools.partial(apply, model))
        forwards, backwards = (run(variables, x, masks)["va"] for x in (streams, swapped))
        same[positions, channels] = np.allclose(forwards, backwards[:, ::-1], atol=1e-4)
    assert list(same.values()) == [True, False, False]


# ---- transformations ----------------------------------------------------------------------


def test_jit_is_eager_and_vmap_is_separate_and_one_trace() -> None:
    model = build(streams=("eff",))
    streams, masks = data(("eff",))
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
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    jitted(replicas[0], *data(("eff",), seed=5))
    assert traces == 1
    together = jax.jit(jax.vmap(run, in_axes=(0, None, None)))(stacked, streams, masks)
    np.testing.assert_allclose(together, jnp.stack(eager), rtol=1e-4, atol=1e-4)


def test_dropout_and_running_statistics_only_in_training() -> None:
    model = build(dropout=0.5)
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
        model = build(variant=variant, dtype=dtype, positions="sinusoidal")
        variables = randomised(model, streams, masks)
        outputs[dtype] = jax.jit(functools.partial(apply, model))(variables, streams, masks)["va"]
        assert outputs[dtype].dtype == jnp.float32
        init = functools.partial(model.init, train=False)
        for leaf in jax.tree.leaves(jax.eval_shape(init, KEY, streams, masks)):
            assert leaf.dtype == jnp.float32
    np.testing.assert_allclose(outputs["bfloat16"], outputs["float32"], rtol=0.1, atol=0.1)
    assert np.any(outputs["bfloat16"] != outputs["float32"])


# ---- heads --------------------------------------------------------------------------------


def test_the_papers_heads_are_one_for_each_task_and_upstreams_part_valence_and_arousal() -> None:
    streams, masks = data()
    found = {}
    for variant in VARIANTS:
        params = randomised(build(variant=variant, outputs=ALL), streams, masks)["params"]
        found[variant] = {name for name in params if name.startswith("head")}
    tasks = {"head_expr", "head_au"}
    assert found["paper"] == tasks | {"head_va"}
    assert found["upstream"] == tasks | {"head_va_valence", "head_va_arousal"}

    model = build(variant="upstream", outputs=ALL)
    variables = randomised(model, streams, masks)

    def valence(params: Any) -> jax.Array:
        outputs = apply(model, variables | {"params": params}, streams, masks)
        return jnp.sum(outputs["va"][..., 0])

    gradients = jax.jit(jax.grad(valence))(variables["params"])
    for head in ("head_va_arousal", "head_expr", "head_au"):
        for leaf in jax.tree.leaves(gradients[head]):
            np.testing.assert_array_equal(leaf, 0.0)
    assert np.any(gradients["head_va_valence"]["output"]["kernel"] != 0)


# ---- refusals -----------------------------------------------------------------------------


def refusal(model: nn.Module, streams: Any, masks: Any) -> str:
    """The error met while tracing; nothing is computed."""
    with pytest.raises(InputError) as caught:
        jax.eval_shape(lambda: model.init(KEY, streams, masks, train=False))
    return str(caught.value)


def test_missing_unknown_and_ragged_streams_are_refused() -> None:
    model = build()
    streams, masks = data()
    assert "field:    eff" in refusal(model, {"wav2vec2_emotion": streams["eff"]}, masks)
    assert "field:    eda" in refusal(model, *data((*streams, "eda")))
    assert "field:    eff" in refusal(model, streams, {"wav2vec2_emotion": masks["eff"]})
    text = refusal(
        model,
        streams | {"wav2vec2_emotion": streams["wav2vec2_emotion"][:, :-1]},
        masks | {"wav2vec2_emotion": masks["wav2vec2_emotion"][:, :-1]},
    )
    assert "field:    wav2vec2_emotion" in text
    assert "same frames" in text


@pytest.mark.parametrize("channels", [(4,), ()])
def test_streams_of_another_width_are_refused(channels: tuple[int, ...]) -> None:
    model = build(channels=dict.fromkeys(NAMES, channels), width=8)
    streams, masks = data()
    variables = randomised(model, streams, masks)
    streams["eff"] = streams["eff"][..., :-1]
    with pytest.raises(InputError, match="widths") as caught:
        jax.eval_shape(lambda: apply(model, variables, streams, masks))
    assert "eff of width 5" in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"variant": "upstrem"}, ["model.variant", "did you mean upstream?"]),
        ({"activation": "prelo"}, ["model.activation", "did you mean prelu?"]),
        ({"norm": "both"}, ["model.norm", "post, pre"]),
        ({"positions": "learned"}, ["model.positions", "none, sinusoidal"]),
        ({"head": "linar"}, ["model.head", "did you mean linear?"]),
        ({"heads": "per_target"}, ["model.heads", "joint, per_dimension"]),
        ({"dropout": 1.0}, ["model.dropout", "1.0"]),
        ({"layers": -1}, ["model.layers", "at least 0"]),
        ({"width": -1}, ["model.width", "at least 0"]),
        ({"attention_heads": 0}, ["model.attention_heads", "at least 1"]),
        ({"attention_heads": 3}, ["model.attention_heads", "divides", "8"]),
        ({"feed_forward": 0}, ["model.feed_forward"]),
        ({"head_width": 0}, ["model.head_width"]),
        ({"kernel_size": 0}, ["model.kernel_size"]),
        ({"causal": False, "kernel_size": 4}, ["model.kernel_size", "odd"]),
        ({"channels": {"eff": (4,)}}, ["model.channels.wav2vec2_emotion"]),
        ({"channels": dict.fromkeys(NAMES, (4, 0))}, ["model.channels.eff"]),
        ({"streams": ()}, ["model.streams"]),
        ({"outputs": {}}, ["model.outputs"]),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, Any], words: list[str]) -> None:
    text = refusal(build(**fields), *data())
    for word in words:
        assert word in text
