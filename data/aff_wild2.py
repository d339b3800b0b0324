r"""Builds a store from Aff-Wild2: annotation folders, features of any tool, official partitions.

    emojax aff-wild2 --annotations=annotations --features=ir50=features/ir50 \
        --features=vggish=features/vggish,clock=hop:10ms --out=stores/va

``--annotations`` is the folder with the organisers' challenges, in the forms of the 3rd to 7th
edition (``data.annotations.challenge_files``). Each ``--features`` names a stream, a folder and
the clock of its rows (``data.features.feature_sources``). Frames have the times of
``--timestamps``, a folder with a file of seconds per video, or else of ``--fps``.

A store is about one task by default, with that task's official partition. With several
``--tasks`` a video goes to its most held-out partition, see ``data.annotations.partitions``. Videos
of ``--test_list`` become the test partition; their frames are counted by ``--timestamps``,
``--frame_counts`` or the features.

How annotations, frames and features fit together is printed and saved as ``alignment.csv`` and
``alignment.json`` in the store; where a length is off by more than ``--max_mismatch``, the
build stops, and both files lie beside the store that was not made.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from rich.progress import Progress

from emojax import screen
from emojax.commands import cli
from emojax.datasets.folds import class_counts, class_shares, make_folds, parse_scheme
from emojax.datasets.origin import SIMULATED_FILE
from emojax.datasets.record import StreamRows, VideoRecord
from emojax.datasets.store import StoreWriter
from emojax.errors import InputError
from emojax.specs import TASKS, StreamSpec

from .annotations.challenge_files import SETS, Annotation, find_annotations, read_annotations
from .annotations.frame_clocks import FrameClocks, read_table
from .annotations.mismatches import (
    AlignedVideo,
    Report,
    StreamRead,
    align,
    feature_name,
    parse_limit,
    read_stream,
)
from .annotations.partitions import LabelledVideo, merge_tasks, read_test_list
from .builder import (
    Precision,
    define_lag_flag,
    define_store_flags,
    fold_table,
    is_tenth,
    report_store,
    say_lags,
)
from .features.feature_sources import FeatureSource, parse_features

REPORT = "alignment"
_MOST_OFFENDERS = 20  # after this many the remaining videos are not read


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of a build.

    Attributes:
        annotations: root of the annotation folders.
        features: one flag per stream, see ``data.features.feature_sources.parse_features``.
        tasks: "va", "expr", "au".
        folds: scheme, see ``emojax.datasets.folds.make_folds``.
        seed: the seed of the folds.
        fps: frames per second, or a CSV file with the columns ``video,fps``.
        timestamps: folder with the seconds of every frame, or None for ``fps``.
        frame_counts: CSV file with the columns ``video,frames``, or None.
        test_lists: files with names of test videos.
        max_mismatch: "10" frames or "1%" by which lengths may differ.
        max_missing: how often a video may be without features of a stream.
        pickles: read pickled features, through a restricted reader.
        columns_by_name: accept annotations whose columns are in another order.
        dtype: the dtype of stored features.
    """

    annotations: Path
    features: tuple[str, ...]
    tasks: tuple[str, ...] = ("va",)
    folds: str = "blocks:6"
    seed: int = 0
    fps: str = "30"
    timestamps: Path | None = None
    frame_counts: Path | None = None
    test_lists: tuple[Path, ...] = ()
    max_mismatch: str = "10"
    max_missing: int = 0
    pickles: bool = False
    columns_by_name: bool = False
    dtype: str = "float16"


