"""A training in two processes, which are asked to stop, killed and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emojax.datasets.source import Store
from emojax.prediction.predictor import ensemble
from emojax.prediction.trained_run import open_run
from emojax.reporting.results_folder import write_predictions
from emojax.rundir.checkpoint import saved_steps
from tests.small_store import build_small_store
from tests.training_runs import (
    metric_rows,
    quick_compiling,  # noqa: F401 - a fixture
    subprocess_environment,
    tiny_config,
    train,
)

ROOT = Path(__file__).parents[1]
EPOCHS = 8


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(build_small_store(tmp_path_factory.mktemp("store") / "small"))


class Launched:
    """Processes of one run, started by ``launch/local.sh``, which writes their numbers down."""

    def __init__(self, folder: Path, *command: str, processes: int = 2) -> None:
        self._pids, self._log = folder / "pids", folder / "log"
        self._pids.unlink(missing_ok=True)
        local = ["launch/local.sh", f"--processes={processes}", "--devices_per_process=2"]
        local += ["--grace=60", f"--pids={self._pids}"]
        environment = subprocess_environment()
        # As many devices as the script says, not as many as the tests have.
        environment.pop("JAX_NUM_CPU_DEVICES", None)
        with self._log.open("w") as log:
            self._started = subprocess.Popen(
                [*local, "--", sys.executable, "-m", *command],
                cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Waits for something that the processes do; fails with what they said if they end."""
        while not ready():
            assert self._started.poll() is None, self.end()[1]
            time.sleep(0.05)

    def send(self, process: int, number: int) -> None:
        os.kill(int(self._pids.read_text().split()[process]), number)

    def end(self) -> tuple[int, str]:
        """Status of the script, and what all processes said."""
        status = self._started.wait(timeout=240)
        return status, self._log.read_text()


def rows(workdir: Path) -> int:
    table = workdir / "metrics.csv"
    return len(table.read_text().splitlines()) if table.exists() else 0


def close(found: list[dict[str, str]], expected: list[dict[str, str]]) -> None:
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for row, other in zip(found, expected, strict=True):
        assert row.keys() == other.keys()
        for name, value in row.items():
            # Losses to 1e-5; scores of a few frames cancel more, and norms sum up what rounds.
            tolerance = 1e-5 if name.endswith("/loss") else 2e-4
            np.testing.assert_allclose(
                float(value), float(other[name]), rtol=tolerance, atol=tolerance, err_msg=name
            )


@pytest.mark.slow
def test_two_processes_train_as_one_does(store: Store, tmp_path: Path) -> None:
    config = tiny_config(store.path, train={"epochs": 1, "learning_rate": 1e-3})
    reference: Any = train(store, tmp_path / "one", config)[0]
    file, workdir = tmp_path / "config.json", tmp_path / "two"
    file.write_text(json.dumps(config))
    command = ("emojax.train", f"--config=tests/json_config.py:{file}", f"--workdir={workdir}")
    status, log = Launched(tmp_path, *command).end()
    assert status == 0, log
    assert saved_steps(workdir)[-1] == reference.step
    close(metric_rows(workdir), metric_rows(tmp_path / "one"))


@pytest.mark.nightly
def test_two_processes_are_stopped_killed_and_end_as_one_would(
    store: Store, tmp_path: Path
) -> None:
    config = tiny_config(store.path, train={"epochs": EPOCHS, "learning_rate": 1e-3})
    reference: Any = train(store, tmp_path / "one", config)[0]
    file, workdir = tmp_path / "config.json", tmp_path / "two"
    file.write_text(json.dumps(config))
    command = ("emojax.train", f"--config=tests/json_config.py:{file}", f"--workdir={workdir}")

    # One of the two gets SIGTERM; both save at the same step.
    launched = Launched(tmp_path, *command)
    launched.wait_until(lambda: rows(workdir) >= 3)
    launched.send(1, signal.SIGTERM)
    status, log = launched.end()
    assert status == 75, log
    stopped_at = saved_steps(workdir)[-1]
    assert 0 < stopped_at < reference.step
    assert f"stopped by SIGTERM at step {stopped_at}, saved" in log
    assert log.count("stopped by SIGTERM") == 1

    # One of the two is killed; the other notices.
    launched = Launched(tmp_path, *command)
    begun = rows(workdir)
    launched.wait_until(lambda: rows(workdir) >= begun + 2)
    launched.send(1, signal.SIGKILL)
    killed = time.monotonic()
    status, log = launched.end()
    assert status not in (0, 75), log
    assert time.monotonic() - killed < 60
    assert "Another process of the run ended" in log
    assert "Traceback" not in log

    # Two go on, and so does one.
    status, log = Launched(tmp_path, *command).end()
    assert status == 0, log
    (summary,) = (line for line in log.splitlines() if "summary: " in line)
    told = json.loads(summary.partition("summary: ")[2])
    assert (told["status"], told["step"]) == ("done", reference.step)
    assert log.count("report:") == 1
    close(metric_rows(workdir), metric_rows(tmp_path / "one"))
    (again, _) = train(store, workdir, config)
    assert again.step == reference.step

    # Prediction in two processes gives every frame once, as one does.
    both, alone = tmp_path / "both", tmp_path / "alone"
    flags = (f"--checkpoint={workdir}", f"--out={both}", "--partition=all")
    status, log = Launched(tmp_path, "emojax.predict", *flags).end()
    assert status == 0, log
    run, names = open_run(workdir), [video.name for video in store.videos]
    combined = ensemble(run.session.weights, run.predict(store, [names]), range(2))
    write_predictions(alone, store, combined)
    for video in store.videos:
        files = [out / "va" / f"{video.name}.csv" for out in (both, alone)]
        found, expected = (np.loadtxt(path, delimiter=",", skiprows=1) for path in files)
        assert len(found) == video.num_frames
        # Five digits are written, and the last may round the other way.
        np.testing.assert_allclose(found, expected, rtol=0, atol=1.1e-5)
