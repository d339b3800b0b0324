"""Joins the predictions of several members (replicas).

``mean`` is the plain average. ``ccc_centring`` comes from how gold standards are made of several
annotators' traces: the organisers' script of AVEC 2016 (Valstar et al. 2016), which Zhang et al.
(2021, arXiv 2107.01175, section on post-processing) took over to merge the predictions of their
cross-validation folds on Aff-Wild2.

Let x_i(t) be member i's trace of one dimension in one video, m_i its mean over time, and a_i its
agreement, the mean of CCC(x_i, x_j) over all other members j. Every trace is shifted to the mean
that the members have in common, weighed by their agreement, and then averaged:

    c = sum_i a_i m_i / sum_i a_i
    y(t) = 1/M sum_i (x_i(t) - m_i + c)

So y is the plain average moved by a constant: members without agreement influence the course of
the trace but not its level. With two members both agreements are equal and y is the average.

This differs from the script in three points. CCC has biased moments, as everywhere in emojax (Lin
1989; the script divides variances by n - 1 and covariances by n). A negative agreement has weight
0 instead of turning the sign of a mean. If no members agree, as with constant traces, all members
have equal weights.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Combine = Callable[[np.ndarray, np.ndarray], np.ndarray]


def mean_of_members(values_MNC: np.ndarray, used_MC: np.ndarray) -> np.ndarray:
    """Averages the members.

    Args:
        values_MNC: finite predictions of M members for the N frames of one video.
        used_MC: bool, which columns of which member count.

    Returns:
        (N, C) float64, NaN in columns without any member.
    """
    weights_MC = used_MC / np.maximum(1, used_MC.sum(axis=0, keepdims=True))
    mean_NC = np.einsum("mnc,mc->nc", values_MNC, weights_MC)
    return np.where(np.any(used_MC, axis=0, keepdims=True), mean_NC, np.nan)


def ccc_centred_mean(values_MNC: np.ndarray, used_MC: np.ndarray) -> np.ndarray:
    """Averages the members after CCC centring, see the top of this file.

    Args:
        values_MNC: finite predictions of M members for the N frames of one video.
        used_MC: bool, which columns of which member count.

    Returns:
        (N, C) float64, NaN in columns without any member.
    """
    combined_NC = mean_of_members(values_MNC, used_MC)
    for c in range(values_MNC.shape[2]):
        x_MN = np.asarray(values_MNC[used_MC[:, c], :, c], np.float64)
        if len(x_MN) > 1 and x_MN.shape[1]:
            means_M = x_MN.mean(axis=1)
            weights_M = np.maximum(agreements(x_MN), 0.0)
            if weights_M.sum() > 0:
                common = float(np.sum(weights_M * means_M) / weights_M.sum())
                combined_NC[:, c] += common - means_M.mean()
    return combined_NC


def agreements(traces_MN: np.ndarray) -> np.ndarray:
    """Returns (M,) the mean CCC of each trace with every other one.

    Args:
        traces_MN: float64, at least two traces of at least one frame.
    """
    means_M = traces_MN.mean(axis=1)
    centred_MN = traces_MN - means_M[:, None]
    covariance_MM = centred_MN @ centred_MN.T / traces_MN.shape[1]
    variance_M = np.diagonal(covariance_MM)
    apart_MM = (means_M[:, None] - means_M[None, :]) ** 2
    denominator_MM = variance_M[:, None] + variance_M[None, :] + apart_MM
    # Two traces that are the same constant agree in nothing that could be measured.
    varied_MM = denominator_MM > np.finfo(np.float64).tiny
    ccc_MM = np.where(varied_MM, 2.0 * covariance_MM / np.where(varied_MM, denominator_MM, 1.0), 0)
    np.fill_diagonal(ccc_MM, 0.0)
    return ccc_MM.sum(axis=1) / (len(traces_MN) - 1)


# Name -> rule for the values of a continuous task.
ENSEMBLES: dict[str, Combine] = {"mean": mean_of_members, "ccc_centring": ccc_centred_mean}


def combine(rule: str, kind: str, values_MNC: np.ndarray, used_MC: np.ndarray) -> np.ndarray:
    """Combines members by a named rule.

    Probabilities of classes and units have no level of their own that could be shifted, so they
    are averaged whatever the rule.

    Args:
        rule: a key of ``ENSEMBLES``.
        kind: the kind of the task, see ``emojax.specs.TaskSpec``.
        values_MNC: finite predictions of M members for the N frames of one video.
        used_MC: bool, which columns of which member count.

    Returns:
        (N, C) float64, NaN in columns without any member.

    Raises:
        KeyError: there is no such rule.
    """
    chosen = ENSEMBLES[rule]
    return (chosen if kind == "continuous" else mean_of_members)(values_MNC, used_MC)
