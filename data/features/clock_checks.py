"""Compares the clock of a stream's rows with the clock of the video's frames."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from emojax.datasets.record import StreamRows
from emojax.errors import InputError

from .resampling import usual_step
from .row_clocks import Clock, VideoFrames
from .rows import RawRows

_SAME_STEP = 0.02  # steps of frames that differ by less are the same
_TOLERANCE = 1.0  # seconds between the ends of a video's sound, picture and extractor's windows
_NUMBER = r"\d+(?:\.\d+)?"
_FEW = 0.1  # a stream with fewer of the video's frames is told


def check_frame_step(raw: RawRows, video: VideoFrames, file: Path) -> None:
    """Refuses frame numbers whose timestamps contradict the times of the video's frames.

    Raises:
        InputError: timestamps advance by another time from frame to frame than the video does.
    """
    if raw.pts_N is None or raw.index_N is None or len(raw.pts_N) < 2 or len(video.pts_N) < 2:
        return
    frames_N = np.diff(raw.index_N)
    if not (frames_N > 0).all():
        return
    found = float(np.median(np.diff(raw.pts_N) / frames_N))
    expected = float(np.median(np.diff(video.pts_N)))
    # Printed times are rounded, so that all rows together tell the step better than two.
    whole = float(raw.pts_N[-1] - raw.pts_N[0]) / float(raw.index_N[-1] - raw.index_N[0])
    if min(abs(found - expected), abs(whole - expected)) <= _SAME_STEP * expected:
        return
    rate = f"{1 / whole:.4g} frames/s" if whole > 0 else "no time from frame to frame"
    raise InputError(
        "Timestamps of a table contradict the times of the video's frames.",
        file=file,
        field="timestamps",
        found=rate,
        expected=f"{1 / expected:.4g} frames/s, as the frames of {video.name} have",
        remedy="correct --fps, or give the times of the frames: --pts or --timestamps",
    )


def compare_ends(
    pts_N: np.ndarray, valid_N: np.ndarray, clock: Clock, video: VideoFrames, file: Path
) -> tuple[int, tuple[str, ...]]:
    """Compares rows that have times of their own with the frames of their video.

    Args:
        pts_N: (N,) seconds of the rows.
        valid_N: (N,) bool; rows that are not valid meet no frame.
        clock: the rows' clock. Rows with timestamps may end early, where nothing was found.
        video: the video's frames.
        file: the file that messages name.

    Returns:
        The frames by which the ends differ, if that is more than a second; and phrases for the
        report.

    Raises:
        InputError: no row is near any frame.
    """
    frames_N = video.pts_N
    reach = usual_step(pts_N, frames_N) * (1 + 1e-6)
    if not len(pts_N) or pts_N[-1] < frames_N[0] - reach or pts_N[0] > frames_N[-1] + reach:
        raise InputError(
            "A stream meets no frame of its video.",
            file=file,
            field=video.name,
            found=f"rows from {pts_N[0]:.6g} to {pts_N[-1]:.6g} s" if len(pts_N) else "no rows",
            expected=f"rows between {frames_N[0]:.6g} and {frames_N[-1]:.6g} s",
            remedy="correct the clock of the rows: unit=, offset=, clock=; or that of the frames",
        )
    notes = []
    step = float(np.median(np.diff(frames_N))) if len(frames_N) > 1 else reach
    late = float(pts_N[-1] - frames_N[-1])
    off = 0
    if late > reach:
        off = round(late / step) if late > max(reach, _TOLERANCE) else 0
        notes.append(f"ends {late:.2f} s after the frames")
    elif -late > max(reach, _TOLERANCE):
        off = round(-late / step) if clock.kind == "step" else 0
        notes.append(f"ends {-late:.2f} s before the frames")
    met = frames_met(pts_N[valid_N], reach, frames_N)
    if met < _FEW * len(frames_N):
        notes.append(f"describes {met} of {len(frames_N)} frames only")
    return off, tuple(notes)


def frames_met(pts_N: np.ndarray, reach: float, frames_N: np.ndarray) -> int:
    """Counts the frames with a row at most ``reach`` seconds away."""
    if not len(pts_N):
        return 0
    after_N = np.minimum(np.searchsorted(pts_N, frames_N), len(pts_N) - 1)
    before_N = np.maximum(after_N - 1, 0)
    near_N = np.minimum(abs(pts_N[after_N] - frames_N), abs(pts_N[before_N] - frames_N))
    return int((near_N <= reach).sum())


def grouped_warnings(told: Iterable[tuple[str, str, Sequence[str]]]) -> list[str]:
    """Returns a line for each kind of trouble of each stream, with its worst video.

    Args:
        told: name of a video, of a stream, and phrases. Phrases that differ only in numbers are
            of one kind; the worst is the one with the largest number.
    """
    kinds: dict[tuple[str, str], list[tuple[float, str, str]]] = {}
    for video, stream, phrases in told:
        for phrase in phrases:
            numbers = [float(number) for number in re.findall(_NUMBER, phrase)]
            kind = stream, re.sub(_NUMBER, "#", phrase)
            kinds.setdefault(kind, []).append((max(numbers, default=0.0), video, phrase))
    lines = []
    for (stream, _), found in kinds.items():
        _, video, phrase = max(found, key=lambda one: one[0])
        times = f"{len(found)} videos, the worst {video}" if len(found) > 1 else video
        lines.append(f"warning: {stream} of {times}: {phrase}")
    return lines


def mark_gaps(stream: StreamRows, step: float) -> StreamRows:
    """Returns the rows with rows that are not valid at the edges of gaps.

    A table that leaves rows out says that nothing was found there. The added rows stand a step
    after the row before a gap and a step before the row after it.

    Args:
        stream: rows with times.
        step: seconds from row to row; gaps are at least nearly two steps long.
    """
    pts_N = stream.pts_N
    before_G = np.flatnonzero(np.diff(pts_N) > 1.9 * step)
    if step <= 0 or not len(before_G):
        return stream
    left_G, right_G = pts_N[before_G] + step, pts_N[before_G + 1] - step
    apart_G = right_G - left_G > 0.5 * step
    times = np.r_[left_G, right_G[apart_G]]
    places = np.r_[before_G, before_G[apart_G]] + 1
    all_N = np.insert(pts_N, places, times)
    order_N = np.argsort(all_N, kind="stable")
    return StreamRows(
        np.insert(stream.rows_ND, places, 0, axis=0)[order_N],
        all_N[order_N],
        np.insert(stream.valid_N, places, False)[order_N],
    )
