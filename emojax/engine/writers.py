"""Where a run's numbers go: ``metrics.csv`` and TensorBoard, both in the run's folder.

``metrics.csv`` is wide: one row for each step, one column for each metric, an empty cell where
a metric was not measured at that step. So it opens as it is in a spreadsheet or in pandas.
"""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from emojax.errors import InputError

METRICS_FILE = "metrics.csv"


def read_metrics(path: str | Path) -> dict[int, dict[str, float]]:
    """Reads a ``metrics.csv``.

    Returns:
        step -> metric name -> value, steps in the file's order, only the filled cells. A last
        line that was cut off in writing is left out.

    Raises:
        InputError: the file is missing, is no table of steps, or holds a cell that is no number.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            "There is no metrics file.",
            file=path,
            expected="the metrics.csv of a run",
            remedy="train first, or give the folder of a run",
        )
    text = path.read_text(encoding="utf-8")
    # A run that was killed while it wrote leaves a line without an end; it never counted.
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
        "This is not a table of metrics by step.",
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
    """The rows of ``metrics.csv``; appends when it can, rewrites when a cell or column is new."""

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
            with self._path.open("a", newline="") as file:
                csv.writer(file, lineterminator="\n").writerow(
                    _line(step, self._names, self._rows[step])
                )

    def _rewrite(self) -> None:
        # Written beside and renamed, so that a kill leaves the old table or the new one.
        partial = self._path.with_name(f"{self._path.name}.partial-{os.getpid()}")
        with partial.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["step", *self._names])
            for step in sorted(self._rows):
                writer.writerow(_line(step, self._names, self._rows[step]))
        partial.replace(self._path)


class RunWriter:
    """Writes scalars to ``workdir/metrics.csv`` and to a TensorBoard event file in ``workdir``.

    Without ``resume_step`` a new table is begun, in place of one that may lie there. With it the
    table is continued: rows after that step are dropped, because the resumed run measures them
    again, and TensorBoard is told to forget them too.

    Args:
        workdir: the run's folder; made if it is not there.
        resume_step: the step of the restored checkpoint, or None for a fresh run.

    Raises:
        InputError: on resuming, the ``metrics.csv`` that lies there cannot be read.
    """

    def __init__(self, workdir: str | Path, *, resume_step: int | None = None) -> None:
        workdir = Path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        path = workdir / METRICS_FILE
        rows: dict[int, dict[str, float]] = {}
        if resume_step is not None and path.exists():
            rows = {step: row for step, row in read_metrics(path).items() if step <= resume_step}
        self._table = _MetricsTable(path, rows)
        self._events = EventFileWriter(str(workdir), flush_secs=30)
        if resume_step is not None:
            start = SessionLog(status=SessionLog.START)
            self._events.add_event(
                Event(wall_time=time.time(), step=resume_step + 1, session_log=start)
            )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Records ``values`` at ``step``; values of several calls for one step share a row.

        Args:
            step: training steps done.
            values: metric name ("validation/ccc_mean") -> number or array of one number.
        """
        numbers = {name: float(value) for name, value in values.items()}
        if not numbers:
            return
        self._table.put(int(step), numbers)
        rows = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
        self._events.add_event(
            Event(wall_time=time.time(), step=int(step), summary=Summary(value=rows))
        )

    def flush(self) -> None:
        """Brings everything recorded so far to disk (the table always is)."""
        self._events.flush()

    def close(self) -> None:
        """Flushes and closes the event file. Safe to call twice."""
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
        """Closes, also on an exception, so that what was recorded is kept."""
        self.close()
