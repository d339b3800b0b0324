"""Tests that stores return the written data, with the right statistics, fast and in threads."""

import dataclasses
import json
import pickle
import shutil
import struct
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grain
import numpy as np
import pytest
from store_samples import (
    FOLDS,
    NAMES,
    RECORDS,
    SPECS,
    TASK_NAMES,
    check_same,
    make_record,
    write,
)
from tensorflow_datasets.proto import tf_example_pb2

from emojax.datasets import source as source_module
from emojax.datasets.folds import Fold, official_and_blocks
from emojax.datasets.record import StreamRows, VideoRecord
from emojax.datasets.source import Store
from emojax.datasets.store import StoreWriter
from emojax.specs import STREAMS, StreamSpec
from tests.refusals import refused


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("stores") / "tiny")


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


def test_round_trip(tiny: Path) -> None:
    with Store(tiny) as store:
        assert len(store) == len(RECORDS)
        for i, record in enumerate(RECORDS):
            check_same(store.read(i), record)
            assert store.index_of(record.name) == i
            entry = store.videos[i]
            assert (entry.name, entry.num_frames) == (record.name, record.num_frames)
            assert entry.fps == pytest.approx(25)
            assert entry.rows == {"face": 7, "voice": 7 + i}
        assert store.streams == {spec.name: spec for spec in SPECS}
        assert store.tasks == TASK_NAMES
        assert store.folds == {fold.name: fold for fold in FOLDS}
        assert store.partitions == {
            part: tuple(r.name for r in RECORDS if r.partition == part)
            for part in ("train", "validation", "test")
        }
        dtypes = {
            "float16": store[0].streams["face"].rows_ND,
            "float64": store[0].pts_N,
            "float32": store[0].labels["au"],
            "bool": store[0].streams["face"].valid_N,
        }
        assert {name: str(array.dtype) for name, array in dtypes.items()} == {
            name: name for name in dtypes
        }


def test_metadata(tmp_path: Path) -> None:
    path = write(
        tmp_path / "store",
        description="for tests",
        builder={"seed": 1, "sizes": (1, 2), "by_number": {10: "a", 9: "b"}},
        sources={"a.csv": "00ff"},
    )
    metadata = Store(path).metadata
    assert metadata["name"] == "tiny"
    assert metadata["description"] == "for tests"
    assert metadata["builder"]["seed"] == 1
    assert metadata["sources"] == {"a.csv": "00ff"}
    assert metadata["counts"]["videos"] == 6
    assert metadata["counts"]["frames"] == 6 * 7
    # Row 0 of the action units and the last row of valence and arousal are not annotated.
    assert metadata["counts"]["partitions"]["train"] == {
        "videos": 3,
        "frames": 21,
        "annotated": {"va": 18, "expr": 0, "au": 18},
    }
    for shard in metadata["shards"]:
        assert (path / shard["file"]).stat().st_size == shard["bytes"]
        assert shard["records"] == 2


def test_arrays_are_read_only_views_of_the_map_that_outlive_the_store(tiny: Path) -> None:
    store = Store(tiny)
    first, again = store.read(1), store.read(1)
    rows_ND = first.streams["face"].rows_ND
    assert np.shares_memory(rows_ND, again.streams["face"].rows_ND)
    assert not rows_ND.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        rows_ND[0, 0] = 1
    store.close()
    check_same(first, RECORDS[1])
    with pytest.raises(RuntimeError, match="closed"):
        store.read(1)


def test_rows_that_are_not_valid_are_stored_as_zeros(tmp_path: Path) -> None:
    rows_ND = np.arange(21.0).reshape(7, 3)
    valid_N = np.ones(7, bool)
    valid_N[[0, 3]] = False
    rows_ND[0] = np.nan
    rows_ND[3] = np.inf
    voice = StreamRows(np.zeros((0, 2)), np.zeros(0), np.zeros(0, bool))
    record = dataclasses.replace(
        RECORDS[0], streams={"voice": voice, "face": StreamRows(rows_ND, np.arange(7), valid_N)}
    )
    stored = Store(write(tmp_path / "store", [record], [])).read(0)
    expected = np.where(valid_N[:, None], rows_ND, 0)
    np.testing.assert_array_equal(stored.streams["face"].rows_ND, expected)
    assert stored.streams["voice"].rows_ND.shape == (0, 2)


