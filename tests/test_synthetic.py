"""Tests the simulated Aff-Wild2 as a store: its content, and the promises of the presets."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data.simulation.draws import generator, is_on, telegraph
from data.simulation.presets import PRESETS
from data.simulation.processes import draw_clock, simulate
from data.simulation.sensors import code_slices, embed, make_sensor
from data.synthetic import Options, build, make_options
from emojax.datasets.record import VideoRecord
from emojax.datasets.source import Store
from emojax.datasets.transforms import resample_nearest
from emojax.errors import InputError
from emojax.ops.tasks import TASK_OPS
from emojax.specs import STREAMS, TASKS

WIDTHS = ("ir50=40", "vggish=30", "bert=36")
TINY = {"train": 6, "validation": 2, "test": 2}


def quiet(_: str) -> None:
    """Takes progress lines."""


def small(**changes: object) -> Options:
    settings: dict = {"videos": TINY, "min_seconds": 3, "max_seconds": 12, "widths": WIDTHS}
    return make_options(**(settings | changes))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """24 training, 8 validation and 8 test videos with every task."""
    path = tmp_path_factory.mktemp("synthetic") / "store"
    videos = {"train": 24, "validation": 8, "test": 8}
    build(str(path), small(videos=videos, max_seconds=30), say=quiet)
    return Store(path)


def records(store: Store) -> list[VideoRecord]:
    return [store.read(i) for i in range(len(store.videos))]


def test_store_holds_what_was_asked_for(store: Store) -> None:
    assert store.tasks == ("va", "expr", "au")
    widths = {name: spec.width for name, spec in store.streams.items()}
    assert widths == {"ir50": 40, "vggish": 30, "bert": 36}
    assert {k: len(v) for k, v in store.partitions.items()} == {
        "train": 24, "validation": 8, "test": 8,
    }  # fmt: skip
    assert len(store.folds) == 6
    builder = store.metadata["builder"]
    assert set(builder["delay_seconds"]) == set(store.streams)
    assert all(0.05 <= delay <= 0.4 for delay in builder["delay_seconds"].values())
    assert "variance" in builder["references"]["optimum"]
    for record in records(store):
        for task in store.tasks:
            spec = TASKS[task]
            assert record.labels[task].shape == (record.num_frames, spec.columns)
            reference = record.references["optimum"][task]
            assert reference.shape == (record.num_frames, spec.outputs)
            assert np.isfinite(reference).all()
        np.testing.assert_allclose(record.references["optimum"]["expr"].sum(axis=1), 1, atol=1e-5)


def test_clocks_are_those_of_real_videos(store: Store) -> None:
    rates = [float(record.attributes["fps"]) for record in records(store)]
    assert set(rates) <= {24.0, 25.0, 29.97, 30.0}
    assert len(set(rates)) > 2
    starts = [record.pts_N[0] for record in records(store)]
    assert min(starts) == 0.0 < max(starts)
    frames = [record.num_frames for record in records(store)]
    assert min(frames) < 300 < max(frames)
    for record, rate in zip(records(store), rates, strict=True):
        steps = np.diff(record.pts_N)
        assert steps.min() > 0
        assert np.median(steps) == pytest.approx(1 / rate, abs=1.1e-3)
    assert any(np.diff(r.pts_N).max() > 1.5 * np.median(np.diff(r.pts_N)) for r in records(store))


def test_rows_differ_from_frames_in_number(store: Store) -> None:
    surplus = np.array(
        [[len(rows.pts_N) - r.num_frames for rows in r.streams.values()] for r in records(store)]
    )
    assert surplus.min() < 0 < surplus.max()
    assert np.abs(surplus).max() <= 12


def test_missing_faces_and_silence_are_invalid_zero_rows(store: Store) -> None:
    for record in records(store):
        for rows in record.streams.values():
            assert not rows.rows_ND[~rows.valid_N].any()
            assert rows.rows_ND[rows.valid_N].any(axis=1).all()
    for name in ("ir50", "vggish"):
        shares = [record.streams[name].valid_N.mean() for record in records(store)]
        assert 0.6 < np.mean(shares) < 1.0
    # Silence takes both audio and words away.
    both = [
        (record.streams["vggish"].valid_N.mean(), record.streams["bert"].valid_N.mean())
        for record in records(store)
    ]
    assert np.corrcoef(np.array(both).T)[0, 1] > 0.9


def test_gaps_in_the_annotations(store: Store) -> None:
    labels = {
        task: np.concatenate([record.labels[task] for record in records(store)])
        for task in store.tasks
    }
    va, expr, au = labels["va"], labels["expr"], labels["au"]
    assert 0.01 < (va == -5).mean() < 0.2
    np.testing.assert_array_equal(va[:, 0] == -5, va[:, 1] == -5)
    assert np.abs(va[va != -5]).max() <= 1.0
    assert 0.01 < (expr == -1).mean() < 0.2
    assert set(np.unique(expr)) == set(range(-1, 8))
    assert set(np.unique(au)) == {-1, 0, 1}
    unknown = (au == -1).sum(axis=1)
    assert (unknown == 12).any()
    assert ((unknown > 0) & (unknown < 12)).any()


def test_pairs_share_their_source(store: Store) -> None:
    by_source: dict[str, list[VideoRecord]] = {}
    for record in records(store):
        by_source.setdefault(record.source_video, []).append(record)
    pairs = [group for group in by_source.values() if len(group) == 2]
    assert pairs
    for left, right in pairs:
        assert (left.name, right.name) == (
            f"{left.source_video}_left",
            f"{left.source_video}_right",
        )
        assert left.partition == right.partition
        np.testing.assert_array_equal(left.pts_N, right.pts_N)
        assert (left.labels["va"] != right.labels["va"]).any()
    for fold in store.folds.values():
        role = {name: i for i, part in enumerate((fold.train, fold.validation)) for name in part}
        for left, right in pairs:
            assert role.get(left.name) == role.get(right.name)


def test_printed_scores_are_those_of_the_stored_reference(tmp_path: Path) -> None:
    lines: list[str] = []
    scores = build(str(tmp_path / "s"), small(), say=lines.append)
    stored = Store(tmp_path / "s")
    for part, by_task in scores.items():
        chosen = [r for r in records(stored) if r.partition == part]
        for task, score in by_task.items():
            prediction, labels = (
                np.concatenate([get(r) for r in chosen]).astype(np.float64)
                for get in (
                    lambda r, t=task: r.references["optimum"][t],
                    lambda r, t=task: r.labels[t],
                )
            )
            expected = TASK_OPS[task].scores(prediction, labels, labels != TASKS[task].ignore)
            assert score == pytest.approx(expected, abs=1e-9)
    printed = "\n".join(lines)
    assert re.search(rf"train +va +.*ccc_mean {scores['train']['va']['ccc_mean']:.3f}", printed)
    # On the training partition the reference has the labels' mean and variance.
    train = [r for r in records(stored) if r.partition == "train"]
    labels = np.concatenate([r.labels["va"] for r in train]).astype(np.float64)
    prediction = np.concatenate([r.references["optimum"]["va"] for r in train]).astype(np.float64)
    kept = labels[:, 0] != -5
    np.testing.assert_allclose(prediction[kept].mean(axis=0), labels[kept].mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(prediction[kept].std(axis=0), labels[kept].std(axis=0), rtol=1e-5)


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        build(str(tmp_path / name), small(seed=seed, tasks=("va",)), say=quiet)
    content = {
        name: b"".join(f.read_bytes() for f in sorted((tmp_path / name).rglob("*.tfrecord")))
        for name in "abc"
    }
    assert content["a"] == content["b"] != content["c"]
    assert content["a"]


def test_a_video_does_not_depend_on_the_others(tmp_path: Path) -> None:
    few, many = (
        small(videos={"train": n, "validation": 1, "test": 0}, tasks=("va",)) for n in (2, 7)
    )
    build(str(tmp_path / "few"), few, say=quiet)
    build(str(tmp_path / "many"), many, say=quiet)
    a, b = Store(tmp_path / "few"), Store(tmp_path / "many")
    for name in (video.name for video in a.videos):
        one, other = a.read(a.index_of(name)), b.read(b.index_of(name))
        np.testing.assert_array_equal(one.pts_N, other.pts_N)
        np.testing.assert_array_equal(one.labels["va"], other.labels["va"])
        for stream in a.streams:
            np.testing.assert_array_equal(
                one.streams[stream].rows_ND, other.streams[stream].rows_ND
            )


def test_features_are_their_code_plus_white_noise() -> None:
    tasks = ("va", "expr", "au")
    sensor = make_sensor(STREAMS["ir50"], tasks, generator(0, "ir50"))
    np.testing.assert_allclose(sensor.basis_QD @ sensor.basis_QD.T, np.eye(23), atol=1e-12)
    video = simulate(0, PRESETS["plain"], (sensor,), tasks, "train", 0, (30, 30))
    rows = video.rows["ir50"]
    rows_ND = embed(sensor, rows.code_NQ, rows.valid_N, 0.05, generator(0, "noise"))
    centred_ND = (rows_ND - sensor.offset_D)[rows.valid_N]
    np.testing.assert_allclose(
        centred_ND @ sensor.basis_QD.T, rows.code_NQ[rows.valid_N], atol=1e-4
    )
    outside_ND = centred_ND - centred_ND @ sensor.basis_QD.T @ sensor.basis_QD
    assert outside_ND.var() * 512 / (512 - 23) == pytest.approx(0.05**2, rel=0.02)
    cue_N = centred_ND @ sensor.basis_QD[0]
    np.testing.assert_array_equal(cue_N > 0, rows.reliable_N[rows.valid_N])


def test_rows_show_the_state_of_a_delay_ago() -> None:
    # With neither nuisance nor noise the code is the (unclipped) label, later by the delay.
    preset = dataclasses.replace(
        PRESETS["plain"], rho=0.0, rho_unreliable=0.0, white=0.0, signal_rate=3.0
    )
    sensor = make_sensor(STREAMS["ir50"], ("va",), generator(0, "ir50"))
    video = simulate(0, preset, (sensor,), ("va",), "train", 1, (40, 40))
    rows = video.rows["ir50"]
    valence_N = video.truth["va"][:, 0]
    code_N = rows.code_NQ[:, code_slices(("va",))["va"]][:, 0]
    x_N = 0.1 + 0.3 * code_N / (sensor.gain * preset.va_gain)
    error = {
        delay: np.abs(np.interp(video.pts_N + delay, rows.pts_N, np.clip(x_N, -1, 1)) - valence_N)
        for delay in (0.0, sensor.delay, 2 * sensor.delay)
    }
    means = {delay: e[:-20].mean() for delay, e in error.items()}
    assert means[sensor.delay] < 0.01 < 0.03 < min(means[0.0], means[2 * sensor.delay])


def test_streams_keep_their_own_rates(tmp_path: Path) -> None:
    names = ("fan", "wav2vec2_emotion", "openpose", "deepspectrum")
    options = small(
        streams=names,
        widths=(),
        tasks=("va", "expr"),
        videos={"train": 2, "validation": 1, "test": 0},
    )
    build(str(tmp_path / "s"), options, say=quiet)
    stored = Store(tmp_path / "s")
    for record in records(stored):
        for name, rows in record.streams.items():
            if len(rows.pts_N) > 1:
                assert 1 / np.diff(rows.pts_N).mean() == pytest.approx(STREAMS[name].rate, rel=1e-6)


def test_telegraph_spends_its_time_as_told() -> None:
    time = np.linspace(0, 50_000, 500_001)
    on = is_on(telegraph(generator(0, "t"), 50_000, 6.0, 2.0), time)
    assert on.mean() == pytest.approx(0.75, abs=0.02)
    starts = [is_on(telegraph(generator(i, "t"), 1, 6.0, 2.0), np.zeros(1))[0] for i in range(2000)]
    assert np.mean(starts) == pytest.approx(0.75, abs=0.05)


def test_lengths_are_log_uniform() -> None:
    seconds = [draw_clock(0, "train", i, (8.0, 900.0))[-1][-1] for i in range(600)]
    assert min(seconds) < 12
    assert np.mean(np.log(seconds)) == pytest.approx((np.log(8) + np.log(900)) / 2, abs=0.2)
    # Full size: 594 videos, about 3 million frames.
    frames = [draw_clock(0, "train", i, (8.0, 900.0))[-1].size for i in range(594)]
    assert sum(frames) == pytest.approx(3e6, rel=0.15)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"preset": "cross_cued", "streams": ["vggish", "logmel"], "widths": ()}, "audio"),
        ({"preset": "cross_cued", "streams": ["ir50"], "widths": ()}, "visual"),
        ({"preset": "plane"}, "plane"),
        ({"size": "huge"}, "huge"),
        ({"streams": ("ir50", "vgish")}, "vgish"),
        ({"streams": ()}, "--streams"),
        ({"tasks": ("valence",)}, "valence"),
        ({"tasks": ()}, "--tasks"),
        ({"widths": ("ir50:64",)}, "ir50:64"),
        ({"widths": ("ir50=0",)}, "ir50=0"),
        ({"widths": ("eff=64",)}, "eff"),
        ({"min_seconds": 20, "max_seconds": 10}, "min_seconds"),
        ({"max_seconds": float("nan")}, "nan"),
        ({"videos": {"train": 0}}, "--train_videos"),
        ({"videos": {"test": -1}}, "--test_videos"),
        ({"seed": -1}, "--seed"),
        ({"folds": 0}, "--folds"),
        ({"streams": ("resp",), "widths": ()}, "resp"),
    ],
)
def test_bad_options_are_input_errors(changes: dict, named: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        build(str(tmp_path / "s"), small(**changes), say=quiet)
    assert named in str(error.value)
    assert not list(tmp_path.iterdir())


def test_command_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "data.synthetic", f"--out={tmp_path / 's'}", "--tasks=va"]
    command += ["--size=tiny", "--train_videos=2", "--validation_videos=1", "--test_videos=0"]
    command += ["--max_seconds=5", "--streams=ir50", "--width=ir50=16", "--folds=1"]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "ccc_mean" in done.stdout
    assert len(Store(tmp_path / "s").videos) == 3
    wrong = subprocess.run(
        [*command, "--preset=x"], cwd=root, capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 2
    assert "--preset" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def on_frames(record: VideoRecord, streams: tuple[str, ...]) -> np.ndarray:
    """Returns (N, sum of D) float32, the row nearest to each frame."""
    parts = []
    for name in streams:
        rows = record.streams[name]
        rows_ND = rows.rows_ND.astype(np.float32)
        parts.append(resample_nearest(rows_ND, rows.pts_N, rows.valid_N, record.pts_N)[0])
    return np.concatenate(parts, axis=1)


def smoothed(values_NC: np.ndarray, width: int) -> np.ndarray:
    """Centred moving average, shorter at the ends."""
    total = np.concatenate([np.zeros((1, values_NC.shape[1])), np.cumsum(values_NC, axis=0)])
    stop = np.minimum(np.arange(len(values_NC)) + width // 2 + 1, len(values_NC))
    start = np.maximum(np.arange(len(values_NC)) - width // 2, 0)
    return (total[stop] - total[start]) / (stop - start)[:, None]


def best_smoothed(
    train: list[np.ndarray], validation: list[np.ndarray], target: list[np.ndarray]
) -> list[np.ndarray]:
    """Validation predictions; width, scale and shift are those that suit the training videos."""
    truth = np.concatenate(target)

    def moved(width: int) -> np.ndarray:
        return np.concatenate([smoothed(p, width) for p in train])

    def correlation(width: int) -> float:
        p = moved(width)
        return float(np.mean([np.corrcoef(p[:, d], truth[:, d])[0, 1] for d in range(2)]))

    width = max((1, 15, 31, 61, 91, 121, 181), key=correlation)
    p = moved(width)
    scale = truth.std(axis=0) / p.std(axis=0)
    return [scale * (smoothed(v, width) - p.mean(axis=0)) + truth.mean(axis=0) for v in validation]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "low", "high"),
    [("plain", 0.93, 1.0), ("switching", 0.2, 0.8), ("cross_cued", 0.2, 0.65)],
)
def test_promises_of_the_presets(preset: str, low: float, high: float, tmp_path: Path) -> None:
    """Static ridge + smoothing against the optimum, and what judging reliability gains."""
    options = make_options(
        preset=preset,
        videos={"train": 60, "validation": 24, "test": 0},
        min_seconds=15,
        max_seconds=50,
        tasks=("va",),
        widths=WIDTHS,
    )
    scores = build(str(tmp_path / "s"), options, say=quiet)
    stored = Store(tmp_path / "s")
    streams = tuple(stored.streams)
    optimum = scores["validation"]["va"]["ccc_mean"]
    assert 0.75 < optimum < (0.99 if preset == "cross_cued" else 0.95)

    parts = {
        part: [stored.read(stored.index_of(name)) for name in stored.partitions[part]]
        for part in ("train", "validation")
    }
    seen = {p: [r.labels["va"][:, 0] != -5 for r in parts[p]] for p in parts}
    labels = {p: [r.labels["va"].astype(float) for r in parts[p]] for p in parts}

    def score(prediction: list[np.ndarray]) -> float:
        truth, mask = (np.concatenate(x) for x in (labels["validation"], seen["validation"]))
        mask = np.repeat(mask[:, None], 2, axis=1)
        return TASK_OPS["va"].scores(np.concatenate(prediction), truth, mask)["ccc_mean"]

    def fitted(features: dict[str, list[np.ndarray]]) -> float:
        x = {p: [np.c_[f, np.ones(len(f))] for f in features[p]] for p in features}
        kept = [
            (f[m], y[m]) for f, y, m in zip(x["train"], labels["train"], seen["train"], strict=True)
        ]
        rows, target = (np.concatenate(part) for part in zip(*kept, strict=True))
        gram = rows.T @ rows + 1.0 * np.eye(rows.shape[1])
        weights = np.linalg.solve(gram, rows.T @ target)
        predicted = {p: [f @ weights for f in x[p]] for p in x}
        train = [f[m] for f, m in zip(predicted["train"], seen["train"], strict=True)]
        return score(best_smoothed(train, predicted["validation"], [y for _, y in kept]))

    ridge = fitted({p: [on_frames(r, streams) for r in parts[p]] for p in parts})
    assert low * optimum <= ridge <= high * optimum

    if preset == "switching":
        # An oracle that knows each modality's reliability averages only what it can trust.
        process = PRESETS[preset]
        tasks, sensors = options.tasks, {}
        for spec in options.streams:
            sensors[spec.name] = make_sensor(spec, tasks, generator(0, "sensor", spec.name))

        def trusted(record: VideoRecord) -> np.ndarray:
            total, weight = np.zeros((record.num_frames, 2)), np.ones((record.num_frames, 1))
            for name, sensor in sensors.items():
                frames_ND = on_frames(record, (name,))
                code_NQ = (frames_ND - sensor.offset_D) @ sensor.basis_QD.T / sensor.gain
                known_N1 = frames_ND.any(axis=1)[:, None]
                noise = process.rho**2 + (code_NQ[:, :1] < 0) * process.rho_unreliable**2
                total += known_N1 * code_NQ[:, 1:3] / noise
                weight += known_N1 / noise
            return total / weight

        gated = fitted({p: [trusted(r) for r in parts[p]] for p in parts})
        assert gated >= 0.9 * optimum
