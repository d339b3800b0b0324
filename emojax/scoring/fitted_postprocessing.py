"""Smoothing and clipping of a run's predictions, with widths tuned fold by fold.

Replicas are smoothed, then combined, then clipped. Smoothing is linear, so to smooth each member
and to smooth their mean is the same, and members of several folds may each have the width of
their own fold. A width is tuned by the score that the run is selected by, on predictions that
the caller gives: of the fold's training videos, which the model has seen (optimistic: they need
less smoothing than new ones), or out-of-fold predictions of the other folds.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from emojax.core.replicas import Groups
from emojax.core.session import Session
from emojax.datasets.folds import Fold
from emojax.datasets.source import Store
from emojax.errors import InputError, closest
from emojax.ops.postprocessing import SMOOTHERS, clip, smooth
from emojax.ops.tasks import TASK_OPS
from emojax.prediction.predictor import Predictions, read_annotations
from emojax.specs import TASKS

STEPS = ("smooth", "clip")
POSTPROCESSING_FILE = "postprocessing.json"
ON_TRAINING = "predictions of each fold's training videos (seen in training, so optimistic)"
OUT_OF_FOLD = "out-of-fold predictions of the other folds"
# Scores this close are equal, and the smaller width is taken.
_TIE = 1e-12
# Of valence and arousal in the ABAW protocol; a data set may have another, see label_ranges.
_USUAL_RANGE = (-1.0, 1.0)

# task -> (C,) seconds
Widths = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Postprocessing:
    """Smoothing and clipping, with the widths and ranges that were fitted for each fold.

    Attributes:
        steps: some of ``STEPS``.
        smoother: a key of ``SMOOTHERS``.
        folds: the names of the run's folds.
        widths: the widths of each fold, in this order; empty where nothing is smoothed.
        ranges: continuous task -> lowest and highest label; empty where nothing is clipped.
        tuned_on: what the widths were tuned on, for people.
    """

    steps: tuple[str, ...]
    smoother: str
    folds: tuple[str, ...]
    widths: tuple[Widths, ...]
    ranges: Mapping[str, tuple[float, float]]
    tuned_on: str

    def smooth(self, store: Store, predictions: Predictions, fold: int) -> Predictions:
        """Smooths predictions with the widths of a fold, in float64.

        Args:
            store: the store with the videos.
            predictions: the predictions of a replica or an ensemble.
            fold: the index of the fold in ``folds``.
        """
        if "smooth" not in self.steps:
            return predictions
        return {
            name: smoothed(
                by_task, store.read(store.index_of(name)).pts_N, self.widths[fold], self.smoother
            )
            for name, by_task in predictions.items()
        }

    def clip(self, predictions: Predictions) -> Predictions:
        """Clips the predictions of continuous tasks to the range of the labels."""
        if "clip" not in self.steps:
            return predictions
        return {
            name: {
                task: clip(values_NC, *self.ranges[task]) if task in self.ranges else values_NC
                for task, values_NC in by_task.items()
            }
            for name, by_task in predictions.items()
        }

    def __call__(self, store: Store, predictions: Predictions, fold: int) -> Predictions:
        """Smooths an ensemble's predictions, then clips them; arguments as in ``smooth``."""
        return self.clip(self.smooth(store, predictions, fold))

    def document(self) -> dict[str, Any]:
        """Returns the content of ``postprocessing.json``."""
        return {
            "steps": list(self.steps),
            "smoother": self.smoother,
            "tuned_on": self.tuned_on if self.widths else None,
            "ranges": {task: list(limits) for task, limits in self.ranges.items()},
            "seconds": {
                str(fold): {
                    task: dict(zip(TASKS[task].labels, widths_C.tolist(), strict=True))
                    for task, widths_C in widths.items()
                }
                for fold, widths in zip(self.folds, self.widths, strict=False)
            },
        }

    def lines(self) -> list[str]:
        """Describes the widths and ranges, line by line."""
        found = []
        if self.widths:
            width = SMOOTHERS[self.smoother].width
            found.append(f"smoothing: {self.smoother} ({width}), tuned on {self.tuned_on}")
        for fold, widths in zip(self.folds, self.widths, strict=False):
            parts = []
            for task, widths_C in widths.items():
                labels = TASKS[task].labels
                # A width that all labels of a task share is printed once.
                names = labels if len(set(widths_C.tolist())) > 1 else (task,)
                parts += [f"{n} {s:g} s" for n, s in zip(names, widths_C, strict=False)]
            found.append(f"  fold {fold}: " + ", ".join(parts))
        for task, (low, high) in self.ranges.items():
            found.append(f"clipping: {task} to {low:g} ... {high:g}")
        return found

    def write(self, folder: Path) -> Path:
        """Writes ``postprocessing.json`` into a folder, which is made if it does not exist."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / POSTPROCESSING_FILE
        path.write_text(json.dumps(self.document(), indent=1) + "\n")
        return path


def smoothed(
    by_task: Mapping[str, np.ndarray], pts_N: np.ndarray, widths: Widths, smoother: str
) -> dict[str, np.ndarray]:
    """Smooths one video's predictions, task -> (N, C), each column with its own width."""
    result = {}
    for task, values_NC in by_task.items():
        result[task] = np.array(values_NC, np.float64)
        for seconds in np.unique(widths[task]):
            columns_C = widths[task] == seconds
            result[task][:, columns_C] = smooth(
                result[task][:, columns_C], pts_N, float(seconds), smoother=smoother
            )
    return result