def build(
    out: str | Path,
    options: Options,
    *,
    overwrite: bool = False,
    say: Callable[[Any], None] = print,
) -> Report:
    """Writes the store and its report.

    Args:
        out: folder to create.
        options: the options of that function.
        overwrite: replace a store that is there already.
        say: called with lines and tables for the user.

    Returns:
        the report that was saved.

    Raises:
        InputError: an option, an annotation or a feature file is wrong, naming it; lengths
            differ beyond the limit; or the target exists.
    """
    out = Path(out)
    parse_scheme(options.folds)
    limit = parse_limit(options.max_mismatch)
    clocks = _clocks(options)
    sources = parse_features(options.features, allow_pickle=options.pickles)
    problems: list[InputError] = []
    videos, notes, digests = _labelled(options, problems.append)
    for note in notes:
        say(f"note: {note}")
    described = [(video.name, video.source_video, video.partition) for video in videos]
    classes = _classes(videos, options.tasks)
    folds = []
    if any(video.partition == "train" for video in videos):
        folds = make_folds(options.folds, described, seed=options.seed, classes=classes.get("expr"))
    else:
        notes.append("no training videos: the store has no folds and serves prediction only")
        say(f"note: {notes[-1]}")
    shares = {
        task: {fold.name: class_shares(fold, counts) for fold in folds}
        for task, counts in classes.items()
    }
    report = Report(limit, notes, problems)
    simulated = (Path(options.annotations) / SIMULATED_FILE).is_file()
    what = "Simulated data in the form of Aff-Wild2" if simulated else "Aff-Wild2"
    precision = Precision(sources, options.dtype)
    writer = StoreWriter(
        out,
        name="simulated_aff_wild2" if simulated else "aff_wild2",
        streams=[source.spec for source in sources],
        tasks=options.tasks,
        dtype=options.dtype,
        wide=precision.wide,
        description=f"{what} with the official partition of {', '.join(options.tasks)}",
        builder={
            "command": "data.aff_wild2",
            "simulated": simulated,
            # Names without folders, which exist on one machine only.
            "features": [flag.partition("=")[0] for flag in options.features],
            "folds": options.folds,
            "seed": options.seed,
            "max_mismatch": str(limit),
            "class_shares": shares,
            "notes": notes,
        },
        sources=digests,
        overwrite=overwrite,
    )
    with writer:
        with _bar("features") as progress:
            for done, video in enumerate(videos, 1):
                try:
                    aligned, read = _read(video, clocks, sources)
                except InputError as error:
                    report.problems.append(error)
                    continue
                finally:
                    progress(done, len(videos))
                report.add(aligned, read)
                if not report.failed(options.max_missing):
                    record = _record(aligned, sources, read)
                    writer.add(record)
                    precision.add(record.streams)
                if report.troubles > options.max_missing + _MOST_OFFENDERS:
                    report.notes.append(f"stopped after {done} of {len(videos)} videos")
                    break
        say(report.table())
        for line in (*report.warnings(), *precision.lines()):
            say(line)
        if report.failed(options.max_missing):
            out.parent.mkdir(parents=True, exist_ok=True)
            stem = out.with_name(f"{out.name}.{REPORT}")
            report.save(stem, folds=shares)
            say(f"report: {stem}.csv, {stem}.json")
            report.check(options.max_missing)
        writer.finish(folds)
    report.save(out / REPORT, folds=shares)
    totals = report.totals()
    say(
        f"{totals['videos']} videos, {totals['frames']} frames, {len(sources)} streams; "
        f"{totals['lengths_off']} of {totals['lengths_compared']} lengths differ, "
        f"{totals['streams_without_features']} streams without features: {out / REPORT}.csv"
    )
    if folds:
        say(fold_table(folds, shares))
    return report


def _clocks(options: Options) -> FrameClocks:
    if options.timestamps is not None and not options.timestamps.is_dir():
        raise InputError(
            "The timestamps are not there.",
            file=options.timestamps,
            field="--timestamps",
            found="no such folder",
            expected="a folder with <video>.csv, .txt or .npy, the seconds of every frame",
        )
    counts = {}
    if options.frame_counts is not None:
        table = read_table(options.frame_counts, ("video", "frames"), whole=True)
        counts = {name: int(count) for name, count in table.items()}
    try:
        fps: float | dict[str, float] = float(options.fps)
    except ValueError:
        fps = read_table(Path(options.fps), ("video", "fps"), whole=False)
    if not isinstance(fps, dict) and not 0 < fps <= 1000:
        raise InputError(
            "This is no frame rate.",
            field="--fps",
            found=options.fps,
            expected="frames per second, or a CSV file with the columns video,fps",
        )
    return FrameClocks(fps, options.timestamps, counts)


def _labelled(
    options: Options, problem: Callable[[InputError], None]
) -> tuple[list[LabelledVideo], list[str], dict[str, str]]:
    """Reads the videos with a partition each, notes, and the digests of the files."""
    files = find_annotations(options.annotations)
    tested = [name for path in options.test_lists for name in read_test_list(path)]
    with _bar("annotations") as progress:
        annotations = list(
            read_annotations(
                files,
                options.tasks,
                by_name=options.columns_by_name,
                progress=progress,
                problem=problem,
            )
        )
    videos, notes = merge_tasks(annotations, list(dict.fromkeys(tested)))
    return videos, notes, _digests(annotations, files.root)


def _digests(annotations: Sequence[Annotation], root: Path) -> dict[str, str]:
    """Returns the sha256 of each set of annotations, over its files' names and contents."""
    hashes: dict[str, Any] = {}
    for path in dict.fromkeys(annotation.file for annotation in annotations):
        of = path.parent if path.parent.name.lower() in {s.lower() for s in SETS.values()} else path
        digest = hashes.setdefault(str(of.relative_to(root)), hashlib.sha256())
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return {name: digest.hexdigest() for name, digest in hashes.items()}


