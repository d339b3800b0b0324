"""Tests the end of commands: status, summary line, levels of output, lock, full disk."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emojax.datasets.source import Store
from emojax.datasets.store import store_facts
from emojax.rundir.workdir import LOCK_FILE
from tests.forked_commands import run_forked, said
from tests.small_store import build_small_store
from tests.training_runs import (
    metric_rows,
    quick_compiling,  # noqa: F401 - a fixture
    tiny_config,
    train,
)

pytestmark = pytest.mark.slow

# A command that ends as its argument says.
_ENDING = """
import errno, os
import numpy as np
from emojax.commands import cli
from emojax.errors import InputError, LostProcess, MachineError, Stopped

def main(given, how):
    cli.tell(score=float("nan"), rates=np.float32([0.5, np.inf]), names=("a", "b"))
    if how == "input":
        raise InputError("That is wrong.", field="it")
    if how == "machine":
        raise MachineError("That does not fit.", remedy="free some space")
    if how == "disk":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "here/scores.json")
    if how == "lost":
        raise LostProcess("Process 1 is gone.")
    if how in ("SIGTERM", "SIGINT"):
        raise Stopped(how, 7, "run")
    if how == "keyboard":
        raise KeyboardInterrupt
    if how == "bug":
        raise ValueError("ours")
    print("some words")

if __name__ == "__main__":
    cli.Command(main, lambda values: None, arguments=True, summary="tests.ending").run()
"""
# how -> status of the process, what the summary calls it, its sentence, words on standard error.
_ENDS: dict[str, tuple[int, str, str | None, str]] = {
    "well": (0, "done", None, ""),
    "bug": (1, "failed", "ValueError('ours')", "Traceback"),
    "input": (2, "failed", "That is wrong.", "error: That is wrong."),
    "machine": (74, "failed", "That does not fit.", "free some space"),
    "disk": (74, "failed", "A file could not be written.", "No space left on device"),
    "SIGTERM": (75, "stopped", None, "stopped by SIGTERM at step 7, saved; the same command"),
    "lost": (76, "failed", "Process 1 is gone.", "error: Process 1 is gone."),
    "SIGINT": (130, "stopped", None, "stopped by SIGINT at step 7, saved; the same command"),
    "keyboard": (130, "stopped", None, "interrupted"),
}
# A command that may write only small files.
_LIMITED = """
import resource, runpy, sys
module = sys.argv.pop(1)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes a store, its configuration, a finished run ("run") and a locked copy ("busy")."""
    folder = tmp_path_factory.mktemp("operations")
    build_small_store(folder / "store")
    config = tiny_config(folder / "store", train={"epochs": 2})
    train(Store(folder / "store"), folder / "run", config)
    shutil.copytree(folder / "run", folder / "busy")
    (folder / "config.py").write_text(
        "from ml_collections import ConfigDict\n\n\n"
        f"def get_config() -> ConfigDict:\n    return ConfigDict({config!r})\n"
    )
    rng = np.random.default_rng(0)
    for name, frames in (("a", 400), ("b", 30)):
        (folder / "faces").mkdir(exist_ok=True)
        np.save(folder / "faces" / f"{name}.npy", rng.normal(size=(frames, 8)).astype(np.float32))
    (folder / "ending.py").write_text(_ENDING)
    (folder / "limited.py").write_text(_LIMITED)
    return folder


@pytest.fixture(scope="module")
def called(here: Path) -> Path:
    """Returns all commands of this file, while this process's parent holds the lock of "busy"."""
    run, store = here / "run", here / "store"
    training = ["emojax.train", f"--config={here / 'config.py'}"]
    features = [f"--features=ir50={here / 'faces'},clock=frame,width=8", "--fps=25"]
    cases: dict[str, list[str]] = {how: ["ending", how] for how in _ENDS}
    cases |= {
        "train": [*training, f"--workdir={run}"],
        "errors_alone": ["emojax.evaluate", f"--checkpoint={run}", "--log_level=error"],
        "predict": [
            "emojax.predict", f"--checkpoint={run}", f"--out={here / 'out'}", "--partition=all",
            "--log_level=warning",
        ],
        "build": ["data.import_features", *features, f"--out={here / 'built'}"],
        "no_store": [*training, f"--workdir={here / 'new'}", f"--config.data.store={here / 'no'}"],
        "other_run": [*training, f"--workdir={run}", "--config.model.head_width=16"],
        "locked": [*training, f"--workdir={here / 'busy'}"],
        "locked_overwrite": [*training, f"--workdir={here / 'busy'}", "--overwrite"],
        "locked_crossval": ["emojax.crossval", *training[1:], f"--workdir={here / 'busy'}"],
        "busy_evaluate": [
            "emojax.evaluate", f"--checkpoint={here / 'busy'}", "--log_level=debug",
        ],
        "full_build": ["limited", "data.import_features", *features, f"--out={here / 'half'}"],
        "full_predict": [
            "limited", "emojax.predict", f"--checkpoint={run}", f"--out={here / 'cut'}",
            f"--store={here / 'long'}", "--videos=long",
        ],
    }  # fmt: skip
    build_small_store(here / "long", lengths=(400,), validation_lengths=(30,), folds=1)
    cases["full_predict"][-1] = f"--videos={Store(here / 'long').videos[0].name}"
    assert store.is_dir()
    preparation = (
        "from emojax.rundir.workdir import WorkdirLock\n"
        f"WorkdirLock({str(here / 'busy')!r}).__enter__()\n"
        f"sys.path.insert(0, {str(here)!r})"
    )
    return run_forked(here / "called", cases, preparation=preparation)


