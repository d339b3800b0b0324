"""Tells columns that describe the row from features, by their names.

Names are compared without case, spaces, underscores, dots and hyphens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

import numpy as np

from ..tabular.cell_table import Table, plain
from ..tabular.cells import BadCellError, parse_numbers

FRAME = ("frame", "frameidx", "framenumber", "frameid", "framenum", "framenr", "frameno", "frames")
TIME = (
    "timestamp", "time", "timestampms", "timems", "frametimeinms", "timestamps", "times",
    "timestampus", "timeus", "frametime", "pts", "ptstime", "seconds", "milliseconds",
    "timeinseconds", "timesec", "timeseconds",
)  # fmt: skip
CONFIDENCE = ("confidence", "facescore", "faceconfidence", "detectionconfidence")
FACE = ("faceid", "face", "trackid", "track", "faceidx", "faceindex", "facenumber")
IDENTITY = ("identity", "personid", "person")
SUCCESS = ("success", "facedetected")
SOURCE = ("input", "file", "filename", "filepath", "path", "video", "videoname", "videoid", "clip")
_COUNTER = (
    "", "index", "idx", "row", "rowid", "rowindex", "rownumber", "rowname", "rownames",
    "frameindex", "counter", "nr", "no", "number", "id",
)  # fmt: skip
_OTHER = (
    "approxtime", "segmentid", "segment", "name", "image", "img", "imagename", "imagepath", "start",
    "end", "begin", "stop", "onset", "date", "datetime", "t", "subject", "speaker", "participant",
    "session", "word", "text", "transcript", "framecount", "duration", "fps",
)  # fmt: skip
# Those of the row's columns that every user of the known tools expects; others are told.
_EXPECTED = {*FRAME, *TIME, *CONFIDENCE, *FACE, *IDENTITY, *SUCCESS, *SOURCE}
_ROW = {*_EXPECTED, *_COUNTER, *_OTHER}
# Saved counters of pandas, and of readr, as they are written.
_SAVED = re.compile(r"unnamed: \d+(_level_\d+)?|level_\d|__index_level_\d+__|\.\.\.\d+")
# Boxes of faces in pixels, as detectors give them.
BOX = re.compile(
    r"(face)?(rect|bbox|boundingbox|box|roi)"
    r"(x|y|w|h|width|height|left|top|right|bottom|[xy](?:min|max|[12]))?\d?"
)
_RAMP_ROWS = 10  # a feature does not rise for longer


def describes_row(name: str) -> bool:
    """Returns True if a column of this name is no feature unless ``columns=`` names it."""
    text = plain(name)
    return text in _ROW or bool(_SAVED.fullmatch(name.casefold())) or is_box(name)


def is_box(name: str) -> bool:
    """Returns True for a side of a face's box in pixels."""
    return bool(BOX.fullmatch(plain(name)))


def choose_columns(
    table: Table, patterns: Sequence[str], time: str = "", *, drop_empty: bool = False
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the names of the feature columns, in the order of the table, and phrases about them.

    Args:
        table: the first one.
        patterns: patterns of names; none takes all columns but those that describe the row and
            those of text.
        time: a column of timestamps, which is no feature unless a pattern names it.
        drop_empty: leave out columns that are empty in every row.

    Raises:
        InputError: a pattern fits no column, or nothing is left.
    """
    told = []
    if patterns:
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in table.names):
                shown = ", ".join(table.names[:20]) + ", ..." * (len(table.names) > 20)
                raise table.error(f"columns={pattern}", "no such column", shown)
        chosen = [n for n in table.names if any(fnmatchcase(n, pattern) for pattern in patterns)]
    else:
        chosen = [n for n in table.names if n != time and (table.headless or not describes_row(n))]
        text = [n for n in chosen if table.names.count(n) == 1 and table.is_text(n)]
        chosen = [n for n in chosen if n not in text]
    empty = [n for n in chosen if table.names.count(n) == 1 and not any(table.column(n))]
    if drop_empty and empty:
        chosen = [n for n in chosen if n not in empty]
        told.append(f"columns left out, as they are empty: {_some(empty)}")
    if not chosen:
        raise table.error("columns", "no feature columns", "at least one", "name them: columns=")
    if patterns:
        return tuple(chosen), tuple(told)
    other = [n for n in table.names if n not in chosen and n not in empty and n != time]
    other = [n or "one without a name" for n in other if plain(n) not in _EXPECTED]
    if other:
        told.append(f"columns left out, as they describe the row: {_some(other)}")
    if table.headless:
        told.append(f"no names of columns in line 1, read as {len(table.names)} columns")
    once = [n for n in chosen if table.names.count(n) == 1]
    even = [] if table.headless else [n for n in once if _always_rises(table, n)]
    if even:
        told.append(
            f"rises in every row like a counter or a clock, but is a feature: {_some(even)}"
        )
    return tuple(chosen), tuple(told)


def _always_rises(table: Table, name: str) -> bool:
    """Returns True if a column rises from row to row, wherever it has a number."""
    cells = table.column(name)
    for part in (cells[: 2 * _RAMP_ROWS], cells):  # most columns fall soon
        try:
            values_N = parse_numbers(part, decimal_comma=table.decimal_comma)
        except BadCellError:
            return False
        values_N = values_N[np.isfinite(values_N)]
        if not (np.diff(values_N) > 0).all():
            return False
    return len(values_N) >= _RAMP_ROWS


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + ", ..." * (len(names) > 5)
