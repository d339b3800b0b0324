"""Tests replicas, and configurations that are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from emojax.config_schema import ReplicasConfig, TrainConfig
from emojax.core.replicas import expand, short_names, target_weights
from emojax.datasets.source import Store
from emojax.errors import InputError
from tests.small_store import build_small_store
from tests.training_runs import session_of, tiny_config


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(build_small_store(tmp_path_factory.mktemp("store") / "small"))


def test_replicas_are_all_combinations_with_telling_names() -> None:
    replicas = expand(
        ReplicasConfig(folds=("0", "3"), targets=("valence",), seeds=(1, 2)),
        TrainConfig(learning_rate=(1e-3, 1e-2), weight_decay=0.5),
    )
    assert len(replicas) == 8
    assert len(set(replicas)) == 8
    assert {(r.fold, r.seed, r.learning_rate) for r in replicas} == {
        (fold, seed, rate) for fold in "03" for seed in (1, 2) for rate in (1e-3, 1e-2)
    }
    assert short_names(replicas)[0] == "valence fold 0 seed 1 rate 0.001"
    assert len(set(short_names(replicas))) == 8
    assert short_names(replicas[:1]) == ("valence",)


@pytest.mark.parametrize("twice", ["folds", "targets", "seeds"])
def test_the_same_replica_twice_is_refused(twice: str) -> None:
    factors = {"folds": ("0",), "targets": ("va",), "seeds": (0,)}
    factors[twice] = factors[twice] * 2
    with pytest.raises(InputError, match="same training"):
        expand(ReplicasConfig(**factors), TrainConfig())


def test_target_weights_share_tasks_and_targets_alike() -> None:
    replicas = expand(
        ReplicasConfig(targets=("valence", "va", "all", "expr", "AU4")), TrainConfig()
    )
    weights = target_weights(replicas, ("va", "expr", "au"))
    np.testing.assert_allclose(
        weights["va"], [[1, 0], [0.5, 0.5], [1 / 6, 1 / 6], [0, 0], [0, 0]], rtol=1e-6
    )
    np.testing.assert_allclose(weights["expr"][:, 0], [0, 0, 1 / 3, 1, 0], rtol=1e-6)
    np.testing.assert_allclose(weights["au"][2], 1 / 36, rtol=1e-6)
    np.testing.assert_allclose(weights["au"][4], np.arange(12) == 2)
    np.testing.assert_allclose(sum(w.sum(axis=1) for w in weights.values()), 1.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("section", "changes", "field"),
    [
        ("replicas", {"targets": ["valance"]}, "config.replicas.targets"),
        ("replicas", {"folds": []}, "config.replicas.folds"),
        ("data", {"streams": ["ir50", "vgish"]}, "config.data.streams"),
        ("data", {"tasks": ["vaa"]}, "config.data.tasks"),
        ("data", {"batch_size": 0}, "config.data.batch_size"),
        ("loss", {"va": "cccc"}, "config.loss.va"),
        ("train", {"warmup": "slow"}, "config.train.warmup"),
        ("train", {"learning_rate": float("nan")}, "config.train.learning_rate"),
        ("train", {"learning_rate": [1e-3, -1.0]}, "config.train.learning_rate"),
        ("train", {"optimizer": "sgd"}, "config.train.optimizer"),
        ("train", {"epochs": 0}, "config.train.epochs"),
        ("train", {"epoch_steps": -1}, "config.train.epoch_steps"),
        ("train", {"stop_patience": 0}, "config.train.stop_patience"),
        ("train", {"weight_decay": [0.0, -1e-3]}, "config.train.weight_decay"),
        ("train", {"clip_norm": float("inf")}, "config.train.clip_norm"),
        ("evaluation", {"selection": {"va": "f1"}}, "config.evaluation.selection.va"),
        ("model", {"name": "rjcmaa"}, "model"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(
    store: Store, section: str, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(InputError) as caught:
        session_of(store, tiny_config(store.path, **{section: changes}))
    assert caught.value.details["field"] == field
    assert {"found", "expected"} <= set(caught.value.details)


def test_a_task_without_a_loss_or_a_selection_takes_the_default(store: Store) -> None:
    changes = {"data": {"tasks": ["va"]}, "evaluation": {"selection": {}}}
    config = tiny_config(store.path, **changes) | {"loss": {}}
    session = session_of(store, config)
    assert session.config.loss == {"va": "ccc"}
    assert session.config.evaluation.selection == {"va": "ccc"}
    assert set(session.losses) == {"va"}


@pytest.mark.parametrize("missing", ["train", "train.epochs", "data.window", "model.name"])
def test_an_incomplete_configuration_is_refused(store: Store, missing: str) -> None:
    config = tiny_config(store.path)
    section, _, key = missing.partition(".")
    del (config[section] if key else config)[key or section]
    with pytest.raises(InputError, match="incomplete") as caught:
        session_of(store, config)
    assert caught.value.details["field"].startswith(f"config.{missing}")


def test_replicas_share_windows_only_with_the_same_fold_and_seed(store: Store) -> None:
    replicas = {"folds": ["0", "1"], "targets": ["valence", "arousal"], "seeds": [0, 7]}
    session = session_of(store, tiny_config(store.path, replicas=replicas))
    shared = [session.samplers.keys[i] for i in session.samplers.members_R]
    assert shared == [(replica.fold, replica.seed) for replica in session.replicas]
    assert len(session.samplers.keys) == 4
    assert [session.folds.keys[i] for i in session.folds.members_R] == ["0"] * 4 + ["1"] * 4
