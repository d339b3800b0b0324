"""Checks videos and folds before they are stored, and converts videos to stored dtypes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from emojax.datasets.folds import Fold
from emojax.datasets.record import MAX_ATTRIBUTES, PARTITIONS, StreamRows, VideoRecord
from emojax.errors import InputError, closest
from emojax.specs import TASKS, StreamSpec, TaskSpec

# Longer times, or times further from zero, are not those of a recording. Windows are cut by the
# clock, so that without a bound a record could ask for any number of them.
MAX_SECONDS = 7 * 86400.0
_MAX_TIME = 1e12


def conform(
    record: VideoRecord,
    streams: Sequence[StreamSpec],
    tasks: Sequence[str],
    dtypes: Mapping[str, np.dtype],
) -> VideoRecord:
    """Returns the same video in stored dtypes, with zeros in rows that are not valid.

    Args:
        record: the video as a builder made it.
        streams: the streams that it must hold, exactly.
        tasks: the tasks that it may have labels and references for.
        dtypes: the dtype of each stream's rows in the store.

    Raises:
        InputError: the video does not fit the store; the field names the video and the stream,
            task or array.
    """
    check_name(record.name, "video name")
    check_name(record.source_video, f"source video of {record.name}")
    if record.partition not in PARTITIONS:
        raise InputError(
            "A video belongs to no known partition.",
            field=f"partition of {record.name}",
            found=record.partition,
            expected=", ".join(PARTITIONS),
        )
    for key, value in record.attributes.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise InputError(
                "Attributes must be text.",
                field=f"attribute {key!r} of {record.name}",
                found=repr(value),
                expected="text",
            )
    size = sum(len(key) + len(value) for key, value in record.attributes.items())
    if size > MAX_ATTRIBUTES // 8:  # a character takes up to 6 in JSON
        raise InputError(
            "A video has too much text.",
            field=f"attributes of {record.name}",
            found=f"{size} characters",
            expected=f"at most {MAX_ATTRIBUTES // 8}",
        )
    pts_N = check_clock(record.pts_N, f"frame times of {record.name}", strictly=True)
    if not len(pts_N):
        raise InputError("A video has no frames.", field=record.name, found=0, expected=">= 1")
    known = {spec.name: spec for spec in streams}
    check_known(record.streams, known, "stream", record.name)
    for name in known:
        if name not in record.streams:
            raise InputError(
                "A video lacks a stream.",
                field=f"stream {name} of {record.name}",
                found=", ".join(record.streams) or "no stream",
                expected=", ".join(known),
                remedy="give rows that are not valid where the extractor found nothing",
            )
    check_known(record.labels, tasks, "task", record.name)
    for reference, values in record.references.items():
        check_name(reference, f"reference of {record.name}")
        check_known(values, tasks, "task", record.name)
    return VideoRecord(
        name=record.name,
        source_video=record.source_video,
        partition=record.partition,
        pts_N=pts_N,
        streams={
            name: _stream(data, known[name], dtypes[name], f"stream {name} of {record.name}")
            for name, data in ((name, record.streams[name]) for name in known)
        },
        labels={
            task: _labels(values, TASKS[task], len(pts_N), f"labels {task} of {record.name}")
            for task, values in record.labels.items()
        },
        references={
            reference: {
                task: _per_frame(
                    values,
                    len(pts_N),
                    TASKS[task].outputs,
                    f"reference {reference}/{task} of {record.name}",
                )
                for task, values in by_task.items()
            }
            for reference, by_task in record.references.items()
        },
        attributes=dict(record.attributes),
    )


def check_name(name: object, what: str, file: Path | None = None) -> None:
    """Refuses names that are not plain text or could leave a folder when used as a file name."""
    safe = (
        isinstance(name, str)
        and 0 < len(name) <= 200
        and name.isprintable()
        and not name.startswith(".")
        and not any(part in name for part in ("/", "\\", ".."))
    )
    if not safe:
        raise InputError(
            "A name cannot be used.",
            file=file,
            field=what,
            found=repr(name)[:200],
            expected="1 to 200 printable characters, no '/', '\\' or '..', no dot in front",
            remedy="rename it",
        )


def check_known(
    names: Iterable[str],
    known: Iterable[str],
    kind: str,
    where: str,
    file: Path | None = None,
) -> None:
    """Refuses names outside ``known``, with the closest known name as a hint."""
    choices = dict.fromkeys(known)
    for name in names:
        if name in choices:
            continue
        shown = ", ".join(itertools.islice(choices, 20)) or f"no {kind}"
        raise InputError(
            f"Unknown {kind}.",
            file=file,
            field=where,
            found=str(name)[:200],
            expected=shown if len(choices) <= 20 else f"{shown}, ... ({len(choices)} in all)",
            remedy=closest(str(name)[:200], itertools.islice(choices, 1000))
            or "use one of those expected",
        )


def check_stored(record: VideoRecord, tasks: Sequence[str]) -> None:
    """Refuses a record that was read and that ``conform`` would have refused.

    Checksums say that a record is what was written, not who wrote it. The values of features are
    not checked again.

    Args:
        record: the record as it was read.
        tasks: the tasks of the store.

    Raises:
        ValueError, InputError: times, validity, labels, references or attributes are wrong.
    """
    check_clock(record.pts_N, "frame times", strictly=True)
    for name, data in record.streams.items():
        check_clock(data.pts_N, f"row times of stream {name}", strictly=False)
        if (data.valid_N.view(np.uint8) > 1).any():
            raise ValueError(f"validity of stream {name} is neither 0 nor 1")
    check_known(record.labels, tasks, "task", record.name)
    for task, values in record.labels.items():
        _labels(values, TASKS[task], record.num_frames, f"labels {task} of {record.name}")
    for reference, by_task in record.references.items():
        check_name(reference, f"reference of {record.name}")
        check_known(by_task, tasks, "task", record.name)
    for key, value in record.attributes.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise ValueError("attributes are not text")


def check_fold(fold: Fold, videos: Iterable[str]) -> None:
    """Refuses folds that are empty, leak or name videos that are not in ``videos``."""
    check_name(fold.name, "fold name")
    where = f"fold {fold.name}"
    roles = {"train": fold.train, "validation": fold.validation, "test": fold.test}
    check_known(itertools.chain(*roles.values()), videos, "video", where)
    for role, names in roles.items():
        if len(set(names)) < len(names):
            raise InputError(
                "A fold names a video twice.",
                field=f"{where}, {role}",
                found=next(name for name in names if names.count(name) > 1),
                expected="each video once",
            )
    leaked = set(fold.train) & {*fold.validation, *fold.test}
    if leaked:
        raise InputError(
            "A fold trains on videos that it also validates or tests on.",
            field=where,
            found=", ".join(sorted(leaked)[:5]),
            expected="disjoint training videos",
        )
    if not fold.train:
        raise InputError(
            "A fold has no training videos.",
            field=where,
            found=0,
            expected="at least one",
            remedy="add training videos, or finish without folds for prediction only",
        )
    if fold.scored_frames is not None and not 0 <= fold.scored_frames[0] < fold.scored_frames[1]:
        raise InputError(
            "The scored frames of a fold are empty.",
            field=where,
            found=fold.scored_frames,
            expected="(start, stop) with 0 <= start < stop",
        )


def annotated(labels_NK: np.ndarray, task: TaskSpec) -> np.ndarray:
    """Returns (N,) bool, True where at least one column of the task is annotated."""
    return (labels_NK != np.float32(task.ignore)).any(axis=1)


def count_annotated(labels: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Returns the number of annotated frames of each task."""
    return {task: int(annotated(values, TASKS[task]).sum()) for task, values in labels.items()}


