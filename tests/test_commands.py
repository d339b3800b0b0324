"""Tests the three commands as a user calls them, and their errors for bad input.

A training and its evaluation run as ``python -m``, each in a process of its own. The others are
many and each needs all imports, so one process imports once and forks for each of them.
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emojax.datasets.source import Store
from tests.forked_commands import ROOT, run_forked, said
from tests.small_store import build_small_store
from tests.training_runs import (
    quick_compiling,  # noqa: F401 - a fixture
    subprocess_environment,
    tiny_config,
)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with a store and a configuration file."""
    folder = tmp_path_factory.mktemp("commands")
    build_small_store(folder / "store")
    config = tiny_config(folder / "store", train={"epochs": 3})
    (folder / "config.py").write_text(
        "from ml_collections import ConfigDict\n\n\n"
        f"def get_config() -> ConfigDict:\n    return ConfigDict({as_tuples(config)!r})\n"
    )
    return folder


def as_tuples(config: Any) -> Any:
    """Lists as tuples, which is what a flag can override."""
    if isinstance(config, dict):
        return {key: as_tuples(value) for key, value in config.items()}
    return tuple(config) if isinstance(config, list) else config


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        env=subprocess_environment() | {"COLUMNS": "120"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
    )


@pytest.fixture(scope="module")
def trained(here: Path) -> subprocess.CompletedProcess[str]:
    return call(
        "emojax.train",
        f"--config={here / 'config.py'}",
        f"--workdir={here / 'run'}",
        "--config.train.epochs=2",
    )


