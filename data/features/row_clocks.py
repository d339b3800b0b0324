"""The instant that a row of features describes: declared clocks, and rows put on them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np

from emojax.datasets.record import StreamRows
from emojax.errors import InputError

from .resampling import stretch
from .rows import RawRows, count_of

CLOCKS = ("frame", "annotated", "pts", "fps:RATE", "hop:TIME", "stretch")
_TIME = re.compile(r"(-?\d+(?:\.\d+)?(?:e-?\d+)?)(ms|s)")


@dataclasses.dataclass(frozen=True)
class VideoFrames:
    """The frames of a video whose features are wanted.

    Attributes:
        name: "7-60-1920x1080_left"; features are looked up under it, then under source_video.
        source_video: "7-60-1920x1080".
        pts_N: (N,) float64 seconds of each frame, increasing.
        annotated_N: (N,) bool, frames with any annotation (for the clock "annotated").
    """

    name: str
    source_video: str
    pts_N: np.ndarray
    annotated_N: np.ndarray


@dataclasses.dataclass(frozen=True)
class Clock:
    """A declared clock.

    Attributes:
        kind: "frame" (row i is frame i), "annotated" (row i is the i-th annotated frame), "pts"
            (the file tells), "step" (row i at i steps) or "stretch" (rows are drawn out to the
            number of frames).
        step: seconds from row to row, for "step".
        offset: seconds added to the times of "pts" and "step".
    """

    kind: str
    step: float = 0.0
    offset: float = 0.0

    @property
    def per_frame(self) -> bool:
        """Returns True if the result has one row per frame."""
        return self.kind in ("frame", "annotated", "stretch")


@dataclasses.dataclass(frozen=True)
class Placed:
    """Rows on the clock of a video.

    Attributes:
        stream: zeros where not valid.
        expected: rows that the clock calls for; None for clocks of their own.
        notes: phrases for the report of mismatches.
    """

    stream: StreamRows
    expected: int | None
    notes: tuple[str, ...]


def parse_clock(text: str, offset: str, flag: str) -> Clock:
    """Reads the clock that ``clock=`` and ``offset=`` declare.

    Raises:
        InputError: naming the clocks there are.
    """
    kind, _, value = text.partition(":")
    if kind in ("frame", "annotated", "stretch") and not value and not offset:
        return Clock(kind)
    shift = seconds(offset, flag) if offset else 0.0
    if kind == "pts" and not value:
        return Clock("pts", offset=shift)
    step = 0.0
    if kind == "fps" and re.fullmatch(r"\d{1,6}(\.\d{1,9})?", value) and float(value) > 0:
        step = 1 / float(value)
    elif kind == "hop" and value:
        step = seconds(value, flag)
    if not 1e-6 <= step <= 1e6:
        found = f"clock={text}" + f" with offset={offset}" * bool(offset)
        raise InputError(
            "No clock that features can have.",
            field=flag,
            found=found,
            expected=", ".join(CLOCKS) + "; an offset only with pts, fps and hop",
            remedy="for instance clock=fps:25 or clock=hop:10ms",
        )
    return Clock("step", step, shift)


def seconds(text: str, flag: str) -> float:
    """Converts a time such as "10ms" or "0.5s" to seconds.

    Raises:
        InputError: the unit is missing, or this is no time.
    """
    parts = _TIME.fullmatch(text)
    if not parts or len(text) > 30:
        raise InputError(
            "A time needs a number and a unit.",
            field=flag,
            found=text,
            expected="such as 10ms or 0.5s",
        )
    return float(parts[1]) / (1000.0 if parts[2] == "ms" else 1.0)


def place(
    raw: RawRows, clock: Clock, video: VideoFrames, file: Path, method: str = "nearest"
) -> Placed:
    """Puts rows on a declared clock.

    Args:
        raw: rows, finite where valid.
        clock: the declared clock.
        video: whose frames they belong to.
        file: the file that messages name.
        method: of "stretch", "nearest" or "linear".

    Raises:
        InputError: the file has no times, or has frame numbers although the clock asks for rows in
            order.
    """
    return {
        "frame": _frame,
        "annotated": _annotated,
        "pts": _pts,
        "step": _step,
        "stretch": _stretch,
    }[clock.kind](raw, clock, video, file, method)


def check_times(pts_N: np.ndarray, file: Path) -> None:
    """Refuses timestamps that go back or are not finite."""
    if not np.isfinite(pts_N).all() or (np.diff(pts_N) < 0).any():
        raise InputError(
            "Timestamps of features go back or are not finite.",
            file=file,
            field="timestamps",
            found="times that do not increase",
            expected="seconds that never decrease",
            remedy="sort the rows, or declare another clock",
        )


def _frame(raw: RawRows, clock: Clock, video: VideoFrames, file: Path, method: str) -> Placed:
    del clock, file, method
    every_N = np.arange(len(video.pts_N))
    return _scatter(raw, every_N, video, "one row per frame", "frame")


def _annotated(raw: RawRows, clock: Clock, video: VideoFrames, file: Path, method: str) -> Placed:
    del clock, method
    if raw.index_N is not None:
        raise _unfit("annotated", "rows numbered by frame", "rows in order", file)
    chosen_K = np.flatnonzero(video.annotated_N)
    return _scatter(raw, chosen_K, video, "one row per annotated frame", "annotated frame")


def _pts(raw: RawRows, clock: Clock, video: VideoFrames, file: Path, method: str) -> Placed:
    del video, method
    if raw.pts_N is None:
        raise _unfit("pts", "no times", "a column or array of timestamps", file)
    return Placed(_stream(raw, raw.pts_N + clock.offset), None, ("timestamps of the file",))


def _step(raw: RawRows, clock: Clock, video: VideoFrames, file: Path, method: str) -> Placed:
    del file, method
    rate = f"a row every {clock.step * 1000:.6g} ms"
    if raw.index_N is None:
        pts_N = np.arange(raw.found) * clock.step + clock.offset
        return Placed(_stream(raw, pts_N), None, (rate,))
    # Rows after the video's end would cost memory for nothing.
    count = max(int((video.pts_N[-1] - clock.offset) / clock.step) + 2, 1)
    count = min(int(raw.index_N[-1]) + 1, count)
    pts_N = np.arange(count) * clock.step + clock.offset
    instants = VideoFrames(video.name, video.source_video, pts_N, np.ones(count, bool))
    placed = _scatter(raw, np.arange(count), instants, rate, "row")
    return Placed(placed.stream, None, placed.notes)


def _stretch(raw: RawRows, clock: Clock, video: VideoFrames, file: Path, method: str) -> Placed:
    del clock
    if raw.index_N is not None:
        raise _unfit("stretch", "rows numbered by frame", "rows in order", file)
    rows_ND = _stream(raw, np.zeros(raw.found)).rows_ND
    frames = len(video.pts_N)
    rows_ND, valid_N = stretch(rows_ND, raw.valid_N, frames, method)
    note = f"{count_of(raw.found, 'row')} stretched to {count_of(frames, 'frame')}"
    return Placed(StreamRows(rows_ND, video.pts_N, valid_N), None, (note,))


def _scatter(
    raw: RawRows, chosen_K: np.ndarray, video: VideoFrames, clock: str, unit: str
) -> Placed:
    """Puts row i on frame ``chosen_K[i]``; rows beyond are left out and noted."""
    index_N = np.arange(raw.found) if raw.index_N is None else raw.index_N
    inside_N = index_N < len(chosen_K)
    target_N = chosen_K[index_N[inside_N]]
    count = len(video.pts_N)
    rows_ND = np.zeros((count, raw.rows_ND.shape[1]), raw.rows_ND.dtype)
    valid_N = np.zeros(count, bool)
    valid_N[target_N] = raw.valid_N[inside_N]
    rows_ND[target_N] = np.where(raw.valid_N[inside_N, None], raw.rows_ND[inside_N], 0)
    notes = [clock]
    without = len(chosen_K) - int(inside_N.sum())
    if without:
        notes.append(f"{'last ' if raw.index_N is None else ''}{count_of(without, unit)} without")
    if not inside_N.all():
        notes.append(f"{count_of(int((~inside_N).sum()), 'surplus row')} left out")
    return Placed(StreamRows(rows_ND, video.pts_N, valid_N), len(chosen_K), tuple(notes))


def _stream(raw: RawRows, pts_N: np.ndarray) -> StreamRows:
    rows_ND = np.where(raw.valid_N[:, None], raw.rows_ND, raw.rows_ND.dtype.type(0))
    return StreamRows(rows_ND, pts_N.astype(np.float64), raw.valid_N)


def _unfit(clock: str, found: str, expected: str, file: Path) -> InputError:
    return InputError(
        "The declared clock does not fit the file.",
        file=file,
        field=f"clock={clock}",
        found=found,
        expected=expected,
        remedy="declare another clock: " + ", ".join(CLOCKS),
    )
