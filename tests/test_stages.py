"""Tests training in stages: the trained, the frozen and the evaluated parts of each."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from emojax.config_reading import as_plain, read
from emojax.config_schema import Stage, TrainConfig
from emojax.core.session import fold_normalisation
from emojax.core.stages import on_branches, parameter_paths, trainable
from emojax.core.step import forward
from emojax.datasets.pipeline import evaluation_batches
from emojax.datasets.source import Store
from emojax.errors import InputError
from emojax.prediction.predict_step import make_predict_step
from emojax.prediction.predictor import replica_scores
from emojax.prediction.trained_run import open_run
from emojax.rundir.checkpoint import Checkpoints
from tests.branch_model import branched, branched_config  # noqa: F401 - a fixture
from tests.small_store import build_small_store
from tests.training_runs import (
    assert_same_bits,
    furthest,
    host,
    metric_rows,
    quick_compiling,  # noqa: F401 - a fixture
    replica,
    session_of,
    tiny_config,
    train,
)

pytestmark = [pytest.mark.usefixtures("branched"), pytest.mark.slow]

BRANCHES_FIRST: list[dict[str, Any]] = [
    {"objective": "branches", "epochs": 2, "frozen": ["head_*", "norm/*"]},
    {"objective": "outputs", "epochs": 2, "frozen": ["branch_*", "encoder_ir50/*"]},
    {"frozen": ["branch_*"]},
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(build_small_store(tmp_path_factory.mktemp("store") / "small"))


def staged(store: Store, stages: Any = BRANCHES_FIRST, **changes: Any) -> dict[str, Any]:
    options = {"stages": stages, "releases": 0, "epochs": 6, "learning_rate": 2e-2} | changes
    return branched_config(store.path, train=options)


@pytest.fixture(scope="module")
def run(
    store: Store,
    branched: None,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Any, Any, Path]:
    """Valence and arousal, six epochs of five steps through three stages."""
    workdir = tmp_path_factory.mktemp("run")
    return *train(store, workdir, staged(store)), workdir


# -- what is trained ---------------------------------------------------------------------------


def leaves(state: Any, prefix: str) -> list[np.ndarray]:
    """Returns parameters and both of Adam's moments of the modules with this prefix."""
    found = []
    for tree in (state.params, state.opt_state.mu, state.opt_state.nu):
        paths = parameter_paths(tree)
        found += [
            leaf
            for path, leaf in zip(paths, jax.tree.leaves(tree), strict=True)
            if path.startswith(prefix)
        ]
    assert found
    return found


def moved(before: Any, after: Any, prefix: str) -> bool:
    """Returns True if all of these leaves changed; fails if only some did."""
    pairs = zip(leaves(before, prefix), leaves(after, prefix), strict=True)
    changes = {a.tobytes() != b.tobytes() for a, b in pairs}
    assert len(changes) == 1
    return changes.pop()


def test_frozen_parameters_and_their_moments_stand_still_to_the_bit(
    run: tuple[Any, Any, Path],
) -> None:
    """L2 decay is on, which alone would move what has no gradient."""
    _, recorder, _ = run
    saved = [host(recorder.session.init_state()), *recorder.saved.values()]
    frozen = [("head_", "norm/")] * 2 + [("branch_", "encoder_ir50")] * 2 + [("branch_",)] * 2
    every = ("encoder_ir50", "encoder_vggish", "branch_", "norm/", "head_")
    for epoch, (before, after) in enumerate(itertools.pairwise(saved)):
        if epoch in (2, 4):
            continue  # a release reloads the best weights and begins with new moments
        for prefix in every:
            assert moved(before, after, prefix) == (prefix not in frozen[epoch]), (epoch, prefix)


def test_a_release_starts_from_the_best_weights_with_new_moments(
    run: tuple[Any, Any, Path],
) -> None:
    _, recorder, _ = run
    for epoch in (2, 4):
        state = recorder.saved[5 * epoch]
        assert_same_bits({"params": state.params, "model_state": state.model_state}, state.best)
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.opt_state))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(recorder.saved[15].opt_state.count))


def test_the_table_tells_stage_and_best_score(run: tuple[Any, Any, Path]) -> None:
    done, _, workdir = run
    rows = metric_rows(workdir)
    assert [row["valence/stage"] for row in rows] == ["0", "0", "1", "1", "2", "2"]
    scores = np.array([epoch["score"] for epoch in done.history])
    best = [float(row["valence/best"]) for row in rows]
    expected = [*np.maximum.accumulate(scores[:2, 0]), *np.maximum.accumulate(scores[2:, 0])]
    np.testing.assert_allclose(best, expected, rtol=1e-6)
    np.testing.assert_array_equal(done.schedule.stage, [2, 2])


