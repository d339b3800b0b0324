"""Small videos and stores that several tests share."""

from pathlib import Path
from typing import Any

import numpy as np

from emojax.datasets.folds import Fold, official_and_blocks
from emojax.datasets.record import StreamRows, VideoRecord
from emojax.datasets.source import Store
from emojax.datasets.store import StoreWriter
from emojax.specs import StreamSpec

SPECS = (StreamSpec("face", 3, "visual"), StreamSpec("voice", 2, "audio", 10.0))
TASK_NAMES = ("va", "expr", "au")


def make_record(number: int, partition: str = "train", frames: int = 7) -> VideoRecord:
    rng = np.random.default_rng(number)

    def rows(count: int, width: int) -> StreamRows:
        valid_N = rng.random(count) < 0.7
        values_ND = rng.normal(3, 2, (count, width)) * valid_N[:, None]
        return StreamRows(values_ND.astype(np.float16), np.arange(count) / 10, valid_N)

    au = rng.integers(0, 2, (frames, 12)).astype(np.float32)
    au[0] = -1
    au[1:2, :6] = -1
    va = rng.uniform(-1, 1, (frames, 2)).astype(np.float32)
    va[-1] = -5
    return VideoRecord(
        name=f"{number}-1920x1080_left",
        source_video=f"{number}-1920x1080",
        partition=partition,
        pts_N=0.01 + np.arange(frames) / 25,
        streams={"face": rows(frames, 3), "voice": rows(frames + number, 2)},
        labels={"va": va, "au": au},
        references={"optimum": {"va": va / 2}},
        attributes={"subject": str(number), "note": "ä \n"},
    )


RECORDS = [make_record(i, ["train", "validation", "train", "test"][i % 4]) for i in range(6)]
NAMES = [record.name for record in RECORDS]
FOLDS = official_and_blocks([(r.name, r.source_video, r.partition) for r in RECORDS], k=3) + [
    Fold("scored", (NAMES[0],), (), (NAMES[3],), scored_frames=(2, 5))
]


def write(
    path: Path,
    records: list[VideoRecord] = RECORDS,
    folds: list[Fold] = FOLDS,
    **options: Any,
) -> Path:
    options = {"videos_per_shard": 2, "streams": SPECS, "tasks": TASK_NAMES, **options}
    with StoreWriter(path, name="tiny", **options) as writer:
        for record in records:
            writer.add(record)
        writer.finish(folds)
    return path


def check_same(a: VideoRecord, b: VideoRecord) -> None:
    for field in ("name", "source_video", "partition", "attributes", "num_frames"):
        assert getattr(a, field) == getattr(b, field)
    np.testing.assert_array_equal(a.pts_N, b.pts_N)
    assert list(a.streams) == list(b.streams)
    for name, rows in a.streams.items():
        np.testing.assert_array_equal(rows.rows_ND, b.streams[name].rows_ND)
        np.testing.assert_array_equal(rows.pts_N, b.streams[name].pts_N)
        np.testing.assert_array_equal(rows.valid_N, b.streams[name].valid_N)
    assert set(a.labels) == set(b.labels)
    for task, labels in a.labels.items():
        np.testing.assert_array_equal(labels, b.labels[task])
    assert set(a.references) == set(b.references)
    for name, tasks in a.references.items():
        assert set(tasks) == set(b.references[name])
        for task, values in tasks.items():
            np.testing.assert_array_equal(values, b.references[name][task])


def contents(store: Store) -> list[Any]:
    return [
        [store.name, store.streams, store.tasks, store.folds, store.partitions, store.videos],
        {key: value for key, value in store.metadata.items() if key != "checksum"},
        [store.read(i) for i in range(len(store))],
    ]
