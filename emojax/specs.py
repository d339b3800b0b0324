"""Vocabulary: the streams that feature extractors produce and the tasks that annotators label.

A new stream is a row of the first table below, or an entry in a store's ``dataset.json``. A
new task is a row of the second: its kind says how it is trained and scored, see
``emojax.ops.tasks``.
"""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class StreamSpec:
    """One stream of feature vectors.

    Attributes:
        name: the extractor, never a position ("ir50", "vggish").
        width: D, numbers per row.
        modality: "visual", "audio", "text", "pose" or "physiology".
        rate: rows per second; None means one row per video frame.
    """

    name: str
    width: int
    modality: str
    rate: float | None = None


@dataclasses.dataclass(frozen=True)
class TaskSpec:
    """One annotation task.

    Attributes:
        name: short name used in configs, batches and files.
        kind: "continuous" (one real number per label), "categorical" (one class index)
            or "binary" (one 0/1 per label).
        labels: names of the dimensions, classes or units, in the order of the data set's columns
            or class indices.
        ignore: value that marks "not annotated" in label arrays and annotation files.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    ignore: float

    @property
    def columns(self) -> int:
        """Returns the number of values per frame: one class index, or one value per label."""
        return 1 if self.kind == "categorical" else len(self.labels)

    @property
    def outputs(self) -> int:
        """Returns C, the width of a model's output for this task."""
        return len(self.labels)

    def annotated(self, labels_NK: np.ndarray) -> np.ndarray:
        """Returns True where an entry of a label array (..., columns) is an annotation.

        A continuous frame counts only if all of its dimensions are annotated, as the ABAW
        protocol has it; binary units are masked one by one.
        """
        known_NK = labels_NK != self.ignore
        if self.kind == "continuous":
            known_NK = np.broadcast_to(known_NK.all(axis=-1, keepdims=True), known_NK.shape)
        return known_NK


_STREAM_ROWS = (
    # Widths and rates as the papers state them; fan's width is open there and ours here.
    StreamSpec("vggface", 4096, "visual"),
    StreamSpec("compare_lld", 65, "audio", 100.0),
    StreamSpec("egemaps", 23, "audio", 100.0),
    StreamSpec("fan", 512, "visual", 6.0),
    StreamSpec("deepspectrum", 1024, "audio", 2.0),
    StreamSpec("openpose", 50, "pose", 2.0),
    StreamSpec("ir50", 512, "visual"),
    StreamSpec("vggish", 128, "audio"),
    StreamSpec("logmel", 128, "audio"),
    StreamSpec("bert", 768, "text"),
    StreamSpec("eff", 1280, "visual"),
    StreamSpec("raf_db", 512, "visual"),
    StreamSpec("affectnet8", 512, "visual"),
    StreamSpec("arcface", 512, "visual"),
    StreamSpec("wav2vec2_emotion", 512, "audio", 50.0),
    # EPiC-2023 / CASE, peripheral physiology (Sharma et al. 2019; Coles et al. 2025).
    StreamSpec("cardiac", 2, "physiology", 20.0),
    StreamSpec("eda", 2, "physiology", 20.0),
    StreamSpec("resp", 1, "physiology", 20.0),
    StreamSpec("temp", 1, "physiology", 20.0),
    StreamSpec("emg", 3, "physiology", 20.0),
)

_TASK_ROWS = (
    TaskSpec("va", "continuous", ("valence", "arousal"), -5.0),
    TaskSpec(
        "expr",
        "categorical",
        ("Neutral", "Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise", "Other"),
        -1.0,
    ),
    TaskSpec(
        "au",
        "binary",
        (
            "AU1", "AU2", "AU4", "AU6", "AU7", "AU10",
            "AU12", "AU15", "AU23", "AU24", "AU25", "AU26",
        ),
        -1.0,
    ),
    # Ekman's six and neutral, as MELD's class indices 0 to 6 (Poria et al. 2019).
    TaskSpec(
        "ekman",
        "categorical",
        ("Neutral", "Surprise", "Fear", "Sadness", "Joy", "Disgust", "Anger"),
        -1.0,
    ),
)  # fmt: skip

STREAMS: dict[str, StreamSpec] = {row.name: row for row in _STREAM_ROWS}
TASKS: dict[str, TaskSpec] = {row.name: row for row in _TASK_ROWS}