def flip_byte_of(store: Path, video: str) -> None:
    """Changes one byte in the middle of a video's record."""
    entry = next(v for v in Store(store).videos if v.name == video)
    (shard,) = store.glob("*.tfrecord")
    data = bytearray(shard.read_bytes())
    data[entry.offset + 12 + entry.length // 2] ^= 0x10
    shard.write_bytes(data)


# name -> words that the message must hold.
FAILURES: dict[str, tuple[str, ...]] = {
    "no_config": ("--config",),
    "config_is_missing": ("nothere.py", "--config", "rjcma, "),
    "incomplete_config": ("incomplete", "config.data.streams"),
    "unknown_variant": ("dmo", "demo"),
    "misspelt_key": ("--config.data.bath_size", "did you mean 'batch_size'?"),
    "misspelt_beside_right": ("--config.train.epoch\n", "did you mean 'epochs'?"),
    "task_without_target": ("expr", "config.replicas.targets"),
    "misspelt_flag": ("--workdr=", "did you mean --workdir?"),
    "missing_flags": ("--config, --workdir", "none"),
    "wrong_type": ("--config.data.batch_size", "many", "a whole number"),
    "wrong_choice": ("--log_level", "loud", "one of error, warning, info, debug"),
    "wrong_switch": ("--overwrite", "perhaps", "true or false"),
    "positional": ("epochs=3", "--name=value"),
    "no_store": ("config.data.store", "emojax simulate"),
    "store_is_missing": ("nowhere", "emojax simulate"),
    "flipped_byte": ("damaged", "checksum", ".tfrecord"),
    "unknown_stream": ("config.data.streams", "vgish", "vggish"),
    "stride": ("config.data.stride", "stride 99"),
    "rate_is_nan": ("config.train.learning_rate", "nan", "finite"),
    "diverged": ("diverged", "valence, arousal", "clip_norm"),
    "another_model": ("another configuration", "config.model.head_width", "--overwrite"),
    "overwrite_what_is_no_run": ("--overwrite", "without config.json"),
    "workdir_is_a_file": ("workdir", "a file"),
    "no_checkpoint": ("no checkpoint", "train first"),
    "wrong_step": ("step 7", "[5, 10]"),
    "wrong_partition": ("--partition", "training", "validation"),
    "unknown_video": ("test-9", "test-0"),
    "unknown_fold": ("--fold", "9"),
    "out_is_a_file": ("--out", "a file"),
}


@pytest.fixture(scope="module")
def called(here: Path, trained: subprocess.CompletedProcess[str]) -> Path:
    """Runs all commands but the training; status and output of each are files in this folder."""
    assert trained.returncode == 0, trained.stderr
    shutil.copy(here / "run" / "validation" / "scores.json", here / "scores_before.json")
    build_small_store(here / "other", lengths=(50, 40), validation_lengths=(30,), folds=1)
    broken = Path(shutil.copytree(here / "store", here / "broken"))
    flip_byte_of(broken, "train-2")
    (here / "file").write_text("not a folder")
    (here / "precious").mkdir()
    (here / "bare.py").write_text(
        "from ml_collections import ConfigDict\n\n\ndef get_config():\n"
        f"    return ConfigDict({{'data': {{'store': {str(here / 'store')!r}}}}})\n"
    )
    config, run = f"--config={here / 'config.py'}", f"--checkpoint={here / 'run'}"
    new = f"--workdir={here / 'new'}"

    def train(*flags: str) -> list[str]:
        return ["emojax.train", config, new, *flags]

    cases = {
        "no_config": ["emojax.train", new],
        "config_is_missing": ["emojax.train", f"--config={here / 'nothere.py'}", new],
        "incomplete_config": ["emojax.train", f"--config={here / 'bare.py'}", new],
        "unknown_variant": ["emojax.train", "--config=configs/rjcma.py:dmo", new],
        "misspelt_key": train("--config.data.bath_size=8"),
        "misspelt_beside_right": train("--config.train.epochs=2", "--config.train.epoch=3"),
        "task_without_target": train(
            "--config.data.tasks=va,expr", "--config.replicas.targets=valence"
        ),
        "misspelt_flag": ["emojax.train", config, f"--workdr={here / 'new'}"],
        "missing_flags": ["emojax.train"],
        "wrong_type": train("--config.data.batch_size=many"),
        "wrong_choice": train("--log_level=loud"),
        "wrong_switch": train("--overwrite=perhaps"),
        "positional": train("config.train.epochs=3"),
        "no_store": train("--config.data.store="),
        "store_is_missing": train(f"--config.data.store={here / 'nowhere'}"),
        "flipped_byte": train(f"--config.data.store={broken}"),
        "unknown_stream": train("--config.data.streams=('ir50','vgish')"),
        "stride": train("--config.data.stride=99"),
        "rate_is_nan": train("--config.train.learning_rate=nan"),
        "diverged": train("--config.train.learning_rate=1e38", "--config.train.warmup=none"),
        "another_model": [
            "emojax.train",
            config,
            f"--workdir={here / 'run'}",
            "--config.model.head_width=12",
        ],
        "overwrite_what_is_no_run": [
            "emojax.train",
            config,
            f"--workdir={here / 'precious'}",
            "--overwrite",
        ],
        "workdir_is_a_file": ["emojax.train", config, f"--workdir={here / 'file'}"],
        "no_checkpoint": ["emojax.evaluate", f"--checkpoint={here / 'precious'}"],
        "wrong_step": ["emojax.evaluate", run, "--step=7"],
        "wrong_partition": ["emojax.evaluate", run, "--partition=training"],
        "unknown_video": ["emojax.predict", run, f"--out={here / 'p'}", "--videos=test-9"],
        "unknown_fold": ["emojax.predict", run, f"--out={here / 'p'}", "--fold=9"],
        "out_is_a_file": ["emojax.predict", run, f"--out={here / 'file'}"],
    }
    assert set(cases) == set(FAILURES)
    cases["other"] = ["emojax.evaluate", run, f"--store={here / 'other'}"]
    out = f"--out={here / 'predictions'}"
    cases["predict"] = ["emojax.predict", run, out, "--partition=all"]
    return run_forked(here / "called", cases, columns=120)


# -- what works --------------------------------------------------------------------------------


def table(text: str) -> list[str]:
    """Returns the lines of a printed table of scores, below its title."""
    return [line.strip() for line in text.splitlines() if line.strip()[:1] in "│┃"]


@pytest.mark.slow
def test_train_leaves_everything_a_user_looks_for(
    here: Path, trained: subprocess.CompletedProcess[str]
) -> None:
    assert trained.returncode == 0, trained.stderr
    run = here / "run"
    # The override counted, and is on record.
    assert "step 10/10" in trained.stderr
    assert json.loads((run / "config.json").read_text())["train"]["epochs"] == 2
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["5", "10"]
    assert {"valence/ccc_valence", "arousal/ccc_arousal", "valence/loss"} <= set(rows[0])
    assert list(run.glob("events.out.tfevents*"))
    assert (run / "checkpoints" / "10").is_dir()
    for name in ("report.html", "scores.json", "timelines.npz", "validation-0.png"):
        assert (run / "validation" / name).stat().st_size > 100
    assert any("ccc_valence" in line for line in table(trained.stdout))
    assert "ridge" in trained.stdout
    assert str(run / "validation" / "report.html") in trained.stdout.replace("\n", "")


@pytest.mark.slow
def test_evaluate_reproduces_the_scores_that_train_printed(
    here: Path, trained: subprocess.CompletedProcess[str]
) -> None:
    done = call("emojax.evaluate", f"--checkpoint={here / 'run'}", f"--out={here / 'again'}")
    assert done.returncode == 0, done.stderr
    assert table(done.stdout) == table(trained.stdout)
    before, after = (
        json.loads((folder / "scores.json").read_text())
        for folder in (here / "run" / "validation", here / "again")
    )
    assert before == after
    # And they are the best of those seen while training.
    with (here / "run" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    scores = after["folds"]["0"]["va"]["model"]
    for name in ("valence", "arousal"):
        best = max(float(row[f"{name}/ccc_{name}"]) for row in rows)
        assert scores[f"ccc_{name}"] == pytest.approx(best, abs=1e-6)
    assert (here / "again" / "report.html").is_file()


@pytest.mark.slow
def test_another_store_is_evaluated_on_its_own_partitions(here: Path, called: Path) -> None:
    printed, _ = said(called, "other")
    # No baseline, which would have learnt from other videos than the model.
    assert "ridge" not in printed
    folder = here / "run" / "validation-on-other"
    assert (folder / "report.html").is_file()
    assert [path.name for path in folder.glob("validation-*.png")] == ["validation-0.png"]
    before = (here / "scores_before.json").read_text()
    assert (here / "run" / "validation" / "scores.json").read_text() == before


@pytest.mark.slow
def test_predict_writes_a_row_for_every_frame(here: Path, called: Path) -> None:
    out = here / "predictions"
    said(called, "predict")
    store = Store(here / "store")
    assert {path.name for path in out.rglob("*.csv")} == {f"{v.name}.csv" for v in store.videos}
    for i, video in enumerate(store.videos):
        with (out / "va" / f"{video.name}.csv").open(newline="") as file:
            header, *rows = list(csv.reader(file))
        assert header == ["frame", "seconds", "valence", "arousal"]
        values = np.array(rows, float)
        np.testing.assert_array_equal(values[:, 0], np.arange(1, video.num_frames + 1))
        np.testing.assert_allclose(values[:, 1], store.read(i).pts_N, rtol=0, atol=1e-4)
        assert np.isfinite(values).all()
        assert values[:, 2:].std(axis=0).min() > 0


# -- what does not -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", FAILURES)
def test_bad_input_is_told_on_one_screen(called: Path, name: str) -> None:
    status = int((called / f"{name}.status").read_text())
    errors = (called / f"{name}.2").read_text()
    assert status in (1, 2), errors[-2000:]
    assert "Traceback" not in errors, errors[-2000:]
    # Training that diverges reports its epochs first.
    lines = [line for line in errors.splitlines() if not line.startswith("step ")]
    assert len(lines) <= 15, errors[-2000:]
    for words in FAILURES[name]:
        assert words in errors


@pytest.mark.slow
def test_failing_commands_leave_no_trace(here: Path, called: Path) -> None:
    assert list((here / "precious").iterdir()) == []
    assert (here / "file").read_text() == "not a folder"
    assert json.loads((here / "run" / "config.json").read_text())["model"]["head_width"] == 8
    assert not (here / "p").exists()
