"""Tests the warnings of a training in which a part of the model dies."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from emojax.core.schedule import initial_state
from emojax.datasets.source import Store
from emojax.rundir.checkpoint import Checkpoints
from emojax.training.groups import regroup
from emojax.training.watch import Watch
from tests.small_store import build_small_store
from tests.training_runs import (
    quick_compiling,  # noqa: F401 - a fixture
    session_of,
    tiny_config,
    train,
)

# With a PReLU of one slope.
TCN_TRANSFORMER = {
    "name": "tcn_transformer",
    "channels": {"ir50": [4], "vggish": [4]},
    "activation": "prelu",
    "width": 4,
    "layers": 1,
    "attention_heads": 1,
    "feed_forward": 4,
    "head_width": 4,
    "heads": "per_dimension",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(build_small_store(tmp_path_factory.mktemp("store") / "small"))


def config_of(store: Store, **training: Any) -> dict[str, Any]:
    """Returns a run of RJCMA with so much L2 that it takes W_j to zero within 4 x 25 steps."""
    decay = {"epochs": 4, "epoch_steps": 25, "learning_rate": 2e-2, "weight_decay": 10.0}
    return tiny_config(store.path, train=decay | training)


def dead_in(workdir: Path) -> set[tuple[int, str, str]]:
    """Returns replica, "norm" or "effect", and part, as the newest checkpoint has them."""
    document = Checkpoints(workdir).meta()[1]["watch"]
    return {(replica, what, part) for replica, what, part in document["dead"]}


def test_a_group_that_dies_is_told_once(
    store: Store, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(store, tmp_path / "whole", config_of(store))
    told = [line for line in capfd.readouterr().err.splitlines() if "recursion_0/w_j_ir50" in line]
    dead = dead_in(tmp_path / "whole")
    assert {(r, "norm", "recursion_0/w_j_ir50") for r in (0, 1)} <= dead
    assert len(told) == 2, "once for each replica"

    # A run that stops after the warning goes on without it, and ends with the same.
    train(store, tmp_path / "parts", config_of(store), stop_after=75)
    assert capfd.readouterr().err.count("recursion_0/w_j_ir50") == 2
    train(store, tmp_path / "parts", config_of(store))
    assert "recursion_0/w_j_ir50" not in capfd.readouterr().err
    assert dead_in(tmp_path / "parts") == dead


def test_a_sound_training_tells_nothing(store: Store, tmp_path: Path) -> None:
    train(store, tmp_path, config_of(store, weight_decay=0.0, watch="effects"))
    assert dead_in(tmp_path) == set()


def test_nothing_is_watched_on_request(store: Store, tmp_path: Path) -> None:
    train(store, tmp_path, config_of(store, watch="none", epochs=3))
    assert dead_in(tmp_path) == set()


def test_effects_and_norms_that_fall_are_found(store: Store) -> None:
    """W_h grows from zero; one replica then loses it, and the attention's effect with it."""
    session = session_of(store, config_of(store, watch="effects"))
    state = session.init_state()
    recursion = state.params["recursion_0"]
    grown = {"w_h_ir50": recursion["w_h_ir50"] + 1, "w_h_vggish": recursion["w_h_vggish"] + 1}
    alive = dataclasses.replace(state, params=state.params | {"recursion_0": recursion | grown})
    watch, schedule = Watch(session, store), initial_state(2)
    normalisation = session.normalisation(store)
    groups = regroup([], session, schedule.active, 2)
    watch.begin(state)

    def told(now: Any) -> list[str]:
        return watch(now, groups, schedule, normalisation)

    assert told(alive) == []
    shrunk = {n: x.at[1].multiply(1e-3) for n, x in grown.items()}
    dead = dataclasses.replace(
        alive, params=state.params | {"recursion_0": recursion | grown | shrunk}
    )
    found = told(dead)
    assert len(found) == 3, found  # W_h of both streams, and the attention's effect, of replica 1
    assert all(session.names[1] in line for line in found)
    assert told(dead) == []


def test_a_single_number_may_pass_zero(store: Store) -> None:
    config = config_of(store) | {"model": TCN_TRANSFORMER}
    session = session_of(store, config)
    state = session.init_state()
    watch = Watch(session, store)
    watch.begin(state)
    slopes = jax.tree_util.tree_map_with_path(
        lambda path, x: x * 0 if "activation" in jax.tree_util.keystr(path) else x, state.params
    )
    assert any(not x.any() for x in jax.tree.leaves(slopes))
    groups = regroup([], session, np.ones(2, bool), 2)
    now = dataclasses.replace(state, params=slopes)
    assert watch(now, groups, initial_state(2), session.normalisation(store)) == []
