"""How much a published table is to cost: the papers' trainings, or narrower and shorter ones.

``paper`` trains as the configuration says. ``small`` is for two cores and simulated data (about
as the configurations' own ``simulated`` variants, without their changes of architecture), and
``tiny`` only shows that everything runs, in one layer and without dropout. Streams, fusion and what
the rows of a table differ in stay as they are; schedules that need many epochs (repetitive warm-up,
plateaus, releases, early stopping) become a linear warm-up and a cosine.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping
from typing import Any

from emojax.config_reading import flatten
from emojax.errors import InputError

PAPER, SMALL, TINY = "paper", "small", "tiny"
BUDGETS = (PAPER, SMALL, TINY)


@dataclasses.dataclass(frozen=True)
class Narrowing:
    """What a budget changes in one family of systems.

    Attributes:
        widths: dotted key of the configuration, which may hold ``*`` -> (divisor, floor). A width
            is divided, but not to less than the floor; one below the floor stays.
        settings: dotted key, which may hold ``*`` -> another value.
        levels: of a sequence of widths only the last so many stay; 0 for all.
    """

    widths: Mapping[str, tuple[int, int]]
    settings: Mapping[str, Any]
    levels: int = 0


def _schedule(epochs: int, steps: int, rate: float) -> dict[str, Any]:
    return {
        "train.epochs": epochs,
        "train.epoch_steps": steps,
        "train.learning_rate": rate,
        "train.warmup": "linear",
        "train.warmup_epochs": 1,
        "train.decay": "cosine",
        "train.plateau_patience": 1000,
        "train.releases": 0,
        "train.reload_best": False,
        "train.stop_patience": 1000,
    }


# Means of a sixth of a second, so that a window of the same ten seconds is five times shorter.
_SIXTHS = {
    "data.clock": 6.0,
    "data.window": 60,
    "data.stride": 40,
    "data.evaluation_stride": 20,
    "data.random_offset": True,
    "data.batch_size": 16,
    "data.features.resampling.*": "mean",
}
_FRAMES = {"data.random_offset": True, "data.batch_size": 16, "data.evaluation_stride": 50}


def _stages(epochs: int) -> dict[str, Any]:
    """Those of ``configs/multiscale_tcn.py``, the first shorter."""
    return {
        "train.stages": (
            {"objective": "branches", "epochs": epochs, "frozen": ("head_*",)},
            {"objective": "outputs", "epochs": 0, "frozen": ("branch_*",)},
        )
    }


_SMALL: dict[str, Narrowing] = {
    "exptrm": Narrowing(
        {"model.width": (8, 32), "model.hidden": (16, 32)},
        {**_FRAMES, "model.stacked_width": 0, "model.attention_heads": 4, **_schedule(8, 40, 2e-3)},
    ),
    "recurrent_baselines": Narrowing(
        {"model.hidden.*": (16, 32), "model.recurrent.*": (2, 32), "model.fused": (2, 32)},
        {**_FRAMES, **_schedule(6, 40, 3e-3)},
    ),
    "emma_net": Narrowing(
        {"model.width": (2, 32), "model.attention_width": (2, 32), "model.head_width": (2, 32)},
        {
            "data.random_offset": True,
            "data.batch_size": 16,
            "data.evaluation_stride": 9,
            **_schedule(8, 60, 1e-2),
        },
    ),
    "rjcma": Narrowing(
        {"model.channels.*": (16, 32), "model.head_width": (4, 32)},
        {**_SIXTHS, **_schedule(8, 50, 3e-3)},
    ),
    "lfan": Narrowing({"model.channels.*": (16, 32)}, {**_SIXTHS, **_schedule(8, 50, 3e-3)}),
    "multiscale_tcn": Narrowing(
        {"model.channels.*": (8, 32), "model.hidden": (4, 32)},
        {**_SIXTHS, **_schedule(10, 50, 3e-3), **_stages(2)},
    ),
    "tcn_transformer": Narrowing(
        {
            "model.channels.*": (16, 32),
            "model.feed_forward": (4, 32),
            "model.head_width": (4, 32),
        },
        {**_SIXTHS, "model.layers": 2, **_schedule(8, 70, 1e-3)},
    ),
}

# Random bits and layers take long to compile.
_PLAIN = {"model.dropout": 0.0, "model.temporal_dropout": 0.0, "model.layers": 1}
_TINY_TICKS = {
    **_PLAIN,
    **_SIXTHS,
    "data.window": 24,
    "data.stride": 20,
    "data.evaluation_stride": 20,
    "data.batch_size": 2,
}
_TINY_FRAMES = {
    **_PLAIN,
    **_FRAMES,
    "data.window": 40,
    "data.stride": 40,
    "data.evaluation_stride": 40,
    "data.batch_size": 2,
}
_TINY: dict[str, Narrowing] = {
    "exptrm": Narrowing(
        {"model.width": (64, 8), "model.hidden": (128, 8)},
        {
            **_TINY_FRAMES,
            "data.context.*": 2,
            "model.stacked_width": 0,
            "model.attention_heads": 2,
            **_schedule(2, 2, 2e-3),
        },
    ),
    "recurrent_baselines": Narrowing(
        {"model.hidden.*": (256, 4), "model.recurrent.*": (16, 4), "model.fused": (16, 4)},
        {**_TINY_FRAMES, **_schedule(2, 2, 3e-3)},
        levels=1,
    ),
    "emma_net": Narrowing(
        {"model.width": (16, 8), "model.attention_width": (16, 8), "model.head_width": (16, 8)},
        {
            **_PLAIN,
            "data.random_offset": True,
            "data.batch_size": 2,
            "data.evaluation_stride": 18,
            **_schedule(2, 2, 1e-2),
        },
    ),
    "rjcma": Narrowing(
        {"model.channels.*": (64, 4), "model.head_width": (32, 8)},
        {**_TINY_TICKS, **_schedule(2, 2, 3e-3)},
        levels=1,
    ),
    "lfan": Narrowing(
        {"model.channels.*": (64, 4), "model.modal_width": (4, 8)},
        {**_TINY_TICKS, **_schedule(2, 2, 3e-3)},
        levels=1,
    ),
    "multiscale_tcn": Narrowing(
        {"model.channels.*": (64, 4), "model.hidden": (32, 8)},
        {**_TINY_TICKS, **_schedule(2, 2, 3e-3), **_stages(1)},
        levels=1,
    ),
    "tcn_transformer": Narrowing(
        {
            "model.channels.*": (64, 8),
            "model.feed_forward": (64, 8),
            "model.head_width": (32, 8),
        },
        {**_TINY_TICKS, **_schedule(2, 2, 1e-3)},
        levels=1,
    ),
}

# Budget -> model -> what changes; a configuration's ``model.name`` chooses.
NARROWINGS: dict[str, Mapping[str, Narrowing]] = {SMALL: _SMALL, TINY: _TINY}


def narrowed(config: Mapping[str, Any], budget: str) -> dict[str, Any]:
    """What a budget changes in a configuration, dotted key -> value.

    Args:
        config: plain nested dict, as ``session.as_plain`` makes it.
        budget: one of ``BUDGETS``.

    Raises:
        InputError: the budget does not know the model.
    """
    if budget == PAPER:
        return {}
    model = config["model"]["name"]
    if model not in NARROWINGS[budget]:
        raise InputError(
            "This model has no smaller training.",
            field="--budget",
            found=f"{budget}, for {model}",
            expected="one of " + ", ".join(NARROWINGS[budget]),
            remedy=f"add a row to emojax/papers/budgets.py, or use --budget={PAPER}",
        )
    narrowing, flat = NARROWINGS[budget][model], flatten(config)
    changes: dict[str, Any] = {}
    for pattern, (divisor, floor) in narrowing.widths.items():
        for key in fnmatch.filter(flat, pattern):
            narrow = _narrow(flat[key], divisor, floor)
            changes[key] = narrow[-narrowing.levels :] if isinstance(narrow, tuple) else narrow
    for pattern, value in narrowing.settings.items():
        changes |= dict.fromkeys(fnmatch.filter(flat, pattern), value)
    return {key: value for key, value in changes.items() if _plain(value) != _plain(flat[key])}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _narrow(width: Any, divisor: int, floor: int) -> Any:
    """One width, or each of several."""
    if isinstance(width, list | tuple):
        return tuple(_narrow(one, divisor, floor) for one in width)
    return max(width // divisor, min(width, floor))
