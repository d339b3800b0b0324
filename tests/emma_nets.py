"""Small EMMA-Nets, and batches and parameters for them."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from emojax.models import build_model

KEY = jax.random.key(0)
WIDTHS = {"fan": 6, "deepspectrum": 5, "openpose": 4, "bert": 3}
TICKS = {"fan": 1, "deepspectrum": 3, "openpose": 2}
WINDOW, BATCH = 12, 3
NAMES = ("fan", "deepspectrum", "openpose")
FAST = {"xla_backend_optimization_level": 0}  # compiling is most of the time
jit = functools.partial(jax.jit, compiler_options=FAST)


def build(**fields: Any) -> nn.Module:
    """Returns a small model with one GRU layer, without dropout unless asked for."""
    small: dict[str, Any] = {
        "window": WINDOW, "ticks": TICKS, "width": 4, "attention_width": 4, "head_width": 5,
        "dropout": 0.0, "temporal_dropout": 0.0, "layers": 1, "streams": ("fan", "deepspectrum"),
    }  # fmt: skip
    outputs = fields.pop("outputs", {"expr": 8})
    return build_model("emma_net", outputs, **(small | fields))


def losses_of(aux: Any) -> dict[str, Any]:
    """Returns the auxiliary losses by name, those of targets summed."""
    summed = {
        name: sum(loss.sum() for loss in by_task.values())
        for name, by_task in aux["target_losses"].items()
    }
    return {**aux["losses"], **summed}


def data(model: Any, steps: int = WINDOW, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    streams, masks = {}, {}
    for name in model.streams:
        shape = (BATCH, steps // model.ticks.get(name, 1))
        streams[name] = rng.normal(size=(*shape, WIDTHS[name])).astype(np.float32)
        masks[name] = np.ones(shape, bool)
    return streams, masks


def randomised(model: nn.Module, streams: Any, masks: Any, seed: int = 1) -> Any:
    """Variables of the right shapes that are not the initialiser's."""
    shapes = jax.eval_shape(lambda key: model.init(key, streams, masks, train=False), KEY)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: rng.normal(scale=0.5, size=s.shape).astype(np.float32), shapes)


def apply(model: nn.Module, variables: Any, streams: Any, masks: Any, **call: Any) -> Any:
    """Applies the compiled model; returns its intermediates, too."""
    run = jit(
        lambda *args: model.apply(*args, train=False, mutable=["intermediates"], **call)
    )  # fmt: skip
    (outputs, aux), state = run(variables, streams, masks)
    return outputs, aux, state.get("intermediates", {}).get("fusion", {})
