"""Ridge + smoothing: equal to least squares written out, honest in its choices, never a crash."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from emojax.datasets.folds import official_and_blocks
from emojax.datasets.record import StreamRows, VideoRecord
from emojax.datasets.source import Store
from emojax.datasets.store import StoreWriter
from emojax.datasets.transforms import nearest_rows
from emojax.errors import InputError
from emojax.ops.tasks import TASK_OPS
from emojax.scoring.baseline import WIDTHS, RidgeBaseline, fit_ridge, moving_average
from emojax.specs import TASKS, StreamSpec

SPECS = (StreamSpec("face", 6, "visual"), StreamSpec("voice", 4, "audio", 40.0))
BOTH = ("face", "voice")


def make_record(
    name: str,
    partition: str = "train",
    *,
    seed: int,
    frames: int = 120,
    noise: float = 1.0,
    tasks: Sequence[str] = ("va",),
    source: str | None = None,
) -> VideoRecord:
    """Smooth signals, seen through noise by both streams, as labels of every task."""
    rng = np.random.default_rng(seed)
    pts_N = np.arange(frames) / 25.0 + rng.uniform(0, 0.3)
    phase_C, speed_C = rng.uniform(0, 6.28, 12), rng.uniform(0.3, 1.2, 12)

    def signal(pts: np.ndarray) -> np.ndarray:
        return 0.3 + 0.6 * np.sin(pts[:, None] * speed_C + phase_C)

    streams = {}
    for k, spec in enumerate(SPECS):
        mixing = np.random.default_rng(100 + k).normal(size=(12, spec.width))
        mixing[2:] *= 0.2 if tasks == ("va",) else 1.0
        count = frames if spec.rate is None else int(frames / 25.0 * spec.rate) - 7
        row_pts = pts_N[0] + np.arange(count) / (spec.rate or 25.0)
        rows = 5 + signal(row_pts) @ mixing + noise * rng.normal(size=(count, spec.width))
        valid = rng.random(count) > 0.1
        streams[spec.name] = StreamRows(np.where(valid[:, None], rows, 0), row_pts, valid)
    values = signal(pts_N)
    labels = {
        "va": np.clip(values[:, :2], -1, 1),
        "expr": values[:, :8].argmax(axis=1)[:, None],
        "au": values > 0.3,
    }
    labels = {task: labels[task].astype(np.float32) for task in tasks}
    for task in tasks:
        labels[task][rng.random(frames) < 0.1] = TASKS[task].ignore
    return VideoRecord(name, source or name, partition, pts_N, streams, labels)


def build(path: Path, records: Sequence[VideoRecord], tasks: Sequence[str] = ("va",)) -> Store:
    with StoreWriter(path, name="t", streams=SPECS, tasks=tasks, dtype="float32") as writer:
        for record in records:
            writer.add(record)
        videos = [(r.name, r.source_video, r.partition) for r in records]
        writer.finish(official_and_blocks(videos, k=1))
    return Store(path)


def standard(tasks: Sequence[str] = ("va",), **changes: float) -> list[VideoRecord]:
    return [
        make_record(f"v{i}", "train" if i < 10 else "validation", seed=i, tasks=tasks, **changes)
        for i in range(14)
    ]


def score(store: Store, fit: RidgeBaseline | Callable, task: str) -> dict[str, float]:
    """Returns scores on the validation videos, all frames as one."""
    predict = fit.predict if isinstance(fit, RidgeBaseline) else fit
    records = [store.read(store.index_of(name)) for name in store.folds["0"].validation]
    labels = np.concatenate([record.labels[task] for record in records])
    prediction = np.concatenate([predict(record) for record in records])
    return TASK_OPS[task].scores(prediction, labels, TASKS[task].annotated(labels))


def least(fit: RidgeBaseline) -> Callable:
    """Returns the baseline's predictor at the scale of least squared error."""
    return lambda record: fit.to_least_squares(fit.predict(record))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return build(tmp_path_factory.mktemp("ridge") / "store", standard())


def reference_design(record: VideoRecord, statistics: dict) -> np.ndarray:
    """Returns (N, D) of one video, frame by frame."""
    columns = []
    for name in BOTH:
        data, (mean_D, std_D) = record.streams[name], statistics[name]
        rows = np.where(data.valid_N[:, None], (data.rows_ND - mean_D) / std_D, 0.0)
        index = nearest_rows(record.pts_N, data.pts_N)
        near = np.abs(data.pts_N[index] - record.pts_N) <= np.diff(data.pts_N).mean() + 1e-6
        columns.append(np.where(near[:, None], rows[index], 0.0))
    return np.concatenate(columns, axis=1)


