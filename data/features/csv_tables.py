"""Features in CSV tables: OpenFace 2, py-feat, LibreFace, MuSe and their like, by column names."""

from __future__ import annotations

import collections
import csv
import dataclasses
import io
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from emojax.errors import InputError

from .rows import RawRows, count_of, frames_from_numbers
from .time_units import UNITS, told_unit, unknown_unit

_FRAME = ("frame", "frame_idx", "frame_number", "frame_id")
_TIME = ("timestamp", "time", "timestamp_ms", "time_ms", "frame_time_in_ms", "timestamp_s")
_CONFIDENCE = ("confidence", "FaceScore")
_FACE = ("face_id", "face")
_IDENTITY = ("Identity", "identity", "person_id")
# Columns that describe the row. They are features only if columns= names them.
_ABOUT = {
    *_FRAME, *_TIME, *_CONFIDENCE, *_FACE, "success", "segment_id", "input", "approx_time", "",
    "Identity",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class TableOptions:
    """The options of reading tables.

    Attributes:
        columns: patterns of column names such as "AU*_r"; none takes all columns but those that
            are about the row (frame, time, face, confidence).
        face: which face_id counts; None: the identity seen most if there is a
            column of identities, else in each frame the most confident.
        first: number of the first frame; None if the tool or the file tells.
        time: column of timestamps; "" finds it.
        unit: "s", "ms", "us", or "" where the column's name or the tool tells.
        timed: rows lie at their timestamps, not at their frame numbers.
    """

    columns: tuple[str, ...] = ()
    face: int | None = None
    first: int | None = None
    time: str = ""
    unit: str = ""
    timed: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """A table as text: distinct stripped names, and rows of as many cells."""

    file: Path
    names: tuple[str, ...]
    cells: list[list[str]]

    def find(self, candidates: Sequence[str]) -> str | None:
        """Returns the first of the candidates that is a column."""
        return next((name for name in candidates if name in self.names), None)

    def numbers(self, names: Sequence[str]) -> np.ndarray:
        """Returns columns as numbers, (n, columns) float64; empty cells are NaN.

        Raises:
            InputError: a cell is no number, or a column is there twice.
        """
        for name in names:
            if self.names.count(name) > 1:
                raise self.error(f"column {name}", "the column twice", "distinct names")
        where = [self.names.index(name) for name in names]
        try:
            values = [[float(row[i]) if row[i] else np.nan for i in where] for row in self.cells]
        except ValueError:
            number, name = self._no_number(where)
            raise self.error(
                f"row {number}, column {name}",
                repr(self.cells[number][self.names.index(name)][:40]),
                "a number",
                "choose the columns of numbers: columns=PATTERN+PATTERN",
            ) from None
        return np.array(values, np.float64).reshape(len(self.cells), len(where))

    def error(
        self, field: str, found: object, expected: object, remedy: str | None = None
    ) -> InputError:
        """Returns an error about this table."""
        return InputError(
            "A table of features is malformed.",
            file=self.file,
            field=field,
            found=found,
            expected=expected,
            remedy=remedy,
        )

    def _no_number(self, where: Sequence[int]) -> tuple[int, str]:
        for number, row in enumerate(self.cells):
            for i in where:
                try:
                    float(row[i] or "nan")
                except ValueError:
                    return number, self.names[i]
        raise AssertionError("unreachable")


def read_table(path: Path) -> Table:
    """Reads a CSV file with a header, cells parted by comma, semicolon or tab.

    Raises:
        InputError: the file cannot be read, is not UTF-8, is empty, or has rows of other lengths
            than its header.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        found = error.strerror if isinstance(error, OSError) else f"{error.reason}, not UTF-8"
        raise Table(path, (), []).error("text", found, "UTF-8 text") from error
    header, _, _ = text.partition("\n")
    delimiter = max(",;\t", key=header.count)
    try:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        rows = [[cell.strip() for cell in line] for line in lines if line]
    except csv.Error as error:
        raise Table(path, (), []).error("text", error, "a CSV file") from error
    if len(rows) < 2:
        found = f"{len(rows)} lines"
        raise Table(path, (), []).error("rows", found, "a header and at least one row")
    table = Table(path, tuple(rows[0]), rows[1:])
    for number, row in enumerate(table.cells):
        if len(row) != len(table.names):
            raise table.error(f"row {number}", f"{len(row)} cells", f"{len(table.names)} cells")
    return table


def choose_columns(table: Table, patterns: Sequence[str], time: str = "") -> tuple[str, ...]:
    """Returns the names of the feature columns, in the order of the table.

    Args:
        table: the first one.
        patterns: see ``TableOptions.columns``.
        time: a column of timestamps, which is no feature unless a pattern names it.

    Raises:
        InputError: a pattern fits no column, or nothing is left.
    """
    if not patterns:
        chosen = tuple(name for name in table.names if name not in {*_ABOUT, time})
    else:
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in table.names):
                shown = ", ".join(table.names[:20]) + ", ..." * (len(table.names) > 20)
                raise table.error(f"columns={pattern}", "no such column", shown)
        chosen = tuple(
            name for name in table.names if any(fnmatchcase(name, pattern) for pattern in patterns)
        )
    if not chosen:
        raise table.error("columns", "no feature columns", "at least one", "name them: columns=")
    return chosen


def tells_frames(table: Table) -> bool:
    """Returns True if rows have frame numbers."""
    return table.find(_FRAME) is not None


def tells_times(table: Table) -> bool:
    """Returns True if a column has a name that means timestamps."""
    return table.find(_TIME) is not None


def table_rows(table: Table, names: Sequence[str], options: TableOptions) -> RawRows:
    """Returns the rows of one video, one per frame number or timestamp.

    Rows whose ``success`` is 0 are not valid. Of several faces in a frame the declared
    ``face_id``, the identity seen most or else the most confident valid one remains. Frames
    without the chosen person stay, and are not valid.

    Args:
        table: the table as it was read.
        names: the names of the feature columns.
        options: the options of the form.

    Raises:
        InputError: a column is missing, a cell is no number, several rows are about one frame and
            none of them can be chosen, or no row is about the declared face.
    """
    missing = [name for name in names if name not in table.names]
    if missing:
        found = f"{len(missing)} columns missing, such as {missing[0]}"
        raise table.error("columns", found, f"the {len(names)} columns of the first file")
    rows_ND = table.numbers(names)
    empty = [name for name, none in zip(names, np.isnan(rows_ND).all(axis=0), strict=True) if none]
    if empty and len(empty) < len(names):
        kept = "+".join(name for name in names if name not in empty)
        raise table.error(
            f"columns {', '.join(empty[:5])}" + ", ..." * (len(empty) > 5),
            f"{count_of(len(empty), 'column')} empty in every row",
            "a number in at least one row of each column",
            "choose the others: columns=" + (kept if len(kept) < 200 else "PATTERN+PATTERN"),
        )
    valid_N = np.ones(len(rows_ND), bool)
    if "success" in table.names:
        valid_N = table.numbers(["success"])[:, 0] == 1
    index_N, pts_N = _frame_numbers(table, options), _times(table, options)
    shared_N = pts_N if options.timed else None
    success_N = valid_N.copy()
    order_N, faces = _one_face(table, options, index_N, shared_N, valid_N)
    notes = list(faces)
    lost = int((~success_N[order_N]).sum())
    if lost:
        notes.append(f"{count_of(lost, 'row')} without success")
    with np.errstate(over="ignore", invalid="ignore"):
        return RawRows(
            rows_ND=rows_ND[order_N].astype(np.float32),
            valid_N=valid_N[order_N],
            index_N=None if index_N is None or options.timed else index_N[order_N],
            pts_N=None if pts_N is None else pts_N[order_N],
            notes=tuple(notes),
            warnings=tuple(faces),
        )


def _one_face(
    table: Table,
    options: TableOptions,
    index_N: np.ndarray | None,
    pts_N: np.ndarray | None,
    valid_N: np.ndarray,
) -> tuple[np.ndarray, list[str]]:
    """Chooses the rows that remain, in the order of frames or else of the file."""
    kept_N = np.arange(len(valid_N))
    column = table.find(_FACE)
    person_N = _declared_face(table, options, column)
    # Faces share their frame's number and time; times alone may repeat for other reasons.
    shared = index_N if index_N is not None else pts_N
    if shared is None or (index_N is None and column is None):
        return kept_N if person_N is None else np.flatnonzero(person_N), []
    several_faces = len(np.unique(shared)) < len(shared)
    chosen, identity = "", ""
    if person_N is None and several_faces:
        person_N, identity = _most_seen(table, valid_N)
        chosen = f"identity {identity}" if identity else ""
    elif person_N is not None:
        chosen = f"face {options.face}"
    if person_N is not None:
        # Where the chosen person is not seen, another's row keeps the frame, and is not valid.
        valid_N &= person_N
    confident = table.find(_CONFIDENCE)
    trust_N = (
        np.nan_to_num(table.numbers([confident])[:, 0]) if confident else np.zeros_like(shared)
    )
    # By frame, then valid before others, then by confidence; lexsort's last key counts most.
    kept_N = kept_N[np.lexsort((-trust_N[kept_N], ~valid_N[kept_N], shared[kept_N]))]
    first_N = np.r_[True, np.diff(shared[kept_N]) != 0]
    several = len(np.unique(shared[kept_N][~first_N]))
    if several and confident is None and person_N is None:
        raise table.error(
            "frame",
            f"{several} frames with several rows",
            "one row a frame, or a confidence",
            f"choose a face: face=0, if there is a column {_FACE[0]}",
        )
    notes = (
        [f"several faces in {count_of(several, 'frame')}, {chosen or 'the most confident'} taken"]
        if several
        else []
    )
    if person_N is not None and (unseen := int((~person_N[kept_N[first_N]]).sum())):
        notes.append(f"{count_of(unseen, 'frame')} without {chosen}")
    return kept_N[first_N], notes


def _declared_face(table: Table, options: TableOptions, column: str | None) -> np.ndarray | None:
    """Returns the rows of the face that ``face=`` declares, (n,) bool; None without ``face=``."""
    if options.face is None:
        return None
    if column is None:
        raise table.error(f"face={options.face}", "no face_id", "a column face_id")
    faces_N = table.numbers([column])[:, 0]
    person_N: np.ndarray = faces_N == options.face
    if not person_N.any():
        known = ", ".join(f"{face:g}" for face in np.unique(faces_N)[:10])
        raise table.error(f"face={options.face}", f"faces {known}", "a face that is there")
    return person_N


def _most_seen(table: Table, valid_N: np.ndarray) -> tuple[np.ndarray | None, str]:
    """Returns the rows of the identity with the most valid rows, (n,) bool, and its name."""
    column = table.find(_IDENTITY)
    if column is None:
        return None, ""
    names_N = np.array([row[table.names.index(column)] for row in table.cells])
    seen = collections.Counter(names_N[valid_N & (names_N != "")].tolist())
    if not seen:
        return None, ""
    name = max(sorted(seen), key=lambda one: seen[one])
    return names_N == name, name


def _frame_numbers(table: Table, options: TableOptions) -> np.ndarray | None:
    column = table.find(_FRAME)
    if column is None:
        return None
    numbers_N = table.numbers([column])[:, 0]
    whole = np.isfinite(numbers_N) & (numbers_N == np.floor(numbers_N)) & (abs(numbers_N) < 1e9)
    if not whole.all():
        found = f"{numbers_N[~whole][0]}"
        raise table.error(f"column {column}", found, "whole numbers of frames")
    # OpenFace counts from 1, py-feat and LibreFace from 0. With timestamps it does not matter.
    known = 1 if "success" in table.names else 0 if table.find(("FaceScore", "frame_idx")) else None
    if known is None and options.timed:
        known = int(numbers_N.min())
    return frames_from_numbers(numbers_N, options.first, known, table.file)


def _times(table: Table, options: TableOptions) -> np.ndarray | None:
    column = options.time or table.find(_TIME)
    if column is None or column not in table.names:
        if not options.timed:
            return None
        shown = ", ".join(table.names[:20])
        raise table.error(f"time={column or ''}", shown, "a column of timestamps", "name it: time=")
    unit = options.unit or told_unit(column, table.names)
    if not options.timed and unit not in UNITS:
        return None  # The times only check the frame numbers, and need not.
    times_N = table.numbers([column])[:, 0]
    if not np.isfinite(times_N).all():
        if not options.timed:
            return None
        raise table.error(f"column {column}", "times that are not finite", "a time in every row")
    if unit not in UNITS:
        raise unknown_unit(table.file, column, times_N)
    return times_N * UNITS[unit] if unit == "s" else times_N / round(1 / UNITS[unit])


def find_time(table: Table) -> str:
    """Returns the column whose name means timestamps, or ""."""
    return table.find(_TIME) or ""


def time_steps(table: Table, time: str) -> np.ndarray:
    """Returns the differences of neighbouring timestamps as the table has them, perhaps none."""
    column = time or table.find(_TIME)
    if column is None or column not in table.names:
        return np.zeros(0)
    times_N = table.numbers([column])[:, 0]
    return np.diff(np.unique(times_N[np.isfinite(times_N)]))
