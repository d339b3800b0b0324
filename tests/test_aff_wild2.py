"""Aff-Wild2's annotation folders and features become a store, frame by frame."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.aff_wild2 import Options, build
from data.annotations.challenge_files import MULTITASK_FILES, MULTITASK_HEADER
from data.annotations.frame_clocks import read_table, read_timestamps
from data.annotations.mismatches import parse_limit
from data.annotations.partitions import read_test_list, source_of
from emojax.datasets.record import VideoRecord
from emojax.datasets.source import Store
from emojax.errors import InputError
from emojax.specs import TASKS
from tests.annotation_files import random_labels, write_annotation, write_features
from tests.refusals import refused

TRAIN = {"1-30-1280x720": 20, "2_left": 15, "2_right": 15, "3": 31, "4": 12}
VALIDATION = {"5": 18, "6": 9}
WIDTH = 4


def quiet(_: Any) -> None:
    """Takes lines for the user."""


def feature_rows(video: str, frames: int) -> np.ndarray:
    """Returns (N, 4) float16: frame number from 1 in the first column."""
    rows_ND = np.random.default_rng(len(video)).normal(size=(frames, WIDTH)).astype(np.float16)
    rows_ND[:, 0] = np.arange(1, frames + 1)
    return rows_ND


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Returns five training and two validation videos with every task, and features for all."""
    for partition, videos in (("train", TRAIN), ("validation", VALIDATION)):
        for video, frames in videos.items():
            for task in ("va", "expr", "au"):
                labels_NK = random_labels(task, frames, len(video))
                write_annotation(tmp_path / "annotations", task, partition, video, labels_NK)
            write_features(tmp_path / "features/face", video, feature_rows(video, frames))
    return tmp_path


def options(root: Path, **changes: Any) -> Options:
    features = (f"face={root / 'features/face'},clock=frame,modality=visual",)
    settings: dict[str, Any] = {"features": features, "folds": "official"}
    return Options(root / "annotations", **(settings | changes))


def built(root: Path, **changes: Any) -> Store:
    build(root / "store", options(root, **changes), say=quiet, overwrite=True)
    return Store(root / "store")


def records(store: Store) -> dict[str, VideoRecord]:
    return {video.name: store.read(i) for i, video in enumerate(store.videos)}


def test_one_task_has_its_official_partition(root: Path) -> None:
    store = built(root, fps="25")
    assert store.tasks == ("va",)
    assert set(store.partitions["train"]) == set(TRAIN)
    assert set(store.partitions["validation"]) == set(VALIDATION)
    for name, record in records(store).items():
        frames = (TRAIN | VALIDATION)[name]
        np.testing.assert_array_equal(record.pts_N, np.arange(frames) / 25)
        np.testing.assert_array_equal(record.labels["va"], random_labels("va", frames, len(name)))
        face = record.streams["face"]
        np.testing.assert_array_equal(face.rows_ND, feature_rows(name, frames))
        assert face.valid_N.all()
        assert record.source_video == name.removesuffix("_left").removesuffix("_right")
    assert store.metadata["builder"]["command"] == "data.aff_wild2"
    assert set(store.metadata["sources"]) == {
        "VA_Estimation_Challenge/Train_Set",
        "VA_Estimation_Challenge/Validation_Set",
    }
    # Nothing about the machine stays in the store.
    assert str(root) not in json.dumps(store.metadata)


def test_class_shares_of_every_fold_are_kept(root: Path) -> None:
    said: list[Any] = []
    build(root / "s", options(root, tasks=("expr",), folds="blocks:3"), say=said.append)
    store = Store(root / "s")
    assert list(store.folds) == ["0", "1", "2"]
    shares = store.metadata["builder"]["class_shares"]["expr"]
    for name, fold in store.folds.items():
        labels = np.concatenate([records(store)[v].labels["expr"][:, 0] for v in fold.validation])
        counts = np.bincount(labels[labels >= 0].astype(int), minlength=8)
        np.testing.assert_allclose(shares[name]["validation"], counts / counts.sum())
    report = json.loads((root / "s/alignment.json").read_text())
    assert report["folds"]["expr"] == shares
    assert said[-1].row_count == 3


