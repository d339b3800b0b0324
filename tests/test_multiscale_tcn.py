"""Multi-scale TCN as training sees it: streams in, predictions out, nothing from padding."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from configs.multiscale_tcn import VARIANTS, get_config
from emojax.core.session import build_session
from emojax.core.stages import check_frozen
from emojax.errors import InputError
from emojax.models import build_model
from emojax.models.multiscale_tcn import CrossModalAttention
from emojax.specs import STREAMS
from tests.applying import run as jitted
from tests.refusals import refused_by_model
from tests.training_runs import quick_compiling  # noqa: F401 - a fixture

KEY = jax.random.key(0)
WIDTHS = {"ir50": 6, "vggish": 3, "logmel": 5, "bert": 4}
WINDOW, BATCH = 12, 3
Variables = Any


def build(**fields: Any) -> nn.Module:
    """Returns a small model, without dropout unless asked for."""
    small: dict[str, Any] = {
        "streams": ("ir50", "vggish"), "kernel_sizes": (3,), "hidden": 8, "dropout": 0.0,
        "temporal_dropout": 0.0, "channels": dict.fromkeys(WIDTHS, (4,)),
    }  # fmt: skip
    outputs = fields.pop("outputs", {"va": 2})
    return build_model("multiscale_tcn", outputs, **(small | fields))


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
    return jax.tree.map(lambda s: 0.4 * rng.normal(size=s.shape).astype(np.float32), shapes)


def apply(
    model: nn.Module, variables: Variables, streams: Any, masks: Any, train: bool = False
) -> dict[str, Any]:
    """Returns predictions of all streams ("together") and of each alone."""
    outputs, aux = jitted(model, variables, streams, masks, train=train)
    assert aux["losses"] == {}
    return {"together": outputs, **aux.get("branches", {})}


def test_attention_is_its_equation_on_real_frames() -> None:
    rng = np.random.default_rng(0)
    query_BTD, source_BSD = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 5, 4))
    mask_BS = np.array([[True, False, True, True, False], [False] * 5])
    poisoned_BSD = np.where(mask_BS[..., None], source_BSD, np.nan)
    found = CrossModalAttention().apply(
        {}, query_BTD.astype(np.float32), poisoned_BSD.astype(np.float32), mask_BS
    )
    keys_SD = source_BSD[0][mask_BS[0]]
    weight_TS = np.exp(query_BTD[0] @ keys_SD.T / math.sqrt(4))
    expected_TD = weight_TS / weight_TS.sum(axis=1, keepdims=True) @ keys_SD
    np.testing.assert_allclose(found[0], expected_TD, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found[1], 0.0)


# ---- streams ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "leader"), [(("logmel",), "logmel"), (("vggish", "ir50", "logmel", "bert"), "ir50")]
)
def test_any_streams_in_any_order(names: tuple[str, ...], leader: str) -> None:
    model = build(streams=names, leader=leader, outputs={"va": 2, "expr": 8})
    streams, masks = data(names)
    variables = randomised(model, streams, masks)
    run = jax.jit(functools.partial(apply, model))
    predictions = run(variables, streams, masks)
    assert set(predictions) == {"together", *names}
    for outputs in predictions.values():
        shapes = {task: x.shape for task, x in outputs.items()}
        assert shapes == {"va": (BATCH, WINDOW, 2), "expr": (BATCH, WINDOW, 8)}
        assert all(x.dtype == jnp.float32 for x in outputs.values())
    reverse = {name: streams[name] for name in reversed(names)}
    jax.tree.map(np.testing.assert_array_equal, run(variables, reverse, masks), predictions)


def test_only_the_leaders_frames_are_bound_to_their_time() -> None:
    """Keys and values are a set: with kernels of one frame, their order does not matter."""
    streams, masks = data()
    order = np.random.default_rng(3).permutation(WINDOW)
    model = build(kernel_sizes=(1,), leader="vggish")
    variables = randomised(model, streams, masks)
    run = jax.jit(functools.partial(apply, model))
    va = run(variables, streams, masks)["together"]["va"]
    same = run(variables, streams | {"ir50": streams["ir50"][:, order]}, masks)["together"]["va"]
    np.testing.assert_allclose(same, va, rtol=1e-4, atol=1e-5)
    mixed = {"ir50": streams["ir50"], "vggish": streams["vggish"][:, order]}
    moved = run(variables, mixed, masks)["together"]["va"]
    np.testing.assert_allclose(moved, va[:, order], rtol=1e-4, atol=1e-5)
    assert np.any(np.abs(moved - va) > 0.01)


def test_each_objective_reaches_the_parameters_that_are_its_own() -> None:
    names = ("ir50", "vggish", "logmel")
    model = build(streams=names)
    streams, masks = data(names)
    variables = randomised(model, streams, masks)
    weights = np.random.default_rng(2).normal(size=(BATCH, WINDOW, 2)).astype(np.float32)

    @jax.jit
    @functools.partial(jax.jacrev, argnums=(0, 1))
    def gradients(params: Any, streams: Any) -> jax.Array:
        predictions = apply(model, variables | {"params": params}, streams, masks)
        return jnp.stack([jnp.sum(predictions[r]["va"] * weights) for r in ("together", *names)])

    of_params, of_streams = gradients(variables["params"], streams)
    for index, role in enumerate(("together", *names)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(of_params):
            module = path[0].key
            mine = module.startswith(("encoder_", "head_"))
            if role != "together":
                mine = module in (f"encoder_{role}", f"branch_{role}_va")
            assert np.all(np.isfinite(leaf[index]))
            assert np.any(leaf[index] != 0) == mine, (role, path)
        for name, x_BTD in of_streams.items():
            assert np.any(x_BTD[index] != 0) == (role in ("together", name))


# ---- padding ------------------------------------------------------------------------------


def test_a_shorter_window_equals_a_padded_one_and_masks_are_joined() -> None:
    model = build()
    streams, masks = data()
    variables = randomised(model, streams, masks)
    steps = WINDOW - 5
    mask_BT = np.broadcast_to(np.arange(WINDOW) < steps, (BATCH, WINDOW))
    run = jax.jit(functools.partial(apply, model))
    padded = run(variables, streams, dict.fromkeys(streams, mask_BT))
    one = run(variables, streams, masks | {"vggish": mask_BT})
    jax.tree.map(np.testing.assert_array_equal, one, padded)
    cut = {name: x_BTD[:, :steps] for name, x_BTD in streams.items()}
    short = run(variables, cut, {name: m[:, :steps] for name, m in masks.items()})
    for role, outputs in short.items():
        ours = padded[role]["va"][:, :steps]
        np.testing.assert_allclose(ours, outputs["va"], rtol=1e-5, atol=1e-5)


# ---- transformations ----------------------------------------------------------------------


@pytest.mark.parametrize("rates", [{"dropout": 0.5}, {"temporal_dropout": 0.5}], ids=str)
def test_dropout_only_in_training(rates: dict[str, float]) -> None:
    model = build(**rates)
    streams, masks = data()
    variables = randomised(model, streams, masks)

    @functools.partial(jax.jit, static_argnames="train")
    def run(key: jax.Array, train: bool) -> Any:
        outputs, _ = model.apply(variables, streams, masks, train=train, rngs={"dropout": key})
        return outputs["va"]

    np.testing.assert_array_equal(run(KEY, train=True), run(KEY, train=True))
    assert not np.array_equal(run(KEY, train=True), run(jax.random.key(1), train=True))
    np.testing.assert_array_equal(run(KEY, train=False), run(jax.random.key(1), train=False))


# ---- heads and fields ---------------------------------------------------------------------


def test_heads_are_joint_or_per_target_and_branches_may_be_left_out() -> None:
    outputs = {"va": 2, "expr": 8, "au": 12}
    tasks = {f"head_{task}" for task in outputs}
    branches = {f"branch_{name}_{task}" for name in ("ir50", "vggish") for task in outputs}
    encoders = {"encoder_ir50", "encoder_vggish"}

    def modules(**fields: Any) -> set[str]:
        model = build(outputs=outputs, **fields)
        predictions = jax.eval_shape(lambda: apply(model, randomised(model, *data()), *data()))
        widths = {task: x.shape[-1] for task, x in predictions["together"].items()}
        assert widths == outputs
        assert ("ir50" in predictions) == fields.get("branch_heads", True)
        return set(randomised(model, *data())["params"])

    assert modules() == encoders | tasks | branches
    found = modules(heads="per_target", branch_heads=False)
    assert {"head_va_valence", "head_expr", "head_au_AU26"} < found
    assert len(found - encoders) == 2 + 1 + 12


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"leader": "vgish"}, "model.leader"),
        ({"leader": "logmel"}, "model.leader"),
        ({"heads": "shared"}, "model.heads"),
        ({"dropout": 1.0}, "model.dropout"),
        ({"temporal_dropout": -0.1}, "model.temporal_dropout"),
        ({"hidden": 0}, "model.hidden"),
        ({"kernel_sizes": ()}, "model.kernel_sizes"),
        ({"kernel_sizes": (3, 3)}, "model.kernel_sizes"),
        ({"causal": False, "kernel_sizes": (3, 4)}, "model.kernel_sizes"),
        ({"channels": {"ir50": (4,)}}, "model.channels.vggish"),
        ({"channels": {"ir50": (4,), "vggish": ()}}, "model.channels.vggish"),
        ({"channels": {"ir50": (0, 4), "vggish": (4,)}}, "model.channels.ir50"),
        ({"channels": {"ir50": (4,), "vggish": (4, 5)}}, "model.channels.vggish"),
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

# Of one replica, counted by hand from the equations and the configs' widths.
PARAMETERS = {"": 10_890_632, "visual": 6_746_500, "all": 11_513_816, "simulated": 696_296}


# test_every_model builds all variants in CI; the counts by hand are of these.
@pytest.mark.slow
@pytest.mark.parametrize(
    "variant",
    [pytest.param(v, marks=() if v in PARAMETERS else pytest.mark.nightly) for v in VARIANTS],
)
def test_every_variant_builds(variant: str) -> None:
    session = build_session(get_config(variant), STREAMS, jax.devices()[:1])
    params = session.abstract_state().params
    check_frozen(session.stages, params)
    count = sum(math.prod(leaf.shape[1:]) for leaf in jax.tree.leaves(params))
    assert count == PARAMETERS.get(variant, count)
    assert len(session.replicas) == (6 if variant == "folds" else 1)
    objectives = [stage.objective for stage in session.stages]
    assert objectives == ([] if variant == "end_to_end" else ["branches", "outputs"])