def test_the_final_best_weights_are_of_the_last_objective(run: tuple[Any, Any, Path]) -> None:
    done, recorder, workdir = run
    scores = np.array([epoch["score"] for epoch in done.history])
    for r in range(2):
        best = 2 + int(np.argmax(scores[2:, r]))
        source = recorder.saved[5 * (best + 1)]
        if best not in (3,):  # there the release reloads, and the epoch's weights are gone
            assert_same_bits(replica(done.state.best["params"], r), replica(source.params, r))
        assert done.schedule.best[r] == scores[best, r]
    opened = open_run(workdir)
    assert opened.branches_R is not None
    assert opened.branches_R.tolist() == [False, False]
    assert opened.lost_R.tolist() == [False, False]


# -- what is evaluated -------------------------------------------------------------------------


def test_the_branches_stage_is_evaluated_by_the_mean_of_the_branches(
    store: Store, run: tuple[Any, Any, Path]
) -> None:
    _, recorder, _ = run
    session = recorder.session
    videos = store.fold("0").validation
    (batch, *_) = evaluation_batches(store, videos, session.window_spec, batch_size=4)
    normalisation = fold_normalisation(store, session.folds.keys, session.streams)
    state = session.init_state()
    weights = {"params": state.params, "model_state": state.model_state}
    predict = make_predict_step(session.model, session.shared(session.folds))
    found = predict(weights | {"branches": np.array([True, False])}, batch, normalisation)["va"]
    for r, chosen in enumerate((True, False)):
        one = replica(weights, r)
        outputs, aux, _ = forward(
            session.model, one["params"], one["model_state"], batch, normalisation, train=False
        )
        branches = np.stack([branch["va"] for branch in aux["branches"].values()])
        assert len(branches) == 2
        expected = branches.mean(axis=0) if chosen else outputs["va"]
        np.testing.assert_allclose(found[r], expected, rtol=0, atol=1e-6)
        assert np.abs(branches.mean(axis=0) - outputs["va"]).max() > 1e-2
    np.testing.assert_array_equal(predict(weights, batch, normalisation)["va"][1], found[1])


def test_an_interrupted_run_predicts_with_the_branches_that_its_best_weights_are_of(
    store: Store, run: tuple[Any, Any, Path], tmp_path: Path
) -> None:
    done, recorder, _ = run
    # The second epoch has ended the first stage already, but its weights are still the best.
    train(store, tmp_path, staged(store), stop_after=2)
    opened = open_run(tmp_path)
    assert opened.branches_R is not None
    assert opened.branches_R.tolist() == [True, True]
    predictions = opened.predict(store, [list(store.fold("0").validation)])
    truths, session = recorder._validation.truths, opened.session
    selection = session.config.evaluation.selection
    scores, _ = replica_scores(predictions, truths * 2, session.weights, selection)
    best = np.max([epoch["score"] for epoch in done.history[:2]], axis=0)
    np.testing.assert_allclose(scores, best, rtol=0, atol=1e-5)


# -- resumed, and alone ------------------------------------------------------------------------


def test_a_staged_run_resumes_bit_for_bit(
    store: Store, run: tuple[Any, Any, Path], tmp_path: Path
) -> None:
    done, _, workdir = run
    # Within the first stage, right after its end, within the second, to the end.
    for epochs in (1, 1, 1, None):
        resumed, _ = train(store, tmp_path, staged(store), stop_after=epochs)
    assert_same_bits(host(resumed.state), host(done.state))
    assert resumed.history == done.history
    assert metric_rows(tmp_path) == metric_rows(workdir)


def test_replicas_that_change_stage_at_different_times_equal_separate_runs(
    store: Store, tmp_path: Path
) -> None:
    stages = [BRANCHES_FIRST[0] | {"epochs": 0}, BRANCHES_FIRST[2]]
    changes = {"stop_patience": 1, "epochs": 9, "learning_rate": 1e-1, "warmup": "none"}
    config = staged(store, stages, **changes)
    together, _ = train(store, tmp_path / "together", config)
    starts = together.schedule.stage_start
    assert len(set(starts.tolist())) == 2, starts
    for r, target in enumerate(("valence", "arousal")):
        alone = config | {"replicas": config["replicas"] | {"targets": [target]}}
        separate, _ = train(store, tmp_path / target, alone)
        assert separate.schedule.stage_start[0] == starts[r]
        for part in ("params", "model_state", "best", "opt_state"):
            found = replica(getattr(together.state, part), r)
            # Rounding in another order, times a rate that is 30 times that of other tests.
            assert furthest(found, replica(getattr(separate.state, part), 0)) <= 5e-5, part


