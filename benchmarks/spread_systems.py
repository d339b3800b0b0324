"""The trainings of ``benchmarks.spread``: each of the five systems, narrow, on a small store.

This is a configuration file:

    python -m emojax.train --config=benchmarks/spread_systems.py:rjcma --config.data.store=STORE \
        --workdir=RUN

The structure of the program is that of the paper's configuration; widths, layers, windows and
epochs are smaller. Dropout, modality dropout and random window starts are on.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

# The width of every stream; about the least in which the simulator can hide three tasks.
WIDTH = 24
BATCH = 4
EPOCHS, EPOCH_STEPS = 4, 3
LEARNING_RATE = 1e-3
# Two replicas on the same windows, or on windows of their own.
_TARGETS = {"targets": ("valence", "arousal")}
_SEEDS = {"seeds": (0, 1)}

# System -> section of the configuration -> changes to the paper's variant, which "variant" names.
# All channels of a stream are equal.
SYSTEMS: dict[str, dict[str, Any]] = {
    "rjcma": {
        "variant": "audio_visual",
        "replicas": _TARGETS,
        "model": {"channels": (6, 6), "head_width": 8, "recursions": 1},
    },
    "exptrm": {
        "replicas": _SEEDS,
        "data": {"context": ConfigDict({"compare_lld": 1})},
        "model": {
            "stacked_width": 80, "width": 8, "layers": 1, "attention_heads": 2, "hidden": 12
        },
    },
    "emma_net": {
        "replicas": _SEEDS,
        "data": {"window": 12, "stride": 6, "evaluation_stride": 4},
        "model": {"layers": 1, "width": 6, "attention_width": 4, "head_width": 8},
    },
    "multiscale_tcn": {
        "variant": "visual_vggish",
        "replicas": _SEEDS,
        "model": {"channels": (6,), "kernel_sizes": (3, 5), "hidden": 8},
    },
    "tcn_transformer": {
        "variant": "va_eff+arcface",
        "replicas": _SEEDS,
        "model": {
            "channels": (6,), "width": 8, "layers": 1, "attention_heads": 2, "feed_forward": 12,
            "head_width": 8,
        },
        "train": {"ema": 0.9},
    },
}  # fmt: skip


def get_config(system: str) -> ConfigDict:
    """Returns the small configuration of a system, without a store.

    Args:
        system: a key of ``SYSTEMS``.
    """
    changes = SYSTEMS[system]
    module = importlib.import_module(f"configs.{system}")
    config: ConfigDict = module.get_config(changes.get("variant", ""))
    config.data.window, config.data.stride = 24, 16
    for section in ("replicas", "data", "model", "train"):
        _set(config[section], changes.get(section, {}))
    config.data.batch_size = BATCH
    config.data.random_offset = True
    train = config.train
    train.epochs, train.epoch_steps = EPOCHS, EPOCH_STEPS
    # The same rate for all systems, large enough for a wrong gradient to change the losses.
    train.learning_rate, train.warmup = LEARNING_RATE, "none"
    train.modality_dropout.frames = train.modality_dropout.streams = 0.1
    if train.stages:
        # The first stage has half of the epochs.
        first, *others = (dict(stage) for stage in train.stages)
        train.stages = (first | {"epochs": EPOCHS // 2}, *others)
    return config


def _set(section: ConfigDict, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if name == "channels":
            value = ConfigDict(dict.fromkeys(section.channels, value))
        section[name] = value


def streams() -> tuple[str, ...]:
    """Returns every stream that one of the systems reads."""
    named = (name for system in SYSTEMS for name in get_config(system).data.streams)
    return tuple(dict.fromkeys(named))
