"""Chooses the person that counts where a frame of a table has several faces."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..tabular.cell_table import Table, plain
from .column_kinds import BOX, CONFIDENCE, FACE, IDENTITY
from .rows import count_of

_LEAST_OVERLAP = 0.3  # of a face's boxes in neighbouring frames, as intersection over union
_LONGEST_GAP = 30  # frames for which a face may be out of sight
_SIDES = {
    "x": "left", "left": "left", "x1": "left", "xmin": "left", "y": "top", "top": "top",
    "y1": "top", "ymin": "top", "w": "width", "width": "width", "h": "height", "height": "height",
    "right": "right", "x2": "right", "xmax": "right", "bottom": "bottom", "y2": "bottom",
    "ymax": "bottom",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class FaceChoice:
    """The rows that remain of a table with several faces in a frame.

    Attributes:
        rows_N: their numbers, in the order of frames or else of the file.
        valid_N: (n,) bool, of all rows: valid and about the chosen person.
        told: phrases that the user must see.
    """

    rows_N: np.ndarray
    valid_N: np.ndarray
    told: tuple[str, ...] = ()


def choose_face(
    table: Table, face: int | None, shared_N: np.ndarray | None, valid_N: np.ndarray
) -> FaceChoice:
    """Chooses one row for each frame.

    The person is the one that ``face`` declares; else the identity seen in most valid rows, where
    a column names identities; else the face or track seen most, where a column numbers them or
    boxes tell them; else the most confident face of each frame. A frame without the chosen
    person keeps a row, which is not valid.

    Args:
        table: the rows.
        face: the declared face_id, or None.
        shared_N: (n,) frame numbers or times, which faces of a frame have in common; None if the
            rows have neither.
        valid_N: (n,) bool, rows in which a face was found.

    Raises:
        InputError: no row is about the declared face, or nothing tells the faces of a frame apart.
    """
    person_N = _declared(table, face)
    every_N = np.arange(len(valid_N))
    if shared_N is None:
        return FaceChoice(every_N if person_N is None else np.flatnonzero(person_N), valid_N)
    chosen = "" if person_N is None else f"face {face}"
    if person_N is None and len(np.unique(shared_N)) < len(shared_N):
        person_N, chosen = _most_seen(table, shared_N, valid_N)
    if person_N is not None:
        # Where the chosen person is not seen, another's row keeps the frame, and is not valid.
        valid_N = valid_N & person_N
    confident = table.find(CONFIDENCE)
    trust_N = _confidence(table)
    # By frame, then valid before others, then by confidence; lexsort's last key counts most.
    order_N = every_N[np.lexsort((-trust_N, ~valid_N, shared_N))]
    first_N = np.r_[True, np.diff(shared_N[order_N]) != 0]
    several = len(np.unique(shared_N[order_N][~first_N]))
    if several and confident is None and person_N is None:
        raise table.error(
            "frame",
            f"{several} frames with several rows",
            "one row a frame, or a confidence",
            f"choose a face: face=0, if there is a column {FACE[0]}",
        )
    told = []
    if several:
        taken = chosen or "the most confident"
        told.append(f"several faces in {count_of(several, 'frame')}, {taken} taken")
    if person_N is not None:
        unseen = int((~person_N[order_N[first_N]]).sum())
        if unseen:
            told.append(f"{count_of(unseen, 'frame')} without {chosen}")
    return FaceChoice(order_N[first_N], valid_N, tuple(told))


def _declared(table: Table, face: int | None) -> np.ndarray | None:
    """Returns the rows of the face that ``face=`` declares, (n,) bool; None without ``face=``."""
    if face is None:
        return None
    column = table.find(FACE)
    if column is None:
        raise table.error(f"face={face}", "no face_id", "a column face_id")
    faces_N = table.numbers([column])[:, 0]
    person_N: np.ndarray = faces_N == face
    if not person_N.any():
        known = ", ".join(f"{one:g}" for one in np.unique(faces_N)[:10])
        raise table.error(f"face={face}", f"faces {known}", "a face that is there")
    return person_N


def _most_seen(
    table: Table, shared_N: np.ndarray, valid_N: np.ndarray
) -> tuple[np.ndarray | None, str]:
    """Returns the rows of the person with the most valid rows, (n,) bool, and who that is."""
    for kind, candidates in (("identity", IDENTITY), ("face", FACE)):
        column = table.find(candidates)
        if column is not None:
            names_N = np.array(table.column(column))
            name = _most_frequent(names_N[valid_N & (names_N != "")].tolist())
            if name is not None:
                return names_N == name, f"{kind} {name}"
    boxes_N4 = boxes(table)
    if boxes_N4 is None:
        return None, ""
    tracks_N = link_tracks(shared_N, boxes_N4, _confidence(table))
    track = _most_frequent(tracks_N[valid_N].tolist())
    return (None, "") if track is None else (tracks_N == track, "the person tracked longest")


def _most_frequent(seen: Sequence[Any]) -> Any:
    counts = collections.Counter(seen)
    return max(sorted(counts), key=lambda one: counts[one], default=None)


def _confidence(table: Table) -> np.ndarray:
    column = table.find(CONFIDENCE)
    if column is None:
        return np.zeros(len(table.cells))
    return np.nan_to_num(table.numbers([column])[:, 0])


def boxes(table: Table) -> np.ndarray | None:
    """Returns the boxes of faces, (n, 4) left, top, right and bottom; None if columns lack."""
    found: dict[str, str] = {}
    for name in table.names:
        parts = BOX.fullmatch(plain(name))
        side = _SIDES.get(parts[3] or "") if parts else None
        if side:
            found.setdefault(side, name)
    ends = ("right", "bottom") if {"right", "bottom"} <= {*found} else ("width", "height")
    if not {"left", "top", *ends} <= {*found}:
        return None
    boxes_N4 = table.numbers([found[side] for side in ("left", "top", *ends)])
    if ends[0] == "width":
        boxes_N4[:, 2:] += boxes_N4[:, :2]
    return boxes_N4


def link_tracks(shared_N: np.ndarray, boxes_N4: np.ndarray, trust_N: np.ndarray) -> np.ndarray:
    """Numbers the people that boxes show, frame after frame, (n,) int64.

    A box goes on with the track whose last box it overlaps most, by at least 30 %, if that was seen
    in one of the last 30 frames; confident faces choose first.

    Args:
        shared_N: (n,) the frame of each box.
        boxes_N4: (n, 4) left, top, right, bottom.
        trust_N: (n,) confidence.
    """
    tracks_N = np.full(len(shared_N), -1, np.int64)
    last: dict[int, tuple[int, np.ndarray]] = {}
    _, frame_N = np.unique(shared_N, return_inverse=True)
    order_N = np.lexsort((-trust_N, frame_N))
    taken: set[int] = set()
    current = -1
    for row in order_N:
        frame, box = int(frame_N[row]), boxes_N4[row]
        if frame != current:
            current, taken = frame, set()
        near = {
            track: overlap(box, before)
            for track, (seen, before) in last.items()
            if track not in taken and frame - seen <= _LONGEST_GAP
        }
        track = max(near, key=lambda one: near[one], default=-1)
        if track < 0 or not near[track] >= _LEAST_OVERLAP:
            track = len(last)
        tracks_N[row] = track
        last[track] = frame, box
        taken.add(track)
    return tracks_N


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Returns intersection over union of two boxes: left, top, right, bottom."""
    sides_2 = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    common = float(np.prod(np.maximum(sides_2, 0.0)))
    union = float(np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2])) - common
    return common / union if union > 0 else 0.0
