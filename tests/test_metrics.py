"""Metric states against float64 references written out by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import f1_score

from emojax.ops import metrics, outcomes
from emojax.ops.masking import masked_mean, zero_where_padded

ULP_WARNING_FREE = {"divide": "raise", "invalid": "raise"}


def reference_ccc(x: np.ndarray, y: np.ndarray) -> float:
    """Lin's formula, term by term, with biased moments."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    covariance = np.mean((x - x.mean()) * (y - y.mean()))
    return 2 * covariance / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)


def reference_f1(predicted: np.ndarray, true: np.ndarray, positive: float) -> float:
    """F1 through precision and recall, each 0 where it is 0 / 0."""
    hits = float(np.sum((predicted == positive) & (true == positive)))
    claimed, present = np.sum(predicted == positive), np.sum(true == positive)
    precision = hits / claimed if claimed else 0.0
    recall = hits / present if present else 0.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.fixture
def batch() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.normal(size=(5, 40, 2))
    x = 0.6 * y + 0.3 * rng.normal(size=y.shape) + 0.2
    mask = rng.random(y.shape) > 0.4
    return x, y, mask


def test_moments_equal_numpy_column_by_column(batch: tuple) -> None:
    x, y, mask = batch
    state = metrics.moments(x, y, mask)
    for c in range(2):
        xc, yc = x[..., c][mask[..., c]], y[..., c][mask[..., c]]
        assert state.count[c] == xc.size
        assert state.concordance()[c] == pytest.approx(reference_ccc(xc, yc), abs=1e-12)
        assert state.pearson()[c] == pytest.approx(np.corrcoef(xc, yc)[0, 1], abs=1e-12)
        assert state.rmse()[c] == pytest.approx(np.sqrt(np.mean((xc - yc) ** 2)), abs=1e-12)
        assert state.mean_x[c] == pytest.approx(xc.mean(), abs=1e-12)
        assert state.m2_y[c] == pytest.approx(yc.var() * yc.size, abs=1e-10)


def test_numpy_input_is_float64_whatever_its_dtype(batch: tuple) -> None:
    x, y, mask = batch
    x32, y32 = x.astype(np.float32), y.astype(np.float32)
    assert metrics.moments(x32, y32, mask).concordance().dtype == np.float64
    expected = metrics.moments(x32.astype(np.float64), y32.astype(np.float64), mask)
    np.testing.assert_array_equal(
        metrics.moments(x32, y32, mask).concordance(), expected.concordance()
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_jax_under_jit_agrees_with_the_host(batch: tuple, dtype: type) -> None:
    x, y, mask = batch
    x, y = jnp.asarray(x, dtype), jnp.asarray(y, dtype)
    state = jax.jit(metrics.moments)(x, y, mask)
    host = metrics.moments(
        np.asarray(x.astype(jnp.float32)), np.asarray(y.astype(jnp.float32)), mask
    )
    assert state.concordance().dtype == jnp.float32
    np.testing.assert_allclose(state.concordance(), host.concordance(), atol=2e-6)
    np.testing.assert_allclose(state.pearson(), host.pearson(), atol=2e-6)
    np.testing.assert_allclose(state.rmse(), host.rmse(), atol=2e-6)


def test_vmap_over_replicas_equals_a_loop(batch: tuple) -> None:
    x, y, mask = (jnp.asarray(part) for part in batch)
    x_RBTC = jnp.stack([x, 2 * x, jnp.zeros_like(x)])
    together = jax.vmap(metrics.moments, in_axes=(0, None, None))(x_RBTC, y, mask)
    for r in range(3):
        alone = metrics.moments(x_RBTC[r], y, mask)
        np.testing.assert_allclose(together.concordance()[r], alone.concordance(), atol=1e-6)


def test_large_offset_does_not_cancel() -> None:
    rng = np.random.default_rng(1)
    y = rng.normal(size=(2000, 1)).astype(np.float32) + 300.0
    x = y + 0.5 * rng.normal(size=y.shape).astype(np.float32)
    state = metrics.moments(jnp.asarray(x), jnp.asarray(y), jnp.ones(x.shape, bool))
    assert state.concordance()[0] == pytest.approx(reference_ccc(x, y), abs=1e-5)


def test_masked_entries_change_nothing(batch: tuple) -> None:
    x, y, mask = batch
    dirty_x, dirty_y = np.where(mask, x, np.nan), np.where(mask, y, 1e30)
    for a, b in zip(
        jax.tree.leaves(metrics.moments(x, y, mask)),
        jax.tree.leaves(metrics.moments(dirty_x, dirty_y, mask)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=12),
    seed=st.integers(0, 2**31),
    offset=st.floats(-100, 100),
)
@settings(max_examples=150, deadline=None)
def test_merging_any_split_gives_the_whole(sizes: list[int], seed: int, offset: float) -> None:
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(sum(sizes), 3)) + offset
    x = 0.5 * y + rng.normal(size=y.shape)
    mask = rng.random(y.shape) > rng.random()
    cuts = np.cumsum(sizes)[:-1]
    parts = [np.split(a, cuts) for a in (x, y, mask)]
    states = [metrics.moments(*part) for part in zip(*parts, strict=True)]
    whole = metrics.moments(x, y, mask)
    orders = [states, states[::-1], list(rng.permutation(np.array(states, dtype=object)))]
    for order in orders:
        merged = functools.reduce(metrics.Moments.merge, order, metrics.Moments.empty(3))
        for name in ("concordance", "pearson", "rmse", "mse"):
            np.testing.assert_allclose(
                getattr(merged, name)(), getattr(whole, name)(), atol=1e-9, rtol=0
            )
        np.testing.assert_array_equal(merged.count, whole.count)


