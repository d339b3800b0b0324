"""Tests what mechanisms replace: every declared one, in every system that has some."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from emojax.core.session import Session
from emojax.layers.attention import AttentionWeights
from emojax.layers.fusion import JointCrossAttention
from emojax.models.lfan import ModalityAttention
from emojax.models.mechanisms import (
    Call,
    Mechanism,
    mechanisms_of,
    other_streams,
    replaced,
    replaced_parameters,
    time_mean,
    uniform,
)
from emojax.models.multiscale_tcn import CrossModalAttention
from emojax.papers.variants import Variant
from emojax.studies.system_facts import quick_compiling
from tests.small_models import Inputs, make_inputs, random_variables, shipped, small_session


def with_mechanisms() -> dict[str, Variant]:
    """Returns one variant for each set of mechanisms of each model, by title."""
    found: dict[str, Variant] = {}
    for variant in shipped():
        session = small_session(variant)
        names = mechanisms_of(session.model)
        if names:
            key = f"{variant.make().model.name} {getattr(session.model, 'variant', '')}"
            found.setdefault(f"{key} {len(names)} {next(iter(names)).split()[:2]}", variant)
    return {variant.title: variant for variant in found.values()}


VARIANTS = with_mechanisms()
EVERY = [
    (title, name)
    for title, variant in VARIANTS.items()
    for name in mechanisms_of(small_session(variant).model)
]


@functools.cache
def ready(title: str) -> tuple[Session, Any, Inputs, Any]:
    """Returns a small model, its variables, windows, and the compiled call with replacements."""
    session = small_session(VARIANTS[title])
    # Not in the order of the alphabet, which JAX gives to a dict.
    model = session.model.clone(streams=tuple(sorted(session.streams, reverse=True)))
    session = dataclasses.replace(session, model=model)
    inputs = make_inputs(session, (12, 9))
    return session, random_variables(session), inputs, compiled(model, inputs)


def compiled(model: nn.Module, inputs: Inputs, shuffled: str = "") -> Any:
    """Compiles (variables, (M,) bool) -> outputs of all tasks on real frames."""
    mechanisms = mechanisms_of(model)
    shuffled_M = np.array([name == shuffled for name in mechanisms])

    def call(variables: Any, chosen_M: Any) -> Any:
        params = replaced_parameters(mechanisms, chosen_M, variables["params"])
        with replaced(mechanisms, chosen_M, jnp.asarray(shuffled_M) if shuffled else None):
            return apply(model, variables | {"params": params}, inputs)

    program = jax.jit(call, compiler_options=quick_compiling())
    return lambda variables, chosen_M: on_real_frames(program(variables, chosen_M), inputs)


def apply(model: nn.Module, variables: Any, inputs: Inputs) -> Any:
    options: dict[str, Any] = {"valid": inputs.valid, "train": False}
    return model.apply(variables, inputs.streams, inputs.masks, **options)[0]


def plain(model: nn.Module, variables: Any, inputs: Inputs) -> np.ndarray:
    """Returns the outputs of a model as it is."""
    program = jax.jit(lambda given: apply(model, given, inputs), compiler_options=quick_compiling())
    return on_real_frames(program(variables), inputs)


def on_real_frames(outputs: Any, inputs: Inputs) -> np.ndarray:
    return np.concatenate([np.asarray(x)[inputs.frames_BT] for x in outputs.values()], axis=-1)


def outputs_of(title: str, *names: str, params: Any = None) -> np.ndarray:
    """Returns outputs with these mechanisms replaced."""
    session, variables, _, call = ready(title)
    chosen_M = np.array([name in names for name in mechanisms_of(session.model)])
    return call(variables if params is None else variables | {"params": params}, chosen_M)


def zeroed(params: Any, *starts: str) -> Any:
    """Returns parameters with zeros where the path begins with one of these words."""

    def one(path: Any, leaf: Any) -> Any:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return leaf * (not name.startswith(starts))

    return jax.tree_util.tree_map_with_path(one, params)


# -- every mechanism ---------------------------------------------------------------------------


@pytest.mark.parametrize(("title", "name"), EVERY)
def test_every_mechanism_is_alive_in_a_random_model(title: str, name: str) -> None:
    change = outputs_of(title, name) - outputs_of(title)
    assert np.sqrt(np.mean(change**2)) > 1e-3


@pytest.mark.parametrize("title", VARIANTS)
def test_a_model_without_replacements_is_the_model(title: str) -> None:
    session, variables, inputs, _ = ready(title)
    expected = plain(session.model, variables, inputs)
    np.testing.assert_allclose(outputs_of(title), expected, rtol=1e-5, atol=2e-6)


# Parameters without which a mechanism does what its replacement does.
DEAD = {
    "rjcma": ("attention", ["recursion_0/w_h"]),
    "rjcma:upstream": ("attention", ["recursion_0/update"]),
    "exptrm": ("vggface queries compare_lld", ["cross_vggface_compare_lld/query"]),
    "exptrm:v": ("self-attention vggface", ["encoder_vggface/layer_0/attention/query"]),
    "emma_net": ("attention to fan", ["fusion/w_k_fan"]),
    "emma_net:bilinear": ("bilinear attention to deepspectrum", ["fusion/w_deepspectrum"]),
    "emma_net:gating": ("gates", ["fusion/gate_"]),
    "emma_net:additive": ("weights of the streams", ["fusion/logits"]),
    "tcn_transformer": ("attention of the encoder", ["transformer/layer_0/attention/query"]),
    "multiscale_tcn": ("kernel 5", ["encoder_ir50/kernel_5", "encoder_vggish/kernel_5"]),
}


@pytest.mark.parametrize("title", DEAD)
def test_a_dead_mechanism_has_no_effect(title: str) -> None:
    name, starts = DEAD[title]
    params = zeroed(ready(title)[1]["params"], *starts)
    np.testing.assert_allclose(
        outputs_of(title, name, params=params), outputs_of(title, params=params), atol=2e-6
    )


@pytest.mark.parametrize("title", [title for title in DEAD if title != "multiscale_tcn"])
def test_a_replacement_is_the_mechanism_without_its_parameters(title: str) -> None:
    # Scores of zero are uniform attention, gates of zero are one half.
    name, starts = DEAD[title]
    expected = outputs_of(title, params=zeroed(ready(title)[1]["params"], *starts))
    np.testing.assert_allclose(outputs_of(title, name), expected, rtol=1e-5, atol=2e-6)


# -- single replacements -----------------------------------------------------------------------


def test_uniform_weights_are_equal_over_what_is_allowed() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    allowed = rng.random((2, 1, 4, 5)) < 0.6
    allowed[0, 0, 0] = False
    with replaced({"weights": Mechanism("uniform", ("",), uniform)}, jnp.array([True])):
        found = AttentionWeights().apply({}, scores, allowed)
    count = np.maximum(allowed.sum(axis=-1, keepdims=True), 1).astype(np.float64)
    np.testing.assert_allclose(found, np.broadcast_to(allowed / count, scores.shape), rtol=1e-6)


def test_a_uniform_query_finds_the_mean_of_the_real_rows() -> None:
    rng = np.random.default_rng(1)
    query_BTD, source_BSD = rng.normal(size=(2, 2, 6, 4)).astype(np.float32)
    mask_BS = np.arange(6)[None] < np.array([[6], [4]])
    with replaced({"query": Mechanism("uniform", ("weights",), uniform)}, jnp.array([True])):
        found = CrossModalAttention().apply({}, query_BTD, source_BSD, mask_BS)
    for b, real_S in enumerate(mask_BS):
        mean_D = source_BSD[b][real_S].astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(found[b], np.tile(mean_D, (6, 1)), rtol=1e-5, atol=1e-6)


def test_uniform_streams_give_each_stream_the_mean_of_all_values() -> None:
    rng = np.random.default_rng(2)
    features = {name: rng.normal(size=(2, 3, 4)).astype(np.float32) for name in ("b", "a")}
    model = ModalityAttention(width=4, heads=2)
    variables = model.init(jax.random.key(0), features, train=False)
    with replaced({"streams": Mechanism("uniform", ("weights",), uniform)}, jnp.array([True])):
        found = model.apply(variables, features, train=False)
    params = variables["params"]
    # Heads, then (query, key, value), then 2 columns.
    values = {
        name: (x_BTD @ params[f"qkv_{name}"]["kernel"]).reshape(2, 3, 2, 3, 2)[..., 2, :]
        for name, x_BTD in features.items()
    }
    mean = sum(values.values()) / 2
    # Heads, then streams, then columns; every stream adds its own value.
    joined = np.stack([mean + values[name] for name in features], axis=-2).reshape(2, 3, -1)
    output = joined @ params["output"]["kernel"]
    centred = output - output.mean(axis=-1, keepdims=True)
    expected = centred / np.sqrt(centred.var(axis=-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_mean_over_time_is_that_of_one_part_on_real_frames() -> None:
    x_BTD = np.random.default_rng(3).normal(size=(2, 5, 6)).astype(np.float32)
    mask_BT = np.arange(5)[None] < np.array([[5], [3]])
    x_BTD = x_BTD * mask_BT[..., None]
    found = time_mean(Call({"mask_BT": jnp.asarray(mask_BT)}, jnp.asarray(x_BTD)), part=1, parts=3)
    expected = x_BTD.astype(np.float64)
    for b, real_T in enumerate(mask_BT):
        expected[b, real_T, 2:4] = expected[b, real_T, 2:4].mean(axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_recursion_replaced_is_a_recursion_less() -> None:
    session, _, inputs, _ = ready("rjcma")
    three, two = (session.model.clone(recursions=count) for count in (3, 2))
    variables = random_variables(dataclasses.replace(session, model=three))
    params = dict(variables["params"])
    chosen_M = np.array([name == "recursion 2" for name in mechanisms_of(three)])
    found = compiled(three, inputs)(variables, chosen_M)
    params["recursion_1"] = params.pop("recursion_2")
    expected = plain(two, variables | {"params": params}, inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)


def test_an_encoder_replaced_is_a_model_without_layers() -> None:
    session, variables, inputs, _ = ready("tcn_transformer")
    without = session.model.clone(layers=0)
    params = {name: part for name, part in variables["params"].items() if name != "transformer"}
    expected = plain(without, variables | {"params": params}, inputs)
    found = outputs_of("tcn_transformer", "encoder")
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)


# -- another video's input ---------------------------------------------------------------------


def beside(own: Inputs, other: Inputs) -> Inputs:
    """Returns windows, and behind them those of another video, whose results do not count."""
    parts = [
        {name: np.concatenate([a[name], b[name]]) for name in a}
        for a, b in ((own.streams, other.streams), (own.masks, other.masks), (own.valid, own.valid))
    ]
    frames_BT = np.concatenate([own.frames_BT, np.zeros_like(own.frames_BT)])
    return Inputs(*parts, frames_BT)


def test_a_direction_sees_another_video_and_the_rest_does_not() -> None:
    session, variables, inputs, _ = ready("exptrm")
    other = make_inputs(session, (12, 9), seed=1)
    asks, answers = "vggface", "compare_lld"
    call = compiled(session.model, beside(inputs, other), shuffled=f"{asks} queries {answers}")
    nothing = np.zeros(len(mechanisms_of(session.model)), bool)
    params = variables["params"]
    # Without the opposite direction, the source reaches the output through this one alone.
    alone = zeroed(params, f"weight_{answers}_{asks}")
    mixed = dataclasses.replace(inputs, streams={**inputs.streams, answers: other.streams[answers]})
    expected = plain(session.model, variables | {"params": alone}, mixed)
    found = call(variables | {"params": alone}, nothing)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)
    # Without this direction, nothing is another video's.
    opposite = zeroed(params, f"weight_{asks}_{answers}")
    expected = plain(session.model, variables | {"params": opposite}, inputs)
    found = call(variables | {"params": opposite}, nothing)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)


def test_each_stream_of_a_recursion_sees_the_others_of_another_video() -> None:
    rng = np.random.default_rng(4)
    own, other = (
        {name: rng.normal(size=(2, 6, 3)).astype(np.float32) for name in ("b", "c", "a")}
        for _ in range(2)
    )
    mask_BT = np.ones((2, 6), bool)
    block = JointCrossAttention(window=6)
    shapes = jax.eval_shape(lambda: block.init(jax.random.key(0), own, mask_BT, train=False))
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    both = {name: np.concatenate([own[name], other[name]]) for name in own}
    mechanism = Mechanism("identity", ("",), lambda call: call.output, views=other_streams)
    with replaced({"attention": mechanism}, jnp.array([False]), jnp.array([True])):
        found = block.apply(variables, both, np.tile(mask_BT, (2, 1)), train=False)
    unaltered = block.apply(variables, other, mask_BT, train=False)
    for name in own:
        view = {one: own[one] if one == name else other[one] for one in own}
        expected = block.apply(variables, view, mask_BT, train=False)
        np.testing.assert_allclose(found[name][:2], expected[name], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found[name][2:], unaltered[name], rtol=1e-4, atol=1e-4)
