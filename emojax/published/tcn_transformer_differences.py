"""Differences of the TCN-Transformer from its paper (Zhou et al. 2023)."""

from __future__ import annotations

from emojax.differences import Difference, Kind, stated

DIFFERENCES = (
    stated("data.window", 300, "section 4.1"),
    stated("data.stride", 200, "section 4.1"),
    stated("data.batch_size", 32, "section 4.1"),
    Difference(
        "Sizes and activations are those of the authors' public code; the paper gives none.",
        "section 3.5",
        Kind.OURS,
        {"model.variant": "paper"},
    ),
    Difference(
        "The authors' public code, where it differs from the paper.",
        "section 3.5",
        Kind.CODE,
        {"model.variant": "upstream"},
    ),
)
