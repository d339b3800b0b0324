"""TCN-Transformer as training sees it: streams in, predictions out, nothing from padding."""

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
from emojax.models.tcn_transformer import VARIANTS
from tests.applying import run as jitted
from tests.refusals import refused_by_model

KEY = jax.random.key(0)
WIDTHS = {"eff": 6, "wav2vec2_emotion": 3, "raf_db": 5, "bert": 4, "eda": 2}
NAMES = ("eff", "wav2vec2_emotion")
WINDOW, BATCH = 12, 3
ALL = {"va": 2, "expr": 8, "au": 12}
Variables = Any


def build(**fields: Any) -> nn.Module:
    """Returns a small model, without dropout unless asked for."""
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
    (outputs, aux), _ = jitted(
        model, variables, streams, masks, train=train, mutable=["batch_stats"]
    )
    assert aux == {"losses": {}}
    return outputs


def weighted(outputs: dict[str, jax.Array]) -> jax.Array:
    """Returns one number in which every output counts differently."""
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


# ---- padding ------------------------------------------------------------------------------


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
    """The code relies on it: only the TCNs distinguish the places of frames."""
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


def test_missing_unknown_and_ragged_streams_are_refused() -> None:
    model = build()
    streams, masks = data()
    assert refused_by_model(model, {"wav2vec2_emotion": streams["eff"]}, masks) == "eff"
    assert refused_by_model(model, *data((*streams, "eda"))) == "eda"
    assert refused_by_model(model, streams, {"wav2vec2_emotion": masks["eff"]}) == "eff"
    found = refused_by_model(
        model,
        streams | {"wav2vec2_emotion": streams["wav2vec2_emotion"][:, :-1]},
        masks | {"wav2vec2_emotion": masks["wav2vec2_emotion"][:, :-1]},
    )
    assert found == "wav2vec2_emotion"


@pytest.mark.parametrize("channels", [(4,), ()])
def test_streams_of_another_width_are_refused(channels: tuple[int, ...]) -> None:
    model = build(channels=dict.fromkeys(NAMES, channels), width=8)
    streams, masks = data()
    variables = randomised(model, streams, masks)
    streams["eff"] = streams["eff"][..., :-1]
    with pytest.raises(InputError) as caught:
        jax.eval_shape(lambda: apply(model, variables, streams, masks))
    assert "eff of width 5" in caught.value.details["found"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"variant": "upstrem"}, "model.variant"),
        ({"activation": "prelo"}, "model.activation"),
        ({"norm": "both"}, "model.norm"),
        ({"positions": "learned"}, "model.positions"),
        ({"head": "linar"}, "model.head"),
        ({"heads": "per_target"}, "model.heads"),
        ({"dropout": 1.0}, "model.dropout"),
        ({"layers": -1}, "model.layers"),
        ({"width": -1}, "model.width"),
        ({"attention_heads": 0}, "model.attention_heads"),
        ({"attention_heads": 3}, "model.attention_heads"),
        ({"feed_forward": 0}, "model.feed_forward"),
        ({"head_width": 0}, "model.head_width"),
        ({"kernel_size": 0}, "model.kernel_size"),
        ({"causal": False, "kernel_size": 4}, "model.kernel_size"),
        ({"channels": {"eff": (4,)}}, "model.channels.wav2vec2_emotion"),
        ({"channels": dict.fromkeys(NAMES, (4, 0))}, "model.channels.eff"),
        ({"streams": ()}, "model.streams"),
        ({"outputs": {}}, "model.outputs"),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, Any], field: str) -> None:
    assert refused_by_model(build(**fields), *data()) == field