def summary(folder: Path, name: str, status: int = 0) -> dict[str, Any]:
    """Parses the last line on standard output, which must be strict JSON."""
    printed, _ = said(folder, name, status)
    word, _, text = printed.splitlines()[-1].partition(" ")
    assert word == "summary:"
    assert printed.count("summary: ") == 1

    def strict(constant: str) -> float:
        raise AssertionError(f"{constant} is no JSON")

    found = json.loads(text, parse_constant=strict)
    assert found["exit_code"] == status
    assert found["seconds"] >= 0
    assert found["cpu_seconds"] > 0
    # An interpreter with JAX; in KiB or in pages it would be out of these bounds.
    assert 50e6 < found["peak_memory_bytes"] < 50e9
    return found


@pytest.mark.parametrize("how", _ENDS)
def test_every_end_has_its_status_and_its_summary(called: Path, how: str) -> None:
    status, name, sentence, words = _ENDS[how]
    found = summary(called, how, status)
    assert (found["command"], found["status"], found["error"]) == ("tests.ending", name, sentence)
    assert (found["score"], found["rates"], found["names"]) == (None, [0.5, None], ["a", "b"])
    if how in ("SIGTERM", "SIGINT"):
        assert found["step"] == 7
        assert found["workdir"].endswith("/run")
    printed, errors = said(called, how, status)
    assert words in errors
    assert ("Traceback" in errors) == (how == "bug")
    assert ("some words" in printed) == (how == "well")


def test_a_long_command_tells_what_it_did(called: Path, here: Path) -> None:
    found = summary(called, "train")
    assert (found["command"], found["status"]) == ("emojax.train", "done")
    assert (found["step"], found["checkpoint_step"]) == (10, 10)
    assert found["workdir"] == str(here / "run")
    # It was trained before.
    assert found["steps_per_second"] is None
    assert found["devices"]["kind"] == "cpu"
    assert found["devices"]["count"] >= 1
    scores = json.loads((here / "run" / "validation" / "scores.json").read_text())
    assert found["scores"]["va"] == scores["folds"]["0"]["va"]["model"]
    assert json.loads((here / "run" / "summary.json").read_text()) == found
    found = summary(called, "predict")
    store = Store(here / "store")
    assert (found["videos"], found["files"]) == (len(store), len(store))
    assert found["frames"] == sum(video.num_frames for video in store.videos)
    assert found["out"] == str(here / "out")
    found = summary(called, "build")
    assert (found["videos"], found["frames"], found["store"]) == (2, 430, str(here / "built"))
    assert found["bytes"] == sum(path.stat().st_size for path in here.glob("built/*.tfrecord"))


def test_levels_are_obeyed(called: Path) -> None:
    shown, _ = said(called, "train")
    assert "ccc_valence" in shown.split("summary: ")[0]
    for name in ("errors_alone", "predict"):
        printed, errors = said(called, name)
        assert len(printed.splitlines()) == 1, printed
        assert errors == ""
    # JAX tells of its programs, which nobody wants to see otherwise.
    assert "Compiling" in said(called, "busy_evaluate")[1]
    assert "Compiling" not in said(called, "train")[1]


def test_a_refused_call_touches_nothing(called: Path, here: Path) -> None:
    assert summary(called, "no_store", 2)["status"] == "failed"
    assert not (here / "new").exists()
    # The summary in the folder is that of the run, not of the call that did not fit it.
    assert "another configuration" in summary(called, "other_run", 2)["error"]
    assert json.loads((here / "run" / "summary.json").read_text())["exit_code"] == 0
    assert not (here / "run" / LOCK_FILE).exists()


def test_no_command_trains_where_another_run_is_at_work(called: Path, here: Path) -> None:
    holder = json.loads((here / "busy" / LOCK_FILE).read_text())
    for name in ("locked", "locked_overwrite", "locked_crossval"):
        found = summary(called, name, 2)
        assert found["error"] == "Another run is active in this folder."
        assert f"process {holder['pid']}" in said(called, name, 2)[1]
    # Reading is allowed.
    assert summary(called, "busy_evaluate")["scores"]["va"]


def test_a_full_disk_is_told_and_leaves_no_half_store(called: Path, here: Path) -> None:
    for name, what in (("full_build", "The store"), ("full_predict", "The predictions")):
        found = summary(called, name, 74)
        assert found["error"] == f"{what} could not be written."
        errors = said(called, name, 74)[1]
        assert "Traceback" not in errors
        assert "File too large" in errors
    assert not list(here.glob("half*"))
    assert store_facts(here / "built")["videos"] == 2


def test_a_clock_that_goes_back_changes_nothing(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two epochs, stopped between, while each look at the clock finds it ten minutes back."""
    store = Store(here / "store")
    config = tiny_config(here / "store", train={"epochs": 2})
    times = iter(range(2_000_000_000, 0, -600))
    monkeypatch.setattr("time.time", lambda: float(next(times)))
    for stop_after in (1, None):
        train(store, tmp_path / "wrong", config, stop_after=stop_after)
    assert next(times) < 2_000_000_000 - 600
    assert metric_rows(tmp_path / "wrong") == metric_rows(here / "run")
    # TensorBoard reads a run's files by name: the later one must come last.
    first, second = sorted((tmp_path / "wrong").glob("events.*"), key=lambda path: path.name)
    assert first.stat().st_mtime_ns <= second.stat().st_mtime_ns
    assert int(first.name.split(".")[3]) < int(second.name.split(".")[3])


def test_a_summary_that_cannot_be_printed_fails_the_command(here: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, str(here / "ending.py"), "well"],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
    assert done.returncode == 74, done.stderr
    assert "No space left on device" in done.stderr
