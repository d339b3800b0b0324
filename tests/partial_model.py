"""A model so simple that studies of it have known answers, and two runs of it on a small store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from flax import linen as nn

from emojax.datasets.source import Store
from emojax.models import register
from emojax.types import Array
from tests.registering import forget
from tests.small_store import build_small_store
from tests.training_runs import tiny_config, train

TASK_NAMES = ("va", "expr", "au")
TRACED: list[bool] = []


class Partial(nn.Module):
    """A dense layer on the visual stream; it takes the others and ignores them."""

    outputs: Mapping[str, int]
    streams: tuple[str, ...]
    window: int

    @nn.compact
    def __call__(
        self,
        streams: Mapping[str, Array],
        masks: Mapping[str, Array],
        *,
        valid: Mapping[str, Array] | None = None,
        train: bool,
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        TRACED.append(train)
        outputs = {
            task: nn.Dense(columns, name=f"head_{task}")(streams["ir50"])
            for task, columns in self.outputs.items()
        }
        return outputs, {"losses": {}}


def config_of(store: Path, **data: Any) -> dict[str, Any]:
    config = tiny_config(
        store,
        data={"tasks": list(TASK_NAMES), "random_offset": False} | data,
        loss={"expr": "cross_entropy", "au": "binary_cross_entropy"},
        replicas={"targets": ["all"]},
        evaluation={"selection": {"va": "ccc", "expr": "f1", "au": "f1"}},
        train={"epochs": 2, "learning_rate": 0.03},
    )
    return config | {"model": {"name": "partial"}}


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Returns a folder with a store, a run and another run that was trained from another seed."""
    folder = tmp_path_factory.mktemp("studies")
    lengths = (45, 33, 60, 38, 52)
    path = build_small_store(folder / "store", validation_lengths=lengths, tasks=TASK_NAMES)
    register("partial")(Partial)
    for seed, name in enumerate(("run", "other")):
        config = config_of(path)
        config["replicas"]["seeds"] = [seed]
        train(Store(path), folder / name, config)
    yield folder
    forget("partial")
