"""Reading the CASE release: two CSV files for each person, checked and cut clip by clip.

The interpolated part of the release is one folder ``physiological`` and one ``annotations`` with
``sub_1.csv`` to ``sub_30.csv`` in each. Both count milliseconds on the same clock, from 0, in
steps of 1 and of 50, and name in ``video`` what was on the screen: clips 1 to 8 (amusing, boring,
relaxing, scary, two of each), other numbers up to 12 for the start, the end and the blue screens
between clips. Every person watched the clips in an order of their own.

Units, from the README files of the release: ECG in mV, blood volume pulse and respiration in per
cent, skin conductance in microsiemens, skin temperature in Celsius, the three EMG in microvolts;
valence and arousal from 0.5 to 9.5.
"""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.epic2023 import SCALE
from emojax.errors import InputError

SIGNALS = ("ecg", "bvp", "gsr", "rsp", "skt", "emg_zygo", "emg_coru", "emg_trap")
RATINGS = ("valence", "arousal")
CLIPS = tuple(range(1, 9))
SAMPLE_MS, FRAME_MS = 1, 50
_VIDEOS = 12  # clips, start, blue screen and end have numbers up to this
_SLACK_MS = 2 * FRAME_MS  # by which the two clocks of a person may end apart
_FOLDERS = ("physiological", "annotations")
# Where the two folders may lie below what the user gives.
_PARTS = (".", "interpolated", "data/interpolated", "CASE_full/data/interpolated")


@dataclasses.dataclass(frozen=True)
class Cut:
    """Which part of every clip is taken.

    Attributes:
        start_ms: milliseconds after the clip's first rating; the first frame.
        frames: N, number of frames, 50 ms apart.
    """

    start_ms: int = 68_600
    frames: int = 1001

    @property
    def length_ms(self) -> int:
        """From the first to the last frame."""
        return FRAME_MS * (self.frames - 1)


@dataclasses.dataclass(frozen=True)
class Recording:
    """What one person showed and rated during the cut of one clip.

    Attributes:
        person: 1 to 30, as in the file names.
        clip: 1 to 8.
        signals: column -> (50 (N - 1) + 1,) float64, a sample a millisecond from the first frame
            to the last, finite, in the units of the release.
        ratings_N2: valence and arousal of each frame.
    """

    person: int
    clip: int
    signals: dict[str, np.ndarray]
    ratings_N2: np.ndarray


@dataclasses.dataclass(frozen=True)
class PersonFiles:
    """The two files of a person."""

    person: int
    physiology: Path
    ratings: Path


def find_files(source: str | Path, people: Sequence[int]) -> list[PersonFiles]:
    """The files of the release, in the order of ``people``.

    Args:
        source: the unpacked release, its ``data/interpolated``, or a folder in between.
        people: numbers of the file names.

    Raises:
        InputError: the folders are not there, or a file is missing.
    """
    root = Path(source)
    base = next(
        (root / part for part in _PARTS if all((root / part / f).is_dir() for f in _FOLDERS)), None
    )
    if base is None:
        there = sorted(p.name for p in root.iterdir()) if root.is_dir() else []
        raise InputError(
            "The CASE release is not there.",
            file=root,
            found=", ".join(there[:8]) or "nothing",
            expected="folders physiological and annotations, in data/interpolated of the release",
            remedy="unpack CASE_full.zip (figshare, doi:10.6084/m9.figshare.8869157) and give its "
            "folder as --source; raw and non-interpolated files are not read",
        )
    found = [
        PersonFiles(person, *(base / folder / f"sub_{person}.csv" for folder in _FOLDERS))
        for person in people
    ]
    missing = [
        str(path.relative_to(base))
        for files in found
        for path in (files.physiology, files.ratings)
        if not path.is_file()
    ]
    if missing:
        raise InputError(
            "Files of the CASE release are missing.",
            file=base,
            found=f"{len(missing)} missing: {', '.join(missing[:4])}"
            + (" ..." if len(missing) > 4 else ""),
            expected=f"{2 * len(people)} files, sub_1.csv to sub_{max(people)}.csv in each folder",
            remedy="unpack the whole archive; the folds of the challenge need every person",
        )
    return found


