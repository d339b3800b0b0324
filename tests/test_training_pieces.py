"""Averaged weights, and all pieces of training together: resumed, and as separate runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from emojax.core.step import average
from emojax.datasets.source import Store
from emojax.errors import InputError
from emojax.prediction.trained_run import open_run
from tests.branch_model import branched, branched_config  # noqa: F401 - a fixture
from tests.small_store import build_small_store
from tests.training_runs import (
    assert_same_bits,
    furthest,
    host,
    metric_rows,
    quick_compiling,  # noqa: F401 - a fixture
    replica,
    train,
)

pytestmark = [pytest.mark.usefixtures("branched"), pytest.mark.slow]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("store")
    return Store(build_small_store(folder / "small", tasks=("va", "expr")))


# -- averaged weights --------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.9999])
def test_the_average_is_optaxs_and_forgets_the_initial_weights(decay: float) -> None:
    rng = np.random.default_rng(0)
    steps = jnp.asarray(rng.normal(size=(30, 4)), jnp.float32)
    theirs = optax.ema(decay, debias=True)
    state = theirs.init(steps[0])
    ours = jnp.full(4, 10.0)  # initial weights, which play no part
    for number, params in enumerate(steps, 1):
        ours = average(ours, params, decay, jnp.int32(number))
        expected, state = theirs.update(params, state)
        # Optax rounds 1 - 0.9999 in float32, which is off by one part in a thousand.
        np.testing.assert_allclose(ours, expected, rtol=2e-3 if decay > 0.99 else 1e-5, atol=1e-5)
    weights = decay ** np.arange(29, -1, -1.0)
    exact = weights / weights.sum() @ np.float64(steps)
    np.testing.assert_allclose(ours, exact, rtol=0, atol=1e-5)


def each_step(store: Store, **changes: Any) -> dict[str, Any]:
    """Validates after every step, so that the recorder has them all."""
    options = {"epoch_steps": 1, "epochs": 8, "learning_rate": 5e-2, "warmup": "none"}
    return branched_config(store.path, train=options | changes)


def test_evaluation_and_best_weights_are_the_average(store: Store, tmp_path: Path) -> None:
    run, recorder = train(store, tmp_path / "on", each_step(store, ema=0.8))
    plain, other = train(store, tmp_path / "off", each_step(store))
    scores = np.array([epoch["score"] for epoch in run.history])
    # Averaging changes no step, only what is looked at.
    assert_same_bits(recorder.saved[8].params, other.saved[8].params)
    assert plain.state.ema is None
    assert not np.allclose(scores, [epoch["score"] for epoch in plain.history], atol=1e-4)
    for step in (1, 3, 8):
        weights = 0.8 ** np.arange(step - 1, -1, -1.0)
        stacked = jax.tree.map(
            lambda *leaves: np.stack(leaves), *[recorder.saved[i + 1].params for i in range(step)]
        )
        expected = jax.tree.map(
            lambda x, w=weights: np.tensordot(w / w.sum(), x.astype(np.float64), 1), stacked
        )
        assert furthest(recorder.saved[step].ema, expected) < 1e-5
    for r in range(2):
        best = recorder.saved[int(np.argmax(scores[:, r])) + 1]
        assert_same_bits(replica(run.state.best["params"], r), replica(best.ema, r))
    assert_same_bits(host(open_run(tmp_path / "on").best), host(run.state.best))


def test_reloading_acts_on_the_weights_and_on_their_average(store: Store, tmp_path: Path) -> None:
    config = each_step(store, ema=0.8, reload_best=True, learning_rate=0.3)
    run, recorder = train(store, tmp_path, config)
    scores, best, worse = np.array([epoch["score"] for epoch in run.history]), np.full(2, -9.0), 0
    for step in range(1, 9):
        saved = recorder.saved[step]
        for r in range(2):
            current = replica({"p": saved.params, "e": saved.ema}, r)
            chosen = replica(saved.best["params"], r)
            if scores[step - 1, r] <= best[r]:
                assert_same_bits(current, {"p": chosen, "e": chosen})
                worse += 1
            else:
                assert_same_bits(current["e"], chosen)
        best = np.maximum(best, scores[step - 1])
    assert worse > 0


# -- everything at once ------------------------------------------------------------------------


def everything(store: Store, source: Path, **replicas: Any) -> dict[str, Any]:
    return branched_config(
        store.path,
        data={"tasks": ["va", "expr"]},
        replicas={"folds": ["0", "1"], "targets": ["all"]} | replicas,
        train={
            "epochs": 5,
            "epoch_steps": 4,
            "optimizer": "adamw",
            "clip_norm": 1.0,
            "decay": "cosine",
            "warmup_epochs": 1,
            "plateau_patience": 0,
            "plateau_factor": 0.5,
            "releases": 0,
            "stages": [
                {"objective": "branches", "epochs": 2, "frozen": ["head_*"]},
                {"epochs": 3, "frozen": ["encoder_ir50/*"]},
            ],
            "ema": 0.9,
            "modality_dropout": {"frames": 0.1, "streams": 0.2},
            "class_weights": "inverse",
            "init_from": str(source),
        },
    )


@pytest.fixture(scope="module")
def source(
    store: Store,
    branched: None,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Returns a run of valence and arousal that others start from."""
    workdir = tmp_path_factory.mktemp("source")
    train(store, workdir, branched_config(store.path, train={"epochs": 1}))
    return workdir


