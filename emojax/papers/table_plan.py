"""Plans the trainings of a published table: each distinct one once, for all of its folds."""

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

# What tells runs of one recipe apart, where the data lie and how fast they come; not part of
# its identity.
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
        training: as the table has it.
        file: the configuration's.
        overrides: of the table and of the budget, dotted key -> value.
        config: with the overrides, plain; store, folds and seeds are the configuration's own.
        name: short, of a folder; equal for equal recipes on equal data.
    """

    training: Training
    file: Path
    overrides: dict[str, Any]
    config: dict[str, Any]
    name: str

    def with_replicas(self, store: str, folds: Sequence[str], seeds: int) -> dict[str, Any]:
        """The whole configuration of a run."""
        config = json.loads(json.dumps(self.config))
        config["data"]["store"] = store
        config["replicas"] |= {"folds": [*folds], "seeds": [*range(seeds)]}
        return config

    def command(self, store: str, folds: Sequence[str], seeds: int, workdir: Path) -> list[str]:
        """The command that trains the same run."""
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
        recipe: what.
        folds: which folds, all in one program.
        seeds: how many.
        rows: labels of the rows that it serves.
    """

    recipe: Recipe
    folds: tuple[str, ...]
    seeds: int
    rows: tuple[str, ...]

    @property
    def folder(self) -> str:
        """The run's folder, relative to the folder of all runs."""
        return f"{self.recipe.name}/folds_{'-'.join(self.folds)}_seeds_{self.seeds}"

    @property
    def replicas(self) -> int:
        """Models that are trained at once."""
        return len(self.folds) * len(self.recipe.config["replicas"]["targets"]) * self.seeds


class Recipes:
    """Makes the recipes of trainings.

    Args:
        configs: folder of the configurations.
        budget: one of ``budgets.BUDGETS``.
        checksum: of the store; "" for none.
        init_from: label of a row -> workdir of a run to start it from.
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
        """True if the row starts from another run."""
        return row.label in self._init_from

    def __call__(self, row: Row) -> Recipe:
        """The recipe of a row that trains something.

        Raises:
            InputError: the configuration or a key of it does not exist.
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
                "A table names a configuration that is not there.",
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
    """Sets dotted keys, all of which have to be there."""
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
    """Everything that rows of a table show of ours."""
    found = [(row, place(table, row, column)) for row in rows for column in table.columns]
    return [(row, one) for row, one in found if one is not None]


def plan(table: PaperTable, rows: Sequence[Row], recipes: Recipes, seeds: int) -> list[Job]:
    """The trainings of some rows, in the order of the table.

    Rows of one recipe are one training of all their folds.
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