def check_steps(steps: Sequence[str]) -> tuple[str, ...]:
    """Puts the steps that a flag names into the order in which they are taken.

    Raises:
        InputError: one is unknown.
    """
    for step in steps:
        if step not in STEPS:
            raise InputError(
                "There is no such postprocessing.",
                field="--postprocess",
                found=step,
                expected="some of " + ", ".join(STEPS),
                remedy=closest(step, STEPS),
            )
    return tuple(step for step in STEPS if step in steps)


def tuned_postprocessing(
    steps: tuple[str, ...],
    smoother: str,
    session: Session,
    store: Store,
    known: Sequence[Sequence[tuple[Fold, Predictions]]],
    tuned_on: str,
) -> Postprocessing:
    """Tunes the widths of every fold.

    Args:
        steps: some of ``STEPS``.
        smoother: a key of ``SMOOTHERS``.
        session: the session of the run.
        store: the store that it was trained on.
        known: for each fold of the session, predictions to tune its widths on, each with the
            fold that says which of their frames are scored. Only used with "smooth".
        tuned_on: describes these predictions for the user.
    """
    folds = [store.fold(name) for name in session.folds.keys]
    ranges = label_ranges(store, folds, session.tasks) if "clip" in steps else {}
    selection = session.config.evaluation.selection
    widths: tuple[Widths, ...] = ()
    if "smooth" in steps:
        widths = tuple(
            {
                task: _tune(store, of_fold, task, selection[task], smoother, ranges)
                for task in session.tasks
            }
            for of_fold in known
        )
    return Postprocessing(steps, smoother, session.folds.keys, widths, ranges, tuned_on)


class _Known(Protocol):
    """Predictions to tune on, see ``evaluation.Tuning``."""

    def ensembles(
        self, weights: Mapping[str, np.ndarray], groups: Groups
    ) -> list[list[tuple[Fold, Predictions]]]:
        """Returns predictions to tune on for each fold."""


def prepare_postprocessing(
    steps: tuple[str, ...],
    smoother: str,
    widths: str,
    session: Session,
    open_store: Callable[[], Store],
    tuning: _Known | None,
) -> Postprocessing | None:
    """Prepares the postprocessing that flags ask for: read from a file, or tuned.

    Args:
        steps: some of ``STEPS``; without any, the result is None.
        smoother: a key of ``SMOOTHERS``; a file has its own.
        widths: the file to read, or "".
        session: the session of the run.
        open_store: opens the store that the run was trained on; not called with a file.
        tuning: predictions to tune widths on; needed for "smooth" without a file.

    Raises:
        InputError: the file or the store cannot be used.
    """
    if not steps:
        if widths:
            raise InputError(
                "Widths are given, and nothing to use them for.",
                field="--widths",
                found=widths,
                expected="--postprocess=smooth beside it",
            )
        return None
    if widths:
        return read_postprocessing(widths, steps, session.folds.keys, session.tasks)
    known = tuning.ensembles(session.weights, session.folds) if tuning else []
    return tuned_postprocessing(steps, smoother, session, open_store(), known, ON_TRAINING)