def _stream(data: StreamRows, spec: StreamSpec, dtype: np.dtype, what: str) -> StreamRows:
    rows_ND = np.asarray(data.rows_ND)
    if rows_ND.dtype.kind != "f":
        raise InputError(
            "Stream rows have the wrong dtype.",
            field=what,
            found=rows_ND.dtype,
            expected="a floating point type",
        )
    if rows_ND.ndim != 2 or rows_ND.shape[1] != spec.width:
        raise InputError(
            "Stream rows have the wrong width.",
            field=what,
            found=f"shape {rows_ND.shape}",
            expected=f"(rows, {spec.width})",
            remedy="check which extractor wrote the features",
        )
    pts_N = check_clock(data.pts_N, f"{what}, row times", strictly=False)
    valid_N = np.asarray(data.valid_N)
    if valid_N.dtype != np.bool_:
        raise InputError(
            "Row validity has the wrong dtype.", field=what, found=valid_N.dtype, expected="bool"
        )
    if not pts_N.shape == valid_N.shape == rows_ND.shape[:1]:
        raise InputError(
            "Rows, row times and validity differ in number.",
            field=what,
            found=f"{len(rows_ND)} rows, times {pts_N.shape}, validity {valid_N.shape}",
            expected="one time and one validity per row",
        )
    if not valid_N.all():
        # An extractor often leaves NaN where it found nothing.
        rows_ND = np.where(valid_N[:, None], rows_ND, rows_ND.dtype.type(0))
    _check_range(rows_ND, dtype, what)
    return StreamRows(rows_ND.astype(dtype), pts_N, valid_N)


