"""The examples of the Python API, in docs/python.md and in docstrings, run as they are shown."""

from __future__ import annotations

import doctest
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import linen as nn

import emojax
from emojax import models
from tests.training_runs import one_device, quick_compiling  # noqa: F401 - a fixture

ROOT = Path(__file__).resolve().parents[1]
# The demo's model would take minutes to compile.
SMALL = {
    "data.window": 16,
    "data.stride": 16,
    "data.batch_size": 2,
    "model.channels": {"ir50": [4], "vggish": [4]},
    "model.width": 4,
    "model.layers": 1,
    "model.feed_forward": 4,
    "model.head_width": 4,
    "train.epochs": 1,
    "train.epoch_steps": 1,
}


@pytest.fixture(scope="module", autouse=True)
def small_models() -> Iterator[None]:
    """Makes ``emojax.fit`` train a small model on one device."""
    fit = emojax.fit

    def small_fit(config: Any, store: Any, **options: Any) -> emojax.Run:
        options["overrides"] = dict(options.get("overrides", {})) | SMALL
        return fit(config, store, devices=one_device(), **options)

    small_fit.__doc__ = fit.__doc__
    emojax.fit = small_fit
    yield
    emojax.fit = fit


@pytest.fixture(scope="module")
def here(small_models: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes a folder with stores/demo and runs/demo like those of ``make demo``, but smaller."""
    folder = tmp_path_factory.mktemp("examples")
    rng = np.random.default_rng(0)
    widths = {"ir50": 32, "vggish": 32}
    videos = [
        emojax.Video(
            {stream: rng.normal(size=(40, width)) for stream, width in widths.items()},
            f"{partition}-{i}",
            partition,
            fps=25,
            labels={"va": rng.uniform(-1, 1, (40, 2))},
        )
        for partition in ("train", "validation", "test")
        for i in range(2)
    ]
    store = emojax.write_store(folder / "stores" / "demo", videos)
    emojax.fit("tcn_transformer:demo", store, workdir=folder / "runs/demo")
    return folder


@pytest.fixture(autouse=True)
def inside(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)


@pytest.mark.slow
def test_the_page_runs_from_top_to_bottom(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(blocks) >= 6
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    assert "valence" in capsys.readouterr().out
    assert Path("c.png").stat().st_size > 10_000
    assert set(names["scores"]["score"]) == {"ccc", "pearson", "rmse"}


def test_five_lines_of_the_package_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert emojax.__doc__
    (example,) = re.findall(r"\n\n((?:    .*\n)+)", emojax.__doc__)
    assert len(example.splitlines()) == 5
    exec(compile(textwrap.dedent(example), "<emojax.__doc__>", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) > 5


def documented() -> Iterator[str]:
    for name in emojax.__all__:
        yield name
        thing = getattr(emojax, name)
        if inspect.isclass(thing):
            yield from (f"{name}.{m}" for m in vars(thing) if not m.startswith("_"))


@pytest.mark.slow
def test_examples_in_docstrings_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_REGISTERED", {})
    names: dict[str, Any] = {
        "emojax": emojax,
        "register": emojax.register,
        "nn": nn,
        "Mapping": Mapping,
        "np": np,
        "load_config": emojax.load_config,
        "Video": emojax.Video,
        "store": emojax.open_store("stores/demo"),
        "run": emojax.open_run("runs/demo"),
        "rows": {"ir50": np.ones((9, 32)), "vggish": np.ones((9, 32))},
    }
    shown = set()
    for path in documented():
        thing: Any = emojax
        for part in path.split("."):
            thing = getattr(thing, part, None)
        for example in doctest.DocTestParser().get_examples(getattr(thing, "__doc__", "") or ""):
            shown.add(path)
            if example.want:
                assert repr(eval(example.source, names)) == example.want.strip(), path
            else:
                exec(compile(example.source, path, "exec"), names)
    wanted = set(emojax.__all__) - {"InputError"}
    assert wanted <= shown, wanted - shown
