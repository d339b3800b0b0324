"""LFAN as training and evaluation see it: streams in, predictions out, nothing from padding."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from configs.lfan import VARIANTS, get_config
from emojax.core.session import build_session
from emojax.errors import InputError
from emojax.models import build_model
from emojax.specs import STREAMS
from tests.applying import run as jitted
from tests.refusals import refused_by_model
from tests.training_runs import quick_compiling  # noqa: F401 - a fixture

KEY = jax.random.key(0)
WIDTHS = {"ir50": 6, "vggish": 3, "bert": 5, "eda": 2}
WINDOW, BATCH = 12, 3
Variables = Any


def build(**fields: Any) -> nn.Module:
    """Returns a small model, without dropout unless asked for."""
    small: dict[str, Any] = {
        "streams": ("ir50", "vggish"), "modal_width": 4, "dropout": 0.0, "temporal_dropout": 0.0,
        "channels": dict.fromkeys(WIDTHS, (4,)), "kernel_size": 3,
    }  # fmt: skip
    outputs = fields.pop("outputs", {"va": 2})
    return build_model("lfan", outputs, **(small | fields))


def data(
    names: tuple[str, ...] = ("ir50", "vggish"), steps: int = WINDOW, seed: int = 0
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    streams = {n: rng.normal(size=(BATCH, steps, WIDTHS[n])).astype(np.float32) for n in names}
    return streams, {n: np.ones((BATCH, steps), bool) for n in names}


def randomised(model: nn.Module, streams: Any, masks: Any, seed: int = 1) -> Variables:
    """Variables of the right shapes that are not the initialiser's."""
    shapes = jax.eval_shape(lambda key: model.init(key, streams, masks, train=False), KEY)
    rng = np.random.default_rng(seed)
    drawn = jax.tree.map(lambda s: 0.4 * rng.normal(size=s.shape).astype(np.float32), shapes)
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


@pytest.mark.parametrize("names", [("bert",), ("eda", "ir50", "vggish", "bert")], ids=len)
def test_any_streams_in_any_order(names: tuple[str, ...]) -> None:
    model = build(streams=names, leader="bert", outputs={"va": 2, "expr": 8, "au": 12})
    streams, masks = data(names)
    streams = {name: 30 * x_BTD for name, x_BTD in streams.items()}
    variables = randomised(model, streams, masks)
    run = jax.jit(functools.partial(apply, model))
    outputs = run(variables, streams, masks)
    shapes = {task: x.shape for task, x in outputs.items()}
    assert shapes == {task: (BATCH, WINDOW, c) for task, c in (("va", 2), ("expr", 8), ("au", 12))}
    assert all(x.dtype == jnp.float32 for x in outputs.values())
    # tanh belongs to continuous tasks only.
    assert np.all(np.abs(outputs["va"]) <= 1)
    assert np.any(np.abs(outputs["expr"]) > 1)
    assert np.any(np.abs(outputs["au"]) > 1)
    reverse = {name: streams[name] for name in reversed(names)}
    jax.tree.map(np.testing.assert_array_equal, run(variables, reverse, masks), outputs)


def test_streams_meet_in_their_own_frame_only() -> None:
    """With kernels of one frame, a change of one frame is a change of that frame."""
    model = build(kernel_size=1)
    streams, masks = data()
    variables = randomised(model, streams, masks)
    run = jax.jit(functools.partial(apply, model))
    before = run(variables, streams, masks)["va"]
    for name in streams:
        changed = {n: x_BTD.copy() for n, x_BTD in streams.items()}
        changed[name][1, 5] += 1.0
        moved = np.any(run(variables, changed, masks)["va"] != before, axis=-1)
        expected = np.zeros((BATCH, WINDOW), bool)
        expected[1, 5] = True
        np.testing.assert_array_equal(moved, expected)


def test_the_leader_enters_the_head_beside_the_attention() -> None:
    """Without the attention's share of the head, predictions follow the leader alone."""
    streams, masks = data()
    model = build(leader="vggish")
    variables = randomised(model, streams, masks)
    kernel = variables["params"]["head_va"]["output"]["kernel"]
    assert kernel.shape == (4 + 2 * 4, 2)
    kernel[4:] = 0.0
    run = jax.jit(functools.partial(apply, model))
    before = run(variables, streams, masks)["va"]
    same = run(variables, streams | {"ir50": -streams["ir50"]}, masks)["va"]
    np.testing.assert_array_equal(same, before)
    moved = run(variables, streams | {"vggish": -streams["vggish"]}, masks)["va"]
    assert np.all(moved != before)


# ---- padding ------------------------------------------------------------------------------


