"""A store, written as Aff-Wild2 lies on disk and read back, is the same store."""

import dataclasses
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.aff_wild2 import Options, build
from data.synthetic import build as simulate
from data.synthetic import make_options
from data.write_aff_wild2 import write
from emojax.datasets.folds import official_and_blocks
from emojax.datasets.origin import is_simulated
from emojax.datasets.record import StreamRows, VideoRecord
from emojax.datasets.source import Store
from emojax.datasets.store import StoreWriter
from emojax.exchange.submission_frames import read_template
from emojax.specs import StreamSpec
from tests.annotation_files import random_labels
from tests.refusals import refused
from tests.training_runs import subprocess_environment

ROOT = Path(__file__).resolve().parents[1]
TASKS = ("va", "expr", "au")
# One stream for every form: a file per frame, an array, a table, an archive, all there is.
SPECS = (
    StreamSpec("ir50", 5, "visual"),
    StreamSpec("raf_db", 4, "visual"),
    StreamSpec("fan", 3, "visual", 6.0),
    StreamSpec("wav2vec2_emotion", 4, "audio", 50.0),
    StreamSpec("compare_lld", 6, "audio", 100.0),
)
VIDEOS = {
    "1-30-1280x720": "train", "2_left": "train", "2_right": "train", "3": "train",
    "4": "validation", "5_left": "validation", "6": "test", "7_right": "test",
}  # fmt: skip


def quiet(_: Any) -> None:
    """Takes lines for the user."""


def make_record(number: int, name: str, partition: str) -> VideoRecord:
    rng = np.random.default_rng(number)
    # Times of a real video: not from 0, and not quite regular.
    pts_N = 0.3 + np.cumsum(rng.uniform(0.03, 0.05, 20 + 7 * number))
    streams = {}
    for spec in SPECS:
        row_pts = pts_N
        if spec.rate is not None:
            row_pts = np.arange(int(pts_N[-1] * spec.rate)) / spec.rate
        if spec.name == "compare_lld":
            row_pts = row_pts + 0.0123  # neither from 0 nor regular from there
        valid_N = rng.random(len(row_pts)) < 0.8
        valid_N[0] = True
        if spec.name == "ir50" and number == 1:
            valid_N[-12:] = False  # the last crops are missing
        rows_ND = np.where(valid_N[:, None], rng.normal(size=(len(row_pts), spec.width)), 0)
        streams[spec.name] = StreamRows(rows_ND.astype(np.float16), row_pts, valid_N)
    labels = {task: random_labels(task, len(pts_N), number) for task in TASKS}
    source = name.removesuffix("_left").removesuffix("_right")
    return VideoRecord(name, source, partition, pts_N, streams, labels)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Returns eight videos with everything that Aff-Wild2's form can say."""
    path = tmp_path_factory.mktemp("store") / "store"
    with StoreWriter(path, name="small", streams=SPECS, tasks=TASKS) as writer:
        described = []
        for number, (name, partition) in enumerate(VIDEOS.items()):
            record = make_record(number, name, partition)
            writer.add(record)
            described.append((name, record.source_video, partition))
        writer.finish(official_and_blocks(described, k=3))
    return Store(path)


def parsed(arguments: list[str]) -> Options:
    """Returns the options that command-line arguments give."""
    pairs = [argument.removeprefix("--").partition("=")[::2] for argument in arguments]
    given = dict(pairs)
    return Options(
        annotations=Path(given["annotations"]),
        features=tuple(value for flag, value in pairs if flag == "features"),
        tasks=tuple(given["tasks"].split(",")),
        folds=given["folds"],
        timestamps=Path(given["timestamps"]),
        test_lists=tuple(Path(value) for flag, value in pairs if flag == "test_list"),
        max_mismatch=given.get("max_mismatch", "10"),
        max_missing=int(given.get("max_missing", 0)),
        dtype=given["dtype"],
    )


def check_same(before: Store, after: Store, *, test_labels: bool) -> None:
    assert after.tasks == before.tasks
    assert after.streams == before.streams
    assert after.dtype == before.dtype
    for part, names in before.partitions.items():
        assert set(after.partitions[part]) == set(names)
    assert list(after.folds) == list(before.folds)
    for video in before.videos:
        a, b = before.read(before.index_of(video.name)), after.read(after.index_of(video.name))
        assert (a.name, a.source_video, a.partition) == (b.name, b.source_video, b.partition)
        np.testing.assert_array_equal(a.pts_N, b.pts_N)
        for name, rows in a.streams.items():
            np.testing.assert_array_equal(rows.rows_ND, b.streams[name].rows_ND)
            np.testing.assert_array_equal(rows.valid_N, b.streams[name].valid_N)
            np.testing.assert_allclose(rows.pts_N, b.streams[name].pts_N, rtol=0, atol=1e-9)
        labelled = test_labels or a.partition != "test"
        assert set(b.labels) == (set(TASKS) if labelled else set())
        for task, labels_NK in b.labels.items():
            np.testing.assert_array_equal(labels_NK, a.labels[task])


