"""Writes the numbers of a run to ``metrics.csv`` and to TensorBoard, in the run's folder.

``metrics.csv`` has a row for each step, a column for each metric, and an empty cell where a metric
was not measured at a step. So it opens directly in a spreadsheet or in pandas. A row or an event is
appended by one write, which is undone if only a part fits on the disk.
"""

from __future__ import annotations

import csv
import errno
import io
import os
import re
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from emojax.errors import InputError, writing
from emojax.file_writing import replacing

METRICS_FILE = "metrics.csv"
_KEPT = "the last good checkpoint is untouched, and the same command continues"
_TABLE = "The table of metrics"
_EVENTS = "TensorBoard's event file"


def read_metrics(path: str | Path) -> dict[int, dict[str, float]]:
    """Reads a ``metrics.csv``.

    Returns:
        step -> metric name -> value, with steps in the file's order and without empty cells. A
        last line that was not written to its end is left out.

    Raises:
        InputError: the file is missing, is not a table of steps, or has a cell that is not a
            number.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            "The metrics file does not exist.",
            file=path,
            expected="the metrics.csv of a run",
            remedy="train first, or name the folder of a run",
        )
    text = path.read_text(encoding="utf-8")
    # A run that was killed while writing leaves an incomplete last line, which is ignored.
    reader = csv.reader(text[: text.rfind("\n") + 1].splitlines())
    header = next(reader, [])
    if header[:1] != ["step"]:
        raise _not_a_table(path, "header", ",".join(header[:4]), "step,<metric>,...")
    rows: dict[int, dict[str, float]] = {}
    for line in reader:
        try:
            cells = zip(header[1:], line[1:], strict=True)
            rows[int(line[0])] = {name: float(cell) for name, cell in cells if cell}
        except (ValueError, IndexError) as error:
            field = f"line {reader.line_num}"
            raise _not_a_table(path, field, ",".join(line[:4]), "numbers") from error
    return rows


def _not_a_table(path: Path, field: str, found: str, expected: str) -> InputError:
    return InputError(
        "The file is not a table of metrics by step.",
        file=path,
        field=field,
        found=found or "nothing",
        expected=expected,
        remedy="move the file away; a resumed run then starts a new one",
    )


def _line(step: int, names: list[str], values: Mapping[str, float]) -> list[str]:
    # Nine digits bring every float32 back exactly.
    return [str(step)] + [format(values[name], ".9g") if name in values else "" for name in names]


class _MetricsTable:
    """The rows of ``metrics.csv``; appends a new step, rewrites for a new column or old step."""

    def __init__(self, path: Path, rows: dict[int, dict[str, float]]) -> None:
        self._path = path
        self._rows = rows
        self._names = list(dict.fromkeys(name for row in rows.values() for name in row))
        self._rewrite()

    def put(self, step: int, values: Mapping[str, float]) -> None:
        new_names = [name for name in values if name not in self._names]
        follows = all(step > known for known in self._rows)
        self._names += new_names
        self._rows.setdefault(step, {}).update(values)
        if new_names or not follows:
            self._rewrite()
        else:
            self._append(_line(step, self._names, self._rows[step]))

    def _append(self, line: list[str]) -> None:
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        except FileNotFoundError:
            # The table was removed meanwhile; all of its rows are in memory.
            self._rewrite()
            return
        try:
            with writing(self._path, _TABLE, kept=_KEPT):
                _append(descriptor, _csv([line]))
        finally:
            os.close(descriptor)

    def _rewrite(self) -> None:
        lines = [_line(step, self._names, self._rows[step]) for step in sorted(self._rows)]
        with writing(self._path, _TABLE, kept=_KEPT), replacing(self._path) as partial:
            partial.write_bytes(_csv([["step", *self._names], *lines]))


def _csv(lines: list[list[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue().encode()


def _append(descriptor: int, data: bytes) -> None:
    """Appends bytes to an open file: all of them, or none.

    Raises:
        OSError: the bytes do not fit on the disk; the file is unchanged.
    """
    size = os.fstat(descriptor).st_size
    try:
        if os.write(descriptor, data) < len(data):
            # A write to a disk that fills up is cut short without an error.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, size)
        raise


class _EventFile:
    """A TensorBoard event file, in the format of TensorBoard's own writer.

    TensorBoard's writer writes from a thread. Its errors come late and as a traceback, and it
    flushes by the wall clock.
    """

    def __init__(self, workdir: Path) -> None:
        # TensorBoard reads the files of a run in the order of their names. This file must come
        # last even if the clock was set back.
        stamps = [
            int(found[1])
            for path in workdir.glob("events.out.tfevents.*")
            if (found := re.match(r"events\.out\.tfevents\.(\d+)\.", path.name))
        ]
        self._time = max(time.time(), max(stamps, default=-1) + 1.0)
        name = f"events.out.tfevents.{int(self._time):010d}.{socket.gethostname()}.{os.getpid()}.0"
        self._path = workdir / name
        with writing(self._path, _EVENTS, kept=_KEPT):
            how = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL
            self._descriptor: int | None = os.open(self._path, how, 0o644)
        self.add(file_version="brain.Event:2")

    def add(self, **fields: Any) -> None:
        """Appends an event with these fields, at the present time or the last event's if later."""
        self._time = max(self._time, time.time())
        record = io.BytesIO()
        RecordWriter(record).write(Event(wall_time=self._time, **fields).SerializeToString())
        assert self._descriptor is not None, "the writer is closed"
        with writing(self._path, _EVENTS, kept=_KEPT):
            _append(self._descriptor, record.getvalue())

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class RunWriter:
    """Writes scalars to ``workdir/metrics.csv`` and to a TensorBoard event file in ``workdir``.

    Without ``resume_step`` a new table replaces an existing one. With it the table is continued:
    rows after that step are dropped, because the resumed run measures them again. TensorBoard
    drops them, too.

    Args:
        workdir: the run's folder; created if needed.
        resume_step: the step of the restored checkpoint, or None for a new run.

    Raises:
        InputError: on resuming, the ``metrics.csv`` in the folder cannot be read.
        MachineError: the folder cannot be written to. All methods raise it, too.
    """

    def __init__(self, workdir: str | Path, *, resume_step: int | None = None) -> None:
        workdir = Path(workdir)
        with writing(workdir, "The run's folder", kept=_KEPT):
            workdir.mkdir(parents=True, exist_ok=True)
        path = workdir / METRICS_FILE
        rows: dict[int, dict[str, float]] = {}
        if resume_step is not None and path.exists():
            rows = {step: row for step, row in read_metrics(path).items() if step <= resume_step}
        self._table = _MetricsTable(path, rows)
        self._events = _EventFile(workdir)
        if resume_step is not None:
            start = SessionLog(status=SessionLog.START)
            self._events.add(step=resume_step + 1, session_log=start)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Records ``values`` at ``step``; several calls for one step fill the same row.

        Args:
            step: the number of training steps taken.
            values: metric name ("validation/ccc_mean") -> number or array of one number.
        """
        numbers = {name: float(value) for name, value in values.items()}
        if not numbers:
            return
        self._table.put(int(step), numbers)
        rows = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
        self._events.add(step=int(step), summary=Summary(value=rows))

    def close(self) -> None:
        """Closes the event file; may be called twice. Every recorded value is on disk already."""
        self._events.close()

    def __enter__(self) -> RunWriter:
        """Returns itself; leaving the block closes it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes, also on an exception."""
        self.close()
