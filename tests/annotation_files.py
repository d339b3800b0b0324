"""Annotation folders and files of Aff-Wild2's form, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.annotations.challenge_files import CHALLENGES, SETS
from emojax.specs import TASKS

HEADERS = {task: ",".join(TASKS[task].labels) for task in CHALLENGES}


def random_labels(task: str, frames: int, seed: int = 0) -> np.ndarray:
    """Returns (N, columns) float32 with a few entries that are not annotated."""
    rng = np.random.default_rng([seed, len(task)])
    if task == "va":
        labels_NK = np.round(rng.uniform(-1, 1, (frames, 2)), 3)
        labels_NK[rng.random(frames) < 0.1] = -5
    elif task == "expr":
        labels_NK = rng.integers(-1, 8, (frames, 1))
    else:
        labels_NK = rng.integers(-1, 2, (frames, 12))
    return labels_NK.astype(np.float32)


def text_of(task: str, labels_NK: np.ndarray) -> str:
    """Returns an annotation file."""
    lines = [",".join(f"{value:g}" for value in row) for row in labels_NK.tolist()]
    return "\n".join([HEADERS[task], *lines]) + "\n"


def write_annotation(
    root: Path, task: str, partition: str, video: str, labels_NK: np.ndarray, name: int = 0
) -> Path:
    """Writes one file under the official folder names; ``name`` chooses the edition's."""
    path = root / CHALLENGES[task][name] / SETS[partition] / f"{video}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text_of(task, labels_NK))
    return path


def write_features(folder: Path, video: str, rows_ND: np.ndarray) -> None:
    """Writes one array for each video."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{video}.npy", rows_ND)
