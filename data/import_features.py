"""Builds a store from features of one's own videos, and from labels if there are some.

    emojax import-features --features=ir50=faces,clock=frame \
        --features=vggish=audio,clock=hop:10ms --fps=25 --out=stores/mine
    emojax predict --checkpoint=RUN --store=stores/mine --out=predictions

    emojax import-features --features=openface=csv,modality=visual --fps=25 \
        --labels=va=ratings --videos=videos.csv --out=stores/mine
    emojax train --config=lfan --config.data.store=stores/mine --workdir=RUN

The videos are those that the features are named after. ``data.features.feature_sources`` lists
the forms and clocks that --features takes, ``data.labels.label_options`` those of --labels. A video
with labels trains, in folds by person or recording, unless ``--videos``, a table with the columns
``video`` and ``partition``, ``fold`` or ``person``, says otherwise; one without is in the partition
"test". ``import.json`` and ``alignment.csv`` in the store say what was found for each video.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from emojax.commands import cli
from emojax.datasets.store import StoreWriter
from emojax.errors import InputError

from .annotations.mismatches import parse_limit
from .builder import Precision, define_lag_flag, define_store_flags, report_store, say_lags
from .features.feature_sources import FeatureSource, VideoFrames, parse_features
from .features.numpy_files import read_npy
from .import_report import ImportedStream, check_lengths, report_table, save_report, warnings_of
from .import_video import count_classes, import_video
from .labels.label_source import LabelSource, open_labels
from .labels.video_table import VideoRow, folds_of, read_videos


def build(
    out: str | Path,
    sources: Sequence[FeatureSource],
    *,
    fps: float | None = None,
    pts: str | Path | None = None,
    labels: Sequence[LabelSource] = (),
    videos: str | Path | None = None,
    folds: str = "",
    seed: int = 0,
    name: str = "features",
    dtype: str = "float16",
    allow_missing: bool = False,
    max_mismatch: str = "10%",
    overwrite: bool = False,
    features: Sequence[str] = (),
    say: Callable[[Any], None] = lambda line: None,
) -> list[ImportedStream]:
    """Writes the store, with ``import.json`` and ``alignment.csv`` in it.

    Args:
        out: folder to create.
        sources: the streams.
        fps: frames per second of the videos, if ``pts`` is not given. A video then begins at 0
            and has as many frames as its longest stream tells.
        pts: folder with VIDEO.npy or VIDEO.txt, the seconds of each frame.
        labels: the labels of each task.
        videos: table of videos, see ``data.labels.video_table``.
        folds: scheme of the folds, "" for that of the table, or else blocks.
        seed: the seed of the folds.
        name: the name of the data set.
        dtype: the dtype of the rows, "float16" or "float32".
        allow_missing: accept videos that lack a stream, whose rows are then not valid.
        max_mismatch: "10" frames or "1%" by which lengths may differ.
        overwrite: replace a store that is there already.
        features: the flags, to be written down.
        say: called with tables and lines for the user.

    Returns:
        A row for each video and stream or task.

    Raises:
        InputError: features or labels are malformed or lacking, the frames of a video are
            unknown, lengths differ by more than the limit, or the target exists.
    """
    _check_clocks(sources, fps, pts, labelled=bool(labels))
    limit = parse_limit(max_mismatch)
    names = _videos(sources)
    table = read_videos(Path(videos)) if videos else {}
    # Tables and labels of videos without features are told, since names are often misspelt.
    lines = [
        *_unknown("labels", {video for source in labels for video in source.videos()}, names),
        *_unknown("rows of --videos", {*table}, names),
    ]

    def times_of(video: str) -> np.ndarray:
        return _read_pts(Path(pts), video) if pts else _even_pts(sources, video, fps or 0.0)

    if any(source.needs_lengths for source in labels):
        seconds = {video: float(np.ptp(times_of(video))) for video in names}
        for source in labels:
            source.settle_unit(seconds)
    precision = Precision(sources, dtype)
    writer = StoreWriter(
        out,
        name=name,
        streams=[source.spec for source in sources],
        tasks=[source.task.name for source in labels],
        dtype=dtype,
        wide=precision.wide,
        description="Features of one's own videos"
        + (f", labelled for {', '.join(of.task.name for of in labels)}." if labels else
           ", without labels."),
        builder={
            "command": "data.import_features",
            "features": list(features),
            "fps": fps,
            "labels": [source.task.name for source in labels],
            "folds": folds,
            "seed": seed,
        },
        overwrite=overwrite,
    )  # fmt: skip
    report: list[ImportedStream] = []
    described: list[tuple[str, str, str]] = []
    classes: dict[str, np.ndarray] = {}
    with writer:
        for video in names:
            frames = VideoFrames(video, _whole(video), times_of(video), np.zeros(0, bool))
            record, rows = import_video(
                sources, labels, frames, table.get(video, VideoRow()), allow_missing=allow_missing
            )
            report += rows
            check_lengths(rows, limit)
            writer.add(record)
            precision.add(record.streams)
            described.append((video, record.source_video, record.partition))
            found = count_classes(record, labels)
            if found is not None:
                classes[video] = found
        made = []
        if any(part == "train" for _, _, part in described):
            made = folds_of(described, table, folds, seed=seed, classes=classes or None)
        if labels and not made:
            lines.append(
                "warning: the store has no folds and cannot train: fewer than two people or "
                "recordings have labels"
            )
        writer.finish(made)
    save_report(report, Path(out))
    say(report_table(report))
    for line in (*lines, *warnings_of(report), *precision.lines()):
        say(line)
    for fold in made:
        counts = f"{len(fold.train)} train, {len(fold.validation)} validation"
        say(f"fold {fold.name}: {counts}, {len(fold.test)} test")
    return report


def _unknown(what: str, found: set[str], videos: Sequence[str]) -> list[str]:
    """Returns a warning about names that no video with features has."""
    known = {*videos, *(_whole(video) for video in videos)}
    lost = sorted(found - known)
    if not lost:
        return []
    return [f"warning: {len(lost)} {what} are of no video with features, such as {lost[0]}"]


def _check_clocks(
    sources: Sequence[FeatureSource], fps: float | None, pts: str | Path | None, *, labelled: bool
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
        if source.clock.kind == "annotated" and not labelled:
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


def define_flags(define: cli.Flags) -> None:
    """Defines the command's flags."""
    about = "NAME=PATH[,form=...][,clock=...]..., one per stream; see docs/your_data.md"
    define.multi_string("features", [], about)
    define_store_flags(define)
    define_lag_flag(define)
    define.float("fps", None, "Frames per second of the videos.")
    define.string("pts", None, "Folder with VIDEO.npy or VIDEO.txt, seconds of each frame.")
    define.multi_string(
        "labels", [], "TASK=PATH[,option=value...], once per task; see docs/your_data.md"
    )
    define.string("videos", None, "Table: video, and partition, fold or person.")
    define.string("folds", "", "blocks:K, or official; else as --videos says, or five blocks.")
    define.integer("seed", 0, "Seed of the folds.")
    define.string("max_mismatch", "10%", "Frames, or N%, by which lengths may differ.")
    define.string("name", "features", "Name of the data set.")
    define.bool("allow_missing", False, "Videos may lack streams.")
    define.bool("allow_pickle", False, "Pickles may be read; nothing in them is run.")


def main(given: flags.FlagValues) -> None:
    """Builds the store that the flags describe."""
    console = cli.console()
    build(
        given.out,
        parse_features(given.features, allow_pickle=given.allow_pickle),
        fps=given.fps,
        pts=given.pts,
        labels=open_labels(given.labels),
        videos=given.videos,
        folds=given.folds,
        seed=given.seed,
        name=given.name,
        dtype=given.dtype,
        allow_missing=given.allow_missing,
        max_mismatch=given.max_mismatch,
        overwrite=given.overwrite,
        features=given.features,
        say=lambda line: console.print(
            line, markup=False, highlight=False, soft_wrap=isinstance(line, str)
        ),
    )
    if given.check_lag:
        say_lags(given.out, cli.say)
    report_store(given.out)


COMMAND = cli.Command(main, define_flags, summary="data.import_features")

if __name__ == "__main__":
    COMMAND.run()
