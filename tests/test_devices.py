"""Tests meshes, the rows of a batch that each process reads, and joining processes."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emojax.core import devices
from emojax.core.devices import Layout, join_processes, layout_lines, make_layout, start_devices
from emojax.core.session import build_session
from emojax.datasets.pipeline import (
    LoadWindow,
    evaluation_batches,
    training_batches,
    window_list,
)
from emojax.datasets.source import Store
from emojax.datasets.window_spec import WindowSpec
from emojax.errors import InputError
from emojax.rundir.checkpoint import Checkpoints
from tests.refusals import refused
from tests.small_store import build_small_store, small_config
from tests.training_runs import subprocess_environment

SPEC = WindowSpec(("ir50", "vggish"), ("va",), window=16, stride=10, random_offset=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(build_small_store(tmp_path_factory.mktemp("store") / "small"))


@dataclasses.dataclass(frozen=True)
class _Elsewhere:
    """A device of process ``process_index``; a mesh needs no more of it."""

    id: int
    process_index: int
    platform: str = "cpu"
    device_kind: str = "cpu"


def slice_of(processes: int, each: int) -> list[Any]:
    return [_Elsewhere(p * each + d, p) for p in range(processes) for d in range(each)]


# -- meshes ----------------------------------------------------------------------------------------


@given(
    replicas=st.integers(1, 24),
    batch=st.integers(1, 48),
    devices=st.integers(1, 8),
    sizes=st.tuples(st.integers(0, 8), st.integers(0, 8)),
)
def test_meshes_divide_replicas_and_batches(
    replicas: int, batch: int, devices: int, sizes: tuple[int, int]
) -> None:
    layout = make_layout(replicas, batch, jax.devices()[:devices], sizes=sizes)
    across_replicas, across_data = layout.mesh.devices.shape
    assert replicas % across_replicas == 0
    assert batch % across_data == 0
    assert across_replicas * across_data <= devices
    for found, size in zip((across_replicas, across_data), sizes, strict=True):
        assert not size or found <= size
    idle = devices - across_replicas * across_data
    assert bool(layout_lines(layout, replicas, batch)) == (idle > 0)


@given(
    replicas=st.integers(1, 12),
    batch=st.integers(1, 24),
    processes=st.integers(2, 4),
    each=st.sampled_from([1, 2, 4]),
)
def test_every_process_of_a_run_takes_part(
    replicas: int, batch: int, processes: int, each: int
) -> None:
    devices = slice_of(processes, each)
    layout = make_layout(replicas, batch, devices)
    assert layout.mesh.axis_names == ("replica", "data", "spare")
    assert sorted(device.id for device in layout.mesh.devices.flat) == list(range(len(devices)))
    across_replicas, across_data, _ = layout.mesh.devices.shape
    assert (replicas % across_replicas, batch % across_data) == (0, 0)


def test_a_configuration_limits_the_mesh(store: Store) -> None:
    config = small_config(store.path)
    config["mesh"] = {"replica": 1, "data": 2}
    session = build_session(config, store.streams, jax.devices())
    assert dict(session.layout.mesh.shape) == {"replica": 1, "data": 2}
    for wrong in ({"data": -1}, {"data": 1.5}, {"columns": 2}):
        config["mesh"] = wrong
        with pytest.raises(InputError) as caught:
            build_session(config, store.streams)
        assert caught.value.details["field"] == f"config.mesh.{next(iter(wrong))}"


def test_placed_values_come_back() -> None:
    layout = make_layout(2, 4, jax.devices())
    tree = {"a": np.arange(24.0).reshape(2, 4, 3)}
    for placed in (
        layout.replicas(tree),
        layout.everywhere(tree),
        layout.batch(tree, grouped=True),
    ):
        np.testing.assert_array_equal(layout.fetch(placed)["a"], tree["a"])


# -- rows ------------------------------------------------------------------------------------------


def test_a_process_reads_its_rows_of_the_same_batches(store: Store) -> None:
    names, size = store.fold("0").train, 6
    whole = training_batches(store, names, SPEC, batch_size=size, seed=3)
    parts = [range(4), range(4, 6)]
    feeds = [
        training_batches(store, names, SPEC, batch_size=size, seed=3, rows=rows) for rows in parts
    ]
    for _ in range(7):
        batch = next(whole)
        for feed, rows in zip(feeds, parts, strict=True):
            jax.tree.map(
                lambda found, expected, rows=rows: np.testing.assert_array_equal(
                    found, expected[rows.start : rows.stop]
                ),
                next(feed),
                batch,
            )
    # States do not depend on the rows, so that a run may go on with other processes.
    for feed in feeds:
        assert feed.get_state() == whole.get_state()
    again = training_batches(store, names, SPEC, batch_size=size, seed=3, rows=parts[1])
    again.set_state(whole.get_state())
    expected = next(whole)
    np.testing.assert_array_equal(next(again).frame_ids, expected.frame_ids[4:])


def test_processes_read_no_more_than_their_rows(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: set[tuple[int, int]] = set()
    load = LoadWindow._load
    monkeypatch.setattr(
        LoadWindow, "_load", lambda self, *entry: (read.add(entry), load(self, *entry))[1]
    )
    names = store.fold("0").validation
    windows, found = {*window_list(store, names, SPEC)}, []
    for rows in (None, range(2), range(2, 4)):
        read.clear()
        assert list(evaluation_batches(store, names, SPEC, batch_size=4, rows=rows))
        # Feeds of other tests may still be reading ahead.
        found.append({entry for entry in read if entry in windows})
    assert found[0] == found[1] | found[2] == windows
    assert not found[1] & found[2]


# -- joining ---------------------------------------------------------------------------------------

GIVEN = {
    "JAX_COORDINATOR_ADDRESS": "127.0.0.1:1234",
    "JAX_NUM_PROCESSES": "2",
    "JAX_PROCESS_ID": "1",
}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"JAX_COORDINATOR_ADDRESS": ""}, "JAX_COORDINATOR_ADDRESS"),
        ({"JAX_COORDINATOR_ADDRESS": "host"}, "JAX_COORDINATOR_ADDRESS"),
        ({"JAX_NUM_PROCESSES": ""}, "JAX_NUM_PROCESSES"),
        ({"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES"),
        ({"JAX_PROCESS_ID": ""}, "JAX_PROCESS_ID"),
        ({"JAX_PROCESS_ID": "-1"}, "JAX_PROCESS_ID"),
        ({"JAX_PROCESS_ID": "2"}, "JAX_PROCESS_ID"),
        ({"EMOJAX_PROCESSES": "two"}, "EMOJAX_PROCESSES"),
    ],
)
def test_what_the_environment_cannot_mean_is_refused(changes: dict[str, str], field: str) -> None:
    with pytest.raises(InputError) as caught:
        join_processes(GIVEN | changes)
    assert caught.value.details["field"] == field


def test_processes_are_joined_only_where_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    joined: list[dict[str, Any]] = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **options: joined.append(options))
    join_processes({})
    join_processes(GIVEN | {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"})
    assert joined == []
    join_processes(GIVEN)
    join_processes({"EMOJAX_PROCESSES": "auto"})
    address = GIVEN["JAX_COORDINATOR_ADDRESS"]
    named = {"coordinator_address": address, "num_processes": 2, "process_id": 1}
    assert joined == [named, {}]

    def fails(**options: Any) -> None:
        raise RuntimeError("nobody answered\nin time")

    monkeypatch.setattr(jax.distributed, "initialize", fails)
    with pytest.raises(InputError, match="did not find each other") as caught:
        join_processes(GIVEN)
    assert caught.value.details["found"] == "nobody answered"


def test_alone_nothing_is_waited_for() -> None:
    devices.wait_for_all("here")
    devices.agree("here")
    assert devices.from_primary(3 << 40 | 5) == 3 << 40 | 5
    problem = InputError("no")
    with pytest.raises(InputError, match="no"):
        devices.agree("here", problem)
    # An error of this program is none of another process.
    assert devices.lost_process(jax.errors.JaxRuntimeError("Gloo all-reduce failed")) is None


def test_layouts_of_one_process_share_nothing() -> None:
    layout: Layout = make_layout(2, 4, jax.devices())
    assert not layout.shared
    assert layout.rows(4) == range(4)


@pytest.mark.parametrize("failure", [AssertionError(), RuntimeError("Unable to initialize 'tpu'")])
def test_devices_that_do_not_start_are_the_machine_s_fault(
    failure: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No checkpoint is called damaged because JAX finds no device."""

    def fail() -> int:
        raise failure

    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    monkeypatch.setattr(jax, "process_index", fail)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with refused(field="JAX_PLATFORMS", found="cuda", remedy="unset"):
        start_devices()
    with refused(field="JAX_PLATFORMS"):
        Checkpoints(tmp_path / "run", read_only=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["emojax.predict", "--checkpoint=RUN", "--out=OUT"],
        ["emojax.evaluate", "--checkpoint=RUN"],
        ["emojax.analyse", "mechanisms", "--checkpoint=RUN"],
        ["emojax.weights", "export", "--checkpoint=RUN", "--out=OUT/w.safetensors"],
        ["emojax.train", "--config=lfan", "--workdir=OUT/run"],
    ],
    ids=lambda command: command[0],
)
def test_commands_say_that_a_device_is_missing(command: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints" / "1").mkdir(parents=True)
    (run / "checkpoints" / "1" / "x").write_text("kept")
    words = [word.replace("RUN", str(run)).replace("OUT", str(tmp_path)) for word in command]
    environment = {**subprocess_environment(), "JAX_PLATFORMS": "cuda"}
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=Path(__file__).parents[1], env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "JAX_PLATFORMS" in done.stderr
    assert "Traceback" not in done.stderr
    assert "overwrite" not in done.stderr
    assert (run / "checkpoints" / "1" / "x").read_text() == "kept"
