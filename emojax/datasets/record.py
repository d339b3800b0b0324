"""One video on the host, and the names of its arrays in a stored record.

A record is a ``tf.train.Example`` whose features are all raw little-endian bytes:

    name, source_video, partition   UTF-8 text
    attributes                      JSON object, text to text
    pts                             float64 [N], seconds of each frame
    streams/<stream>/rows           float16 or float32 [n, D]
    streams/<stream>/pts            float64 [n], seconds of each row
    streams/<stream>/valid          one byte per row, 0 or 1
    labels/<task>                   float32 [N, columns of the task]
    references/<name>/<task>        float32 [N, outputs of the task]

Bytes keep a record zero-copy to read: every array of a ``VideoRecord`` that came from a store
is a read-only view of the memory-mapped shard. Views need not be aligned; numpy does not care.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence

import numpy as np

from emojax.specs import TASKS, StreamSpec

PARTITIONS = ("train", "validation", "test")
MAX_ATTRIBUTES = 2**20  # characters of JSON


@dataclasses.dataclass(frozen=True)
class StreamRows:
    """One stream of one video, at the stream's own rate.

    Attributes:
        rows_ND: (n, D) floating point, zeros where not valid.
        pts_N: (n,) float64 seconds, the instant each row describes, never decreasing.
        valid_N: (n,) bool, False where the extractor had nothing to say (no face, silence).
    """

    rows_ND: np.ndarray
    pts_N: np.ndarray
    valid_N: np.ndarray


@dataclasses.dataclass(frozen=True)
class VideoRecord:
    """One video: its clock, streams, labels and attributes.

    Attributes:
        name: unique in its store ("7-60-1920x1080_left").
        source_video: the file it was cut from; folds keep videos of one source together.
        partition: "train", "validation" or "test".
        pts_N: (N,) float64, seconds of each frame, increasing.
        streams: stream name -> rows on the same time origin.
        labels: task -> (N, columns) float32, the task's ignore value where not annotated; a
            task without any annotation may be absent.
        references: name -> task -> (N, outputs) float32, predictions to compare with.
        attributes: free text about the video ("subject": "12"), never fed to a model.
    """

    name: str
    source_video: str
    partition: str
    pts_N: np.ndarray
    streams: dict[str, StreamRows]
    labels: dict[str, np.ndarray]
    references: dict[str, dict[str, np.ndarray]] = dataclasses.field(default_factory=dict)
    attributes: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def num_frames(self) -> int:
        """Returns N, the number of frames."""
        return len(self.pts_N)


def to_features(record: VideoRecord) -> dict[str, bytes]:
    """Returns the features of one stored record, from arrays in their stored dtypes."""
    features = {
        "name": record.name.encode(),
        "source_video": record.source_video.encode(),
        "partition": record.partition.encode(),
        "attributes": json.dumps(record.attributes, sort_keys=True).encode(),
        "pts": _bytes(record.pts_N, "<f8"),
    }
    for stream, data in record.streams.items():
        features[f"streams/{stream}/rows"] = _bytes(data.rows_ND, data.rows_ND.dtype.str)
        features[f"streams/{stream}/pts"] = _bytes(data.pts_N, "<f8")
        features[f"streams/{stream}/valid"] = _bytes(data.valid_N, "?")
    for task, labels_NK in record.labels.items():
        features[f"labels/{task}"] = _bytes(labels_NK, "<f4")
    for reference, tasks in record.references.items():
        for task, values_NC in tasks.items():
            features[f"references/{reference}/{task}"] = _bytes(values_NC, "<f4")
    return features


def from_features(
    buffer: memoryview,
    fields: Mapping[str, tuple[int, int]],
    streams: Sequence[StreamSpec],
    dtypes: Mapping[str, np.dtype],
) -> VideoRecord:
    """Rebuilds a video whose arrays are views of ``buffer``.

    Args:
        buffer: what the offsets count from, for instance a whole mapped shard.
        fields: feature name -> (offset, length) in ``buffer``.
        streams: the streams that the record holds.
        dtypes: the dtype of each stream's rows.

    Raises:
        KeyError, ValueError: a feature is absent or its length cannot be right.
    """

    def text(key: str) -> str:
        offset, length = fields[key]
        return bytes(buffer[offset : offset + length]).decode()

    def array(key: str, dtype: np.dtype | str, columns: int | None = None) -> np.ndarray:
        offset, length = fields[key]
        values = np.frombuffer(buffer[offset : offset + length], dtype)
        return values if columns is None else values.reshape(-1, columns)

    data = {
        spec.name: StreamRows(
            rows_ND=array(f"streams/{spec.name}/rows", dtypes[spec.name], spec.width),
            pts_N=array(f"streams/{spec.name}/pts", "<f8"),
            valid_N=array(f"streams/{spec.name}/valid", "?"),
        )
        for spec in streams
    }
    labels: dict[str, np.ndarray] = {}
    references: dict[str, dict[str, np.ndarray]] = {}
    for key in fields:
        match key.split("/"):
            case ["labels", task]:
                labels[task] = array(key, "<f4", TASKS[task].columns)
            case ["references", reference, task]:
                values_NC = array(key, "<f4", TASKS[task].outputs)
                references.setdefault(reference, {})[task] = values_NC
    record = VideoRecord(
        name=text("name"),
        source_video=text("source_video"),
        partition=text("partition"),
        pts_N=array("pts", "<f8"),
        streams=data,
        labels=labels,
        references=references,
        attributes=_attributes(text("attributes")),
    )
    _check_lengths(record)
    return record


def _attributes(text: str) -> dict[str, str]:
    # JSON takes many times its size in memory.
    if len(text) > MAX_ATTRIBUTES:
        raise ValueError(f"attributes of {len(text)} characters")
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("attributes are no mapping")
    return found


def _bytes(values: np.ndarray, dtype: str) -> bytes:
    return np.ascontiguousarray(values, dtype).tobytes()


def _check_lengths(record: VideoRecord) -> None:
    for stream, data in record.streams.items():
        if not len(data.rows_ND) == len(data.pts_N) == len(data.valid_N):
            raise ValueError(f"rows, pts and valid of {stream} differ in length")
    per_frame = [*record.labels.values()]
    per_frame += [values for tasks in record.references.values() for values in tasks.values()]
    if any(len(values) != record.num_frames for values in per_frame):
        raise ValueError("labels or references and frames differ in number")
