"""Tests the records that may be written, and builds that fail, are killed or are repeated."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store_samples import (
    FOLDS,
    NAMES,
    RECORDS,
    SPECS,
    TASK_NAMES,
    check_same,
    write,
)

from emojax.datasets.folds import Fold
from emojax.datasets.record import StreamRows, VideoRecord
from emojax.datasets.source import Store
from emojax.datasets.store import StoreWriter
from emojax.errors import InputError
from emojax.specs import TASKS, StreamSpec
from tests.refusals import refused


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("stores") / "tiny")


# What may be written.


def with_face(**changes: Any) -> VideoRecord:
    face = RECORDS[0].streams["face"]
    rows = dataclasses.replace(StreamRows(face.rows_ND, face.pts_N, np.ones(7, bool)), **changes)
    return dataclasses.replace(RECORDS[0], streams={**RECORDS[0].streams, "face": rows})


def with_value(value: float, dtype: type = np.float32) -> VideoRecord:
    rows_ND = np.ones((7, 3), dtype)
    rows_ND[4, 1] = value
    return with_face(rows_ND=rows_ND)


def with_label(task: str, value: float) -> VideoRecord:
    labels = np.zeros((7, TASKS[task].columns))
    labels[2] = value
    return dataclasses.replace(RECORDS[0], labels={task: labels})


def replaced(**changes: Any) -> VideoRecord:
    return dataclasses.replace(RECORDS[0], **changes)


BAD_RECORDS = {
    "nan": (with_value(np.nan), "nan", "stream face of 0-1920x1080_left, row 4, column 1"),
    "inf": (with_value(-np.inf), "-inf", "stream face"),
    "half inf": (with_value(np.inf, np.float16), "inf", "stream face"),
    "overflow": (with_value(65505), "65505", "stream face"),
    "rounding overflow": (with_value(-65504.1, np.float64), "-65504.1", "stream face"),
    "width": (with_face(rows_ND=np.ones((7, 4))), "(7, 4)", "stream face"),
    "vector": (with_face(rows_ND=np.ones(7)), "(7,)", "stream face"),
    "integers": (with_face(rows_ND=np.ones((7, 3), int)), "int64", "stream face"),
    "row count": (with_face(rows_ND=np.ones((6, 3))), "6 rows", "stream face"),
    "valid dtype": (with_face(valid_N=np.ones(7)), "float64", "stream face"),
    "row times": (with_face(pts_N=-np.arange(7)), "go back", "stream face"),
    "nan row times": (with_face(pts_N=np.full(7, np.nan)), "not finite", "stream face"),
    "unknown stream": (
        replaced(streams={**RECORDS[0].streams, "fase": RECORDS[0].streams["face"]}),
        "fase",
        "0-1920x1080_left",
    ),
    "missing stream": (replaced(streams={}), "no stream", "stream face"),
    "label count": (
        replaced(labels={"va": np.zeros((9, 2))}),
        "9",
        "labels va of 0-1920x1080_left",
    ),
    "label width": (replaced(labels={"va": np.zeros((7, 3))}), "(7, 3)", "labels va"),
    "label vector": (replaced(labels={"expr": np.zeros(7)}), "(7,)", "labels expr"),
    "label nan": (with_label("va", np.nan), "NaN", "labels va"),
    "label dtype": (replaced(labels={"va": np.full((7, 2), "x")}), "<U1", "labels va"),
    "class 8": (with_label("expr", 8), "8", "labels expr"),
    "class 1.5": (with_label("expr", 1.5), "1.5", "labels expr"),
    "unit 2": (with_label("au", 2), "2", "labels au"),
    "unit -5": (with_label("au", -5), "-5", "labels au"),
    "unknown task": (replaced(labels={"vaa": np.zeros((7, 2))}), "vaa", "0-1920"),
    "reference": (
        replaced(references={"best": {"expr": np.zeros((7, 1))}}),
        "(7, 1)",
        "reference best/expr",
    ),
    "frame times": (replaced(pts_N=np.zeros(7)), "go back", "frame times"),
    "no frames": (replaced(pts_N=np.zeros(0)), "0", "0-1920x1080_left"),
    "partition": (replaced(partition="dev"), "dev", "partition of"),
    "attribute": (replaced(attributes={"age": 12}), "12", "attribute 'age'"),
    "duplicate": (replaced(name=NAMES[1]), "two records", NAMES[1]),
}


@pytest.mark.parametrize("case", BAD_RECORDS)
def test_bad_records_are_refused_and_leave_the_build_intact(tmp_path: Path, case: str) -> None:
    record, found, field = BAD_RECORDS[case]
    path = tmp_path / "store"
    with StoreWriter(path, name="tiny", streams=SPECS, tasks=TASK_NAMES) as writer:
        writer.add(RECORDS[1])
        with refused(found=found) as caught:
            writer.add(record)
        writer.add(RECORDS[2])
        writer.finish([])
    assert caught.value.details["field"].startswith(field)
    store = Store(path)
    assert [video.name for video in store.videos] == NAMES[1:3]
    check_same(store.read(1), RECORDS[2])


@pytest.mark.parametrize("name", ["", "a/b", "..", "a..b", "\\", ".hidden", "x\n", "\0", "x" * 201])
def test_unsafe_names(tmp_path: Path, name: str) -> None:
    with StoreWriter(tmp_path / "s", name="tiny", streams=SPECS, tasks=TASK_NAMES) as writer:
        for key, field in (("name", "video name"), ("source_video", "source video of")):
            with refused(field=field, found=repr(name)[:200]):
                writer.add(replaced(**{key: name}))
    with refused(field="name of the store"):
        StoreWriter(tmp_path / "s", name=name, streams=SPECS, tasks=TASK_NAMES)
    with refused(field="stream name"):
        write(tmp_path / "s", streams=[StreamSpec(name, 1, "visual")])


@pytest.mark.parametrize(
    ("fold", "field", "found"),
    [
        (Fold("0", (), (NAMES[1],)), "fold 0", "0"),
        (Fold("0", ("nobody",), ()), "fold 0", "nobody"),
        (Fold("0", (NAMES[0],), (NAMES[0],)), "fold 0", NAMES[0]),
        (Fold("0", (NAMES[0],), (), (NAMES[0],)), "fold 0", NAMES[0]),
        (Fold("0", (NAMES[0],) * 2, ()), "fold 0, train", NAMES[0]),
        (Fold("0", (NAMES[0],), (), (), (5, 5)), "fold 0", "(5, 5)"),
        (Fold("a/b", (NAMES[0],), ()), "fold name", "a/b"),
        (Fold("scored", (NAMES[0],), ()), "folds", "scored, scored"),
    ],
)
def test_bad_folds(tmp_path: Path, fold: Fold, field: str, found: str) -> None:
    with refused(field=field, found=found):
        write(tmp_path / "store", folds=[*FOLDS, fold] if fold.name == "scored" else [fold])
    assert not list(tmp_path.iterdir())


def test_a_fold_without_a_valid_training_row(tmp_path: Path) -> None:
    record = with_face(valid_N=np.zeros(7, bool))
    with refused(field="fold 0, stream face", found="0"):
        write(tmp_path / "store", [record], [Fold("0", (record.name,), ())])


@pytest.mark.parametrize(
    "options",
    [
        {"streams": []},
        {"streams": [SPECS[0], SPECS[0]]},
        {"streams": [StreamSpec("face", 0, "visual")]},
        {"tasks": ["valence"]},
        {"dtype": "int8"},
        {"videos_per_shard": 0},
        {"records": []},
    ],
)
def test_bad_options(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        write(tmp_path / "store", **options)
    assert not list(tmp_path.iterdir())


# Unfinished, interrupted and repeated builds.


def test_leaving_without_finish_leaves_nothing(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "store", name="tiny", streams=SPECS, tasks=TASK_NAMES)
    with pytest.raises(RuntimeError, match="with"):
        writer.add(RECORDS[0])
    with writer:
        writer.add(RECORDS[0])
        assert [path.name for path in tmp_path.iterdir()] == [f"store.partial-{os.getpid()}"]
        with refused(field="store", found="store.partial-"):
            Store(tmp_path / "store")
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt), writer:
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


KILLED_BUILD = """
import os, signal, sys
from pathlib import Path
from emojax.datasets import store as module
from store_samples import FOLDS, RECORDS, SPECS, TASK_NAMES

