"""Runs that are asked to stop: they save where they are within an epoch, and go on to the bit."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from emojax.datasets.source import Store
from emojax.errors import InputError, Stopped
from emojax.prediction.trained_run import open_run
from emojax.rundir.checkpoint import Checkpoints, saved_steps
from emojax.training.epoch import Position, position_of
from emojax.training.interruption import StopRequest
from emojax.training.memory_plan import footprint, needed_bytes
from tests.branch_model import branched, branched_config  # noqa: F401 - a fixture
from tests.small_store import build_small_store
from tests.training_runs import (
    assert_same_bits,
    furthest,
    host,
    metric_rows,
    quick_compiling,  # noqa: F401 - a fixture
    session_of,
    train,
)

pytestmark = [pytest.mark.usefixtures("branched"), pytest.mark.slow]
FOUR = {"folds": ["0", "1"], "targets": ["valence", "arousal"]}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(build_small_store(tmp_path_factory.mktemp("store") / "small"))


def config_of(store: Store, **sections: dict[str, Any]) -> dict[str, Any]:
    train = {"epochs": 3, "epoch_steps": 4} | sections.pop("train", {})
    return branched_config(store.path, train=train, replicas=FOUR, **sections)


@pytest.fixture(scope="module")
def whole(store: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """Trains an undisturbed run."""
    workdir = tmp_path_factory.mktemp("whole")
    return train(store, workdir, config_of(store))[0], workdir


@contextlib.contextmanager
def signalled(at: int, number: int = signal.SIGTERM) -> Iterator[list[int]]:
    """Sends this process a signal when a training asks for the n-th time whether to stop."""
    requested, asked = StopRequest.requested, [0]

    def ask(self: StopRequest) -> bool:
        asked[0] += 1
        if asked[0] == at:
            os.kill(os.getpid(), number)
        return requested(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StopRequest, "requested", ask)
        yield asked


def questions(store: Store, tmp_path: Path, config: dict[str, Any]) -> int:
    """Counts the checks for a stop in a whole training."""
    with signalled(at=-1) as asked:
        train(store, tmp_path, config)
    return asked[0]


def stop(store: Store, workdir: Path, config: dict[str, Any], at: int, **options: Any) -> Stopped:
    with signalled(at), pytest.raises(Stopped) as caught:
        train(store, workdir, config, **options)
    stopped = caught.value
    assert (stopped.signal_name, stopped.status) == ("SIGTERM", 75)
    assert saved_steps(workdir)[-1:] == [stopped.step] * (stopped.step > 0)
    return stopped


def same_run(found: Any, expected: Any, found_dir: Path, expected_dir: Path) -> None:
    assert found.step == expected.step
    assert found.history == expected.history
    assert_same_bits(host(found.state), host(expected.state))
    assert metric_rows(found_dir) == metric_rows(expected_dir)


def stopped_again_and_again(
    store: Store, workdir: Path, config: dict[str, Any], at: int
) -> tuple[Any, list[int]]:
    """Stops each call at its n-th question, until one comes to the end; its run, and the steps."""
    steps: list[int] = []
    for _ in range(40):
        try:
            with signalled(at):
                run, _ = train(store, workdir, config)
        except Stopped as stopped:
            steps.append(stopped.step)
        else:
            return run, steps
    raise AssertionError(f"no end after {steps}")


def test_a_run_that_is_stopped_again_and_again_equals_one_that_is_not(
    store: Store, whole: tuple[Any, Path], tmp_path: Path
) -> None:
    """In steps and in validations, which ask before each of their batches."""
    # A validation that is never let end would be begun for ever.
    batches = questions(store, tmp_path / "asking", config_of(store, train={"epochs": 1})) - 4
    run, steps = stopped_again_and_again(store, tmp_path, config_of(store), at=batches + 3)
    assert steps == sorted(steps)
    assert len(steps) >= 3
    assert any(step % 4 for step in steps)
    same_run(run, whole[0], tmp_path, whole[1])


def test_dispatches_of_several_steps_stop_between_them(store: Store, tmp_path: Path) -> None:
    options = {"data": {"feed": "resident"}, "train": {"steps_per_dispatch": 2, "epochs": 1}}
    config = config_of(store, **options)
    expected, _ = train(store, tmp_path / "whole", config)
    stopped = stop(store, tmp_path / "stopped", config, at=2)
    assert stopped.step == 2
    # Going on with single steps is possible, too.
    single = config_of(store, data={"feed": "stream"}, train={"epochs": 1})
    assert stop(store, tmp_path / "stopped", single, at=2).step == 3
    run, _ = train(store, tmp_path / "stopped", config)
    same_run(run, expected, tmp_path / "stopped", tmp_path / "whole")


def test_a_stop_within_an_epoch_keeps_the_best_weights_and_can_be_evaluated(
    store: Store, whole: tuple[Any, Path], tmp_path: Path
) -> None:
    config = config_of(store)
    # In the third epoch.
    per_epoch = questions(store, tmp_path / "asking", config_of(store, train={"epochs": 1}))
    stopped = stop(store, tmp_path, config, at=2 * per_epoch + 3)
    assert stopped.step == 10
    run = open_run(tmp_path)
    assert run.step == stopped.step
    assert not run.lost_R.any()
    # What was saved after the best validation is still there as well.
    scores = [np.mean(epoch["score"]) for epoch in whole[0].history[:2]]
    assert saved_steps(tmp_path)[0] == 4 * (int(np.argmax(scores)) + 1)
    # The numbers of the epoch that did not end are not in the table.
    assert metric_rows(tmp_path) == metric_rows(whole[1])[:2]


def test_before_the_first_validation_there_is_nothing_to_evaluate(
    store: Store, tmp_path: Path
) -> None:
    stopped = stop(store, tmp_path, config_of(store), at=3)
    assert stopped.step == 2
    run = open_run(tmp_path)
    with pytest.raises(InputError, match="no trained weights"):
        run.predict(store, [["validation-0"]] * 2)


def test_replicas_that_take_turns_stop_and_go_on(store: Store, tmp_path: Path) -> None:
    session = session_of(store, config_of(store))
    limit = needed_bytes(footprint(session), session, 2) + 1
    config = config_of(store, train={"memory_limit": limit, "epochs": 1})
    expected, recorder = train(store, tmp_path / "whole", config)
    assert len(recorder._groups) == 2
    # After three steps of the first group, and two of the second one; each is half a step.
    assert stop(store, tmp_path / "stopped", config, at=4).step == 1
    assert stop(store, tmp_path / "stopped", config, at=4).step == 3
    run, _ = train(store, tmp_path / "stopped", config)
    same_run(run, expected, tmp_path / "stopped", tmp_path / "whole")
    # Within an epoch the turns have to stay as they are.
    workdir = tmp_path / "moved"
    stop(store, workdir, config, at=7)
    with pytest.raises(InputError, match="grouped in another way") as caught:
        train(store, workdir, config_of(store, train={"epochs": 1}))
    assert caught.value.details["expected"].startswith("groups of 2 + 2")


def test_a_run_stopped_on_eight_devices_goes_on_with_one_and_back(
    store: Store, whole: tuple[Any, Path], tmp_path: Path
) -> None:
    config = config_of(store)
    stop(store, tmp_path, config, at=3, devices=jax.devices())
    stop(store, tmp_path, config, at=6)
    run, recorder = train(store, tmp_path, config, devices=jax.devices())
    assert dict(recorder.session.layout.mesh.shape) == {"replica": 4, "data": 2}
    for part in ("params", "model_state", "best"):
        found, expected = (host(getattr(one.state, part)) for one in (run, whole[0]))
        assert furthest(found, expected) <= 2e-6
    for found, expected in zip(metric_rows(tmp_path), metric_rows(whole[1]), strict=True):
        np.testing.assert_allclose(
            [float(value) for value in found.values()],
            [float(value) for value in expected.values()],
            rtol=1e-5,
        )


def test_ctrl_c_is_a_request_and_a_second_one_is_not_waited_for() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert not stop.requested()
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested()
        assert stop.name == "SIGINT"
        assert Stopped(stop.name, 1, ".").status == 130
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_another_thread_trains_without_signals(store: Store, tmp_path: Path) -> None:
    found: list[Any] = []

    def work() -> None:
        found.append(train(store, tmp_path, config_of(store, train={"epochs": 1}))[0])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found[0].step == 4


def test_a_position_survives_json() -> None:
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(3, 2)).astype(np.float32)
    seen[1, 0], seen[2, 1] = np.nan, np.inf
    position = Position(
        [[0, 2], [1]], 1, 3, {0: {"next_index": 5}}, {"loss": seen}, {"loss": seen[0]}
    )
    found = position_of(json.loads(json.dumps(position.document())))
    for name in ("groups", "turn", "done", "begun"):
        assert getattr(found, name) == getattr(position, name)
    assert_same_bits(found.seen, position.seen)
    assert_same_bits(found.means, position.means)


def test_a_checkpoint_of_an_epochs_end_says_nothing_of_a_position(
    whole: tuple[Any, Path],
) -> None:
    with Checkpoints(whole[1], read_only=True) as checkpoints:
        _, meta = checkpoints.meta()
    assert "epoch" not in meta
