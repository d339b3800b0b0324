"""Every shipped configuration, and each as a model that compiles in a second.

``SMALL`` in its configuration file defines the small form of a model. The structure of the program
stays as it is shipped; widths, layers and windows shrink, and at most two streams are kept.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from emojax.config_reading import as_plain
from emojax.core.session import Session, build_session
from emojax.models import model_class
from emojax.papers.variants import Variant, discover
from emojax.specs import STREAMS, StreamSpec
from emojax.studies.system_facts import abstract_variables
from emojax.types import Batch

# The papers' own.
SYSTEMS = ("rjcma", "exptrm", "emma_net", "multiscale_tcn", "tcn_transformer")
WINDOW = 12
CONTEXT = 2
# Both kinds of head, whatever the variant predicts.
TASKS = ("va", "expr")
# Streams that no paper names, and that come with a store of their own.
OWN_STREAMS = {
    "roberta": StreamSpec("roberta", 768, "text"),
    "wav2vec2": StreamSpec("wav2vec2", 768, "audio"),
}


@functools.cache
def shipped() -> tuple[Variant, ...]:
    """Returns every variant of every file in configs/."""
    return tuple(discover(Path(__file__).parents[1] / "configs"))


def small_session(variant: Variant, **fields: Any) -> Session:
    """Returns a variant made small; ``fields`` are set on the model last."""
    config = as_plain(variant.make())
    data, model = config["data"], config["model"]
    first = [model[field] for field in ("leader", "anchor") if model.get(field)]
    names = list(dict.fromkeys([*first, *data["streams"]]))[:2]
    data |= {"streams": names, "tasks": list(TASKS), "window": WINDOW, "stride": WINDOW}
    data |= {"batch_size": 2, "evaluation_stride": 0, "scored": "all"}
    for option in ("resampling", "rates", "context", "normalisation"):
        kept = {name: value for name, value in data.get(option, {}).items() if name in names}
        data[option] = dict.fromkeys(kept, CONTEXT) if option == "context" else kept
    if variant.small is not None:
        own = {name: _of_streams(value, names) for name, value in model.items()}
        defaults = default_fields(model["name"])
        defaults = {name: _of_streams(value, names) for name, value in defaults.items()}
        model = variant.small.tiny_model(own, defaults)
    config |= {"loss": {}, "evaluation": {"selection": {}}}
    config["replicas"] |= {"targets": ["all"], "folds": ["0"], "seeds": [0]}
    config["train"] |= {"stages": ()}
    streams = {
        name: dataclasses.replace((STREAMS | OWN_STREAMS)[name], width=3 + 2 * i)
        for i, name in enumerate(names)
    }
    config["model"] = model | fields
    return build_session(config, streams, jax.devices()[:1])


def default_fields(model: str) -> dict[str, Any]:
    """Returns field -> default, of those fields that have one."""
    return {
        field.name: field.default
        for field in dataclasses.fields(model_class(model))
        if field.default is not dataclasses.MISSING
    }


def _of_streams(value: Any, names: list[str]) -> Any:
    """Returns the values of a field for some streams, or all if it has none by stream."""
    if not hasattr(value, "items"):
        return value
    return {name: one for name, one in value.items() if name in names}


def structure(session: Session) -> str:
    """Returns the structure by which programs differ, without the names of streams."""
    alias = {name: f"stream {i}" for i, name in enumerate(session.streams)}

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {alias.get(str(key), str(key)): plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return alias.get(value, value) if isinstance(value, str) else repr(value)

    model = session.model
    ours = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)
            if field.name not in ("parent", "name")}  # fmt: skip
    lengths = session.window_spec.lengths
    return json.dumps([type(model).__name__, plain(ours), plain(lengths)], sort_keys=True)


def random_variables(session: Session, seed: int = 0) -> dict[str, Any]:
    """Weights unlike an initialiser's, where some are zero and hide what they connect."""
    rng = np.random.default_rng(seed)

    def draw(leaf: Any) -> np.ndarray:
        if len(leaf.shape) < 2:
            return rng.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype)
        scale = 1 / math.sqrt(math.prod(leaf.shape[:-1]))
        return rng.normal(scale=scale, size=leaf.shape).astype(leaf.dtype)

    return jax.tree.map(draw, abstract_variables(session))


@dataclasses.dataclass
class Inputs:
    """Windows as a model gets them: stream -> features, mask, validity."""

    streams: dict[str, np.ndarray]
    masks: dict[str, np.ndarray]
    valid: dict[str, np.ndarray]
    frames_BT: np.ndarray

    def poisoned(self, value: float) -> Inputs:
        """Returns the same windows, with this number in every padded row."""
        streams = {
            name: np.where(self.masks[name][..., None], x_BTD, np.float32(value))
            for name, x_BTD in self.streams.items()
        }
        return dataclasses.replace(self, streams=streams)

    def cut(self, session: Session, ticks: int) -> Inputs:
        """Returns the windows' first ticks alone, and the context rows that belong to them."""
        spec = session.window_spec
        rows = {
            name: ticks // spec.ticks_per_row[name] + 2 * spec.context.get(name, 0)
            for name in self.streams
        }
        parts = (
            {name: array[:, : rows[name]] for name, array in part.items()}
            for part in (self.streams, self.masks, self.valid)
        )
        return Inputs(*parts, self.frames_BT[:, :ticks])


def make_inputs(session: Session, lengths: tuple[int, ...], seed: int = 0) -> Inputs:
    """Windows of which so many ticks, a multiple of 3, are real; a tenth of rows is missing."""
    rng = np.random.default_rng(seed)
    spec = session.window_spec
    streams, masks, valid = {}, {}, {}
    for name, stream in session.streams.items():
        rows = np.arange(spec.lengths[name]) - spec.context.get(name, 0)
        ticks_T = rows * spec.ticks_per_row[name]
        masks[name] = (ticks_T[None] >= 0) & (ticks_T[None] < np.array(lengths)[:, None])
        valid[name] = masks[name] & (rng.random(masks[name].shape) > 0.1)
        x_BTD = rng.normal(size=(*masks[name].shape, stream.width)).astype(np.float32)
        streams[name] = np.where(valid[name][..., None], x_BTD, np.float32(0))
    frames_BT = np.arange(spec.window)[None] < np.array(lengths)[:, None]
    return Inputs(streams, masks, valid, frames_BT)


def labelled_batch(inputs: Inputs, seed: int) -> Batch:
    """Returns two windows of 12 ticks with labels of both kinds of head, drawn from this seed."""
    rng = np.random.default_rng(seed)
    labels = {
        "va": rng.uniform(-1, 1, (2, 12, 2)).astype(np.float32),
        "expr": rng.integers(0, 8, (2, 12, 1)).astype(np.float32),
    }
    real_BT1 = inputs.frames_BT[..., None]
    return Batch(
        streams=inputs.streams,
        stream_mask=inputs.masks,
        stream_valid=inputs.valid,
        labels=labels,
        label_mask={task: np.broadcast_to(real_BT1, y.shape) for task, y in labels.items()},
        example_mask=np.ones(2, bool),
        video_ids=np.arange(2, dtype=np.int32),
        frame_ids=np.where(inputs.frames_BT, np.arange(12, dtype=np.int32)[None], -1),
    )
