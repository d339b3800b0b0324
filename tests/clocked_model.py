"""A model that reads streams of any rate, so simple that its outputs can be worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from emojax import models
from tests.small_store import small_config

NAME = "clocked"


class Clocked(nn.Module):
    """A dense layer over the rows that cover each tick, all streams side by side."""

    outputs: Mapping[str, int]
    streams: tuple[str, ...]
    window: int
    context: Mapping[str, int]
    ticks: Mapping[str, int]

    @nn.compact
    def __call__(
        self,
        streams: Mapping[str, jax.Array],
        masks: Mapping[str, jax.Array],
        *,
        valid: Mapping[str, jax.Array] | None = None,
        train: bool,
    ) -> tuple[dict[str, jax.Array], dict[str, Any]]:
        rows = []
        for name in self.streams:
            extra = self.context.get(name, 0)
            own_BTD = streams[name][:, extra : streams[name].shape[1] - extra]
            own_BTD = jnp.repeat(own_BTD, self.ticks[name], axis=1)
            assert own_BTD.shape[1] == self.window
            rows.append(own_BTD)
        x_BTD = jnp.concatenate(rows, axis=-1)
        outputs = {
            task: nn.Dense(columns, name=f"head_{task}")(x_BTD)
            for task, columns in self.outputs.items()
        }
        return outputs, {"losses": {}}


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets configurations name the model."""
    monkeypatch.setitem(models._REGISTERED, NAME, Clocked)


def clocked_config(store: Path, **data: Any) -> dict[str, Any]:
    """Returns a configuration of it for a store of coded videos."""
    config = small_config(store)
    config["data"] |= {"streams": ["frames", "slow", "fast"], "window": 12, "stride": 6} | data
    config["model"] = {"name": NAME}
    config["replicas"]["targets"] = ["va"]
    return config