def label_ranges(
    store: Store, folds: Sequence[Fold], tasks: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Continuous task -> lowest and highest label.

    That is -1 and 1, as the ABAW protocol has it; where a training video is annotated with
    anything beyond, the data set has a scale of its own, and the range is that of its training
    annotations.
    """
    ranges = {}
    names = dict.fromkeys(name for fold in folds for name in fold.train)
    for task in tasks:
        if TASKS[task].kind != "continuous":
            continue
        lows, highs = [], []
        for name in names:
            labels_NK = store.read(store.index_of(name)).labels.get(task)
            if labels_NK is None:
                continue
            annotated = labels_NK[TASKS[task].annotated(labels_NK)]
            if annotated.size:
                lows.append(float(annotated.min()))
                highs.append(float(annotated.max()))
        low, high = min(lows, default=0.0), max(highs, default=0.0)
        usual = _USUAL_RANGE[0] <= low and high <= _USUAL_RANGE[1]
        ranges[task] = _USUAL_RANGE if usual else (low, high)
    return ranges


def _tune(
    store: Store,
    known: Sequence[tuple[Fold, Predictions]],
    task: str,
    selection: str,
    smoother: str,
    ranges: Mapping[str, tuple[float, float]],
) -> np.ndarray:
    """Returns (C,) widths in seconds with the best score; 0 without annotations or predictions."""
    ops, seconds = TASK_OPS[task], SMOOTHERS[smoother].seconds
    outputs = TASKS[task].outputs
    states: list[Any] = [None] * len(seconds)
    predicted_C = np.zeros(outputs, bool)
    for fold, predictions in known:
        for name, by_task in predictions.items():
            truth = read_annotations(store, fold, [name], task)
            if not truth.mask_NK.any():
                continue
            pts_N = store.read(store.index_of(name)).pts_N
            predicted_C |= np.isfinite(by_task[task]).any(axis=0)
            for w, width in enumerate(seconds):
                values_NC = np.nan_to_num(smooth(by_task[task], pts_N, width, smoother=smoother))
                # As it will be scored: clipped, if it is.
                values_NC = clip(values_NC, *ranges[task]) if task in ranges else values_NC
                state = ops.state(values_NC, truth.labels_NK, truth.mask_NK)
                states[w] = state if states[w] is None else states[w].merge(state)
    if states[0] is None:
        return np.zeros(outputs)
    score = ops.selections[selection]
    scores_WX = np.stack([np.asarray(score(state)) for state in states])
    best_X = (scores_WX >= scores_WX.max(axis=0) - _TIE).argmax(axis=0)
    # All classes of a categorical task are one target, and share a width.
    widths_C = np.broadcast_to(np.asarray(seconds)[best_X], (outputs,))
    return np.where(predicted_C, widths_C, 0.0)


def read_postprocessing(
    path: str | Path, steps: tuple[str, ...], folds: tuple[str, ...], tasks: Sequence[str]
) -> Postprocessing:
    """Reads a ``postprocessing.json`` that evaluation or cross-validation wrote.

    Args:
        path: the file.
        steps: some of the steps that the file describes.
        folds: the names of the run's folds, all of which the file must hold.
        tasks: the run's tasks, all of which the file must hold.

    Raises:
        InputError: the file cannot be read, or is of another run or of other steps.
    """
    path = Path(path)

    def refuse(field: str, found: object, expected: object) -> InputError:
        return InputError(
            "This does not hold the postprocessing of the run.",
            file=path,
            field=field,
            found=found,
            expected=expected,
            remedy="give the postprocessing.json that emojax.evaluate or emojax.crossval wrote "
            "for this run with the same --postprocess, or leave --widths out",
        )

    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise refuse("contents", str(error), "a JSON file") from error
    if not isinstance(content, dict) or not set(steps) <= set(content.get("steps") or ()):
        found = content.get("steps") if isinstance(content, dict) else type(content).__name__
        raise refuse("steps", found, ", ".join(steps))
    if content.get("smoother") not in SMOOTHERS:
        raise refuse("smoother", content.get("smoother"), "one of " + ", ".join(SMOOTHERS))
    try:
        widths = tuple(
            {
                task: np.array(
                    [float(content["seconds"][fold][task][label]) for label in TASKS[task].labels]
                )
                for task in tasks
            }
            for fold in (folds if "smooth" in steps else ())
        )
        continuous = [task for task in tasks if TASKS[task].kind == "continuous"]
        ranges = {
            task: (float(content["ranges"][task][0]), float(content["ranges"][task][1]))
            for task in (continuous if "clip" in steps else ())
        }
    except (KeyError, IndexError, TypeError, ValueError) as error:
        expected = "folds " + ", ".join(folds) + "; " + ", ".join(tasks)
        raise refuse("seconds and ranges", f"nothing for {error}", expected) from error
    numbers = np.concatenate([[0.0], *(w for by_task in widths for w in by_task.values())])
    if not ((numbers >= 0) & np.isfinite(numbers)).all():
        raise refuse("seconds", float(numbers.min()), "finite widths of at least 0")
    if any(not low <= high for low, high in ranges.values()):
        raise refuse("ranges", dict(ranges), "the lowest label, then the highest")
    tuned_on = str(content.get("tuned_on"))
    return Postprocessing(steps, content["smoother"], folds, widths, ranges, tuned_on)
