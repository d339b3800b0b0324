"""A model that answers windows of marked rows with NaN, and a store with one marked video."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from emojax.datasets.folds import official_and_blocks
from emojax.datasets.store import StoreWriter
from emojax.types import Array
from tests.branch_model import Branched
from tests.registering import registered
from tests.small_store import STREAMS, make_record

LENGTHS = (37, 64, 90, 20, 55, 71)
# Far from all other rows, and within float16.
_MARK = 6e4


class Poisoned(nn.Module):
    """``Branched``, whose outputs are NaN for windows with rows of the mark."""

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
        inner = Branched(outputs=self.outputs, streams=self.streams, window=self.window)
        outputs, aux = inner(streams, masks, valid=valid, train=train)
        # One video of six in training: its rows are two deviations from the mean.
        marked_B = jnp.max(streams["ir50"], axis=(1, 2)) > 1.5
        poison_B11 = jnp.where(marked_B & train, jnp.nan, 0.0)[:, None, None]
        return {task: x_BTC + poison_B11 for task, x_BTC in outputs.items()}, aux


@pytest.fixture(scope="module")
def poisoned() -> Iterator[None]:
    """Registers the model as "poisoned"."""
    with registered("poisoned", Poisoned):
        yield


def build_poisoned_store(path: Path) -> Path:
    """Returns a store whose video train-3, which is one window, is marked."""
    videos = []
    with StoreWriter(path, name="poisoned", streams=STREAMS, tasks=["va"]) as writer:
        for partition, lengths in (("train", LENGTHS), ("validation", (45, 33))):
            for i, length in enumerate(lengths):
                record = make_record(
                    f"{partition}-{i}", partition, num_frames=length, seed=len(videos)
                )
                if record.name == "train-3":
                    rows = record.streams["ir50"]
                    marked = np.full_like(rows.rows_ND, _MARK)
                    valid = np.ones_like(rows.valid_N)
                    record.streams["ir50"] = type(rows)(marked, rows.pts_N, valid)
                writer.add(record)
                videos.append((record.name, record.source_video, partition))
        writer.finish(official_and_blocks(videos, k=1))
    return path