def test_merging_is_not_averaging() -> None:
    """Predictions that know each video's mean and nothing else: good overall, useless within."""
    rng = np.random.default_rng(7)
    level = rng.normal(size=(40, 1, 1))
    y, x = (level + 0.2 * rng.normal(size=(40, 100, 1)) for _ in range(2))
    states = [metrics.moments(x[v], y[v], np.ones((100, 1), bool)) for v in range(40)]
    merged = functools.reduce(metrics.Moments.merge, states)
    assert merged.concordance()[0] == pytest.approx(reference_ccc(x, y), abs=1e-12)
    assert merged.concordance()[0] > 0.9
    assert abs(np.mean([state.concordance()[0] for state in states])) < 0.1


def test_merge_works_inside_scan(batch: tuple) -> None:
    x, y, mask = (jnp.asarray(part, jnp.float32) for part in batch)

    def step(state: metrics.Moments, part: tuple) -> tuple[metrics.Moments, None]:
        return state.merge(metrics.moments(*part)), None

    empty = metrics.Moments.empty(2, np.float32)
    state, _ = jax.lax.scan(step, jax.tree.map(jnp.asarray, empty), (x, y, mask.astype(bool)))
    np.testing.assert_allclose(
        state.concordance(), metrics.moments(*batch).concordance(), atol=1e-5
    )


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize(
    "case",
    ["empty", "one frame", "constant x", "constant y", "same constant", "other constants"],
)
def test_degenerate_data_scores_zero_without_warnings(case: str, on_device: bool) -> None:
    rng = np.random.default_rng(2)
    n = {"empty": 0, "one frame": 1}.get(case, 50)
    x, y = rng.normal(size=(n, 1)), rng.normal(size=(n, 1))
    if case in ("constant x", "same constant", "other constants"):
        x = np.full((n, 1), 0.1)
    if case in ("constant y", "same constant", "other constants"):
        y = np.full((n, 1), 0.1 if case != "other constants" else 0.7)
    mask = np.ones((n, 1), bool)
    if on_device:
        x, y, mask = jnp.asarray(x), jnp.asarray(y), jnp.asarray(mask)
    with np.errstate(**ULP_WARNING_FREE):
        state = metrics.moments(x, y, mask)
        values = [state.concordance(), state.pearson()]
        rmse = state.rmse()
    for value in values:
        np.testing.assert_allclose(value, [0.0], atol=1e-7)
    assert np.isfinite(rmse).all()


@pytest.mark.parametrize("constant", [0.1, -0.7, 1 / 3, 5.3, 1e-4, 1e4])
@pytest.mark.parametrize("n", [1, 7, 1000, 100_003])
def test_equal_constants_score_zero_in_float32_despite_rounding(constant: float, n: int) -> None:
    x = jnp.full((n, 1), constant, jnp.float32)
    assert metrics.moments(x, x, jnp.ones((n, 1), bool)).concordance()[0] == 0.0


