"""Metrics as mergeable states: make one from each batch, merge, then read off the score.

Merging the states of any split of the data gives the score of the whole, so a score is never
an average over batches or over videos. States are pytrees: they pass through ``jit``, ``vmap``
and ``scan``, and on NumPy arrays the same code runs in float64 on the host. Arrays may have leading
axes, of draws of a bootstrap for instance; the scores have them, too.
"""

from __future__ import annotations

import flax.struct
import numpy as np

from emojax.ops.masking import accumulable, masked_count, masked_sum, namespace, safe_divide
from emojax.types import Array


def _rounding_floor(mean_x: Array, mean_y: Array) -> Array:
    """Returns the variance below which data of these means are constant up to rounding.

    The first term is relative: a constant that is not exactly representable leaves deviations
    of a few units in the last place. The second keeps ``1 / variance**2``, which the gradient
    of a ratio holds, inside the range of the dtype.
    """
    info = namespace(mean_x).finfo(mean_x.dtype)
    relative = (64.0 * float(info.eps)) ** 2
    return relative * (mean_x**2 + mean_y**2) + 10.0 * float(info.tiny) ** 0.5


@flax.struct.dataclass
class Moments:
    """Joint first and second moments of predictions x and targets y, per column.

    All fields have one shape, usually (C,). An empty state is all zeros.

    Attributes:
        count: number n of valid pairs.
        mean_x, mean_y: means.
        m2_x, m2_y: sums of squared deviations from the mean.
        c_xy: sum of products of deviations.
        squared_error: sum of (x - y)^2.
    """

    count: Array
    mean_x: Array
    mean_y: Array
    m2_x: Array
    m2_y: Array
    c_xy: Array
    squared_error: Array

    @classmethod
    def empty(cls, shape: int | tuple[int, ...], dtype: type = np.float64) -> Moments:
        """Returns the state of no data, the neutral element of ``merge``."""
        zeros: Array = np.zeros(shape, dtype)
        return cls(zeros, zeros, zeros, zeros, zeros, zeros, zeros)

    def merge(self, other: Moments) -> Moments:
        """Returns the state of both data sets together (pairwise update of Chan et al. 1983)."""
        count = self.count + other.count
        share = safe_divide(other.count, count)
        shift_x = other.mean_x - self.mean_x
        shift_y = other.mean_y - self.mean_y
        weight = self.count * share
        return Moments(
            count=count,
            mean_x=self.mean_x + shift_x * share,
            mean_y=self.mean_y + shift_y * share,
            m2_x=self.m2_x + other.m2_x + shift_x**2 * weight,
            m2_y=self.m2_y + other.m2_y + shift_y**2 * weight,
            c_xy=self.c_xy + other.c_xy + shift_x * shift_y * weight,
            squared_error=self.squared_error + other.squared_error,
        )

    def concordance(self) -> Array:
        """Returns the concordance correlation coefficient of each column (Lin 1989).

        CCC = 2 cov(x, y) / (var(x) + var(y) + (mean(x) - mean(y))^2), every moment divided by
        n (the biased estimator). It is 0 where the denominator is 0 up to rounding, that is
        on no data, on a single pair of equal numbers and where prediction and target are the
        same constant.
        """
        covariance = safe_divide(self.c_xy, self.count)
        spread = safe_divide(self.m2_x + self.m2_y, self.count)
        denominator = spread + (self.mean_x - self.mean_y) ** 2
        floor = _rounding_floor(self.mean_x, self.mean_y)
        return safe_divide(2.0 * covariance, denominator, floor)

    def pearson(self) -> Array:
        """Pearson's correlation of each column; 0 where either side is constant."""
        xp = namespace(self.c_xy)
        var_x = safe_divide(self.m2_x, self.count)
        var_y = safe_divide(self.m2_y, self.count)
        zero = xp.zeros_like(var_x)
        constant = (var_x <= _rounding_floor(self.mean_x, zero)) | (
            var_y <= _rounding_floor(self.mean_y, zero)
        )
        one = xp.ones_like(var_x)
        scale = xp.sqrt(xp.where(constant, one, var_x)) * xp.sqrt(xp.where(constant, one, var_y))
        ratio = safe_divide(self.c_xy, self.count) / scale
        return xp.clip(xp.where(constant, zero, ratio), -1.0, 1.0)

    def mse(self) -> Array:
        """Returns the mean squared error of each column; 0 on no data."""
        return safe_divide(self.squared_error, self.count)

    def rmse(self) -> Array:
        """Returns the root of the mean squared error of each column; 0 on no data."""
        xp = namespace(self.squared_error)
        return xp.sqrt(self.mse())


