"""Fisher's z for two correlations, the test that ExpTrm's Table 1 marks its daggers by.

It is **approximate** here, and too ready to find a difference: it is meant for Pearson's r and
is used for concordance (CCC); it takes all n frames as independent, while neighbouring frames
are nearly the same; and it takes the two systems as measured on different data, while both
predict the same frames. ``bootstrap.paired_difference`` makes none of these assumptions.
"""

from __future__ import annotations

import dataclasses
import math

DAGGER = "†"
LEVEL = 0.01  # the caption of Table 1; section 5.4 names the test and no level


@dataclasses.dataclass(frozen=True)
class FisherTest:
    """Outcome of an approximate test, see the module.

    Attributes:
        z: standard normal if the correlations were equal; positive where the first is greater.
        p: two-sided.
    """

    z: float
    p: float


def fisher_test(first: float, second: float, num_frames: int) -> FisherTest:
    """Fisher's z = (atanh a - atanh b) / sqrt(2 / (n - 3)), and its two-sided p (approximate).

    Args:
        first, second: correlations a and b of two systems, in [-1, 1].
        num_frames: n, annotated frames that each was computed over.

    Returns:
        NaN below four frames; 0 and 1 for equal correlations.

    Raises:
        ValueError: a correlation is outside [-1, 1].
    """
    if not (-1.0 <= first <= 1.0 and -1.0 <= second <= 1.0):
        raise ValueError(f"correlations {first} and {second} must lie in [-1, 1]")
    if num_frames <= 3:
        return FisherTest(math.nan, math.nan)
    if first == second:
        return FisherTest(0.0, 1.0)
    z = (_atanh(first) - _atanh(second)) / math.sqrt(2.0 / (num_frames - 3))
    return FisherTest(z, math.erfc(abs(z) / math.sqrt(2.0)))


def dagger(p: float, level: float = LEVEL) -> str:
    """Returns a dagger if p is below the level, else ""; "" for NaN."""
    return DAGGER if p < level else ""


def _atanh(correlation: float) -> float:
    return (
        math.copysign(math.inf, correlation) if abs(correlation) == 1 else math.atanh(correlation)
    )
