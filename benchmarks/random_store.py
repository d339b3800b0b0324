"""Writes stores of random numbers at full width, to measure the cost of feeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from emojax.datasets.folds import Fold
from emojax.datasets.record import StreamRows, VideoRecord
from emojax.datasets.source import Store
from emojax.datasets.store import StoreWriter
from emojax.specs import TASKS, StreamSpec

_FPS = 30.0


def random_store(
    path: Path,
    streams: Mapping[str, StreamSpec],
    tasks: Sequence[str],
    *,
    folds: int,
    frames: int,
    videos_per_fold: int = 1,
) -> Store:
    """Writes a store whose fold k validates on its videos k and trains on the others.

    With one fold, all videos but the last ``videos_per_fold`` train.

    Args:
        path: the folder to make.
        streams: name -> specification.
        tasks: the tasks, labelled on every frame.
        folds: the number of folds, named "0", "1" and so on.
        frames: the number of frames of each video, at 30 per second.
        videos_per_fold: the number of videos in each block of the folds.
    """
    rng = np.random.default_rng(0)
    blocks = max(2, folds)
    names = [f"video-{block}-{i}" for block in range(blocks) for i in range(videos_per_fold)]
    pts_N = np.arange(frames) / _FPS
    with StoreWriter(path, name="random", streams=list(streams.values()), tasks=tasks) as writer:
        for name in names:
            rows = {}
            for spec in streams.values():
                count = frames if spec.rate is None else max(1, int(frames / _FPS * spec.rate))
                rows[spec.name] = StreamRows(
                    rows_ND=rng.standard_normal((count, spec.width), np.float32).astype(np.float16),
                    pts_N=np.arange(count) / (spec.rate or _FPS),
                    valid_N=np.ones(count, bool),
                )
            writer.add(
                VideoRecord(
                    name=name,
                    source_video=name,
                    partition="train",
                    pts_N=pts_N,
                    streams=rows,
                    labels={task: _labels(rng, task, frames) for task in tasks},
                    references={},
                )
            )
        writer.finish([_fold(names, blocks, number) for number in range(folds)])
    return Store(path)


def _labels(rng: np.random.Generator, task: str, frames: int) -> np.ndarray:
    row = TASKS[task]
    if row.kind == "continuous":
        return rng.uniform(-1, 1, (frames, row.columns)).astype(np.float32)
    top = row.outputs if row.kind == "categorical" else 2
    return rng.integers(0, top, (frames, row.columns)).astype(np.float32)


def _fold(names: Sequence[str], blocks: int, number: int) -> Fold:
    # Fold 0 validates on the last block.
    size = len(names) // blocks
    block = (blocks - 1 + number) % blocks
    validation = tuple(names[block * size : (block + 1) * size])
    train = tuple(name for name in names if name not in validation)
    return Fold(str(number), train, validation, ())
