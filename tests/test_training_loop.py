"""Replicas equal separate runs, and a run that was interrupted equals one that was not."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emojax.core.schedule import ScheduleState
from emojax.core.session import fold_normalisation
from emojax.core.state import TrainState
from emojax.core.step import Hyper, Shared, make_train_step
from emojax.datasets.pipeline import training_batches
from emojax.datasets.source import Store
from emojax.prediction.trained_run import open_run
from emojax.rundir.checkpoint import Checkpoints
from emojax.training import loop
from tests.small_store import build_small_store
from tests.training_runs import (
    assert_same_bits,
    furthest,
    host,
    metric_rows,
    quick_compiling,  # noqa: F401 - a fixture
    replica,
    session_of,
    subprocess_environment,
    tiny_config,
    train,
)

# Replicas against separate runs: float32, absolute, after 15 or 20 Adam steps of 3e-3 with
# dropout. The two are different programs (products batched over R), which may round sums in
# another order; 1.2e-7 is what was seen.
TOLERANCE = 2e-6


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(build_small_store(tmp_path_factory.mktemp("store") / "small"))


@pytest.fixture(scope="module")
def pair(store: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    """Valence and arousal as two replicas, 4 epochs of 5 steps."""
    workdir = tmp_path_factory.mktemp("pair")
    return *train(store, workdir, tiny_config(store.path, train={"epochs": 4})), workdir


def schedule_of(run: Any) -> dict[str, np.ndarray]:
    return {f.name: getattr(run.schedule, f.name) for f in dataclasses.fields(ScheduleState)}


# -- replicas are separate runs ----------------------------------------------------------------


@pytest.mark.slow
def test_two_replicas_equal_two_separate_runs(
    store: Store, pair: tuple[Any, Any, Path], tmp_path: Path
) -> None:
    run, recorder, _ = pair
    for r, target in enumerate(("valence", "arousal")):
        config = tiny_config(store.path, train={"epochs": 4}, replicas={"targets": [target]})
        alone, _ = train(store, tmp_path / target, config)
        for part in ("params", "model_state", "best"):
            together = replica(getattr(run.state, part), r)
            separate = replica(getattr(alone.state, part), 0)
            assert furthest(together, separate) <= TOLERANCE, part
        assert alone.step == run.step == 20
        # Were nothing learnt, equality would say nothing.
        start = replica(recorder.session.init_state().params, r)
        assert furthest(start, replica(alone.state.params, 0)) > 1e-2
        scores = [epoch["score"][r] for epoch in run.history]
        np.testing.assert_allclose(
            scores, [epoch["score"][0] for epoch in alone.history], rtol=0, atol=1e-4
        )


@pytest.mark.slow
def test_replicas_of_other_folds_and_seeds_equal_separate_runs(
    store: Store, tmp_path: Path
) -> None:
    folds, seeds = ["1", "0"], [0, 7]
    together, _ = train(
        store,
        tmp_path / "together",
        tiny_config(store.path, replicas={"folds": folds, "targets": ["va"], "seeds": seeds}),
    )
    pairs = [(fold, seed) for fold in folds for seed in seeds]
    for r, (fold, seed) in enumerate(pairs):
        replicas = {"folds": [fold], "targets": ["va"], "seeds": [seed]}
        alone, _ = train(
            store, tmp_path / f"{fold}-{seed}", tiny_config(store.path, replicas=replicas)
        )
        for part in ("params", "model_state", "best"):
            found = replica(getattr(together.state, part), r)
            expected = replica(getattr(alone.state, part), 0)
            assert furthest(found, expected) <= TOLERANCE, (part, fold, seed)
        np.testing.assert_allclose(
            [epoch["score"][r] for epoch in together.history],
            [epoch["score"][0] for epoch in alone.history],
            rtol=0,
            atol=1e-4,
        )
    # Folds and seeds do make a difference.
    for r in range(1, 4):
        gap = furthest(replica(together.state.params, 0), replica(together.state.params, r))
        assert gap > 1e-2


def test_a_head_of_weight_zero_feels_nothing_but_the_decay(pair: tuple[Any, Any, Path]) -> None:
    """The valence replica's arousal head moves as Adam moves it for the L2 term alone."""
    run, recorder, _ = pair

    def kernel(params: Any) -> np.ndarray:
        return np.asarray(params["head_va_arousal"]["hidden"]["kernel"])[0].astype(np.float64)

    weight = kernel(recorder.session.init_state().params)
    first, second = np.zeros_like(weight), np.zeros_like(weight)
    for step in range(20):
        gradient = 1e-3 * weight
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        mean, variance = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
        weight -= 3e-3 * min(1, (step + 1) / 5) * mean / (np.sqrt(variance) + 1e-8)
    np.testing.assert_allclose(kernel(run.state.params), weight, rtol=0, atol=TOLERANCE)


