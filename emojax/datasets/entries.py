"""Checks a store's two JSON files before memory is allocated for what they describe.

A store can come from anywhere, and its checksums say nothing about who made it. So every number
is bounded by what it describes: frames and rows by the bytes of their record, a record by its
shard, statistics by their stream's width, time by ``MAX_SECONDS``. All functions raise
ValueError, KeyError, TypeError or InputError for impossible content.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emojax.datasets.folds import Fold
from emojax.datasets.record import PARTITIONS
from emojax.datasets.store_checks import MAX_SECONDS, check_fold, check_known, check_name
from emojax.datasets.tfrecord import FRAME_BYTES
from emojax.errors import InputError
from emojax.specs import StreamSpec

_MAX_WIDTH = 2**20
_MAX_RATE = 1e6
_MAX_MODALITY = 200
_TIME_BYTES = 8  # of a frame, and of a row
_VALID_BYTES = 1  # of a row
# Statistics are used in float32.
_MAX_NUMBER = float(np.finfo(np.float32).max)


@dataclasses.dataclass(frozen=True)
class VideoEntry:
    """A video as the index describes it, without opening its shard.

    Attributes:
        name: unique in the store.
        source_video: the file it was cut from.
        partition: "train", "validation" or "test".
        num_frames: N.
        fps: mean frames per second; 0 for a single frame.
        rows: stream -> number of rows.
        shard: number of the shard file.
        offset: byte where the record's frame begins.
        length: payload bytes.
        crc: masked CRC-32C of the payload.
    """

    name: str
    source_video: str
    partition: str
    num_frames: int
    fps: float
    rows: dict[str, int]
    shard: int
    offset: int
    length: int
    crc: int


def read_streams(rows: Sequence[Mapping[str, Any]]) -> dict[str, StreamSpec]:
    """Reads the streams of ``dataset.json``, by name."""
    specs = [StreamSpec(**row) for row in _list(rows, "streams")]
    for spec in specs:
        check_name(spec.name, "stream name")
        if not isinstance(spec.modality, str) or len(spec.modality) > _MAX_MODALITY:
            raise TypeError(f"modality of {spec.name} is no short text")
        _whole(spec.width, f"width of {spec.name}", 1, _MAX_WIDTH)
        if spec.rate is not None and not 0 < _real(spec.rate, f"rate of {spec.name}") <= _MAX_RATE:
            raise ValueError(f"rate of {spec.name} is {spec.rate}")
    streams = {spec.name: spec for spec in specs}
    if len(streams) < len(specs) or not specs:
        raise ValueError("streams must have distinct names, and there must be one")
    return streams


def read_shards(rows: Sequence[Mapping[str, Any]], file: Path) -> list[dict[str, Any]]:
    """Reads the shards of ``dataset.json``; errors name ``file``."""
    shards = [dict(row) for row in _list(rows, "shards")]
    for shard in shards:
        check_name(shard["file"], "shard file", file)
        for key in ("bytes", "records"):
            _whole(shard[key], f"{key} of {shard['file']}", 0)
    _distinct([shard["file"] for shard in shards], "shards")
    return shards


def read_partitions(parts: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Reads the names of each partition's videos; no video is in two partitions."""
    found = {part: _names(parts[part], f"partition {part}") for part in PARTITIONS}
    _distinct([name for names in found.values() for name in names], "partitions")
    return found


def read_folds(
    folds: Mapping[str, Mapping[str, Any]], streams: Mapping[str, StreamSpec], videos: Iterable[str]
) -> dict[str, Fold]:
    """Reads the folds of ``dataset.json``, by name, and checks their statistics."""
    known = dict.fromkeys(videos)
    found = {}
    for name, row in folds.items():
        scored = row["scored_frames"]
        if scored is not None:
            start, stop = (_whole(value, f"scored frames of {name}", 0) for value in scored)
            scored = (start, stop)
        parts = {
            role: _names(row[role], f"{role} of fold {name}")
            for role in ("train", "validation", "test")
        }
        found[name] = Fold(name, **parts, scored_frames=scored)
        check_fold(found[name], known)
        _check_statistics(row["statistics"], streams, name)
    return found


