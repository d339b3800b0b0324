"""Flipped, truncated, mixed up or hand-made stores are refused with an error that helps."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store_samples import RECORDS, check_same, contents, make_record, write

from emojax.datasets.documents import read_document, write_document
from emojax.datasets.folds import Fold
from emojax.datasets.source import Store
from emojax.errors import InputError
from tests.refusals import refused


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("stores") / "tiny")


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Edits a JSON file of a store and makes its checksum right again."""
    content = read_document(path)
    del content["checksum"]
    change(content)
    write_document(path, content)


def same_or_refused(path: Path, expected: list[Any]) -> bool:
    """True if refused; fails when other data is read or another error is raised."""
    try:
        found = contents(Store(path))
    except InputError:
        return True
    assert found[:2] == expected[:2]
    for a, b in zip(found[2], expected[2], strict=True):
        check_same(a, b)
    return False


@pytest.mark.parametrize("file", ["videos-00000.tfrecord", "index.json", "dataset.json"])
def test_flipping_any_byte_is_refused_or_harmless(tmp_path: Path, file: str) -> None:
    records = [make_record(i, frames=2) for i in range(2)]
    folds = [Fold("0", (records[0].name,), (records[1].name,))]
    path = write(tmp_path / "store", records, folds)
    expected = contents(Store(path))
    target = path / file
    good = target.read_bytes()
    rng = np.random.default_rng(0)
    outcomes = []
    for position in range(len(good)):
        bad = bytearray(good)
        # Single bits above all: they turn spaces, digits and letters into each other.
        bad[position] ^= 1 << int(rng.integers(8)) if position % 4 else int(rng.integers(1, 256))
        # In place and not through open("wb"), which would truncate maps of former stores.
        with target.open("r+b") as opened:
            opened.write(bad)
        outcomes.append(same_or_refused(path, expected))
    # White space between JSON values may change harmlessly; every byte of a shard matters.
    assert all(outcomes) if file.endswith("tfrecord") else np.mean(outcomes) > 0.9


def test_truncating_a_shard_at_any_length(copy: Path) -> None:
    shard = copy / "videos-00001.tfrecord"
    size = shard.stat().st_size
    for length in [*range(0, size, 7), size - 1]:
        os.truncate(shard, length)
        with refused(file=shard, field="size", found=f"{length} bytes"):
            Store(copy)
        os.truncate(shard, size)


def test_truncating_a_shard_after_opening(copy: Path) -> None:
    store = Store(copy)
    for length in (0, 100):
        os.truncate(copy / "videos-00001.tfrecord", length)
        with pytest.raises(InputError):
            store.read(2)
    check_same(store.read(0), RECORDS[0])


def test_verify_all_finds_a_flipped_byte_at_once(copy: Path) -> None:
    shard = copy / "videos-00002.tfrecord"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    Store(copy)
    with refused(file=shard, field="checksum of the record"):
        Store(copy, verify="all")


def append_bytes(path: Path) -> None:
    with (path / "videos-00000.tfrecord").open("ab") as file:
        file.write(b"x")


def index_of_another_build(path: Path) -> None:
    other = write(path.parent / "other", [make_record(i) for i in range(7, 13)], [])
    shutil.copy(other / "index.json", path)


def swap_records(path: Path) -> None:
    def change(index: dict[str, Any]) -> None:
        a, b = index["videos"][:2]
        for key in ("offset", "length", "crc"):
            a[key], b[key] = b[key], a[key]

    rewrite(path / "index.json", change)


def set_video(key: str, value: Any) -> Callable[[Path], None]:
    return lambda path: rewrite(
        path / "index.json", lambda index: index["videos"][0].update({key: value})
    )


def set_shard(value: str) -> Callable[[Path], None]:
    """Returns a consistent store, made by hand, whose shard lies elsewhere."""

    def change(content: dict[str, Any]) -> None:
        content["shards"][0]["file"] = value

    def damage(path: Path) -> None:
        shutil.copy(path / "videos-00000.tfrecord", path.parent / "outside.tfrecord")
        rewrite(path / "dataset.json", change)
        rewrite(path / "index.json", change)

    return damage


def set_metadata(key: str, value: Any) -> Callable[[Path], None]:
    return lambda path: rewrite(path / "dataset.json", lambda content: content.update({key: value}))


def remove(name: str) -> Callable[[Path], None]:
    return lambda path: (path / name).unlink()


def fill(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda path: (path / name).write_bytes(content) and None


@pytest.mark.parametrize(
    ("damage", "file", "field"),
    [
        (shutil.rmtree, "copy", "store"),
        (remove("dataset.json"), "copy", "store"),
        (remove("index.json"), "index.json", "contents"),
        (remove("videos-00001.tfrecord"), "videos-00001.tfrecord", "size"),
        (append_bytes, "videos-00000.tfrecord", "size"),
        (index_of_another_build, "index.json", "shards"),
        (swap_records, "videos-00000.tfrecord", "record at byte"),
        (set_video("offset", 10**9), "videos-00000.tfrecord", "record of 0-1920x1080_left"),
        (set_video("offset", -5), "videos-00000.tfrecord", "record of 0-1920x1080_left"),
        (set_video("length", 10), "videos-00000.tfrecord", "record of 0-1920x1080_left"),
        (set_video("crc", 5), "videos-00000.tfrecord", "data checksum against the index"),
        (set_video("shard", 7), "index.json", "contents"),
        (set_video("num_frames", 9), "videos-00000.tfrecord", "record at byte 0"),
        (set_video("partition", "test"), "videos-00000.tfrecord", "record at byte 0"),
        (set_video("extra", 1), "index.json", "contents"),
        (set_video("name", "../x"), "index.json", "video name"),
        (set_shard("../outside.tfrecord"), "dataset.json", "shard file"),
        (set_shard("/etc/passwd"), "dataset.json", "shard file"),
        (set_metadata("streams", "x"), "dataset.json", "contents"),
        (set_metadata("tasks", ["pain"]), "dataset.json", "tasks"),
        (set_metadata("dtype", "int8"), "dataset.json", "dtype"),
        (set_metadata("dtype", "float32"), "videos-00000.tfrecord", "contents"),
        (set_metadata("partitions", {}), "dataset.json", "contents"),
        (fill("dataset.json", b"{"), "dataset.json", "contents"),
        (fill("dataset.json", b"[]"), "dataset.json", "format_version"),
        (fill("dataset.json", b'{"format_version": 99}'), "dataset.json", "format_version"),
        (fill("dataset.json", b'{"format_version": 1}'), "dataset.json", "checksum"),
    ],
)
def test_damaged_stores(copy: Path, damage: Callable[[Path], None], file: str, field: str) -> None:
    damage(copy)
    with refused(file=file, field=field) as caught:
        contents(Store(copy))
    assert set(caught.value.details) == {"file", "field", "found", "expected", "remedy"}


def test_unknown_names_get_hints(tiny: Path) -> None:
    store = Store(tiny)
    with refused(field="name", remedy="0-1920x1080_left"):
        store.index_of("0-1920x1080_lef")
    with refused(field="fold", found="7"):
        store.statistics("7")
    with pytest.raises(IndexError):
        store.read(6)
    with pytest.raises(IndexError):
        store.read(-1)
