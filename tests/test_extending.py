"""docs/extending.md works as shown, and a new model is one file and one configuration."""

from __future__ import annotations

import csv
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import linen as nn

from emojax import models
from emojax.core.extensions import execute
from emojax.core.model_outputs import checked_outputs
from emojax.datasets.source import Store
from emojax.errors import InputError
from emojax.ops import tasks
from emojax.ops.scores import SCORES
from emojax.papers.variants import read_variants
from emojax.prediction.trained_run import open_run
from tests.training_runs import subprocess_environment, train

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = dict(
    re.findall(r"^`(\w+\.py)`:\n\n```python\n(.*?)```", PAGE, flags=re.DOTALL | re.MULTILINE)
)
PLACE = "gated_gru.py:GatedGRU"


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forgets afterwards what a test registers."""
    monkeypatch.setattr(models, "_REGISTERED", dict(models._REGISTERED))
    extensions = {kind: dict(known) for kind, known in tasks._EXTENSIONS.items()}
    monkeypatch.setattr(tasks, "_EXTENSIONS", extensions)
    tables: tuple[dict[str, Any], ...] = (tasks.TASK_OPS, SCORES)
    before = [dict(table) for table in tables]
    yield
    for table, rows in zip(tables, before, strict=True):
        table.clear()
        table.update(rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the page's files and its store."""
    folder = tmp_path_factory.mktemp("extending")
    for name, text in BLOCKS.items():
        (folder / name).write_text(text)
    home = Path.cwd()
    os.chdir(folder)
    try:
        runpy.run_path("my_store.py")
    finally:
        os.chdir(home)
    return folder


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the folder, as the current one."""
    monkeypatch.chdir(folder)
    return folder


def test_the_page_has_all_blocks() -> None:
    assert set(BLOCKS) == {
        "my_store.py", "gated_gru.py", "my_config.py", "my_loss.py", "my_score.py"
    }  # fmt: skip
    assert PAGE.count("```python") == len(BLOCKS)


def test_the_store_is_one(here: Path) -> None:
    store = Store(here / "stores" / "mine")
    assert {name: spec.width for name, spec in store.streams.items()} == {"face": 16, "voice": 8}
    assert [len(store.fold("0").train), len(store.fold("0").validation)] == [6, 2]


def run_of(folder: Path, workdir: Path, **loss: str) -> None:
    """Trains the page's configuration, in this process."""
    (variant,) = read_variants(folder / "my_config.py")
    config = variant.config()
    assert variant.small is not None
    assert variant.small.changes(config, tiny=True)["model.hidden"] == 4
    for section, name in loss.items():
        config.update_from_flattened_dict({section.replace("__", "."): name})
    train(Store(config.data.store), workdir, config)


