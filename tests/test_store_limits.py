"""Tests forged stores with valid checksums: they are refused before memory is allocated."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store_samples import SPECS, TASK_NAMES, contents, make_record, write

from emojax.datasets.documents import MAX_BYTES, read_document, write_document
from emojax.datasets.folds import Fold
from emojax.datasets.record import to_features
from emojax.datasets.source import Store
from emojax.datasets.store import StoreWriter
from emojax.datasets.tfrecord import encode_example, frame_record, locate_fields
from emojax.errors import InputError
from tests.refusals import refused as error_about

HUGE = 10**12
# What reading a store of a few KB may take; what is forged would take thousands of times more.
MEMORY = 64 * 2**20


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    records = [make_record(i) for i in range(3)]
    names = [record.name for record in records]
    folds = [Fold("0", (names[0],), (names[1],), (names[2],))]
    return write(tmp_path_factory.mktemp("stores") / "tiny", records, folds)


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


def forge(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = read_document(path)
    del content["checksum"]
    change(content)
    write_document(path, content)


def refused(path: Path) -> InputError:
    """Returns the error of a store that is refused with little memory, told on one screen."""
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as caught:
            contents(Store(path))
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
    assert {"file", "field", "found", "expected", "remedy"} == set(caught.value.details)
    assert len(str(caught.value)) < 2000
    return caught.value


def of_video(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda index: index["videos"][0].update({key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_frames", HUGE),
        ("num_frames", 0),
        ("num_frames", -1),
        ("num_frames", True),
        ("num_frames", 2.5),
        ("num_frames", "5"),
        ("fps", -1.0),
        ("fps", 1e-300),
        ("fps", 1e999),
        ("fps", "fast"),
        ("rows", {}),
        ("rows", []),
        ("rows", {"face": HUGE}),
        ("shard", -1),
        ("shard", HUGE),
        ("shard", None),
        ("offset", HUGE),
        ("offset", -16),
        ("offset", 0.5),
        ("length", HUGE),
        ("length", -1),
        ("length", 10**400),
        ("crc", "x"),
        ("name", "x" * 10**6),
        ("source_video", "../../etc"),
        ("source_video", 7),
        ("partition", ["train"]),
        ("partition", "x" * 10**6),
    ],
)
def test_an_index_that_claims_what_cannot_be(copy: Path, key: str, value: Any) -> None:
    if key == "fps" and value == 1e999:
        # JSON has no infinity, but has numbers that become one.
        file = copy / "index.json"
        text = file.read_text()
        first = text.index('"fps": ') + len('"fps": ')
        file.write_text(text[:first] + "1e999" + text[text.index(",", first) :])
    else:
        forge(copy / "index.json", of_video(key, value))
    refused(copy)


def test_rows_of_every_stream_are_bounded_by_the_record(copy: Path) -> None:
    def change(index: dict[str, Any]) -> None:
        rows = index["videos"][0]["rows"]
        rows[next(iter(rows))] = HUGE

    forge(copy / "index.json", change)
    assert "at least" in refused(copy).details["expected"]


def of_stream(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["streams"][0].update({key: value})


def of_statistics(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        statistics = content["folds"]["0"]["statistics"]
        statistics[next(iter(statistics))][key] = value

    return change


def of_fold(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["folds"]["0"].update({key: value})


def same_file_twice(content: dict[str, Any]) -> None:
    content["shards"].append(dict(content["shards"][0]))


@pytest.mark.parametrize(
    "change",
    [
        of_stream("width", HUGE),
        of_stream("width", -3),
        of_stream("width", True),
        of_stream("width", 0),
        of_stream("rate", 0.0),
        of_stream("rate", 1e300),
        of_stream("rate", "x"),
        of_stream("modality", "x" * 10**6),
        of_stream("name", "a/../../b"),
        of_statistics("mean", []),
        of_statistics("mean", [0.0] * 10**5),
        of_statistics("mean", "012"),
        of_statistics("std", [-1.0] * 3),
        of_statistics("std", [1e300] * 3),
        of_statistics("std", [None] * 3),
        of_fold("statistics", {}),
        of_fold("train", ["nobody"]),
        of_fold("train", "abc"),
        of_fold("train", []),
        of_fold("train", [["x"]]),
        of_fold("scored_frames", [5, 2]),
        of_fold("scored_frames", [0, "x"]),
        of_fold("validation", None),
        same_file_twice,
        lambda content: content.update(name="x" * 10**6),
        lambda content: content.update(name=3),
        lambda content: content.update(streams=[]),
        lambda content: content.update(folds=[1]),
        lambda content: content.update(shards={}),
        lambda content: content["shards"][0].update(bytes=-1),
        lambda content: content["shards"][0].update(records=HUGE),
        lambda content: content["partitions"].update(test=content["partitions"]["train"]),
        lambda content: content.update(tasks=[["va"]]),
    ],
)  # fmt: skip
def test_metadata_that_claims_what_cannot_be(
    copy: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    forge(copy / "dataset.json", change)
    refused(copy)


@pytest.mark.parametrize("file", ["dataset.json", "index.json"])
@pytest.mark.parametrize(
    "text",
    [
        "[" * 10**6,
        '{"a":' * 10**6,
        '{"format_version": 1, "checksum": "x", "a": NaN}',
        '{"format_version": ' + "9" * 10**5 + "}",
        '{"format_version": [[[]]]}',
        '{"format_version": 1, "checksum": {"a": 1}}',
        '"' + "x" * 10**6 + '"',
    ],
)
def test_json_that_is_made_to_hurt(copy: Path, file: str, text: str) -> None:
    (copy / file).write_text(text)
    refused(copy)


@pytest.mark.parametrize("file", ["dataset.json", "index.json"])
def test_json_of_any_size_is_not_read(copy: Path, file: str) -> None:
    os.truncate(copy / file, 100 * 2**30)  # without blocks on the disk
    assert str(MAX_BYTES) in refused(copy).details["expected"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
@pytest.mark.parametrize("file", ["dataset.json", "index.json", "videos-00000.tfrecord"])
def test_pipes_and_devices_are_not_waited_for(copy: Path, file: str) -> None:
    (copy / file).unlink()
    os.mkfifo(copy / file)
    refused(copy)
    (copy / file).unlink()
    (copy / file).symlink_to("/dev/zero")
    refused(copy)


def test_links_are_followed_because_nothing_is_written_through_them(
    tiny: Path, tmp_path: Path
) -> None:
    """Data managers keep large files elsewhere; checksums hold for those, too."""
    linked = tmp_path / "linked"
    linked.mkdir()
    for file in tiny.iterdir():
        (linked / file.name).symlink_to(file)
    (tmp_path / "folder").symlink_to(linked)
    assert len(Store(tmp_path / "folder", verify="all")) == 3


def test_the_writer_refuses_what_could_not_be_read(tmp_path: Path) -> None:
    with error_about(file="x.json", field="size"):
        write_document(tmp_path / "x.json", {"a": "x" * MAX_BYTES})
    assert not (tmp_path / "x.json").exists()


# -- records -----------------------------------------------------------------------------------


def put_record(path: Path, payload: bytes) -> None:
    """Replaces a store's first shard by one record, with every checksum right."""
    header, footer, crc = frame_record(payload)
    shard = header + payload + footer
    (path / "videos-00000.tfrecord").write_bytes(shard)

    def change(content: dict[str, Any]) -> None:
        content["shards"] = content["shards"][:1]
        content["shards"][0] |= {"bytes": len(shard), "records": 1}
        if "videos" in content:
            content["videos"] = content["videos"][:1]
            content["videos"][0] |= {"offset": 0, "length": len(payload), "crc": crc}
        else:
            name = read_document(path / "index.json")["videos"][0]["name"]
            content["folds"] = {}
            content["partitions"] = {"train": [name], "validation": [], "test": []}

    for file in ("dataset.json", "index.json"):
        forge(path / file, change)


