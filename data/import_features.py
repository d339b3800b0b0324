"""Builds a store from features of one's own videos, to predict them with a trained run.

    emojax import-features --features=ir50=faces,clock=frame \
        --features=vggish=audio,clock=hop:10ms --fps=25 --out=stores/mine
    emojax predict --checkpoint=RUN --store=stores/mine --out=predictions

The videos are those that the features are named after. They get no labels and are all in the
partition "test". ``data.features.feature_sources`` lists the forms and clocks that --features
takes. ``import.json`` in the store says what was found for each video and how it was timed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from rich.table import Table

from emojax.commands import cli
from emojax.datasets.record import StreamRows, VideoRecord
from emojax.datasets.store import StoreWriter
from emojax.errors import InputError

from .builder import define_store_flags, report_store
from .features.clock_checks import grouped_warnings
from .features.feature_sources import FeatureRows, FeatureSource, VideoFrames, parse_features
from .features.numpy_files import read_npy
from .features.rows import count_of

REPORT_FILE = "import.json"
_PARTITION = "test"


@dataclasses.dataclass(frozen=True)
class ImportedStream:
    """A row of the report: one stream of one video.

    Attributes:
        video: the name of the video.
        frames: N.
        stream: the name of the stream.
        file: read, or "" if there is none.
        found: rows in the file.
        expected: rows that the clock calls for, None for clocks of their own.
        rows: the number of rows in the store.
        valid: the number of valid rows.
        how: rows came to their instants, and what went wrong.
        warnings: phrases of ``how`` that the user must see.
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


def build(
    out: str | Path,
    sources: Sequence[FeatureSource],
    *,
    fps: float | None = None,
    pts: str | Path | None = None,
    name: str = "features",
    dtype: str = "float16",
    allow_missing: bool = False,
    overwrite: bool = False,
    features: Sequence[str] = (),
) -> list[ImportedStream]:
    """Writes the store and ``import.json`` in it.

    Args:
        out: folder to create.
        sources: the streams.
        fps: frames per second of the videos, if ``pts`` is not given. A video then begins at 0
            and has as many frames as its longest stream tells.
        pts: folder with VIDEO.npy or VIDEO.txt, the seconds of each frame.
        name: the name of the data set.
        dtype: the dtype of the rows, "float16" or "float32".
        allow_missing: accept videos that lack a stream, whose rows are then not valid.
        overwrite: replace a store that is there already.
        features: the flags, to be written down.

    Returns:
        A row for each video and stream.

    Raises:
        InputError: features are malformed or lacking, the frames of a video are unknown, or
            the target exists.
    """
    _check_clocks(sources, fps, pts)
    videos = _videos(sources)
    writer = StoreWriter(
        out,
        name=name,
        streams=[source.spec for source in sources],
        tasks=[],
        dtype=dtype,
        description="Features of one's own videos, without labels.",
        builder={"command": "data.import_features", "features": list(features), "fps": fps},
        overwrite=overwrite,
    )
    report: list[ImportedStream] = []
    with writer:
        for video in videos:
            pts_N = _read_pts(Path(pts), video) if pts else _even_pts(sources, video, fps or 0.0)
            record, rows = _import(sources, video, pts_N, allow_missing=allow_missing)
            writer.add(record)
            report += rows
        writer.finish([])
    content: dict[str, dict[str, Any]] = {}
    for row in report:
        of_video = content.setdefault(row.video, {"frames": row.frames, "streams": {}})
        told = dataclasses.asdict(row)
        of_video["streams"][row.stream] = {
            key: value
            for key, value in told.items()
            if key not in ("video", "frames", "stream", "warnings")
        }
    text = json.dumps({"videos": content}, indent=1, ensure_ascii=False)
    (Path(out) / REPORT_FILE).write_text(text + "\n", encoding="utf-8")
    return report


def _import(
    sources: Sequence[FeatureSource], name: str, pts_N: np.ndarray, *, allow_missing: bool
) -> tuple[VideoRecord, list[ImportedStream]]:
    """Returns one video with all its streams, and its rows of the report."""
    video = VideoFrames(name, _whole(name), pts_N, np.zeros(len(pts_N), bool))
    streams: dict[str, StreamRows] = {}
    report = []
    for source in sources:
        spec = source.spec
        found = source.rows(video)
        if found is None:
            if not allow_missing:
                raise InputError(
                    "A video lacks a stream of features.",
                    field=f"stream {spec.name} of {name}",
                    found=f"no file for {name}",
                    expected="features of every stream for each video",
                    remedy="extract them, remove the video's other features, or allow it: "
                    "--allow_missing",
                )
            rows_ND = np.zeros((len(pts_N), spec.width), np.float32)
            stream = StreamRows(rows_ND, pts_N, np.zeros(len(pts_N), bool))
            found = FeatureRows(stream, Path(), 0, None, "no features")
        streams[spec.name] = found.stream
        report.append(
            ImportedStream(
                video=name,
                frames=len(pts_N),
                stream=spec.name,
                file=str(found.file) if found.found else "",
                found=found.found,
                expected=found.expected,
                rows=len(found.stream.pts_N),
                valid=int(found.stream.valid_N.sum()),
                how=found.how,
                warnings=found.warnings,
            )
        )
    record = VideoRecord(
        name=name,
        source_video=video.source_video,
        partition=_PARTITION,
        pts_N=pts_N,
        streams=streams,
        labels={},
        attributes={
            f"features/{row.stream}": f"{count_of(row.found, 'row')}: {row.how}" for row in report
        },
    )
    return record, report


