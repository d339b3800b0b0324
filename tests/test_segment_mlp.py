"""Segment MLP: equations against numpy, padding, the course over time, refused fields."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emojax.errors import InputError
from emojax.models.segment_mlp import SegmentMLP
from tests.applying import initialised, run

WIDTHS = {"cardiac": 2, "eda": 5}
WINDOW, SEGMENTS, BATCH = 23, 4, 3


def make(**fields: Any) -> SegmentMLP:
    options = {"segments": SEGMENTS, "hidden": 8, "centre": 5.0} | fields
    return SegmentMLP(outputs={"va": 2}, streams=tuple(WIDTHS), window=WINDOW, **options)


def inputs(length: int = WINDOW, seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    rng = np.random.default_rng(seed)
    streams = {
        name: jnp.asarray(rng.normal(size=(BATCH, length, width)), jnp.float32)
        for name, width in WIDTHS.items()
    }
    return streams, {name: jnp.ones((BATCH, length), bool) for name in WIDTHS}


def trained(model: SegmentMLP, streams: Any, masks: Any) -> Any:
    """Returns parameters of which none is zero."""
    variables = initialised(model, streams, masks, train=False)
    leaves, tree = jax.tree.flatten(variables)
    rng = np.random.default_rng(1)
    return tree.unflatten([jnp.asarray(rng.normal(size=x.shape), jnp.float32) for x in leaves])


def test_outputs_agree_with_numpy() -> None:
    model = make(degree=2)
    streams, masks = inputs()
    variables = trained(model, streams, masks)
    got = run(model, variables, streams, masks, train=False)[0]["va"]

    params = jax.tree.map(np.float64, variables["params"])
    segment = np.arange(WINDOW) * SEGMENTS // WINDOW
    means = [
        np.stack([np.float64(x)[:, segment == s].mean(axis=1) for s in range(SEGMENTS)], axis=1)
        for x in streams.values()
    ]
    x = np.concatenate([mean.reshape(BATCH, -1) for mean in means], axis=-1)
    h = x @ params["hidden"]["kernel"] + params["hidden"]["bias"]
    h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
    course = (h @ params["output_va"]["kernel"] + params["output_va"]["bias"]).reshape(BATCH, 2, 3)
    t = np.linspace(-1, 1, WINDOW)
    basis = np.stack([np.ones_like(t), t, (3 * t**2 - 1) / 2], axis=-1)
    expected = np.einsum("bcp,tp->btc", course, basis) + 5.0
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


def test_untrained_model_predicts_the_centre() -> None:
    model = make()
    streams, masks = inputs()
    variables = initialised(model, streams, masks, train=False)
    outputs, aux = run(model, variables, streams, masks, train=False)
    np.testing.assert_array_equal(outputs["va"], np.full((BATCH, WINDOW, 2), 5.0))
    assert aux == {"losses": {}}


def test_degree_zero_is_constant_in_time() -> None:
    model = make(degree=0)
    streams, masks = inputs()
    outputs = run(model, trained(model, streams, masks), streams, masks, train=False)[0]["va"]
    np.testing.assert_array_equal(outputs, jnp.broadcast_to(outputs[:, :1], outputs.shape))


def test_dropout_acts_in_training_only() -> None:
    model = make()
    streams, masks = inputs()
    variables = trained(model, streams, masks)

    def drawn(seed: int) -> Any:
        rngs = {"dropout": jax.random.key(seed)}
        return run(model, variables, streams, masks, train=True, rngs=rngs)[0]["va"]

    np.testing.assert_array_equal(drawn(0), drawn(0))
    assert not np.array_equal(drawn(0), drawn(1))


def test_wrong_streams_and_fields_are_refused() -> None:
    streams, masks = inputs()

    def init(model: SegmentMLP, streams: Any = streams, masks: Any = masks) -> None:
        model.init(jax.random.key(0), streams, masks, train=False)

    for others in (({"eda": streams["eda"]},), inputs(WINDOW + 1)):
        with pytest.raises(InputError):
            init(make(), *others)
    wrong = {"segments": 0, "hidden": 0, "degree": -1, "dropout": 1.0, "input_dropout": -0.1}
    for field, value in wrong.items():
        with pytest.raises(InputError) as caught:
            init(make(**{field: value}))
        assert caught.value.details["field"] == f"config.model.{field}"
