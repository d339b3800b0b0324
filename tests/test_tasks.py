"""The task table is complete, and its decoding and scores are the tasks' own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emojax.ops.scores import is_error, score_kind
from emojax.ops.tasks import TASK_OPS, task_ops
from emojax.specs import TASKS, TaskSpec

EVERY_TASK = sorted(TASKS)


def decoded_batch(task: str, frames: int = 200) -> tuple:
    """Returns decoded predictions, labels with ignore values and mask of one long video."""
    spec, rng = TASKS[task], np.random.default_rng(0)
    prediction_NC = TASK_OPS[task].decode(rng.normal(size=(frames, spec.outputs)))
    if spec.kind == "continuous":
        labels_NK = rng.uniform(-1, 1, (frames, spec.columns))
    else:
        classes = spec.outputs if spec.kind == "categorical" else 2
        labels_NK = rng.integers(0, classes, (frames, spec.columns)).astype(np.float64)
    mask_NK = rng.random(labels_NK.shape) > 0.3
    return prediction_NC, np.where(mask_NK, labels_NK, spec.ignore), mask_NK


def test_every_task_has_a_row() -> None:
    assert set(TASK_OPS) == set(TASKS)


def test_scores_and_targets_keep_their_names() -> None:
    """Runs, tables and configurations of others name them."""
    assert TASK_OPS["va"].score_names == (
        "ccc_valence", "ccc_arousal", "ccc_mean",
        "rmse_valence", "rmse_arousal", "pearson_valence", "pearson_arousal",
    )  # fmt: skip
    assert TASK_OPS["expr"].score_names == (
        "f1_Neutral", "f1_Anger", "f1_Disgust", "f1_Fear", "f1_Happiness", "f1_Sadness",
        "f1_Surprise", "f1_Other", "f1_macro", "accuracy",
    )  # fmt: skip
    assert TASK_OPS["au"].score_names == (*(f"f1_{u}" for u in TASKS["au"].labels), "f1_mean")
    assert TASK_OPS["expr"].targets == ("expression",)
    assert TASK_OPS["ekman"].targets == ("ekman",)
    assert TASK_OPS["va"].targets == ("valence", "arousal")
    for ops in TASK_OPS.values():
        assert set(ops.details) < set(ops.score_names)
        kinds = {score_kind(name) for name in (*ops.selections, *ops.score_names)}
        assert all(kind.higher_is_better is not None for kind in kinds)
        assert not is_error(ops.primary)
        assert not is_error(ops.default_selection)


@pytest.mark.parametrize(
    ("spec", "likewise", "scores"),
    [
        (
            TaskSpec("mood", "continuous", ("pleasure", "tension", "energy"), -9.0),
            "va",
            {"ccc_tension", "ccc_mean", "rmse_energy", "pearson_pleasure"},
        ),
        (
            TaskSpec("gaze", "categorical", ("left", "right", "away"), -1.0),
            "expr",
            {"f1_left", "f1_right", "f1_away", "f1_macro", "accuracy"},
        ),
        (TaskSpec("blink", "binary", ("one", "both"), -1.0), "au", {"f1_one", "f1_mean"}),
    ],
)
def test_a_new_task_is_one_row(spec: TaskSpec, likewise: str, scores: set[str]) -> None:
    """Everything else follows from its kind, under its own labels."""
    ops, like = task_ops(spec), TASK_OPS[likewise]
    rng = np.random.default_rng(0)
    prediction = ops.decode(rng.normal(size=(50, spec.outputs)))
    top = spec.outputs if spec.kind == "categorical" else 2
    labels = rng.integers(0, top, (50, spec.columns)).astype(float)
    found = ops.scores(prediction, labels, np.ones_like(labels, bool))
    assert scores <= set(found)
    assert all(any(label in name for label in spec.labels) for name in ops.details)
    for table in ("losses", "selections"):
        assert set(getattr(ops, table)) == set(getattr(like, table))
    assert ops.primary == like.primary
    (error,) = filter(is_error, like.selections)
    assert task_ops(spec, default_selection=error).default_selection == error


@pytest.mark.parametrize("task", EVERY_TASK)
def test_rows_are_consistent(task: str) -> None:
    ops = TASK_OPS[task]
    assert ops.name == task
    assert ops.default_loss in ops.losses
    assert ops.default_selection in ops.selections
    assert ops.primary in ops.score_names
    prediction, labels, mask = decoded_batch(task)
    scores = ops.scores(prediction, labels, mask)
    assert tuple(scores) == ops.score_names
    assert all(type(value) is float and np.isfinite(value) for value in scores.values())
    for selection in ops.selections:
        chosen = ops.target_scores(prediction, labels, mask, selection)
        assert chosen.shape == (len(ops.targets),)


@pytest.mark.parametrize("task", EVERY_TASK)
def test_scores_of_nothing_are_zero(task: str) -> None:
    prediction, labels, mask = decoded_batch(task)
    scores = TASK_OPS[task].scores(prediction, labels, np.zeros_like(mask))
    assert set(scores.values()) == {0.0}


@pytest.mark.parametrize("task", EVERY_TASK)
def test_target_scores_under_vmap_select_what_the_host_selects(task: str) -> None:
    ops = TASK_OPS[task]
    prediction, labels, mask = decoded_batch(task)
    prediction_RNC = jnp.stack([jnp.asarray(prediction), jnp.asarray(prediction[::-1])])
    device = jax.jit(jax.vmap(ops.target_scores, in_axes=(0, None, None)))(
        prediction_RNC, labels, mask
    )
    for r, values in enumerate((prediction, prediction[::-1])):
        np.testing.assert_allclose(device[r], ops.target_scores(values, labels, mask), atol=1e-5)


@pytest.mark.parametrize("task", EVERY_TASK)
def test_decoding_on_the_device_equals_the_host(task: str) -> None:
    spec, ops = TASKS[task], TASK_OPS[task]
    raw = np.random.default_rng(1).normal(size=(3, 7, spec.outputs)) * 20
    host = ops.decode(raw)
    np.testing.assert_allclose(jax.jit(ops.decode)(jnp.asarray(raw)), host, atol=1e-5)
    decisions = ops.decide(host)
    assert decisions.shape == (3, 7, spec.columns)


@pytest.mark.parametrize("task", EVERY_TASK)
def test_greater_is_better_for_every_selection(task: str) -> None:
    spec, ops = TASKS[task], TASK_OPS[task]
    if spec.kind == "continuous":
        labels = np.linspace(-1, 1, 50)[:, None] * np.ones((1, 2))
        good, bad = labels + 0.01, -labels
    elif spec.kind == "categorical":
        labels = (np.arange(50) % spec.outputs)[:, None].astype(float)
        good = 0.5 * np.eye(spec.outputs)[labels[:, 0].astype(int)] + 0.5 / spec.outputs
        bad = np.roll(good, 1, axis=1)
    else:
        labels = np.broadcast_to(np.arange(50)[:, None] % 2, (50, spec.outputs)).astype(float)
        good, bad = 0.2 + 0.6 * labels, 0.8 - 0.6 * labels
    mask = np.ones(labels.shape, bool)
    for selection in ops.selections:
        better = ops.target_scores(good, labels, mask, selection)
        worse = ops.target_scores(bad, labels, mask, selection)
        assert (better > worse).all()


@pytest.mark.slow
@pytest.mark.parametrize("task", ["expr", "ekman", "au"])
def test_selection_by_loss_is_the_training_loss_of_the_same_frames(task: str) -> None:
    """Early stopping on validation loss: minus the mean over annotated frames."""
    spec, ops = TASKS[task], TASK_OPS[task]
    rng = np.random.default_rng(5)
    raw = rng.normal(size=(4, 30, spec.outputs)) * 2
    _, labels, mask = decoded_batch(task, 120)
    labels, mask = (x.reshape(4, 30, -1) for x in (labels, mask))
    (name,) = filter(is_error, ops.selections)
    chosen = ops.target_scores(ops.decode(raw), labels, mask, name)
    trained = ops.losses[name](jnp.asarray(raw), jnp.asarray(labels), jnp.asarray(mask))
    np.testing.assert_allclose(chosen, -np.asarray(trained), rtol=1e-5)
    # Certain and wrong costs much, and stays a number, on the device as well.
    certain = ops.decode(np.full((3, spec.outputs), -200.0) + 400 * np.eye(3, spec.outputs))
    wrong = np.full((3, spec.columns), 1.0)
    wrong[1] = 0.0
    for decoded in (certain, jnp.asarray(certain, jnp.float32)):
        cost = ops.target_scores(decoded, wrong, np.ones_like(wrong, bool), name)
        assert np.isfinite(cost).all()
        assert (np.asarray(cost) < -3).all() or task == "au"
        assert np.asarray(cost).min() < -3


def test_a_nan_prediction_is_not_hidden_by_the_loss() -> None:
    prediction, labels, mask = decoded_batch("expr")
    prediction[np.flatnonzero(mask[:, 0])[3]] = np.nan
    assert np.isnan(TASK_OPS["expr"].target_scores(prediction, labels, mask, "cross_entropy"))


def test_confusion_counts_true_classes_in_rows() -> None:
    ops = TASK_OPS["ekman"]
    prediction = np.eye(7)[[4, 4, 0, 6]]
    labels = np.array([[4.0], [1], [0], [-1]])
    assert ops.confusion is not None
    matrix = ops.confusion(ops.state(prediction, labels, labels >= 0))
    assert matrix.shape == (7, 7)
    assert {(int(i), int(j)) for i, j in np.argwhere(matrix)} == {(4, 4), (1, 4), (0, 0)}
    assert matrix.sum() == 3
    assert [name for name, row in TASK_OPS.items() if row.confusion] == ["expr", "ekman"]


def test_va_scores_are_ccc_rmse_and_pearson_of_each_dimension() -> None:
    prediction, labels, mask = decoded_batch("va")
    scores = TASK_OPS["va"].scores(prediction, labels, mask)
    for c, name in enumerate(("valence", "arousal")):
        x, y = prediction[mask[:, c], c], labels[mask[:, c], c]
        ccc = 2 * np.cov(x, y, ddof=0)[0, 1] / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
        assert scores[f"ccc_{name}"] == pytest.approx(ccc, abs=1e-12)
        assert scores[f"rmse_{name}"] == pytest.approx(np.sqrt(np.mean((x - y) ** 2)), abs=1e-12)
        assert scores[f"pearson_{name}"] == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-12)
    both = (scores["ccc_valence"] + scores["ccc_arousal"]) / 2
    assert scores["ccc_mean"] == pytest.approx(both)


def test_expression_is_decided_by_argmax_after_averaging() -> None:
    """Two windows vote; the average of probabilities decides, not the vote."""
    logits = np.zeros((2, 8))
    logits[0, 2], logits[1, 5] = 1.0, 6.0
    ops = TASK_OPS["expr"]
    probabilities = ops.decode(logits)
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1.0)
    assert ops.decide(probabilities).ravel().tolist() == [2, 5]
    assert ops.decide(probabilities.mean(axis=0)).tolist() == [5]


def test_expression_scores_by_hand() -> None:
    prediction = np.eye(8)[[0, 0, 3, 3, 7]]
    labels = np.array([[0.0], [1], [3], [-1], [7]])
    scores = TASK_OPS["expr"].scores(prediction, labels, labels >= 0)
    assert scores["f1_Neutral"] == pytest.approx(2 / 3)
    assert scores["f1_Anger"] == 0
    assert scores["f1_Fear"] == scores["f1_Other"] == 1
    assert scores["f1_macro"] == pytest.approx((2 / 3 + 1 + 1) / 8)
    assert scores["accuracy"] == pytest.approx(3 / 4)


def test_action_units_are_decided_at_one_half_each_with_its_own_mask() -> None:
    ops = TASK_OPS["au"]
    np.testing.assert_array_equal(ops.decide(ops.decode(np.array([-0.1, 0.0, 0.1]))), [0, 1, 1])
    prediction = np.full((4, 12), 0.9)
    labels = np.zeros((4, 12))
    labels[:2] = 1
    labels[1, 0] = -1
    scores = ops.scores(prediction, labels, labels >= 0)
    assert scores["f1_AU1"] == pytest.approx(2 * 1 / (2 * 1 + 2))
    assert scores["f1_AU26"] == pytest.approx(2 * 2 / (2 * 2 + 2))
    assert scores["f1_mean"] == pytest.approx((1 / 2 + 11 * 2 / 3) / 12)
    assert ops.targets == TASKS["au"].labels


def test_states_of_parts_merge_to_the_whole() -> None:
    for task in EVERY_TASK:
        ops = TASK_OPS[task]
        prediction, labels, mask = decoded_batch(task)
        head = ops.state(prediction[:70], labels[:70], mask[:70])
        tail = ops.state(prediction[70:], labels[70:], mask[70:])
        merged = ops.summarise(head.merge(tail))
        for name, value in ops.scores(prediction, labels, mask).items():
            assert merged[name] == pytest.approx(value, abs=1e-12)
        for selection, read in ops.selections.items():
            whole = ops.target_scores(prediction, labels, mask, selection)
            np.testing.assert_allclose(read(head.merge(tail)), whole, atol=1e-12)
