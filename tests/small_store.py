"""A small store with learnable labels, for tests of everything above the store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emojax.datasets.folds import official_and_blocks
from emojax.datasets.record import StreamRows, VideoRecord
from emojax.datasets.store import StoreWriter
from emojax.specs import TASKS, StreamSpec

STREAMS = (
    StreamSpec("ir50", 8, "visual"),
    StreamSpec("vggish", 6, "audio", 40.0),
)


def make_record(
    name: str,
    partition: str,
    *,
    num_frames: int,
    seed: int,
    tasks: Sequence[str] = ("va",),
    streams: Sequence[StreamSpec] = STREAMS,
    dtype: str = "float16",
) -> VideoRecord:
    """Returns one video: labels are a smooth signal that each stream shows with some noise."""
    rng = np.random.default_rng(seed)
    pts_N = np.arange(num_frames) / 25.0 + rng.uniform(0, 0.2)
    phase = rng.uniform(0, 6.28, (2, 1))
    speed = rng.uniform(0.3, 1.2, (2, 1))

    def signal(pts: np.ndarray) -> np.ndarray:
        return (0.6 * np.sin(speed * pts[None] + phase)).T

    rows = {}
    for k, spec in enumerate(streams):
        count = num_frames if spec.rate is None else int(num_frames / 25.0 * spec.rate)
        row_pts = pts_N[0] + np.arange(count) / (spec.rate or 25.0)
        mixing = np.random.default_rng(100 + k).normal(size=(2, spec.width))
        values = signal(row_pts) @ mixing + 0.3 * rng.normal(size=(count, spec.width))
        valid = rng.random(count) > 0.1
        rows[spec.name] = StreamRows(
            rows_ND=np.where(valid[:, None], values, 0).astype(dtype),
            pts_N=row_pts,
            valid_N=valid,
        )
    labels = {}
    if "va" in tasks:
        labels["va"] = signal(pts_N).astype(np.float32)
        labels["va"][rng.random(num_frames) < 0.1] = TASKS["va"].ignore
    if "expr" in tasks:
        labels["expr"] = (np.arange(num_frames)[:, None] // 20 % 8).astype(np.float32)
    if "au" in tasks:
        labels["au"] = (rng.random((num_frames, 12)) < 0.4).astype(np.float32)
    source = name.removesuffix("_left").removesuffix("_right")
    return VideoRecord(
        name=name,
        source_video=source,
        partition=partition,
        pts_N=pts_N,
        streams=rows,
        labels=labels,
        references={},
    )


def build_small_store(
    path: Path,
    *,
    lengths: Sequence[int] = (37, 64, 90, 20, 55, 71),
    validation_lengths: Sequence[int] = (45, 33),
    test_lengths: Sequence[int] = (41,),
    folds: int = 3,
    tasks: Sequence[str] = ("va",),
    streams: Sequence[StreamSpec] = STREAMS,
    dtype: str = "float16",
) -> Path:
    """Writes a finished store and returns its path."""
    videos = []
    with StoreWriter(path, name="small", streams=streams, tasks=tasks, dtype=dtype) as writer:
        parts = {"train": lengths, "validation": validation_lengths, "test": test_lengths}
        seed = 0
        for partition, counts in parts.items():
            for i, num_frames in enumerate(counts):
                record = make_record(
                    f"{partition}-{i}",
                    partition,
                    num_frames=num_frames,
                    seed=seed,
                    tasks=tasks,
                    streams=streams,
                    dtype=dtype,
                )
                writer.add(record)
                videos.append((record.name, record.source_video, partition))
                seed += 1
        writer.finish(official_and_blocks(videos, k=folds))
    return path


def small_config(store: Path, **train: object) -> dict:
    """Returns a configuration of RJCMA that trains on the small store in seconds."""
    return {
        "data": {
            "store": str(store),
            "streams": ["ir50", "vggish"],
            "tasks": ["va"],
            "window": 32,
            "stride": 20,
            "batch_size": 4,
            "random_offset": True,
            "resampling": {},
        },
        "model": {
            "name": "rjcma",
            "variant": "paper",
            "recursions": 2,
            "temporal": "tcn",
            "channels": {"ir50": [8, 8], "vggish": [8, 8]},
            "temporal_dropout": 0.1,
            "dropout": 0.1,
            "head_width": 16,
            "heads": "per_target",
            "dtype": "float32",
        },
        "loss": {"va": "ccc"},
        "replicas": {"folds": ["0"], "targets": ["valence", "arousal"], "seeds": [0]},
        "train": {
            "epochs": 3,
            "epoch_steps": 5,
            "optimizer": "adam_l2",
            "learning_rate": 3e-3,
            "weight_decay": 1e-3,
            "clip_norm": 0.0,
            "warmup": "linear",
            "warmup_epochs": 1,
            "plateau_patience": 5,
            "plateau_factor": 0.1,
            "minimum_rate": 1e-8,
            "releases": 2,
            "reload_best": False,
            "stop_patience": 50,
        }
        | train,
        "evaluation": {"selection": {"va": "ccc"}},
    }


def coded_record(
    name: str,
    partition: str,
    *,
    number: int,
    num_frames: int,
    rates: dict[str, float],
    seed: int = 0,
) -> VideoRecord:
    """Returns a video whose content tells where it comes from.

    Stream "frames" has rows (frame index, ``number``), one a frame. Each stream of ``rates``
    has rows (seconds since the first frame), on a clock of its own that starts half a second
    earlier or later than the frames and has no row of the frames' instants. Labels are
    (frame index / 1024, number / 1024), all exact in float16; a tenth are not annotated.
    """
    rng = np.random.default_rng([seed, number])
    # Presentation times of a real video: neither from 0 nor quite regular.
    pts_N = 5.0 + np.cumsum(rng.uniform(0.03, 0.05, num_frames))
    index_N = np.arange(num_frames)
    coded_N2 = np.stack([index_N, np.full(num_frames, number)], axis=1)
    rows = {"frames": StreamRows(coded_N2.astype(np.float32), pts_N, np.ones(num_frames, bool))}
    for k, (stream, rate) in enumerate(rates.items()):
        start = pts_N[0] + (-0.5 if k % 2 == 0 else 0.5) + 0.1 / rate
        row_pts = np.arange(start, pts_N[-1] + 0.5, 1 / rate)
        valid = np.ones(len(row_pts), bool)
        since = (row_pts - pts_N[0])[:, None].astype(np.float32)
        rows[stream] = StreamRows(since, row_pts, valid)
    labels = (coded_N2 / 1024).astype(np.float32)
    labels[rng.random(num_frames) < 0.1] = TASKS["va"].ignore
    return VideoRecord(
        name=name,
        source_video=name,
        partition=partition,
        pts_N=pts_N,
        streams=rows,
        labels={"va": labels},
        references={},
    )


def build_coded_store(
    path: Path,
    *,
    lengths: Sequence[int],
    validation_lengths: Sequence[int] = (9,),
    rates: dict[str, float] | None = None,
    tasks: Sequence[str] = ("va",),
) -> Path:
    """Returns a store of ``coded_record`` videos; ``number`` counts all videos from 0."""
    rates = {} if rates is None else rates
    streams = [StreamSpec("frames", 2, "visual")]
    streams += [StreamSpec(name, 1, "audio", rate) for name, rate in rates.items()]
    videos = []
    with StoreWriter(path, name="coded", streams=streams, tasks=tasks, dtype="float32") as writer:
        for number, num_frames in enumerate([*lengths, *validation_lengths]):
            partition = "train" if number < len(lengths) else "validation"
            record = coded_record(
                f"video-{number}", partition, number=number, num_frames=num_frames, rates=rates
            )
            writer.add(record)
            videos.append((record.name, record.source_video, partition))
        writer.finish(official_and_blocks(videos, k=1))
    return path