def _moments_over(x: Array, y: Array, mask: Array, axes: tuple[int, ...]) -> Moments:
    """Computes ``Moments`` of (x, y) where ``mask``, over ``axes``; the other axes stay."""
    if not x.shape == y.shape == mask.shape:
        raise ValueError(
            f"prediction {x.shape}, target {y.shape} and mask {mask.shape} differ in shape"
        )
    x, y = accumulable(x), accumulable(y)
    xp = namespace(x, y, mask)
    count = masked_count(x, mask, axes, keepdims=True)
    means, deviations = [], []
    for values in (x, y):
        mean = safe_divide(masked_sum(values, mask, axes, keepdims=True), count)
        deviation = xp.where(mask, values - mean, xp.zeros_like(values))
        # Rounding of the mean is about as large as the deviations of nearly constant data:
        # centre what is left once more.
        rest = safe_divide(deviation.sum(axis=axes, keepdims=True), count)
        means.append(mean + rest)
        deviations.append(xp.where(mask, deviation - rest, xp.zeros_like(values)))
    dx, dy = deviations
    error = xp.where(mask, x - y, xp.zeros_like(x))
    return Moments(
        count=count.squeeze(axes),
        mean_x=means[0].squeeze(axes),
        mean_y=means[1].squeeze(axes),
        m2_x=(dx**2).sum(axis=axes),
        m2_y=(dy**2).sum(axis=axes),
        c_xy=(dx * dy).sum(axis=axes),
        squared_error=(error**2).sum(axis=axes),
    )


def moments(prediction_BTC: Array, target_BTC: Array, mask_BTC: Array) -> Moments:
    """Computes ``Moments`` of every column over all other axes.

    Args:
        prediction_BTC: x, any number of leading axes.
        target_BTC: y, the same shape; arbitrary finite where masked.
        mask_BTC: bool, the same shape, False where a pair does not count.

    Returns:
        A state of shape (C,).

    Raises:
        ValueError: the three shapes differ.
    """
    axes = tuple(range(prediction_BTC.ndim - 1))
    return _moments_over(prediction_BTC, target_BTC, mask_BTC, axes)


def window_moments(prediction_BTC: Array, target_BTC: Array, mask_BTC: Array) -> Moments:
    """Computes ``Moments`` over time alone: a state of shape (B, C), one per window."""
    return _moments_over(prediction_BTC, target_BTC, mask_BTC, axes=(prediction_BTC.ndim - 2,))


def concordance_correlation_coefficient(x: Array, y: Array, mask: Array | None = None) -> Array:
    """Computes the CCC along the **last** axis: (..., N) and (..., N) give (...).

    Args:
        x: predictions.
        y: targets, the same shape.
        mask: bool, the same shape, False where a pair does not count; None counts all.

    Returns:
        ``Moments.concordance``: never NaN, 0 where nothing varies and nothing differs. CCC is
        float64 for NumPy input.

    Raises:
        ValueError: the shapes differ.
    """
    mask = namespace(x, y).ones(x.shape, bool) if mask is None else mask
    return _moments_over(x, y, mask, axes=(x.ndim - 1,)).concordance()


ccc = concordance_correlation_coefficient


def f1_score(true_positive: Array, false_positive: Array, false_negative: Array) -> Array:
    """Computes F1 = 2 TP / (2 TP + FP + FN), elementwise; 0 where all three are 0."""
    xp = namespace(true_positive)
    dtype = np.float64 if xp is np else xp.float32
    twice = (2 * true_positive).astype(dtype)
    return safe_divide(twice, twice + (false_positive + false_negative).astype(dtype))


@flax.struct.dataclass
class ConfusionCounts:
    """Confusion matrix of a categorical task.

    Attributes:
        matrix: (C, C) integers; row is the true class, column the predicted class.
    """

    matrix: Array

    @classmethod
    def empty(cls, num_classes: int, dtype: type = np.int64) -> ConfusionCounts:
        """Returns the state of no data, the neutral element of ``merge``."""
        return cls(np.zeros((num_classes, num_classes), dtype))

    def merge(self, other: ConfusionCounts) -> ConfusionCounts:
        """Returns the state of both data sets together."""
        return ConfusionCounts(self.matrix + other.matrix)

    def f1(self) -> Array:
        """Returns (C,) the F1 of each class; 0 for a class that is neither true nor predicted."""
        hits = self.matrix.diagonal(axis1=-2, axis2=-1)
        return f1_score(hits, self.matrix.sum(axis=-2) - hits, self.matrix.sum(axis=-1) - hits)

    def macro_f1(self) -> Array:
        """Returns the mean F1 over **all** C classes; absent ones count as 0 (the ABAW rule)."""
        return self.f1().mean(axis=-1)

    def accuracy(self) -> Array:
        """Returns the share of frames whose class is predicted; 0 on no data."""
        xp = namespace(self.matrix)
        dtype = np.float64 if xp is np else xp.float32
        hits = self.matrix.diagonal(axis1=-2, axis2=-1).sum(axis=-1).astype(dtype)
        return safe_divide(hits, self.matrix.sum(axis=(-2, -1)).astype(dtype))