@pytest.mark.slow
def test_a_path_in_the_configuration_trains_and_its_checkpoint_executes_nothing(
    here: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    run_of(here, workdir)
    first = open_run(workdir)
    assert type(first.session.model).__name__ == "GatedGRU"

    # Somebody else opens the checkpoint where the file is.
    models._REGISTERED.clear()
    spy = here / "gated_gru.py"
    spy.write_text("raise SystemExit('executed')\n")
    try:
        with pytest.raises(InputError) as refused:
            open_run(workdir)
    finally:
        spy.write_text(BLOCKS["gated_gru.py"])
    assert refused.value.details["field"] == "config.model.name"
    assert refused.value.details["found"] == PLACE
    assert f"--register={PLACE}" in refused.value.details["remedy"]

    # The file has moved; its owner names it.
    moved = tmp_path / "elsewhere" / "gated_gru.py"
    moved.parent.mkdir()
    shutil.copy(spy, moved)
    execute(f"{moved}:GatedGRU", "--register")
    again = open_run(workdir)
    store = again.open_store()
    videos = [store.fold("0").validation]
    (expected,) = first.predict(store, [list(names) for names in videos])
    (found,) = again.predict(store, [list(names) for names in videos])
    for name, of_video in expected.items():
        for task, values in of_video.items():
            np.testing.assert_array_equal(found[name][task], values)


@pytest.mark.slow
def test_a_registered_model_loss_and_score_train_and_report(here: Path, tmp_path: Path) -> None:
    for file in ("my_loss.py", "my_score.py"):
        execute(file, "--register")
    model = runpy.run_path("gated_gru.py")["GatedGRU"]
    models.register("mine")(model)
    changes = {"loss__va": "absolute", "evaluation__selection__va": "bias", "model__name": "mine"}
    run_of(here, tmp_path / "run", **changes)
    with (tmp_path / "run" / "metrics.csv").open() as file_:
        columns = next(csv.reader(file_))
    assert any("bias_mean" in column for column in columns), columns
    run = open_run(tmp_path / "run")
    store = run.open_store()
    assert isinstance(run.session.model, model)

    # The loss and score against float64 NumPy.
    row = tasks.TASK_OPS["va"]
    rng = np.random.default_rng(0)
    found, truth = rng.normal(size=(2, 3, 40, 2))
    mask = rng.random((3, 40, 2)) < 0.7
    expected = [np.abs(found - truth)[..., c][mask[..., c]].mean() for c in range(2)]
    np.testing.assert_allclose(row.losses["absolute"](found, truth, mask), expected, rtol=1e-5)
    bias = [abs((found - truth)[..., c][mask[..., c]].mean()) for c in range(2)]
    scores = row.scores(found, truth, mask)
    np.testing.assert_allclose([scores["bias_valence"], scores["bias_arousal"]], bias, rtol=1e-9)
    assert scores["bias_mean"] == pytest.approx(np.mean(bias))
    np.testing.assert_allclose(row.target_scores(found, truth, mask, "bias"), np.negative(bias))
    assert SCORES["bias"].higher_is_better is False
    assert store.name == "mine"


def test_names_of_emojax_are_not_taken() -> None:
    for add in (
        lambda: models.register("rjcma"),
        lambda: tasks.register_loss("continuous", "ccc"),
        lambda: tasks.register_score("continuous", "f1"),
        lambda: tasks.register_loss("ordinal", "mine"),
        lambda: models.register("dense")(nn.Dense),
    ):
        with pytest.raises(InputError):
            add()


def _returned(result: Any) -> Any:
    """The model of the page with another result."""

    class Other(nn.Module):
        outputs: Any

        @nn.compact
        def __call__(self) -> Any:
            return result

    return checked_outputs(Other({"va": 2, "expr": 8}), Other({}).apply({}))


@pytest.mark.parametrize(
    ("result", "field"),
    [
        ({"va": 1, "expr": 2}, "returned value"),  # without aux: its two keys would be unpacked
        (([], {"losses": {}}), "outputs"),
        (({}, {}), "aux"),
        (({}, {"losses": 0}), "aux"),
        (({"va": np.zeros((1, 5, 2))}, {"losses": {}}), "tasks"),
        (({"va": np.zeros((1, 5, 3)), "expr": np.zeros((1, 5, 8))}, {"losses": {}}), "output va"),
        (({"va": np.zeros((5, 2)), "expr": np.zeros((1, 5, 8))}, {"losses": {}}), "output va"),
        (({"va": 1.0, "expr": np.zeros((1, 5, 8))}, {"losses": {}}), "output va"),
    ],
)
def test_a_model_that_returns_something_else_is_refused(result: Any, field: str) -> None:
    with pytest.raises(InputError) as caught:
        _returned(result)
    assert field in caught.value.details["field"]


def test_what_a_model_returns_is_passed_on() -> None:
    outputs = {"va": np.ones((1, 5, 2)), "expr": np.zeros((1, 5, 8))}
    assert _returned((outputs, {"losses": {}, "branches": {}})) == (
        outputs, {"losses": {}, "branches": {}}
    )  # fmt: skip


def test_training_refuses_a_model_with_another_number_of_columns(
    here: Path, tmp_path: Path
) -> None:
    models._REGISTERED.pop(PLACE, None)
    text = BLOCKS["gated_gru.py"].replace("nn.Dense(columns,", "nn.Dense(columns + 1,")
    (here / "gated_gru.py").write_text(text)
    try:
        with pytest.raises(InputError) as caught:
            run_of(here, tmp_path / "run")
    finally:
        (here / "gated_gru.py").write_text(BLOCKS["gated_gru.py"])
    assert caught.value.details["found"] == "shape (4, 100, 3)"


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("none.py:Model", None),
        ("model.py:Other", "class Model: pass"),
        ("model.py:Model", "class Model: pass"),
        ("model.py", "1 / 0"),
        ("model.txt", ""),
    ],
)
def test_a_wrong_file_is_refused(
    tmp_path: Path, place: str, text: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path(place.partition(":")[0]).write_text(text)
    with pytest.raises(InputError):
        execute(place, "--register")


def test_two_registered_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    class One(nn.Module):
        outputs: dict[str, int]
        streams: tuple[str, ...]

    class Two(nn.Module):
        outputs: dict[str, int]
        streams: tuple[str, ...]

    models.register("a/model.py:Model")(One)
    assert models.model_class("old/model.py:Model") is One
    models.register("b/model.py:Model")(Two)
    assert models.model_class("b/model.py:Model") is Two
    with pytest.raises(InputError):
        models.model_class("old/model.py:Model")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a copy of the project with two files more: the model, and its configuration."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("emojax", "configs", "data", "tests", "docs", "benchmarks"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    for name in ("README.md", "pyproject.toml", "CHANGELOG.md", "Makefile"):
        shutil.copy(ROOT / name, tree / name)
    (tree / "emojax" / "models" / "gated_gru.py").write_text(BLOCKS["gated_gru.py"])
    config = BLOCKS["my_config.py"].replace(PLACE, "gated_gru")
    config = config.replace('("face", "voice")', '("ir50", "vggish")')
    (tree / "configs" / "gated_gru.py").write_text(config)
    return tree


@pytest.mark.nightly
def test_nothing_but_the_two_files_is_touched(tree: Path) -> None:
    added = {
        path.relative_to(tree).as_posix()
        for path in tree.rglob("*.py")
        if not (ROOT / path.relative_to(tree)).exists()
    }
    assert added == {"emojax/models/gated_gru.py", "configs/gated_gru.py"}
    environment = subprocess_environment() | {"PYTHONPATH": str(tree)}

    def python(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=tree, env=environment, capture_output=True, text=True, timeout=500,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    passed = python(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k",
        "gated_gru or every_model_has or readme or test_every_folder or every_model_is",
        "tests/test_every_model.py", "tests/test_readme.py", "tests/test_floors.py",
        "tests/test_lowering.py", "tests/test_replica_training.py",
    )  # fmt: skip
    assert int(re.findall(r"(\d+) passed", passed)[0]) >= 8
    listed = python("-m", "emojax.systems", "--format=csv", "--fast", "configs/gated_gru.py")
    (row,) = csv.DictReader(listed.splitlines())
    assert row["model"] == "gated_gru"
    assert int(row["parameters"]) > 5_000
    assert json.loads((tree / "tests" / "golden_steps.json").read_text())