def test_a_video_has_the_most_held_out_partition_of_its_tasks(root: Path) -> None:
    # Video 3 validates expressions but trains on valence-arousal; 6 the other way round.
    annotations = root / "annotations"
    moved = annotations / "EXPR_Recognition_Challenge"
    (moved / "Train_Set/3.txt").rename(moved / "Validation_Set/3.txt")
    (moved / "Validation_Set/6.txt").rename(moved / "Train_Set/6.txt")
    assert "3" in built(root, tasks=("va",)).partitions["train"]
    assert "3" in built(root, tasks=("expr",)).partitions["validation"]
    notes: list[Any] = []
    build(root / "both", options(root, tasks=("va", "expr")), say=notes.append)
    store = Store(root / "both")
    assert set(store.partitions["validation"]) == {"3", "5", "6"}
    # Labels count only where their own task has the video in that partition.
    assert set(records(store)["3"].labels) == {"expr"}
    assert set(records(store)["6"].labels) == {"va"}
    assert set(records(store)["5"].labels) == {"va", "expr"}
    told = [note for note in notes if str(note).startswith("note: 1 videos of the")]
    assert any("va train set are in validation" in note and "31 frames" in note for note in told)
    assert any("expr train set are in validation" in note and "9 frames" in note for note in told)


def test_duplicates_stay_in_validation(root: Path) -> None:
    name = "122-60-1920x1080-2"
    for partition, frames in (("train", 6), ("validation", 7)):
        write_annotation(
            root / "annotations", "expr", partition, name, random_labels("expr", frames)
        )
    write_features(root / "features/face", name, feature_rows(name, 7))
    notes: list[Any] = []
    build(root / "store", options(root, tasks=("expr",)), say=notes.append)
    store = Store(root / "store")
    assert name in store.partitions["validation"]
    assert name not in store.partitions["train"]
    np.testing.assert_array_equal(records(store)[name].labels["expr"], random_labels("expr", 7))
    assert any(name in str(note) and "kept in validation" in str(note) for note in notes)
    assert name in (root / "store/alignment.json").read_text()


def test_persons_of_one_recording_on_both_sides_are_told(root: Path) -> None:
    labels_NK = random_labels("va", 5)
    write_annotation(root / "annotations", "va", "validation", "3_left", labels_NK)
    write_features(root / "features/face", "3_left", feature_rows("3_left", 5))
    notes: list[Any] = []
    build(root / "store", options(root), say=notes.append)
    assert any("both sides" in str(note) for note in notes)


def test_test_videos_come_from_lists(root: Path) -> None:
    lists = (root / "va.txt", root / "expr.txt")
    lists[0].write_text("7\r\n8_left\r\n\r\n")
    lists[1].write_text("8_left\n")
    for name in ("7", "8_left"):
        write_features(root / "features/face", name, feature_rows(name, 11))
    store = built(root, test_lists=lists)
    assert store.partitions["test"] == ("7", "8_left")
    for name in ("7", "8_left"):  # counted by the features
        record = records(store)[name]
        assert (record.num_frames, record.labels) == (11, {})
        assert record.streams["face"].valid_N.all()
    counts = root / "counts.csv"
    counts.write_text("video,frames\n7,12\n8,10\n")
    store = built(root, test_lists=lists, frame_counts=counts)
    assert records(store)["7"].streams["face"].valid_N.tolist() == [True] * 11 + [False]
    assert records(store)["8_left"].num_frames == 10
    assert store.folds["0"].test == ("7", "8_left")


def test_a_folder_of_test_labels_is_read(root: Path) -> None:
    write_annotation(root / "annotations", "va", "test", "7", random_labels("va", 11))
    write_features(root / "features/face", "7", feature_rows("7", 11))
    store = built(root)
    np.testing.assert_array_equal(records(store)["7"].labels["va"], random_labels("va", 11))
    assert store.partitions["test"] == ("7",)


def test_timestamps_are_the_clock(root: Path) -> None:
    stamps = root / "stamps"
    stamps.mkdir()
    times = {
        name: 0.85 + np.arange(frames) / 29.97 for name, frames in (TRAIN | VALIDATION).items()
    }
    for name in ("1-30-1280x720", "3", "4"):
        np.save(stamps / f"{name}.npy", times[name])
    (stamps / "2.txt").write_text("\n".join(map(repr, times["2_left"].tolist())) + "\n")
    for name in VALIDATION:
        (stamps / f"{name}.csv").write_text(
            "seconds\r\n" + "\r\n".join(map(repr, times[name].tolist()))
        )
    found = records(built(root, timestamps=stamps))
    for name, pts_N in times.items():
        np.testing.assert_array_equal(found[name].pts_N, pts_N)
    # Two frames fewer and one more than annotated: the annotations' number stands.
    np.save(stamps / "3.npy", times["3"][:-2])
    np.save(stamps / "4.npy", np.append(times["4"], 99.0))
    found = records(built(root, timestamps=stamps))
    np.testing.assert_allclose(found["3"].pts_N, times["3"], rtol=0, atol=1e-9)
    np.testing.assert_array_equal(found["4"].pts_N, times["4"])
    (stamps / "4.npy").unlink()
    with refused(field="4", file="stamps"):
        built(root, timestamps=stamps)


