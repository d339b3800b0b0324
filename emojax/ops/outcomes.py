"""Metric states of tasks whose labels are decisions: the decisions and their confidence.

Mergeable like those of ``metrics``; see there.
"""

from __future__ import annotations

from typing import Any

import flax.struct
import numpy as np

from emojax.ops.masking import accumulable, masked_count, masked_sum, namespace, safe_divide
from emojax.ops.metrics import BinaryCounts, ConfusionCounts
from emojax.types import Array

# Probabilities below this count as this. In float32 a softmax reaches 0 and a sigmoid 0 and 1,
# and one frame must not make the loss of all others infinite.
_LEAST_PROBABILITY = 1e-7


@flax.struct.dataclass
class LogLoss:
    """Negative log-likelihood of annotations under predicted probabilities, per column.

    Attributes:
        total: sum over annotated frames.
        count: number of them.
    """

    total: Array
    count: Array

    @classmethod
    def empty(cls, columns: int, dtype: type = np.float64) -> LogLoss:
        """Returns the state of no data, the neutral element of ``merge``."""
        zeros: Array = np.zeros(columns, dtype)
        return cls(zeros, zeros)

    def merge(self, other: LogLoss) -> LogLoss:
        """Returns the state of both data sets together."""
        return LogLoss(self.total + other.total, self.count + other.count)

    def mean(self) -> Array:
        """Returns the mean over frames; 0 on no data."""
        return safe_divide(self.total, self.count)


def log_loss(probability_BTC: Array, mask_BTC: Array) -> LogLoss:
    """Computes ``LogLoss`` of every column over all other axes.

    Args:
        probability_BTC: predicted probability of what is annotated, any number of leading axes;
            what is not in [1e-7, 1] is moved there.
        mask_BTC: bool, the same shape, False where there is no annotation.

    Raises:
        ValueError: the shapes differ.
    """
    if probability_BTC.shape != mask_BTC.shape:
        raise ValueError(
            f"probability {probability_BTC.shape} and mask {mask_BTC.shape} differ in shape"
        )
    xp = namespace(probability_BTC, mask_BTC)
    axes = tuple(range(probability_BTC.ndim - 1))
    probability_BTC = accumulable(probability_BTC)
    surprise_BTC = -xp.log(xp.clip(probability_BTC, _LEAST_PROBABILITY, 1.0))
    return LogLoss(
        masked_sum(surprise_BTC, mask_BTC, axes), masked_count(surprise_BTC, mask_BTC, axes)
    )


def class_log_loss(probability_BTC: Array, target_BT1: Array, mask_BT1: Array) -> LogLoss:
    """Computes the cross-entropy of class probabilities: a ``LogLoss`` of one column.

    Args:
        probability_BTC: probabilities of C classes, any number of leading axes.
        target_BT1: class index, integer or integral float; arbitrary finite where masked.
        mask_BT1: bool, False where there is no annotation.

    Raises:
        ValueError: target and mask differ in shape.
    """
    xp = namespace(probability_BTC, target_BT1, mask_BT1)
    class_BT1 = xp.where(mask_BT1, target_BT1, xp.zeros_like(target_BT1)).astype(np.int32)
    return log_loss(xp.take_along_axis(probability_BTC, class_BT1, axis=-1), mask_BT1)


def unit_log_loss(probability_BTC: Array, target_BTC: Array, mask_BTC: Array) -> LogLoss:
    """Computes the binary cross-entropy of C independent probabilities.

    Args:
        probability_BTC: the probability of a yes, any number of leading axes.
        target_BTC: truth, bool or 0/1, the same shape; arbitrary finite where masked.
        mask_BTC: bool, the same shape, False where there is no annotation.

    Raises:
        ValueError: the shapes differ.
    """
    xp = namespace(probability_BTC, target_BTC, mask_BTC)
    # Before the complement is taken: in float16 it would be coarse near 1.
    probability_BTC = accumulable(probability_BTC)
    of_truth_BTC = xp.where(target_BTC > 0.5, probability_BTC, 1.0 - probability_BTC)
    return log_loss(of_truth_BTC, mask_BTC)


@flax.struct.dataclass
class Outcomes:
    """Metric state of a task whose labels are decisions: their counts, and their log loss.

    Attributes:
        decisions: outcomes of what was decided.
        log_loss: the log loss of the probabilities that were decided upon.
    """

    decisions: ConfusionCounts | BinaryCounts
    log_loss: LogLoss

    def merge(self, other: Outcomes) -> Outcomes:
        """Returns the state of both data sets together."""
        decisions: Any = self.decisions
        return Outcomes(decisions.merge(other.decisions), self.log_loss.merge(other.log_loss))