kill_at, path = int(sys.argv[1]), sys.argv[2]
steps = 0

def counted(function):
    def call(*args, **options):
        global steps
        if steps == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        steps += 1
        return function(*args, **options)
    return call

module.frame_record = counted(module.frame_record)
module.write_document = counted(module.write_document)
module.os.fsync = counted(os.fsync)
module.Path.rename = counted(Path.rename)
with module.StoreWriter(path, name="tiny", streams=SPECS, tasks=TASK_NAMES, videos_per_shard=2,
                        overwrite=True) as writer:
    for record in RECORDS:
        writer.add(record)
    writer.finish(FOLDS)
print("finished at", steps)
"""


def run_killed(kill_at: int, path: Path) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[1]
    return subprocess.run(
        [sys.executable, "-c", KILLED_BUILD, str(kill_at), str(path)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")])},
        capture_output=True,
        text=True,
        check=False,
    )


# Steps of this build: 6 frames with 3 shards flushed on the way, 2 documents, each written and
# flushed (9 to 12), the folder flushed (13), the old store renamed away if there is one (14),
# the new one renamed in, and the parent folder flushed.


@pytest.mark.parametrize("kill_at", [3, 11, 14])
def test_a_killed_build_never_looks_finished(tmp_path: Path, kill_at: int) -> None:
    path = tmp_path / "store"
    done = run_killed(kill_at, path)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with refused(field="store", found="store.partial-"):
        Store(path)
    # The next build does not mind what was left.
    assert len(Store(write(path), verify="all")) == len(RECORDS)


def test_a_killed_replacement_keeps_the_old_store(tmp_path: Path) -> None:
    path = write(tmp_path / "store", RECORDS[:2], [])
    before = (path / "dataset.json").read_bytes()
    assert run_killed(14, path).returncode == -signal.SIGKILL
    assert (path / "dataset.json").read_bytes() == before
    assert len(Store(path, verify="all")) == 2
    # Between the two renames the old store lies beside its place, whole.
    assert run_killed(15, path).returncode == -signal.SIGKILL
    with refused(field="store", found="store.old-") as caught:
        Store(path)
    (old,) = tmp_path.glob("store.old-*")
    assert str(old) in caught.value.details["found"]
    assert len(Store(old, verify="all")) == 2
    # Killed after the rename, with only the parent folder left to flush: the store is there.
    assert run_killed(15, path).returncode == -signal.SIGKILL
    assert len(Store(path, verify="all")) == len(RECORDS)


def test_an_existing_target_is_refused_unless_overwritten(tmp_path: Path) -> None:
    path = write(tmp_path / "store")
    with refused(file="store", remedy="--overwrite"):
        write(path)
    old = Store(path).read(0)
    write(path, RECORDS[1:3], [], overwrite=True)
    assert [video.name for video in Store(path).videos] == NAMES[1:3]
    check_same(old, RECORDS[0])
    assert [entry.name for entry in tmp_path.iterdir()] == ["store"]


def test_only_stores_are_overwritten(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("also")
    for target in (precious, tmp_path / "file"):
        with refused(file=target, expected="dataset.json"):
            write(target, overwrite=True)
    assert (precious / "thesis.tex").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", overwrite=True)
    Store(tmp_path / "empty")


def test_a_target_that_appears_during_the_build_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with StoreWriter(path, name="tiny", streams=SPECS, tasks=TASK_NAMES) as writer:
        writer.add(RECORDS[0])
        write(path)
        with refused(file="store", remedy="--overwrite"):
            writer.finish([])
    assert len(Store(path)) == len(RECORDS)
    assert [entry.name for entry in tmp_path.iterdir()] == ["store"]


def test_the_same_input_gives_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    again = write(tmp_path / "again")
    for path in tiny.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes()
