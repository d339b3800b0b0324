"""The one table from a task to its losses, metric state, decoding and decisions.

What is done with a task follows from its kind: a new row of ``emojax.specs.TASKS`` needs nothing
here. A task that differs from its kind says so in ``_OVERRIDES``.
"""

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
from emojax.ops.metrics import Moments, binary_counts, confusion_counts, moments
from emojax.ops.outcomes import Outcomes, class_log_loss, unit_log_loss
from emojax.specs import TASKS, TaskSpec
from emojax.types import Array

LossFn = Callable[..., Array]
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
        read_scores: metric state -> score name -> score, in printing order; the state may have
            leading axes, which the scores then have.
        selections: kind of score (see ``ops.scores``) -> function from a metric state to one
            number per target, **greater is better**, by which checkpoints and replicas are
            chosen; errors have their sign turned.
        default_selection: a key of ``selections``.
        primary: the score that stands for the whole task.
        details: the scores of single classes or units, which a short table leaves out.
        confusion: metric state -> (C, C) counts, row the true class; None where there are no
            classes.
    """

    name: str
    targets: tuple[str, ...]
    losses: Mapping[str, LossFn]
    default_loss: str
    decode: Callable[[Array], Array]
    decide: Callable[[Array], Array]
    state: StateFn
    read_scores: Callable[[Any], dict[str, Array]]
    selections: Mapping[str, Callable[[Any], Array]]
    default_selection: str
    primary: str
    details: tuple[str, ...] = ()
    confusion: Callable[[Any], Array] | None = None

    def summarise(self, state: Any) -> dict[str, float]:
        """Reads the scores of a metric state, in printing order."""
        return {name: float(score) for name, score in self.read_scores(state).items()}

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


def _count_classes(prediction_NC: Array, labels_N1: Array, mask_N1: Array) -> Outcomes:
    classes = prediction_NC.shape[-1]
    return Outcomes(
        confusion_counts(_argmax(prediction_NC), labels_N1, mask_N1, classes),
        class_log_loss(prediction_NC, labels_N1, mask_N1),
    )


def _count_units(prediction_NC: Array, labels_NC: Array, mask_NC: Array) -> Outcomes:
    return Outcomes(
        binary_counts(_at_least_half(prediction_NC), labels_NC, mask_NC),
        unit_log_loss(prediction_NC, labels_NC, mask_NC),
    )


def _negative_log_loss(state: Outcomes) -> Array:
    return -state.log_loss.mean()


def _continuous(spec: TaskSpec) -> TaskOps:
    """Dimensions: regressed, scored by CCC."""

    def read_scores(state: Moments) -> dict[str, Array]:
        concordance = state.concordance()
        scores = {f"ccc_{label}": concordance[..., c] for c, label in enumerate(spec.labels)}
        scores["ccc_mean"] = concordance.mean(axis=-1)
        for metric, values in (("rmse", state.rmse()), ("pearson", state.pearson())):
            scores |= {f"{metric}_{label}": values[..., c] for c, label in enumerate(spec.labels)}
        return scores

    return TaskOps(
        name=spec.name,
        targets=spec.labels,
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
        read_scores=read_scores,
        selections={
            "ccc": Moments.concordance,
            "rmse": lambda state: -state.rmse(),
            "pearson": Moments.pearson,
        },
        default_selection="ccc",
        primary="ccc_mean",
    )


def _categorical(spec: TaskSpec) -> TaskOps:
    """Classes that exclude one another: one target, scored by macro F1."""
    details = tuple(f"f1_{label}" for label in spec.labels)

    def read_scores(state: Outcomes) -> dict[str, Array]:
        counts: Any = state.decisions
        f1 = counts.f1()
        scores = {name: f1[..., c] for c, name in enumerate(details)}
        return scores | {"f1_macro": counts.macro_f1(), "accuracy": counts.accuracy()}

    return TaskOps(
        name=spec.name,
        targets=(spec.name,),
        losses={"cross_entropy": cross_entropy_loss},
        default_loss="cross_entropy",
        decode=softmax,
        decide=_argmax,
        state=_count_classes,
        read_scores=read_scores,
        selections={
            "f1": lambda state: state.decisions.macro_f1()[None],
            "accuracy": lambda state: state.decisions.accuracy()[None],
            "cross_entropy": _negative_log_loss,
        },
        default_selection="f1",
        primary="f1_macro",
        details=details,
        confusion=lambda state: state.decisions.matrix,
    )


def _binary(spec: TaskSpec) -> TaskOps:
    """Units that are there or not, each a target of its own, scored by their mean F1."""
    details = tuple(f"f1_{label}" for label in spec.labels)

    def read_scores(state: Outcomes) -> dict[str, Array]:
        counts: Any = state.decisions
        f1 = counts.f1()
        return {name: f1[..., c] for c, name in enumerate(details)} | {"f1_mean": counts.mean_f1()}

    return TaskOps(
        name=spec.name,
        targets=spec.labels,
        losses={"binary_cross_entropy": binary_cross_entropy_loss},
        default_loss="binary_cross_entropy",
        decode=sigmoid,
        decide=_at_least_half,
        state=_count_units,
        read_scores=read_scores,
        selections={
            "f1": lambda state: state.decisions.f1(),
            "accuracy": lambda state: state.decisions.accuracy(),
            "binary_cross_entropy": _negative_log_loss,
        },
        default_selection="f1",
        primary="f1_mean",
        details=details,
    )


KINDS: dict[str, Callable[[TaskSpec], TaskOps]] = {
    "continuous": _continuous,
    "categorical": _categorical,
    "binary": _binary,
}

# task -> fields that differ from those of its kind.
_OVERRIDES: dict[str, dict[str, Any]] = {"expr": {"targets": ("expression",)}}


def task_ops(spec: TaskSpec, **fields: Any) -> TaskOps:
    """The row of a task: what its kind does, and ``fields`` of ``TaskOps`` that differ.

    Raises:
        KeyError: there is no such kind.
    """
    return dataclasses.replace(KINDS[spec.kind](spec), **fields)


TASK_OPS: dict[str, TaskOps] = {
    name: task_ops(spec, **_OVERRIDES.get(name, {})) for name, spec in TASKS.items()
}