def test_nan_prediction_is_not_hidden() -> None:
    x = np.array([[0.1], [np.nan], [0.3]])
    state = metrics.moments(x, np.abs(x * 0 + 1), np.ones((3, 1), bool))
    assert np.isnan(state.concordance()[0])
    assert np.isnan(state.pearson()[0])
    assert np.isnan(state.rmse()[0])


def test_ccc_reduces_the_last_axis(batch: tuple) -> None:
    x, y, _ = batch
    rows = metrics.ccc(x[..., 0], y[..., 0])
    assert rows.shape == (5,)
    for b in range(5):
        assert rows[b] == pytest.approx(reference_ccc(x[b, :, 0], y[b, :, 0]), abs=1e-12)
    scalar = metrics.ccc(x[0, :, 0], y[0, :, 0])
    assert scalar.shape == ()
    assert scalar == pytest.approx(rows[0], abs=1e-12)


@given(
    data=hnp.arrays(np.float64, (2, 30), elements=st.floats(-1, 1, width=32)),
    scale=st.floats(0.01, 100),
    shift=st.floats(-10, 10),
)
@settings(max_examples=150, deadline=None)
def test_ccc_properties(data: np.ndarray, scale: float, shift: float) -> None:
    x, y = data
    value = metrics.ccc(x, y)
    assert -1 <= value <= 1
    assert value == pytest.approx(metrics.ccc(y, x), abs=1e-12)
    if min(x.std(), y.std()) > 1e-3:
        moved = metrics.ccc(scale * x + shift, scale * y + shift)
        assert value == pytest.approx(moved, abs=1e-6)
        pearson = metrics.moments(x[:, None], y[:, None], np.ones((30, 1), bool)).pearson()
        assert abs(value) <= abs(pearson[0]) + 1e-12
        assert metrics.ccc(x, x) == pytest.approx(1.0, abs=1e-9)
        assert metrics.ccc(x, -x + 2 * x.mean()) == pytest.approx(-1.0, abs=1e-6)


def test_shapes_must_agree() -> None:
    two, three = np.zeros((4, 2)), np.zeros((4, 3))
    with pytest.raises(ValueError, match="differ in shape"):
        metrics.moments(two, three, two.astype(bool))
    with pytest.raises(ValueError, match="differ in shape"):
        metrics.confusion_counts(two, two, np.ones(4, bool), 2)
    with pytest.raises(ValueError, match="differ in shape"):
        metrics.binary_counts(two, two, np.ones((4, 1), bool))


def test_confusion_counts_by_hand() -> None:
    true = np.array([0.0, 0, 1, 2, 2, 2, -1])
    predicted = np.array([0, 1, 1, 2, 2, 0, 2])
    state = metrics.confusion_counts(predicted, true, true >= 0, 4)
    np.testing.assert_array_equal(
        state.matrix, [[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 2, 0], [0, 0, 0, 0]]
    )
    np.testing.assert_allclose(state.f1(), [1 / 2, 2 / 3, 4 / 5, 0])
    assert state.macro_f1() == pytest.approx((1 / 2 + 2 / 3 + 4 / 5) / 4)
    assert state.accuracy() == pytest.approx(4 / 6)