def confusion_counts(
    predicted_BT: Array, target_BT: Array, mask_BT: Array, num_classes: int
) -> ConfusionCounts:
    """Computes ``ConfusionCounts`` of class indices.

    Args:
        predicted_BT: predicted class, 0 <= index < num_classes, integer or integral float.
        target_BT: true class, the same shape; arbitrary finite where masked.
        mask_BT: bool, the same shape, False where a frame does not count.
        num_classes: C.

    Raises:
        ValueError: the three shapes differ.
    """
    if not predicted_BT.shape == target_BT.shape == mask_BT.shape:
        raise ValueError(
            f"predicted {predicted_BT.shape}, target {target_BT.shape} and mask "
            f"{mask_BT.shape} differ in shape"
        )
    xp = namespace(predicted_BT, target_BT, mask_BT)
    cells = num_classes**2
    cell_BT = target_BT.astype(np.int32) * num_classes + predicted_BT.astype(np.int32)
    # One cell more than the matrix has takes what is masked, and is dropped.
    cell = xp.where(mask_BT, cell_BT, cells).reshape(-1)
    size = {"minlength": cells + 1} if xp is np else {"length": cells + 1}
    return ConfusionCounts(xp.bincount(cell, **size)[:cells].reshape(num_classes, num_classes))


@flax.struct.dataclass
class BinaryCounts:
    """Outcomes of C independent yes/no decisions.

    Attributes:
        true_positive, false_positive, false_negative, true_negative: (C,) integers.
    """

    true_positive: Array
    false_positive: Array
    false_negative: Array
    true_negative: Array

    @classmethod
    def empty(cls, columns: int, dtype: type = np.int64) -> BinaryCounts:
        """Returns the state of no data, the neutral element of ``merge``."""
        zeros: Array = np.zeros(columns, dtype)
        return cls(zeros, zeros, zeros, zeros)

    def merge(self, other: BinaryCounts) -> BinaryCounts:
        """Returns the state of both data sets together."""
        return BinaryCounts(
            self.true_positive + other.true_positive,
            self.false_positive + other.false_positive,
            self.false_negative + other.false_negative,
            self.true_negative + other.true_negative,
        )

    def f1(self) -> Array:
        """Returns (C,) the F1 of the positive class; 0 if no frame is positive or predicted so."""
        return f1_score(self.true_positive, self.false_positive, self.false_negative)

    def mean_f1(self) -> Array:
        """Returns the mean F1 over **all** C columns."""
        return self.f1().mean(axis=-1)

    def accuracy(self) -> Array:
        """Returns (C,) the share of right decisions; 0 on no data."""
        xp = namespace(self.true_positive)
        dtype = np.float64 if xp is np else xp.float32
        right = self.true_positive + self.true_negative
        total = right + self.false_positive + self.false_negative
        return safe_divide(right.astype(dtype), total.astype(dtype))


def binary_counts(predicted_BTC: Array, target_BTC: Array, mask_BTC: Array) -> BinaryCounts:
    """Computes ``BinaryCounts`` of every column over all other axes.

    Args:
        predicted_BTC: decisions, bool or 0/1, any number of leading axes.
        target_BTC: truth, bool or 0/1, the same shape; arbitrary finite where masked.
        mask_BTC: bool, the same shape, False where a column of a frame does not count.

    Raises:
        ValueError: the three shapes differ.
    """
    if not predicted_BTC.shape == target_BTC.shape == mask_BTC.shape:
        raise ValueError(
            f"predicted {predicted_BTC.shape}, target {target_BTC.shape} and mask "
            f"{mask_BTC.shape} differ in shape"
        )
    axes = tuple(range(predicted_BTC.ndim - 1))
    yes, true = predicted_BTC > 0.5, target_BTC > 0.5
    return BinaryCounts(
        (mask_BTC & yes & true).sum(axis=axes),
        (mask_BTC & yes & ~true).sum(axis=axes),
        (mask_BTC & ~yes & true).sum(axis=axes),
        (mask_BTC & ~yes & ~true).sum(axis=axes),
    )
