"""Smoothing against its weights written out frame by frame; tuned widths; files of widths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emojax.core.session import Session, build_session
from emojax.datasets.folds import Fold
from emojax.datasets.record import StreamRows, VideoRecord
from emojax.datasets.source import Store
from emojax.datasets.store import StoreWriter
from emojax.errors import InputError
from emojax.ops.postprocessing import SMOOTHERS, clip, smooth
from emojax.scoring.evaluation import Tuning, evaluate_folds
from emojax.scoring.fitted_postprocessing import (
    ON_TRAINING,
    Postprocessing,
    check_steps,
    label_ranges,
    prepare_postprocessing,
    read_postprocessing,
    smoothed,
    tuned_postprocessing,
)
from emojax.scoring.fold_scores import OURS, PROCESSED
from emojax.specs import TASKS
from tests.small_store import STREAMS, small_config
from tests.training_runs import one_device

WEIGHTS = {
    "moving_average": lambda d, s: float(abs(d) <= s / 2 + 1e-6),
    "gaussian": lambda d, s: np.exp(-0.5 * (d / s) ** 2) if abs(d) <= 4 * s + 1e-6 else 0.0,
    "exponential": lambda d, s: np.exp(d / s) if d <= 0 else 0.0,
}


def reference(x: np.ndarray, pts: np.ndarray, known: np.ndarray, s: float, kind: str) -> Any:
    result = x.copy()
    for i in np.flatnonzero(known):
        weights = np.array([WEIGHTS[kind](t - pts[i], s) for t in pts]) * known
        result[i] = np.sum(weights[known] * x[known]) / weights.sum()
    return result


# -- filters ---------------------------------------------------------------------------------


@pytest.mark.parametrize("smoother", SMOOTHERS)
@settings(max_examples=15)
@given(
    seed=st.integers(0, 10**6),
    frames=st.integers(1, 40),
    seconds=st.sampled_from([0.04, 0.2, 0.5, 3.0]),
)
def test_smoothing_equals_its_weights(
    smoother: str, seed: int, frames: int, seconds: float
) -> None:
    """An uneven clock with jumps, frames that are masked and frames that are NaN."""
    rng = np.random.default_rng(seed)
    steps = rng.choice([0.033, 0.04, 0.05, 2.0], frames, p=[0.3, 0.3, 0.3, 0.1])
    pts_N = np.cumsum(steps)
    values_NC = rng.normal(size=(frames, 3))
    mask_NC = rng.random((frames, 3)) < 0.8
    values_NC[rng.random((frames, 3)) < 0.1] = np.nan
    before = values_NC.copy()
    found_NC = smooth(values_NC, pts_N, seconds, smoother=smoother, mask_NC=mask_NC)
    for c in range(3):
        known_N = mask_NC[:, c] & np.isfinite(values_NC[:, c])
        expected_N = reference(values_NC[:, c], pts_N, known_N, seconds, smoother)
        np.testing.assert_allclose(found_NC[:, c], expected_N, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(values_NC, before)


@pytest.mark.parametrize("smoother", SMOOTHERS)
def test_smoothers_look_where_they_say(smoother: str) -> None:
    pts_N = np.arange(101) / 25
    pulse_N1 = (np.arange(101) == 50).astype(float)[:, None]
    found_N = smooth(pulse_N1, pts_N, 0.4, smoother=smoother)[:, 0]
    if SMOOTHERS[smoother].causal:
        assert (found_N[:50] == 0).all()
        assert found_N[60] > 0
    else:
        # Zero phase: the answer to a pulse is symmetric about it.
        np.testing.assert_allclose(found_N, found_N[::-1], rtol=0, atol=1e-12)
        assert found_N.argmax() in range(45, 56)
    constant_N1 = np.full((101, 1), 0.7)
    for seconds in SMOOTHERS[smoother].seconds:
        kept = smooth(constant_N1, pts_N, seconds, smoother=smoother)
        np.testing.assert_allclose(kept, 0.7, rtol=0, atol=1e-12)


@pytest.mark.parametrize("smoother", SMOOTHERS)
def test_a_gap_in_the_clock_is_not_bridged(smoother: str) -> None:
    pts_N = np.concatenate([np.arange(50) / 25, 100 + np.arange(50) / 25])
    values_N1 = np.repeat([0.0, 1.0], 50)[:, None]
    found = smooth(values_N1, pts_N, 1.0, smoother=smoother)
    np.testing.assert_allclose(found, values_N1, rtol=0, atol=1e-12)


@pytest.mark.parametrize("smoother", SMOOTHERS)
def test_probabilities_stay_probabilities(smoother: str) -> None:
    p_NC = np.random.default_rng(0).dirichlet(np.ones(8), 60)
    found = smooth(p_NC, np.arange(60) / 30, 0.5, smoother=smoother)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=0, atol=1e-12)
    assert (found >= 0).all()


def test_bad_arguments_are_refused() -> None:
    values, pts = np.zeros((4, 1)), np.arange(4.0)
    for seconds in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="width"):
            smooth(values, pts, seconds)
    with pytest.raises(ValueError, match="mask"):
        smooth(values, pts, 1.0, mask_NC=np.ones((4, 2), bool))
    with pytest.raises(ValueError, match="times"):
        smooth(values, pts[:3], 1.0)
    np.testing.assert_array_equal(clip(np.array([-3.0, 0.5, np.nan]), -1, 1), [-1, 0.5, np.nan])
    with pytest.raises(ValueError, match="empty"):
        clip(values, 1, -1)


# -- widths ----------------------------------------------------------------------------------


FRAMES, FPS = 400, 20.0


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Slow valence, arousal that changes with every frame, classes and units that last."""
    path = tmp_path_factory.mktemp("postprocessing") / "store"
    names = [f"video-{i}" for i in range(4)]
    with StoreWriter(path, name="x", streams=STREAMS, tasks=("va", "expr", "au")) as writer:
        for i, name in enumerate(names):
            rng = np.random.default_rng(i)
            pts_N = np.arange(FRAMES) / FPS
            slow_N = np.sin(0.8 * pts_N + i)
            fast_N = rng.uniform(-1, 1, FRAMES)
            streams = {
                spec.name: StreamRows(
                    rng.normal(size=(FRAMES, spec.width)).astype(np.float16),
                    pts_N,
                    np.ones(FRAMES, bool),
                )
                for spec in STREAMS
            }
            classes_N = (np.arange(FRAMES) // 100 + i) % 8
            labels = {
                "va": np.stack([slow_N, fast_N], axis=1),
                "expr": classes_N[:, None],
                "au": np.broadcast_to((classes_N % 2)[:, None], (FRAMES, 12)),
            }
            writer.add(
                VideoRecord(
                    name=name,
                    source_video=name,
                    partition="train" if i < 2 else "validation",
                    pts_N=pts_N,
                    streams=streams,
                    labels={task: np.array(x, np.float32) for task, x in labels.items()},
                )
            )
        writer.finish(
            [
                Fold("0", tuple(names[:2]), tuple(names[2:])),
                Fold("1", tuple(names[2:]), tuple(names[:2])),
            ]
        )
    return Store(path)


@pytest.fixture(scope="module")
def session(store: Store) -> Session:
    config = small_config(store.path)
    config["data"]["tasks"] = ["va", "expr", "au"]
    config["loss"], config["evaluation"]["selection"] = {}, {}
    config["replicas"] = {"folds": ["0", "1"], "targets": ["all"], "seeds": [0]}
    return build_session(config, store.streams, one_device())


def noisy(store: Store, names: Any, seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """Returns decoded predictions: the labels, and noise that is new in every frame."""
    rng, found = np.random.default_rng(seed), {}
    for name in names:
        labels = store.read(store.index_of(name)).labels
        one_hot = np.eye(8)[labels["expr"][:, 0].astype(int)]
        found[name] = {
            "va": labels["va"] + rng.normal(0, 0.7, labels["va"].shape),
            "expr": (9 * rng.dirichlet(np.ones(8), FRAMES) + one_hot) / 10,
            "au": np.clip(0.25 + 0.5 * labels["au"] + rng.normal(0, 0.4, (FRAMES, 12)), 0, 1),
        }
    return found


def tuned(
    store: Store, session: Session, steps: tuple[str, ...], smoother: str = "moving_average"
) -> Postprocessing:
    folds = [store.fold("0"), store.fold("1")]
    tuning = Tuning(store, folds, [noisy(store, fold.train, 5) for fold in folds])
    made = prepare_postprocessing(steps, smoother, "", session, lambda: store, tuning)
    assert made is not None
    return made


@pytest.mark.parametrize("smoother", SMOOTHERS)
def test_a_width_suits_each_column_and_is_shared_by_classes(
    store: Store, session: Session, smoother: str
) -> None:
    found = tuned(store, session, ("smooth",), smoother)
    assert found.tuned_on == ON_TRAINING
    for widths in found.widths:
        valence, arousal = widths["va"]
        assert valence > 0.1
        assert arousal <= 0.05  # smoothing takes the signal away
        assert widths["expr"].min() == widths["expr"].max() > 0.0
        assert (widths["au"] > 0.0).all()
        assert all(set(w) <= set(SMOOTHERS[smoother].seconds) for w in widths.values())


def test_the_tuned_width_is_the_best_of_all(store: Store, session: Session) -> None:
    fold = store.fold("0")
    known = noisy(store, fold.train, 5)
    found = tuned(store, session, ("smooth",)).widths[0]["va"]
    labels = np.concatenate([store.read(store.index_of(n)).labels["va"] for n in fold.train])

    def ccc(seconds: float) -> np.ndarray:
        x = np.concatenate(
            [smooth(known[n]["va"], np.arange(FRAMES) / FPS, seconds) for n in fold.train]
        )
        covariance = ((x - x.mean(0)) * (labels - labels.mean(0))).mean(0)
        return 2 * covariance / (x.var(0) + labels.var(0) + (x.mean(0) - labels.mean(0)) ** 2)

    table = np.stack([ccc(s) for s in SMOOTHERS["moving_average"].seconds])
    best = np.asarray(SMOOTHERS["moving_average"].seconds)[table.argmax(axis=0)]
    np.testing.assert_array_equal(found, best)


def test_postprocessed_scores_stand_beside_the_raw_ones(store: Store, session: Session) -> None:
    folds = [store.fold("0"), store.fold("1")]
    predictions = [noisy(store, fold.validation, k) for k, fold in enumerate(folds)]
    made = tuned(store, session, ("smooth", "clip"))
    results = evaluate_folds(
        session, store, predictions, folds, "validation", baseline=False, postprocessing=made
    )
    plain = evaluate_folds(session, store, predictions, folds, "validation", baseline=False)
    for result, before in zip(results, plain, strict=True):
        for task, score in (("va", "ccc_valence"), ("expr", "f1_macro"), ("au", "f1_mean")):
            assert result.scores[task][OURS] == before.scores[task][OURS]
            assert PROCESSED not in before.scores[task]
            assert result.scores[task][PROCESSED][score] > before.scores[task][OURS][score]
        for by_task in result.predictions[PROCESSED].values():
            assert np.abs(by_task["va"]).max() <= 1.0
    # Each fold by its own width, and columns by theirs.
    name = folds[1].validation[0]
    pts_N = np.arange(FRAMES) / FPS
    again = smoothed(predictions[1][name], pts_N, made.widths[1], "moving_average")
    clipped = np.clip(again["va"], -1, 1)
    np.testing.assert_allclose(
        results[1].predictions[PROCESSED][name]["va"], clipped, rtol=0, atol=1e-12
    )


def test_widths_do_not_depend_on_what_they_are_used_for(store: Store, session: Session) -> None:
    """Tuned on what is handed in, fold by fold: the other fold's predictions change nothing."""
    folds = [store.fold("0"), store.fold("1")]
    found = []
    for seed in (1, 2):
        known = [
            [(folds[0], noisy(store, folds[0].train, 5))],
            [(folds[1], noisy(store, folds[1].train, seed))],
        ]
        made = tuned_postprocessing(
            ("smooth",), "moving_average", session, store, known, ON_TRAINING
        )
        found.append(made.widths[0])
    for task in TASKS.keys() & found[0].keys():
        np.testing.assert_array_equal(found[0][task], found[1][task])


def test_what_nobody_predicts_or_annotates_is_not_smoothed(store: Store, session: Session) -> None:
    fold = store.fold("0")
    known = noisy(store, fold.train)
    for by_task in known.values():
        by_task["va"][:, 0] = np.nan
    folds = [(fold, known)], [(fold, {})]
    made = tuned_postprocessing(("smooth",), "gaussian", session, store, folds, ON_TRAINING)
    assert made.widths[0]["va"][0] == 0.0
    assert all((widths == 0).all() for widths in made.widths[1].values())


def test_the_range_is_the_protocols_or_the_data_sets_own(
    store: Store, tmp_path: Path, session: Session
) -> None:
    folds = [store.fold("0")]
    assert label_ranges(store, folds, session.tasks) == {"va": (-1.0, 1.0)}
    record = store.read(0)
    labels = {"va": 5 + 4 * record.labels["va"]}
    labels["va"][:9] = TASKS["va"].ignore
    with StoreWriter(tmp_path / "s", name="x", streams=STREAMS, tasks=("va",)) as writer:
        writer.add(VideoRecord("a", "a", "train", record.pts_N, record.streams, labels))
        writer.finish([Fold("0", ("a",), ())])
    ranges = label_ranges(Store(tmp_path / "s"), [Fold("0", ("a",), ())], ["va"])
    low, high = ranges["va"]
    assert low == pytest.approx(float(labels["va"][9:].min()))
    assert high == pytest.approx(float(labels["va"][9:].max()))


# -- files and flags -------------------------------------------------------------------------


def test_widths_come_back_from_their_file(store: Store, session: Session, tmp_path: Path) -> None:
    made = tuned(store, session, ("smooth", "clip"), "exponential")
    path = made.write(tmp_path / "new")
    again = read_postprocessing(path, ("smooth", "clip"), session.folds.keys, session.tasks)
    assert again.document() == made.document()
    assert read_postprocessing(path, ("smooth",), session.folds.keys, session.tasks).ranges == {}
    assert read_postprocessing(path, ("clip",), session.folds.keys, session.tasks).widths == ()
    lines = made.lines()
    assert lines[0].startswith("smoothing: exponential (time constant)")
    assert "valence" in lines[1]
    assert "fold 0" in lines[1]
    assert lines[-1] == "clipping: va to -1 ... 1"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"steps": ["clip"]}, "steps"),
        ({"smoother": "median"}, "smoother"),
        ({"seconds": {"0": {}}}, "seconds and ranges"),
        ({"ranges": {"va": [1, -1]}}, "ranges"),
        ({"ranges": {}}, "seconds and ranges"),
        (None, "contents"),
    ],
)
def test_files_that_do_not_fit_are_refused(
    store: Store, session: Session, tmp_path: Path, change: Any, field: str
) -> None:
    content = tuned(store, session, ("smooth", "clip")).document()
    path = tmp_path / "postprocessing.json"
    path.write_text("{" if change is None else json.dumps(content | change))
    with pytest.raises(InputError, match="postprocessing of the run") as caught:
        read_postprocessing(path, ("smooth", "clip"), session.folds.keys, session.tasks)
    assert caught.value.details["field"] == field


def test_a_negative_width_and_unknown_steps_are_refused(
    store: Store, session: Session, tmp_path: Path
) -> None:
    content = tuned(store, session, ("smooth",)).document()
    content["seconds"]["1"]["va"]["arousal"] = -2.0
    path = tmp_path / "p.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError) as caught:
        read_postprocessing(path, ("smooth",), session.folds.keys, session.tasks)
    assert caught.value.details["found"] == "-2.0"
    with pytest.raises(InputError, match="no such postprocessing") as caught:
        check_steps(["smoth"])
    assert caught.value.details["remedy"] == "did you mean smooth?"
    assert check_steps(["clip", "smooth"]) == ("smooth", "clip")
    with pytest.raises(InputError, match="nothing to use them for"):
        prepare_postprocessing((), "gaussian", str(path), session, lambda: store, None)
    assert prepare_postprocessing((), "gaussian", "", session, lambda: store, None) is None
