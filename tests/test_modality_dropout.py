"""Tests modality dropout: its rates, its streams, its limit and its keys."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emojax.core.modality_dropout import ModalityDropout
from emojax.core.session import fold_normalisation
from emojax.core.step import forward
from emojax.datasets.pipeline import training_batches
from emojax.datasets.source import Store
from emojax.errors import InputError
from tests.small_store import build_small_store
from tests.training_runs import session_of, tiny_config

NAMES = ("audio", "face", "text")


def ones(batch: int, length: int = 40, names: tuple[str, ...] = NAMES) -> dict[str, jax.Array]:
    """Returns streams of ones, each of a length of its own, so that what is zero was dropped."""
    return {
        name: jnp.ones((batch, length + 5 * i, 2 + i), jnp.float32) for i, name in enumerate(names)
    }


def kept(streams: dict[str, jax.Array]) -> dict[str, np.ndarray]:
    """Returns stream -> (B, T), which rows are left; a row goes as a whole or not at all."""
    for x in streams.values():
        assert set(np.unique(x)) <= {0.0, 1.0}
        np.testing.assert_array_equal(x.min(axis=-1), x.max(axis=-1))
    return {name: np.asarray(x)[..., 0] > 0 for name, x in streams.items()}


def test_rows_go_missing_independently_at_their_rate() -> None:
    left = kept(ModalityDropout(frames=0.3)(ones(200), jax.random.key(0)))
    for name in NAMES:
        assert left[name].mean() == pytest.approx(0.7, abs=0.02)
        # Neither whole windows nor whole instants: rates of both stay close to the mean.
        assert left[name].mean(axis=1).std() == pytest.approx(np.sqrt(0.21 / 45), abs=0.02)
        assert left[name].mean(axis=0).std() < 0.06
    # Streams do not go together.
    both = left["audio"][:, :40] & left["face"][:, :40]
    assert both.mean() == pytest.approx(0.49, abs=0.02)


@pytest.mark.parametrize("rate", [0.3, 0.9])
def test_whole_streams_go_missing_and_never_all_of_a_window(rate: float) -> None:
    left = kept(ModalityDropout(streams=rate)(ones(3000), jax.random.key(1)))
    there = np.stack([left[name].any(axis=1) for name in NAMES], axis=1)
    for i, name in enumerate(NAMES):
        np.testing.assert_array_equal(left[name].all(axis=1), there[:, i])
    assert there.any(axis=1).all()
    # Where all three would have gone, which one stays is drawn evenly.
    expected = 1 - rate + rate**3 / 3
    np.testing.assert_allclose(there.mean(axis=0), expected, atol=0.03)


def test_a_single_stream_is_never_dropped_as_a_whole() -> None:
    left = kept(ModalityDropout(streams=0.99)(ones(50, names=("face",)), jax.random.key(2)))
    assert left["face"].all()


def test_draws_follow_the_key_and_not_the_order_of_the_streams() -> None:
    drop = ModalityDropout(frames=0.2, streams=0.3)
    streams = ones(8)
    first = drop(streams, jax.random.key(3))
    turned = drop(dict(reversed(streams.items())), jax.random.key(3))
    for name in NAMES:
        np.testing.assert_array_equal(first[name], turned[name])
    other = drop(streams, jax.random.key(4))
    assert any(not np.array_equal(first[name], other[name]) for name in NAMES)


def test_replicas_draw_what_separate_runs_draw() -> None:
    drop = ModalityDropout(frames=0.2, streams=0.3)
    keys = jax.vmap(jax.random.key)(jnp.arange(3))
    together = jax.vmap(drop, in_axes=(None, 0))(ones(6), keys)
    for r in range(3):
        alone = drop(ones(6), jax.random.key(r))
        for name in NAMES:
            np.testing.assert_array_equal(together[name][r], alone[name])


def test_off_is_off() -> None:
    assert not ModalityDropout()
    assert ModalityDropout(frames=0.1)
    assert ModalityDropout(streams=0.1)
    left = kept(ModalityDropout(frames=0.0, streams=0.0)(ones(20), jax.random.key(0)))
    assert all(rows.all() for rows in left.values())


# -- in the step -------------------------------------------------------------------------------


class Spy:
    """A stand-in for a model that returns its inputs."""

    def apply(self, variables: Any, streams: Any, masks: Any, **options: Any) -> Any:
        outputs = {"streams": streams, "masks": masks, "valid": options["valid"]}
        if options["train"]:
            return (outputs, {"losses": {}}), {}
        return outputs, {"losses": {}}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(build_small_store(tmp_path_factory.mktemp("store") / "small"))


def test_it_acts_after_normalisation_in_training_only_and_leaves_the_masks_on(
    store: Store,
) -> None:
    rates = {"modality_dropout": {"frames": 0.5}}
    session = session_of(store, tiny_config(store.path, train=rates))
    drop = session.modality_dropout
    assert (drop.frames, drop.streams) == (0.5, 0.0)
    videos = store.fold("0").train
    feed = training_batches(store, videos, session.window_spec, batch_size=8, seed=0)
    batch, normalisation = (
        next(feed),
        fold_normalisation(store, session.folds.keys, session.streams),
    )

    def given(train: bool, modality_dropout: ModalityDropout | None) -> Any:
        return forward(
            Spy(),  # type: ignore[arg-type]
            {},
            {},
            batch,
            normalisation,
            train=train,
            dropout_key=jax.random.key(0),
            modality_dropout=modality_dropout,
        )[0]

    plain, dropped, evaluated = given(True, None), given(True, drop), given(False, drop)
    for name in session.streams:
        whole = np.asarray(plain["streams"][name])
        found = np.asarray(dropped["streams"][name])
        np.testing.assert_array_equal(evaluated["streams"][name], whole)
        rows = batch.stream_valid[name]
        gone = (found == 0).all(axis=-1)
        assert gone[rows].mean() == pytest.approx(0.5, abs=0.15)
        np.testing.assert_array_equal(found[~gone], whole[~gone])
        for mask in ("masks", "valid"):
            np.testing.assert_array_equal(dropped[mask][name], plain[mask][name])


@pytest.mark.parametrize(
    ("rates", "field"),
    [
        ({"frames": 1.0}, "modality_dropout.frames"),
        ({"streams": -0.1}, "modality_dropout.streams"),
        ({"streams": float("nan")}, "modality_dropout.streams"),
        ({"frames": "often"}, "modality_dropout.frames"),
        ({"stream": 0.1}, "modality_dropout.stream"),
        (0.1, "modality_dropout"),
    ],
)
def test_rates_that_cannot_be_are_refused(store: Store, rates: Any, field: str) -> None:
    with pytest.raises(InputError) as caught:
        session_of(store, tiny_config(store.path, train={"modality_dropout": rates}))
    assert caught.value.details["field"] == f"config.train.{field}"
    assert {"found", "expected"} <= set(caught.value.details)
