"""The one table of scores: which direction is better, and how each is drawn and printed.

The name of a score is that of its kind, followed by what it is a score of where there are several:
"accuracy", "ccc_valence", "ccc_mean", "f1_macro". A new kind of score is one more row of
``SCORES``, and nothing else needs to know of it.

    >>> split_score("ccc_valence")
    ('ccc', 'valence')
    >>> score_kind("rmse_arousal").higher_is_better
    False
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

# Panels of the learning curves, from top to bottom.
PANELS = ("loss", "score", "error", "learning rate")
# The part of a name that stands for all dimensions, classes or units together.
WHOLES = ("mean", "macro")


@dataclasses.dataclass(frozen=True)
class ScoreKind:
    """One row of ``SCORES``.

    Attributes:
        name: the beginning of the names of its scores.
        axis: label of an axis that shows it.
        higher_is_better: False for errors; None where neither direction is.
        panel: one of ``PANELS``, in which the learning curves show it; "" to leave it out.
        decimals: number of digits behind the point in print.
        log: shown on a logarithmic axis.
        correlation: computed like a correlation coefficient, so that Fisher's z applies.
        least_squares: best for the prediction of the least squared error, so that a baseline
            must not be rescaled to the variance of the labels.
    """

    name: str
    axis: str
    higher_is_better: bool | None = True
    panel: str = ""
    decimals: int = 3
    log: bool = False
    correlation: bool = False
    least_squares: bool = False

    def text(self, value: float | None) -> str:
        """Prints a value; a dash where there is none."""
        known = value is not None and math.isfinite(value)
        return f"{value:.{self.decimals}f}" if known else "–"


SCORES: dict[str, ScoreKind] = {
    kind.name: kind
    for kind in (
        ScoreKind("ccc", "CCC", panel="score", correlation=True),
        ScoreKind("pearson", "Pearson's r", correlation=True),
        ScoreKind("rmse", "RMSE", False, panel="error", least_squares=True),
        ScoreKind("f1", "F1", panel="score"),
        ScoreKind("accuracy", "accuracy", panel="score", least_squares=True),
        ScoreKind("cross_entropy", "cross-entropy", False, least_squares=True),
        ScoreKind("binary_cross_entropy", "cross-entropy", False, least_squares=True),
        ScoreKind("loss", "loss", False, panel="loss"),
        ScoreKind("learning_rate", "learning rate", None, panel="learning rate", log=True),
    )
}


def split_score(name: str) -> tuple[str, str]:
    """Splits the name of a score into its kind and its part.

    The longest kind that fits is taken. A name that no kind fits is returned whole, with "" as
    the second part.
    """
    end = len(name)
    while end > 0:
        if name[:end] in SCORES:
            return name[:end], name[end + 1 :]
        end = name.rfind("_", 0, end)
    return name, ""


def score_kind(name: str) -> ScoreKind:
    """Returns the row of a score.

    Args:
        name: the name of the score, such as "ccc_valence".

    Raises:
        KeyError: no row fits the name.
    """
    return SCORES[split_score(name)[0]]


def is_error(name: str) -> bool:
    """Tells whether a lower value of the score is the better one."""
    return score_kind(name).higher_is_better is False


def without_parts(names: Iterable[str], parts: Iterable[str]) -> list[str]:
    """Leaves out the scores of some targets, and the means, which those targets are part of.

    Args:
        names: the names of scores.
        parts: names of targets, such as "valence"; if there is none, all scores stay.
    """
    left_out = set(parts)
    left_out |= {"mean"} if left_out else set()
    return [name for name in names if split_score(name)[1] not in left_out]
