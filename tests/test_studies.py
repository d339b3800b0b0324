"""Studies of runs whose answers are known, because the model is one dense layer on one stream."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emojax.core.session import build_session
from emojax.core.step import forward
from emojax.datasets.source import Store
from emojax.errors import InputError
from emojax.models.exptrm import ExpTrm, stack_context
from emojax.ops.tasks import TASK_OPS
from emojax.prediction.predictor import Predictor
from emojax.prediction.trained_run import open_run
from emojax.scoring.evaluation import evaluate_folds
from emojax.scoring.fold_scores import OURS
from emojax.studies.missing_modality import (
    PATTERNS,
    MissingPlan,
    drop_at_input,
    missing_modality,
    without_rows,
)
from emojax.studies.run_comparison import compare_runs
from emojax.studies.stream_importance import (
    LEFT_OUT,
    PERMUTED,
    partner_videos,
    stream_importance,
    with_rows_of,
)
from emojax.studies.study_data import StudiedRun, VideoStates, open_studied
from emojax.types import Batch
from tests.partial_model import (
    TASK_NAMES,
    TRACED,
    config_of,
    two_runs,  # noqa: F401 - a fixture
)
from tests.small_store import build_small_store
from tests.training_runs import (
    quick_compiling,  # noqa: F401 - a fixture
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def here(two_runs: Path) -> Path:  # noqa: F811
    """Returns the folder of store and runs."""
    return two_runs


@pytest.fixture(scope="module")
def studied(here: Path) -> StudiedRun:
    (one,) = open_studied([str(here / "run")], None, "", "validation")
    return one


def silent(done: int, total: int) -> None:
    assert 0 < done <= total


def intact_predictions(studied: StudiedRun) -> Any:
    predictions = studied.run.predict(studied.store, [list(names) for names in studied.videos])
    return studied.ensembles(predictions)[0]


def bias_of(studied: StudiedRun, task: str) -> np.ndarray:
    """Returns the model's decoded output for zero input."""
    raw = np.asarray(studied.run.best["params"][f"head_{task}"]["bias"], np.float64)[0]
    return np.asarray(TASK_OPS[task].decode(raw))


# -- what goes missing -------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    ticks=st.integers(1, 300),
    share=st.floats(0, 1),
    span=st.floats(1, 50),
    seed=st.integers(0, 99),
    pattern=st.sampled_from(sorted(PATTERNS)),
)
def test_exactly_the_share_goes_missing(
    ticks: int, share: float, span: float, seed: int, pattern: str
) -> None:
    count = round(share * ticks)
    dropped = PATTERNS[pattern](ticks, count, np.random.default_rng(seed), span)
    assert dropped.shape == (ticks,)
    assert dropped.sum() == count
    if pattern == "spans" and count:
        starts = dropped & ~np.roll(dropped, 1)
        assert starts.sum() == min(max(1, round(count / span)), count, ticks - count)


def test_every_tick_goes_as_often_as_any_other() -> None:
    for pattern in PATTERNS:
        rng = np.random.default_rng(0)
        often = np.mean([PATTERNS[pattern](50, 20, rng, 5.0) for _ in range(2000)], axis=0)
        assert often == pytest.approx(0.4, abs=0.05)