def _check_clocks(
    sources: Sequence[FeatureSource], fps: float | None, pts: str | Path | None
) -> None:
    if not sources:
        raise InputError(
            "There is nothing to import.",
            field="--features",
            found="no stream",
            expected="at least one --features=NAME=PATH",
        )
    if (fps is None) == (pts is None) or (fps is not None and not 0.01 <= fps <= 1000):
        raise InputError(
            "The frames of the videos are open.",
            field="--fps, --pts",
            found=f"--fps={fps}" + f" and --pts={pts}" * (pts is not None),
            expected="either --fps, or --pts with the times of each frame",
            remedy="for instance --fps=25",
        )
    for source in sources:
        if source.clock.kind == "annotated":
            raise InputError(
                "Videos without annotations have no annotated frames.",
                field=f"stream {source.spec.name}",
                found="clock=annotated",
                expected="another clock",
                remedy="clock=frame, if there is a row for each frame",
            )


def _videos(sources: Sequence[FeatureSource]) -> list[str]:
    """Returns the names of the videos, sorted.

    A recording whose sound both "x_left" and "x_right" use is no video "x" of its own, unless
    it has every stream.
    """
    names = {video for source in sources for video in source.videos()}
    shared = {_whole(video) for video in names if _whole(video) != video}
    complete = set(names).intersection(*(source.videos() for source in sources))
    return sorted(names - (shared - complete))


def _whole(video: str) -> str:
    """Returns the recording that a video of one of its people was cut from."""
    return video.removesuffix("_left").removesuffix("_right") or video


def _even_pts(sources: Sequence[FeatureSource], video: str, fps: float) -> np.ndarray:
    """Returns frames at a steady rate, as many as the longest stream covers."""
    spans = [
        source.span(_known_as(source, video)) for source in sources if _known_as(source, video)
    ]
    frames = [count for count, _ in spans if count is not None]
    ends = [end for _, end in spans if end is not None]
    if not frames and not ends:
        raise InputError(
            "The number of a video's frames is unknown.",
            field=video,
            found="only rows that are stretched to the frames",
            expected="a stream with a clock, or --pts",
            remedy="give the times of the frames: --pts=FOLDER",
        )
    count = max(frames) if frames else int(max(ends) * fps + 1e-6) + 1
    return np.arange(max(count, 1)) / fps


def _known_as(source: FeatureSource, video: str) -> str:
    """Returns the name of a video's features in a source, "" if there are none."""
    names = source.videos()
    return next((name for name in (video, _whole(video)) if name in names), "")


def _read_pts(folder: Path, video: str) -> np.ndarray:
    """Reads the seconds of each frame, from VIDEO.npy or from the lines of VIDEO.txt."""
    array, file = folder / f"{video}.npy", folder / f"{video}.txt"
    if array.is_file():
        file, pts_N = array, read_npy(array)
    else:
        try:
            lines = file.read_text(encoding="utf-8").split()
            pts_N = np.array([float(line) for line in lines], np.float64)
        except (OSError, ValueError) as error:
            found = error.strerror if isinstance(error, OSError) else "lines that are no numbers"
            raise _wrong_pts(file, found) from error
    if pts_N.dtype.kind != "f" or pts_N.ndim != 1 or not len(pts_N):
        raise _wrong_pts(file, f"{pts_N.dtype} {pts_N.shape}")
    pts_N = pts_N.astype(np.float64)
    if not np.isfinite(pts_N).all() or (np.diff(pts_N) <= 0).any():
        raise _wrong_pts(file, "times that do not increase")
    return pts_N


def _wrong_pts(file: Path, found: object) -> InputError:
    return InputError(
        "The times of a video's frames cannot be read.",
        file=file,
        field="--pts",
        found=found,
        expected="VIDEO.npy (floating point) or VIDEO.txt (a number a line), increasing seconds",
    )


def _show(report: Sequence[ImportedStream], say: Callable[[Table], None]) -> None:
    table = Table(title="Imported features", title_justify="left")
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
    say(table)


def warnings_of(report: Sequence[ImportedStream]) -> list[str]:
    """Returns a line for each kind of trouble of each stream."""
    return grouped_warnings((row.video, row.stream, row.warnings) for row in report)


def define_flags(define: cli.Flags) -> None:
    """Defines the command's flags."""
    about = "NAME=PATH[,form=...][,clock=...]..., one per stream; see docs/aff_wild2.md."
    define.multi_string("features", [], about)
    define_store_flags(define)
    define.float("fps", None, "Frames per second of the videos.")
    define.string("pts", None, "Folder with VIDEO.npy or VIDEO.txt, seconds of each frame.")
    define.string("name", "features", "Name of the data set.")
    define.bool("allow_missing", False, "Videos may lack streams.")
    define.bool("allow_pickle", False, "Pickles may be read; nothing in them is run.")


def main(given: flags.FlagValues) -> None:
    """Builds the store that the flags describe."""
    report = build(
        given.out,
        parse_features(given.features, allow_pickle=given.allow_pickle),
        fps=given.fps,
        pts=given.pts,
        name=given.name,
        dtype=given.dtype,
        allow_missing=given.allow_missing,
        overwrite=given.overwrite,
        features=given.features,
    )
    _show(report, cli.console().print)
    for line in warnings_of(report):
        cli.say(line)
    report_store(given.out)


COMMAND = cli.Command(main, define_flags, summary="data.import_features")

if __name__ == "__main__":
    COMMAND.run()
