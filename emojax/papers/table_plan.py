"""Plans the trainings of a published table: each distinct one once, with all of its folds."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from emojax.config_reading import as_plain
from emojax.errors import InputError, closest
from emojax.papers.budgets import narrowed
from emojax.papers.variants import Variant, discover
from emojax.published.schema import PaperTable, Place, Row, Training, place
from emojax.shipped import config_argument

# Keys that are not part of a recipe's identity: those of replicas, places and speed.
_FREE = (
    ("data", "store"),
    ("data", "feed"),
    ("replicas", "folds"),
    ("replicas", "seeds"),
    ("train", "steps_per_dispatch"),
    ("train", "memory_limit"),
    ("train", "replicas_at_once"),
)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The settings of a training, without folds and seeds.

    Attributes:
        training: the training as the table names it.
        file: the configuration file.
        overrides: the changes of the table and of the budget, dotted key -> value.
        config: the configuration with the overrides, as plain values. Store, folds and seeds are
            those of the file.
        name: the name of the recipe's folder; equal for equal recipes on equal data.
    """

    training: Training
    file: Path
    overrides: dict[str, Any]
    config: dict[str, Any]
    name: str

    def with_replicas(self, store: str, folds: Sequence[str], seeds: int) -> dict[str, Any]:
        """Returns the whole configuration of a run."""
        config = json.loads(json.dumps(self.config))
        config["data"]["store"] = store
        config["replicas"] |= {"folds": [*folds], "seeds": [*range(seeds)]}
        return config

    def command(self, store: str, folds: Sequence[str], seeds: int, workdir: Path) -> list[str]:
        """Returns the command that trains the same run."""
        variant = self.training.config.partition(":")[2]
        flags: dict[str, Any] = {
            "data.store": store,
            "replicas.folds": tuple(folds),
            "replicas.seeds": tuple(range(seeds)),
        } | self.overrides
        return [
            *("emojax", "train", f"--config={config_argument(self.file, variant)}"),
            f"--workdir={workdir}",
            *(f"--config.{key}={value}" for key, value in flags.items()),
        ]


@dataclasses.dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        recipe: the settings.
        folds: names of the folds; all are trained in one program.
        seeds: the number of seeds.
        rows: labels of the rows that use the training.
    """

    recipe: Recipe
    folds: tuple[str, ...]
    seeds: int
    rows: tuple[str, ...]

    @property
    def folder(self) -> str:
        """Returns the run's folder, relative to the folder of all runs."""
        return f"{self.recipe.name}/folds_{'-'.join(self.folds)}_seeds_{self.seeds}"

    @property
    def replicas(self) -> int:
        """Returns the number of models that are trained at once."""
        return len(self.folds) * len(self.recipe.config["replicas"]["targets"]) * self.seeds


class Recipes:
    """Makes the recipes of trainings.

    Args:
        configs: the folder of the configurations.
        budget: one of ``budgets.BUDGETS``.
        checksum: the checksum of the store; "" without a store.
        init_from: label of a row -> workdir of the run whose weights it starts from.
    """

    def __init__(
        self,
        configs: Path,
        budget: str,
        checksum: str = "",
        init_from: Mapping[str, str] | None = None,
    ) -> None:
        self.budget = budget
        self._variants: dict[str, Variant] = {v.title: v for v in discover(configs)}
        self._checksum = checksum
        self._init_from = dict(init_from or {})
        self._known: dict[tuple[str, str], Recipe] = {}

    def started(self, row: Row) -> bool:
        """Returns True if the row starts from the weights of another run."""
        return row.label in self._init_from

    def __call__(self, row: Row) -> Recipe:
        """Returns the recipe of a row that has a training.

        Raises:
            InputError: the configuration or one of the overridden keys does not exist.
        """
        training = row.training
        assert training is not None
        start = self._init_from.get(row.label, "")
        key = f"{training.config} {sorted(training.overrides.items())}", start
        if key not in self._known:
            self._known[key] = self._make(training, start)
        return self._known[key]

    def _make(self, training: Training, start: str) -> Recipe:
        if training.config not in self._variants:
            raise InputError(
                "A table names a configuration that does not exist.",
                field="--configs",
                found=training.config,
                expected="the project's configurations",
                remedy=closest(training.config, self._variants),
            )
        variant = self._variants[training.config]
        config = variant.config()
        overrides = dict(training.overrides)
        overrides |= {"train.init_from": start} if start else {}
        _override(config, overrides, training.config)
        overrides |= narrowed(variant, config, self.budget)
        _override(config, overrides, training.config)
        plain = as_plain(config)
        identity = json.loads(json.dumps(plain))
        for section, name in _FREE:
            del identity[section][name]
        text = json.dumps([identity, self._checksum], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:10]
        name = f"{plain['model']['name']}-{self.budget}-{digest}"
        return Recipe(training, variant.file, overrides, plain, name)


def _override(config: ConfigDict, overrides: Mapping[str, Any], name: str) -> None:
    """Sets dotted keys of a configuration, all of which must exist."""
    for key, value in overrides.items():
        *sections, last = key.split(".")
        node = config
        for section in sections:
            node = node.get(section, ConfigDict())
        if last not in node:
            raise InputError(
                "A table overrides a key that the configuration does not have.",
                file=name,
                field=f"config.{key}",
                found=value,
                expected="one of " + ", ".join(node),
                remedy=closest(last, node),
            )
        node[last] = value


def places(table: PaperTable, rows: Iterable[Row]) -> list[tuple[Row, Place]]:
    """Returns the places of all numbers of emojax that rows of a table show."""
    found = [(row, place(table, row, column)) for row in rows for column in table.columns]
    return [(row, one) for row, one in found if one is not None]


def plan(table: PaperTable, rows: Sequence[Row], recipes: Recipes, seeds: int) -> list[Job]:
    """Returns the trainings of some rows, in the order of the table.

    Rows with the same recipe share one training, with the folds of all of them.
    """
    jobs: dict[str, Job] = {}
    for row, one in places(table, rows):
        recipe = recipes(row)
        known = jobs.get(recipe.name, Job(recipe, (), seeds, ()))
        jobs[recipe.name] = dataclasses.replace(
            known,
            folds=tuple(sorted({*known.folds, one.fold})),
            rows=tuple(dict.fromkeys([*known.rows, row.label])),
        )
    return list(jobs.values())