def test_prediction_is_ridge_regression_written_out(store: Store) -> None:
    fit = fit_ridge(store, "0", BOTH, "va")
    statistics = store.statistics("0")
    x, y = [], []
    for name in store.folds["0"].train:
        record = store.read(store.index_of(name))
        known = (record.labels["va"] != -5).all(axis=1)
        x.append(reference_design(record, statistics)[known])
        y.append(record.labels["va"][known].astype(np.float64))
    x_ND, y_NC = np.concatenate(x), np.concatenate(y)
    assert fit.frames == fit.annotated == len(x_ND)

    record = store.read(store.index_of(store.folds["0"].validation[0]))
    new_ND, prediction = reference_design(record, statistics), fit.predict(record)
    assert prediction.dtype == np.float64
    assert prediction.shape == (record.num_frames, 2)
    for c in range(2):
        # An unpenalised column of ones, and a penalty of so much per frame.
        ones = np.concatenate([np.ones((len(x_ND), 1)), x_ND], axis=1)
        penalty = np.diag([0.0] + [fit.penalty_C[c] * len(x_ND)] * x_ND.shape[1])
        w = np.linalg.solve(ones.T @ ones + penalty, ones.T @ y_NC[:, c])
        raw = w[0] + new_ND @ w[1:]
        half = round(fit.width_C[c] * 25 / 2)
        smooth = np.array([raw[max(0, i - half) : i + half + 1].mean() for i in range(len(raw))])
        smooth = fit.mean_C[c] + fit.gain_C[c] * (smooth - fit.centre_C[c])
        assert fit.mean_C[c] == pytest.approx(y_NC[:, c].mean(), abs=1e-9)
        np.testing.assert_allclose(prediction[:, c], smooth, atol=1e-9)
        shrunk = fit.mean_C[c] + fit.correlation_C[c] * (smooth - fit.mean_C[c])
        np.testing.assert_allclose(fit.to_least_squares(prediction)[:, c], shrunk, atol=1e-9)


def test_it_learns_and_smoothing_is_chosen(store: Store) -> None:
    fit = fit_ridge(store, "0", BOTH, "va")
    scores = score(store, fit, "va")
    assert min(scores["ccc_valence"], scores["ccc_arousal"]) > 0.8
    assert (fit.width_C > min(WIDTHS)).all()
    rough = dataclasses.replace(fit, width_C=np.zeros(2))
    assert score(store, rough, "va")["ccc_mean"] < scores["ccc_mean"] - 0.02


def test_each_metric_gets_the_better_of_two_scales(tmp_path: Path) -> None:
    """With a weak signal the two scales lie far apart: 1 and the correlation."""
    records = [
        make_record(f"v{i}", "train" if i < 60 else "validation", seed=i, noise=9.0)
        for i in range(100)
    ]
    store = build(tmp_path / "s", records)
    fit = fit_ridge(store, "0", BOTH, "va")
    for_ccc, for_rmse = score(store, fit, "va"), score(store, least(fit), "va")
    for name in ("valence", "arousal"):
        assert for_ccc[f"ccc_{name}"] > for_rmse[f"ccc_{name}"]
        assert for_ccc[f"rmse_{name}"] > for_rmse[f"rmse_{name}"]
        assert for_ccc[f"pearson_{name}"] == pytest.approx(for_rmse[f"pearson_{name}"])


def test_for_ccc_the_prediction_varies_as_the_labels_do(store: Store) -> None:
    """Nearly: the scale was measured on videos that were held out, these were not."""
    fit = fit_ridge(store, "0", BOTH, "va")
    records = [store.read(store.index_of(name)) for name in store.folds["0"].train]
    labels = np.concatenate([record.labels["va"] for record in records])
    known = (labels != -5).all(axis=1)
    prediction = np.concatenate([fit.predict(record) for record in records])[known]
    np.testing.assert_allclose(prediction.std(axis=0) / labels[known].std(axis=0), 1, atol=0.25)
    np.testing.assert_allclose(prediction.mean(axis=0), labels[known].mean(axis=0), atol=0.02)


