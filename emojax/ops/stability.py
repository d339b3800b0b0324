"""Measures how much a prediction moves from one step of a video to the next."""

from __future__ import annotations

import flax.struct
import numpy as np

from emojax.ops.masking import masked_mean, namespace, safe_divide, zero_where_padded
from emojax.types import Array


def consecutive_change(values_BTC: Array, mask_BT: Array) -> tuple[Array, Array]:
    """Computes the L1 distance between the values of steps t and t - 1.

    Args:
        values_BTC: any number of leading axes; consecutive steps along the last axis but one.
        mask_BT: bool, False on steps that are not real; they may hold anything.

    Returns:
        (B, T - 1) distances for t = 2..T, and bool where both steps are real: a pair across a
        gap or beyond an end does not count. Distances that do not count are finite.
    """
    values_BTC = zero_where_padded(values_BTC, mask_BT)
    step_BTC = values_BTC[..., 1:, :] - values_BTC[..., :-1, :]
    # x sign(x) and not abs(x), whose gradient at 0 is 1 in JAX: what stands still stays still.
    change_BT = (step_BTC * namespace(step_BTC).sign(step_BTC)).sum(axis=-1)
    return change_BT, mask_BT[..., 1:] & mask_BT[..., :-1]


def smoothness(values_BTC: Array, mask_BT: Array) -> Array:
    """Computes the mean L1 change between consecutive real steps, a scalar; 0 where there are none.

    EMMA-Net, eq. 9, as a mean over the pairs instead of a sum, so that its weight does not
    depend on the window or the batch. The gradient is 0 where nothing changes.

    Args:
        values_BTC: decoded outputs (probabilities or values).
        mask_BT: bool, False on padding.
    """
    change_BT, pairs_BT = consecutive_change(values_BTC, mask_BT)
    return masked_mean(change_BT, pairs_BT)


@flax.struct.dataclass
class StabilityCounts:
    """Mergeable state of the effective context utility.

    Attributes:
        stable: pairs of consecutive steps whose change is below the threshold.
        pairs: pairs of consecutive real steps.
    """

    stable: Array
    pairs: Array

    @classmethod
    def empty(cls) -> StabilityCounts:
        """Returns the state of no data, the neutral element of ``merge``."""
        return cls(np.zeros((), np.int64), np.zeros((), np.int64))

    def merge(self, other: StabilityCounts) -> StabilityCounts:
        """Returns the state of both data sets together; no pair joins two videos."""
        return StabilityCounts(self.stable + other.stable, self.pairs + other.pairs)

    def utility(self) -> Array:
        """Returns ECU, the share of stable pairs; 0 where there is no pair."""
        dtype = np.float64 if namespace(self.stable) is np else np.float32
        return safe_divide(self.stable.astype(dtype), self.pairs.astype(dtype))


def stability_counts(values_BTC: Array, mask_BT: Array, epsilon: float) -> StabilityCounts:
    """Computes ``StabilityCounts`` of decoded outputs (EMMA-Net, eq. 12).

    ECU = mean over t = 2..T of 1[|y_t - y_(t-1)|_1 < epsilon]. The paper calls epsilon a
    threshold "on F1 score delta", which a single step does not have; the difference of
    probabilities is the reading used here. There is no y_0, so the sum starts at 2.

    Args:
        values_BTC: probabilities (or values), consecutive steps of one video for each B. A
            prediction that is held over several frames has to be given once: held frames
            would all count as stable.
        mask_BT: bool, False on steps that are not real.
        epsilon: threshold on the L1 distance, in (0, 2] for class probabilities.

    Raises:
        ValueError: shapes do not fit.
    """
    if values_BTC.shape[:-1] != mask_BT.shape:
        raise ValueError(f"values {values_BTC.shape} and mask {mask_BT.shape} do not fit")
    change_BT, pairs_BT = consecutive_change(values_BTC, mask_BT)
    return StabilityCounts(stable=((change_BT < epsilon) & pairs_BT).sum(), pairs=pairs_BT.sum())
