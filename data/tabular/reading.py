"""Reads tables of any form that is known, by the ending of the file's name."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from .cell_table import Table
from .text_tables import read_text_table

TEXT_ENDINGS = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
PARQUET_ENDINGS = (".parquet", ".pq")
_MOST_CELLS = 500_000_000


def read_table(path: Path, header: str = "") -> Table:
    """Reads a table: Parquet by its ending, else text.

    Args:
        path: the file.
        header: "yes" or "no" if it is declared that the first line of a text names the columns.

    Raises:
        InputError: the file cannot be read or holds no table.
    """
    if path.name.lower().endswith(PARQUET_ENDINGS):
        return _read_parquet(path)
    return read_text_table(path, header)


def _read_parquet(path: Path) -> Table:
    # Text needs none of it, and it takes half a second to import.
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            shape = file.metadata.num_rows, file.metadata.num_columns
            if shape[0] * shape[1] > _MOST_CELLS:
                raise Table(path, (), []).error("size", f"{shape} cells", "a table of one video")
            content = file.read()
    except (OSError, pyarrow.ArrowException) as error:
        found = str(error).strip().splitlines()[0][:200]
        raise Table(path, (), []).error("contents", found, "a Parquet file") from error
    if not content.num_rows:
        raise Table(path, (), []).error("rows", "no rows", "at least one row")
    columns = []
    for name, column in zip(content.column_names, content.columns, strict=True):
        kind = column.type
        if pyarrow.types.is_nested(kind):
            raise Table(path, (), []).error(
                f"column {name}", str(kind)[:40], "a number or text in each cell",
                "write a column for each number",
            )  # fmt: skip
        # Nanoseconds have no type of Python's own.
        if pyarrow.types.is_timestamp(kind):
            column = column.cast(pyarrow.timestamp("us", kind.tz), safe=False)
        if pyarrow.types.is_duration(kind):
            column = column.cast(pyarrow.duration("us"), safe=False)
        columns.append([_cell(value) for value in column.to_pylist()])
    rows = [list(row) for row in zip(*columns, strict=True)]
    return Table(path, tuple(name.strip() for name in content.column_names), rows)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime.timedelta):
        return f"{value.total_seconds()!r} s"
    return repr(value) if isinstance(value, float) else str(value).strip()
