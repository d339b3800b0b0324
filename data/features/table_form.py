"""The forms of tables: a text or Parquet file a video, or one file with a column of videos."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import ClassVar

import numpy as np

from emojax.errors import InputError

from ..tabular.cell_table import Table
from ..tabular.reading import PARQUET_ENDINGS, TEXT_ENDINGS, read_table
from .array_forms import Form
from .column_kinds import choose_columns
from .rows import RawRows
from .table_rows import TableOptions, find_time, split_table, table_rows, tells_frames, time_steps
from .time_units import proven_unit, told_unit

_MEASURED_TABLES = 20  # of a folder, whose steps prove the unit of time
_DECLARED_ENDINGS = (".txt", ".dat")  # may be anything, and count only if form= says so


class Tables(Form):
    """One VIDEO.csv, .tsv or .csv.gz a video, with names of columns in its first line."""

    options = frozenset(
        ("columns", "face", "first", "time", "unit", "header", "split", "empty")
        + ("offset", "missing")
    )
    endings: ClassVar[tuple[str, ...]] = TEXT_ENDINGS

    def clock(self) -> str:
        """Returns "frame" if there are frame numbers, else "pts" if there are timestamps."""
        table = self._first
        if self._options.time or (find_time(table) and not tells_frames(table)):
            return "pts"
        return "frame" if tells_frames(table) else ""

    def _find(self) -> dict[str, Path]:
        endings = self.endings + (_DECLARED_ENDINGS if self._options.form else ())
        found = self._with_ending(*endings)
        if not self._options.split:
            return found
        parts: dict[str, Path] = {}
        for path in found.values():
            for name in self._parts(path):
                if name in parts:
                    raise InputError(
                        "Two tables have rows of one video.",
                        file=path,
                        field=f"split={self._options.split}",
                        found=name,
                        expected=f"each video in one table; it is in {parts[name].name}, too",
                        remedy="give the videos other names, or put their rows into one table",
                    )
                parts[name] = path
        return parts

    @functools.lru_cache(maxsize=1)  # noqa: B019 - a form lives as long as its command
    def _parts(self, path: Path) -> dict[str, Table]:
        return split_table(read_table(path, self._options.header), self._options.split)

    def _read(self, video: str) -> Table:
        path = self.files[video]
        if self._options.split:
            return self._parts(path)[video]
        return self._table(path)

    @functools.lru_cache(maxsize=1)  # noqa: B019
    def _table(self, path: Path) -> Table:
        return read_table(path, self._options.header)

    @functools.cached_property
    def _first(self) -> Table:
        return self._read(next(iter(self.files)))

    @functools.cached_property
    def _chosen(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        given = self._options
        return choose_columns(
            self._first, given.columns, given.time, drop_empty=given.empty == "drop"
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Returns the names of the feature columns, as the first table has them."""
        return self._chosen[0]

    @functools.cached_property
    def _unit(self) -> str:
        """Returns the unit that the steps of the folder's tables prove, "" if they do not."""
        some = [self._read(video) for video in list(self.files)[:_MEASURED_TABLES]]
        if told_unit(self._options.time or find_time(some[0]), some[0].names):
            return ""
        return proven_unit(
            np.concatenate([time_steps(table, self._options.time) for table in some])
        )

    def read(self, video: str) -> RawRows:
        """Reads the rows of a video, see ``Form``."""
        given = self._options
        clock = given.clock or self.clock()
        options = TableOptions(
            face=given.face,
            first=given.first,
            time=given.time,
            unit=given.unit or (self._unit if clock == "pts" else ""),
            timed=clock == "pts",
        )
        return table_rows(self._read(video), self.columns, options)

    def told(self) -> tuple[str, ...]:
        """Returns phrases about the columns of the first table."""
        comma = ("numbers read with a decimal comma",) if self._first.decimal_comma else ()
        return self._chosen[1] + comma


class ParquetTables(Tables):
    """One VIDEO.parquet a video, whose columns have names."""

    endings = PARQUET_ENDINGS
