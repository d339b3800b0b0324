"""Losses that are not finite: the run stops, skips the batch or gives the replica up, by name."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from emojax.core.session import build_session
from emojax.datasets.pipeline import training_windows
from emojax.datasets.source import Store
from emojax.errors import InputError
from emojax.prediction.trained_run import open_run
from emojax.rundir.checkpoint import saved_steps
from tests.poisoned_model import build_poisoned_store, poisoned  # noqa: F401 - a fixture
from tests.training_runs import (
    assert_same_bits,
    host,
    quick_compiling,  # noqa: F401 - a fixture
    tiny_config,
    train,
)

pytestmark = [pytest.mark.usefixtures("poisoned"), pytest.mark.slow]
STEPS = 12


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(build_poisoned_store(tmp_path_factory.mktemp("store") / "poisoned"))


def config_of(store: Store, **sections: dict[str, Any]) -> dict[str, Any]:
    train = {"epochs": 3, "epoch_steps": 4} | sections.pop("train", {})
    config = tiny_config(store.path, train=train, **sections)
    config["model"] = {"name": "poisoned"}
    return config


def poisoned_steps(store: Store, config: dict[str, Any]) -> list[int]:
    """Returns steps, counted from 1, whose batch holds a window of the marked video."""
    spec = build_session(config, store.streams).window_spec
    windows = training_windows(store, store.fold("0").train, spec, seed=0)
    marked, size = store.index_of("train-3"), config["data"]["batch_size"]
    return [
        step + 1
        for step in range(STEPS)
        if any(windows[step * size + row][0] == marked for row in range(size))
    ]


@pytest.mark.parametrize("feed", ["stream", "resident"])
def test_skipping_takes_no_step_on_such_a_batch_and_names_its_videos(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], feed: str
) -> None:
    options = {"data": {"feed": feed}, "train": {"non_finite": "skip", "steps_per_dispatch": 2}}
    config = config_of(store, **options)
    steps = poisoned_steps(store, config)
    assert 1 <= len(steps) < STEPS // 2
    run, _ = train(store, tmp_path, config)
    assert run.step == STEPS
    # Two replicas on the same windows.
    assert np.asarray(run.state.step).tolist() == [STEPS - len(steps)] * 2
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(host(run.state)))
    assert run.schedule.active.all()
    said = capsys.readouterr().err
    assert f"valence: the loss of step {steps[0]} is skipped" in said
    assert "train-3" in said
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for epoch, row in enumerate(rows):
        here = [step for step in steps if 4 * epoch < step <= 4 * epoch + 4]
        assert float(row["valence/skipped"]) == len(here) / 4
        assert np.isfinite(float(row["valence/loss"]))
    assert not open_run(tmp_path).lost_R.any()


def test_a_skipped_batch_leaves_the_state_as_if_it_had_not_been(
    store: Store, tmp_path: Path
) -> None:
    config = config_of(store, train={"non_finite": "skip", "epochs": STEPS, "epoch_steps": 1})
    _, recorder = train(store, tmp_path, config)
    steps = poisoned_steps(store, config)
    for step in range(2, STEPS + 1):
        before, after = (recorder.saved[one] for one in (step - 1, step))
        if step in steps:
            assert_same_bits(after.params, before.params)
            assert_same_bits(after.opt_state, before.opt_state)
            assert_same_bits(after.model_state, before.model_state)
        else:
            assert any(
                (a != b).any()
                for a, b in zip(
                    jax.tree.leaves(after.params), jax.tree.leaves(before.params), strict=True
                )
            )


def test_stopping_names_step_and_videos_and_keeps_the_last_checkpoint(
    store: Store, tmp_path: Path
) -> None:
    config = config_of(store, train={"non_finite": "stop", "epochs": STEPS, "epoch_steps": 1})
    first = poisoned_steps(store, config)[0]
    with pytest.raises(InputError, match="not finite") as caught:
        train(store, tmp_path, config)
    assert caught.value.details["field"] == f"step {first}, replica valence"
    assert "train-3" in caught.value.details["found"]
    assert saved_steps(tmp_path)[-1:] == [first - 1] * (first > 1)


def test_a_run_of_which_nothing_is_left_names_the_videos_too(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(store, train={"epochs": 2, "epoch_steps": STEPS})
    first = poisoned_steps(store, config)[0]
    with pytest.raises(InputError, match="diverged") as caught:
        train(store, tmp_path, config)
    assert f"from step {first} on" in caught.value.details["remedy"]
    assert "train-3" in caught.value.details["remedy"]
    assert f"arousal: the loss of step {first} is not finite" in capsys.readouterr().err


def test_an_unknown_wish_is_refused(store: Store) -> None:
    with pytest.raises(InputError) as caught:
        build_session(config_of(store, train={"non_finite": "ignore"}), store.streams)
    assert caught.value.details["field"] == "config.train.non_finite"
