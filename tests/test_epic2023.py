"""The EPiC-2023 builder, on a small file of the same form and, where present, on the real one."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.epic2023 import FILE, build, make_folds, read_export
from data.epic_features import COLUMNS, person_features
from emojax.datasets.source import Store
from emojax.errors import InputError
from emojax.ops.epic import official_rmse
from tests.refusals import refused

REAL = Path(__file__).resolve().parents[2] / "shared/data/epic2023_case"
PEOPLE, CLIPS, FRAMES = 6, 4, 80
LABELLED = slice(10, 70)


def small_arrays(seed: int = 0) -> dict[str, np.ndarray]:
    """Returns an export of 6 people x 4 clips with 80 frames, of which 60 are labelled."""
    rng = np.random.default_rng(seed)
    count = PEOPLE * CLIPS
    person = np.repeat(np.arange(1, PEOPLE + 1), CLIPS).astype(np.int16)
    clip = np.tile(np.arange(1, CLIPS + 1), PEOPLE).astype(np.int16)

    def course(level: float, spread: float, width: int) -> np.ndarray:
        walk = np.cumsum(rng.normal(size=(count, FRAMES, width)), axis=1) / np.sqrt(FRAMES)
        return (level + spread * walk).astype(np.float32)

    va = np.full((count, FRAMES, 2), np.nan, np.float32)
    va[:, LABELLED] = np.clip(course(5.0, 2.0, 2)[:, LABELLED], 0.5, 9.5)
    mask = np.zeros((count, FRAMES), bool)
    mask[:, LABELLED] = True
    cardiac = np.concatenate([course(70, 8, 1), course(0.3, 0.03, 1)], axis=-1)
    cardiac[0, 5] = (484.0, -287.0)  # spline overshoot, as in the real file
    return {
        "cardiac": cardiac,
        "eda": np.concatenate([np.abs(course(0.1, 0.2, 1)), course(20, 4, 1)], axis=-1),
        "resp": course(18, 4, 1),
        "temp": course(28, 1, 1),
        "emg": np.abs(course(0.2, 0.2, 3)),
        "va": va,
        "label_mask": mask,
        "subject": person,
        "video": clip,
        "video_label": np.array([f"clip{i}" for i in clip]),
        "fold_s2": ((person - 1) // 3).astype(np.int8),
        "fold_s3": (clip - 1).astype(np.int8),
        "fold_s4": (clip % 2).astype(np.int8),
        "window_s2": np.array([30, 70]),
        "window_s3": np.array([20, 60]),
        "window_s4": np.array([10, 50]),
        "time_s": np.arange(FRAMES) / 20.0,
        "fs": np.float32(20.0),
        "feature_names": np.array(["IHR", "PTT"]),
    }


def write(folder: Path, arrays: dict[str, np.ndarray]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / FILE, **arrays)
    return folder


def silent(text: str) -> None:
    del text


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("epic")
    build(write(folder / "source", small_arrays()), folder / "store", say=silent)
    return Store(folder / "store")


def test_store_holds_every_recording_with_its_ratings(store: Store) -> None:
    arrays = small_arrays()
    assert len(store.videos) == PEOPLE * CLIPS
    assert {name: spec.width for name, spec in store.streams.items()} == {
        name: len(columns) for name, columns in COLUMNS.items()
    }
    for i, video in enumerate(store.videos):
        record = store.read(i)
        np.testing.assert_array_equal(record.pts_N, arrays["time_s"])
        labels = record.labels["va"]
        np.testing.assert_array_equal(labels[LABELLED], arrays["va"][i, LABELLED])
        assert (np.delete(labels, np.r_[LABELLED], axis=0) == -5).all()
        assert record.attributes == {"subject": f"{arrays['subject'][i]:02d}"}
        assert video.source_video == f"s{arrays['subject'][i]:02d}"


def test_folds_are_the_official_ones_and_keep_people_together(store: Store) -> None:
    arrays = small_arrays()
    names = [video.name for video in store.videos]
    person = dict(zip(names, arrays["subject"].tolist(), strict=True))
    wanted = {f"s2_{i}" for i in range(2)} | {f"s3_{i}" for i in range(4)}
    wanted |= {f"s4_{i}" for i in range(2)}
    assert set(store.folds) == wanted
    for name, fold in store.folds.items():
        scenario, number = name.split("_")
        tests = {names[i] for i in np.flatnonzero(arrays[f"fold_{scenario}"] == int(number))}
        assert set(fold.test) == tests
        assert set(fold.train) | set(fold.validation) | tests == set(names)
        assert not tests & (set(fold.train) | set(fold.validation))
        assert fold.train
        assert fold.validation
        assert not {person[v] for v in fold.train} & {person[v] for v in fold.validation}
        assert tuple(fold.scored_frames or ()) == tuple(arrays[f"window_{scenario}"])
        if scenario == "s2":
            known = {person[v] for v in (*fold.train, *fold.validation)}
            assert not known & {person[v] for v in tests}


def test_folds_are_deterministic_and_follow_the_seed(tmp_path: Path) -> None:
    export = read_export(write(tmp_path, small_arrays()))
    assert make_folds(export, 3) == make_folds(export, 3)
    assert any(make_folds(export, 3)[i] != make_folds(export, 4)[i] for i in range(8))


def test_clip_identity_does_not_enter(tmp_path: Path) -> None:
    arrays = small_arrays()
    renamed = arrays | {
        "video": arrays["video"][::-1],
        "video_label": np.full_like(arrays["video_label"], "secret"),
    }
    build(write(tmp_path / "a", arrays), tmp_path / "store_a", say=silent)
    build(write(tmp_path / "b", renamed), tmp_path / "store_b", say=silent)
    a, b = Store(tmp_path / "store_a"), Store(tmp_path / "store_b")
    assert a.folds == b.folds
    for i in range(len(a.videos)):
        assert a.read(i).attributes == b.read(i).attributes
        for stream, rows in a.read(i).streams.items():
            np.testing.assert_array_equal(rows.rows_ND, b.read(i).streams[stream].rows_ND)


def test_features_ignore_labels_and_other_people(tmp_path: Path) -> None:
    arrays = small_arrays()
    other = {name: x.copy() for name, x in arrays.items() if name in COLUMNS}
    own = arrays["subject"] == 2
    for x in other.values():
        x[~own] = x[~own][::-1] * 1.1
    first = person_features(arrays, arrays["subject"])
    second = person_features(other, arrays["subject"])
    for name in COLUMNS:
        np.testing.assert_allclose(first[name][own], second[name][own], rtol=0, atol=1e-12)


def test_features_are_relative_to_the_person() -> None:
    arrays = small_arrays()
    features = person_features(arrays, arrays["subject"])
    for name, x_VND in features.items():
        assert x_VND.shape == (PEOPLE * CLIPS, FRAMES, len(COLUMNS[name]))
        assert np.isfinite(x_VND).all()
        assert np.abs(x_VND).max() <= 10.0
        for person in range(1, PEOPLE + 1):
            own = x_VND[arrays["subject"] == person]
            np.testing.assert_allclose(own.mean(axis=0), 0.0, atol=1e-12)
    # Other units change nothing: a person's own mean and spread are taken away.
    warmer = arrays | {"temp": arrays["temp"] * np.float32(0.5) + np.float32(14.0)}
    np.testing.assert_allclose(
        person_features(warmer, arrays["subject"])["temp"], features["temp"], atol=1e-3
    )


def drop(name: str) -> Callable[[dict[str, np.ndarray]], None]:
    return lambda arrays: arrays.pop(name) is None


def put(name: str, index: object, value: object) -> Callable[[dict[str, np.ndarray]], None]:
    return lambda arrays: arrays[name].__setitem__(index, value)


def replace(
    name: str, change: Callable[[np.ndarray], np.ndarray]
) -> Callable[[dict[str, np.ndarray]], None]:
    return lambda arrays: arrays.__setitem__(name, change(arrays[name]))


FAULTS = {
    "stream missing": ("eda", drop("eda")),
    "labels missing": ("va", drop("va")),
    "fold missing": ("fold_s3", drop("fold_s3")),
    "wrong width": ("emg", replace("emg", lambda x: x[..., :2])),
    "wrong frames": ("resp", replace("resp", lambda x: x[:, :-1])),
    "NaN feature": ("temp", put("temp", (3, 7, 0), np.nan)),
    "integer stream": ("temp", replace("temp", lambda x: x.astype(int))),
    "gap in labels": ("va", put("va", (0, 30, 1), np.nan)),
    "label outside mask": ("va", put("va", (0, 0), 5.0)),
    "off the scale": ("va", put("va", (0, 30, 1), 11.0)),
    "mask not bool": ("label_mask", replace("label_mask", lambda x: x.astype(int))),
    "real subject": ("subject", replace("subject", lambda x: x.astype(float))),
    "one recording": ("subject", put("subject", 0, 99)),
    "no recordings": ("subject", replace("subject", lambda x: x[:0])),
    "negative fold": ("fold_s4", put("fold_s4", 0, -1)),
    "fold of other length": ("fold_s4", replace("fold_s4", lambda x: x[1:])),
    "only one fold": ("fold_s4", replace("fold_s4", np.zeros_like)),
    "person in two folds": ("fold_s2", put("fold_s2", 0, 1)),
    "window of one": ("window_s2", replace("window_s2", lambda x: x[:1])),
    "window reversed": ("window_s2", replace("window_s2", lambda x: x[::-1])),
    "window too long": ("window_s3", put("window_s3", 1, FRAMES + 1)),
    "unlabelled scored": ("window_s3", put("window_s3", 0, 2)),
    "clock goes back": ("time_s", replace("time_s", lambda x: x[::-1])),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_malformed_fields_are_named(fault: str, tmp_path: Path) -> None:
    field, spoil = FAULTS[fault]
    arrays = {name: array.copy() for name, array in small_arrays().items()}
    spoil(arrays)
    with pytest.raises(InputError) as caught:
        read_export(write(tmp_path, arrays))
    assert caught.value.details["field"] == field
    assert {"file", "found", "expected", "remedy"} <= caught.value.details.keys()


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with refused(file=FILE, found="no such file"):
        read_export(tmp_path)
    path = write(tmp_path, small_arrays()) / FILE
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with refused(file=FILE, field="npz archive"):
        read_export(tmp_path)
    path.write_bytes(b"not an archive")
    with refused(file=FILE, field="npz archive"):
        read_export(path)
    middle = whole.index(b"temp.npy") + 200
    path.write_bytes(whole[:middle] + b"flipped!" + whole[middle + 8 :])
    with refused(file=FILE, field="temp"):
        read_export(path)


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    arrays = small_arrays() | {"video_label": np.array([{"a": 1}], dtype=object)}
    with refused(file=FILE, field="video_label"):
        read_export(write(tmp_path, arrays))


def test_failed_build_leaves_nothing(tmp_path: Path) -> None:
    arrays = small_arrays()
    arrays["fold_s2"][:] = np.arange(PEOPLE * CLIPS) % 2
    with pytest.raises(InputError):
        build(write(tmp_path / "source", arrays), tmp_path / "store", say=silent)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


# -- the real export -----------------------------------------------------------------------

needs_export = pytest.mark.skipif(
    not (REAL / FILE).is_file(), reason=f"the EPiC-2023 export is not at {REAL}"
)
MEAN_RMSE = {"s2": (1.269, 1.302), "s3": (1.510, 1.617), "s4": (1.270, 1.299)}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Store:
    out = tmp_path_factory.mktemp("epic2023") / "store"
    build(REAL, out, say=silent)
    return Store(out)


@needs_export
def test_real_export_has_the_documented_shape(real: Store) -> None:
    assert len(real.videos) == 240
    assert {video.num_frames for video in real.videos} == {1001}
    assert len({video.source_video for video in real.videos}) == 30
    sizes = {name: len(fold.test) for name, fold in real.folds.items()}
    assert sizes == {
        **{f"s2_{i}": 48 for i in range(5)},
        **{f"s3_{i}": 60 for i in range(4)},
        **{f"s4_{i}": 120 for i in range(2)},
    }


@needs_export
@pytest.mark.parametrize("scenario", MEAN_RMSE)
def test_training_mean_scores_what_the_export_documents(real: Store, scenario: str) -> None:
    labels = {v.name: real.read(i).labels["va"] for i, v in enumerate(real.videos)}
    predictions, truths = {}, {}
    for name, fold in real.folds.items():
        if not name.startswith(scenario):
            continue
        known = np.concatenate([labels[video] for video in (*fold.train, *fold.validation)])
        mean_2 = known[(known != -5).all(axis=1)].mean(axis=0, dtype=np.float64)
        truths[name] = [labels[video] for video in fold.test]
        predictions[name] = [np.broadcast_to(mean_2, x.shape) for x in truths[name]]
        scored = tuple(fold.scored_frames or ())
    np.testing.assert_allclose(
        official_rmse(predictions, truths, scored), MEAN_RMSE[scenario], atol=6e-4
    )


@needs_export
def test_person_relative_features_beat_the_training_mean(real: Store) -> None:
    """Ridge on means over ten segments of a recording, scenario 2, weight fixed beforehand."""
    records = {v.name: real.read(i) for i, v in enumerate(real.videos)}

    def segments(name: str) -> np.ndarray:
        rows = [s.rows_ND[:1000].astype(np.float64) for s in records[name].streams.values()]
        return np.concatenate([x.reshape(10, 100, -1).mean(axis=1).ravel() for x in rows])

    predictions, truths = {}, {}
    for fold_name in (f"s2_{i}" for i in range(5)):
        fold = real.fold(fold_name)
        start, stop = fold.scored_frames or (0, 0)
        known = [*fold.train, *fold.validation]
        x_VD = np.stack([segments(name) for name in known])
        y_V2 = np.stack([records[n].labels["va"][start:stop].mean(axis=0) for n in known])
        mean_2 = y_V2.mean(axis=0)
        # The dual form, for there are fewer recordings than columns.
        gram = x_VD @ x_VD.T + 300.0 * np.eye(len(known))
        weights_D2 = x_VD.T @ np.linalg.solve(gram, y_V2 - mean_2)
        truths[fold_name] = [records[name].labels["va"] for name in fold.test]
        predictions[fold_name] = [
            np.broadcast_to(segments(name) @ weights_D2 + mean_2, (1001, 2)) for name in fold.test
        ]
    valence, arousal = official_rmse(predictions, truths, (200, 801))
    assert valence < 1.18
    assert arousal < 1.10


def test_names_do_not_number_the_clips(store: Store) -> None:
    """The export lists each person's clips in one order; names must not repeat it."""
    by_person: dict[str, list[str]] = {}
    for video in store.videos:
        by_person.setdefault(video.source_video, []).append(video.name.split("_")[1])
    orders = {tuple(numbers) for numbers in by_person.values()}
    assert len(orders) > 1
    assert all(sorted(order) == [str(n) for n in range(CLIPS)] for order in orders)
