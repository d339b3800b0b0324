"""The wheel alone, in an environment of its own and from an empty folder, as a user has it."""

import json
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.training_runs import subprocess_environment
from tests.wheels import build_wheel

pytestmark = pytest.mark.slow

Emojax = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packages of an environment that holds the wheel; requirements come from this one."""
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("installed")
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps",
         "--no-index", "--disable-pip-version-check", build_wheel(folder)],
        check=True, timeout=120,
    )  # fmt: skip
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "requirements.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return packages


@pytest.fixture(scope="module")
def command(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Emojax:
    """Runs the installed ``emojax`` from a folder that is empty at first."""
    here = tmp_path_factory.mktemp("empty")
    environment = subprocess_environment()
    environment.pop("PYTHONPATH", None)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [site.parents[2] / "bin" / "emojax", *words],
            cwd=here, env=environment, capture_output=True, text=True, timeout=280,
        )  # fmt: skip

    return run


def summary(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1].removeprefix("summary: "))


def test_nothing_but_emojax_is_installed(site: Path) -> None:
    names = {path.name for path in site.iterdir()} - {"requirements.pth", "__pycache__"}
    assert {name.partition("-")[0] for name in names} == {"emojax"}
    assert (site / "emojax" / "builders" / "simulation").is_dir()
    assert (site / "emojax" / "configs" / "rjcma.py").is_file()


def test_the_way_from_data_to_report(command: Emojax) -> None:
    built = command(
        "simulate", "--out=store", "--size=tiny", "--tasks=va", "--streams=ir50,vggish",
        "--width=ir50=16", "--width=vggish=8", "--folds=1",
    )  # fmt: skip
    assert summary(built)["command"] == "data.synthetic"
    trained = command(
        "train", "--config=rjcma:simulated", "--workdir=run", "--config.data.store=store",
        "--config.data.streams=ir50,vggish", "--config.data.window=16", "--config.data.stride=16",
        "--config.train.epochs=1", "--config.train.epoch_steps=2", "--config.model.recursions=1",
    )  # fmt: skip
    scores = summary(trained)["scores"]
    assert summary(command("evaluate", "--checkpoint=run"))["scores"] == scores
    assert summary(command("predict", "--checkpoint=run", "--out=predictions"))["files"]
    reported = command("report", "run")
    assert reported.returncode == 0, reported.stderr[-3000:]
    page = Path(str(summary(trained)["workdir"])) / "report-validation.html"
    # The page holds its script and its style, which are no Python files.
    assert "<script" in page.read_text()
    assert "font-family" in page.read_text()
