"""The EPiC-2023 challenge: its official score, the loss that fits it, and the teams' results.

Coles et al. 2025, "The Emotion Physiology and Experience Collaboration", Royal Society Open
Science 12(6):241778. The error of a recording is its RMSE in each dimension; errors are
averaged over the recordings of a fold, then over folds. It is thus closer to an absolute than
to a squared error of the recording's level, and MSE or CCC are not good stand-ins for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from emojax.ops.masking import accumulable, masked_count, masked_mean
from emojax.specs import TASKS
from emojax.types import Array

# Below this squared error (on a scale of 0.5 to 9.5) the root is smoothed, so that a window
# that is met exactly has a gradient.
_SMOOTHING = 1e-4

SCENARIOS: dict[str, str] = {
    "s2": "unseen people",
    "s3": "an unseen emotion quadrant",
    "s4": "an unseen clip of each quadrant",
}

# Published RMSE, team -> scenario -> (valence, arousal), in the order of scenario 2. Teams
# trained on whole recordings, four to five times as much as the labelled windows of the export.
TEAMS: dict[str, dict[str, tuple[float, float]]] = {
    "PSU": {"s2": (0.873, 0.872), "s3": (0.755, 0.811), "s4": (0.763, 0.891)},
    "Queens": {"s2": (1.083, 0.946), "s3": (1.578, 1.562), "s4": (1.372, 1.401)},
    "Northeastern": {"s2": (1.111, 1.029), "s3": (1.460, 1.389), "s4": (1.550, 1.513)},
    "CARElab": {"s2": (1.182, 0.999), "s3": (1.423, 1.439), "s4": (1.302, 1.305)},
    "AffectiveBulls": {"s2": (1.335, 1.314), "s3": (1.031, 1.103), "s4": (0.998, 1.068)},
    "VSL": {"s2": (1.345, 1.336), "s3": (1.514, 1.509), "s4": (1.352, 1.369)},
    "IITB": {"s2": (1.346, 1.294), "s3": (1.331, 1.285), "s4": (1.295, 1.260)},
    "UBA": {"s2": (1.360, 1.171), "s3": (1.488, 1.625), "s4": (1.362, 1.518)},
    "Cafeteros": {"s2": (1.412, 1.497), "s3": (1.684, 1.601), "s4": (1.567, 1.645)},
    "SAIL": {"s2": (1.438, 1.419), "s3": (1.531, 1.526), "s4": (1.439, 2.844)},
    "NYIT": {"s2": (1.730, 1.437), "s3": (1.427, 1.777), "s4": (1.341, 1.381)},
    "Princeton": {"s2": (2.402, 1.882), "s3": (1.704, 1.763), "s4": (1.585, 1.457)},
}


def recording_rmse(
    prediction_NC: np.ndarray, labels_NC: np.ndarray, scored: tuple[int, int]
) -> np.ndarray:
    """Computes (C,) float64 root mean squared errors of a recording over its scored frames.

    Args:
        prediction_NC: one row for every frame of the recording.
        labels_NC: the person's ratings; whatever lies outside the scored frames is ignored.
        scored: (start, stop), the scored frames are start <= i < stop.

    Raises:
        ValueError: shapes differ, a scored frame does not exist or is not labelled, or a scored
            prediction is not finite.
    """
    prediction_NC = np.asarray(prediction_NC, np.float64)
    labels_NC = np.asarray(labels_NC, np.float64)
    start, stop = scored
    if prediction_NC.shape != labels_NC.shape or labels_NC.ndim != 2:
        raise ValueError(
            f"predictions {prediction_NC.shape} and labels {labels_NC.shape} must both be (N, C)"
        )
    if not 0 <= start < stop <= len(labels_NC):
        raise ValueError(f"scored frames {scored} of a recording of {len(labels_NC)} frames")
    labels_TC = labels_NC[start:stop]
    if not np.isfinite(labels_TC).all() or (labels_TC == TASKS["va"].ignore).any():
        raise ValueError(f"not every frame of {scored} is labelled")
    error_TC = prediction_NC[start:stop] - labels_TC
    if not np.isfinite(error_TC).all():
        raise ValueError(f"predictions of the frames {scored} are not finite")
    return np.sqrt(np.mean(error_TC**2, axis=0))


def official_rmse(
    predictions: Mapping[str, Sequence[np.ndarray]],
    labels: Mapping[str, Sequence[np.ndarray]],
    scored: tuple[int, int],
) -> np.ndarray:
    """Computes (C,) float64 scores of a scenario: the mean over recordings, then mean over folds.

    Args:
        predictions: fold -> the (N, C) predictions of its test recordings.
        labels: fold -> their (N, C) ratings, in the same order.
        scored: (start, stop) of the scenario.

    Raises:
        ValueError: folds or recordings do not match, there are none, or see
            ``recording_rmse``.
    """
    if not labels or predictions.keys() != labels.keys():
        raise ValueError(f"folds differ: {sorted(predictions)} and {sorted(labels)}")
    folds = []
    for fold, ratings in labels.items():
        if not ratings or len(predictions[fold]) != len(ratings):
            raise ValueError(
                f"fold {fold}: {len(predictions[fold])} predictions of {len(ratings)} recordings"
            )
        errors = [
            recording_rmse(prediction_NC, labels_NC, scored)
            for prediction_NC, labels_NC in zip(predictions[fold], ratings, strict=True)
        ]
        folds.append(np.mean(errors, axis=0))
    return np.mean(folds, axis=0)


def window_rmse_loss(outputs_BTC: Array, labels_BTC: Array, mask_BTC: Array) -> Array:
    """Computes the RMSE of each window and column, averaged over windows with valid frames.

    With one window a recording this is the official error of a fold. The root is taken of the
    squared error + 1e-4, which leaves value and gradient finite where the error is zero.

    Args:
        outputs_BTC: predictions.
        labels_BTC: annotations, arbitrary finite where masked.
        mask_BTC: bool, True where annotated.

    Returns:
        (C,); 0 on no valid frame.
    """
    x_BTC, y_BTC = accumulable(outputs_BTC), accumulable(labels_BTC)
    error_BTC = jnp.where(mask_BTC, x_BTC - y_BTC, jnp.zeros_like(x_BTC))
    squared_BC = masked_mean(error_BTC**2, mask_BTC, axis=1)
    present_BC = masked_count(error_BTC, mask_BTC, axis=1) > 0
    return masked_mean(jnp.sqrt(squared_BC + _SMOOTHING), present_BC, axis=0)