def _classes(
    videos: Sequence[LabelledVideo], tasks: Sequence[str]
) -> dict[str, dict[str, np.ndarray]]:
    """Counts annotated frames of each class, task -> video -> counts, if a task has classes."""
    return {
        task: {
            video.name: class_counts(video.labels[task], TASKS[task])
            for video in videos
            if task in video.labels
        }
        for task in tasks
        if TASKS[task].kind == "categorical"
    }


def _read(
    video: LabelledVideo, clocks: FrameClocks, sources: Sequence[FeatureSource]
) -> tuple[AlignedVideo, list[StreamRead]]:
    aligned = align(video, clocks, lambda: _feature_frames(video, sources))
    return aligned, [read_stream(source, aligned.frames) for source in sources]


def _feature_frames(video: LabelledVideo, sources: Sequence[FeatureSource]) -> int | None:
    """Returns the frames up to the last one with features; None if no features are by frame."""
    names = [(source, feature_name(source, video.name, video.source_video)) for source in sources]
    spans = [source.span(name)[0] for source, name in names if name is not None]
    return max((frames for frames in spans if frames is not None), default=None)


def _record(
    video: AlignedVideo,
    sources: Sequence[FeatureSource],
    read: Sequence[StreamRead],
) -> VideoRecord:
    pts_N = video.frames.pts_N
    return VideoRecord(
        name=video.name,
        source_video=video.source_video,
        partition=video.partition,
        pts_N=pts_N,
        streams={
            of.item.what: absent_rows(source.spec, pts_N) if of.rows is None else of.rows.stream
            for source, of in zip(sources, read, strict=True)
        },
        labels=video.labels,
    )


def absent_rows(spec: StreamSpec, pts_N: np.ndarray) -> StreamRows:
    """Returns rows that are not valid, at the stream's own rate, for these frame times."""
    row_pts = pts_N
    if spec.rate is not None:
        row_pts = np.arange(pts_N[0], pts_N[-1] + 1 / spec.rate, 1 / spec.rate)
    count = len(row_pts)
    return StreamRows(np.zeros((count, spec.width), np.float16), row_pts, np.zeros(count, bool))


@contextlib.contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Shows a bar on a terminal, and else a line every tenth of the work on standard error."""
    if not screen.shown():
        yield lambda done, total: None
        return
    if sys.stderr.isatty():
        with Progress(console=screen.console(stderr=True)) as progress:
            task = progress.add_task(what)
            yield lambda done, total: progress.update(task, completed=done, total=total)
        return

    def line(done: int, total: int) -> None:
        if is_tenth(done, total):
            print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)

    yield line


def define_flags(define: cli.Flags) -> None:
    """Defines the command's flags."""
    define.string("annotations", None, "Folder of the organisers' annotations.", required=True)
    define.multi_string(
        "features", None, "STREAM=FOLDER[,clock=...][,...], once per stream.", required=True
    )
    define_store_flags(define)
    define_lag_flag(define)
    define.list(
        "tasks", ["va"], "Some of va, expr and au; a single one has its official partition."
    )
    define.string("folds", "blocks:6", "official, blocks:K, emma, tcn_transformer or rjcma.")
    define.integer("seed", 0, "Seed of the folds.")
    define.string("fps", "30", "Frames per second, or a CSV file: video,fps.")
    define.string("timestamps", None, "Folder with the seconds of every frame, per video.")
    define.string("frame_counts", None, "CSV file: video,frames.")
    define.multi_string("test_list", [], "File with names of test videos; repeatable.")
    define.string("max_mismatch", "10", "Frames, or N%, by which lengths may differ.")
    define.integer("max_missing", 0, "Number of times a video may lack a stream's features.")
    define.bool("columns_by_name", False, "Annotations may have their columns in any order.")
    define.bool("allow_pickle", False, "Read pickled features, restrictedly.")


def main(given: flags.FlagValues) -> None:
    """Builds the store that the flags describe."""
    console = cli.console()
    options = Options(
        annotations=Path(given.annotations),
        features=tuple(given.features),
        tasks=tuple(dict.fromkeys(given.tasks)),
        folds=given.folds,
        seed=given.seed,
        fps=given.fps,
        timestamps=None if given.timestamps is None else Path(given.timestamps),
        frame_counts=None if given.frame_counts is None else Path(given.frame_counts),
        test_lists=tuple(Path(path) for path in given.test_list),
        max_mismatch=given.max_mismatch,
        max_missing=given.max_missing,
        pickles=given.allow_pickle,
        columns_by_name=given.columns_by_name,
        dtype=given.dtype,
    )
    build(
        given.out,
        options,
        overwrite=given.overwrite,
        say=lambda line: console.print(
            line, markup=False, highlight=False, soft_wrap=isinstance(line, str)
        ),
    )
    if given.check_lag:
        say_lags(given.out, cli.say)
    report_store(given.out)


COMMAND = cli.Command(main, define_flags, summary="data.aff_wild2")

if __name__ == "__main__":
    COMMAND.run()
