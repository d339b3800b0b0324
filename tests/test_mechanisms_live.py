"""Tests that every system's mechanisms are alive after a short training, and that death is seen.

A mechanism is alive if predictions change when it is replaced by what it would be if it had learned
nothing, and if no group of its parameters has lost 95 % of its norm.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import emojax
from emojax.config_files import load_module
from emojax.config_reading import as_plain
from emojax.core import optimizer
from emojax.core.session import build_session
from emojax.datasets.source import Store
from emojax.rundir.checkpoint import Checkpoints
from emojax.shipped import config_folder
from emojax.training.groups import regroup
from emojax.training.loop import Trainer
from emojax.training.mechanism_effects import MechanismEffects
from tests.small_store import STREAMS, build_small_store
from tests.training_runs import one_device, quick_compiling  # noqa: F401 - a fixture

pytestmark = pytest.mark.slow

LEAST = 1e-3

# Changes in each system's paper configuration, besides those that make it tiny.
SYSTEMS: dict[str, dict[str, Any]] = {
    "rjcma": {"model.recursions": 2, "model.heads": "joint", "replicas.targets": ("va",)},
    "lfan": {"replicas.targets": ("va",)},
    "exptrm": {"model.stacked_width": 0, "data.context": {}},
    "emma_net": {"data.rates": {}, "data.scored": "all"},
    "multiscale_tcn": {"train.stages": (), "model.branch_heads": False},
    "tcn_transformer": {},
}
SHORT: dict[str, Any] = {
    "data.clock": 0.0,
    "data.streams": tuple(spec.name for spec in STREAMS),
    "data.tasks": ("va",),
    "data.resampling": {},
    "data.normalisation": {},
    "data.window": 16,
    "data.stride": 10,
    "data.evaluation_stride": 0,
    "data.unannotated": "masked",
    "data.batch_size": 4,
    "loss": {"va": "ccc"},
    "evaluation.selection": {"va": "ccc"},
    "train.epochs": 3,
    "train.epoch_steps": 30,
    "train.learning_rate": 1e-2,
    "train.warmup": "none",
    "train.warmup_epochs": 0,
    "train.reload_best": False,
    "train.releases": 0,
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(build_small_store(tmp_path_factory.mktemp("store") / "small"))


@functools.cache
def small(system: str) -> Any:
    return load_module(config_folder() / f"{system}.py").SMALL


def set_key(config: dict[str, Any], key: str, value: Any) -> None:
    *sections, name = key.split(".")
    functools.reduce(dict.__getitem__, sections, config)[name] = value


def trained(
    store: Store, workdir: Path, system: str, **training: Any
) -> tuple[dict[str, float], set[str]]:
    """Trains a tiny form of a system.

    Returns:
        The change of predictions without each mechanism, and the parts that the training warned of.
    """
    config = as_plain(emojax.load_config(system))
    tiny = small(system).changes(config, tiny=True)
    changes = {key: value for key, value in tiny.items() if key.startswith("model.")}
    changes |= SHORT | SYSTEMS[system] | {f"train.{key}": value for key, value in training.items()}
    for key, value in changes.items():
        set_key(config, key, value)
    config["data"]["store"] = str(store.path)
    session = build_session(config, store.streams, one_device())
    run = Trainer(session, store, workdir).run()
    groups = regroup([], session, run.schedule.active, 1)
    measured = MechanismEffects(session, store)(
        run.state.evaluated, groups, np.array([True]), session.normalisation(store)
    )
    dead = Checkpoints(workdir).meta()[1]["watch"]["dead"]
    return {name: float(x_R[0]) for name, x_R in measured.items()}, {part for _, _, part in dead}


@pytest.mark.parametrize("system", SYSTEMS)
def test_mechanisms_are_alive_after_a_short_training(
    store: Store, tmp_path: Path, system: str
) -> None:
    effects, dead = trained(store, tmp_path, system)
    assert effects, "the system declares no mechanism"
    assert not dead
    # Labels have a deviation of about .4.
    assert {name for name, effect in effects.items() if effect < LEAST} == set()


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_mechanism_that_decays_is_seen(store: Store, tmp_path: Path, system: str) -> None:
    """L2 that is far too strong takes the weights of every system away, and the warning says so."""
    effects, dead = trained(
        store, tmp_path, system, optimizer="adam_l2", weight_decay=1e3, no_decay=(), epoch_steps=60
    )
    assert dead
    assert min(effects.values()) < LEAST


@pytest.mark.parametrize("spared", [True, False])
def test_l2_on_all_of_rjcma_takes_its_attention_away(
    store: Store, tmp_path: Path, spared: bool
) -> None:
    """So the paper's L2 spares the recursions; put it back on all weights, and W_j and the FC die.

    Ten times the paper's coefficient, because narrow layers have larger gradients.
    """
    decay = {} if spared else {"no_decay": ()}
    effects, dead = trained(store, tmp_path, "rjcma", weight_decay=1e-2, epoch_steps=50, **decay)
    assert (effects["attention"] >= LEAST) == spared
    assert (
        bool(dead & {"recursion_0/joint", "recursion_0/w_j_ir50", "recursion_0/w_j_vggish"})
        != spared
    )


def test_l2_on_stored_weights_takes_rjcma_s_attention_away(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault that was there: L2 acted on K W_c and sqrt(K) W_h as they are stored.

    With the same coefficient on the weights as printed, W_j and the FC die, and these two live.
    """
    monkeypatch.setattr(optimizer, "as_printed", lambda params, scales: params)
    jax.clear_caches()  # a step that was compiled without the fault would be used again
    effects, dead = trained(
        store, tmp_path, "rjcma", weight_decay=1e-2, epoch_steps=50, no_decay=()
    )
    jax.clear_caches()
    assert [part for part in dead if "/w_c_" in part or "/w_h_" in part], dead
    assert effects["attention"] < LEAST
