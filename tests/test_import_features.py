"""Features of one's own videos become a store that a trained run predicts."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data.features.feature_sources import parse_features
from data.import_features import build
from emojax.datasets.source import Store
from emojax.prediction.predictor import ensemble
from emojax.prediction.trained_run import open_run
from tests.feature_samples import report_of, write_npy
from tests.refusals import refused
from tests.small_store import build_small_store
from tests.training_runs import (
    quick_compiling,  # noqa: F401 - a fixture
    subprocess_environment,
    tiny_config,
    train,
)

ROOT = Path(__file__).resolve().parents[1]
LENGTHS = {"a": 30, "b_left": 41, "b_right": 41}


def write_features(folder: Path) -> list[str]:
    """Faces of three videos at 25 frames a second, and sound of the two recordings at 40 Hz."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for name, frames in LENGTHS.items():
        write_npy(folder / "faces", rng.normal(size=(frames, 8)).astype(np.float32), name)
    for name, rows in (("a", 48), ("b", 66)):
        write_npy(folder / "sound", rng.normal(size=(rows, 6)).astype(np.float32), name)
    return [
        f"ir50={folder / 'faces'},clock=frame,width=8",
        f"vggish={folder / 'sound'},clock=fps:40,width=6",
    ]


def test_the_store_holds_what_the_files_hold(tmp_path: Path) -> None:
    flags = write_features(tmp_path / "features")
    faces = np.load(tmp_path / "features/faces/b_left.npy")
    faces[3] = np.nan
    np.save(tmp_path / "features/faces/b_left.npy", faces)
    report = build(
        tmp_path / "store", parse_features(flags), fps=25, dtype="float32", features=flags
    )
    store = Store(tmp_path / "store", verify="all")
    assert [(video.name, video.num_frames) for video in store.videos] == list(LENGTHS.items())
    assert store.partitions["test"] == tuple(LENGTHS)
    assert not store.tasks
    assert not store.folds
    record = store.read(store.index_of("b_left"))
    assert record.source_video == "b"
    np.testing.assert_allclose(record.pts_N, np.arange(41) / 25)
    seen = np.arange(41) != 3
    np.testing.assert_array_equal(record.streams["ir50"].valid_N, seen)
    np.testing.assert_array_equal(record.streams["ir50"].rows_ND[seen], faces[seen])
    sound = np.load(tmp_path / "features/sound/b.npy")
    np.testing.assert_array_equal(record.streams["vggish"].rows_ND, sound)
    np.testing.assert_allclose(record.streams["vggish"].pts_N, np.arange(66) / 40)
    assert store.streams["vggish"].rate == 40
    told = record.attributes["features/ir50"]
    assert told == "41 rows: one row per frame, 1 row with NaN or infinity"
    assert len(report) == 6
    entry = report_of(tmp_path / "store")["b_left"]
    assert entry["frames"] == 41
    assert entry["streams"]["ir50"]["valid"] == 40
    assert entry["streams"]["vggish"]["file"].endswith("sound/b.npy")


def test_times_of_frames_can_be_given(tmp_path: Path) -> None:
    flags = write_features(tmp_path / "features")
    (tmp_path / "pts").mkdir()
    times = {name: 0.85 + np.arange(frames + 2) / 30 for name, frames in LENGTHS.items()}
    np.save(tmp_path / "pts/a.npy", times["a"])
    for name in ("b_left", "b_right"):
        (tmp_path / f"pts/{name}.txt").write_text("\n".join(map(repr, times[name].tolist())))
    report = build(tmp_path / "store", parse_features(flags), pts=tmp_path / "pts")
    store = Store(tmp_path / "store")
    for i, video in enumerate(store.videos):
        np.testing.assert_array_equal(store.read(i).pts_N, times[video.name])
    assert all("last 2 frames without" in row.how for row in report if row.stream == "ir50")
    for text in ("", "0\none\n", "1\n0\n", "nan\n"):
        (tmp_path / "pts/b_left.txt").write_text(text)
        with refused(field="--pts", file="b_left"):
            build(tmp_path / "other", parse_features(flags), pts=tmp_path / "pts")
    (tmp_path / "pts/b_left.txt").unlink()
    with refused(field="--pts", file="b_left"):
        build(tmp_path / "other", parse_features(flags), pts=tmp_path / "pts")
    assert not (tmp_path / "other").exists()