def test_a_weak_signal_is_not_taken_for_none(tmp_path: Path) -> None:
    """Held-out groups whose mean differs must not turn the pooled correlation negative."""
    for seed in range(3):
        records = [
            make_record(f"v{i}", "train" if i < 12 else "validation", seed=100 * seed + i, noise=6)
            for i in range(30)
        ]
        store = build(tmp_path / str(seed), records)
        fit = fit_ridge(store, "0", BOTH, "va")
        assert (fit.score_C > 0.1).all()
        assert score(store, fit, "va")["ccc_mean"] > 0.35


@pytest.mark.parametrize("task", ["expr", "au"])
def test_classes_and_units_are_predicted_above_chance(tmp_path: Path, task: str) -> None:
    store = build(tmp_path / "s", standard(tasks=("va", "expr", "au")), ("va", "expr", "au"))
    fit = fit_ridge(store, "0", BOTH, task)
    primary = TASK_OPS[task].primary
    outputs = TASKS[task].outputs
    assert fit.predict(store.read(0)).shape == (120, outputs)

    def shuffled(record: VideoRecord) -> np.ndarray:
        return np.random.default_rng(0).permutation(fit.predict(record))

    assert score(store, fit, task)[primary] > score(store, shuffled, task)[primary] + 0.1
    assert tuple(fit.describe()["columns"]) == TASKS[task].labels


def test_classes_have_a_scale_for_f1_and_one_for_accuracy(tmp_path: Path) -> None:
    """Rare classes are found more often with the labels' variance, at a cost in accuracy."""
    records = standard(tasks=("expr",), noise=3.0)
    for record in records:
        labels_N1 = record.labels["expr"]
        labels_N1[labels_N1 > 2] = 0.0  # one common class and two rare ones
    store = build(tmp_path / "s", records, ("expr",))
    fit = fit_ridge(store, "0", BOTH, "expr")
    first, second = score(store, fit, "expr"), score(store, least(fit), "expr")
    assert first["f1_macro"] > second["f1_macro"] + 0.02
    assert second["accuracy"] > first["accuracy"] + 0.02


def test_a_target_unknown_on_some_frames_is_fitted_on_the_others(tmp_path: Path) -> None:
    records = standard(tasks=("au",))
    for i, record in enumerate(records):
        if i % 2:
            record.labels["au"][:, 3] = -1
        record.labels["au"][:, 5] = -1
    fit = fit_ridge(build(tmp_path / "s", records, ("au",)), "0", BOTH, "au")
    prediction = fit.predict(records[0])
    assert np.isfinite(prediction).all()
    assert np.ptp(prediction[:, 3]) > 0.01
    np.testing.assert_allclose(prediction[:, 5], 0, atol=1e-12)


def test_validation_videos_are_never_looked_at(tmp_path: Path, store: Store) -> None:
    others = [
        record if record.partition == "train" else make_record(record.name, "validation", seed=77)
        for record in standard()
    ]
    changed = build(tmp_path / "s", others)
    first, second = (fit_ridge(s, "0", BOTH, "va") for s in (store, changed))
    assert first.describe() == second.describe()
    record = store.read(0)
    np.testing.assert_array_equal(first.predict(record), second.predict(record))


def test_two_persons_of_one_video_are_validated_together(tmp_path: Path) -> None:
    """Labels are noise, but each video has a twin: only grouping tells that nothing is learnt."""
    records = []
    for i in range(16):
        record = make_record(f"v{i}", seed=i, frames=60)
        rng = np.random.default_rng(1000 + i)
        # Few frames, constant rows: what can be learnt is which video it is.
        for data in record.streams.values():
            data.rows_ND[:] = rng.normal(size=data.rows_ND.shape[1])
            data.valid_N[:] = True
        record.labels["va"][:] = rng.uniform(-1, 1, 2)
        twin = dataclasses.replace(record, name=f"v{i}_left")
        records += [record, twin]
    store = build(tmp_path / "s", records)
    grouped = fit_ridge(store, "0", BOTH, "va").score_C
    alone = [dataclasses.replace(record, source_video=record.name) for record in records]
    leaking = fit_ridge(build(tmp_path / "t", alone), "0", BOTH, "va").score_C
    assert (grouped < leaking - 0.2).all()


def test_missing_rows_count_as_the_mean(store: Store) -> None:
    fit = fit_ridge(store, "0", BOTH, "va")
    record = make_record("new", seed=50)
    for data in record.streams.values():
        data.rows_ND[:] = 1e4
        data.valid_N[:] = False
    mean_C = fit.mean_C + fit.gain_C * (fit.intercept_C - fit.centre_C)
    np.testing.assert_allclose(fit.predict(record), np.broadcast_to(mean_C, (120, 2)), atol=1e-9)


