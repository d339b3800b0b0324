"""Reports an import: a row for each stream and task of each video."""

from __future__ import annotations

import collections
import csv
import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from emojax.errors import InputError

from .annotations.mismatches import Limit
from .features.clock_checks import grouped_warnings

REPORT_FILE, TABLE_FILE = "import.json", "alignment.csv"
_SHOWN = 30


@dataclasses.dataclass(frozen=True)
class ImportedStream:
    """One stream, or the labels of one task, of one video.

    Attributes:
        video: the name of the video.
        frames: N.
        stream: the name of the stream or task.
        file: read, or "" if there is none.
        found: rows in the file.
        expected: rows that the clock calls for, None for clocks of their own.
        rows: the number of rows in the store.
        valid: the number of valid rows, or of annotated frames.
        how: rows came to their instants, and what went wrong.
        warnings: phrases of ``how`` that the user must see.
        off: frames by which the length is wrong.
        labels: these are labels.
    """

    video: str
    frames: int
    stream: str
    file: str
    found: int
    expected: int | None
    rows: int
    valid: int
    how: str
    warnings: tuple[str, ...] = ()
    off: int = 0
    labels: bool = False


def save_report(report: Sequence[ImportedStream], folder: Path) -> None:
    """Writes ``import.json``, by video, and ``alignment.csv``, a line for each row."""
    content: dict[str, dict[str, Any]] = {}
    for row in report:
        of_video = content.setdefault(row.video, {"frames": row.frames, "streams": {}})
        kept = {
            key: value
            for key, value in dataclasses.asdict(row).items()
            if key not in ("video", "frames", "stream", "warnings", "labels")
        }
        of_video.setdefault("labels" if row.labels else "streams", {})[row.stream] = kept
    text = json.dumps({"videos": content}, indent=1, ensure_ascii=False)
    (folder / REPORT_FILE).write_text(text + "\n", encoding="utf-8")
    with (folder / TABLE_FILE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        names = ("video", "frames", "what", "found", "expected", "valid", "off", "how")
        writer.writerow(names)
        for row in report:
            expected = "" if row.expected is None else row.expected
            told = "; ".join(phrase for phrase in row.warnings if phrase not in row.how)
            how = f"{row.how}; {told}" if told else row.how
            writer.writerow(
                [row.video, row.frames, row.stream, row.found, expected, row.valid, row.off, how]
            )


def report_table(report: Sequence[ImportedStream]) -> Table:
    """Returns a table of what was found: by video if there are few, else by stream and task."""
    if len(report) > _SHOWN:
        return _summary(report)
    table = Table(title="Imported", title_justify="left")
    for column in ("video", "frames", "stream", "found", "expected", "valid", "how"):
        number = column in ("frames", "found", "expected", "valid")
        table.add_column(column, justify="right" if number else "left")
    above = None
    for row in report:
        new = row.video != above
        above = row.video
        expected = "" if row.expected is None else str(row.expected)
        table.add_row(
            row.video if new else "",
            str(row.frames) if new else "",
            row.stream,
            str(row.found),
            expected,
            f"{row.valid} of {row.rows}",
            row.how,
        )
    return table


def _summary(report: Sequence[ImportedStream]) -> Table:
    """Returns a row for each stream and task; ``alignment.csv`` has every video."""
    videos = len({row.video for row in report})
    title = f"Imported {videos} videos; each is in {TABLE_FILE}"
    table = Table(title=title, title_justify="left")
    for column in ("stream or task", "videos with it", "rows", "valid", "how, of most videos"):
        table.add_column(column, justify="left" if column[0] in "sh" else "right")
    by_stream: dict[str, list[ImportedStream]] = {}
    for row in report:
        by_stream.setdefault(row.stream, []).append(row)
    for stream, rows in by_stream.items():
        there = [row for row in rows if row.found]
        total = sum(row.rows for row in rows)
        firsts = collections.Counter(row.how.split(",")[0] for row in there or rows)
        # "24 labels by time" counts those of one video.
        usual = re.sub(r"^\d+ ", "", firsts.most_common(1)[0][0])
        table.add_row(
            stream,
            f"{len(there)} of {videos}",
            str(sum(row.found for row in rows)),
            f"{sum(row.valid for row in rows) / max(total, 1):.1%}",
            usual,
        )
    return table


def warnings_of(report: Sequence[ImportedStream]) -> list[str]:
    """Returns a line for each kind of trouble of each stream."""
    return grouped_warnings((row.video, row.stream, row.warnings) for row in report)


def check_lengths(report: Sequence[ImportedStream], limit: Limit) -> None:
    """Refuses lengths that are off by more than the limit.

    Raises:
        InputError: naming the worst of them.
    """
    beyond = [row for row in report if row.off > limit.frames(row.frames)]
    if not beyond:
        return
    worst = max(beyond, key=lambda row: row.off)
    raise InputError(
        "Labels, frames and features do not belong together.",
        file=worst.file or None,
        field=f"{worst.stream} of {worst.video}",
        found=f"off by {worst.off} frames ({worst.how}); {len(beyond)} such lengths",
        expected=f"at most {limit} off (--max_mismatch)",
        remedy="check the clock and the tool that wrote them, or raise --max_mismatch",
    )