@pytest.fixture(scope="module")
def whole(
    store: Store, source: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Any, Path]:
    workdir = tmp_path_factory.mktemp("whole")
    return *train(store, workdir, everything(store, source)), workdir


def test_all_pieces_together_resume_bit_for_bit(
    store: Store, source: Path, whole: tuple[Any, Any, Path], tmp_path: Path
) -> None:
    run, _, workdir = whole
    # Within the first stage, right after its end, and to the end.
    for epochs in (1, 1, None):
        resumed, _ = train(store, tmp_path, everything(store, source), stop_after=epochs)
    assert_same_bits(host(resumed.state), host(run.state))
    assert resumed.history == run.history
    for name in ("scale", "stage", "stage_start", "best", "bad", "active", "best_stage"):
        np.testing.assert_array_equal(getattr(resumed.schedule, name), getattr(run.schedule, name))
    assert metric_rows(tmp_path) == metric_rows(workdir)
    # The rate followed the cosine, and no plateau has been counted in a warm-up.
    rates = [float(row["all fold 0/learning_rate"]) for row in metric_rows(workdir)]
    assert rates[0] == pytest.approx(3e-3)
    assert min(rates) < 1e-3


def test_all_pieces_together_are_the_same_in_separate_runs(
    store: Store, source: Path, whole: tuple[Any, Any, Path], tmp_path: Path
) -> None:
    run, recorder, _ = whole
    for r, fold in enumerate(("0", "1")):
        alone, _ = train(store, tmp_path / fold, everything(store, source, folds=[fold]))
        for part in ("params", "model_state", "best", "ema"):
            found = replica(getattr(run.state, part), r)
            expected = replica(getattr(alone.state, part), 0)
            assert furthest(found, expected) <= 2e-6, (part, fold)
        np.testing.assert_allclose(
            [epoch["score"][r] for epoch in run.history],
            [epoch["score"][0] for epoch in alone.history],
            rtol=0,
            atol=1e-4,
        )
    start = host(recorder.session.init_state().params)
    assert furthest(start, host(run.state.params)) > 1e-2


@pytest.mark.parametrize("without", ["modality_dropout", "class_weights"])
def test_both_of_them_are_used(
    store: Store, source: Path, whole: tuple[Any, Any, Path], tmp_path: Path, without: str
) -> None:
    """Guards the comparisons above against a piece that never reaches the step."""
    _, recorder, _ = whole
    config = everything(store, source, folds=["0"])
    del config["train"][without]
    other, _ = train(store, tmp_path, config, stop_after=1)
    found, expected = other.state.params, recorder.saved[4].params
    assert furthest(replica(found, 0), replica(expected, 0)) > 1e-4


def test_epochs_may_not_be_added_where_the_rates_would_have_been_others(
    store: Store, source: Path, whole: tuple[Any, Any, Path]
) -> None:
    config = everything(store, source)
    config["train"]["epochs"] = 6
    with pytest.raises(InputError) as caught:
        train(store, whole[2], config)
    assert caught.value.details["field"] == "config.train.epochs"
