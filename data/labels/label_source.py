"""Labels that users bring, one ``LabelSource`` per --labels flag; see ``label_options``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from emojax.datasets.store_checks import check_name
from emojax.errors import InputError
from emojax.specs import TaskSpec

from ..annotations.challenge_files import read_annotation
from ..features.array_forms import entries
from ..features.column_kinds import FRAME, SOURCE
from ..features.rows import frames_from_numbers
from ..features.table_rows import find_time
from ..features.time_units import UNITS, proven_unit, told_unit
from ..tabular.cell_table import Table, plain
from ..tabular.reading import PARQUET_ENDINGS, TEXT_ENDINGS, read_table
from .elan import Segment, read_eaf
from .label_options import LabelOptions, parse_labels
from .label_rows import LabelRows, proven_span_unit
from .label_values import cell_value, label_columns, label_values, remedy_for

_VIDEO = ("video", "videoname", "videoid", "recording", "clip", *SOURCE, "name")
_ENDINGS = (*TEXT_ENDINGS, *PARQUET_ENDINGS, ".txt", ".eaf")
_START = ("start", "begin", "onset", "starttime", "startms")
_END = ("end", "stop", "endtime", "endms")


class LabelSource:
    """The labels of one task, of all videos.

    Args:
        options: the flag.

    Attributes:
        task: what is labelled.

    Raises:
        InputError: a file is malformed, or holds labels that are none of the task's.
    """

    def __init__(self, options: LabelOptions) -> None:
        self._options = options
        self.task: TaskSpec = options.task
        self._unit = options.given.get("unit", "")
        self._open_unit: Table | None = None
        self._steps: list[np.ndarray] = []
        self._rows: dict[str, LabelRows] = {}
        for name, path in self._files():
            for video, rows in self._read(name, path):
                check_name(video, f"video of {options.flag}", path)
                if video in self._rows:
                    raise self._error(path, video, "labels twice", "labels of a video in one file")
                self._rows[video] = rows
        if not self._rows:
            raise self._error(
                options.path, options.flag, "no labels", "files named *" + ", *".join(_ENDINGS)
            )

    def videos(self) -> list[str]:
        """Returns the names of videos with labels."""
        return list(self._rows)

    def rows(self, video: str) -> LabelRows | None:
        """Returns the labels of a video, or None."""
        return self._rows.get(video)

    @property
    def needs_lengths(self) -> bool:
        """Returns True if the lengths of videos have to prove the unit of time."""
        return self._open_unit is not None

    def settle_unit(self, seconds: Mapping[str, float]) -> None:
        """Finds the unit of the labels' times, once for all files, and applies it.

        Args:
            seconds: video -> its length.

        Raises:
            InputError: neither the steps of the times nor the lengths prove it.
        """
        if self._open_unit is None:
            return
        timed = {
            v: r for v, r in self._rows.items() if r.pts_M is not None or r.spans_M2 is not None
        }
        unit = proven_unit(np.concatenate(self._steps)) if self._steps else ""
        known = [video for video in timed if video in seconds]
        if not unit and known:
            ends_V = np.array([_last(timed[video]) for video in known])
            unit = proven_span_unit(ends_V, np.array([seconds[video] for video in known]))
        if not unit:
            raise self._error(
                self._open_unit.file,
                "times",
                f"times up to {max(map(_last, timed.values())):g}",
                "a unit: " + ", ".join(UNITS),
                "declare it for all files: unit=s, unit=ms or unit=us",
            )
        for video, rows in timed.items():
            self._rows[video] = _scaled(rows, UNITS[unit])
        self._open_unit = None

    def _files(self) -> Iterable[tuple[str, Path]]:
        for path in sorted(entries(self._options.path)):
            ending = next((end for end in _ENDINGS if path.name.lower().endswith(end)), "")
            if ending:
                yield path.name[: -len(ending)], path

    def _read(self, name: str, path: Path) -> Iterable[tuple[str, LabelRows]]:
        if path.suffix.lower() == ".eaf":
            return [(name, self._from_tiers(path))]
        if path.suffix.lower() == ".txt" and not self._options.given.keys() - {"first"}:
            # The organisers' form: a header of the task's labels, and a line for each frame.
            values_NK = read_annotation(path, self.task.name, by_name=True)
            every_N = np.arange(len(values_NK))
            return [(name, LabelRows(path, values_NK, frame_M=every_N, in_order=True))]
        table = read_table(path, self._options.given.get("header", ""))
        values_MK = label_values(table, label_columns(table, self._options), self._options)
        column = self._options.given.get("video") or table.find(_VIDEO)
        if column is None:
            return [(name, self._from_table(table, values_MK))]
        if path.parent == self._options.path and "video" not in self._options.given:
            sources = {*_cells(table, column)} if plain(column) != "name" else {""}
            if len(sources) > 1:
                shown = ", ".join(sorted(sources)[:3])
                remedy = f"if the column names the videos: video={column}"
                raise table.error(f"column {column}", shown, "rows of one video", remedy)
            return [(name, self._from_table(table, values_MK))]
        groups: dict[str, list[int]] = {}
        for row, cell in enumerate(_cells(table, column)):
            video = PurePosixPath(cell.replace("\\", "/"))
            stem = video.stem if 1 < len(video.suffix) <= 5 else video.name
            groups.setdefault(stem, []).append(row)
        return [
            (video, self._from_table(table.chosen(rows), values_MK[rows]))
            for video, rows in groups.items()
        ]

    def _from_table(self, table: Table, values_MK: np.ndarray) -> LabelRows:
        given = self._options.given
        start, end = (given.get(key) or table.find(names) for key, names in
                      (("start", _START), ("end", _END)))  # fmt: skip
        frame, time = table.find(FRAME), given.get("time") or find_time(table)
        per = given.get("per", "")
        if not per:
            per = "frame" if frame or "time" in given else "segment" if start and end else ""
            per = per or ("frame" if time or len(table.cells) > 1 else "recording")
        if per == "recording":
            if len(table.cells) != 1:
                raise table.error("per=recording", f"{len(table.cells)} rows", "one row a video")
            return LabelRows(table.file, values_MK)
        if per == "segment":
            if not start or not end:
                shown = ", ".join(table.names[:20])
                raise table.error("per=segment", shown, "start= and end=, the columns of times")
            spans_M2 = np.stack([self._times(table, start), self._times(table, end)], axis=1)
            wrong = np.flatnonzero(~(spans_M2[:, 0] < spans_M2[:, 1]))
            if len(wrong):
                where = f"{table.where(int(wrong[0]))}, columns {start} and {end}"
                raise table.error(where, spans_M2[wrong[0]].tolist(), "an end after the start")
            return LabelRows(table.file, values_MK, spans_M2=spans_M2)
        if frame and "time" not in given:
            return self._by_frame(table, frame, values_MK)
        if time:
            pts_M = self._times(table, time)
            self._steps.append(np.diff(np.unique(pts_M)))
            return LabelRows(table.file, values_MK, pts_M=pts_M)
        told, every_M = ("labels in the order of the frames",), np.arange(len(values_MK))
        return LabelRows(table.file, values_MK, frame_M=every_M, told=told, in_order=True)

    def _by_frame(self, table: Table, column: str, values_MK: np.ndarray) -> LabelRows:
        numbers_M = table.numbers([column])[:, 0]
        whole = np.isfinite(numbers_M) & (numbers_M == np.floor(numbers_M))
        if not whole.all():
            where = f"{table.where(int(np.flatnonzero(~whole)[0]))}, column {column}"
            raise table.error(where, "no whole number", "the number of a frame")
        first = self._options.number("first")
        frame_M = frames_from_numbers(
            numbers_M, None if first is None else int(first), None, table.file
        )
        order_M = np.argsort(frame_M, kind="stable")
        again = np.flatnonzero(np.diff(frame_M[order_M]) == 0)
        if len(again):
            where = f"{table.where(int(order_M[again[0] + 1]))}, column {column}"
            raise table.error(where, f"frame {numbers_M[order_M[again[0]]]:g} twice", "each once")
        return LabelRows(table.file, values_MK[order_M], frame_M=frame_M[order_M])

    def _times(self, table: Table, column: str) -> np.ndarray:
        """Returns a column of times, in seconds if their unit is known by now."""
        if column not in table.names:
            raise table.error(column, ", ".join(table.names[:20]), "a column of times")
        times_M, in_seconds = table.times(column)
        if not np.isfinite(times_M).all():
            where = f"{table.where(int(np.flatnonzero(~np.isfinite(times_M))[0]))}, column {column}"
            raise table.error(where, "no time", "a time in every row")
        unit = "s" if in_seconds else self._unit or told_unit(column, table.names)
        if bool(unit) == (self._open_unit is not None) and self._rows:
            raise table.error(f"column {column}", "times of another kind", "those of other files")
        if unit:
            return times_M * UNITS[unit]
        self._open_unit = self._open_unit or table
        return times_M

    def _from_tiers(self, path: Path) -> LabelRows:
        tiers, task = read_eaf(path), self.task
        wanted = self._options.columns or ((task.name,) if task.columns == 1 else task.labels)
        if len(wanted) != task.columns:
            raise self._error(path, "column=", f"{len(wanted)} tiers", f"{task.columns}")
        known = {name.casefold(): name for name in tiers}
        spans, values = [], []
        elsewhere = None
        for k, name in enumerate(wanted):
            if name.casefold() not in known:
                shown = ", ".join(tiers) or "no tier"
                raise self._error(
                    path, f"tier {name}", shown, "a tier", "name them: column=TIER+TIER"
                )
            for segment in tiers[known[name.casefold()]]:
                value: float | str = cell_value(segment.text, self._options)
                if task.kind == "binary" and (isinstance(value, str) or not segment.text):
                    value, elsewhere = 1.0, 0.0  # a segment says that the unit is there
                if isinstance(value, str):
                    raise self._bad_segment(path, name, segment, value)
                row_K = np.full(task.columns, task.ignore, np.float32)
                row_K[k] = value
                spans.append((segment.start, segment.end))
                values.append(row_K)
        values_MK = np.array(values, np.float32).reshape(-1, task.columns)
        spans_M2 = np.array(spans, np.float64).reshape(-1, 2)
        told = () if elsewhere is None else ("frames outside of a tier's segments are without it",)
        return LabelRows(path, values_MK, spans_M2=spans_M2, told=told, elsewhere=elsewhere)

    def _bad_segment(self, path: Path, tier: str, segment: Segment, expected: str) -> InputError:
        where = f"tier {tier}, {segment.start:.3f} to {segment.end:.3f} s"
        remedy = remedy_for([segment.text], self._options)
        return self._error(path, where, repr(segment.text[:40]), expected, remedy)

    def _error(
        self, path: Path, field: str, found: object, expected: str, remedy: str | None = None
    ) -> InputError:
        return InputError(
            f"Labels of {self.task.name} cannot be read.",
            file=path,
            field=field,
            found=found,
            expected=expected,
            remedy=remedy,
        )


def _cells(table: Table, column: str) -> list[str]:
    if column not in table.names:
        raise table.error(f"video={column}", ", ".join(table.names[:20]), "a column of videos")
    cells = table.column(column)
    if "" in cells:
        raise table.error(f"{table.where(cells.index(''))}, column {column}", "nothing", "a video")
    return cells


def _last(rows: LabelRows) -> float:
    times = rows.pts_M if rows.pts_M is not None else rows.spans_M2
    return float(np.max(times, initial=0.0)) if times is not None else 0.0


def _scaled(rows: LabelRows, size: float) -> LabelRows:
    pts_M = None if rows.pts_M is None else rows.pts_M * size
    spans_M2 = None if rows.spans_M2 is None else rows.spans_M2 * size
    return dataclasses.replace(rows, pts_M=pts_M, spans_M2=spans_M2)


def open_labels(flags: Iterable[str]) -> list[LabelSource]:
    """Opens the labels that --labels flags name.

    Raises:
        InputError: a flag or a file is malformed, or two flags are about one task.
    """
    sources: list[LabelSource] = []
    for flag in flags:
        source = LabelSource(parse_labels(flag))
        if any(source.task.name == other.task.name for other in sources):
            raise InputError(
                "Two flags are about one task.",
                field=f"--labels={flag}",
                found=source.task.name,
                expected="a flag for each task",
                remedy="put the labels into one folder",
            )
        sources.append(source)
    return sources