def read_person(files: PersonFiles, cut: Cut) -> list[Recording]:
    """The eight recordings of a person, in the order of the clips' numbers.

    A clip's time counts from its first rating that has physiology, as the challenge counts it.

    Args:
        files: see ``find_files``.
        cut: which part of every clip is taken.

    Raises:
        InputError: a file is not what the module says, or a clip is missing, interrupted or
            too short for the cut; naming file and column.
    """
    physiology = _Table.read(files.physiology, "daqtime", SIGNALS)
    ratings = _Table.read(files.ratings, "jstime", RATINGS)
    apart = abs(physiology.time_R[-1] - ratings.time_R[-1])
    if apart > _SLACK_MS:
        shorter = min((physiology, ratings), key=lambda table: float(table.time_R[-1]))
        raise shorter.error(
            shorter.clock,
            f"an end at {shorter.time_R[-1]:g} ms, {apart:g} ms before the person's other file",
            "files of one person that end together",
            "the file is cut off: copy it again",
        )
    recordings = []
    for clip in CLIPS:
        rows, rated = physiology.stretch(clip), ratings.stretch(clip)
        times_R = ratings.time_R[rated]
        origins = times_R[times_R >= physiology.time_R[rows.start]]
        if not origins.size or abs(origins[0] - physiology.time_R[rows.start]) > FRAME_MS:
            raise ratings.error(
                "video",
                f"clip {clip} from {times_R[0]:g} ms on",
                f"from {physiology.time_R[rows.start]:g} ms on, as in {files.physiology}",
                "both files must come from the same release",
            )
        start = float(origins[0]) + cut.start_ms
        signals_RK = physiology.regular(rows, clip, start, SAMPLE_MS, cut.length_ms)
        ratings_N2 = ratings.regular(rated, clip, start, FRAME_MS, cut.length_ms)
        wrong = ratings_N2[~((ratings_N2 >= SCALE[0]) & (ratings_N2 <= SCALE[1]))]
        if wrong.size:
            raise ratings.error(
                "valence, arousal",
                f"{wrong[0]:g} in clip {clip}",
                f"ratings from {SCALE[0]} to {SCALE[1]}",
            )
        signals = {name: signals_RK[:, k].copy() for k, name in enumerate(SIGNALS)}
        recordings.append(Recording(files.person, clip, signals, ratings_N2))
    return recordings


