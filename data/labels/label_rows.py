"""The labels of a video as a file gives them, and the way from there to the video's frames."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from emojax.errors import InputError
from emojax.specs import TaskSpec

from ..features.rows import count_of

_TOLERANCE = 1.0  # seconds by which labels may go on after the frames
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}


@dataclasses.dataclass(frozen=True)
class LabelRows:
    """The labels of one video. One of ``frame_M``, ``pts_M`` and ``spans_M2`` says when.

    Attributes:
        file: where they were read.
        values_MK: (rows, columns) float32, the task's ignore value where not annotated.
        frame_M: (rows,) frames from 0.
        pts_M: (rows,) seconds.
        spans_M2: (rows, 2) seconds: start and end.
        told: phrases that the user must see.
        in_order: a row a frame, without numbers of frames.
        elsewhere: the value of frames outside of all segments; None: they are not annotated.
    """

    file: Path
    values_MK: np.ndarray
    frame_M: np.ndarray | None = None
    pts_M: np.ndarray | None = None
    spans_M2: np.ndarray | None = None
    told: tuple[str, ...] = ()
    in_order: bool = False
    elsewhere: float | None = None


@dataclasses.dataclass(frozen=True)
class FrameLabels:
    """The labels of one video's frames.

    Attributes:
        labels_NK: (N, columns) float32.
        off: frames by which labels end after the video, or labels in order are too few.
        how: a phrase for the report.
        told: phrases that the user must see.
    """

    labels_NK: np.ndarray
    off: int
    how: str
    told: tuple[str, ...] = ()


def to_frames(rows: LabelRows, pts_N: np.ndarray, task: TaskSpec) -> FrameLabels:
    """Brings labels to the frames of their video.

    A label by time reaches as far as half the labels' usual step, at least half a frame; between
    two labels the nearest counts. A segment holds from its start until before its end. Labels
    of a whole recording hold in every frame.

    Args:
        rows: the labels.
        pts_N: (N,) seconds of the frames.
        task: what is labelled.

    Raises:
        InputError: no label meets a frame, or segments with different labels overlap.
    """
    labels_NK = np.full((len(pts_N), task.columns), task.ignore, np.float32)
    step = float(np.median(np.diff(pts_N))) if len(pts_N) > 1 else 1.0
    late, told = 0.0, list(rows.told)
    if rows.frame_M is not None:
        inside_M = rows.frame_M < len(pts_N)
        labels_NK[rows.frame_M[inside_M]] = rows.values_MK[inside_M]
        how = f"{count_of(len(rows.frame_M), 'label')} by frame"
        off = int(rows.frame_M.max()) + 1 - len(pts_N) if len(rows.frame_M) else 0
        late = off * step
    elif rows.pts_M is not None:
        order_M = np.argsort(rows.pts_M, kind="stable")
        pts_M, values_MK = rows.pts_M[order_M], rows.values_MK[order_M]
        usual = float(np.median(np.diff(pts_M))) if len(pts_M) > 1 else step
        reach = 0.5 * max(usual, step) * (1 + 1e-6)
        after_N = np.minimum(np.searchsorted(pts_M, pts_N), len(pts_M) - 1)
        before_N = np.maximum(after_N - 1, 0)
        nearer_N = abs(pts_M[before_N] - pts_N) <= abs(pts_M[after_N] - pts_N)
        nearest_N = np.where(nearer_N, before_N, after_N)
        near_N = abs(pts_M[nearest_N] - pts_N) <= reach
        labels_NK[near_N] = values_MK[nearest_N[near_N]]
        how = f"{count_of(len(pts_M), 'label')} by time"
        late = float(pts_M[-1] - pts_N[-1]) - max(usual, step)
    elif rows.spans_M2 is not None:
        _fill_spans(labels_NK, rows, pts_N, task)
        how = f"{count_of(len(rows.spans_M2), 'segment')}"
        late = float(rows.spans_M2[:, 1].max() - pts_N[-1]) - step if len(rows.spans_M2) else 0.0
        met_M = (rows.spans_M2[:, :1] <= pts_N).any(1) & (rows.spans_M2[:, 1:] > pts_N).any(1)
        if not met_M.all():
            told.append(f"{count_of(int((~met_M).sum()), 'segment')} without a frame")
    else:
        labels_NK[:] = rows.values_MK[0]
        how = "one label of the recording"
    off = max(round(late / step), 0) if late > 0 else 0
    if off:
        told.append(f"labels end {late:.2f} s after the frames")
        how += f", {count_of(off, 'frame')} beyond the video"
    elif -late > _TOLERANCE + step and rows.spans_M2 is None:
        told.append(f"labels end {-late:.2f} s before the frames")
        off = round(-late / step) if rows.in_order else 0
    seen_N = task.annotated(labels_NK).any(axis=1)
    if not seen_N.any() and task.annotated(rows.values_MK).any():
        raise InputError(
            "Labels meet no frame of their video.",
            file=rows.file,
            field=task.name,
            found=_when(rows),
            expected=f"frames from {pts_N[0]:.6g} to {pts_N[-1]:.6g} s",
            remedy="correct the labels' clock: unit=, first=; or that of the frames",
        )
    if not seen_N.any():
        told.append("no frame is annotated")
    elif not seen_N.all():
        how += f", {int(seen_N.sum())} of {count_of(len(pts_N), 'frame')} annotated"
    counts = abs(late) > _TOLERANCE or off > 10
    return FrameLabels(labels_NK, off if counts else 0, how, tuple(told))


def _fill_spans(labels_NK: np.ndarray, rows: LabelRows, pts_N: np.ndarray, task: TaskSpec) -> None:
    assert rows.spans_M2 is not None, "asked for segments alone"
    for (start, end), value_K in zip(rows.spans_M2, rows.values_MK, strict=True):
        first, last = np.searchsorted(pts_N, [start, end], side="left")
        part = labels_NK[first:last]
        known_K = value_K != np.float32(task.ignore)
        other = (part != np.float32(task.ignore)) & known_K & (part != value_K)
        if other.any():
            raise InputError(
                "Segments with different labels overlap.",
                file=rows.file,
                field=f"{task.name}, segment from {start:.3f} to {end:.3f} s",
                found=f"another label in {count_of(int(other.any(1).sum()), 'frame')}",
                expected="one label at a time",
                remedy="let segments end where the next begin, or import one annotator's at a time",
            )
        part[:, known_K] = value_K[known_K]
    if rows.elsewhere is not None:
        labels_NK[labels_NK == np.float32(task.ignore)] = rows.elsewhere


def _when(rows: LabelRows) -> str:
    if rows.frame_M is not None:
        return f"labels of frames {rows.frame_M.min()} to {rows.frame_M.max()}"
    times = rows.pts_M if rows.pts_M is not None else rows.spans_M2
    return f"labels from {np.min(times):.6g} to {np.max(times):.6g} s" if times is not None else ""


def proven_span_unit(ends_V: np.ndarray, seconds_V: np.ndarray) -> str:
    """Returns the only unit in which segments fit into their videos and fill some of them, or "".

    Args:
        ends_V: (V,) the last end in each video's labels, as the files have it.
        seconds_V: (V,) the length of each video.
    """
    fits = [
        unit
        for unit, size in _SECONDS.items()
        if (ends_V * size <= seconds_V + _TOLERANCE).all()
        and np.median(ends_V * size / np.maximum(seconds_V, 1e-9)) >= 0.05
    ]
    return fits[0] if len(fits) == 1 else ""
