"""A store as TFDS reads it, compared with the store array by array; no TensorFlow anywhere."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emojax.datasets.source import Store
from emojax.datasets.tfds_dataset import fold_splits, tfds_name, write_tfds
from emojax.specs import TASKS
from tests.refusals import refused
from tests.store_samples import FOLDS, NAMES, RECORDS, write

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Returns six videos with labels for two of three tasks, odd clocks, and a reference."""
    folder = tmp_path_factory.mktemp("tfds_store")
    return Store(write(folder / "store", description="Six made-up videos."))


@pytest.fixture(scope="module")
def folder(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tfds(
        store,
        tmp_path_factory.mktemp("tfds") / "data",
        citation="@misc{us}",
        license_text="for tests alone",
        homepage="https://example.org",
        videos_per_shard=2,
    )


@pytest.fixture(scope="module")
def builder(folder: Path) -> Any:
    import tensorflow_datasets as tfds

    return tfds.builder_from_directory(folder)


def same(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal bit for bit, dtype and shape included."""
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()


def test_every_array_of_every_video_is_the_store_s(store: Store, builder: Any) -> None:
    seen = []
    for part, names in store.partitions.items():
        videos = builder.as_data_source(split=part)
        assert len(videos) == len(names)
        # Backwards, since access is random.
        for i in reversed(range(len(names))):
            example, record = videos[i], store.read(store.index_of(names[i]))
            seen.append(example["name"].decode())
            assert seen[-1] == record.name
            assert example["source_video"].decode() == record.source_video
            assert json.loads(example["attributes"]) == record.attributes
            same(example["pts"], record.pts_N)
            assert set(example["streams"]) == set(record.streams)
            for name, rows in record.streams.items():
                same(example["streams"][name]["rows"], rows.rows_ND)
                same(example["streams"][name]["pts"], rows.pts_N)
                same(example["streams"][name]["valid"], rows.valid_N)
            assert set(example["labels"]) == set(store.tasks)
            for task, values in example["labels"].items():
                nothing = np.zeros((0, TASKS[task].columns), np.float32)
                same(values, record.labels.get(task, nothing))
            same(example["references"]["optimum"]["va"], record.references["optimum"]["va"])
    assert sorted(seen) == sorted(NAMES)


def test_folds_are_split_expressions(store: Store, builder: Any) -> None:
    for fold in store.folds.values():
        splits = builder.info.metadata["folds"][fold.name]
        for role in ("train", "validation", "test"):
            names = getattr(fold, role)
            assert (role in splits) == bool(names)
            if names:
                videos = builder.as_data_source(split=splits[role])
                assert [video["name"].decode() for video in videos] == list(names)
    assert builder.info.metadata["scored_frames"] == {"scored": [2, 5]}
    official = fold_splits(store)[FOLDS[0].name]
    assert official["train"] == f"train[0:{len(store.partitions['train'])}]"


def test_what_the_data_are_is_written_down(store: Store, builder: Any) -> None:
    info = builder.info
    assert (info.name, str(info.version)) == ("tiny", "1.0.0")
    assert "Six made-up videos." in info.description
    assert "6 videos of 42 frames" in info.description
    assert info.citation == "@misc{us}"
    assert info.redistribution_info.license == "for tests alone"
    assert info.homepage == "https://example.org"
    assert info.splits["train"].num_examples == len(store.partitions["train"])
    assert info.splits["train"].num_shards == 2
    features = info.features
    assert features["streams"]["face"]["rows"].shape == (None, 3)
    assert features["streams"]["face"]["rows"].np_dtype == np.float16
    assert "10 rows per second" in str(features["streams"]["voice"].doc)
    assert "seconds" in str(features["pts"].doc)
    assert "-5 where a frame is not annotated" in str(features["labels"]["va"].doc)
    assert info.metadata["tasks"]["au"]["labels"] == list(TASKS["au"].labels)
    assert info.metadata["videos"] == {part: list(x) for part, x in store.partitions.items()}
    assert info.metadata["store"]["checksum"] == store.metadata["checksum"]


def test_tfds_finds_it_by_name(folder: Path) -> None:
    import tensorflow_datasets as tfds

    videos = tfds.data_source("tiny", split="test", data_dir=folder.parents[1])
    assert [video["name"].decode() for video in videos] == [NAMES[3]]
    loaded = tfds.builder("tiny:1.0.0", data_dir=folder.parents[1])
    assert loaded.info.splits.total_num_examples == len(NAMES)


def test_a_store_without_references_or_annotations(tmp_path: Path) -> None:
    import tensorflow_datasets as tfds

    bare = [dataclasses.replace(r, labels={}, references={}, partition="train") for r in RECORDS]
    with Store(write(tmp_path / "store", bare, folds=[], dtype="float32")) as store:
        path = write_tfds(store, tmp_path / "tfds", version="2.1.0")
        found = tfds.builder_from_directory(path)
        assert list(found.info.splits) == ["train"]
        videos = found.as_data_source(split="train")
        assert "references" not in videos[0]
        assert videos[0]["labels"]["au"].shape == (0, 12)
        same(videos[5]["streams"]["face"]["rows"], store.read(5).streams["face"].rows_ND)
        with refused(field="--out", remedy="--overwrite"):
            write_tfds(store, tmp_path / "tfds", version="2.1.0")
        assert write_tfds(store, tmp_path / "tfds", version="2.1.0", overwrite=True) == path
        (path / "features.json").unlink()
        for field, options in [
            ("--out", {"version": "2.1.0", "overwrite": True}),
            ("--version", {"version": "1.0"}),
            ("--videos_per_shard", {"videos_per_shard": 0}),
        ]:
            with refused(field=field):
                write_tfds(store, tmp_path / "tfds", **options)
        (tmp_path / "file").write_text("")
        with refused(field="--out", found="a file"):
            write_tfds(store, tmp_path / "file")
    assert not list(tmp_path.rglob("*.partial*"))


def test_a_damaged_store_leaves_nothing_behind(tmp_path: Path) -> None:
    path = write(tmp_path / "store")
    shard = sorted(path.glob("*.tfrecord"))[-1]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with Store(path) as store, refused(field="checksum of the record"):
        write_tfds(store, tmp_path / "tfds")
    assert not [found for found in tmp_path.rglob("*") if "partial" in found.name]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Aff-Wild2", "aff_wild2"), ("meld", "meld"), ("7 ABAW!", "store_7_abaw"), ("ä", "store")],
)
def test_names_are_those_that_tfds_allows(name: str, expected: str) -> None:
    assert tfds_name(name) == expected


@pytest.mark.slow
def test_the_command_says_how_to_open_it(store: Store, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "data.tfds"]
    done = subprocess.run(
        [*command, f"--store={store.path}", f"--out={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert "6 videos" in done.stdout
    assert f'builder_from_directory("{tmp_path / "tiny" / "1.0.0"}")' in done.stdout
    assert "tensorflow" not in sys.modules