def test_frame_rates_from_a_table(root: Path) -> None:
    table = root / "fps.csv"
    names = {source_of(name) for name in TRAIN | VALIDATION}
    table.write_text("video,fps\n" + "".join(f"{name},24\n" for name in names - {"2"}) + "2,30\n")
    found = records(built(root, fps=str(table)))
    assert found["3"].pts_N[24] == 1.0
    assert found["2_left"].pts_N[3] == found["2_right"].pts_N[3] == 0.1
    table.write_text("video,fps\n3,24\n")
    with refused(field="--fps", found="1-30-1280x720"):
        built(root, fps=str(table))


def test_missing_crops_are_masked_where_they_are(root: Path) -> None:
    folder = root / "features/crops"
    for name, frames in (TRAIN | VALIDATION).items():
        (folder / name).mkdir(parents=True)
        for i, row_D in enumerate(feature_rows(name, frames)):
            # Frame 4 and everything after the ninth have no face.
            if i != 3 and i < 9:
                np.save(folder / name / f"{i + 1:05d}.npy", row_D)
    # Many frames without a face at the end are no mismatch.
    store = built(root, features=(f"crops={folder},modality=visual",), max_mismatch="0")
    crops = records(store)["3"].streams["crops"]
    assert crops.valid_N.tolist() == [i != 3 and i < 9 for i in range(31)]
    assert crops.rows_ND[:, 0].tolist() == [1, 2, 3, 0, 5, 6, 7, 8, 9, *[0] * 22]
    np.save(folder / "6/00010.npy", feature_rows("6", 10)[9])
    with refused(field="crops of 6", found="1 surplus row"):
        built(root, features=(f"crops={folder},modality=visual",), max_mismatch="0")


def test_lengths_that_differ_are_aligned_and_told(root: Path) -> None:
    write_features(root / "features/face", "3", feature_rows("3", 28))
    write_features(root / "features/face", "5", feature_rows("5", 20))
    report = build(root / "store", options(root), say=quiet)
    found = records(Store(root / "store"))
    assert found["3"].streams["face"].valid_N.tolist() == [True] * 28 + [False] * 3
    np.testing.assert_array_equal(found["5"].streams["face"].rows_ND, feature_rows("5", 20)[:18])
    assert report.totals()["lengths_off"] == 2
    assert report.totals()["frames_off"] == 5
    assert report.table().row_count == 2
    with (root / "store/alignment.csv").open(newline="") as file:
        lines = {(row["video"], row["what"]): row for row in csv.DictReader(file)}
    assert lines["3", "face"]["found"] == "28"
    assert lines["3", "face"]["expected"] == lines["3", "va"]["found"] == "31"
    assert lines["3", "face"]["off"] == "3"
    assert lines["4", "face"]["off"] == "0"


@pytest.mark.parametrize(
    ("limit", "stops"), [("2", True), ("3", False), ("6%", True), ("7%", False)]
)
def test_a_limit_stops_the_build(root: Path, limit: str, stops: bool) -> None:
    write_features(root / "features/face", "3", feature_rows("3", 28))
    if not stops:
        assert built(root, max_mismatch=limit).videos
        return
    with pytest.raises(InputError) as caught:
        built(root, max_mismatch=limit)
    assert caught.value.details["field"] == "face of 3"
    assert "28 instead of 31" in caught.value.details["found"]
    assert not (root / "store").exists()
    content = json.loads((root / "store.alignment.json").read_text())
    assert content["totals"]["beyond_limit"] == 1
    assert (root / "store.alignment.csv").is_file()


def test_tasks_of_other_lengths_are_masked_at_the_end(root: Path) -> None:
    write_annotation(root / "annotations", "expr", "train", "3", random_labels("expr", 29))
    found = records(built(root, tasks=("va", "expr")))["3"]
    assert found.num_frames == 31
    np.testing.assert_array_equal(found.labels["expr"][:29], random_labels("expr", 29))
    assert (found.labels["expr"][29:] == TASKS["expr"].ignore).all()


def test_videos_without_features(root: Path) -> None:
    (root / "features/face/3.npy").unlink()
    with pytest.raises(InputError) as caught:
        built(root)
    assert caught.value.details["field"] == "stream face of 3"
    face = records(built(root, max_missing=1))["3"].streams["face"]
    assert face.rows_ND.shape == (31, WIDTH)
    assert not face.valid_N.any()