# -- the end -----------------------------------------------------------------------------------


def test_a_run_that_ends_before_its_last_objective_says_so_and_can_go_on(
    store: Store, tmp_path: Path
) -> None:
    stages = [BRANCHES_FIRST[0] | {"epochs": 0}, BRANCHES_FIRST[2]]
    with pytest.raises(InputError, match="ended before its last stage") as caught:
        train(store, tmp_path, staged(store, stages, epochs=2))
    details = caught.value.details
    assert details["field"] == "config.train.epochs"
    assert "valence, arousal" in details["found"]
    assert "more epochs" in details["remedy"]
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps()[-1] == 10
    longer, _ = train(store, tmp_path, staged(store, stages, epochs=20), stop_after=1)
    assert longer.step == 15


# -- pieces ------------------------------------------------------------------------------------


def test_stages_are_read_with_their_defaults() -> None:
    rows = [{"objective": "branches"}, {"frozen": "encoder_*", "epochs": 3}, {}]
    required = as_plain(TrainConfig())
    assert read(TrainConfig, required | {"stages": rows}).stages == (
        Stage("branches", 0, ()),
        Stage("outputs", 3, ("encoder_*",)),
        Stage(),
    )
    assert read(TrainConfig, required).stages == ()


def test_flags_are_those_of_each_replicas_stage() -> None:
    params = {"a": {"kernel": 0, "bias": 0}, "b": {"kernel": 0}}
    stages = (Stage("branches", frozen=("a/*",)), Stage(frozen=("*/kernel",)))
    stage_R = np.array([1, 0, 1])
    flags = trainable(stages, params, stage_R)
    assert flags is not None
    assert flags["a"]["kernel"].tolist() == [False, False, False]
    assert flags["a"]["bias"].tolist() == [True, False, True]
    assert flags["b"]["kernel"].tolist() == [False, True, False]
    branches = on_branches(stages, stage_R)
    assert branches is not None
    assert branches.tolist() == [False, True, False]
    assert trainable((Stage(), Stage()), params, stage_R) is None
    assert on_branches((Stage(), Stage()), stage_R) is None
    assert on_branches((), stage_R) is None


# -- refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"stages": "branches"}, "stages"),
        ({"stages": ["branches"]}, "stages[0]"),
        ({"stages": [{}, {"objectiv": "outputs"}]}, "stages[1].objectiv"),
        ({"stages": [{"objective": "branch"}]}, "stages[0].objective"),
        ({"stages": [{"epochs": -1}]}, "stages[0].epochs"),
        ({"stages": [{"epochs": 1.5}]}, "stages[0].epochs"),
        ({"stages": [{"frozen": [3]}]}, "stages[0].frozen"),
        ({"stages": [{"epochs": 5}, {}], "epochs": 5}, "epochs"),
        ({"stages": [{}, {}], "releases": 2}, "releases"),
        ({"stages": [{}, {}], "decay": "cosine"}, "stages[0].epochs"),
        ({"decay": "cosine", "minimum_rate": 1.0}, "minimum_rate"),
        ({"decay": "linear"}, "decay"),
        ({"ema": 1.0}, "ema"),
        ({"ema": float("nan")}, "ema"),
        ({"init_from": 3}, "init_from"),
    ],
)
def test_a_training_that_cannot_be_is_refused(
    store: Store, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(InputError) as caught:
        session_of(store, branched_config(store.path, train={"releases": 0} | changes))
    assert caught.value.details["field"] == f"config.train.{field}"
    assert {"found", "expected"} <= set(caught.value.details)


@pytest.mark.parametrize(
    ("frozen", "found"), [(["encoder_ir51*"], "encoder_ir51*"), (["*kernel", "*"], "*kernel, *")]
)
def test_patterns_that_match_nothing_or_everything_are_refused(
    store: Store, frozen: list[str], found: str
) -> None:
    session = session_of(store, staged(store, [{"frozen": frozen}]))
    with pytest.raises(InputError) as caught:
        session.check_stages()
    assert caught.value.details["field"] == "config.train.stages[0].frozen"
    assert caught.value.details["found"] == found


def test_a_model_without_branches_is_refused_before_training(store: Store, tmp_path: Path) -> None:
    config = tiny_config(
        store.path, train={"stages": [{"epochs": 1}, {"objective": "branches"}], "releases": 0}
    )
    with pytest.raises(InputError, match="no branches") as caught:
        train(store, tmp_path / "run", config)
    assert caught.value.details["field"] == "config.train.stages[1].objective"
    assert "rjcma" in caught.value.details["expected"]
    assert not (tmp_path / "run").exists()
