"""The EPiC-2023 score, its loss and the published table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emojax.ops.epic import SCENARIOS, TEAMS, official_rmse, recording_rmse, window_rmse_loss


def recordings(seed: int, count: int, frames: int = 30) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.uniform(0.5, 9.5, (frames, 2)) for _ in range(count)]


def test_score_is_the_mean_over_recordings_then_over_folds() -> None:
    labels = {"a": recordings(0, 3), "b": recordings(1, 1)}
    predictions = {"a": recordings(2, 3), "b": recordings(3, 1)}
    by_hand = np.zeros(2)
    for fold in labels:
        errors = [
            [np.sqrt(((p[5:20, c] - y[5:20, c]) ** 2).sum() / 15) for c in range(2)]
            for p, y in zip(predictions[fold], labels[fold], strict=True)
        ]
        by_hand += np.array(errors).sum(axis=0) / len(errors) / 2
    np.testing.assert_allclose(official_rmse(predictions, labels, (5, 20)), by_hand, rtol=1e-12)


def test_only_scored_frames_count() -> None:
    (labels,), (prediction,) = recordings(0, 1), recordings(1, 1)
    before = recording_rmse(prediction, labels, (5, 20))
    labels[:5], prediction[20:] = -5.0, np.nan
    np.testing.assert_array_equal(recording_rmse(prediction, labels, (5, 20)), before)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda p, y: y.__setitem__((7, 0), -5.0), "labelled"),
        (lambda p, y: y.__setitem__((7, 0), np.nan), "labelled"),
        (lambda p, y: p.__setitem__((7, 0), np.nan), "not finite"),
    ],
)
def test_what_cannot_be_scored_is_refused(change, match: str) -> None:  # noqa: ANN001
    (labels,), (prediction,) = recordings(0, 1), recordings(1, 1)
    change(prediction, labels)
    with pytest.raises(ValueError, match=match):
        recording_rmse(prediction, labels, (5, 20))


def test_mismatches_are_refused() -> None:
    (labels,), (prediction,) = recordings(0, 1), recordings(1, 1)
    with pytest.raises(ValueError, match="must both be"):
        recording_rmse(prediction[:-1], labels, (5, 20))
    for scored in ((20, 5), (5, 31), (-1, 5)):
        with pytest.raises(ValueError, match="scored frames"):
            recording_rmse(prediction, labels, scored)
    with pytest.raises(ValueError, match="folds differ"):
        official_rmse({"a": [prediction]}, {"b": [labels]}, (5, 20))
    with pytest.raises(ValueError, match="recordings"):
        official_rmse({"a": []}, {"a": [labels]}, (5, 20))
    with pytest.raises(ValueError, match="folds differ"):
        official_rmse({}, {}, (5, 20))


def test_table_has_every_team_in_every_scenario() -> None:
    assert len(TEAMS) == 12
    for rows in TEAMS.values():
        assert rows.keys() == SCENARIOS.keys()
        assert all(len(pair) == 2 and 0.5 < min(pair) < 3 for pair in rows.values())


def test_loss_is_the_score_of_one_fold() -> None:
    labels, predictions = np.stack(recordings(0, 4)), np.stack(recordings(1, 4))
    mask = np.zeros(labels.shape, bool)
    mask[:, 5:20] = True
    expected = official_rmse({"a": list(predictions)}, {"a": list(labels)}, (5, 20))
    arrays = (jnp.asarray(predictions, jnp.float32), jnp.asarray(labels, jnp.float32))
    got = window_rmse_loss(*arrays, jnp.asarray(mask))
    np.testing.assert_allclose(got, expected, rtol=1e-4)


@pytest.mark.parametrize("case", ["exact", "unlabelled", "one frame", "half"])
def test_loss_and_gradient_are_finite(case: str) -> None:
    labels = jnp.asarray(np.stack(recordings(0, 3)), jnp.float32)
    outputs = labels if case == "exact" else labels + 1.0
    mask = np.ones(labels.shape, bool)
    if case == "unlabelled":
        mask[:] = False
    elif case == "one frame":
        mask[:] = False
        mask[1, 4] = True
    elif case == "half":
        mask[0] = False
    mask = jnp.asarray(mask)
    loss = window_rmse_loss(outputs, labels, mask)
    gradient = jax.grad(lambda x: window_rmse_loss(x, labels, mask).sum())(outputs)
    assert np.isfinite(loss).all()
    assert np.isfinite(gradient).all()
    assert not np.asarray(gradient)[~np.asarray(mask)].any()
    expected = {"exact": 0.01, "unlabelled": 0.0}.get(case, np.sqrt(1.0001))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