def test_features_of_annotated_frames_only(root: Path) -> None:
    # Rows were compacted to annotated frames; each goes back to its frame.
    for name, frames in (TRAIN | VALIDATION).items():
        labels_NK = random_labels("va", frames, len(name))
        rows_ND = feature_rows(name, frames)[labels_NK[:, 0] != -5]
        write_features(root / "features/compact", name, rows_ND)
    flag = f"compact={root / 'features/compact'},clock=annotated,modality=audio"
    for name, record in records(built(root, features=(flag,), max_mismatch="0")).items():
        valid_N = record.labels["va"][:, 0] != -5
        rows = record.streams["compact"]
        np.testing.assert_array_equal(rows.valid_N, valid_N)
        expected = feature_rows(name, record.num_frames)
        np.testing.assert_array_equal(rows.rows_ND, expected * valid_N[:, None])


def test_the_multitask_edition(root: Path) -> None:
    for partition, names in (("train", ("3", "4")), ("validation", ("5",))):
        lines = [",".join(MULTITASK_HEADER)]
        for name in names:
            for i in (1, 2, 5):
                lines.append(f"{name}/{i:05d}.jpg,0.5,-0.25,{i},{','.join(['1'] * 12)}")
        path = root / "mtl" / MULTITASK_FILES[partition]
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
    settings = options(root, tasks=("va", "expr", "au"), max_mismatch="30")
    build(root / "store", Options(**(vars(settings) | {"annotations": root / "mtl"})), say=quiet)
    store = Store(root / "store")
    assert store.partitions["train"] == ("3", "4")
    record = records(store)["3"]
    assert record.labels["expr"][:, 0].tolist() == [1, 2, -1, -1, 5]
    assert (record.labels["va"][2:4] == -5).all()
    assert record.streams["face"].rows_ND[:, 0].tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"fps": "0"}, "--fps"),
        ({"fps": "nan"}, "--fps"),
        ({"max_mismatch": "-1"}, "--max_mismatch"),
        ({"max_mismatch": "1.5"}, "--max_mismatch"),
        ({"folds": "blocks:x"}, "--folds"),
        ({"tasks": ("valence",)}, "--tasks"),
        ({"timestamps": Path("absent")}, "--timestamps"),
    ],
)
def test_wrong_options(root: Path, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        built(root, **changes)
    assert caught.value.details["field"] == field


def test_wrong_side_files(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    for text in ("0\n0\n", "0\n1\n0.5\n", "seconds\n", "1\nx\n", "1,2\n3,4\n", "seconds\nnan\n"):
        path.write_text(text)
        with pytest.raises(InputError) as caught:
            read_timestamps(path)
        assert caught.value.details["field"].startswith("line ")
    np.save(tmp_path / "t.npy", np.array([0.0, np.nan]))
    with refused(file="t.npy", field="row 1"):
        read_timestamps(tmp_path / "t.npy")
    for text in ("video,frames\na,0\n", "video,frames\na,1.5\n", "video,frames\na,2\na,3\n",
                 "video,fps\na,2\n", "video,frames\na\n", "video,frames\n../a,3\n"):  # fmt: skip
        path.write_text(text)
        with pytest.raises(InputError):
            read_table(path, ("video", "frames"), whole=True)
    for text in ("a\na\n", "a\n\nb\n", "a/b\n", ""):
        path.write_text(text)
        with pytest.raises(InputError):
            read_test_list(path)
    assert parse_limit("1.5%").frames(100) == 2
    assert str(parse_limit("7")) == "7 frames"


def test_only_validation_videos_serve_prediction(root: Path) -> None:
    for path in (root / "annotations/VA_Estimation_Challenge/Train_Set").iterdir():
        path.unlink()
    store = built(root)
    assert store.folds == {}
    assert set(store.partitions["validation"]) == set(VALIDATION)


def test_both_persons_share_the_features_of_their_recording(root: Path) -> None:
    for name in {source_of(name) for name in TRAIN | VALIDATION}:
        rows_ND = np.random.default_rng(len(name)).normal(size=(40, 3)).astype(np.float16)
        write_features(root / "features/voice", name, rows_ND)
    flag = f"voice={root / 'features/voice'},clock=hop:20ms,modality=audio"
    found = records(built(root, features=(flag,)))
    for person in ("2_left", "2_right"):
        voice = found[person].streams["voice"]
        np.testing.assert_array_equal(voice.rows_ND, np.load(root / "features/voice/2.npy"))
        np.testing.assert_allclose(voice.pts_N, np.arange(40) / 50)