def test_a_shorter_window_equals_a_padded_one_and_masks_are_joined() -> None:
    model = build()
    streams, masks = data()
    variables = randomised(model, streams, masks)
    steps = WINDOW - 5
    mask_BT = np.broadcast_to(np.arange(WINDOW) < steps, (BATCH, WINDOW))
    run = jax.jit(functools.partial(apply, model, train=True))
    padded = run(variables, streams, dict.fromkeys(streams, mask_BT))["va"]
    one = run(variables, streams, masks | {"vggish": mask_BT})["va"]
    np.testing.assert_array_equal(one, padded)
    cut = {name: x_BTD[:, :steps] for name, x_BTD in streams.items()}
    short = run(variables, cut, {name: m[:, :steps] for name, m in masks.items()})["va"]
    np.testing.assert_allclose(padded[:, :steps], short, rtol=1e-5, atol=1e-5)


# ---- transformations ----------------------------------------------------------------------


@pytest.mark.parametrize("rates", [{"dropout": 0.5}, {"temporal_dropout": 0.5}], ids=str)
def test_dropout_and_running_statistics_only_in_training(rates: dict[str, float]) -> None:
    model = build(**rates)
    streams, masks = data()
    variables = randomised(model, streams, masks)

    @functools.partial(jax.jit, static_argnames="train")
    def run(key: jax.Array, train: bool) -> Any:
        (outputs, _), updated = model.apply(
            variables, streams, masks, train=train, rngs={"dropout": key}, mutable=["batch_stats"]
        )
        return outputs["va"], updated["batch_stats"]

    first, stats = run(KEY, train=True)
    np.testing.assert_array_equal(first, run(KEY, train=True)[0])
    assert not np.array_equal(first, run(jax.random.key(1), train=True)[0])
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), stats, variables["batch_stats"])
    assert all(jax.tree.leaves(moved))

    first, stats = run(KEY, train=False)
    np.testing.assert_array_equal(first, run(jax.random.key(1), train=False)[0])
    jax.tree.map(np.testing.assert_array_equal, stats, variables["batch_stats"])


# ---- refusals -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"leader": "vgish"}, "model.leader"),
        ({"leader": "bert"}, "model.leader"),
        ({"output": "relu"}, "model.output"),
        ({"dropout": 1.0}, "model.dropout"),
        ({"temporal_dropout": -0.1}, "model.temporal_dropout"),
        ({"attention_heads": 3}, "model.attention_heads"),
        ({"attention_heads": 0}, "model.attention_heads"),
        ({"kernel_size": 0}, "model.kernel_size"),
        ({"causal": False, "kernel_size": 4}, "model.kernel_size"),
        ({"channels": {"ir50": (4,)}}, "model.channels.vggish"),
        ({"channels": {"ir50": (4,), "vggish": ()}}, "model.channels.vggish"),
        ({"channels": {"ir50": (0, 4), "vggish": (4,)}}, "model.channels.ir50"),
        ({"streams": ()}, "model.streams"),
        ({"outputs": {}}, "model.outputs"),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, Any], field: str) -> None:
    assert refused_by_model(build(**fields), *data()) == field


def test_streams_that_do_not_fit_are_refused() -> None:
    model = build()
    streams, masks = data()
    assert refused_by_model(model, {"ir50": streams["ir50"]}, masks) == "vggish"
    ragged = streams | {"vggish": streams["vggish"][:, :-1]}
    cut = masks | {"vggish": masks["vggish"][:, :-1]}
    assert refused_by_model(model, ragged, cut) == "vggish"
    variables = randomised(model, streams, masks)
    streams["vggish"] = streams["vggish"][..., :-1]
    with pytest.raises(InputError) as caught:
        jax.eval_shape(lambda: apply(model, variables, streams, masks))
    assert "vggish of width 2" in caught.value.details["found"]


# ---- configs ------------------------------------------------------------------------------

# Of one replica, counted by hand from the public code's widths.
PARAMETERS = {"": 5_001_378, "abaw3": 5_000_802, "audio_visual": 2_374_946, "all": 5_005_878}


# test_every_model builds all variants in CI; the counts by hand are of these.
@pytest.mark.slow
@pytest.mark.parametrize(
    "variant",
    [pytest.param(v, marks=() if v in PARAMETERS else pytest.mark.nightly) for v in VARIANTS],
)
def test_every_variant_builds(variant: str) -> None:
    session = build_session(get_config(variant), STREAMS, jax.devices()[:1])
    params = session.abstract_state().params
    count = sum(math.prod(leaf.shape[1:]) for leaf in jax.tree.leaves(params))
    assert count == PARAMETERS.get(variant, count)
    joint = {"folds": 12, "expr": 1, "au": 1, "all": 1}
    assert len(session.replicas) == joint.get(variant, 2)