@pytest.mark.parametrize("given", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_stored_dtype(tmp_path: Path, dtype: str, given: type) -> None:
    rows_ND = np.array([[1.0, -65504, 0.1]] * 7).astype(given)
    face = StreamRows(rows_ND, np.arange(7), np.ones(7, bool))
    record = dataclasses.replace(
        RECORDS[0], streams={"face": face, "voice": RECORDS[0].streams["voice"]}
    )
    store = Store(write(tmp_path / "store", [record], [], dtype=dtype))
    stored_ND = store.read(0).streams["face"].rows_ND
    assert stored_ND.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(stored_ND, rows_ND.astype(dtype))


def test_a_single_frame(tmp_path: Path) -> None:
    record = make_record(0, frames=1)
    store = Store(write(tmp_path / "store", [record], []))
    assert store.videos[0].fps == 0
    check_same(store.read(0), record)


def test_shards_read_by_other_parsers(tiny: Path) -> None:
    found = []
    for path in sorted(tiny.glob("*.tfrecord")):
        data, payloads = path.read_bytes(), []
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            payloads.append(data[12 : 12 + length])
            data = data[16 + length :]
        assert list(grain.experimental.TFRecordIterDataset(str(path))) == payloads
        found += payloads
    for payload, record in zip(found, RECORDS, strict=True):
        features = tf_example_pb2.Example.FromString(payload).features.feature
        values = {key: feature.bytes_list.value[0] for key, feature in features.items()}
        assert values["name"].decode() == record.name
        assert json.loads(values["attributes"]) == record.attributes
        np.testing.assert_array_equal(np.frombuffer(values["pts"]), record.pts_N)
        for name, rows in record.streams.items():
            stored = np.frombuffer(values[f"streams/{name}/rows"], np.float16)
            np.testing.assert_array_equal(stored, rows.rows_ND.ravel())
            assert list(values[f"streams/{name}/valid"]) == rows.valid_N.tolist()
        labels = np.frombuffer(values["labels/au"], np.float32)
        np.testing.assert_array_equal(labels, record.labels["au"].ravel())


# Statistics.


def test_statistics_are_those_of_the_valid_training_rows(tmp_path: Path) -> None:
    spec = StreamSpec("face", 4, "visual")
    rng = np.random.default_rng(0)
    offsets = np.array([0.0, 300, -40, 1e-3])
    records = []
    # More rows than one chunk of the moments, a video without valid rows, an empty one.
    for i, count in enumerate([2500, 10, 0, 40, 1]):
        rows_ND = (offsets + rng.normal(size=(count, 4))).astype(np.float32)
        valid_N = (rng.random(count) < 0.5) & (i != 1)
        rows = StreamRows(rows_ND, np.arange(count), valid_N)
        records.append(dataclasses.replace(make_record(i), streams={"face": rows}))
    names = [record.name for record in records]
    folds = [Fold("a", tuple(names[:3]), (names[3],)), Fold("b", tuple(names[1:]), ())]
    store = Store(write(tmp_path / "store", records, folds, streams=[spec]))
    for fold in folds:
        used = [store.read(store.index_of(name)).streams["face"] for name in fold.train]
        rows_ND = np.concatenate([x.rows_ND[x.valid_N] for x in used]).astype(np.float64)
        mean_D, std_D = store.statistics(fold.name)["face"]
        assert mean_D.dtype == std_D.dtype == np.float64
        np.testing.assert_allclose(mean_D, rows_ND.mean(0), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(std_D, rows_ND.std(0), rtol=1e-12)
        assert store.metadata["folds"][fold.name]["statistics"]["face"]["count"] == len(rows_ND)


def test_constant_columns_get_a_deviation_of_one(tmp_path: Path) -> None:
    rows = StreamRows(np.array([[0, 0.1, 1], [0, 0.1, 2]]), np.arange(2), np.ones(2, bool))
    streams = {"face": rows, "voice": RECORDS[0].streams["voice"]}
    record = dataclasses.replace(RECORDS[0], streams=streams)
    store = Store(write(tmp_path / "store", [record], [Fold("0", (record.name,), ())]))
    np.testing.assert_allclose(store.statistics("0")["face"][1], [1, 1, 0.5])


# Using a store.


def test_each_record_is_verified_once_among_threads(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: Counter[int] = Counter()
    original = source_module.check_record

    def counting(buffer: memoryview, offset: int, *rest: Any, **options: Any) -> None:
        checked[(rest[0], offset)] += 1
        time.sleep(0.005)
        original(buffer, offset, *rest, **options)

    monkeypatch.setattr(source_module, "check_record", counting)
    store = Store(tiny)
    assert not checked
    errors: list[Exception] = []

    def work(seed: int) -> None:
        try:
            for i in np.random.default_rng(seed).permutation(len(store)):
                check_same(store.read(i), RECORDS[i])
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert list(checked.values()) == [1] * len(store)


def test_pickle(copy: Path) -> None:
    store = Store(copy)
    store.read(0)
    sent = pickle.dumps(store)
    assert len(sent) < 1000
    received = pickle.loads(sent)
    check_same(received.read(2), RECORDS[2])
    assert repr(received) == repr(store)
    write(copy, RECORDS[:3], [], overwrite=True)
    with refused(file="dataset.json", field="checksum"):
        pickle.loads(sent)


def test_grain_source(tiny: Path) -> None:
    dataset = grain.MapDataset.source(Store(tiny)).shuffle(seed=1).map(lambda r: r.name)
    assert sorted(dataset.to_iter_dataset()) == sorted(NAMES)


def test_opening_594_videos_takes_less_than_a_fifth_of_a_second(tmp_path: Path) -> None:
    specs = [STREAMS[name] for name in ("ir50", "vggish", "bert")]
    streams = {
        spec.name: StreamRows(np.ones((3, spec.width)), np.arange(3), np.ones(3, bool))
        for spec in specs
    }
    with StoreWriter(tmp_path / "store", name="wide", streams=specs, tasks=["va"]) as writer:
        for i in range(594):
            part = "train" if i % 5 else "validation"
            writer.add(VideoRecord(f"v{i}", f"v{i}", part, np.arange(3), streams, {}))
        writer.finish(official_and_blocks([(f"v{i}", f"v{i}", "train") for i in range(594)]))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        Store(tmp_path / "store")
        times.append(time.perf_counter() - start)
    assert min(times) < 0.2
