"""Videos given as plain arrays, and stores of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from emojax.datasets.folds import Fold, official_and_blocks
from emojax.datasets.memory_store import MemoryStore
from emojax.datasets.record import StreamRows, VideoRecord
from emojax.datasets.source import Store
from emojax.datasets.store import StoreWriter
from emojax.datasets.store_checks import check_clock, check_known
from emojax.errors import InputError, closest
from emojax.shipped import builder
from emojax.specs import STREAMS, StreamSpec

# The greatest difference between the ends of a stream without a given rate and of the video.
_SECONDS_OFF = 1.0


@dataclasses.dataclass(frozen=True, eq=False)
class Video:
    """One video as plain arrays: rows of features, when they are, and perhaps labels.

        >>> import numpy as np
        >>> Video({"ir50": np.zeros((100, 512))}, fps=25)
        Video('video', 25 fps, ir50 100 x 512)

    A stream has one row a frame, or a rate of its own. Without an entry in ``rates`` or
    ``row_times``, a stream with as many rows as frames has one a frame; others have the rate that
    is known for the stream (20 Hz for "eda").

    Attributes:
        streams: stream -> (rows, D) numbers.
        name: unique in its store.
        partition: "train", "validation" or "test".
        fps: frames per second; the first frame is at 0 s.
        times: (N,) seconds of each frame, increasing, instead of ``fps``.
        rates: stream -> rows per second; the first row is at the first frame.
        row_times: stream -> (rows,) seconds of each row, on the clock of the frames.
        valid: stream -> (rows,) bool, False where the extractor found nothing (no face, silence).
            All rows are valid by default.
        labels: task -> (N, columns), or (N,) for one column; -5 ("va") or -1 (all others) where a
            frame is not annotated.
        source: the recording it was cut from; folds keep videos of one source together. The
            video itself by default.
        attributes: text about it, never fed to a model.
    """

    streams: Mapping[str, Any]
    name: str = "video"
    partition: str = "test"
    fps: float | None = None
    times: Any = None
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    row_times: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    valid: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    labels: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    source: str = ""
    attributes: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        """Tells name, rate, the shape of each stream, and tasks."""
        clock = f"{self.fps:g} fps" if self.fps else "with times"
        shapes = (f"{k} {' x '.join(map(str, np.shape(v)))}" for k, v in self.streams.items())
        return f"Video({', '.join([repr(self.name), clock, *shapes, *self.labels])})"

    def record(self, specs: Mapping[str, StreamSpec] = STREAMS) -> VideoRecord:
        """Returns the video with the time of every frame and row.

        Args:
            specs: what is known of streams; rates are looked up there.

        Raises:
            InputError: there is no time, or a stream's rows cannot be placed in it.
        """
        rows = {
            name: _numbers(x, f"stream {name} of {self.name}") for name, x in self.streams.items()
        }
        for option in ("rates", "row_times", "valid"):
            check_known(getattr(self, option), rows, "stream", f"{option} of {self.name}")
        labels = {
            task: np.asarray(x)[:, None] if np.ndim(x) == 1 else np.asarray(x)
            for task, x in self.labels.items()
        }
        times_N = self._times(rows, labels, specs)
        return VideoRecord(
            name=self.name,
            source_video=self.source or self.name,
            partition=self.partition,
            pts_N=times_N,
            streams={
                name: StreamRows(
                    rows_ND=rows_ND,
                    pts_N=self._row_times(name, rows_ND, times_N, specs.get(name)),
                    valid_N=np.asarray(self.valid.get(name, np.ones(len(rows_ND), bool))),
                )
                for name, rows_ND in rows.items()
            },
            labels=labels,
            attributes=dict(self.attributes),
        )

    def _times(
        self,
        rows: Mapping[str, np.ndarray],
        labels: Mapping[str, np.ndarray],
        specs: Mapping[str, StreamSpec],
    ) -> np.ndarray:
        """Returns the seconds of each frame, (N,) float64."""
        if (self.fps is None) == (self.times is None):
            raise InputError(
                "A video needs the time of its frames.",
                field=f"fps of {self.name}",
                found="neither fps nor times" if self.fps is None else "fps and times",
                expected="fps, frames per second, or times, seconds of each frame",
            )
        if self.fps is None:
            return check_clock(self.times, f"times of {self.name}", strictly=True)
        if not _is_positive(self.fps):
            raise InputError(
                "Frames per second must be positive.",
                field=f"fps of {self.name}",
                found=self.fps,
                expected="a number above 0",
            )
        return np.arange(self._num_frames(rows, labels, specs)) / float(self.fps)

    def _num_frames(
        self,
        rows: Mapping[str, np.ndarray],
        labels: Mapping[str, np.ndarray],
        specs: Mapping[str, StreamSpec],
    ) -> int:
        """Returns the number of frames of the labels, or else of the streams without a rate."""
        free = [name for name in rows if name not in {*self.rates, *self.row_times}]
        by_frame = [name for name in free if name not in specs or specs[name].rate is None]
        counts = {f"labels {task}": len(x) for task, x in labels.items()}
        counts = counts or {name: len(rows[name]) for name in by_frame or free}
        if len(set(counts.values())) > 1:
            raise InputError(
                "Streams without a rate differ in length.",
                field=f"streams of {self.name}",
                found=", ".join(f"{name}: {count} rows" for name, count in counts.items()),
                expected="one row a frame in each, or the rate of those that have another",
                remedy="give rates={STREAM: ROWS PER SECOND}, or row_times",
            )
        if counts:
            return next(iter(counts.values()))
        assert self.fps is not None
        ends = [len(rows[name]) / rate for name, rate in self.rates.items() if rate > 0]
        ends += [float(np.max(x, initial=0.0)) for x in self.row_times.values()]
        return max(1, round(max(ends, default=0.0) * self.fps))

    def _row_times(
        self, name: str, rows_ND: np.ndarray, times_N: np.ndarray, spec: StreamSpec | None
    ) -> np.ndarray:
        """Returns the seconds of each row of a stream, (rows,)."""
        count = len(rows_ND)
        if name in self.row_times:
            return np.asarray(self.row_times[name])
        rate = self.rates.get(name)
        if rate is None:
            if count == len(times_N):
                return np.asarray(times_N)
            rate = spec.rate if spec else None
            frame = float(np.ptp(times_N)) / max(1, len(times_N) - 1)
            if not rate or abs(count / rate - len(times_N) * frame) > _SECONDS_OFF:
                known = f", at {rate:g} rows per second" if rate else ""
                raise InputError(
                    "The rows of a stream do not fit the frames.",
                    field=f"stream {name} of {self.name}",
                    found=f"{count} rows for {len(times_N)} frames{known}",
                    expected="one row a frame, or the stream's rate",
                    remedy=f"give rates={{{name!r}: ROWS PER SECOND}}, or row_times",
                )
        if not _is_positive(rate):
            raise InputError(
                "The rate of a stream must be positive.",
                field=f"rates of {self.name}: {name}",
                found=rate,
                expected="rows per second, above 0",
            )
        start = float(times_N[0]) if len(times_N) else 0.0
        return start + np.arange(count) / rate


def _is_positive(value: Any) -> bool:
    """Returns True for a finite number above 0; a text is no number."""
    try:
        return not isinstance(value, str) and 0 < float(value) < np.inf
    except (TypeError, ValueError):
        return False


def open_store(path: str | Path) -> Store:
    """Opens a store on disk.

        >>> store = emojax.open_store("stores/demo")
        >>> store.streams["ir50"].width
        32

    Raises:
        InputError: the folder is missing, unfinished or damaged.
    """
    return Store(path)


def simulate(
    path: str | Path, *, preset: str = "plain", size: str = "tiny", seed: int = 0, **options: Any
) -> Store:
    """Simulates a store with labels, features and the best possible prediction; a minute or less.

        >>> store = emojax.simulate("stores/tiny", streams=["ir50", "vggish"], tasks=["va"])

    Args:
        path: folder to create.
        preset: "plain", or another of ``emojax simulate --help``.
        size: "tiny" (12 videos), "demo", "medium" or "full" (594 videos).
        seed: the seed of everything that is drawn.
        **options: others of the builder's ``make_options``, such as ``streams`` and ``tasks``.

    Raises:
        InputError: an option is wrong, or something is there.
    """
    synthetic = builder("synthetic")
    wanted = synthetic.make_options(preset=preset, size=size, seed=seed, **options)
    synthetic.build(str(path), wanted, say=lambda line: None)
    return Store(path)


def write_store(
    path: str | Path,
    videos: Iterable[Video | Mapping[str, Any]],
    *,
    name: str = "",
    folds: int | Sequence[Fold] = 1,
    streams: Sequence[StreamSpec] = (),
    dtype: Literal["float16", "float32"] = "float16",
    overwrite: bool = False,
) -> Store:
    """Writes videos to disk as a store, and opens it.

        >>> rows, labels = {"ir50": np.zeros((100, 512))}, {"va": np.zeros((100, 2))}
        >>> video = emojax.Video(rows, name="a", partition="train", fps=25, labels=labels)
        >>> mine = emojax.write_store("stores/new", [video])

    All videos are in memory meanwhile; ``emojax.datasets.store.StoreWriter`` takes them one by one.

    Args:
        path: folder to create.
        videos: ``Video`` objects, or mappings with the same keys.
        name: the name of the data; the folder's name by default.
        folds: how many: fold "0" is the partitions as given, further ones rotate blocks of the
            training videos. Or the folds themselves.
        streams: specifications, where the names in ``emojax.specs.STREAMS`` and the widths of the
            arrays do not say enough.
        dtype: the dtype of stream rows on disk.
        overwrite: replace a store that is there.

    Raises:
        InputError: a video does not fit, or something else is there.
    """
    given = [as_video(video) for video in videos]
    specs = {spec.name: spec for spec in streams} or stream_specs(given)
    tasks = list(dict.fromkeys(task for video in given for task in video.labels))
    with StoreWriter(
        path,
        name=name or Path(path).resolve().name,
        streams=list(specs.values()),
        tasks=tasks,
        dtype=dtype,
        overwrite=overwrite,
    ) as writer:
        split = []
        for video in given:
            record = video.record(specs)
            writer.add(record)
            split.append((record.name, record.source_video, record.partition))
        if isinstance(folds, int):
            # Without training videos a store serves evaluation and prediction.
            trains = any(partition == "train" for _, _, partition in split)
            folds = official_and_blocks(split, folds) if trains else []
        writer.finish(folds)
    return Store(path)


def memory_store(
    videos: Sequence[Video],
    specs: Mapping[str, StreamSpec],
    tasks: Sequence[str],
) -> MemoryStore:
    """Returns a store in memory with the streams of a model.

    Args:
        videos: may hold further streams, which are left out.
        specs: the streams that are needed, by name.
        tasks: whose labels are kept.

    Raises:
        InputError: a stream is missing, or a video is not as it should be.
    """
    records = []
    for video in videos:
        missing = [name for name in specs if name not in video.streams]
        if missing:
            raise InputError(
                "The model needs a stream that is not there.",
                field=f"streams of {video.name}",
                found=", ".join(video.streams) or "no stream",
                expected=", ".join(f"{s.name} ({s.width} columns)" for s in specs.values()),
                remedy=closest(missing[0], video.streams) or f"give rows of {missing[0]}",
            )
        streams = video.streams
        kept = {name: streams[name] for name in specs}
        options: dict[str, Any] = {
            # A name of no stream stays, to be refused.
            key: {k: x for k, x in getattr(video, key).items() if k in kept or k not in streams}
            for key in ("rates", "row_times", "valid")
        }
        known = {task: x for task, x in video.labels.items() if task in tasks}
        records.append(
            dataclasses.replace(video, streams=kept, labels=known, **options).record(specs)
        )
    rows = [data.rows_ND for record in records for data in record.streams.values()]
    # Rows that were stored as float16 stay what they are; others lose nothing.
    half = all(rows_ND.dtype == np.float16 for rows_ND in rows)
    return MemoryStore(
        records, list(specs.values()), tasks=tasks, dtype="float16" if half else "float32"
    )


def as_video(video: Video | Mapping[str, Any]) -> Video:
    """Returns a video given as ``Video``, or as a mapping with the same keys.

    Raises:
        InputError: a key is unknown, or ``streams`` is missing.
    """
    if isinstance(video, Video):
        return video
    keys = [field.name for field in dataclasses.fields(Video)]
    check_known(video, keys, "key", f"video {video.get('name', '')}".strip())
    if "streams" not in video:
        raise InputError(
            "A video has no streams.",
            field="streams",
            found=", ".join(video),
            expected="stream -> (rows, D) array",
        )
    return Video(**video)


def stream_specs(videos: Sequence[Video]) -> dict[str, StreamSpec]:
    """Describes the streams of some videos by their first arrays and what is known by name."""
    specs: dict[str, StreamSpec] = {}
    for video in videos:
        for name, values in video.streams.items():
            if name in specs:
                continue
            rows_ND = _numbers(values, f"stream {name} of {video.name}")
            known = STREAMS.get(name, StreamSpec(name, 0, "features"))
            width = rows_ND.shape[1] if rows_ND.ndim == 2 else known.width
            rate = video.rates.get(name, known.rate)
            specs[name] = dataclasses.replace(known, width=width, rate=rate)
    return specs


def _numbers(values: Any, what: str) -> np.ndarray:
    """Returns an array of floats; whole numbers become float32."""
    array = np.asarray(values)
    if array.dtype.kind in "iub":
        array = array.astype(np.float32)
    if array.dtype.kind != "f":
        raise InputError(
            "Stream rows are not numbers.",
            field=what,
            found=array.dtype,
            expected="(rows, D) floats",
        )
    if array.ndim != 2:
        raise InputError(
            "Stream rows are not a table.",
            field=what,
            found=f"shape {array.shape}",
            expected="(rows, D): a row for each frame, or at the stream's rate",
        )
    return array