def test_a_stream_without_rows_and_a_video_of_one_frame_are_predicted(store: Store) -> None:
    fit = fit_ridge(store, "0", BOTH, "va")
    record = make_record("new", seed=51)
    nothing = StreamRows(np.zeros((0, 4)), np.zeros(0), np.zeros(0, bool))
    record.streams["voice"] = nothing
    assert np.isfinite(fit.predict(record)).all()
    face = record.streams["face"]
    first = StreamRows(face.rows_ND[:1], face.pts_N[:1], face.valid_N[:1])
    record.streams["face"] = first
    one = dataclasses.replace(record, pts_N=record.pts_N[:1])
    assert fit.predict(one).shape == (1, 2)


def test_fewer_frames_give_nearly_the_same(store: Store) -> None:
    whole = fit_ridge(store, "0", BOTH, "va")
    part = fit_ridge(store, "0", BOTH, "va", max_frames=300)
    assert 250 <= part.frames <= 300
    assert part.annotated == whole.annotated
    ccc = score(store, whole, "va")["ccc_mean"]
    assert score(store, part, "va")["ccc_mean"] == pytest.approx(ccc, abs=0.05)


def test_one_source_video_is_fitted_without_validation(tmp_path: Path) -> None:
    records = [
        make_record(name, seed=seed, source="a") for seed, name in enumerate(("a_left", "a_right"))
    ]
    fit = fit_ridge(build(tmp_path / "s", records), "0", BOTH, "va")
    assert fit.groups == 1
    assert np.isnan(fit.score_C).all()
    assert np.isfinite(fit.predict(records[0])).all()
    assert fit.describe()["columns"]["valence"]["cross_validated"] is None


def test_constant_labels_are_predicted_by_their_constant(tmp_path: Path) -> None:
    records = standard()
    for record in records:
        record.labels["va"][:] = (0.25, -0.5)
    store = build(tmp_path / "s", records)
    fit = fit_ridge(store, "0", BOTH, "va")
    expected = np.broadcast_to([0.25, -0.5], (120, 2))
    for predict in (fit.predict, least(fit)):
        np.testing.assert_allclose(predict(records[0]), expected, atol=1e-6)


def test_videos_without_labels_of_the_task_are_passed_over(tmp_path: Path) -> None:
    records = standard(tasks=("va", "expr"))
    for record in records[1:6:2]:
        del record.labels["expr"]
    fit = fit_ridge(build(tmp_path / "s", records, ("va", "expr")), "0", BOTH, "expr")
    assert fit.groups == 4
    assert fit.annotated < 7 * 120


def test_description_is_json_and_says_what_was_rescaled(store: Store) -> None:
    described = json.loads(json.dumps(fit_ridge(store, "0", BOTH, "va").describe()))
    assert "rescaled" in described["note"]
    assert described["streams"] == {"face": 6, "voice": 4}
    for column in described["columns"].values():
        assert column["width_seconds"] in WIDTHS
        assert 0 < column["cross_validated"] < 1


def test_moving_average_keeps_constants_and_length() -> None:
    pts = np.arange(40) / 20.0
    for width in (0.0, 0.1, 1.0, 100.0):
        ones = moving_average(np.ones((40, 3)), pts, width)
        np.testing.assert_allclose(ones, np.ones((40, 3)), atol=1e-12)
    values = np.random.default_rng(0).normal(size=(40, 1))
    np.testing.assert_allclose(
        moving_average(values, pts, 1e6), np.broadcast_to(values.mean(axis=0), (40, 1)), atol=1e-9
    )


@pytest.mark.parametrize(
    ("streams", "task", "named"),
    [(("face", "nose"), "va", "nose"), ((), "va", "none"), (BOTH, "au", "au")],
)
def test_bad_input_is_named(store: Store, streams: tuple[str, ...], task: str, named: str) -> None:
    with pytest.raises(InputError) as caught:
        fit_ridge(store, "0", streams, task)
    assert caught.value.details["found"] == named
    assert "expected" in caught.value.details


def test_unknown_fold_and_missing_annotations_are_named(tmp_path: Path, store: Store) -> None:
    with pytest.raises(InputError):
        fit_ridge(store, "7", BOTH, "va")
    records = standard()
    for record in records:
        record.labels["va"][:] = -5
    with pytest.raises(InputError, match="No training frame"):
        fit_ridge(build(tmp_path / "s", records), "0", BOTH, "va")
