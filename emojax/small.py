"""Makes a system small, for two cores or for a test; each configuration file says how.

A configuration file defines

    SMALL = Small(widths={"channels": 16, "head_width": 4}, windows=SIXTHS, epochs=8)

Its ``simulated`` variants, the budgets of ``emojax.tables``, the benchmarks and the tests of every
model read it. ``SMALL`` may be left out: then the model keeps its size, and tables can only be made
with ``--budget=paper``.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from emojax.config_reading import as_plain, flatten

# The smallest widths of "small" and "tiny", and the further divisor of "tiny".
SMALL_FLOOR, TINY_FLOOR = 32, 4
TINY_DIVISOR = 16


@dataclasses.dataclass(frozen=True)
class Windows:
    """Windows and batches of a small training: dotted keys, which may hold ``*``, and values.

    Attributes:
        small: changes for a training on two cores.
        tiny: changes to ``small`` for a training that only shows that everything runs.
    """

    small: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tiny: Mapping[str, Any] = dataclasses.field(default_factory=dict)


FRAMES = Windows(
    {"data.random_offset": True, "data.batch_size": 16, "data.evaluation_stride": 50},
    {
        "data.window": 40,
        "data.stride": 40,
        "data.evaluation_stride": 40,
        "data.batch_size": 2,
    },
)
# Rows of a sixth of a second, so that a window of the same ten seconds is five times shorter.
SIXTHS = Windows(
    {
        "data.clock": 6.0,
        # Ticks are not frames here.
        "data.unannotated": "masked",
        "data.window": 60,
        "data.stride": 40,
        "data.evaluation_stride": 20,
        "data.random_offset": True,
        "data.batch_size": 16,
    },
    {"data.window": 24, "data.stride": 20, "data.batch_size": 2},
)


@dataclasses.dataclass(frozen=True)
class Small:
    """The changes that make a system small.

    A width is divided by its divisor in ``widths``, but never to less than 32. The tiny form
    divides by 16 times that divisor, but never to less than 4. A width below the floor stays. Of
    a sequence of widths, one for each layer, the tiny form keeps only the last.

    Attributes:
        widths: field of the model -> divisor. The field holds a width, a sequence of widths, or a
            mapping from streams to either.
        fields: field of the model -> the value it takes, in place of a division.
        tiny_fields: changes to ``fields`` in the tiny form.
        least: field of the model -> greatest value in the tests of every model. Serves fields in
            which the rows of a published table differ, because budgets must not change those.
        windows: the windows and batches of a small training.
        epochs, steps, learning_rate: the schedule of a training on two cores; ``steps`` is the
            number of steps in an epoch.
        train: dotted key -> the value it takes in a small training.
        tiny_train: changes to ``train`` in the tiny form.
    """

    widths: Mapping[str, int] = dataclasses.field(default_factory=dict)
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tiny_fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    least: Mapping[str, int] = dataclasses.field(default_factory=dict)
    windows: Windows = FRAMES
    epochs: int = 8
    steps: int = 50
    learning_rate: float = 3e-3
    train: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tiny_train: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def narrow(self, config: ConfigDict) -> None:
        """Makes the model of a configuration small, in place; data and training stay."""
        for field, value in self._model(config.model, tiny=False).items():
            config.model[field] = value

    def tiny_model(self, model: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the fields of the smallest model of the same structure, for tests.

        Args:
            model: ``config.model``.
            defaults: field of the module -> default, for fields that ``model`` leaves out.
        """
        full = {**defaults, **model}
        changes = self._model(full, tiny=True)
        for field, most in self.least.items():
            value = full.get(field)
            changes[field] = value if value is None else min(value, most)
        return {**model, **changes}

    def changes(self, config: Mapping[str, Any], *, tiny: bool) -> dict[str, Any]:
        """Returns the changes that make a training small, dotted key -> value.

        Schedules that need many epochs (repetitive warm-up, plateaus, releases, early stopping)
        become a linear warm-up and a cosine.

        Args:
            config: the configuration.
            tiny: if True, shrinks to a training that only shows that everything runs.
        """
        plain = as_plain(config)
        flat = flatten(plain)
        model = self._model(plain["model"], tiny=tiny)
        epochs, steps = (2, 2) if tiny else (self.epochs, self.steps)
        settings: dict[str, Any] = {
            **self.windows.small,
            **(self.windows.tiny if tiny else {}),
            "train.epochs": epochs,
            "train.epoch_steps": steps,
            "train.learning_rate": self.learning_rate,
            "train.warmup": "linear",
            "train.warmup_epochs": 1,
            "train.decay": "cosine",
            "train.plateau_patience": 1000,
            "train.releases": 0,
            "train.reload_best": False,
            "train.stop_patience": 1000,
            **self.train,
            **(self.tiny_train if tiny else {}),
        }
        changes = flatten(model, "model.")
        for pattern, value in settings.items():
            changes |= dict.fromkeys(fnmatch.filter(flat, pattern), value)
        return {key: value for key, value in changes.items() if as_plain(value) != flat[key]}

    def _model(self, model: Mapping[str, Any], *, tiny: bool) -> dict[str, Any]:
        """Returns the fields of the model that change, with their new values."""
        changes = {
            field: _narrow(model[field], divisor, tiny=tiny)
            for field, divisor in self.widths.items()
            if field in model
        }
        fields = dict(self.fields)
        if tiny:
            # Random bits and layers take long to compile.
            fields |= {"dropout": 0.0, "temporal_dropout": 0.0, "input_dropout": 0.0, "layers": 1}
            fields |= self.tiny_fields
        return changes | {field: value for field, value in fields.items() if field in model}


def _narrow(value: Any, divisor: int, *, tiny: bool) -> Any:
    """Narrows a width, the widths of several layers, or those of each stream."""
    if hasattr(value, "items"):
        return {name: _narrow(one, divisor, tiny=tiny) for name, one in value.items()}
    if isinstance(value, list | tuple):
        narrow = tuple(_narrow(one, divisor, tiny=tiny) for one in value)
        return narrow[-1:] if tiny else narrow
    if tiny:
        return max(value // (TINY_DIVISOR * divisor), min(value, TINY_FLOOR))
    return max(value // divisor, min(value, SMALL_FLOOR))