@pytest.mark.parametrize("pattern", sorted(PATTERNS))
def test_dropped_ticks_are_zero_in_every_window(studied: StudiedRun, pattern: str) -> None:
    """The prediction of a frame is the bias if it was dropped, else what it was."""
    predictor, placed = Predictor(studied.run.session, studied.store), studied.run.placed()
    rng, names = np.random.default_rng(1), [list(names) for names in studied.videos]
    dropped = {
        i: PATTERNS[pattern](video.num_frames, video.num_frames // 2, rng, 6.0)
        for i, video in enumerate(studied.store.videos)
    }
    whole = intact_predictions(studied)
    spec = studied.run.session.window_spec
    drop = drop_at_input(predictor, dropped, ["ir50"])
    kept = predictor.run(*placed, names, predictor.feed(names), drop=drop)[0]
    cleared = predictor.on(without_rows(studied.store, spec, dropped, ["ir50"]))(*placed, names)[0]
    for name in names[0]:
        gone_N1 = dropped[studied.store.index_of(name)][:, None]
        for task in TASK_NAMES:
            expected = np.where(gone_N1, bias_of(studied, task)[None], whole[name][task])
            for found in (kept, cleared):
                np.testing.assert_allclose(found[name][task], expected, atol=1e-6)


def test_cleared_rows_are_filled_as_the_run_fills_them(studied: StudiedRun) -> None:
    session = build_session(config_of(studied.store.path, fill="nearest"), studied.store.streams)
    filled = dataclasses.replace(studied.run, session=session)
    predictor, placed = Predictor(session, studied.store), filled.placed()
    names = [list(names) for names in studied.videos]
    whole = predictor(*placed, names)[0]
    dropped = {i: np.zeros(video.num_frames, bool) for i, video in enumerate(studied.store.videos)}
    for gone_N in dropped.values():
        gone_N[10:20] = True
    altered = without_rows(studied.store, session.window_spec, dropped, ["ir50"])
    found = predictor.on(altered)(*placed, names)[0]
    for name in names[0]:
        valid_N = studied.store.read(studied.store.index_of(name)).streams["ir50"].valid_N
        if valid_N[9] and valid_N[20]:
            expected = whole[name]["va"].copy()
            expected[10:15], expected[15:20] = expected[9], expected[20]
            np.testing.assert_allclose(found[name]["va"][10:20], expected[10:20], atol=1e-6)
    # Without such rows the study's own zeros would have been the mean instead.
    assert not np.allclose(bias_of(studied, "va"), found[names[0][0]]["va"][12], atol=1e-3)


def test_a_stacked_frame_goes_with_its_context() -> None:
    """Zeroed after stacking, a frame loses all of its context and its neighbours none of theirs."""
    rng = np.random.default_rng(0)
    widths, rows, steps, batch = {"face": 3, "voice": 2}, {"voice": 2}, 6, 2
    streams, masks = {}, {}
    for name, width in widths.items():
        length = steps + 2 * rows.get(name, 0)
        streams[name] = rng.normal(size=(batch, length, width)).astype(np.float32)
        masks[name] = np.ones((batch, length), bool)
        masks[name][1, length - 2 :] = False
    small = {"width": 4, "layers": 1, "attention_heads": 2, "hidden": 4, "stacked_width": 11}
    model = ExpTrm(outputs={"va": 2}, streams=tuple(widths), context=rows, window=steps, **small)
    variables = model.init(jax.random.key(0), streams, masks, train=False)
    batch_of = Batch(
        streams=streams,
        stream_mask=masks,
        stream_valid=masks,
        labels={},
        label_mask={},
        example_mask=np.ones(batch, bool),
        video_ids=np.zeros(batch, np.int32),
        frame_ids=np.tile(np.arange(steps, dtype=np.int32), (batch, 1)),
    )
    unit = {n: (np.zeros(w, np.float32), np.ones(w, np.float32)) for n, w in widths.items()}

    def predict(drop: Any) -> np.ndarray:
        parameters = variables["params"]
        return np.asarray(
            forward(model, parameters, {}, batch_of, unit, train=False, drop=drop)[0]["va"]
        )

    drop = {name: np.zeros((batch, steps), bool) for name in widths}
    np.testing.assert_allclose(predict(drop), predict(None), atol=1e-6)
    drop["voice"][:, 3] = True
    stacked = np.array(stack_context(streams["voice"], masks["voice"], 2, 11))
    assert stacked.shape == (batch, steps, 11)
    stacked[:, 3] = 0
    given = {"face": streams["face"], "voice": stacked}
    own = {"face": masks["face"], "voice": masks["voice"][:, 2:-2]}
    plain = model.clone(context={})
    expected, _ = plain.apply(variables, given, own, train=False)
    np.testing.assert_allclose(predict(drop), expected["va"], atol=1e-6)
    assert not np.allclose(predict(drop), predict(None), atol=1e-3)


def test_curves_begin_at_evaluate_and_end_without_the_modality(studied: StudiedRun) -> None:
    plan = MissingPlan(shares=(0.0, 0.5, 1.0), trials=3)
    before = len(TRACED)
    points = missing_modality(studied, plan, silent)
    # Intact, and with whatever rows dropped: two programs.
    assert len(TRACED) - before <= 2
    run, store = studied.run, studied.store
    predictions = run.predict(store, [list(names) for names in studied.videos])
    (result,) = evaluate_folds(
        run.session, store, predictions, studied.folds, "validation", baseline=False
    )
    by_place = {(p.task, p.score, p.group, p.pattern, p.share): p for p in points}
    assert len(by_place) == len(points)
    for (task, score, group, _, share), point in by_place.items():
        evaluated = result.scores[task][OURS][score]
        assert len(point.values) == (3 if share == 0.5 else 1)
        if share == 0.0:
            assert point.values == pytest.approx((evaluated,), abs=1e-12)
        elif group == "audio":  # which the model ignores
            assert point.values == pytest.approx([evaluated] * len(point.values), abs=1e-6)
            assert point.deviation < 1e-6
        elif share == 1.0:
            values = []
            for name in studied.videos[0]:
                truth = studied.annotations(0, name)[task]
                bias = np.tile(bias_of(studied, task), (len(truth.labels_NK), 1))
                values.append(TASK_OPS[task].state(bias, truth.labels_NK, truth.mask_NK))
            whole = values[0]
            for state in values[1:]:
                whole = whole.merge(state)
            assert point.mean == pytest.approx(TASK_OPS[task].summarise(whole)[score], abs=1e-6)
    half = by_place["va", "ccc_valence", "visual", "frames", 0.5]
    assert half.deviation > 0
    assert half.mean < by_place["va", "ccc_valence", "visual", "frames", 0.0].mean


def test_trials_follow_the_seed_and_nothing_else(studied: StudiedRun) -> None:
    def values(**options: Any) -> dict[Any, Any]:
        plan = MissingPlan(trials=2, patterns=("frames",), **options)
        points = missing_modality(studied, plan, silent)
        return {(p.score, p.group): p.values for p in points if p.share == 0.3}

    first = values(shares=(0.3,))
    assert values(shares=(0.3, 0.6)) == first
    other = values(shares=(0.3,), seed=1)
    assert other["ccc_valence", "visual"] != first["ccc_valence", "visual"]
    by_stream = values(shares=(0.3,), stream_by="stream")
    assert {group for _, group in by_stream} == {"ir50", "vggish"}


# -- streams -----------------------------------------------------------------------------------


def test_an_ignored_stream_is_worth_nothing_and_the_other_everything(studied: StudiedRun) -> None:
    found = stream_importance(studied, silent, shuffles=2, draws=50)
    assert {(row.group, row.how) for row in found} == {
        (group, how) for group in ("ir50", "vggish") for how in (LEFT_OUT, PERMUTED)
    }
    for row in found:
        assert row.drop == pytest.approx(row.intact - row.altered)
        if row.group == "vggish":
            assert (row.drop, row.low, row.high) == pytest.approx((0, 0, 0), abs=1e-6)
    used = {row.how: row for row in found if (row.group, row.score) == ("ir50", "ccc_valence")}
    assert used[LEFT_OUT].altered == pytest.approx(0, abs=1e-6)  # a constant has no concordance
    assert used[LEFT_OUT].low <= used[LEFT_OUT].drop <= used[LEFT_OUT].high
    assert abs(used[PERMUTED].altered) < used[PERMUTED].intact
    assert used[PERMUTED].deviation > 0


def test_partners_are_others_and_their_rows_come_whole(studied: StudiedRun) -> None:
    partners = partner_videos(studied, np.random.default_rng(0))
    videos = {studied.store.index_of(name) for name in studied.videos[0]}
    assert set(partners) == set(partners.values()) == videos
    assert all(video != partner for video, partner in partners.items())
    altered = with_rows_of(studied, partners, ["vggish"])
    for video, partner in partners.items():
        old, new = studied.store.read(video), altered.read(video)
        given = studied.store.read(partner)
        assert new.streams["ir50"] is not None
        np.testing.assert_array_equal(new.streams["ir50"].rows_ND, old.streams["ir50"].rows_ND)
        rows, source = new.streams["vggish"], given.streams["vggish"]
        assert rows.pts_N[-1] >= old.streams["vggish"].pts_N[-1] - 1 / 40
        assert (np.diff(rows.pts_N) > 0).all()
        length = len(source.pts_N)
        np.testing.assert_array_equal(rows.rows_ND[:length], source.rows_ND)
        again = np.arange(len(rows.pts_N)) % length
        np.testing.assert_array_equal(rows.rows_ND, source.rows_ND[again])
        np.testing.assert_array_equal(rows.valid_N, source.valid_N[again])
        offsets = rows.pts_N[:length] - new.pts_N[0], source.pts_N - given.pts_N[0]
        np.testing.assert_allclose(*offsets, atol=1e-9)


def test_one_video_has_no_other(here: Path) -> None:
    (one,) = open_studied([str(here / "run")], None, "", "test")
    with pytest.raises(InputError, match="at least two videos"):
        stream_importance(one, silent)
    assert all(row.how == LEFT_OUT for row in stream_importance(one, silent, shuffles=0, draws=5))


# -- comparison ---------------------------------------------------------------------------------


def test_a_run_equals_its_copy_and_differs_from_another(here: Path, studied: StudiedRun) -> None:
    copy = dataclasses.replace(studied, name="copy")
    (other,) = open_studied([str(here / "other")], None, str(studied.store.path), "validation")
    found = compare_runs([studied, copy, other], silent, draws=50)
    for row in found:
        assert row.difference == pytest.approx(row.value - row.other)
        assert (row.z is not None) == row.score.startswith(("ccc_v", "ccc_a", "pearson"))
        if row.second == "copy":
            assert (row.difference, row.low, row.high, row.p) == (0.0, 0.0, 0.0, 1.0)
            assert row.z in (None, 0.0)
    assert any(row.difference for row in found if row.second == "other")
    row = next(row for row in found if (row.second, row.score) == ("other", "ccc_valence"))
    num_frames = sum(
        int(studied.annotations(0, name)["va"].mask_NK[:, 0].sum()) for name in studied.videos[0]
    )
    z = (np.arctanh(row.value) - np.arctanh(row.other)) / np.sqrt(2 / (num_frames - 3))
    assert row.z == pytest.approx(z)
    with pytest.raises(InputError, match="two or more runs"):
        compare_runs([studied], silent)
    (test,) = open_studied([str(here / "other")], None, "", "test")
    with pytest.raises(InputError, match="different videos"):
        compare_runs([studied, test], silent)


def test_folds_that_share_videos_are_averaged(studied: StudiedRun) -> None:
    predictions = intact_predictions(studied)
    twice = dataclasses.replace(studied, folds=studied.folds * 2, videos=studied.videos * 2)
    once = VideoStates(studied).add([predictions])
    both = VideoStates(twice).add([predictions, predictions])
    assert len(once.groups("va")) == 1
    assert len(both.groups("va")) == 2
    assert both.scores("va") == pytest.approx(once.scores("va"))
    # The same videos are drawn in either fold.
    for name, values in both.draws("va", 20, 0).items():
        np.testing.assert_allclose(values, once.draws("va", 20, 0)[name])


# -- opening


def test_unlabelled_partitions_are_refused(here: Path, studied: StudiedRun) -> None:
    path = build_small_store(here / "bare", tasks=TASK_NAMES, validation_lengths=(20,))
    bare = Store(path)
    run = open_run(here / "run")
    assert not run.trained_on(bare)
    (one,) = open_studied([str(here / "run")], None, str(path), "validation")
    assert one.videos == (("validation-0",),)
    assert one.name == studied.name == "run"
