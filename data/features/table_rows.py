"""Features in tables: OpenFace 2, py-feat, LibreFace, openSMILE, MuSe and their like, by names."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import PurePosixPath, PureWindowsPath

import numpy as np

from emojax.errors import InputError

from ..tabular.cell_table import Table, plain
from .column_kinds import FRAME, SOURCE, SUCCESS, TIME
from .face_choice import choose_face
from .rows import RawRows, count_of, frames_from_numbers
from .time_units import UNITS, told_unit, unknown_unit

_PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


@dataclasses.dataclass(frozen=True)
class TableOptions:
    """The options of reading tables.

    Attributes:
        face: the face_id that counts; None: see ``face_choice.choose_face``.
        first: number of the first frame; None if the tool or the file tells.
        time: column of timestamps; "" finds it.
        unit: "s", "ms", "us", or "" where the column's name or the tool tells.
        timed: rows lie at their timestamps, not at their frame numbers.
    """

    face: int | None = None
    first: int | None = None
    time: str = ""
    unit: str = ""
    timed: bool = False


def tells_frames(table: Table) -> bool:
    """Returns True if rows have frame numbers."""
    return table.find(FRAME) is not None


def find_time(table: Table) -> str:
    """Returns the column that holds timestamps by its name, or ""."""
    found = table.find(TIME)
    if found is None and table.find(("end",)):
        found = table.find(("start",))  # openSMILE's index: file, start, end
    return found or ""


def table_rows(table: Table, names: Sequence[str], options: TableOptions) -> RawRows:
    """Returns the rows of one video, one per frame number or timestamp.

    Rows whose ``success`` is 0 are not valid. Of several faces in a frame one remains, see
    ``face_choice.choose_face``. Frames without the chosen person stay, and are not valid.

    Args:
        table: the table as it was read.
        names: the names of the feature columns.
        options: the options of the form.

    Raises:
        InputError: a column is missing or empty, a cell is no number, the rows are about several
            videos, several rows are about one frame and none of them can be chosen, or no row is
            about the declared face.
    """
    missing = [name for name in names if name not in table.names]
    if missing:
        found = f"{len(missing)} columns missing, such as {missing[0]}"
        raise table.error("columns", found, f"the {len(names)} columns of the first file")
    _check_one_video(table)
    rows_ND = table.numbers(names)
    empty = [name for name, none in zip(names, np.isnan(rows_ND).all(axis=0), strict=True) if none]
    if empty and len(empty) < len(names):
        raise _empty_columns(table, names, empty)
    valid_N = np.ones(len(rows_ND), bool)
    success = table.find(SUCCESS)
    if success is not None:
        valid_N = table.numbers([success])[:, 0] == 1
    index_N, pts_N = _frame_numbers(table, options), _times(table, options)
    # Faces share their frame's number and time; times alone may repeat for other reasons.
    shared_N = index_N if index_N is not None else pts_N
    if index_N is None and table.find(("faceid", "face", "trackid", "track")) is None:
        shared_N = None
    faces = choose_face(table, options.face, shared_N, valid_N)
    order_N = faces.rows_N
    notes = list(faces.told)
    lost = int((~valid_N[order_N]).sum())
    if lost:
        notes.append(f"{count_of(lost, 'row')} without success")
    with np.errstate(over="ignore", invalid="ignore"):
        return RawRows(
            rows_ND=rows_ND[order_N].astype(np.float32),
            valid_N=faces.valid_N[order_N],
            index_N=None if index_N is None or options.timed else index_N[order_N],
            pts_N=None if pts_N is None else pts_N[order_N],
            notes=tuple(notes),
            warnings=faces.told,
        )


def _empty_columns(table: Table, names: Sequence[str], empty: Sequence[str]) -> InputError:
    kept = "+".join(name for name in names if name not in empty)
    return table.error(
        f"columns {', '.join(empty[:5])}" + ", ..." * (len(empty) > 5),
        f"{count_of(len(empty), 'column')} empty in every row",
        "a number in at least one row of each column",
        "leave out those that are empty in the first file: empty=drop; or choose the others: "
        "columns=" + (kept if len(kept) < 200 else "PATTERN+PATTERN"),
    )


def _check_one_video(table: Table) -> None:
    """Refuses rows of several videos, which are not several faces of one frame."""
    for column in (name for name in table.names if plain(name) in SOURCE):
        values = sorted({cell for cell in table.column(column) if cell})
        if len(values) > 1:
            shown = ", ".join(values[:3]) + ", ..." * (len(values) > 3)
            raise table.error(
                f"column {column}",
                f"{len(values)} sources: {shown}",
                "rows of one video",
                f"take each of them as a video of its own: split={column}",
            )


def split_table(table: Table, column: str) -> dict[str, Table]:
    """Returns the table of each video that a column names, by the video's name.

    The name is that of the file without folder and ending. Where the column names pictures, a
    video is their folder, and its frames are numbered as the pictures are.

    Raises:
        InputError: there is no such column, a cell is empty, or pictures are not numbered.
    """
    if column not in table.names:
        raise table.error(f"split={column}", "no such column", ", ".join(table.names[:20]))
    rows: dict[str, list[int]] = {}
    numbers: dict[str, list[str]] = {}
    for row, cell in enumerate(table.column(column)):
        if not cell:
            raise table.error(f"{table.where(row)}, column {column}", "nothing", "a video")
        path = PureWindowsPath(cell) if "\\" in cell else PurePosixPath(cell)
        picture = path.suffix.lower() in _PICTURES
        name = path.parent.name if picture else path.stem if len(path.suffix) < 6 else path.name
        if not picture:
            rows.setdefault(name, []).append(row)
            continue
        digits = re.search(r"(\d+)$", path.stem)
        if not digits:
            raise table.error(
                f"{table.where(row)}, column {column}", cell[:80], "a picture with a number"
            )
        rows.setdefault(name or "pictures", []).append(row)
        numbers.setdefault(name or "pictures", []).append(digits[1])
    parts = {}
    for name, chosen in rows.items():
        part = table.chosen(chosen)
        if name in numbers:
            part = _numbered(part, numbers[name])
        source = part.names.index(column)
        names = tuple("" if i == source else one for i, one in enumerate(part.names))
        parts[name] = dataclasses.replace(part, names=names)
    return parts


def _numbered(table: Table, numbers: Sequence[str]) -> Table:
    """Returns the table with the numbers of pictures as frames; a detector counts each from 0."""
    others = [i for i, name in enumerate(table.names) if plain(name) not in FRAME]
    cells = [
        [number, *(row[i] for i in others)]
        for number, row in zip(numbers, table.cells, strict=True)
    ]
    return dataclasses.replace(
        table, names=("frame", *(table.names[i] for i in others)), cells=cells
    )


def _frame_numbers(table: Table, options: TableOptions) -> np.ndarray | None:
    column = table.find(FRAME)
    if column is None:
        return None
    numbers_N = table.numbers([column])[:, 0]
    whole = np.isfinite(numbers_N) & (numbers_N == np.floor(numbers_N)) & (abs(numbers_N) < 1e9)
    if not whole.all():
        row = int(np.flatnonzero(~whole)[0])
        where = f"{table.where(row)}, column {column}"
        raise table.error(where, f"{numbers_N[row]:g}", "whole numbers of frames")
    # OpenFace counts from 1, py-feat and LibreFace from 0. With timestamps it does not matter.
    zero = table.find(("facescore", "frameidx"))
    known = 1 if "success" in table.names else 0 if zero else None
    if known is None and options.timed:
        known = int(numbers_N.min())
    return frames_from_numbers(numbers_N, options.first, known, table.file)


def _times(table: Table, options: TableOptions) -> np.ndarray | None:
    column = options.time or find_time(table)
    if not column or column not in table.names:
        if not options.timed:
            return None
        shown = ", ".join(table.names[:20])
        raise table.error(f"time={column or ''}", shown, "a column of timestamps", "name it: time=")
    if not options.timed and not options.unit and not told_unit(column, table.names):
        return None  # The times only check the frame numbers, and need not.
    times_N, in_seconds = table.times(column)
    if not np.isfinite(times_N).all():
        if not options.timed:
            return None
        row = int(np.flatnonzero(~np.isfinite(times_N))[0])
        where = f"{table.where(row)}, column {column}"
        raise table.error(where, "no time", "a time in every row")
    unit = "s" if in_seconds else options.unit or told_unit(column, table.names)
    if unit not in UNITS:
        raise unknown_unit(table.file, column, times_N)
    return times_N * UNITS[unit] if unit == "s" else times_N / round(1 / UNITS[unit])


def time_steps(table: Table, time: str) -> np.ndarray:
    """Returns the differences of neighbouring timestamps as the table has them, perhaps none."""
    column = time or find_time(table)
    if not column or column not in table.names:
        return np.zeros(0)
    times_N, in_seconds = table.times(column)
    return np.zeros(0) if in_seconds else np.diff(np.unique(times_N[np.isfinite(times_N)]))
