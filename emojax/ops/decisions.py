"""Tunes decisions for F1: thresholds of units and offsets of classes.

The papers decide by argmax, and at one half. For rare classes and units other decisions often have
a better F1. The tuned parameters move the predicted *probabilities*, so that argmax and one half of
the moved ones make the tuned decision. So all code that takes decoded predictions can take the
moved ones. The module uses NumPy in float64, because tuning happens on the host after training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from emojax.ops.metrics import binary_counts, confusion_counts, f1_score

# Keeps logarithms finite; far below the smallest probability that float32 tells from 0.
_FLOOR = 1e-12
# A score must be better by more than the rounding of sums in another order.
_GAIN = 1e-12
_ROUNDS = 20


@dataclasses.dataclass(frozen=True)
class DecisionRule:
    """Tunes the decisions of a kind of task.

    Attributes:
        parameter: the tuned parameter, one number per column: "threshold" or "offset".
        tune: (probabilities_NC, labels_NK, mask_NK) -> parameters (C,).
        move: (probabilities_NC, parameters_C) -> probabilities (N, C) to be decided upon by
            argmax or at one half.
    """

    parameter: str
    tune: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    move: Callable[[np.ndarray, np.ndarray], np.ndarray]


def _logit(probabilities: np.ndarray) -> np.ndarray:
    kept = np.clip(np.asarray(probabilities, np.float64), _FLOOR, 1.0 - _FLOOR)
    return np.log(kept) - np.log1p(-kept)


def move_to_half(probabilities_NC: np.ndarray, thresholds_C: np.ndarray) -> np.ndarray:
    """Probabilities that reach 0.5 where the given ones reach the unit's threshold.

    Args:
        probabilities_NC: any number of leading axes; NaN stays NaN.
        thresholds_C: the thresholds of each unit, from 0 (every frame is a yes) to 1.

    Returns:
        float64, the logits moved by the threshold's.
    """
    logits_NC = _logit(probabilities_NC)
    shift_NC = logits_NC - np.broadcast_to(_logit(thresholds_C), logits_NC.shape)
    return 0.5 * (1.0 + np.tanh(0.5 * shift_NC))


def tune_thresholds(
    probabilities_NC: np.ndarray, labels_NC: np.ndarray, mask_NC: np.ndarray
) -> np.ndarray:
    """Returns (C,) thresholds at which the F1 of each unit on these frames is greatest.

    Every cut between two different probabilities is tried. A unit that 0.5 serves best, that is
    never annotated as present, or that was not predicted, keeps 0.5.

    Args:
        probabilities_NC: decoded predictions; NaN in a whole column where nobody predicts it.
        labels_NC: 0 or 1; arbitrary finite where masked.
        mask_NC: bool, True where annotated.
    """
    thresholds_C = np.full(probabilities_NC.shape[-1], 0.5)
    for c in range(len(thresholds_C)):
        kept_N = mask_NC[:, c] & np.isfinite(probabilities_NC[:, c])
        p_M = np.asarray(probabilities_NC[kept_N, c], np.float64)
        true_M = labels_NC[kept_N, c] > 0.5
        if not true_M.any():
            continue
        order = np.argsort(-p_M, kind="stable")
        p_M, true_M = p_M[order], true_M[order]
        # Said yes to, counting from the most probable: none, 1, 2, ... all of them.
        yes = np.arange(len(p_M) + 1)
        hits = np.concatenate([[0], np.cumsum(true_M)])
        f1 = 2.0 * hits / (yes + hits[-1])
        possible = np.concatenate([[True], p_M[1:] < p_M[:-1], [True]])
        cut = int(np.argmax(np.where(possible, f1, -1.0)))
        # Halfway between the last yes and the first no, or no probability at all. To say yes to
        # nothing is never best, so there is a last yes.
        threshold = 0.5 * (p_M[cut - 1] + (p_M[cut] if cut < len(p_M) else 0.0))
        if _unit_f1(p_M, true_M, threshold) > _unit_f1(p_M, true_M, 0.5) + _GAIN:
            thresholds_C[c] = threshold
    return thresholds_C


def _unit_f1(p_M: np.ndarray, true_M: np.ndarray, threshold: float) -> float:
    """Computes F1 as evaluation does: of moved probabilities, decided at one half."""
    decided_M1 = move_to_half(p_M[:, None], np.array([threshold])) >= 0.5
    counts = binary_counts(decided_M1, true_M[:, None], np.ones_like(decided_M1))
    return float(counts.f1()[0])


def add_offsets(probabilities_NC: np.ndarray, offsets_C: np.ndarray) -> np.ndarray:
    """Class probabilities with an offset added to the logarithm of each, as float64.

    With the logarithm of a ratio of class shares this is Bayes' rule for other shares.

    Args:
        probabilities_NC: any number of leading axes, C classes; NaN stays NaN.
        offsets_C: the offsets of each class.
    """
    scores_NC = _log_scores(probabilities_NC, offsets_C)
    raised_NC = np.exp(scores_NC - scores_NC.max(axis=-1, keepdims=True))
    return raised_NC / raised_NC.sum(axis=-1, keepdims=True)


def _log_scores(probabilities_NC: np.ndarray, offsets_C: np.ndarray) -> np.ndarray:
    logs_NC = np.log(np.maximum(np.asarray(probabilities_NC, np.float64), _FLOOR))
    return logs_NC + np.broadcast_to(np.asarray(offsets_C, np.float64), logs_NC.shape)


def tune_offsets(
    probabilities_NC: np.ndarray, labels_N1: np.ndarray, mask_N1: np.ndarray
) -> np.ndarray:
    """Returns (C,) offsets at which macro F1 on these frames is greatest, by coordinate ascent.

    One offset is moved at a time, to the best of all places where a decision changes, until no
    single move helps. The ascent starts from the plain argmax and from equal class shares; the
    better end is taken, and the argmax itself (all 0) where neither is better.

    Args:
        probabilities_NC: decoded predictions; frames that are not finite are left out.
        labels_N1: class index; arbitrary finite where masked.
        mask_N1: bool, True where annotated.
    """
    classes = probabilities_NC.shape[-1]
    best_C = np.zeros(classes)
    kept_N = mask_N1[:, 0] & np.isfinite(probabilities_NC).all(axis=-1)
    if not kept_N.any():
        return best_C
    p_MC = np.asarray(probabilities_NC[kept_N], np.float64)
    true_M = labels_N1[kept_N, 0].astype(np.int64)
    best = _macro_f1(p_MC, true_M, best_C)
    shares_C = np.bincount(true_M, minlength=classes) / len(true_M)
    # A class that is never true stays where it is: there is nothing to win with it.
    equal_C = -np.log(np.where(shares_C > 0, shares_C, 1.0))
    for start_C in (np.zeros(classes), equal_C):
        offsets_C, score = _ascend(p_MC, true_M, start_C)
        if score > best + _GAIN:
            best_C, best = offsets_C, score
    return best_C


def _ascend(
    p_MC: np.ndarray, true_M: np.ndarray, offsets_C: np.ndarray
) -> tuple[np.ndarray, float]:
    """Ascends by coordinates from given offsets; returns the final ones and their macro F1."""
    score = _macro_f1(p_MC, true_M, offsets_C)
    for _ in range(_ROUNDS):
        before = score
        for c in range(len(offsets_C)):
            tried_C = offsets_C.copy()
            tried_C[c] = _best_offset(p_MC, true_M, offsets_C, c)
            # Counted again as evaluation will, since rounding may decide a tie differently.
            found = _macro_f1(p_MC, true_M, tried_C)
            if found > score + _GAIN:
                offsets_C, score = tried_C, found
        if score <= before:
            break
    return offsets_C, score


def _best_offset(p_MC: np.ndarray, true_M: np.ndarray, offsets_C: np.ndarray, c: int) -> float:
    """Returns the offset of class ``c`` with the greatest macro F1, with the others fixed."""
    scores_MC = _log_scores(p_MC, offsets_C)
    own_M = scores_MC[:, c] - offsets_C[c]
    scores_MC[:, c] = -np.inf
    rival_M = scores_MC.argmax(axis=1)
    # From this offset on a frame goes to the class, and no longer to its rival.
    needed_M = scores_MC.max(axis=1) - own_M
    order = np.argsort(needed_M, kind="stable")
    needed_M, rival_M, true_sorted_M = needed_M[order], rival_M[order], true_M[order]
    taken = np.arange(len(true_M) + 1)

    def so_far(flags_M: np.ndarray) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(flags_M)])

    total = np.zeros(len(true_M) + 1)
    for k in range(p_MC.shape[1]):
        if k == c:
            hits, said = so_far(true_sorted_M == c), taken
        else:
            lost = rival_M == k
            said = lost.sum() - so_far(lost)
            right = lost & (true_sorted_M == k)
            hits = right.sum() - so_far(right)
        total += f1_score(hits, said - hits, (true_M == k).sum() - hits)
    possible = np.concatenate([[True], needed_M[1:] > needed_M[:-1], [True]])
    edges = np.concatenate([[needed_M[0] - 2.0], needed_M, [needed_M[-1] + 2.0]])
    middle = 0.5 * (edges[1:] + edges[:-1])
    score = np.where(possible, total, -1.0)
    # Of several equally good places the nearest one is the smallest change.
    near = np.where(score >= score.max() - _GAIN, np.abs(middle - offsets_C[c]), np.inf)
    return float(middle[int(np.argmin(near))])


def _macro_f1(p_MC: np.ndarray, true_M: np.ndarray, offsets_C: np.ndarray) -> float:
    """Computes macro F1 as evaluation does: of moved probabilities, decided by argmax."""
    decided_M = add_offsets(p_MC, offsets_C).argmax(axis=-1)
    everything_M = np.ones(decided_M.shape, bool)
    counts = confusion_counts(decided_M, true_M, everything_M, p_MC.shape[1])
    return float(counts.macro_f1())


# Kind of task -> its rule; a continuous task has nothing to decide.
DECISION_RULES: dict[str, DecisionRule] = {
    "binary": DecisionRule("threshold", tune_thresholds, move_to_half),
    "categorical": DecisionRule("offset", tune_offsets, add_offsets),
}
