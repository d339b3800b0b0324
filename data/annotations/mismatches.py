"""Compares the lengths of a video's annotations, clock and features, and reports mismatches.

Everything is aligned by index: frame i is frame i in all of them. A video has as many frames as
its longest annotation; without annotations, as its timestamps or ``--frame_counts`` say, and
without those as many as its features have rows. Missing frames at the end are masked, surplus rows
are left out, and both are reported.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from emojax.errors import InputError
from emojax.specs import TASKS

from ..features.clock_checks import grouped_warnings
from ..features.feature_sources import FeatureRows, FeatureSource, VideoFrames
from .frame_clocks import FrameClocks
from .partitions import LabelledVideo

_SHOWN = 20  # lines of the table on screen
_LIMIT = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(%?)")


@dataclasses.dataclass(frozen=True)
class AlignedVideo:
    """A video with its clock and labels.

    Attributes:
        name, source_video, partition: as in the store.
        frames: the number of frames for the features.
        labels: task -> (N, columns) float32.
        items: the counts that were compared with N so far.
    """

    name: str
    source_video: str
    partition: str
    frames: VideoFrames
    labels: dict[str, np.ndarray]
    items: tuple[Item, ...]


@dataclasses.dataclass(frozen=True)
class Item:
    """One line of the report: a count and its expected value.

    Attributes:
        what: "va", "clock" or the name of a stream.
        found: rows or frames there are.
        expected: how many there should be; None where nothing says so.
        off: rows by which a length is wrong. Frames without a crop are not: they are
            missing where they are missing, and shift nothing.
        how: the way in which it was resolved.
    """

    what: str
    found: int
    expected: int | None
    off: int
    how: str


@dataclasses.dataclass(frozen=True)
class Limit:
    """The number of frames by which a length may be off.

    Attributes:
        amount: frames, or percent of a video's frames.
        percent: True for a percentage.
    """

    amount: float
    percent: bool

    def __str__(self) -> str:
        return f"{self.amount:g}{'%' if self.percent else ' frames'}"

    def frames(self, num_frames: int) -> int:
        """Returns the limit of a video in frames."""
        return math.ceil(self.amount * num_frames / 100) if self.percent else int(self.amount)


def parse_limit(text: str) -> Limit:
    """Reads the limit of ``--max_mismatch``: "10" frames or "1%".

    Raises:
        InputError: it is neither.
    """
    match = _LIMIT.fullmatch(text.strip())
    if match is None or ("." in match[1] and not match[2]):
        raise InputError(
            "This is no limit of mismatches.",
            field="--max_mismatch",
            found=text,
            expected="a number of frames such as 10, or a share such as 1%",
        )
    return Limit(float(match[1]), bool(match[2]))


def align(
    video: LabelledVideo, clocks: FrameClocks, count_features: Callable[[], int | None]
) -> AlignedVideo:
    """Gives a video its frames, and every task as many labels.

    Args:
        video: with labels as its files have them.
        clocks: the frames' times.
        count_features: returns the frames that its features are about, if known; called only if
            no annotation or clock tells.

    Raises:
        InputError: the number of frames is unknown, or a clock is wrong.
    """
    stamps, counted = clocks.known(video.name, video.source_video)
    frames = max(video.frames.values(), default=counted) or count_features()
    if not frames:
        raise InputError(
            "The number of a video's frames is unknown.",
            field=video.name,
            found="no annotations, no timestamps, no frame count and no rows of features",
            expected="one of them",
            remedy="give --timestamps=FOLDER or --frame_counts=FILE",
        )
    labels = {}
    items = []
    for task, count in video.frames.items():
        how = "one line per frame" if task in video.labels else "left out: other partition"
        if task in video.labels and not TASKS[task].annotated(video.labels[task]).any():
            how += ", no frame is annotated"
        if count < frames:
            how += f", last {frames - count} frames not annotated"
        items.append(Item(task, count, frames, frames - count, how))
    for task, labels_NK in video.labels.items():
        padded_NK = np.full((frames, labels_NK.shape[1]), TASKS[task].ignore, np.float32)
        padded_NK[: len(labels_NK)] = labels_NK
        labels[task] = padded_NK
    if counted is not None:
        how = "timestamps" if stamps is not None else "frame count"
        if counted > frames:
            how += f", last {counted - frames} frames left out: not annotated"
        elif counted < frames:
            how += f", last {frames - counted} frames at the usual step"
        items.append(Item("clock", counted, frames, abs(counted - frames), how))
    annotated_N = np.zeros(frames, bool)
    for task, labels_NK in labels.items():
        annotated_N |= TASKS[task].annotated(labels_NK).any(axis=1)
    if not labels:  # without annotations, all frames count as annotated
        annotated_N[:] = True
    pts_N = clocks.pts(video.name, video.source_video, frames, stamps)
    return AlignedVideo(
        video.name,
        video.source_video,
        video.partition,
        VideoFrames(video.name, video.source_video, pts_N, annotated_N),
        labels,
        tuple(items),
    )


@dataclasses.dataclass(frozen=True)
class StreamRead:
    """One stream of one video.

    Attributes:
        item: its line of the report.
        rows: what was found; None if there is nothing for this video.
    """

    item: Item
    rows: FeatureRows | None


def read_stream(source: FeatureSource, video: VideoFrames) -> StreamRead:
    """Reads one stream of one video and compares its length with the clock's.

    Raises:
        InputError: its file is malformed.
    """
    rows = source.rows(video)
    what = source.spec.name
    if rows is None:
        return StreamRead(Item(what, 0, None, 0, "no features: all rows invalid"), None)
    name = feature_name(source, video.name, video.source_video)
    span = None if name is None else source.span(name)[0]
    off = rows.off
    if rows.expected is not None:
        surplus = (rows.found if span is None else span) - rows.expected
        # Rows with numbers may end early, where there is no face; rows in order may not.
        off = max(surplus, 0) if rows.numbered else abs(surplus)
    return StreamRead(Item(what, rows.found, rows.expected, off, rows.how), rows)


def feature_name(source: FeatureSource, name: str, source_video: str) -> str | None:
    """Returns the name under which a source has features of a video, or None."""
    known = source.videos()
    return next((found for found in (name, source_video) if found in known), None)


class Report:
    """Collects the comparisons, video by video, and reports them.

    Args:
        limit: frames by which lengths may differ.
        notes: lines for the report.
        problems: errors about single videos, which are left out. More may be added.
    """

    def __init__(
        self, limit: Limit, notes: Sequence[str] = (), problems: Sequence[InputError] = ()
    ) -> None:
        self.problems = list(problems)
        self.limit = limit
        self.notes = list(notes)
        self.beyond: list[tuple[str, Item]] = []
        self.missing: list[tuple[str, str]] = []
        self._videos: list[tuple[AlignedVideo, tuple[Item, ...]]] = []
        self._told: list[tuple[str, str, tuple[str, ...]]] = []

    def add(self, video: AlignedVideo, streams: Sequence[StreamRead]) -> None:
        """Notes one video and its streams."""
        items = (*video.items, *(stream.item for stream in streams))
        self._videos.append((video, items))
        for of in streams:
            if of.rows is not None and of.rows.warnings:
                self._told.append((video.name, of.item.what, of.rows.warnings))
        for task, labels_NK in video.labels.items():
            if not TASKS[task].annotated(labels_NK).any():
                self._told.append((video.name, task, ("no frame is annotated",)))
        limit = self.limit.frames(len(video.frames.pts_N))
        self.beyond += [(video.name, item) for item in items if item.off > limit]
        self.missing += [(video.name, of.item.what) for of in streams if of.rows is None]

    @property
    def troubles(self) -> int:
        """Returns the number of videos and streams that stop the build."""
        return len(self.problems) + len(self.beyond) + len(self.missing)

    def failed(self, max_missing: int) -> bool:
        """Returns True if ``check`` will raise."""
        return bool(self.problems or self.beyond) or len(self.missing) > max_missing

    def warnings(self) -> list[str]:
        """Returns a line for each kind of trouble with streams and labels, and for each problem."""
        lines = grouped_warnings(self._told)
        if self.troubles > 1:
            for error in self.problems:
                file = Path(error.details.get("file", "")).name
                where = ", ".join(filter(None, (file, error.details.get("field"))))
                lines.append(
                    f"problem: {where}: {error.summary} Found {error.details.get('found', 'it')}"
                )
            for name, item in sorted(self.beyond, key=lambda pair: -pair[1].off)[:_SHOWN]:
                lines.append(f"problem: {name}, {item.what}: off by {item.off} frames: {item.how}")
            for name, stream in self.missing[:_SHOWN]:
                lines.append(f"problem: {name}, {stream}: no features")
        return lines

    def content(self) -> dict[str, Any]:
        """Returns the whole report as JSON values."""
        return {
            "max_mismatch": str(self.limit),
            "totals": self.totals(),
            "notes": self.notes,
            "videos": [
                {
                    "name": video.name,
                    "source_video": video.source_video,
                    "partition": video.partition,
                    "frames": len(video.frames.pts_N),
                    "items": [dataclasses.asdict(item) for item in items],
                }
                for video, items in self._videos
            ],
        }

    def totals(self) -> dict[str, int]:
        """Counts videos, frames and mismatches."""
        every = [item for _, items in self._videos for item in items]
        return {
            "videos": len(self._videos),
            "frames": sum(len(video.frames.pts_N) for video, _ in self._videos),
            "lengths_compared": sum(item.expected is not None for item in every),
            "lengths_off": sum(item.off > 0 for item in every),
            "frames_off": sum(item.off for item in every),
            "beyond_limit": len(self.beyond),
            "warnings": len(self._told),
            "streams_without_features": len(self.missing),
        }

    def table(self) -> Table:
        """Returns a table of the mismatches, the worst first."""
        lines = [
            (video, item)
            for video, items in self._videos
            for item in items
            if item.off or (video.name, item.what) in self.missing
        ]
        lines.sort(key=lambda line: -line[1].off)
        totals = self.totals()
        title = f"{totals['lengths_off']} of {totals['lengths_compared']} lengths differ"
        if self.missing:
            title += f", {len(self.missing)} streams without features"
        if len(lines) > _SHOWN:
            title += f"; the worst {_SHOWN}"
        table = Table("video", "partition", "what", "found", "expected", "how", title=title)
        for video, item in lines[:_SHOWN]:
            expected = "" if item.expected is None else str(item.expected)
            table.add_row(
                video.name, video.partition, item.what, str(item.found), expected, item.how
            )
        return table

    def save(self, stem: Path, **more: Any) -> None:
        """Writes ``<stem>.csv``, a line per count, and ``<stem>.json`` with ``more`` in it."""
        path = stem.with_name(stem.name + ".json")
        path.write_text(json.dumps(self.content() | more, indent=1) + "\n", encoding="utf-8")
        with stem.with_name(stem.name + ".csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(
                ["video", "partition", "frames", "what", "found", "expected", "off"] + ["how"]
            )
            writer.writerows(self._rows())

    def _rows(self) -> Iterator[list[Any]]:
        for video, items in self._videos:
            for item in items:
                expected = "" if item.expected is None else item.expected
                yield [
                    video.name,
                    video.partition,
                    len(video.frames.pts_N),
                    item.what,
                    item.found,
                    expected,
                    item.off,
                    item.how,
                ]

    def check(self, max_missing: int) -> None:
        """Raises InputError about a video, a length beyond the limit, or missing features."""
        if self.problems:
            raise self.problems[0]
        if self.beyond:
            name, item = max(self.beyond, key=lambda pair: pair[1].off)
            raise InputError(
                "Annotations, frames and features do not belong together.",
                field=f"{item.what} of {name}",
                found=f"{item.found} instead of {item.expected} ({item.how}); "
                f"{len(self.beyond)} such lengths",
                expected=f"at most {self.limit} off (--max_mismatch)",
                remedy="check the clock and the tool that wrote them, or raise --max_mismatch",
            )
        if len(self.missing) > max_missing:
            name, stream = self.missing[0]
            raise InputError(
                "Videos have no features.",
                field=f"stream {stream} of {name}",
                found=f"{len(self.missing)} times no features of a stream",
                expected=f"at most {max_missing} times (--max_missing)",
                remedy="check the path of --features, or raise --max_missing: their rows are "
                "then not valid",
            )