def features(path: Path) -> dict[str, bytes]:
    return to_features(Store(path).read(0))


def test_a_record_that_is_right_can_be_put(copy: Path) -> None:
    put_record(copy, encode_example(features(copy)))
    assert len(Store(copy, verify="all")) == 1


def changed(key: str, value: Callable[[bytes], bytes]) -> Callable[[dict[str, bytes]], None]:
    def change(found: dict[str, bytes]) -> None:
        name = next(name for name in found if name == key or name.startswith(key))
        found[name] = value(found[name])

    return change


@pytest.mark.parametrize(
    "change",
    [
        changed("pts", lambda b: np.full(len(b) // 8, np.nan).tobytes()),
        changed("pts", lambda b: np.frombuffer(b)[::-1].tobytes()),
        changed("pts", lambda b: (np.arange(len(b) // 8) * 1e9).tobytes()),
        changed("pts", lambda b: (1e13 + np.arange(len(b) // 8)).tobytes()),
        changed("pts", lambda b: b[:-3]),
        changed("labels/va", lambda b: np.full(len(b) // 4, np.inf, "f4").tobytes()),
        changed("labels/au", lambda b: np.full(len(b) // 4, 1e9, "f4").tobytes()),
        lambda found: found.update({"labels/expr": np.full(7, 1e9, "<f4").tobytes()}),
        lambda found: found.update({"labels/expr": np.full(7, 0.5, "<f4").tobytes()}),
        changed("labels/va", lambda b: b + b),
        changed("attributes", lambda b: b"[" * 10**5),
        changed("attributes", lambda b: b"[]"),
        changed("attributes", lambda b: b'{"a": 1}'),
        changed("attributes", lambda b: b'{"a": "' + b"x" * 2**21 + b'"}'),
        changed("name", lambda b: b"\xff\xfe"),
        lambda found: found.update({"labels/ekman": np.zeros(7, "<f4").tobytes()}),
        lambda found: found.update({"labels/unheard": b""}),
        lambda found: found.update({"references/../va": found["labels/va"]}),
        lambda found: found.update({"references/x/va": b""}),
        lambda found: found.update({"k" * 5000: b""}),
    ],
)
def test_a_record_that_says_what_cannot_be(
    copy: Path, change: Callable[[dict[str, bytes]], None]
) -> None:
    found = features(copy)
    change(found)
    put_record(copy, encode_example(found))
    refused(copy)


def test_validity_is_0_or_1(copy: Path) -> None:
    found = features(copy)
    key = next(name for name in found if name.endswith("/valid"))
    found[key] = bytes([2]) * len(found[key])
    put_record(copy, encode_example(found))
    refused(copy)


def field(number: int, content: bytes) -> bytes:
    length, digits = len(content), bytearray()
    while length >= 0x80:
        digits.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([number << 3 | 2, *digits, length]) + content


def test_a_record_of_countless_fields_is_given_up(copy: Path) -> None:
    """A GB of them would take hours to walk through."""
    with pytest.raises(ValueError, match="too many"):
        locate_fields(memoryview(field(1, field(1, field(1, b"")) * 2 * 10**5)))
    with pytest.raises(ValueError, match="too many"):
        locate_fields(memoryview(b"\x08\x00" * 3 * 10**5))
    put_record(copy, field(1, field(2, b"") * 3 * 10**5))
    refused(copy)


def test_the_writer_refuses_a_recording_of_years(tmp_path: Path) -> None:
    record = make_record(0)
    long = dataclasses.replace(record, pts_N=np.arange(record.num_frames) * 1e7)
    with (
        StoreWriter(tmp_path / "s", name="s", streams=SPECS, tasks=TASK_NAMES) as writer,
        error_about(field="frame times of", found="6e+07 s"),
    ):
        writer.add(long)
