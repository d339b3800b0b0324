"""Writing a store: shards of videos, an index, and ``dataset.json`` with fold statistics.

    <store>/videos-00000.tfrecord ...   one record a video, see record.py
    <store>/index.json                  where each record lies, and what it holds
    <store>/dataset.json                streams, tasks, counts, folds with statistics, shards

A build happens in ``<store>.partial-<pid>`` beside the target, and only ``finish`` renames it,
so that an interrupted build never looks finished. A folder left by a killed build may be
deleted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import crc32c
import numpy as np

from emojax.datasets.documents import read_document, write_document
from emojax.datasets.folds import Fold
from emojax.datasets.moments import RowMoments, merge_moments, row_moments
from emojax.datasets.record import PARTITIONS, VideoRecord, to_features
from emojax.datasets.store_checks import (
    check_fold,
    check_known,
    check_name,
    conform,
    count_annotated,
)
from emojax.datasets.tfrecord import FRAME_BYTES, encode_example, frame_record
from emojax.errors import InputError, writing
from emojax.ops.own_tasks import described_tasks
from emojax.specs import TASKS, StreamSpec

DATASET_FILE = "dataset.json"
INDEX_FILE = "index.json"
DTYPES = ("float16", "float32")


class StoreWriter:
    """Builds a store video by video; memory holds one record and each video's moments.

    Use it as a context manager and call ``finish`` inside: leaving the context without it, for
    instance through an exception, removes what was built.

    Args:
        path: folder to create.
        name: the name of the data set.
        streams: the streams that every video holds.
        tasks: the tasks that videos may be labelled for.
        dtype: the dtype of stream rows, "float16" or "float32".
        wide: streams whose rows are float32 whatever ``dtype`` is.
        videos_per_shard: records in one file.
        description: free text.
        builder: a record of the build (command, options, seed), JSON values.
        sources: source file -> sha256.
        overwrite: replaces a store that is there already; any other folder is refused.

    Raises:
        InputError: an option is wrong or the target exists.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        name: str,
        streams: Sequence[StreamSpec],
        tasks: Sequence[str],
        dtype: str = "float16",
        wide: Collection[str] = (),
        videos_per_shard: int = 16,
        description: str = "",
        builder: Mapping[str, Any] | None = None,
        sources: Mapping[str, str] | None = None,
        overwrite: bool = False,
    ) -> None:
        # Resolved, so that a link to a store stays a link when the store is replaced.
        self.path = Path(path).resolve()
        self._overwrite = overwrite
        self._streams = _checked_streams(streams)
        check_known(tasks, TASKS, "task", "tasks of the store")
        check_known([dtype], DTYPES, "dtype", "dtype of the store")
        check_name(name, "name of the store")
        if videos_per_shard < 1:
            raise InputError(
                "A shard must hold videos.",
                field="videos_per_shard",
                found=videos_per_shard,
                expected="at least 1",
            )
        self._tasks = tuple(dict.fromkeys(tasks))
        check_known(wide, [spec.name for spec in streams], "stream", "wide streams of the store")
        self._dtype = dtype
        self._dtypes = {
            spec.name: np.dtype("float32" if spec.name in wide else dtype).newbyteorder("<")
            for spec in streams
        }
        self._videos_per_shard = videos_per_shard
        self._about = {"name": name, "description": description}
        # Through JSON at once, so that values that JSON cannot hold fail before the build.
        origin = {"builder": dict(builder or {}), "sources": dict(sources or {})}
        self._origin = json.loads(json.dumps(origin))
        self._partial: Path | None = None
        self._shard: BinaryIO | None = None
        self._shards: list[dict[str, Any]] = []
        self._videos: list[dict[str, Any]] = []
        self._annotated: list[dict[str, int]] = []
        self._moments: dict[str, dict[str, RowMoments]] = {}
        self._check_target()

    def __enter__(self) -> Self:
        """Creates the folder to build in.

        Raises:
            MachineError: that is not possible there.
        """
        with self._writing():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial = _free_name_beside(self.path, "partial")
            partial.mkdir()
        self._partial = partial
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Removes the build unless it was finished."""
        if self._shard is not None:
            # On a full disk closing fails as writing did; the file is removed anyway.
            with contextlib.suppress(OSError):
                self._shard.close()
            self._shard = None
        if self._partial is not None:
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial = None

    def add(self, record: VideoRecord) -> None:
        """Checks and appends one video.

        Args:
            record: with any floating dtype in its streams; rows that are not valid are stored
                as zeros whatever they hold.

        Raises:
            InputError: the video does not fit the store, see ``store_checks.conform``; its name was
                added before; or it is too large for one record. Nothing was written then.
            MachineError: the disk is full, or cannot be written to for another reason.
        """
        self._building()
        record = conform(record, self._streams, self._tasks, self._dtypes)
        if record.name in self._moments:
            raise InputError(
                "A video was added twice.",
                field=record.name,
                found="two records",
                expected="one record a name",
            )
        try:
            payload = encode_example(to_features(record))
        except ValueError as error:
            raise InputError(
                "A video is too large to store.",
                field=record.name,
                found=str(error),
                expected="less than 2 GiB",
                remedy="split the video",
            ) from error
        with self._writing():
            shard, offset, crc = self._append(payload)
        seconds = record.pts_N[-1] - record.pts_N[0]
        self._videos.append(
            {
                "name": record.name,
                "source_video": record.source_video,
                "partition": record.partition,
                "num_frames": record.num_frames,
                "fps": float((record.num_frames - 1) / seconds) if seconds else 0.0,
                "rows": {name: len(data.pts_N) for name, data in record.streams.items()},
                "shard": shard,
                "offset": offset,
                "length": len(payload),
                "crc": crc,
            }
        )
        self._annotated.append(count_annotated(record.labels))
        self._moments[record.name] = {
            name: row_moments(data.rows_ND, data.valid_N) for name, data in record.streams.items()
        }

    def finish(self, folds: Sequence[Fold]) -> None:
        """Writes statistics, index and ``dataset.json``, and gives the store its name.

        Args:
            folds: folds with distinct names, over videos that were added. Statistics of a fold come
                from the valid rows of its training videos alone.

        Raises:
            InputError: no video, a fold that names an unknown video, trains on a video it also
                validates or tests on, has no training video or no valid training row of a
                stream; or the target appeared meanwhile.
            MachineError: the disk is full, or cannot be written to for another reason.
        """
        partial = self._building()
        if not self._videos:
            raise InputError("A store needs at least one video.", file=self.path, found=0)
        if len({fold.name for fold in folds}) < len(folds):
            raise InputError(
                "Two folds have the same name.",
                field="folds",
                found=", ".join(fold.name for fold in folds),
            )
        described = {fold.name: self._describe(fold) for fold in folds}
        content = {
            **self._about,
            **self._origin,
            "dtype": self._dtype,
            **{key: value for key, value in self._optional().items() if value},
            "streams": [dataclasses.asdict(spec) for spec in self._streams],
            "tasks": list(self._tasks),
            "counts": self._counts(),
            "partitions": {
                part: [video["name"] for video in self._videos if video["partition"] == part]
                for part in PARTITIONS
            },
            "shards": self._shards,
            "folds": described,
        }
        index = {"shards": self._shards, "videos": self._videos}
        with self._writing():
            self._close_shard()
            write_document(partial / INDEX_FILE, index)
            write_document(partial / DATASET_FILE, content)
            _flush_folder(partial)
            self._publish(partial)
        self._partial = None

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        return writing(self.path, "The store", kept="nothing is left of the unfinished store")

    def _building(self) -> Path:
        if self._partial is None:
            raise RuntimeError("the writer works inside its `with` block, until finish()")
        return self._partial

    def _append(self, payload: bytes) -> tuple[int, int, int]:
        """Writes one frame; returns its shard's number, its offset and its payload's CRC."""
        if self._shard is not None and self._shards[-1]["records"] == self._videos_per_shard:
            self._close_shard()
        if self._shard is None:
            file = f"videos-{len(self._shards):05d}.tfrecord"
            self._shards.append({"file": file, "bytes": 0, "records": 0, "crc32c": 0})
            self._shard = (self._building() / file).open("xb")
        shard = self._shards[-1]
        offset = shard["bytes"]
        header, footer, crc = frame_record(payload)
        for part in (header, payload, footer):
            self._shard.write(part)
            shard["crc32c"] = crc32c.crc32c(part, shard["crc32c"])
        shard["bytes"] += FRAME_BYTES + len(payload)
        shard["records"] += 1
        return len(self._shards) - 1, offset, crc

    def _close_shard(self) -> None:
        if self._shard is not None:
            self._shard.flush()
            os.fsync(self._shard.fileno())
            self._shard.close()
            self._shard = None

    def _describe(self, fold: Fold) -> dict[str, Any]:
        check_fold(fold, self._moments)
        return {
            "train": list(fold.train),
            "validation": list(fold.validation),
            "test": list(fold.test),
            "scored_frames": None if fold.scored_frames is None else list(fold.scored_frames),
            "statistics": {spec.name: self._statistics(fold, spec) for spec in self._streams},
        }

    def _statistics(self, fold: Fold, spec: StreamSpec) -> dict[str, Any]:
        parts = (self._moments[video][spec.name] for video in fold.train)
        merged = merge_moments(parts, spec.width)
        if not merged.count:
            raise InputError(
                "The training videos of a fold have no valid row of a stream.",
                field=f"fold {fold.name}, stream {spec.name}",
                found=0,
                expected="at least one valid row",
                remedy="drop the stream or add videos",
            )
        return {
            "count": merged.count,
            "mean": merged.mean_D.tolist(),
            "std": merged.std.tolist(),
        }

    def _optional(self) -> dict[str, Any]:
        wide = {name: of.name for name, of in self._dtypes.items() if of.name != self._dtype}
        return {"dtypes": wide, "own_tasks": described_tasks(self._tasks)}

    def _counts(self) -> dict[str, Any]:
        partitions: dict[str, Any] = {}
        for part in PARTITIONS:
            chosen = [i for i, video in enumerate(self._videos) if video["partition"] == part]
            partitions[part] = {
                "videos": len(chosen),
                "frames": sum(self._videos[i]["num_frames"] for i in chosen),
                "annotated": {
                    task: sum(self._annotated[i].get(task, 0) for i in chosen)
                    for task in self._tasks
                },
            }
        frames = sum(video["num_frames"] for video in self._videos)
        return {"videos": len(self._videos), "frames": frames, "partitions": partitions}

    def _check_target(self) -> None:
        if not os.path.lexists(self.path):
            return
        if not self._overwrite:
            raise InputError(
                "The store exists already.",
                file=self.path,
                found="an existing file or folder",
                expected="a new folder",
                remedy="choose another folder, or replace it (--overwrite, overwrite=True)",
            )
        if not self.path.is_dir() or (
            any(self.path.iterdir()) and not (self.path / DATASET_FILE).is_file()
        ):
            raise InputError(
                "Only a store can be overwritten.",
                file=self.path,
                found="something that is not a store",
                expected=f"a folder with {DATASET_FILE}, or a new folder",
                remedy="choose another folder",
            )

    def _publish(self, partial: Path) -> None:
        self._check_target()
        if not os.path.lexists(self.path):
            partial.rename(self.path)
            _flush_folder(self.path.parent)
            return
        old = _free_name_beside(self.path, "old")
        self.path.rename(old)
        try:
            partial.rename(self.path)
        except OSError:
            old.rename(self.path)
            raise
        _flush_folder(self.path.parent)
        shutil.rmtree(old, ignore_errors=True)


def store_facts(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns a store's absolute path ("store") and its number of "videos", "frames" and "bytes".

    Raises:
        InputError: there is no store.
    """
    content = read_document(Path(path) / DATASET_FILE)
    return {
        "store": str(Path(path).absolute()),
        "videos": content["counts"]["videos"],
        "frames": content["counts"]["frames"],
        "bytes": sum(shard["bytes"] for shard in content["shards"]),
    }


def _checked_streams(streams: Sequence[StreamSpec]) -> tuple[StreamSpec, ...]:
    names = [spec.name for spec in streams]
    for spec in streams:
        check_name(spec.name, "stream name")
        if spec.width < 1 or names.count(spec.name) > 1:
            raise InputError(
                "The streams of a store must be distinct and have columns.",
                field=f"stream {spec.name}",
                found=f"width {spec.width}, declared {names.count(spec.name)} times",
            )
    if not streams:
        raise InputError("A store needs at least one stream.", field="streams", found="none")
    return tuple(streams)


def _free_name_beside(path: Path, kind: str) -> Path:
    """Returns a free name for a temporary folder on the same disk.

    Numbered, because a killed build may have left a folder with the same process id, as happens
    in containers.
    """
    for attempt in itertools.count():
        name = path.with_name(f"{path.name}.{kind}-{os.getpid()}" + f"-{attempt}" * (attempt > 0))
        if not os.path.lexists(name):
            return name
    raise AssertionError("unreachable")


def _flush_folder(path: Path) -> None:
    """Makes renames and new files inside a folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
