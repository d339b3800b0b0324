"""Tests that ``benchmarks.spread`` agrees on one device and eight, and finds differences."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks.faults import small_run
from benchmarks.spread import ARRANGEMENTS, Arrangement
from benchmarks.spread_gaps import TOLERANCE, Gaps, gaps
from benchmarks.spread_systems import BATCH, SYSTEMS, WIDTH, get_config, streams
from emojax.core.devices import make_layout
from emojax.core.session import build_session
from emojax.datasets.source import Store
from emojax.reporting.timelines import TIMELINES_FILE
from emojax.rundir.metric_log import METRICS_FILE
from emojax.specs import STREAMS
from emojax.studies.system_facts import abstract_variables, parameter_counts
from emojax.training.loop import Trainer
from tests.small_store import build_small_store
from tests.training_runs import quick_compiling  # noqa: F401 - a fixture

pytestmark = pytest.mark.slow


def train(store: Store, workdir: Path, devices: list[jax.Device]) -> None:
    """Trains the smallest system and writes predictions in the form of training."""
    config = small_run.config(store.path, epochs=2)
    config["data"]["streams"] = [*store.streams]
    # Not the CCC, whose gradient is mostly rounding while predictions hardly vary.
    config["loss"] = {"va": "mse"}
    config["replicas"] = {"folds": ["0"], "targets": ["valence", "arousal"], "seeds": [0]}
    # At the rate of 0.3 that it has for other tests, Adam makes much of what is rounded.
    config["train"]["learning_rate"] = 1e-3
    Trainer(build_session(config, store.streams, devices), store, workdir).run()
    (workdir / "validation").mkdir()
    y_TC = np.zeros((30, 2), np.float32)
    arrays = {"tasks": np.array(["va", "au"]), "va/model": y_TC, "au/optimum": y_TC}
    np.savez(workdir / "validation" / TIMELINES_FILE, **arrays)


def test_eight_devices_train_as_one_does(tmp_path: Path) -> None:
    store = Store(build_small_store(tmp_path / "store", lengths=(50, 60), validation_lengths=(30,)))
    one, eight = tmp_path / "one", tmp_path / "eight"
    train(store, one, jax.devices()[:1])
    train(store, eight, jax.devices())
    found = gaps(one, eight)
    assert found.same, found
    assert found.first <= found.loss <= TOLERANCE
    assert found.gradient < 1e-4
    assert found.score < 1e-3
    assert found.prediction == 0

    # Each kind of difference is found where it is made.
    table = eight / METRICS_FILE
    before = table.read_text()
    header, *rows = before.splitlines()
    for column, attribute in (
        ("arousal/loss", "loss"),
        ("valence/gradient_norm", "gradient"),
        ("arousal/ccc_arousal", "score"),
    ):
        cells = rows[-1].split(",")
        place = header.split(",").index(column)
        cells[place] = str(float(cells[place]) + 0.01)
        table.write_text("\n".join([header, *rows[:-1], ",".join(cells)]) + "\n")
        changed = gaps(one, eight)
        assert getattr(changed, attribute) > 1e-3, attribute
        assert changed.same == (attribute != "loss")
        assert changed.first == found.first
    # A run that lacks an epoch is another one.
    table.write_text("\n".join([header, *rows[:-1]]) + "\n")
    assert math.isinf(gaps(one, eight).loss)
    table.write_text(before)

    file = eight / "validation" / TIMELINES_FILE
    with np.load(file) as arrays:
        kept = dict(arrays)
    kept["va/model"][3, 1] += 0.25
    np.savez(file, **kept)
    assert gaps(one, eight).prediction == 0.25
    kept["va/model"][3, 1] = np.nan
    np.savez(file, **kept)
    assert math.isinf(gaps(one, eight).prediction)
    assert not gaps(one, eight).same


@pytest.mark.parametrize("arrangement", ARRANGEMENTS, ids=lambda arrangement: arrangement.folder)
def test_the_table_says_which_mesh_a_run_has(arrangement: Arrangement) -> None:
    replica, data, spare = arrangement.mesh
    apart = "--config.mesh.replica=1" in arrangement.flags
    devices = jax.devices()[: arrangement.total]
    layout = make_layout(2, BATCH, devices, sizes=(int(apart), 0))
    # Spare devices are used where there are several processes alone, and here is one.
    assert layout.mesh.devices.shape == (replica, data)
    assert replica * data * spare == arrangement.total


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_has_a_small_form(system: str) -> None:
    config = get_config(system)
    widths = {name: dataclasses.replace(STREAMS[name], width=WIDTH) for name in streams()}
    session = build_session(config, widths, jax.devices()[:1])
    assert len(session.replicas) == 2
    assert sum(parameter_counts(abstract_variables(session)).values()) < 10_000


def test_gaps_in_anything_but_the_loss_are_told_and_no_failure() -> None:
    assert Gaps(0.0, TOLERANCE, 1.0, 1.0, 1.0).same
    assert not Gaps(0.0, 2 * TOLERANCE, 0.0, 0.0, 0.0).same