def _check_range(rows_ND: np.ndarray, dtype: np.dtype, what: str) -> None:
    if not rows_ND.size:
        return
    limit = min(float(np.finfo(dtype).max), float(np.finfo(rows_ND.dtype).max))
    # NaN spreads through min and max, so two passes without temporaries find all offenders.
    if -limit <= rows_ND.min() and rows_ND.max() <= limit:
        return
    bad_ND = ~(np.abs(rows_ND) <= limit)
    row, column = np.argwhere(bad_ND)[0]
    value = rows_ND[row, column]
    raise InputError(
        f"Features exceed {dtype.name}." if np.isfinite(value) else "Features are not finite.",
        field=f"{what}, row {row}, column {column}",
        found=f"{value}, and {bad_ND.any(axis=1).sum()} rows concerned",
        expected=f"finite values, at most {limit:g} in size",
        remedy="mark such rows as not valid, scale the stream or store float32",
    )


def _labels(labels_NK: np.ndarray, task: TaskSpec, num_frames: int, what: str) -> np.ndarray:
    values_NK = _per_frame(labels_NK, num_frames, task.columns, what)
    given = values_NK[values_NK != np.float32(task.ignore)]
    if task.kind == "continuous":
        return values_NK
    largest = len(task.labels) - 1 if task.kind == "categorical" else 1
    wrong = given[(given < 0) | (given > largest) | (given != np.floor(given))]
    if wrong.size:
        raise InputError(
            "Labels are out of range.",
            field=what,
            found=wrong[0],
            expected=f"a whole number from 0 to {largest}, or {task.ignore:g}: not annotated",
        )
    return values_NK


def _per_frame(values: np.ndarray, num_frames: int, columns: int, what: str) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise InputError(
            "Values have the wrong dtype.", field=what, found=array.dtype, expected="numbers"
        )
    if array.ndim != 2 or array.shape[1] != columns:
        raise InputError(
            "Values have the wrong width.",
            field=what,
            found=f"shape {array.shape}",
            expected=f"({num_frames}, {columns})",
        )
    if len(array) != num_frames:
        raise InputError(
            "The number of labels or predictions differs from the number of frames.",
            field=what,
            found=len(array),
            expected=num_frames,
            remedy="align annotations and frames by index before storing them",
        )
    if not np.isfinite(array).all():
        raise InputError(
            "Values are not finite.",
            field=what,
            found=f"NaN or infinity in row {np.argwhere(~np.isfinite(array))[0][0]}",
            expected="finite numbers, -5 (valence, arousal) or -1 (classes, units) if unannotated",
        )
    return array.astype(np.float32)


def check_clock(times: np.ndarray, what: str, *, strictly: bool) -> np.ndarray:
    """Returns times as float64 seconds; refuses those that go back or are none of a recording.

    Args:
        times: (N,) seconds.
        what: named in errors.
        strictly: equal times are refused, too.

    Raises:
        InputError: the times are no clock.
    """
    array = np.asarray(times)
    if array.dtype.kind not in "fiu" or array.ndim != 1:
        raise InputError(
            "Times must be a vector of numbers.",
            field=what,
            found=f"{array.dtype} {array.shape}",
            expected="seconds, float64 (rows,)",
        )
    pts_N = array.astype(np.float64)
    steps = np.diff(pts_N)
    ordered = (steps > 0).all() if strictly else (steps >= 0).all()
    if not np.isfinite(pts_N).all() or not ordered:
        raise InputError(
            "Times do not increase.",
            field=what,
            found="times that are not finite or go back",
            expected="increasing seconds" if strictly else "seconds that never decrease",
        )
    if not len(pts_N):
        return pts_N
    if np.abs(pts_N[[0, -1]]).max() > _MAX_TIME or pts_N[-1] - pts_N[0] > MAX_SECONDS:
        raise InputError(
            "Times are not those of a recording.",
            field=what,
            found=f"{pts_N[0]:g} to {pts_N[-1]:g} s",
            expected=f"at most {MAX_SECONDS:g} s (a week), and at most {_MAX_TIME:g} s from zero",
            remedy="check the clock, or cut the recording into parts",
        )
    return pts_N
