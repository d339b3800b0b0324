"""Class weights: counted on the training fold, used as PyTorch uses them."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emojax.core.class_weights import class_weights, fold_class_weights, label_counts
from emojax.core.step import total_loss
from emojax.datasets.source import Store
from emojax.errors import InputError
from emojax.ops.losses import binary_cross_entropy_loss, cross_entropy_loss
from emojax.specs import TASKS
from emojax.types import Batch
from tests.small_store import build_small_store
from tests.training_runs import session_of, tiny_config

EXPR, AU = TASKS["expr"], TASKS["au"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder: Path = tmp_path_factory.mktemp("store")
    return Store(build_small_store(folder / "small", tasks=("va", "expr", "au")))


# -- counting ----------------------------------------------------------------------------------


def test_only_annotated_frames_of_the_videos_given_are_counted(store: Store) -> None:
    videos = store.fold("1").train
    assert set(videos) != set(store.fold("0").train)
    labels = [store.read(store.index_of(name)).labels for name in videos]
    expr = np.concatenate([row["expr"] for row in labels])[:, 0]
    au = np.concatenate([row["au"] for row in labels])
    on, off = label_counts(store, videos, "expr")
    np.testing.assert_array_equal(on, [(expr == k).sum() for k in range(8)])
    np.testing.assert_array_equal(on + off, np.full(8, (expr >= 0).sum()))
    on, off = label_counts(store, videos, "au")
    np.testing.assert_array_equal(on, (au == 1).sum(axis=0))
    np.testing.assert_array_equal(off, (au == 0).sum(axis=0))


class OneVideo:
    """A store of one video with these labels."""

    def __init__(self, **labels: np.ndarray) -> None:
        self.labels = labels

    def index_of(self, name: str) -> int:
        return 0

    def read(self, index: int) -> OneVideo:
        return self


def test_frames_without_annotation_are_no_class() -> None:
    expr = np.array([[0], [0], [-1], [7]], np.float32)
    au = np.full((3, 12), -1, np.float32)
    au[0, :2], au[1, :2] = (1, 0), (0, 0)
    video = OneVideo(expr=expr, au=au)
    on, off = label_counts(video, ("v",), "expr")  # type: ignore[arg-type]
    assert on.tolist() == [2, 0, 0, 0, 0, 0, 0, 1]
    assert (on + off).tolist() == [3] * 8
    on, off = label_counts(video, ("v",), "au")  # type: ignore[arg-type]
    assert on.tolist() == [1] + [0] * 11
    assert off.tolist() == [1, 2] + [0] * 10
    assert not np.any(label_counts(OneVideo(), ("v",), "expr"))  # type: ignore[arg-type]


# -- weighing ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "power"), [("inverse", 1.0), ("sqrt_inverse", 0.5)])
def test_weights_of_classes_are_inverse_to_counts_with_mean_one(name: str, power: float) -> None:
    on = np.array([400.0, 100, 25, 0, 1, 9, 16, 4])
    weights = class_weights(EXPR, on, on.sum() - on, name)
    assert weights[3] == 0
    there = on > 0
    products = (weights * on**power)[there]
    np.testing.assert_allclose(products, products[0], rtol=1e-6)
    assert np.sum(weights * on) / np.sum(on) == pytest.approx(1.0)
    assert not np.any(class_weights(EXPR, np.zeros(8), np.zeros(8), name))


def test_weights_of_units_are_negatives_to_positives() -> None:
    on, off = np.array([10.0, 50, 0, 7]), np.array([90.0, 50, 7, 0])
    np.testing.assert_allclose(class_weights(AU, on, off, "inverse"), [9, 1, 1, 1])
    np.testing.assert_allclose(class_weights(AU, on, off, "sqrt_inverse"), [3, 1, 1, 1])


def test_each_replica_has_the_weights_of_its_fold(store: Store) -> None:
    config = tiny_config(
        store.path,
        data={"tasks": ["va", "expr", "au"]},
        replicas={"folds": ["0", "1"], "targets": ["expr", "all"]},
        train={"class_weights": "sqrt_inverse"},
    )
    session = session_of(store, config)
    weights = fold_class_weights(store, session.folds, session.tasks, "sqrt_inverse")
    assert weights is not None
    assert set(weights) == {"expr", "au"}
    for r, replica in enumerate(session.replicas):
        counts = label_counts(store, store.fold(replica.fold).train, "expr")
        np.testing.assert_array_equal(
            weights["expr"][r], class_weights(EXPR, *counts, "sqrt_inverse")
        )
    assert not np.array_equal(weights["expr"][0], weights["expr"][2])
    assert weights["au"].shape == (4, 12)
    assert fold_class_weights(store, session.folds, session.tasks, "none") is None


# -- in the losses -----------------------------------------------------------------------------


def cross_entropy_batch() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    logits = (3 * rng.normal(size=(4, 9, 8))).astype(np.float32)
    mask = rng.random((4, 9, 1)) > 0.3
    labels = np.where(mask, rng.integers(0, 8, mask.shape), -1).astype(np.float32)
    weights = rng.uniform(0.1, 5, 8).astype(np.float32)
    weights[2] = 0
    return logits, labels, mask, weights


def test_weighted_cross_entropy_and_its_gradient_are_pytorchs() -> None:
    torch = pytest.importorskip("torch", reason="parity needs PyTorch")
    logits, labels, mask, weights = cross_entropy_batch()

    def loss(x: jax.Array) -> jax.Array:
        return cross_entropy_loss(x, labels, mask, class_weights_C=weights)[0]

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(logits))
    x = torch.tensor(logits, requires_grad=True)
    kept = torch.tensor(mask[..., 0])
    theirs = torch.nn.CrossEntropyLoss(weight=torch.tensor(weights))(
        x[kept], torch.tensor(labels[..., 0][mask[..., 0]]).long()
    )
    theirs.backward()
    assert float(value) == pytest.approx(theirs.item(), rel=1e-5)
    np.testing.assert_allclose(gradient, x.grad.numpy(), rtol=1e-4, atol=1e-6)
    assert not np.any(np.asarray(gradient)[~mask[..., 0]])
    plain = cross_entropy_loss(logits, labels, mask)[0]
    assert abs(float(plain) - float(value)) > 0.01


def test_weighted_binary_cross_entropy_and_its_gradient_are_pytorchs() -> None:
    torch = pytest.importorskip("torch", reason="parity needs PyTorch")
    rng = np.random.default_rng(1)
    logits = (5 * rng.normal(size=(3, 7, 12))).astype(np.float32)
    logits[0, 0, :2] = 200, -200  # where a naive form overflows
    labels = rng.integers(0, 2, logits.shape).astype(np.float32)
    weights = rng.uniform(0.2, 20, 12).astype(np.float32)
    mask = np.ones(logits.shape, bool)

    def loss(x: jax.Array) -> jax.Array:
        return binary_cross_entropy_loss(x, labels, mask, class_weights_C=weights).mean()

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(logits))
    x = torch.tensor(logits, requires_grad=True)
    theirs = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(weights))(x, torch.tensor(labels))
    theirs.backward()
    assert float(value) == pytest.approx(theirs.item(), rel=1e-5)
    np.testing.assert_allclose(gradient, x.grad.numpy(), rtol=1e-4, atol=1e-7)


def test_weights_of_one_change_nothing_and_masked_frames_reach_nothing() -> None:
    logits, labels, mask, _ = cross_entropy_batch()
    plain = cross_entropy_loss(logits, labels, mask)
    weighted = cross_entropy_loss(logits, labels, mask, class_weights_C=np.ones(8, np.float32))
    np.testing.assert_allclose(weighted, plain, rtol=1e-6)
    hurt = np.where(mask, logits, np.nan).astype(np.float32)
    weighted = cross_entropy_loss(hurt, labels, mask, class_weights_C=np.ones(8, np.float32))
    np.testing.assert_allclose(weighted, plain, rtol=1e-6)
    units = np.broadcast_to(labels > 3, (4, 9, 12)).astype(np.float32)
    mask_12 = np.broadcast_to(mask, units.shape)
    x = np.repeat(logits[..., :1], 12, axis=-1)
    np.testing.assert_allclose(
        binary_cross_entropy_loss(x, units, mask_12, class_weights_C=np.ones(12, np.float32)),
        binary_cross_entropy_loss(x, units, mask_12),
        rtol=1e-5,
    )
    # No frame, or only frames of a class that weighs nothing: 0 and no gradient.
    for nothing in (np.zeros_like(mask), mask):
        weights = np.zeros(8, np.float32)

        def loss(x: jax.Array, mask: np.ndarray = nothing) -> jax.Array:
            return cross_entropy_loss(x, labels, mask, class_weights_C=weights)[0]  # noqa: B023

        value, gradient = jax.value_and_grad(loss)(jnp.asarray(logits))
        assert float(value) == 0
        assert not np.any(gradient)


def test_the_total_loss_gives_each_task_its_own_weights() -> None:
    logits, labels, mask, weights = cross_entropy_batch()
    batch = Batch(
        streams={},
        stream_mask={},
        stream_valid={},
        labels={"expr": labels, "va": np.zeros((4, 9, 2), np.float32)},
        label_mask={"expr": mask, "va": np.ones((4, 9, 2), bool)},
        example_mask=np.array([True, True, True, False]),
        video_ids=np.zeros(4, np.int32),
        frame_ids=np.zeros((4, 9), np.int32),
    )

    def mean_square(x: jax.Array, y: jax.Array, mask: jax.Array) -> jax.Array:
        return jnp.mean((x - y) ** 2, axis=(0, 1))  # takes no weights

    found = total_loss(
        {"expr": jnp.asarray(logits), "va": jnp.ones((4, 9, 2))},
        {"losses": {"extra": jnp.float32(10)}},
        batch,
        {"expr": cross_entropy_loss, "va": mean_square},
        {"expr": jnp.array([0.5]), "va": jnp.array([0.25, 0.25])},
        class_weights={"expr": jnp.asarray(weights)},
    )
    three = [x[:3] for x in (logits, labels, mask)]
    expected = 0.5 * cross_entropy_loss(*three, class_weights_C=weights)[0] + 0.5 + 10
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


def test_auxiliary_losses_of_a_target_count_as_the_target_does() -> None:
    """Also their gradients: a replica of arousal must not be smoothed as one of expressions."""

    def total(x: jax.Array, weights: dict[str, jax.Array]) -> jax.Array:
        aux = {
            "losses": {"all": x[0]},
            "target_losses": {"smoothness": {"expr": x[1:2], "va": x[2:4]}},
        }
        return total_loss({}, aux, batch=None, losses={}, target_weights=weights)  # type: ignore[arg-type]

    weights = {"expr": jnp.zeros(1), "va": jnp.array([0.0, 0.5])}
    value, gradient = jax.value_and_grad(total)(jnp.array([1.0, jnp.nan, jnp.inf, 4.0]), weights)
    assert float(value) == 3
    np.testing.assert_array_equal(gradient, [1, 0, 0, 0.5])


# -- refused -----------------------------------------------------------------------------------


def test_continuous_tasks_alone_have_no_classes_to_weigh(store: Store) -> None:
    with pytest.raises(InputError) as caught:
        session_of(store, tiny_config(store.path, train={"class_weights": "inverse"}))
    assert caught.value.details["field"] == "config.train.class_weights"
    assert "va" in caught.value.details["expected"]


def test_an_unknown_kind_of_weights_is_refused(store: Store) -> None:
    config = tiny_config(
        store.path,
        data={"tasks": ["expr"]},
        replicas={"targets": ["expr"]},
        train={"class_weights": "balanced"},
    )
    with pytest.raises(InputError) as caught:
        session_of(store, config)
    assert caught.value.details["field"] == "config.train.class_weights"
    assert "sqrt_inverse" in caught.value.details["expected"]
