"""Tiny trainings for tests: a configuration, a run, and comparisons."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from emojax.core.session import Session, build_session
from emojax.datasets.documents import canonical_checksum
from emojax.datasets.source import Store
from emojax.training.loop import Trainer
from tests.small_store import small_config


@pytest.fixture(scope="module", autouse=True)
def quick_compiling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiles each program once for all test files that a process runs."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [getattr(jax.config, name) for name in names]
    jax.config.update(names[0], str(tmp_path_factory.getbasetemp() / "compiled"))
    jax.config.update(names[1], 0.0)
    compilation_cache.reset_cache()
    yield
    for name, value in zip(names, before, strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def subprocess_environment() -> dict[str, str]:
    """Returns the same settings for a program that a test starts; conftest.py sets the others."""
    compiled = jax.config.jax_compilation_cache_dir  # None outside of ``quick_compiling``
    settings = {"JAX_COMPILATION_CACHE_DIR": compiled} if compiled else {}
    return os.environ | {"JAX_PLATFORMS": "cpu", **settings}


def tiny_config(store: Path, **sections: dict[str, Any]) -> dict[str, Any]:
    """Returns a model that compiles fast, with dropout on; sections override single keys."""
    config = small_config(store)
    config["data"] |= {"window": 16, "stride": 10}
    config["model"] |= {
        "recursions": 1,
        "channels": {"ir50": [6], "vggish": [6]},
        "temporal_dropout": 0.2,
        "dropout": 0.2,
        "head_width": 8,
    }
    for section, changes in sections.items():
        config[section] |= changes
    return config


def one_device() -> list[jax.Device]:
    return jax.devices()[:1]


class Recorder(Trainer):
    """Keeps a copy of the whole state as it was at each checkpoint."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.saved: dict[int, Any] = {}

    def _save(self, checkpoints: Any, run: Any) -> None:
        super()._save(checkpoints, run)
        self.saved[run.step] = host(run.state)


def train(
    store: Store,
    workdir: Path,
    config: dict[str, Any],
    *,
    devices: list[jax.Device] | None = None,
    stop_after: int | None = None,
) -> tuple[Any, Recorder]:
    """Trains or continues a run in ``workdir``; returns the run and its recorder."""
    session = build_session(config, store.streams, devices or one_device())
    recorder = Recorder(session, store, workdir, stop_after=stop_after)
    return recorder.run(), recorder


def session_of(store: Store, config: dict[str, Any]) -> Session:
    return build_session(config, store.streams, one_device())


def host(tree: Any) -> Any:
    """Returns a copy in NumPy arrays that later steps cannot change."""
    return jax.tree.map(lambda x: np.array(jax.device_get(x), copy=True), tree)


def replica(tree: Any, r: int) -> Any:
    return jax.tree.map(lambda x: np.asarray(x)[r], tree)


def assert_same_bits(found: Any, expected: Any) -> None:
    """Equal trees, NaNs and signed zeros included."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    pairs = zip(
        jax.tree_util.tree_leaves_with_path(found),
        jax.tree_util.tree_leaves_with_path(expected),
        strict=True,
    )
    for (path, a), (_, b) in pairs:
        a, b = np.asarray(a), np.asarray(b)
        assert (a.shape, a.dtype) == (b.shape, b.dtype), jax.tree_util.keystr(path)
        assert a.tobytes() == b.tobytes(), jax.tree_util.keystr(path)


def furthest(found: Any, expected: Any) -> float:
    """Returns the greatest absolute difference between two trees."""
    gaps = jax.tree.map(lambda a, b: float(np.max(np.abs(a - b), initial=0.0)), found, expected)
    return max(jax.tree.leaves(gaps))


def rewrite_meta(workdir: Path, step: int, change: Callable[[dict[str, Any]], None]) -> None:
    """Edits a checkpoint's description of its run and makes the checksum right again."""
    file = workdir / "checkpoints" / str(step) / "meta" / "metadata"
    document = json.loads(file.read_text())
    content = document["checkpoint"]
    change(content["meta"])
    document["checksum"] = canonical_checksum(content)
    file.write_text(json.dumps(document))


def metric_rows(workdir: Path) -> list[dict[str, str]]:
    """Returns rows of ``metrics.csv`` without the time it took."""
    with (workdir / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        del row["seconds_training"]
    return rows
