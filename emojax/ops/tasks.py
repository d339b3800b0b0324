"""The one table from a task to its losses, metric state, decoding and decisions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from emojax.ops.epic import window_rmse_loss
from emojax.ops.losses import (
    binary_cross_entropy_loss,
    ccc_loss,
    ccc_window_loss,
    cross_entropy_loss,
    mse_loss,
)
from emojax.ops.masking import namespace
from emojax.ops.metrics import (
    BinaryCounts,
    ConfusionCounts,
    Moments,
    binary_counts,
    confusion_counts,
    moments,
)
from emojax.specs import TASKS
from emojax.types import Array

LossFn = Callable[[Array, Array, Array], Array]
StateFn = Callable[[Array, Array, Array], Any]


@dataclasses.dataclass(frozen=True)
class TaskOps:
    """What training and evaluation do with one task.

    A *target* is what a replica may be trained and selected for on its own: a dimension, an
    action unit, or all classes of a categorical task together.

    Three stages follow a model: its raw outputs are ``decode``d to values or probabilities,
    overlapping windows are averaged, and only then ``decide``d. Metric states and scores take
    decoded predictions and decide by themselves.

    Attributes:
        name: task, a key of ``emojax.specs.TASKS``.
        targets: names of the targets.
        losses: name -> ``loss(outputs_BTC, labels_BTK, mask_BTK) -> (targets,)``.
        default_loss: a key of ``losses``.
        decode: raw outputs (..., C) -> decoded (..., C).
        decide: decoded (..., C) -> decisions (..., K), in the form of the labels.
        state: ``state(decoded_NC, labels_NK, mask_NK)`` -> mergeable metric state.
        summarise: metric state -> score name -> float, in printing order.
        selections: name -> function from a metric state to one number per target, **greater
            is better**, by which checkpoints and replicas are chosen.
        default_selection: a key of ``selections``.
        primary: the score that stands for the whole task.
        errors: the selections that are errors with their sign turned.
    """

    name: str
    targets: tuple[str, ...]
    losses: Mapping[str, LossFn]
    default_loss: str
    decode: Callable[[Array], Array]
    decide: Callable[[Array], Array]
    state: StateFn
    summarise: Callable[[Any], dict[str, float]]
    selections: Mapping[str, Callable[[Any], Array]]
    default_selection: str
    primary: str
    errors: tuple[str, ...] = ()

    def scores(self, prediction_NC: Array, labels_NK: Array, mask_NK: Array) -> dict[str, float]:
        """Scores of decoded predictions over all frames given, as one data set.

        Args:
            prediction_NC: decoded (and averaged) predictions, any number of leading axes.
            labels_NK: annotations, arbitrary finite where masked.
            mask_NK: bool, True where annotated.
        """
        return self.summarise(self.state(prediction_NC, labels_NK, mask_NK))

    def target_scores(
        self,
        prediction_NC: Array,
        labels_NK: Array,
        mask_NK: Array,
        selection: str | None = None,
    ) -> Array:
        """(targets,) what each target is selected by; greater is better.

        Args:
            prediction_NC: decoded (and averaged) predictions, any number of leading axes.
            labels_NK: annotations, arbitrary finite where masked.
            mask_NK: bool, True where annotated.
            selection: a key of ``selections``; None for the default.
        """
        state = self.state(prediction_NC, labels_NK, mask_NK)
        return self.selections[selection or self.default_selection](state)

    @property
    def score_names(self) -> tuple[str, ...]:
        """Names of the scores, in printing order."""
        spec = TASKS[self.name]
        nothing = np.zeros((0, spec.columns))
        return tuple(self.scores(np.zeros((0, spec.outputs)), nothing, nothing.astype(bool)))


def softmax(logits: Array) -> Array:
    """Probabilities over the last axis."""
    xp = namespace(logits)
    raised = xp.exp(logits - logits.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def sigmoid(logits: Array) -> Array:
    """1 / (1 + exp(-z)), by tanh, which cannot overflow."""
    return 0.5 * (1.0 + namespace(logits).tanh(0.5 * logits))


def _identity(values: Array) -> Array:
    return values


def _argmax(probabilities: Array) -> Array:
    return probabilities.argmax(axis=-1)[..., None]


def _at_least_half(probabilities: Array) -> Array:
    return (probabilities >= 0.5).astype(np.int32)


def _summarise_dimensions(state: Moments) -> dict[str, float]:
    concordance = state.concordance()
    labels = TASKS["va"].labels
    scores = dict(zip((f"ccc_{label}" for label in labels), concordance, strict=True))
    scores["ccc_mean"] = concordance.mean()
    for metric, values in (("rmse", state.rmse()), ("pearson", state.pearson())):
        scores |= dict(zip((f"{metric}_{label}" for label in labels), values, strict=True))
    return {name: float(score) for name, score in scores.items()}


def _count_classes(prediction_NC: Array, labels_N1: Array, mask_N1: Array) -> ConfusionCounts:
    predicted_N1 = _argmax(prediction_NC)
    return confusion_counts(predicted_N1, labels_N1, mask_N1, prediction_NC.shape[-1])


def _summarise_classes(state: ConfusionCounts) -> dict[str, float]:
    names = (f"f1_{label}" for label in TASKS["expr"].labels)
    scores = dict(zip(names, state.f1(), strict=True))
    scores |= {"f1_macro": state.macro_f1(), "accuracy": state.accuracy()}
    return {name: float(score) for name, score in scores.items()}


def _count_units(prediction_NC: Array, labels_NC: Array, mask_NC: Array) -> BinaryCounts:
    return binary_counts(_at_least_half(prediction_NC), labels_NC, mask_NC)


def _summarise_units(state: BinaryCounts) -> dict[str, float]:
    names = (f"f1_{label}" for label in TASKS["au"].labels)
    scores = dict(zip(names, state.f1(), strict=True)) | {"f1_mean": state.mean_f1()}
    return {name: float(score) for name, score in scores.items()}


TASK_OPS: dict[str, TaskOps] = {
    ops.name: ops
    for ops in (
        TaskOps(
            name="va",
            targets=TASKS["va"].labels,
            losses={
                "ccc": ccc_loss,
                "ccc_window": ccc_window_loss,
                "mse": mse_loss,
                "rmse_window": window_rmse_loss,
            },
            default_loss="ccc",
            decode=_identity,
            decide=_identity,
            state=moments,
            summarise=_summarise_dimensions,
            selections={
                "ccc": Moments.concordance,
                "rmse": lambda state: -state.rmse(),
                "pearson": Moments.pearson,
            },
            default_selection="ccc",
            primary="ccc_mean",
            errors=("rmse",),
        ),
        TaskOps(
            name="expr",
            targets=("expression",),
            losses={"cross_entropy": cross_entropy_loss},
            default_loss="cross_entropy",
            decode=softmax,
            decide=_argmax,
            state=_count_classes,
            summarise=_summarise_classes,
            selections={
                "f1": lambda state: state.macro_f1()[None],
                "accuracy": lambda state: state.accuracy()[None],
            },
            default_selection="f1",
            primary="f1_macro",
        ),
        TaskOps(
            name="au",
            targets=TASKS["au"].labels,
            losses={"binary_cross_entropy": binary_cross_entropy_loss},
            default_loss="binary_cross_entropy",
            decode=sigmoid,
            decide=_at_least_half,
            state=_count_units,
            summarise=_summarise_units,
            selections={"f1": BinaryCounts.f1, "accuracy": BinaryCounts.accuracy},
            default_selection="f1",
            primary="f1_mean",
        ),
    )
}
