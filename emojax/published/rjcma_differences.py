"""Differences of RJCMA from its paper (Praveen & Alam 2024)."""

from __future__ import annotations

from emojax.differences import Difference, Kind, stated

DIFFERENCES = (
    stated("data.window", 300, "section 4.2.1"),
    stated("data.stride", 200, "section 4.2.1"),
    stated("data.batch_size", 12, "section 4.2.2"),
    stated("train.learning_rate", 1e-5, "section 4.2.2"),
    stated("train.weight_decay", 1e-3, "section 4.2.2"),
    Difference(
        "The widths of the temporal networks are not given. These are those of the authors' later "
        "code, for ABAW8.",
        "section 3.1",
        Kind.OURS,
        {"model.temporal": "tcn"},
    ),
    Difference(
        "The rate of dropout is not given.",
        "section 4.2.2",
        Kind.OURS,
    ),
    Difference(
        "The authors' public code, where it differs from the paper's equations.",
        "eq. 1-13",
        Kind.CODE,
        {"model.variant": "upstream"},
    ),
)
