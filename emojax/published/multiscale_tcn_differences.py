"""Differences of the multi-scale TCN from its paper (Yu et al. 2025)."""

from __future__ import annotations

from emojax.differences import Difference, Kind

DIFFERENCES = (
    Difference(
        "No width, rate, optimiser or window is given.",
        "section 3",
        Kind.OURS,
    ),
    Difference(
        'The "Transformer encoder" is described nowhere and left out.',
        "section 3.7",
        Kind.DIFFERS,
    ),
)
