"""Weights of rare classes, from the label counts of a fold's training videos."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from emojax.core.replicas import Groups
from emojax.datasets.source import Store
from emojax.specs import TASKS, TaskSpec

# Kinds of task whose losses take ``class_weights_C``.
WEIGHTED_KINDS = ("categorical", "binary")

# name -> how strongly a count acts; None weighs nothing.
CLASS_WEIGHTS: dict[str, Callable[[np.ndarray], np.ndarray] | None] = {
    "none": None,
    "inverse": lambda ratio: ratio,
    "sqrt_inverse": np.sqrt,
}


def label_counts(store: Store, videos: tuple[str, ...], task: str) -> tuple[np.ndarray, np.ndarray]:
    """Counts how often each class (unit) of a task is annotated.

    Args:
        store: the store with the videos.
        videos: names.
        task: categorical or binary.

    Returns:
        (C,) annotated frames of each class (where the unit is on), and (C,) annotated frames
        of other classes (where it is off), float64.
    """
    spec = TASKS[task]
    on_C, known_C = np.zeros(spec.outputs), np.zeros(spec.outputs)
    for name in videos:
        labels_NK = store.read(store.index_of(name)).labels.get(task)
        if labels_NK is None:
            continue
        mask_NK = spec.annotated(labels_NK)
        if spec.kind == "categorical":
            classes = labels_NK[mask_NK].astype(np.int64)
            on_C += np.bincount(classes, minlength=spec.outputs)
            known_C += len(classes)
        else:
            on_C += np.sum(mask_NK & (labels_NK > 0.5), axis=0)
            known_C += np.sum(mask_NK, axis=0)
    return on_C, known_C - on_C


def class_weights(spec: TaskSpec, on_C: np.ndarray, off_C: np.ndarray, name: str) -> np.ndarray:
    """Computes class weights in the form that the losses of a task take.

    Args:
        spec: the task.
        on_C: (C,) frames of each class, or where the unit is on.
        off_C: (C,) the other annotated frames.
        name: "inverse", or "sqrt_inverse", which takes the root of every ratio.

    Returns:
        (C,) float32. Categorical: proportional to 1 / count, and scaled so that the mean weight
        of the counted frames is 1; a class without frames weighs 0, as no loss uses it.
        Binary: off / on, the weight of positive frames (``pos_weight`` of PyTorch's
        ``BCEWithLogitsLoss``); a unit that is never on, or never off, keeps weight 1.
    """
    strength = CLASS_WEIGHTS[name]
    if strength is None:
        return np.ones(spec.outputs, np.float32)
    if spec.kind == "binary":
        both_C = (on_C > 0) & (off_C > 0)
        ratio_C = np.where(both_C, off_C / np.maximum(on_C, 1), 1.0)
        return strength(ratio_C).astype(np.float32)
    weights_C = np.where(on_C > 0, strength(1 / np.maximum(on_C, 1)), 0.0)
    total = np.sum(on_C * weights_C)
    return (weights_C * (np.sum(on_C) / total if total else 1.0)).astype(np.float32)


def fold_class_weights(
    store: Store, folds: Groups, tasks: Sequence[str], name: str
) -> dict[str, np.ndarray] | None:
    """Computes class weights of every replica, from the training videos of its fold.

    Args:
        store: the data.
        folds: replicas grouped by fold.
        tasks: the tasks that are trained.
        name: a key of ``CLASS_WEIGHTS``.

    Returns:
        Task -> (R, C) float32, for categorical and binary tasks; None without weights.
    """
    if CLASS_WEIGHTS[name] is None:
        return None
    weights = {}
    for task in tasks:
        spec = TASKS[task]
        if spec.kind not in WEIGHTED_KINDS:
            continue
        per_fold = [
            class_weights(spec, *label_counts(store, store.fold(fold).train, task), name)
            for fold in folds.keys
        ]
        weights[task] = np.stack(per_fold)[folds.members_R]
    return weights
