"""Whether probabilities mean what they say: reliability, calibration error and Brier score.

Of the frames that were given a probability near 0.7 a share of 0.7 should be positive. Bins are
of equal width, [m / M, (m + 1) / M), the last one closed, so that 0.5 bounds a bin for even M.
The expected calibration error is the mean distance between the mean probability and the share
of positives of a bin, weighted by its frames (Naeini et al. 2015; Guo et al. 2017). NumPy alone,
in float64: this happens on the host, after prediction.
"""

from __future__ import annotations

import flax.struct
import numpy as np

from emojax.ops.masking import safe_divide

# Name of the column that stands for the class decided upon, with its own probability.
DECIDED = "decided"


@flax.struct.dataclass
class Calibration:
    """Mergeable counts of M bins and C columns (classes or units).

    Attributes:
        frames_CM: frames in each bin.
        probability_CM: sum of their probabilities.
        positive_CM: how many of them are positive.
        squared_error_C: sum over all frames of (probability - truth)^2.
    """

    frames_CM: np.ndarray
    probability_CM: np.ndarray
    positive_CM: np.ndarray
    squared_error_C: np.ndarray

    def merge(self, other: Calibration) -> Calibration:
        """The counts of both data sets together."""
        return Calibration(
            self.frames_CM + other.frames_CM,
            self.probability_CM + other.probability_CM,
            self.positive_CM + other.positive_CM,
            self.squared_error_C + other.squared_error_C,
        )

    def frames(self) -> np.ndarray:
        """(C,) frames of each column."""
        return self.frames_CM.sum(axis=1)

    def confidence(self) -> np.ndarray:
        """(C, M) mean probability of each bin; NaN in a bin without frames."""
        return self._per_bin(self.probability_CM)

    def reliability(self) -> np.ndarray:
        """(C, M) share of positives of each bin; NaN in a bin without frames."""
        return self._per_bin(self.positive_CM)

    def prevalence(self) -> np.ndarray:
        """(C,) share of positives; 0 on no data."""
        return np.asarray(safe_divide(self.positive_CM.sum(axis=1), self.frames()))

    def expected_error(self) -> np.ndarray:
        """(C,) expected calibration error, in [0, 1]; 0 on no data."""
        gap_CM = np.abs(self.probability_CM - self.positive_CM)
        return np.asarray(safe_divide(gap_CM.sum(axis=1), self.frames()))

    def brier(self) -> np.ndarray:
        """(C,) Brier score of each column as an event of its own, in [0, 1]; 0 on no data.

        Brier's score of several classes is the sum over the classes (Brier 1950).
        """
        return np.asarray(safe_divide(self.squared_error_C, self.frames()))

    def _per_bin(self, sum_CM: np.ndarray) -> np.ndarray:
        empty_CM = self.frames_CM == 0
        return np.where(empty_CM, np.nan, sum_CM / np.where(empty_CM, 1, self.frames_CM))


def unit_calibration(
    probability_NC: np.ndarray, target_NC: np.ndarray, mask_NC: np.ndarray, bins: int = 10
) -> Calibration:
    """``Calibration`` of independent probabilities, column by column.

    Args:
        probability_NC: of a yes, (N, C); what is not in [0, 1] is moved there.
        target_NC: truth, 0/1, the same shape; anything where masked.
        mask_NC: bool, the same shape, False where a column of a frame does not count.
        bins: M.

    Raises:
        ValueError: the three shapes differ, or there is no bin.
    """
    if not probability_NC.shape == target_NC.shape == mask_NC.shape or bins < 1:
        raise ValueError(
            f"probability {probability_NC.shape}, target {target_NC.shape} and mask "
            f"{mask_NC.shape} must have one shape, and bins ({bins}) be at least 1"
        )
    columns = probability_NC.shape[1]
    p_NC = np.clip(np.asarray(probability_NC, np.float64), 0.0, 1.0)
    true_NC = np.asarray(target_NC) > 0.5
    bin_NC = np.minimum((p_NC * bins).astype(np.int64), bins - 1)
    cell = (bin_NC + bins * np.arange(columns)[None])[mask_NC]

    def count(weights: np.ndarray | None) -> np.ndarray:
        return np.bincount(cell, weights, columns * bins).reshape(columns, bins)

    return Calibration(
        frames_CM=count(None),
        probability_CM=count(p_NC[mask_NC]),
        positive_CM=count(true_NC[mask_NC].astype(np.float64)),
        squared_error_C=np.where(mask_NC, (p_NC - true_NC) ** 2, 0.0).sum(axis=0),
    )


def class_calibration(
    probability_NC: np.ndarray, target_N1: np.ndarray, mask_N1: np.ndarray, bins: int = 10
) -> Calibration:
    """``Calibration`` of class probabilities: C + 1 columns.

    Each class is an event of its own; the last column (``DECIDED``) is the class that argmax
    decides upon: its probability, and whether that is the true class. Its calibration error is
    what is usually given for a classifier.

    Args:
        probability_NC: (N, C), rows sum to 1.
        target_N1: class index, integer or integral float; anything where masked.
        mask_N1: bool, False where a frame does not count.
        bins: M.

    Raises:
        ValueError: target and mask have another shape than (N, 1), or there is no bin.
    """
    if not target_N1.shape == mask_N1.shape == (len(probability_NC), 1):
        raise ValueError(
            f"target {target_N1.shape} and mask {mask_N1.shape} must be ({len(probability_NC)}, 1)"
        )
    classes = np.arange(probability_NC.shape[1])[None]
    decided_N1 = probability_NC.argmax(axis=1)[:, None]
    top_N1 = np.take_along_axis(probability_NC, decided_N1, axis=1)
    probability = np.concatenate([probability_NC, top_N1], axis=1)
    target = np.concatenate([target_N1 == classes, target_N1 == decided_N1], axis=1)
    return unit_calibration(probability, target, np.broadcast_to(mask_N1, target.shape), bins)