@given(seed=st.integers(0, 2**31), classes=st.integers(2, 8), n=st.integers(0, 60))
@settings(max_examples=80, deadline=None)
def test_f1_equals_the_reference_and_merges(seed: int, classes: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    # Drawing from a subset leaves classes out, where zero_division matters.
    used = rng.integers(1, classes + 1)
    true, predicted = rng.integers(0, used, n), rng.integers(0, used, n)
    mask = rng.random(n) > 0.3
    state = metrics.confusion_counts(predicted, true.astype(np.float32), mask, classes)
    expected = [reference_f1(predicted[mask], true[mask], k) for k in range(classes)]
    np.testing.assert_allclose(state.f1(), expected, atol=1e-12)
    assert state.macro_f1() == pytest.approx(np.mean(expected), abs=1e-12)

    cut = rng.integers(0, n + 1)
    parts = [
        metrics.confusion_counts(predicted[s], true[s], mask[s], classes)
        for s in (slice(0, cut), slice(cut, n))
    ]
    merged = metrics.ConfusionCounts.empty(classes).merge(parts[0]).merge(parts[1])
    np.testing.assert_array_equal(merged.matrix, state.matrix)


@given(seed=st.integers(0, 2**31), n=st.integers(0, 60))
@settings(max_examples=80, deadline=None)
def test_binary_f1_equals_the_reference_and_merges(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    true = (rng.random((n, 4)) > [0.5, 0.9, 1.0, 0.2]).astype(np.float32)
    predicted = rng.random((n, 4)) > [0.5, 0.9, 1.0, 0.0]
    mask = rng.random((n, 4)) > [0.3, 0.3, 0.3, 0.9]
    state = metrics.binary_counts(predicted, np.where(mask, true, -1), mask)
    expected = [reference_f1(predicted[mask[:, c], c], true[mask[:, c], c], 1) for c in range(4)]
    np.testing.assert_allclose(state.f1(), expected, atol=1e-12)
    assert state.mean_f1() == pytest.approx(np.mean(expected), abs=1e-12)
    right = [(predicted == true)[mask[:, c], c].sum() for c in range(4)]
    np.testing.assert_allclose(state.accuracy(), right / np.maximum(mask.sum(axis=0), 1))

    parts = [metrics.binary_counts(predicted[i : i + 7], true[i : i + 7], mask[i : i + 7])
             for i in range(0, n, 7)]  # fmt: skip
    merged = functools.reduce(metrics.BinaryCounts.merge, parts, metrics.BinaryCounts.empty(4))
    for a, b in zip(jax.tree.leaves(merged), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("seed", range(4))
def test_f1_is_that_of_scikit_learn_on_a_whole_partition_in_any_split(seed: int) -> None:
    rng = np.random.default_rng(seed)
    frames, classes = 40_000, 8
    true = rng.choice(classes, frames, p=rng.dirichlet(np.ones(classes)))
    predicted = np.where(rng.random(frames) < 0.6, true, rng.integers(0, classes, frames))
    mask = rng.random(frames) > 0.2
    units = (rng.random((frames, 12)) < np.linspace(0.001, 0.6, 12)).astype(np.float32)
    shown = units.astype(bool) ^ (rng.random(units.shape) < 0.1)
    known = rng.random(units.shape) > 0.2
    cuts = np.split(np.arange(frames), np.sort(rng.integers(0, frames, 9)))

    confusion = metrics.ConfusionCounts.empty(classes)
    counts = metrics.BinaryCounts.empty(12)
    for cut in cuts:
        labels = true[cut].astype(np.float32)
        confusion = confusion.merge(
            metrics.confusion_counts(predicted[cut], labels, mask[cut], classes)
        )
        counts = counts.merge(metrics.binary_counts(shown[cut], units[cut], known[cut]))
    options = {"labels": range(classes), "zero_division": 0}
    by_class = f1_score(true[mask], predicted[mask], average=None, **options)
    macro = f1_score(true[mask], predicted[mask], average="macro", **options)
    np.testing.assert_allclose(confusion.f1(), by_class, rtol=0, atol=1e-12)
    assert confusion.macro_f1() == pytest.approx(macro, abs=1e-12)
    by_unit = [f1_score(units[known[:, c], c], shown[known[:, c], c]) for c in range(12)]
    np.testing.assert_allclose(counts.f1(), by_unit, rtol=0, atol=1e-12)
    assert counts.mean_f1() == pytest.approx(np.mean(by_unit), abs=1e-12)


def test_counts_under_jit_and_vmap_agree_with_the_host() -> None:
    rng = np.random.default_rng(3)
    predicted, true = rng.integers(0, 5, (3, 4, 20)), rng.integers(0, 5, (3, 4, 20))
    mask = rng.random(true.shape) > 0.3
    count = functools.partial(metrics.confusion_counts, num_classes=5)
    device = jax.jit(jax.vmap(count))(predicted, jnp.asarray(true, jnp.float32), mask)
    assert jnp.issubdtype(device.matrix.dtype, jnp.integer)
    for r in range(3):
        host = count(predicted[r], true[r], mask[r])
        np.testing.assert_array_equal(device.matrix[r], host.matrix)
    yes = jnp.asarray(predicted > 2)
    binary = jax.jit(jax.vmap(metrics.binary_counts))(yes, jnp.asarray(true > 2), mask)
    host = metrics.binary_counts(np.asarray(yes)[1], (true > 2)[1], mask[1])
    np.testing.assert_allclose(metrics.BinaryCounts.f1(jax.tree.map(lambda a: a[1], binary)),
                               host.f1(), atol=1e-6)  # fmt: skip


@given(seed=st.integers(0, 2**31), n=st.integers(0, 40), classes=st.integers(2, 8))
@settings(max_examples=60, deadline=None)
def test_log_losses_equal_the_reference_and_merge(seed: int, n: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(classes), n).reshape(n, classes)
    true, mask = rng.integers(0, classes, (n, 1)).astype(float), rng.random((n, 1)) > 0.3
    dirty = np.where(mask, true, -1.0)
    expected = [-np.log(p[i, int(true[i, 0])]) for i in range(n) if mask[i, 0]]
    whole = outcomes.class_log_loss(p, dirty, mask)
    assert whole.mean()[0] == pytest.approx(np.mean(expected) if expected else 0.0, abs=1e-12)
    assert whole.mean().dtype == np.float64
    parts = [outcomes.class_log_loss(p[i : i + 7], dirty[i : i + 7], mask[i : i + 7])
             for i in range(0, n, 7)]  # fmt: skip
    merged = functools.reduce(outcomes.LogLoss.merge, parts, outcomes.LogLoss.empty(1))
    np.testing.assert_allclose(merged.mean(), whole.mean(), atol=1e-12)

    yes, mask = rng.integers(0, 2, p.shape).astype(float), rng.random(p.shape) > 0.3
    state = outcomes.unit_log_loss(p, np.where(mask, yes, -1.0), mask)
    for c in range(classes):
        q, y = p[mask[:, c], c], yes[mask[:, c], c]
        reference = -(y * np.log(q) + (1 - y) * np.log(1 - q))
        assert state.mean()[c] == pytest.approx(reference.mean() if q.size else 0.0, abs=1e-9)


def test_log_losses_stay_finite_and_check_shapes() -> None:
    p = np.array([[0.0, 1.0], [1.0, 0.0]])
    right, wrong = np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]])
    every = np.ones((2, 1), bool)
    with np.errstate(**ULP_WARNING_FREE):
        assert outcomes.class_log_loss(p, right, every).mean()[0] == 0.0
        assert outcomes.class_log_loss(p, wrong, every).mean()[0] == pytest.approx(-np.log(1e-7))
    # Masked frames reach nothing, whatever they hold.
    dirty = np.array([[np.nan, np.nan], [1.0, 0.0]])
    assert outcomes.class_log_loss(dirty, right, np.array([[False], [True]])).mean()[0] == 0.0
    with pytest.raises(ValueError, match="differ in shape"):
        outcomes.log_loss(p, every)


def test_states_are_pytrees_of_arrays() -> None:
    for state in (metrics.Moments.empty(2), metrics.ConfusionCounts.empty(8),
                  metrics.BinaryCounts.empty(12), outcomes.LogLoss.empty(3)):  # fmt: skip
        rebuilt = jax.tree.map(lambda leaf: leaf + 0, state)
        assert type(rebuilt) is type(state)
        assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(state))


def test_masked_mean_and_padding() -> None:
    x = np.array([[1.0, 2.0, np.nan], [np.inf, 5.0, 7.0]])
    mask = np.array([[True, True, False], [False, True, False]])
    assert masked_mean(x, mask) == pytest.approx(8 / 3)
    np.testing.assert_allclose(masked_mean(x, mask, axis=0), [1.0, 3.5, 0.0])
    assert masked_mean(jnp.asarray(x), jnp.asarray(mask)) == pytest.approx(8 / 3)
    x_BTD = jnp.full((2, 3, 4), jnp.nan)
    padded = zero_where_padded(x_BTD, jnp.zeros((2, 3), bool))
    np.testing.assert_array_equal(padded, np.zeros((2, 3, 4)))