def _check_statistics(
    statistics: Mapping[str, Any], streams: Mapping[str, StreamSpec], fold: str
) -> None:
    if statistics.keys() != streams.keys():
        raise ValueError(f"statistics of fold {fold} are not of the store's streams")
    for stream, moments in statistics.items():
        for key in ("mean", "std"):
            what = f"{key} of {stream} in fold {fold}"
            values = _list(moments[key], what)
            if len(values) != streams[stream].width:
                raise ValueError(f"{what} has {len(values)} numbers")
            if not {float, int} >= {*map(type, values)}:
                raise TypeError(f"{what} is not of numbers")
            array = np.asarray(values, np.float64)
            lowest = 0.0 if key == "std" else -_MAX_NUMBER
            if not ((lowest <= array) & (array <= _MAX_NUMBER)).all():
                raise ValueError(f"{what} is not of finite numbers")


def read_entries(
    rows: Sequence[Mapping[str, Any]],
    shards: Sequence[Mapping[str, Any]],
    streams: Mapping[str, StreamSpec],
    dtypes: Mapping[str, np.dtype],
    folder: Path,
) -> tuple[VideoEntry, ...]:
    """Reads the videos of ``index.json``.

    Args:
        rows: the rows of the index.
        shards: the shards of ``dataset.json``.
        streams: the streams of the store.
        dtypes: the dtype of each stream's rows.
        folder: the folder of the store, named in errors.

    Raises:
        InputError: a record lies outside its shard, or is shorter than what it has to hold.
    """
    entries = tuple(VideoEntry(**row) for row in _list(rows, "videos"))
    for entry in entries:
        _check_entry(entry, len(shards), streams)
        file = folder / shards[entry.shard]["file"]
        there = shards[entry.shard]["bytes"]
        end = entry.offset + FRAME_BYTES + entry.length
        if entry.offset < 0 or entry.length < 0 or end > there:
            raise _unlike(entry, file, "A record lies outside its shard.",
                          f"bytes {entry.offset} to {end}", f"within 0 to {there}")  # fmt: skip
        least = entry.num_frames * _TIME_BYTES + sum(
            count * (streams[name].width * dtypes[name].itemsize + _TIME_BYTES + _VALID_BYTES)
            for name, count in entry.rows.items()
        )
        if entry.length < least:
            raise _unlike(entry, file, "A record is not the one its index describes.",
                          f"{entry.length} bytes", f"at least {least} bytes")  # fmt: skip
    return entries


def _check_entry(entry: VideoEntry, shards: int, streams: Mapping[str, StreamSpec]) -> None:
    check_name(entry.name, "video name")
    check_name(entry.source_video, f"source video of {entry.name}")
    check_known([entry.partition], PARTITIONS, "partition", entry.name)
    for key in ("num_frames", "shard", "offset", "length", "crc"):
        _whole(getattr(entry, key), f"{key} of {entry.name}")
    _whole(entry.num_frames, f"num_frames of {entry.name}", 1)
    _whole(entry.shard, f"shard of {entry.name}", 0, shards - 1)
    fps = _real(entry.fps, f"fps of {entry.name}")
    if fps < 0 or (fps > 0 and (entry.num_frames - 1) / fps > MAX_SECONDS):
        raise ValueError(f"fps of {entry.name} is {fps}")
    if entry.rows.keys() != streams.keys():
        raise ValueError(f"{entry.name} does not have the store's streams")
    for stream, count in entry.rows.items():
        _whole(count, f"rows of {stream} of {entry.name}", 0)


def _unlike(entry: VideoEntry, file: Path, summary: str, found: str, expected: str) -> InputError:
    return InputError(
        summary,
        file=file,
        field=f"record of {entry.name}",
        found=found,
        expected=expected,
        remedy="copy the store again or build it again",
    )


def _list(value: Any, what: str) -> Sequence[Any]:
    """Returns ``value`` if it is a list; a text would be a sequence, too."""
    if not isinstance(value, list):
        raise TypeError(f"{what} is a {type(value).__name__}, not a list")
    return value


def _names(value: Any, what: str) -> tuple[str, ...]:
    names = tuple(_list(value, what))
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"{what} is not of names")
    return names


def _distinct(names: Sequence[str], what: str) -> None:
    if len(set(names)) < len(names):
        raise ValueError(f"{what} name something twice")


def _whole(value: Any, what: str, low: int | None = None, high: int | None = None) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{what} is {str(value)[:40]!r}, not a whole number")
    if (low is not None and value < low) or (high is not None and value > high):
        raise ValueError(f"{what} is {value}")
    return value


def _real(value: Any, what: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise TypeError(f"{what} is {str(value)[:40]!r}, not a finite number")
    return float(value)