@pytest.mark.parametrize("test_labels", [False, True])
def test_frames_labels_and_rows_are_the_same(
    store: Store, tmp_path: Path, test_labels: bool
) -> None:
    arguments = write(
        store, tmp_path / "files", per_frame=["ir50"], test_labels=test_labels, say=quiet
    )
    report = build(tmp_path / "back", parsed(arguments), say=quiet)
    check_same(store, Store(tmp_path / "back"), test_labels=test_labels)
    assert report.totals()["lengths_off"] == 0


def test_every_stream_has_the_form_of_its_tools(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "files"
    write(store, out, per_frame=["ir50"], say=quiet)
    record = store.read(store.index_of("3"))
    valid_N = record.streams["ir50"].valid_N
    names = sorted(path.name for path in (out / "features/ir50/3").iterdir())
    assert names == [f"{i + 1:05d}.npy" for i in np.flatnonzero(valid_N)]
    assert np.load(out / "features/raf_db/3.npy").shape == (record.num_frames, 4)
    table = (out / "features/fan/3.csv").read_text().splitlines()
    assert table[0] == "timestamp,success,f0000,f0001,f0002"
    assert np.load(out / "features/wav2vec2_emotion/3.npz").files == ["arr_0"]
    assert np.load(out / "features/compare_lld/3.npz").files == ["rows", "pts", "valid"]
    folders = {path.name for path in (out / "annotations").iterdir()}
    assert folders == {
        "VA_Estimation_Challenge", "EXPR_Recognition_Challenge", "AU_Detection_Challenge",
    }  # fmt: skip
    lists = [path.read_text() for path in (out / "test_lists").iterdir()]
    assert lists == ["6\n7_right\n"] * 3
    for task in ("va", "expr", "au"):
        frames = read_template(out / "templates" / f"{task}.txt", task)
        assert frames.videos == ("6", "7_right")
        counts = [store.videos[store.index_of(name)].num_frames for name in frames.videos]
        assert np.bincount(frames.video_N).tolist() == counts
        assert frames.number_N[:2].tolist() == [1, 2]
    header = (out / "annotations/VA_Estimation_Challenge/Train_Set/3.txt").read_text()
    assert header.startswith("valence,arousal\n")


def test_simulated_data_come_back_by_the_printed_command(tmp_path: Path) -> None:
    widths = ("ir50=24", "vggish=25")
    options = make_options(
        size="tiny", streams=("ir50", "vggish"), tasks=("va",), widths=widths, folds="emma",
        max_seconds=6,
    )  # fmt: skip
    simulate(str(tmp_path / "store"), options, say=quiet)

    def command(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=ROOT,
            env=subprocess_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    store, out = tmp_path / "store", tmp_path / "files"
    printed = command("data.write_aff_wild2", f"--store={store}", f"--out={out}")
    # The last line is the summary, for machines.
    shown = printed.partition("with:")[2].partition("summary: ")[0]
    words = shlex.split(shown.replace("\\\n", " "))
    assert "alignment.csv" in command(*words)
    before, after = Store(store), Store(f"{store}-from-files")
    assert len(before.folds) == len(after.folds) == 6
    # It can never be taken for Aff-Wild2.
    assert after.name == "simulated_aff_wild2"
    assert is_simulated(after.metadata)
    for video in before.videos:
        a, b = before.read(before.index_of(video.name)), after.read(after.index_of(video.name))
        np.testing.assert_array_equal(a.pts_N, b.pts_N)
        if a.partition != "test":
            np.testing.assert_array_equal(a.labels["va"], b.labels["va"])
        # Its rows are up to three more or fewer than frames: what is there is where it was.
        both = min(a.num_frames, len(a.streams["ir50"].rows_ND))
        face = b.streams["ir50"]
        np.testing.assert_array_equal(face.rows_ND[:both], a.streams["ir50"].rows_ND[:both])
        assert not face.valid_N[both:].any()
        voice = b.streams["vggish"]
        np.testing.assert_array_equal(voice.rows_ND, a.streams["vggish"].rows_ND)
        np.testing.assert_array_equal(voice.pts_N, a.streams["vggish"].pts_N)
        np.testing.assert_array_equal(voice.valid_N, a.streams["vggish"].valid_N)


def test_folds_of_a_simulation_have_names() -> None:
    assert make_options(folds="tcn_transformer").folds == "tcn_transformer"
    with refused(field="--folds", found="nested"):
        make_options(folds="nested")


def test_what_cannot_be_written_is_refused(store: Store, tmp_path: Path) -> None:
    with refused(field="--per_frame", found="fan"):
        write(store, tmp_path / "a", per_frame=["fan"], say=quiet)
    with refused(field="--per_frame", found="face"):
        write(store, tmp_path / "b", per_frame=["face"], say=quiet)
    with refused(field="--out", file="c,d"):
        write(store, tmp_path / "c,d", say=quiet)
    (tmp_path / "file").write_text("")
    with refused(field="--out", file=tmp_path):
        write(store, tmp_path, say=quiet)
    record = make_record(0, "x", "train")
    loud = dataclasses.replace(record, labels={"va": record.labels["va"] * 0 + 9})
    with StoreWriter(tmp_path / "loud", name="loud", streams=SPECS, tasks=("va",)) as writer:
        writer.add(loud)
        writer.finish([])
    with refused(field="labels va of x", expected="-1 to 1"):
        write(Store(tmp_path / "loud"), tmp_path / "e", say=quiet)
