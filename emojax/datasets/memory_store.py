"""A store whose videos are arrays in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from emojax.datasets.entries import VideoEntry
from emojax.datasets.record import PARTITIONS, VideoRecord
from emojax.datasets.source import Store
from emojax.datasets.store_checks import check_known, conform
from emojax.errors import InputError
from emojax.specs import StreamSpec


class MemoryStore(Store):
    """Videos in memory, read like those of a store on disk.

    It passes the same checks as a store that is written and holds the same rows: those that are
    not valid become zeros, and all have ``dtype``. It has no folds, and so no statistics: a run
    can be evaluated and predict on it, but not be trained.

    Args:
        videos: videos with distinct names.
        streams: the streams that every video holds.
        tasks: the tasks that videos may be labelled for.
        dtype: the dtype of stream rows, "float16" or "float32".
        name: the name of the data.

    Raises:
        InputError: a video does not fit, see ``store_checks.conform``, or two have one name.
    """

    def __init__(
        self,
        videos: Sequence[VideoRecord],
        streams: Sequence[StreamSpec],
        *,
        tasks: Sequence[str] = (),
        dtype: Literal["float16", "float32"] = "float32",
        name: str = "arrays",
    ) -> None:
        self.path = Path("arrays in memory")  # named in errors
        self.name, self.dtype, self.tasks = name, dtype, tuple(tasks)
        self.streams = {spec.name: spec for spec in streams}
        self.row_dtypes = {name: np.dtype(dtype).newbyteorder("<") for name in self.streams}
        self._records = [conform(video, streams, tasks, self.row_dtypes) for video in videos]
        # No file has it, so no run takes this for the store that it was trained on.
        self.metadata: dict[str, Any] = {"name": name, "checksum": "", "folds": {}}
        self.folds = {}
        self.videos = tuple(video_entry(record) for record in self._records)
        self._number = {video.name: i for i, video in enumerate(self.videos)}
        if len(self._number) < len(self.videos):
            names = [video.name for video in self.videos]
            raise InputError(
                "Two videos have the same name.",
                field="name",
                found=next(name for name in names if names.count(name) > 1),
                expected="each video with a name of its own",
            )
        self.partitions = {
            part: tuple(video.name for video in self.videos if video.partition == part)
            for part in PARTITIONS
        }

    def read(self, i: int) -> VideoRecord:
        """Returns video ``i``.

        Raises:
            IndexError: there is no video ``i``.
        """
        if not 0 <= i < len(self._records):
            raise IndexError(f"video {i} of {len(self._records)}")
        return self._records[i]

    def statistics(self, fold: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Raises ``InputError``, because the store has no folds."""
        check_known([fold], self.folds, "fold", "fold", self.path)
        raise AssertionError("unreachable")

    def release(self) -> None:
        """Does nothing; the arrays belong to this store."""

    def close(self) -> None:
        """Does nothing; the arrays go with this store."""

    def __getstate__(self) -> dict[str, Any]:
        """Returns everything, the arrays among it."""
        return dict(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Takes everything back."""
        self.__dict__.update(state)


def video_entry(record: VideoRecord) -> VideoEntry:
    """Describes a video as the index of a store would, without a place in a shard."""
    seconds = float(record.pts_N[-1] - record.pts_N[0])
    return VideoEntry(
        name=record.name,
        source_video=record.source_video,
        partition=record.partition,
        num_frames=record.num_frames,
        fps=(record.num_frames - 1) / seconds if seconds else 0.0,
        rows={name: len(data.pts_N) for name, data in record.streams.items()},
        shard=0,
        offset=0,
        length=0,
        crc=0,
    )
