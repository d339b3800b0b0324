"""Differences of LFAN from its paper and code (Zhang, Zhao and Guan 2023)."""

from __future__ import annotations

from emojax.differences import Difference, Kind

DIFFERENCES = (
    Difference(
        "The backbones are frozen; the authors' code fine-tunes them from frames and log-mel "
        "spectrograms.",
        "code",
        Kind.DIFFERS,
    ),
    Difference(
        "One CCC over the annotated frames of a batch; the code averages one of each window "
        "(variant window_loss).",
        "code",
        Kind.DIFFERS,
        {"loss.va": "ccc"},
    ),
)
