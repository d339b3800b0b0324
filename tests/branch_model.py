"""A model small enough to train in tests, with a temporary head on each stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest
from flax import linen as nn

from emojax.layers.dropout import Dropout
from emojax.types import Array
from tests.registering import registered
from tests.training_runs import tiny_config


class Branched(nn.Module):
    """A dense layer on each stream, a head on each of these, and a head on all of them."""

    outputs: Mapping[str, int]
    streams: tuple[str, ...]
    window: int
    width: int = 5
    dropout: float = 0.1

    @nn.compact
    def __call__(
        self,
        streams: Mapping[str, Array],
        masks: Mapping[str, Array],
        *,
        valid: Mapping[str, Array] | None = None,
        train: bool,
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        features, branches = [], {}
        for name in self.streams:
            x_BTD = jnp.tanh(nn.Dense(self.width, name=f"encoder_{name}")(streams[name]))
            x_BTD = Dropout(self.dropout)(x_BTD, train=train)
            features.append(x_BTD)
            branches[name] = {
                task: nn.Dense(columns, name=f"branch_{name}_{task}")(x_BTD)
                for task, columns in self.outputs.items()
            }
        joint_BTD = jnp.concatenate(features, axis=-1)
        norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")
        joint_BTD = norm(joint_BTD)
        outputs = {
            task: nn.Dense(columns, name=f"head_{task}")(joint_BTD)
            for task, columns in self.outputs.items()
        }
        return outputs, {"losses": {}, "branches": branches}


@pytest.fixture(scope="module")
def branched() -> Iterator[None]:
    """Registers the model as "branched"."""
    with registered("branched", Branched):
        yield


def branched_config(store: Path, **sections: dict[str, Any]) -> dict[str, Any]:
    """``tiny_config`` for this model; sections override single keys."""
    config = tiny_config(store, **sections)
    config["model"] = {"name": "branched"} | sections.get("model", {})
    return config