def test_lacking_streams_are_allowed_only_when_asked(tmp_path: Path) -> None:
    flags = write_features(tmp_path / "features")
    (tmp_path / "features/sound/a.npy").unlink()
    with refused(field="stream vggish of a", remedy="--allow_missing"):
        build(tmp_path / "store", parse_features(flags), fps=25)
    build(tmp_path / "store", parse_features(flags), fps=25, allow_missing=True)
    record = Store(tmp_path / "store").read(0)
    assert not record.streams["vggish"].valid_N.any()
    assert report_of(tmp_path / "store")["a"]["streams"]["vggish"]["how"] == "no features"


def test_what_does_not_tell_the_frames_is_refused(tmp_path: Path) -> None:
    (flag, sound) = write_features(tmp_path / "features")
    for flags, options, details in (
        ([flag], {}, {"field": "--fps, --pts"}),
        ([flag], {"fps": 25.0, "pts": tmp_path}, {"field": "--fps, --pts", "found": " and "}),
        ([flag], {"fps": 0.0}, {"field": "--fps, --pts", "found": "--fps=0.0"}),
        ([], {"fps": 25.0}, {"field": "--features"}),
        ([flag.replace("=frame", "=annotated")], {"fps": 25.0}, {"found": "clock=annotated"}),
        ([flag.replace("=frame", "=stretch")], {"fps": 25.0}, {"found": "only rows", "field": "a"}),
        ([flag], {"fps": 25.0, "dtype": "int8"}, {"field": "dtype", "found": "int8"}),
    ):
        with refused(**details):
            build(tmp_path / "store", parse_features(flags), **options)
    (tmp_path / "store").mkdir()
    (tmp_path / "store/mine.txt").write_text("not a store")
    with refused(file="store", remedy="--overwrite"):
        build(tmp_path / "store", parse_features([flag]), fps=25)
    with refused(file="store", found="not a store"):
        build(tmp_path / "store", parse_features([flag]), fps=25, overwrite=True)
    # Sound alone tells how long a video is.
    build(tmp_path / "sound", parse_features([sound]), fps=25)
    assert [video.num_frames for video in Store(tmp_path / "sound").videos] == [30, 41]


@pytest.mark.slow
def test_a_trained_run_predicts_imported_features(tmp_path: Path) -> None:
    trained_on = build_small_store(tmp_path / "train")
    config = tiny_config(
        trained_on,
        train={"epochs": 1, "epoch_steps": 1},
        model={"dropout": 0.0, "temporal_dropout": 0.0},  # random bits take long to compile
    )
    train(Store(trained_on), tmp_path / "run", config)
    flags = write_features(tmp_path / "features")
    # emojax.predict's own steps, in this process: programs are compiled already.
    build(tmp_path / "store", parse_features(flags), fps=25)
    run = open_run(tmp_path / "run")
    store = run.open_store(str(tmp_path / "store"), labelled=False)
    names = list(store.partitions["test"])
    predictions = run.predict(store, [names] * len(run.session.folds.keys))
    together = ensemble(run.session.weights, predictions, list(range(len(run.session.replicas))))
    for name, frames in LENGTHS.items():
        assert together[name]["va"].shape == (frames, 2)
        assert np.isfinite(together[name]["va"]).all()
    assert np.abs(together["a"]["va"] - together["b_left"]["va"][:30]).max() > 0


def test_the_command_prints_a_table(tmp_path: Path) -> None:
    flags = write_features(tmp_path / "features")
    command = [sys.executable, "-m", "data.import_features", f"--out={tmp_path / 'store'}"]
    options = {"cwd": ROOT, "capture_output": True, "text": True, "env": subprocess_environment()}
    done = subprocess.run(
        [*command, "--fps=25", *(f"--features={flag}" for flag in flags)], check=False, **options
    )
    assert done.returncode == 0, done.stderr
    assert "one row per frame" in done.stdout
    assert "b_right" in done.stdout