def test_dropout_is_drawn_anew_at_each_step_and_for_each_seed(store: Store) -> None:
    """At rate 0 only dropout can change the loss of the same batch."""
    config = tiny_config(store.path, replicas={"targets": ["va"], "seeds": [0, 1]})
    session = session_of(store, config)
    layout = session.layout
    # One batch for both replicas.
    step = make_train_step(session.learner, Shared(None, None))
    videos = store.fold("0").train
    feed = training_batches(store, videos, session.window_spec, batch_size=4, seed=0)
    batch = layout.batch(next(feed), grouped=False)
    normalisation = layout.everywhere(
        fold_normalisation(store, session.folds.keys, session.streams)
    )
    hyper = Hyper(
        learning_rate=jnp.zeros(2),
        weight_decay=jnp.zeros(2),
        target_weights=layout.replicas(session.weights),
        active=jnp.ones(2, bool),
    )

    def losses(state: TrainState, steps: int) -> list[list[float]]:
        found = []
        for _ in range(steps):
            state, metrics = step(state, batch, normalisation, hyper)
            found.append(np.asarray(metrics["loss"]).tolist())
        return found

    def same_weights() -> TrainState:
        state = session.init_state()
        return state.replace(params=jax.tree.map(lambda x: jnp.stack([x[0], x[0]]), state.params))

    found = losses(same_weights(), 4)
    assert len({loss for pair in found for loss in pair}) == 8
    # And the same again from the same state.
    assert losses(same_weights(), 4) == found


# -- interruption ------------------------------------------------------------------------------


def same_run(found: Any, expected: Any, found_dir: Path, expected_dir: Path) -> None:
    """Asserts that state, schedule, history and table of two runs are equal, bit for bit."""
    assert found.step == expected.step
    assert_same_bits(host(found.state), host(expected.state))
    assert_same_bits(schedule_of(found), schedule_of(expected))
    assert found.history == expected.history
    assert metric_rows(found_dir) == metric_rows(expected_dir)


def test_stopped_and_resumed_equals_uninterrupted(
    store: Store, pair: tuple[Any, Any, Path], tmp_path: Path
) -> None:
    whole, _, whole_dir = pair
    config = tiny_config(store.path, train={"epochs": 4})
    half, _ = train(store, tmp_path, config, stop_after=2)
    assert half.step == 10
    assert len(metric_rows(tmp_path)) == 2
    resumed, _ = train(store, tmp_path, config)
    same_run(resumed, whole, tmp_path, whole_dir)
    # Nothing is left to do: the third call returns the same and writes no row twice.
    again, _ = train(store, tmp_path, config)
    same_run(again, whole, tmp_path, whole_dir)


