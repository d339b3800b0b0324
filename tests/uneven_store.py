"""Stores of uneven videos: frames and rows at irregular times, with gaps and missing labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from emojax.datasets.folds import Fold
from emojax.datasets.record import StreamRows, VideoRecord
from emojax.datasets.source import Store
from emojax.datasets.store import StoreWriter
from emojax.specs import TASKS, StreamSpec

LENGTHS = (1, 2, 3, 9, 23, 61, 90)
STREAMS = (
    StreamSpec("frames", 3, "visual"),
    StreamSpec("slow", 1, "audio", 5.0),
    StreamSpec("fast", 2, "audio", 400.0),
)
NAMES = tuple(spec.name for spec in STREAMS)


def uneven_record(number: int, num_frames: int) -> VideoRecord:
    """Returns a video of uneven frames and rows: gaps, instants that come twice, an early end."""
    rng = np.random.default_rng(number)
    pts_N = 3.0 + np.cumsum(rng.uniform(0.01, 0.09, num_frames))
    pts_N += 2.0 * (np.arange(num_frames) > num_frames // 2)
    rows = {}
    for spec in STREAMS:
        times = pts_N
        if spec.rate is not None:
            count = int((pts_N[-1] - pts_N[0] + 1) * spec.rate)
            times = pts_N[0] - 0.4 + np.cumsum(rng.exponential(1 / spec.rate, count))
            # Some rows are missing altogether, and many are at one instant.
            times = times[rng.random(count) > 0.2]
            times = np.round(times, 1) if number % 3 == 2 else times
            times = times[: len(times) * 2 // 3] if number % 2 else times
        valid = np.repeat(rng.random(len(times) // 5 + 1) > 0.3, 5)[: len(times)]
        if spec.name == "slow" and number == 4:
            valid[:] = False
        values = rng.normal(0, 3, (len(times), spec.width)) * valid[:, None]
        rows[spec.name] = StreamRows(values.astype(np.float32), times, valid)
    va = rng.uniform(-1, 1, (num_frames, 2)).astype(np.float32)
    va[rng.random(num_frames) < 0.3] = TASKS["va"].ignore
    labels = {"va": va}
    if number != 3:
        labels["expr"] = rng.integers(-1, 8, (num_frames, 1)).astype(np.float32)
    name = f"video-{number}"
    return VideoRecord(name, name, "train", pts_N, rows, labels)


def build_uneven_store(path: Path, dtype: str) -> Store:
    """Video k has ``LENGTHS[k]`` frames; folds "a" and "b" share videos."""
    names = [f"video-{number}" for number in range(len(LENGTHS))]
    folds = [
        Fold("a", tuple(names[:5]), tuple(names[5:])),
        Fold("b", tuple(names[2:]), tuple(names[:2])),
    ]
    tasks = ("va", "expr")
    with StoreWriter(path, name="uneven", streams=STREAMS, tasks=tasks, dtype=dtype) as writer:
        for number, num_frames in enumerate(LENGTHS):
            writer.add(uneven_record(number, num_frames))
        writer.finish(folds)
    return Store(path)


def names_of(store: Store) -> list[str]:
    return [video.name for video in store.videos]
