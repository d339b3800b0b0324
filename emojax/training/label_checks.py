"""Checks before the first step that validation can choose an epoch and no class is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from emojax.core.class_weights import WEIGHTED_KINDS, label_counts
from emojax.core.session import Session
from emojax.datasets.source import Store
from emojax.errors import InputError
from emojax.prediction.predictor import Annotations
from emojax.specs import TASKS, TaskSpec

# Reading a store's training labels reads and checks its records: some seconds at this size.
_MOST_BYTES = 4 * 2**30
_SHOWN = 6


def check_labels(
    session: Session, store: Store, truths: Sequence[Mapping[str, Annotations]]
) -> list[str]:
    """Checks the labels of each fold that trains.

    Args:
        session: the session of all replicas.
        store: the store with the videos.
        truths: for each fold, task -> annotations of its validation videos.

    Returns:
        Warnings about classes and units that are missing.

    Raises:
        InputError: no validation or training frame of a fold is annotated for a task that trains
            there.
    """
    lines = []
    small = sum(entry.length for entry in store.videos) <= _MOST_BYTES
    for number, name in enumerate(session.folds.keys):
        members = session.folds.members_R == number
        for task, weights_RX in session.weights.items():
            if not weights_RX[members].any():
                continue
            fold, spec, truth = store.fold(name), TASKS[task], truths[number][task]
            if not truth.mask_NK.any():
                raise _unannotated(store, name, task, "validation", len(truth.names))
            weighted = spec.kind in WEIGHTED_KINDS
            if weighted:
                lines += _missing(spec, _counts(spec, truth), f"validation of fold {name}")
            if not small:
                continue
            if not any(_is_annotated(store, video, task) for video in fold.train):
                raise _unannotated(store, name, task, "training", len(fold.train))
            if weighted:
                on_C, _ = label_counts(store, fold.train, task)
                lines += _missing(spec, on_C, f"training of fold {name}")
    return lines


def _unannotated(store: Store, fold: str, task: str, part: str, videos: int) -> InputError:
    return InputError(
        f"No {part} frame is annotated.",
        file=store.path,
        field=f"fold {fold}, task {task}",
        found=f"no label in {videos} {part} videos",
        expected="annotated frames" + ", which choose the epoch" * (part == "validation"),
        remedy="name another fold (config.replicas.folds) or other tasks (config.data.tasks), or "
        "build the store with labels",
    )


def _is_annotated(store: Store, video: str, task: str) -> bool:
    labels_NK = store.read(store.index_of(video)).labels.get(task)
    return labels_NK is not None and bool(TASKS[task].annotated(labels_NK).any())


def _counts(spec: TaskSpec, truth: Annotations) -> np.ndarray:
    """Returns the annotated frames of each class, or those where a unit is on, (C,)."""
    if spec.kind == "binary":
        return (truth.mask_NK & (truth.labels_NK > 0.5)).sum(axis=0)
    classes = truth.labels_NK[truth.mask_NK].astype(np.int64)
    return np.bincount(classes, minlength=spec.outputs)


def _missing(spec: TaskSpec, on_C: np.ndarray, where: str) -> list[str]:
    lost = [label for label, count in zip(spec.labels, on_C, strict=True) if not count]
    if not lost:
        return []
    shown = ", ".join(lost[:_SHOWN]) + ", ..." * (len(lost) > _SHOWN)
    return [
        f"warning: {spec.name}, {where}: no frame has {shown} ({len(lost)} of "
        f"{len(spec.labels)}), which "
        + ("cannot be learnt" if where.startswith("training") else "counts as F1 0 in the choice")
    ]