def test_more_epochs_may_be_added_to_a_run(
    store: Store,
    pair: tuple[Any, Any, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, _, whole_dir = pair
    four = tiny_config(store.path, train={"epochs": 4})
    train(store, tmp_path, tiny_config(store.path, train={"epochs": 3}))
    assert capsys.readouterr().err.startswith("15 steps, validated every 5; the first one compiles")
    longer, _ = train(store, tmp_path, four)
    assert capsys.readouterr().err.startswith("continues from step 15 of 20, validated every 5\n")
    train(store, tmp_path, four)
    assert capsys.readouterr().err == "all 20 steps were trained before\n"
    same_run(longer, whole, tmp_path, whole_dir)


KILLED = """
import json, os, signal, sys
import jax
jax.config.update("jax_platforms", "cpu")
from emojax.datasets.source import Store
from emojax.training.loop import Trainer
from emojax.core.session import build_session

config, workdir = json.loads(sys.argv[1]), sys.argv[2]
store = Store(config["data"]["store"])
trainer = Trainer(build_session(config, store.streams, jax.devices()[:1]), store, workdir)
step_fn, calls = trainer._step_fn, 0

def dies(*arguments):
    global calls
    calls += 1
    if calls == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    return step_fn(*arguments)

trainer._step_fn = dies
trainer.run()
"""


@pytest.mark.slow
def test_killed_between_checkpoints_and_resumed_equals_uninterrupted(
    store: Store, pair: tuple[Any, Any, Path], tmp_path: Path
) -> None:
    whole, _, whole_dir = pair
    config = tiny_config(store.path, train={"epochs": 4})
    done = subprocess.run(
        [sys.executable, "-c", KILLED, json.dumps(config), str(tmp_path)],
        env=subprocess_environment(),
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    # It died in step 13; its table has two rows, and the newest checkpoint may not be whole.
    assert len(metric_rows(tmp_path)) == 2
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps()[-1] in (5, 10)
    resumed, _ = train(store, tmp_path, config)
    same_run(resumed, whole, tmp_path, whole_dir)


def test_checkpoints_hold_what_the_run_held_though_buffers_are_donated(
    pair: tuple[Any, Any, Path],
) -> None:
    """Saving goes on in the background while the next steps reuse the state's memory."""
    _, recorder, workdir = pair
    session = recorder.session
    abstract = {"train": session.abstract_state(), "normalisation": recorder._normalisation}
    with Checkpoints(workdir, read_only=True) as checkpoints:
        assert checkpoints.steps()[-1] == 20
        for step in checkpoints.steps():
            restored = checkpoints.restore(abstract, step)
            assert_same_bits(host(restored.state["train"]), recorder.saved[step])


def test_the_best_weights_are_those_of_the_best_epoch(pair: tuple[Any, Any, Path]) -> None:
    run, recorder, workdir = pair
    scores = np.array([epoch["score"] for epoch in run.history])
    older = 0
    for epoch, then in enumerate(run.history):
        saved = recorder.saved[then["step"]]
        for r in range(2):
            best = int(np.argmax(scores[: epoch + 1, r]))
            older += best < epoch
            source = recorder.saved[run.history[best]["step"]]
            weights = {"params": source.params, "model_state": source.model_state}
            assert_same_bits(replica(saved.best, r), replica(weights, r))
    # Some epoch was worse than one before it; otherwise this says nothing.
    assert older > 0
    np.testing.assert_array_equal(run.schedule.best, scores.max(axis=0))
    assert_same_bits(host(open_run(workdir).best), host(run.state.best))


# -- finished and lost replicas ----------------------------------------------------------------


@pytest.mark.slow
def test_a_finished_replica_is_frozen_while_the_other_goes_on(
    store: Store, pair: tuple[Any, Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, free, _ = pair
    observe = loop.observe

    def finish_second(*arguments: Any) -> Any:
        state, improved = observe(*arguments)
        return dataclasses.replace(state, active=state.active & [True, False]), improved

    monkeypatch.setattr(loop, "observe", finish_second)
    run, recorder = train(store, tmp_path, tiny_config(store.path, train={"epochs": 4}))
    assert run.schedule.active.tolist() == [True, False]
    for step in (10, 15, 20):
        assert_same_bits(replica(recorder.saved[step], 1), replica(recorder.saved[5], 1))
        # The first replica does not notice, but for the rounding of a program of its own.
        gap = furthest(replica(recorder.saved[step], 0).params, replica(free.saved[step], 0).params)
        assert gap <= TOLERANCE
    rows = metric_rows(tmp_path)
    assert [bool(row["arousal/loss"]) for row in rows] == [True, False, False, False]
    assert all(row["valence/loss"] for row in rows)


def test_a_lost_replica_does_not_touch_the_other_and_is_reported(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One replica's rate is absurd, so that its weights overflow within the first steps."""

    def config(second: float) -> dict[str, Any]:
        rates = {"learning_rate": [3e-3, second], "warmup": "none"}
        return tiny_config(store.path, train=rates, replicas={"targets": ["valence"]})

    sound, recorder = train(store, tmp_path / "sound", config(2e-3))
    assert sound.schedule.active.all()
    train(store, tmp_path / "lost", config(1e38))
    warning = capsys.readouterr().err.splitlines()[-1]
    assert warning.startswith("warning: training of valence rate 1e+38 diverged")
    assert "0.003" not in warning
    assert "learning_rate" in warning
    abstract = {
        "train": recorder.session.abstract_state(),
        "normalisation": recorder._normalisation,
    }
    with Checkpoints(tmp_path / "lost", read_only=True) as checkpoints:
        lost = checkpoints.restore(abstract)
    assert lost.step == 15
    assert lost.meta["schedule"]["active"] == [True, False]
    # It went on alone, in a program of its own, which rounds in its own way.
    for part in ("params", "model_state", "best"):
        found, expected = getattr(lost.state["train"], part), getattr(sound.state, part)
        assert furthest(replica(found, 0), replica(expected, 0)) <= TOLERANCE
    assert not all(
        np.isfinite(x).all() for x in jax.tree.leaves(replica(lost.state["train"].params, 1))
    )
    # Its best weights are still the finite ones it began with.
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(host(lost.state["train"].best)))


@pytest.mark.slow
def test_reload_best_goes_on_from_the_best_weights_and_keeps_the_moments(
    store: Store, tmp_path: Path
) -> None:
    rates = {"learning_rate": 5e-2, "warmup": "none", "epochs": 6}
    config = tiny_config(store.path, train=rates | {"reload_best": True})
    run, recorder = train(store, tmp_path, config)
    worse = 0
    best = np.full(2, -np.inf)
    for epoch in run.history:
        saved = recorder.saved[epoch["step"]]
        current = {"params": saved.params, "model_state": saved.model_state}
        # Improved or not, training goes on from the best weights.
        assert_same_bits(current, saved.best)
        worse += int((np.array(epoch["score"]) <= best).sum())
        best = np.maximum(best, epoch["score"])
        np.testing.assert_array_equal(saved.opt_state.count, epoch["step"])
    assert worse > 0
