"""Imports one of the user's videos: its streams and labels, and what was found of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emojax.datasets.folds import class_counts
from emojax.datasets.record import StreamRows, VideoRecord
from emojax.errors import InputError

from .features.feature_sources import FeatureRows, FeatureSource, VideoFrames
from .features.rows import count_of
from .import_report import ImportedStream
from .labels.label_rows import to_frames
from .labels.label_source import LabelSource
from .labels.video_table import VideoRow


def import_video(
    sources: Sequence[FeatureSource],
    labels: Sequence[LabelSource],
    frames: VideoFrames,
    row: VideoRow,
    *,
    allow_missing: bool,
) -> tuple[VideoRecord, list[ImportedStream]]:
    """Returns one video with its streams and labels, and its rows of the report.

    Args:
        sources: the streams.
        labels: the labels of each task.
        frames: the video, with the times of its frames.
        row: what the table of videos says about it.
        allow_missing: accept that a stream has no features; its rows are then not valid.

    Raises:
        InputError: features or labels are malformed, or a stream is lacking.
    """
    pts_N = frames.pts_N
    by_task, told = _labels(labels, frames)
    seen_N = np.zeros(len(pts_N), bool)
    for of in labels:
        if of.task.name in by_task:
            seen_N |= of.task.annotated(by_task[of.task.name]).any(axis=1)
    video = VideoFrames(frames.name, frames.source_video, pts_N, seen_N)
    streams: dict[str, StreamRows] = {}
    report = []
    for source in sources:
        spec = source.spec
        found = source.rows(video)
        if found is None:
            if not allow_missing:
                raise InputError(
                    "A video lacks a stream of features.",
                    field=f"stream {spec.name} of {video.name}",
                    found=f"no file for {video.name}",
                    expected="features of every stream for each video",
                    remedy="extract them, remove the video's other features, or allow it: "
                    "--allow_missing",
                )
            rows_ND = np.zeros((len(pts_N), spec.width), np.float32)
            stream = StreamRows(rows_ND, pts_N, np.zeros(len(pts_N), bool))
            warnings = ("no features",)
            found = FeatureRows(stream, Path(), 0, None, "no features", warnings=warnings)
        streams[spec.name] = found.stream
        surplus = 0 if found.expected is None or found.numbered else found.found - found.expected
        report.append(
            ImportedStream(
                video=video.name,
                frames=len(pts_N),
                stream=spec.name,
                file=str(found.file) if found.found else "",
                found=found.found,
                expected=found.expected,
                rows=len(found.stream.pts_N),
                valid=int(found.stream.valid_N.sum()),
                how=found.how,
                warnings=found.warnings,
                off=max(found.off, abs(surplus)),
            )
        )
    record = VideoRecord(
        name=video.name,
        source_video=row.group or video.source_video,
        partition=row.partition or ("train" if seen_N.any() else "test"),
        pts_N=pts_N,
        streams=streams,
        labels=by_task,
        attributes={
            f"features/{one.stream}": f"{count_of(one.found, 'row')}: {one.how}" for one in report
        },
    )
    return record, [*report, *told]


def _labels(
    labels: Sequence[LabelSource], video: VideoFrames
) -> tuple[dict[str, np.ndarray], list[ImportedStream]]:
    """Returns task -> labels of each frame, and rows of the report."""
    by_task, report = {}, []
    for source in labels:
        task = source.task
        rows = source.rows(video.name) or source.rows(video.source_video)
        if rows is None:
            file, found, valid = "", 0, 0
            how, off = "no labels", 0
            told: tuple[str, ...] = ("no labels",)
        else:
            brought = to_frames(rows, video.pts_N, task)
            by_task[task.name] = brought.labels_NK
            file, found, off = str(rows.file), len(rows.values_MK), brought.off
            valid = int(task.annotated(brought.labels_NK).any(axis=1).sum())
            how, told = brought.how, brought.told
        report.append(
            ImportedStream(
                video=video.name,
                frames=len(video.pts_N),
                stream=task.name,
                file=file,
                found=found,
                expected=None,
                rows=len(video.pts_N),
                valid=valid,
                how=how,
                warnings=told,
                off=off,
                labels=True,
            )
        )
    return by_task, report


def count_classes(record: VideoRecord, labels: Sequence[LabelSource]) -> np.ndarray | None:
    """Returns the annotated frames of each class of the first task that has classes, or None."""
    for source in labels:
        if source.task.kind == "categorical":
            found = record.labels.get(source.task.name)
            return None if found is None else class_counts(found, source.task)
    return None
