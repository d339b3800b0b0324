"""Reading a store: random access to memory-mapped videos, checked at first use."""

from __future__ import annotations

import contextlib
import glob
import mmap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self, cast

import numpy as np

from emojax.datasets.documents import read_document
from emojax.datasets.entries import (
    VideoEntry,
    read_entries,
    read_folds,
    read_partitions,
    read_shards,
    read_streams,
)
from emojax.datasets.folds import Fold
from emojax.datasets.record import VideoRecord, from_features
from emojax.datasets.store import DATASET_FILE, DTYPES, INDEX_FILE
from emojax.datasets.store_checks import check_known, check_name, check_stored
from emojax.datasets.tfrecord import HEADER_BYTES, check_record, locate_fields
from emojax.errors import InputError
from emojax.ops.own_tasks import declare_tasks
from emojax.specs import TASKS

# Columns whose deviation is below this fraction of their mean are constants plus rounding.
_CONSTANT = 1e-6
# Raised while malformed files are read; ``_reading`` turns them into InputError.
_MALFORMED = (
    KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, RecursionError,
)  # fmt: skip


class Store:
    """A store opened for reading; a random access source of ``VideoRecord`` for Grain.

    Opening reads the two JSON files and the sizes of the shards. A shard is mapped at its first
    use, and a record's checksums are verified at its first use; both are safe among threads.
    Arrays are read-only views that stay good after ``close``. A pickled store opens the same
    files again where it is loaded.

    Args:
        path: folder that a ``StoreWriter`` finished.
        verify: "first_use", or "all" to check every record at once.

    Attributes:
        metadata: ``dataset.json``.
        name: the name of the data set.
        dtype: the dtype of stream rows, unless ``row_dtypes`` says otherwise.
        row_dtypes: stream -> the dtype of its rows.
        streams: stream name -> specification.
        tasks: the tasks that videos may be labelled for.
        videos: entries in the order of ``read``.
        folds: fold name -> fold.
        partitions: partition -> names of its videos.

    Raises:
        InputError: the folder is missing, unfinished, damaged or inconsistent.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        verify: Literal["first_use", "all"] = "first_use",
    ) -> None:
        if verify not in ("first_use", "all"):
            raise ValueError(f"verify must be 'first_use' or 'all', not {verify!r}")
        self.path = Path(path).absolute()
        _check_folder(self.path)
        self.metadata = read_document(self.path / DATASET_FILE)
        index = read_document(self.path / INDEX_FILE)
        with _reading(self.path / DATASET_FILE):
            self._describe(self.metadata)
        self._check_shards(index)
        with _reading(self.path / INDEX_FILE):
            self.videos = read_entries(
                index["videos"], self._shards, self.streams, self.row_dtypes, self.path
            )
            self._number = {video.name: i for i, video in enumerate(self.videos)}
            self._check_videos()
        self._maps: list[memoryview | None] = [None] * len(self._shards)
        self._locks = [threading.Lock() for _ in self._shards]
        self._fields: list[dict[str, tuple[int, int]] | None] = [None] * len(self.videos)
        self._closed = False
        if verify == "all":
            for i in range(len(self.videos)):
                self.read(i)

    def __len__(self) -> int:
        """Returns the number of videos."""
        return len(self.videos)

    def __getitem__(self, i: int) -> VideoRecord:
        """Returns ``read(i)``, as Grain asks of a random access source."""
        return self.read(i)

    def __repr__(self) -> str:
        """Names the data by content, because Grain compares it when a run is resumed."""
        return f"Store({self.name!r}, checksum={self.metadata['checksum']!r})"

    def __enter__(self) -> Self:
        """Returns the store itself, which the context closes."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the store."""
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Returns where the store is and its checksum; maps and locks do not travel."""
        return {"path": str(self.path), "checksum": self.metadata["checksum"]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Opens the same store again."""
        Store.__init__(self, state["path"])
        if self.metadata["checksum"] != state["checksum"]:
            raise InputError(
                "The store was replaced while a program was using it.",
                file=self.path / DATASET_FILE,
                field="checksum",
                found=self.metadata["checksum"],
                expected=state["checksum"],
                remedy="start the program again",
            )

    def index_of(self, name: str) -> int:
        """Returns the number of a video, for ``read``.

        Raises:
            InputError: there is no such video.
        """
        if name not in self._number:
            check_known([name], self._number, "video", "name", self.path)
        return self._number[name]

    def read(self, i: int) -> VideoRecord:
        """Returns video ``i`` as read-only views of its shard.

        Raises:
            IndexError: there is no video ``i``.
            InputError: the record is damaged or is not the one the index describes.
        """
        if not 0 <= i < len(self.videos):
            raise IndexError(f"video {i} of {len(self.videos)}")
        if self._closed:
            raise RuntimeError("the store is closed")
        entry = self.videos[i]
        fields = self._fields[i]
        shard = self._maps[entry.shard]
        if fields is None or shard is None:
            with self._locks[entry.shard]:
                shard = self._map(entry.shard)
                fields = self._fields[i] = self._fields[i] or self._verify(entry, shard)
        return from_features(shard, fields, tuple(self.streams.values()), self.row_dtypes)

    def fold(self, name: str) -> Fold:
        """Returns a fold by name.

        Raises:
            InputError: there is no such fold.
        """
        check_known([name], self.folds, "fold", "fold", self.path)
        return self.folds[name]

    def statistics(self, fold: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Returns the statistics of the valid rows of a fold's training videos.

        Args:
            fold: name of the fold.

        Returns:
            stream -> mean (D,) and biased standard deviation (D,), float64. Columns that are
            constant in training get a deviation of 1, so that dividing by it is harmless.

        Raises:
            InputError: there is no such fold.
        """
        self.fold(fold)
        result = {}
        for stream, moments in self.metadata["folds"][fold]["statistics"].items():
            mean_D = np.asarray(moments["mean"], np.float64)
            std_D = np.asarray(moments["std"], np.float64)
            result[stream] = mean_D, np.where(std_D <= _CONSTANT * np.abs(mean_D), 1.0, std_D)
        return result

    def release(self) -> None:
        """Frees the memory of records that were read; arrays stay good and are read anew if used.

        The touched parts of a mapped file stay in a process's memory: all of a video, once it was
        read and checked. Does nothing on systems without ``madvise``.
        """
        for shard in self._maps:
            _release(shard)

    def close(self) -> None:
        """Closes the shards; their memory is freed with the last view of it."""
        self._closed = True
        self._maps = [None] * len(self._shards)

    def _describe(self, metadata: dict[str, Any]) -> None:
        file = self.path / DATASET_FILE
        check_name(metadata["name"], "name of the store", file)
        self.name: str = metadata["name"]
        self.streams = read_streams(metadata["streams"])
        declare_tasks(metadata.get("own_tasks", {}))
        self.tasks: tuple[str, ...] = tuple(metadata["tasks"])
        check_known(self.tasks, TASKS, "task", "tasks", file)
        check_known([metadata["dtype"]], DTYPES, "dtype", "dtype", file)
        self.dtype: str = metadata["dtype"]
        other = metadata.get("dtypes", {})
        check_known(other, self.streams, "stream", "dtypes", file)
        check_known(other.values(), DTYPES, "dtype", "dtypes", file)
        self.row_dtypes = {
            name: np.dtype(other.get(name, self.dtype)).newbyteorder("<") for name in self.streams
        }
        self.partitions = read_partitions(metadata["partitions"])
        names = (name for part in self.partitions.values() for name in part)
        self.folds = read_folds(metadata["folds"], self.streams, names)
        self._shards = read_shards(metadata["shards"], file)

    def _check_shards(self, index: dict[str, Any]) -> None:
        if index.get("shards") != self._shards:
            raise InputError(
                "The index is stale: it belongs to another build.",
                file=self.path / INDEX_FILE,
                field="shards",
                found=_summary(index.get("shards")),
                expected=_summary(self._shards),
                remedy="copy the whole store again or build it again",
            )
        for shard in self._shards:
            file = self.path / shard["file"]
            size = file.stat().st_size if file.is_file() else None
            if size == shard["bytes"]:
                continue
            if size is None:
                summary = "A shard is missing."
            elif size < shard["bytes"]:
                summary = "A shard is truncated."
            else:
                summary = "The index is stale: a shard is longer than it says."
            raise InputError(
                summary,
                file=file,
                field="size",
                found="no file" if size is None else f"{size} bytes",
                expected=f"{shard['bytes']} bytes",
                remedy="copy the store again or build it again",
            )

    def _check_videos(self) -> None:
        records = [0] * len(self._shards)
        for video in self.videos:
            records[video.shard] += 1
        if records != [shard["records"] for shard in self._shards]:
            raise ValueError("the shards hold other numbers of records")
        if len(self._number) != len(self.videos):
            raise ValueError("two videos have the same name")
        if set(self._number) != {name for part in self.partitions.values() for name in part}:
            raise ValueError(f"the videos differ from those in {DATASET_FILE}")

    def _map(self, number: int) -> memoryview:
        """Maps a whole shard; the caller holds the shard's lock."""
        found = self._maps[number]
        if found is None:
            shard = self._shards[number]
            file = self.path / shard["file"]
            try:
                with file.open("rb") as opened:
                    mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                raise InputError(
                    "A shard cannot be read.",
                    file=file,
                    field="contents",
                    found=str(error),
                    expected="a readable file",
                    remedy="copy the store again or build it again",
                ) from error
            found = self._maps[number] = memoryview(mapped)
        return found

    def _verify(self, entry: VideoEntry, shard: memoryview) -> dict[str, tuple[int, int]]:
        """Checks a record against checksums and index; field offsets count from the shard."""
        file = self.path / self._shards[entry.shard]["file"]
        check_record(
            shard,
            entry.offset,
            entry.length,
            entry.crc,
            file=file,
            after_part=lambda: _release(shard),
        )
        start = entry.offset + HEADER_BYTES
        with _reading(file):
            located = locate_fields(shard[start : start + entry.length])
            fields = {key: (start + offset, size) for key, (offset, size) in located.items()}
            record = from_features(shard, fields, tuple(self.streams.values()), self.row_dtypes)
            check_stored(record, self.tasks)
        found = (record.name, record.source_video, record.partition, record.num_frames)
        expected = (entry.name, entry.source_video, entry.partition, entry.num_frames)
        rows = {name: len(data.pts_N) for name, data in record.streams.items()}
        if found != expected or rows != entry.rows:
            raise InputError(
                "The index is stale: a record holds another video.",
                file=file,
                field=f"record at byte {entry.offset}",
                found=(*found, rows),
                expected=(*expected, entry.rows),
                remedy="build the store again",
            )
        return fields


def _release(shard: memoryview | None) -> None:
    if shard is not None and hasattr(mmap, "MADV_DONTNEED"):
        cast(mmap.mmap, shard.obj).madvise(mmap.MADV_DONTNEED)


def _check_folder(path: Path) -> None:
    if (path / DATASET_FILE).is_file():
        return
    # Left by a killed build, and by a killed replacement of a store.
    kinds = ("partial", "old")
    name = glob.escape(path.name)
    unfinished = [found for kind in kinds for found in path.parent.glob(f"{name}.{kind}-*")]
    if path.is_dir():
        summary, found = "This folder is not a store.", f"no {DATASET_FILE}"
    elif path.exists():
        summary, found = "A store is a folder.", "a file"
    elif unfinished:
        summary, found = "The build of this store did not finish.", ", ".join(map(str, unfinished))
    else:
        summary, found = "There is no store here.", "nothing"
    raise InputError(
        summary,
        file=path,
        field="store",
        found=found,
        expected=f"a folder with {DATASET_FILE}, {INDEX_FILE} and shards",
        remedy="build the store first, for instance with `emojax simulate --out=...`",
    )


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Turns errors about the contents of a file into InputError that names the file."""
    try:
        yield
    except InputError as error:
        raise error.within(file, "build the store again") from error.__cause__
    except _MALFORMED as error:
        raise InputError(
            "A file of the store is malformed.",
            file=file,
            field="contents",
            found=f"{type(error).__name__}: {error}"[:200],
            expected="what StoreWriter writes",
            remedy="build the store again",
        ) from error


def _summary(shards: Any) -> str:
    if not isinstance(shards, list):
        return "no list of shards"
    total = sum(row.get("bytes", 0) for row in shards if isinstance(row, dict))
    return f"{len(shards)} shards of {total} bytes together"
