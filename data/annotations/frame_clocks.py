"""The instant of each frame of a video, from timestamps or else from a frame rate."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np

from emojax.datasets.store_checks import check_name
from emojax.errors import InputError

from ..features.numpy_files import read_npy
from .lines import bad_line, parse_numbers, read_lines

TIMESTAMP_SUFFIXES = (".csv", ".txt", ".npy")
_MOST_FRAMES = 10_000_000


@dataclasses.dataclass(frozen=True)
class FrameClocks:
    """The clocks of all videos. A video without an entry of its own has its source video's.

    Attributes:
        fps: frames per second of every video, or of each.
        timestamps: folder of ``<video>.csv``, ``.txt`` or ``.npy`` files with the seconds of
            every frame; with it, ``fps`` is not used.
        counts: frames of videos, as the video files have them.
    """

    fps: float | dict[str, float] = 30.0
    timestamps: Path | None = None
    counts: dict[str, int] = dataclasses.field(default_factory=dict)

    def known(self, name: str, source: str) -> tuple[np.ndarray | None, int | None]:
        """Timestamps (n,) float64 of a video and its number of frames, each if known.

        Raises:
            InputError: timestamps are wanted, and this video has none or wrong ones.
        """
        if self.timestamps is None:
            return None, self.counts.get(name, self.counts.get(source))
        for stem in dict.fromkeys((name, source)):
            for suffix in TIMESTAMP_SUFFIXES:
                path = self.timestamps / (stem + suffix)
                if path.is_file():
                    pts_N = read_timestamps(path)
                    return pts_N, len(pts_N)
        raise InputError(
            "A video has no timestamps.",
            file=self.timestamps,
            field=name,
            found="no such file",
            expected=f"{name}.csv (or .txt, .npy), the seconds of every frame",
            remedy="add it, or leave out --timestamps and give --fps",
        )

    def pts(self, name: str, source: str, frames: int, stamps: np.ndarray | None) -> np.ndarray:
        """Returns the seconds of the first ``frames`` frames, (frames,) float64.

        Timestamps beyond are left out; where some are missing at the end, the clock goes on at
        the median step.

        Raises:
            InputError: the frame rate of this video is not known.
        """
        if stamps is None:
            return np.arange(frames) / self._rate(name, source)
        step = float(np.median(np.diff(stamps))) if len(stamps) > 1 else 1 / 30
        beyond = stamps[-1] + step * np.arange(1, max(0, frames - len(stamps)) + 1)
        return np.concatenate([stamps[:frames], beyond])

    def _rate(self, name: str, source: str) -> float:
        if not isinstance(self.fps, dict):
            return self.fps
        rate = self.fps.get(name, self.fps.get(source))
        if rate is None:
            raise InputError(
                "A video has no frame rate.",
                field="--fps",
                found=name,
                expected=f"a line {name},25.0",
                remedy="add it to the table of frame rates",
            )
        return rate


def read_timestamps(path: Path) -> np.ndarray:
    """Reads the seconds of every frame, (n,) float64, increasing.

    A text file holds one number a line, perhaps with one line of heading.

    Raises:
        InputError: the file cannot be read or its times do not increase, naming the line.
    """
    if path.suffix == ".npy":
        pts_N = np.asarray(read_npy(path), np.float64)
        first = 0
        what = "row"
    else:
        lines = read_lines(path)
        heading = any(letter.isalpha() and letter not in "eE" for letter in lines[0])
        first, what = 1 + heading, "line"
        if len(lines) == heading:
            raise bad_line(path, 0, "", "one time per frame")
        pts_N = parse_numbers(path, lines[heading:], 1, first_line=first)[:, 0]
    steps = np.diff(pts_N) if pts_N.ndim == 1 else np.zeros(1)
    wrong = ~(steps > 0)
    if pts_N.ndim != 1 or not len(pts_N) or wrong.any() or not np.isfinite(pts_N).all():
        at = int(np.flatnonzero(wrong)[0]) + 1 if wrong.any() else 0
        raise InputError(
            "Timestamps do not increase.",
            file=path,
            field=f"{what} {first + at}",
            found=f"{pts_N[at]}" if pts_N.ndim == 1 and len(pts_N) else f"shape {pts_N.shape}",
            expected="one time in seconds per frame, each after the one before",
        )
    return pts_N


def read_table(path: Path, header: tuple[str, str], *, whole: bool) -> dict[str, float]:
    """Reads a CSV file with a number per video.

    Args:
        path: with the columns of ``header`` on its first line.
        header: ("video", what the number is).
        whole: numbers are counts.

    Returns:
        video -> number above 0.

    Raises:
        InputError: the file is something else, naming the line.
    """
    lines = read_lines(path)
    if tuple(name.strip().lower() for name in lines[0].split(",")) != header:
        raise InputError(
            "A table has another header.",
            file=path,
            field="line 1",
            found=repr(lines[0][:60]),
            expected=",".join(header),
        )
    result: dict[str, float] = {}
    for row, line in enumerate(lines[1:]):
        name, _, text = line.partition(",")
        name = name.strip()
        check_name(name, f"line {row + 2}, video name", path)
        value = float(parse_numbers(path, [text], 1, first_line=row + 2)[0, 0])
        fits = 0 < value <= _MOST_FRAMES and math.isfinite(value)
        if not fits or (whole and value != int(value)) or name in result:
            kind = "a whole number" if whole else "a number"
            raise bad_line(path, row, line, f"each video once, with {kind} above 0")
        result[name] = value
    return result