def sha256(path: Path) -> str:
    """Of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclasses.dataclass(frozen=True)
class _Table:
    """A checked file of R rows.

    Attributes:
        path: of the file.
        clock: name of the time column.
        names: of the columns of values.
        time_R: milliseconds, increasing.
        video_R: what was on the screen.
        values_RK: the columns of values.
    """

    path: Path
    clock: str
    names: tuple[str, ...]
    time_R: np.ndarray
    video_R: np.ndarray
    values_RK: np.ndarray

    @classmethod
    def read(cls, path: Path, clock: str, names: tuple[str, ...]) -> _Table:
        """Reads the columns by their names; others are ignored.

        Raises:
            InputError: a column is missing, a cell is no number, time does not increase or an
                id is none.
        """
        values_RK = _numbers(path, (clock, *names, "video"))
        table = cls(path, clock, names, values_RK[:, 0], values_RK[:, -1], values_RK[:, 1:-1])
        time_R, video_R = table.time_R, table.video_R
        # NaN compares false, so this finds it too.
        stuck = np.flatnonzero(~(np.diff(time_R, prepend=-np.inf) > 0))
        if stuck.size:
            row = stuck[0]
            raise table.error(
                clock,
                f"{time_R[row]:g} after {time_R[max(row - 1, 0)]:g} in row {row + 1}",
                "increasing milliseconds",
            )
        wrong = np.flatnonzero(~np.isin(video_R, np.arange(1, _VIDEOS + 1)))
        if wrong.size:
            raise table.error(
                "video",
                f"{video_R[wrong[0]]:g} in row {wrong[0] + 1}",
                f"clips 1 to 8, or up to {_VIDEOS} for what is shown between them",
            )
        return table

    def stretch(self, clip: int) -> slice:
        """The rows of a clip.

        Raises:
            InputError: there are none, or they are not in one piece.
        """
        rows = np.flatnonzero(self.video_R == clip)
        if not rows.size:
            raise self.error(
                "video",
                f"no row of clip {clip}; there are {np.unique(self.video_R).astype(int).tolist()}",
                "clips 1 to 8, each watched once",
                "the file is cut off or not of this release: copy it again",
            )
        if rows[-1] - rows[0] != len(rows) - 1:
            raise self.error(
                "video", f"clip {clip} in several pieces", "each clip watched once, in one piece"
            )
        return slice(int(rows[0]), int(rows[-1]) + 1)

    def regular(self, rows: slice, clip: int, start: float, step: int, length: int) -> np.ndarray:
        """(length / step + 1, K) the values every ``step`` ms from ``start`` on.

        Raises:
            InputError: the clip ends before, a sample is missing there, or a value is not finite.
        """
        time_R = self.time_R[rows]
        if time_R[-1] < start + length:
            raise self.error(
                self.clock,
                f"clip {clip} ends after {(time_R[-1] - time_R[0]) / 1000:g} s",
                f"at least {(start + length - time_R[0]) / 1000:g} s",
                "the file is cut off: copy it again",
            )
        first = rows.start + int(np.searchsorted(time_R, start))
        taken = slice(first, first + length // step + 1)
        wanted_R = start + step * np.arange(length // step + 1)
        time_R = self.time_R[taken]
        wrong = np.flatnonzero(time_R != wanted_R[: len(time_R)])
        if wrong.size:
            raise self.error(
                self.clock,
                f"{time_R[wrong[0]]:g} ms in row {taken.start + wrong[0] + 1}, clip {clip}",
                f"{wanted_R[wrong[0]]:g} ms, a sample every {step} ms",
                "give the interpolated part of the release, not the non-interpolated",
            )
        values_RK = self.values_RK[taken]
        bad = np.argwhere(~np.isfinite(values_RK))
        if bad.size:
            row, column = bad[0]
            raise self.error(
                self.names[column],
                f"{values_RK[row, column]} in row {taken.start + row + 1}, clip {clip}",
                "finite numbers",
            )
        return values_RK

    def error(
        self, field: str, found: object, expected: object, remedy: str | None = None
    ) -> InputError:
        """What to raise about a column."""
        return _error(self.path, field, found, expected, remedy)


def _error(
    path: Path, field: str, found: object, expected: object, remedy: str | None = None
) -> InputError:
    return InputError(
        "A file of the CASE release is not what it should be.",
        file=path,
        field=field,
        found=found,
        expected=expected,
        remedy=remedy or "compare the file with the README beside it, or copy it again",
    )


def _numbers(path: Path, wanted: tuple[str, ...]) -> np.ndarray:
    """(R, columns) float64, the wanted columns in this order; rows count from 1 in messages."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            header = [name.strip().strip('"') for name in file.readline().split(",")]
            missing = [name for name in wanted if header.count(name) != 1]
            if missing:
                raise _error(
                    path,
                    ", ".join(missing),
                    f"columns {', '.join(header)[:200]}",
                    f"columns {', '.join(wanted)}",
                )
            with warnings.catch_warnings():
                # An empty file is told below.
                warnings.filterwarnings("ignore", message=".*input contained no data.*")
                values_RK = np.loadtxt(
                    file,
                    delimiter=",",
                    usecols=[header.index(name) for name in wanted],
                    ndmin=2,
                )
    except (OSError, ValueError) as error:
        raise _error(
            path,
            "rows",
            f"{error} (rows count from 0 below the header)",
            f"{len(wanted)} numbers in every row",
            "the file is cut off or damaged: copy it again",
        ) from error
    if not values_RK.size:
        raise _error(path, "rows", "none", "a row for every sample")
    return values_RK
