"""The unit of a table's timestamps: declared, told by a column or tool, or proven by the steps."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from emojax.errors import InputError

from ..tabular.cell_table import plain

UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
# Rows of features are between a millisecond and a hundred seconds apart.
_LEAST_STEP, _MOST_STEP = 0.99e-3, 100.0
_ENDING = re.compile(r"(?:_|in_)(s|sec|ms|msec|us|usec)")
_LONGEST = 86400.0  # a video that lasts for a day is taken for a wall clock


def told_unit(column: str, names: Iterable[str]) -> str:
    """Returns the unit that a column's name or its tool tells, or "".

    MuSe's tables, with ``timestamp`` and ``segment_id``, count milliseconds; OpenFace's, with
    ``timestamp`` and ``success``, and openSMILE's, with ``frameTime``, count seconds.
    """
    names = {plain(name) for name in names}
    if plain(column) in ("seconds", "timeinseconds", "timesec", "timeseconds"):
        return "s"
    if plain(column) == "milliseconds":
        return "ms"
    ending = re.search(_ENDING.pattern + r"$", column.lower())
    if ending:
        return {"s": "s", "m": "ms", "u": "us"}[ending[1][0]]
    if plain(column) == "timestamp" and "segmentid" in names:
        return "ms"
    if plain(column) == "timestamp" and "success" in names:
        return "s"
    return "s" if plain(column) == "frametime" and "frameindex" in names else ""


def proven_unit(steps_N: np.ndarray) -> str:
    """Returns the only unit in which rows are as far apart as features can be, or "".

    Args:
        steps_N: (N,) differences of neighbouring timestamps, of a whole folder, as they stand
            in the files. Equal timestamps do not count.
    """
    steps_N = steps_N[steps_N > 0]
    if not len(steps_N):
        return ""
    step = float(np.median(steps_N))
    possible = [unit for unit, size in UNITS.items() if _LEAST_STEP <= step * size <= _MOST_STEP]
    return possible[0] if len(possible) == 1 else ""


def unknown_unit(file: Path, column: str, times_N: np.ndarray) -> InputError:
    """Returns the error about timestamps whose unit is unknown."""
    return InputError(
        "The unit of timestamps is unknown.",
        file=file,
        field=f"column {column}",
        found=f"times from {times_N.min():g} to {times_N.max():g} in {len(times_N)} rows",
        expected="a unit: " + ", ".join(UNITS),
        remedy="declare it for all files of the folder: unit=s, unit=ms or unit=us",
    )


def check_wall_clock(pts_N: np.ndarray, offset: float, file: Path, column: str) -> None:
    """Refuses times of day, which are far from any video's beginning.

    Args:
        pts_N: (N,) seconds, never decreasing.
        offset: seconds that are added to them.
        file: the file that messages name.
        column: the column that messages name.
    """
    if not len(pts_N) or abs(pts_N[0] + offset) <= _LONGEST:
        return
    raise InputError(
        "Timestamps do not begin near a video's beginning.",
        file=file,
        field=column,
        found=f"times from {pts_N[0]:.10g} s: a wall clock?",
        expected="seconds from the beginning of the video",
        remedy=f"give the video's beginning: offset=-{pts_N[0]:.3f}s, or offset=first if each "
        "video begins with its first row; or correct unit=",
    )
