"""The Python API: stores from arrays, training, evaluation, prediction and pictures."""

from __future__ import annotations

import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import emojax
from emojax.datasets.memory_store import MemoryStore
from emojax.datasets.source import Store
from emojax.prediction.long_videos import predict_groups
from emojax.prediction.predictor import ensemble
from emojax.prediction.trained_run import stored
from emojax.scoring.evaluation import evaluate_run
from emojax.specs import StreamSpec
from tests.small_store import STREAMS, build_small_store
from tests.training_runs import (
    one_device,
    quick_compiling,  # noqa: F401 - a fixture
    subprocess_environment,
    tiny_config,
)

LABELS = ["valence", "arousal"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return emojax.open_store(build_small_store(tmp_path_factory.mktemp("api") / "store"))


@pytest.fixture(scope="module")
def run(store: Store) -> emojax.Run:
    config = tiny_config(store.path, replicas={"folds": ["0", "1"]}, train={"epochs": 2})
    return emojax.fit(config, store, devices=one_device())


def video_of(store: Store, name: str, **changes: Any) -> emojax.Video:
    """Returns the video of a store as plain arrays, with the time of each row."""
    record = store.read(store.index_of(name))
    streams = {key: data.rows_ND for key, data in record.streams.items()}
    options: dict[str, Any] = {
        "name": name,
        "partition": record.partition,
        "times": record.pts_N,
        "row_times": {key: data.pts_N for key, data in record.streams.items()},
        "valid": {key: data.valid_N for key, data in record.streams.items()},
        "labels": record.labels,
    }
    return emojax.Video(**{"streams": streams, **options, **changes})


def arrays(run: emojax.Run, frames: int = 70) -> dict[str, np.ndarray]:
    """Returns rows of each stream: 25 frames a second, and 40 rows of vggish."""
    rng = np.random.default_rng(3)
    counts = {"ir50": frames, "vggish": int(frames / 25 * 40)}
    return {k: rng.normal(size=(counts[k], width)) for k, width in run.streams.items()}


# -- the surface -------------------------------------------------------------------------------


def test_import_is_quick_and_brings_nothing_heavy() -> None:
    code = (
        "import sys, emojax; assert set(emojax.__all__) <= set(dir(emojax));"
        "assert not {'jax', 'numpy', 'pandas', 'absl'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_are_few_and_each_is_documented() -> None:
    assert len(emojax.__all__) <= 13
    for name in emojax.__all__:
        assert getattr(emojax, name).__doc__
    with pytest.raises(AttributeError):
        emojax.no_such_name  # noqa: B018


# -- stores ------------------------------------------------------------------------------------


def test_a_store_is_written_from_plain_arrays(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    videos = [
        {
            "name": f"{part}-{i}",
            "partition": part,
            "fps": 25.0,
            "streams": {"ir50": rng.normal(size=(30, 8)), "mine": rng.normal(size=(12, 3))},
            "rates": {"mine": 10.0},
            "labels": {"va": rng.uniform(-1, 1, (30, 2)), "expr": np.arange(30) % 8},
        }
        for part in ("train", "validation")
        for i in range(2)
    ]
    written = emojax.write_store(tmp_path / "mine", videos, dtype="float32")
    assert written.streams == {
        "ir50": StreamSpec("ir50", 8, "visual"),
        "mine": StreamSpec("mine", 3, "features", 10.0),
    }
    assert written.tasks == ("va", "expr")
    assert written.fold("0").validation == ("validation-0", "validation-1")
    record = written.read(written.index_of("train-1"))
    np.testing.assert_allclose(record.pts_N, np.arange(30) / 25)
    np.testing.assert_allclose(record.streams["mine"].pts_N, np.arange(12) / 10)
    np.testing.assert_array_equal(
        record.streams["ir50"].rows_ND, videos[1]["streams"]["ir50"].astype(np.float32)
    )
    np.testing.assert_array_equal(record.labels["expr"][:, 0], np.arange(30) % 8)
    with pytest.raises(emojax.InputError):
        emojax.write_store(tmp_path / "mine", videos)
    again = emojax.write_store(tmp_path / "mine", videos, overwrite=True, dtype="float32")
    assert again.metadata["checksum"] == written.metadata["checksum"]


def test_a_store_without_training_videos_serves_prediction(tmp_path: Path) -> None:
    video = emojax.Video({"ir50": np.zeros((5, 8))}, fps=5)
    assert emojax.write_store(tmp_path / "s", [video]).partitions["test"] == ("video",)


def test_a_store_in_memory_equals_the_one_on_disk(store: Store) -> None:
    records = [store.read(i) for i in range(len(store))]
    memory = MemoryStore(records, STREAMS, tasks=store.tasks, dtype="float16")
    places = {"shard": 0, "offset": 0, "length": 0, "crc": 0}
    for i, entry in enumerate(store.videos):
        assert vars(memory.videos[i]) == vars(entry) | places
        found, expected = memory.read(i), store.read(i)
        for name, data in expected.streams.items():
            assert found.streams[name].rows_ND.tobytes() == data.rows_ND.tobytes()
    assert memory.partitions == store.partitions
    with pytest.raises(emojax.InputError):
        memory.statistics("0")


# -- training and opening ----------------------------------------------------------------------


def test_a_run_tells_what_it_is(run: emojax.Run, store: Store) -> None:
    assert (run.system, run.tasks, run.streams) == ("rjcma", ("va",), {"ir50": 8, "vggish": 6})
    assert list(run.best_scores) == list(run.replicas)
    assert len(run.replicas) == 4
    assert all(-1 <= score <= 1 for score in run.best_scores.values())
    for word in ("rjcma", "va", "ir50", "8", *run.replicas):
        assert word in repr(run)


def test_the_temporary_run_goes_unless_it_is_saved(store: Store, tmp_path: Path) -> None:
    config = tiny_config(store.path, train={"epochs": 1, "epoch_steps": 1})
    one = emojax.fit(config, store, devices=one_device())
    folder, best = one.path, one.best_scores
    saved = one.save(tmp_path / "kept")
    with pytest.raises(emojax.InputError):
        one.save(tmp_path / "kept")
    del one
    assert not folder.exists()
    assert saved.best_scores == best
    expected = saved.predict(store, partition="test")
    pd.testing.assert_frame_equal(emojax.open_run(saved.path).predict(partition="test"), expected)


def test_training_prints_nothing_unless_asked(
    store: Store, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(store.path, train={"epochs": 1, "epoch_steps": 1})
    workdir = tmp_path / "run"
    emojax.fit(config, store, workdir=workdir, devices=one_device())
    assert capfd.readouterr() == ("", "")
    longer = {"train.epochs": 2, "train.decay": "none"}
    more = emojax.fit(
        config, store, workdir=workdir, overrides=longer, devices=one_device(), verbose=True
    )
    assert more.trained.step == 2  # one more: the run was continued
    assert capfd.readouterr().err


def test_a_config_has_a_name_a_path_or_is_given(tmp_path: Path) -> None:
    by_name = emojax.load_config("rjcma:demo")
    root = Path(__file__).resolve().parents[1]
    assert emojax.load_config(f"{root}/configs/rjcma.py:demo").to_dict() == by_name.to_dict()
    assert emojax.load_config("rjcma") != by_name
    (tmp_path / "own.py").write_text("def get_config(variant='x'): return {'variant': variant}")
    assert emojax.load_config(f"{tmp_path}/own.py") == {"variant": "x"}
    assert emojax.load_config(f"{tmp_path}/own.py:y") == {"variant": "y"}
    for name, remedy in (("rjcmaa", "rjcma"), ("rjcma:dmo", "demo"), ("no/such.py", "")):
        with pytest.raises(emojax.InputError) as caught:
            emojax.load_config(name)
        assert remedy in caught.value.details.get("remedy", "")


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ({"train.epoch": 3}, "config.train.epoch"),
        ({"trian.epochs": 3}, "config.trian"),
        ({"train.epochs.more": 3}, "config.train.epochs.more"),
        ({"data.streams": ["ir50", "bert"]}, "config.data.streams"),
    ],
)
def test_wrong_overrides_are_refused(store: Store, overrides: dict[str, Any], field: str) -> None:
    with pytest.raises(emojax.InputError) as caught:
        emojax.fit(tiny_config(store.path), store, overrides=overrides)
    assert caught.value.details["field"] == field


def test_training_needs_a_store() -> None:
    with pytest.raises(emojax.InputError) as caught:
        emojax.fit(tiny_config(Path("")), overrides={"data.store": ""})
    assert "store" in caught.value.details["field"]


def test_a_diverged_run_is_told_from_others(store: Store, tmp_path: Path) -> None:
    config = tiny_config(store.path, train={"epochs": 1, "learning_rate": 1e30})
    with pytest.raises(emojax.InputError):
        emojax.fit(config, store, workdir=tmp_path, devices=one_device())
    lost = emojax.open_run(tmp_path)
    assert "diverged" in repr(lost)
    assert np.isnan(list(lost.best_scores.values())).all()
    with pytest.raises(emojax.InputError) as caught:
        lost.predict(store)
    assert caught.value.details["field"] == "replicas"


# -- evaluation --------------------------------------------------------------------------------


def test_evaluation_is_that_of_the_command(run: emojax.Run, store: Store) -> None:
    scores = run.evaluate()
    results = evaluate_run(run.trained, store, "validation", baseline=True)
    assert list(scores.columns) == ["fold", "task", "score", "target", "value"]
    for result in results:
        expected = result.scores["va"]["model"]["ccc_arousal"]
        row = scores.query(f"fold == '{result.fold}' and score == 'ccc' and target == 'arousal'")
        assert row["value"].item() == expected
    beside = run.evaluate(references=True)
    assert beside["optimum"].isna().all()  # this store has none
    row = beside.query("fold == '1' and score == 'ccc' and target == 'mean'")
    assert row["baseline"].item() == results[1].scores["va"]["ridge + smoothing"]["ccc_mean"]
    assert run.evaluate(str(store.path)).equals(scores)


def test_each_replica_is_scored_on_its_own(run: emojax.Run) -> None:
    scores = run.evaluate(replicas=True).query("score == 'ccc' and target != 'mean'")
    best = dict(zip(scores["replica"], scores["value"], strict=True))
    assert best == pytest.approx(run.best_scores, abs=1e-6)


def test_videos_with_labels_are_evaluated(run: emojax.Run, store: Store) -> None:
    videos = [video_of(store, name) for name in store.partitions["test"]]
    found = run.evaluate(videos, partition="test")
    expected = run.evaluate(partition="test")
    pd.testing.assert_frame_equal(found, expected, atol=1e-6)


@pytest.mark.parametrize("partition", ["tset", "validation"])
def test_a_wrong_partition_is_refused(run: emojax.Run, store: Store, partition: str) -> None:
    test = [video_of(store, name) for name in store.partitions["test"]]
    with pytest.raises(emojax.InputError) as caught:
        run.evaluate(test, partition=partition)
    assert "partition" in caught.value.details["field"]
    with pytest.raises(emojax.InputError):
        run.predict(test, partition=partition)


# -- prediction --------------------------------------------------------------------------------


@pytest.mark.parametrize("replicas", [False, True])
def test_arrays_get_what_a_store_with_these_rows_gets(
    run: emojax.Run, store: Store, replicas: bool
) -> None:
    expected = run.predict(store, replicas=replicas)
    found = run.predict([video_of(store, v.name) for v in store.videos], replicas=replicas)
    pd.testing.assert_frame_equal(found, expected, rtol=0, atol=1e-6)
    assert len(expected) == sum(v.num_frames for v in store.videos) * (4 if replicas else 1)
    # And those of a store on disk are what the command writes.
    names = [video.name for video in store.videos]
    session = run.trained.session
    for group, per_replica in predict_groups(run.trained, store, names):
        combined = ensemble(session.weights, per_replica, range(4))
        for name in group if not replicas else ():
            rows = expected[expected["video"] == name]
            np.testing.assert_array_equal(rows[LABELS].to_numpy(), combined[name]["va"])


def test_full_precision_arrays_equal_a_store_of_float32(run: emojax.Run, tmp_path: Path) -> None:
    rows = arrays(run)
    video = emojax.Video(rows, name="a", fps=25)
    written = emojax.write_store(
        tmp_path / "s", [video], dtype="float32", streams=list(run.trained.session.streams.values())
    )
    found = run.predict(rows, fps=25)
    assert list(found.columns) == ["video", "frame", "time", *LABELS]
    np.testing.assert_allclose(found["time"], np.arange(70) / 25)
    expected = run.predict(written)
    np.testing.assert_allclose(found[LABELS], expected[LABELS], rtol=0, atol=1e-6)
    assert found[LABELS].to_numpy().std() > 1e-4


def test_rates_times_and_validity_reach_the_model(run: emojax.Run) -> None:
    rows = arrays(run)
    plain = run.predict(rows, fps=25)[LABELS]
    times = 7.0 + np.arange(70) / 25
    assert run.predict(rows, times=times)[LABELS].equals(plain)  # only differences matter
    row_times = {"vggish": np.arange(len(rows["vggish"])) / 40}
    assert run.predict(rows, fps=25, row_times=row_times)[LABELS].equals(plain)
    assert run.predict(rows, fps=25, rates={"vggish": 40})[LABELS].equals(plain)
    assert not run.predict(rows, fps=25, rates={"vggish": 35})[LABELS].equals(plain)
    nothing = np.ones(70, bool)
    nothing[30:] = False
    hidden = run.predict(rows, fps=25, valid={"ir50": nothing})[LABELS]
    assert not hidden.equals(plain)
    rows["ir50"][30:] = np.nan  # of rows that are not valid nothing is read
    assert run.predict(rows, fps=25, valid={"ir50": nothing})[LABELS].equals(hidden)


def test_replicas_and_their_mean(run: emojax.Run) -> None:
    rows = arrays(run)
    mean, alone = run.predict(rows, fps=25), run.predict(rows, fps=25, replicas=True)
    by_replica = alone.pivot_table(index="frame", columns="replica", values="arousal")
    assert set(by_replica) <= set(run.replicas)
    assert len(by_replica.columns) == 2  # the others are trained for valence
    np.testing.assert_allclose(by_replica.mean(axis=1), mean["arousal"], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "options", "field"),
    [
        ({"ir50": None}, {}, "streams"),
        ({"ir50": np.zeros((70, 9))}, {}, "ir50"),
        ({"ir50": np.zeros(70)}, {}, "ir50"),
        ({"ir50": np.zeros(8)}, {}, "stream ir50"),
        ({"ir50": np.full((70, 8), np.nan)}, {}, "ir50"),
        ({"ir50": np.array([["x"] * 8] * 70)}, {}, "ir50"),
        ({"vggish": np.zeros((300, 6))}, {}, "vggish"),
        ({}, {"fps": 0}, "fps"),
        ({}, {"fps": -25}, "fps"),
        ({}, {"fps": float("nan")}, "fps"),
        ({}, {"fps": None}, "fps"),
        ({}, {"fps": "25"}, "fps"),
        ({}, {"rates": {"vggish": "40"}}, "vggish"),
        ({}, {"times": np.arange(70)}, "fps"),
        ({}, {"fps": None, "times": np.zeros(70)}, "times"),
        ({}, {"rates": {"vggish": 0}}, "vggish"),
        ({}, {"rates": {"vgish": 40}}, "rates"),
        ({}, {"row_times": {"ir50": np.arange(3)}}, "ir50"),
        ({}, {"valid": {"ir50": np.ones(3, bool)}}, "ir50"),
        ({}, {"combine": "median"}, "combine"),
    ],
)
def test_wrong_arrays_are_refused(
    run: emojax.Run, change: dict[str, Any], options: dict[str, Any], field: str
) -> None:
    rows = {key: x for key, x in (arrays(run) | change).items() if x is not None}
    with pytest.raises(emojax.InputError) as caught:
        run.predict(rows, **{"fps": 25.0, **options})
    assert field in caught.value.details["field"]


def test_streams_of_unequal_length_need_rates(tmp_path: Path) -> None:
    rows = {"ir50": np.zeros((50, 8)), "bert": np.zeros((20, 4))}
    with pytest.raises(emojax.InputError) as caught:
        emojax.write_store(tmp_path / "s", [emojax.Video(rows, fps=25)])
    assert "rates" in caught.value.details["remedy"]
    timed = emojax.Video(rows, fps=25, rates={"bert": 10})
    assert emojax.write_store(tmp_path / "s", [timed]).videos[0].num_frames == 50


def test_a_store_has_its_own_times(run: emojax.Run, store: Store) -> None:
    for data in (store, None, video_of(store, "test-0")):
        with pytest.raises(emojax.InputError) as caught:
            run.predict(data, fps=25)
        assert caught.value.details["field"] == "fps"
    other = emojax.Video({"ir50": np.zeros((5, 8))}, fps=5)
    with pytest.raises(emojax.InputError):
        run.predict([other])


# -- pictures ----------------------------------------------------------------------------------


def test_a_picture_shows_predictions_and_labels(run: emojax.Run, store: Store) -> None:
    predictions = run.predict(store)
    figure = emojax.plot(predictions, store, video="test-0")
    arousal = figure.axes[1]
    rows = predictions[predictions["video"] == "test-0"]
    drawn = {line.get_label().split(" (")[0]: line.get_ydata() for line in arousal.lines}
    np.testing.assert_array_equal(drawn["predicted"], rows["arousal"])
    labels = store.read(store.index_of("test-0")).labels["va"]
    np.testing.assert_array_equal(
        drawn["annotated"], np.where(labels[:, 1] == -5, np.nan, labels[:, 1])
    )
    again = emojax.plot(rows, {"va": labels})
    np.testing.assert_array_equal(again.axes[0].lines[-1].get_ydata(), rows["valence"])
    assert emojax.plot(predictions).axes[0].lines  # nothing annotated: the first video alone


def test_what_cannot_be_drawn_is_refused(run: emojax.Run, store: Store) -> None:
    rows = run.predict(store, partition="test")
    for wrong in (
        lambda: emojax.plot(rows, video="tset-0"),
        lambda: emojax.plot(rows, task="expr"),
        lambda: emojax.plot(rows, {"va": np.zeros((3, 2))}),
        lambda: emojax.plot(rows.drop(columns="time")),
        lambda: emojax.plot(run.predict(store, partition="test", replicas=True)),
    ):
        with pytest.raises(emojax.InputError):
            wrong()


def test_opening_a_run_prints_nothing_and_its_error_is_shown_once(
    run: emojax.Run, tmp_path: Path
) -> None:
    run.save(tmp_path / "run")
    opened = subprocess.run(
        [sys.executable, "-c", f"import emojax; emojax.open_run({str(tmp_path / 'run')!r})"],
        capture_output=True,
        text=True,
        env=subprocess_environment(),
        check=True,
    )
    assert opened.stdout == opened.stderr == ""

    message = "It is wrong."

    def fails() -> None:
        raise emojax.InputError(message, field="x")

    with pytest.raises(emojax.InputError) as caught, stored(tmp_path), stored(tmp_path):
        fails()
    shown = "".join(traceback.format_exception(caught.value))
    assert shown.count(message) == 1
    assert "in fails" in shown
