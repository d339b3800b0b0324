"""The one table from a task to its losses, metric state, decoding and decisions.

What is done with a task follows from its kind: a new row of ``emojax.specs.TASKS`` needs nothing
here. A task that differs from its kind says so in ``_OVERRIDES``. Losses and scores that are
defined elsewhere join by ``register_loss`` and ``register_score``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from emojax.errors import InputError, closest
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
from emojax.ops.scores import SCORES, ScoreKind
from emojax.specs import TASKS, TaskSpec
from emojax.types import Array

LossFn = Callable[..., Array]
StateFn = Callable[[Array, Array, Array], Any]
ScoreFn = Callable[[Any], Array]


@dataclasses.dataclass(frozen=True)
class TaskOps:
    """Holds the functions by which training and evaluation treat one task.

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
        """Scores decoded predictions over all given frames as one data set.

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
        """Returns (targets,) selection scores; greater is better.

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
        """Returns the names of the scores, in printing order."""
        spec = TASKS[self.name]
        nothing = np.zeros((0, spec.columns))
        return tuple(self.scores(np.zeros((0, spec.outputs)), nothing, nothing.astype(bool)))


def softmax(logits: Array) -> Array:
    """Probabilities over the last axis."""
    xp = namespace(logits)
    raised = xp.exp(logits - logits.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def sigmoid(logits: Array) -> Array:
    """Computes 1 / (1 + exp(-z)) by tanh, which cannot overflow."""
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
    """Returns the row of dimensions, which are regressed and scored by CCC."""

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
    """Returns the row of units, each a target of its own, which are scored by their mean F1."""
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
    """Returns the row of a task: that of its kind, with ``fields`` of ``TaskOps`` replaced.

    Raises:
        KeyError: there is no such kind.
    """
    row = dataclasses.replace(KINDS[spec.kind](spec), **fields)
    for extend in _EXTENSIONS[spec.kind].values():
        row = extend(row)
    return row


# Kind of task -> "loss NAME" or "score NAME" of what was registered -> what it adds to a row.
_EXTENSIONS: dict[str, dict[str, Callable[[TaskOps], TaskOps]]] = {kind: {} for kind in KINDS}


class _TaskRows(dict[str, TaskOps]):
    """Rows by task; that of a task that is declared later is made when it is asked for."""

    def __missing__(self, name: str) -> TaskOps:
        self[name] = task_ops(TASKS[name])
        return self[name]

    def __contains__(self, name: object) -> bool:
        return name in TASKS


TASK_OPS: dict[str, TaskOps] = _TaskRows(
    (name, task_ops(spec, **_OVERRIDES.get(name, {}))) for name, spec in TASKS.items()
)


def register_loss(kind: str, name: str) -> Callable[[LossFn], LossFn]:
    """Registers a loss for all tasks of a kind; ``config.loss.TASK`` then names it.

        >>> @register_loss("continuous", "absolute")
        ... def absolute_loss(outputs_BTC, labels_BTC, mask_BTC):
        ...     return masked_mean(abs(outputs_BTC - labels_BTC), mask_BTC, axis=(0, 1))

    The loss returns one number per target and follows the rules at the top of
    ``emojax/ops/losses.py``. A name may be registered again; the latest function counts.

    Args:
        kind: "continuous", "categorical" or "binary".
        name: the value of ``config.loss``.

    Raises:
        InputError: there is no such kind, or emojax has a loss of this name.
    """
    key = f"loss {name}"
    _check_name(kind, name, any(name in row.losses for row in _rows(kind)), key)

    def add(loss: LossFn) -> LossFn:
        _extend(kind, key, lambda row: dataclasses.replace(row, losses={**row.losses, name: loss}))
        return loss

    return add


def register_score(
    kind: str, name: str, *, axis: str = "", higher_is_better: bool = True
) -> Callable[[ScoreFn], ScoreFn]:
    """Registers a score for all tasks of a kind.

    It is then printed, logged and reported beside the others, and ``config.evaluation.selection``
    may name it as what checkpoints are chosen by.

        >>> @register_score("continuous", "bias", higher_is_better=False)
        ... def bias(state):
        ...     return abs(state.mean_x - state.mean_y)

    The function takes the metric state of the kind (``Moments``, or ``Outcomes`` of counted
    classes or units), of NumPy or JAX arrays, and returns (..., targets): one number per target,
    behind any leading axes of the state. On no data it has to be finite. A name may be registered
    again; the latest function counts.

    Args:
        kind: "continuous", "categorical" or "binary".
        name: the name of the score, which those of single targets begin with.
        axis: label in pictures; the name by default.
        higher_is_better: False for an error.

    Raises:
        InputError: there is no such kind, or emojax has a score of this name.
    """
    key = f"score {name}"
    _check_name(kind, name, name in SCORES, key)

    def add(score: ScoreFn) -> ScoreFn:
        panel = "score" if higher_is_better else "error"
        SCORES[name] = ScoreKind(name, axis or name, higher_is_better, panel=panel)
        _extend(kind, key, lambda row: _with_score(row, name, score, higher_is_better))
        return score

    return add


def _with_score(row: TaskOps, name: str, score: ScoreFn, higher_is_better: bool) -> TaskOps:
    single = len(row.targets) == 1
    names = [name] if single else [f"{name}_{target}" for target in row.targets]

    def read_scores(state: Any) -> dict[str, Array]:
        values = score(state)
        scores = {one: values[..., k] for k, one in enumerate(names)}
        mean = {} if single else {f"{name}_mean": values.mean(axis=-1)}
        return {**row.read_scores(state), **scores, **mean}

    def selection(state: Any) -> Array:
        return score(state) if higher_is_better else -score(state)

    details = names if row.details and not single else []
    return dataclasses.replace(
        row,
        read_scores=read_scores,
        selections={**row.selections, name: selection},
        details=tuple(dict.fromkeys((*row.details, *details))),
    )


def _rows(kind: str) -> list[TaskOps]:
    return [row for task, row in TASK_OPS.items() if TASKS[task].kind == kind]


def _check_name(kind: str, name: str, taken: bool, key: str) -> None:
    if kind not in KINDS:
        raise InputError(
            "There is no such kind of task.",
            field="kind",
            found=kind,
            expected="one of " + ", ".join(KINDS),
            remedy=closest(kind, KINDS),
        )
    if taken and not any(key in extensions for extensions in _EXTENSIONS.values()):
        raise InputError(
            "This name belongs to emojax.",
            field="name of a loss or score",
            found=name,
            expected="a name of your own",
        )


def _extend(kind: str, key: str, extend: Callable[[TaskOps], TaskOps]) -> None:
    _EXTENSIONS[kind][key] = extend
    for row in _rows(kind):
        TASK_OPS[row.name] = extend(row)
