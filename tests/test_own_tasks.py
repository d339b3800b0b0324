"""A task that is not emojax's own trains, scores and predicts in every system."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from emojax.config_reading import as_plain
from emojax.core.session import build_session
from emojax.datasets.folds import official_and_blocks
from emojax.datasets.record import StreamRows, VideoRecord
from emojax.datasets.store import StoreWriter
from emojax.ops.own_tasks import declare_task
from emojax.specs import StreamSpec, TaskSpec
from tests.registering import own_tasks_forgotten
from tests.test_own_streams import parsed
from tests.training_runs import subprocess_environment

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

ROOT = Path(__file__).resolve().parents[1]
OWN = {
    "continuous": TaskSpec("dominance", "continuous", ("dominance",), -5.0),
    "categorical": TaskSpec("level", "categorical", ("low", "mid", "high"), -1.0),
    "binary": TaskSpec("symptoms", "binary", ("pain", "fear"), -1.0),
}
SYSTEMS = (
    "rjcma", "lfan", "exptrm", "emma_net", "multiscale_tcn", "tcn_transformer",
    "recurrent_baselines",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _forgotten_tasks() -> Iterator[None]:
    with own_tasks_forgotten():
        yield


@pytest.mark.parametrize("kind", OWN)
@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_has_outputs_for_it(
    monkeypatch: pytest.MonkeyPatch, system: str, kind: str
) -> None:
    spec = OWN[kind]
    declare_task(spec)
    config = parsed(monkeypatch, system, **{"data.tasks": spec.name})
    streams = {name: StreamSpec(name, width, "features") for name, width in
               (("clip_vit", 6), ("hubert", 5), ("my_pose", 4))}  # fmt: skip
    session = build_session(as_plain(config), streams)
    assert session.tasks == (spec.name,)
    assert session.model.outputs[spec.name] == spec.outputs
    assert session.abstract_state().params
    weights_RX = session.weights[spec.name]
    assert (weights_RX > 0).all()


@pytest.fixture(name="store", scope="module")
def _store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own") / "store"
    with own_tasks_forgotten():
        write_store(path)
    return path


def write_store(path: Path) -> None:
    rng = np.random.default_rng(0)
    for spec in OWN.values():
        declare_task(spec)
    described = []
    with StoreWriter(
        path, name="own", streams=[StreamSpec("f", 4, "visual")],
        tasks=[spec.name for spec in OWN.values()],
    ) as writer:  # fmt: skip
        for i in range(6):
            pts_N = np.arange(48) / 25
            y_N = np.sin(np.arange(48) / 6 + i)
            rows_ND = y_N[:, None] + 0.2 * rng.normal(size=(48, 4))
            part = ("train", "train", "train", "train", "validation", "test")[i]
            labels = {
                "dominance": y_N[:, None],
                "level": np.clip(np.round(y_N + 1), 0, 2)[:, None],
                "symptoms": np.stack([y_N > 0, y_N < 0.5], axis=1).astype(np.float32),
            }
            streams = {"f": StreamRows(rows_ND, pts_N, np.ones(48, bool))}
            writer.add(VideoRecord(f"v{i}", f"v{i}", part, pts_N, streams, labels))
            described.append((f"v{i}", f"v{i}", part))
        writer.finish(official_and_blocks(described, 1))


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT, capture_output=True, text=True, check=False, env=subprocess_environment(),
    )  # fmt: skip


@pytest.mark.slow
def test_commands_know_it_from_the_store_and_from_the_run(store: Path, tmp_path: Path) -> None:
    """Every command is a process of its own, which nobody told about these tasks."""
    run, tasks = tmp_path / "run", "dominance,level,symptoms"
    train = [
        "emojax.train", "--config=tcn_transformer:simulated", f"--config.data.store={store}",
        "--config.data.streams=f", f"--config.data.tasks={tasks}", "--config.data.window=16",
        "--config.data.stride=16", "--config.data.evaluation_stride=16",
        "--config.data.batch_size=4", "--config.train.epochs=1", "--config.train.epoch_steps=2",
        "--config.data.clock=0", f"--workdir={run}",
    ]  # fmt: skip
    for command in (
        train,
        ["emojax.evaluate", f"--checkpoint={run}", "--partition=test"],
        ["emojax.predict", f"--checkpoint={run}", f"--store={store}", f"--out={tmp_path / 'p'}"],
        ["emojax.report", str(run)],
        ["emojax.analyse", "mechanisms", f"--checkpoint={run}", "--shuffles=0"],
        ["emojax.weights", "export", f"--checkpoint={run}", f"--out={tmp_path / 'w.safetensors'}"],
        ["emojax.weights", "import", f"--weights={tmp_path / 'w.safetensors'}",
         f"--out={tmp_path / 'again'}"],
        ["emojax.evaluate", f"--checkpoint={tmp_path / 'again'}", f"--store={store}"],
    ):  # fmt: skip
        done = _run(*command)
        assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-4000:])
        if command is train:
            last = next(line for line in done.stdout.splitlines() if line.startswith("summary"))
            scores = json.loads(last.removeprefix("summary: "))["scores"]
            assert [*scores] == ["dominance", "level", "symptoms"]
            assert np.isfinite([value for of in scores.values() for value in of.values()]).all()
    for task, word in (("dominance", "dominance"), ("level", "high"), ("symptoms", "pain")):
        (file,) = (tmp_path / "p").rglob(f"{task}/v5.csv")
        assert word in file.read_text().splitlines()[0]
    report = next(run.rglob("report.html")).read_text()
    assert "dominance" in report
    assert "symptoms" in report
