"""Tests that runs of one process share compiled programs, and only equal ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
import pytest

from emojax.core import step
from emojax.core.optimizer import Optimizer
from emojax.core.programs import kept
from emojax.datasets.source import Store
from emojax.models.rjcma import RJCMA
from emojax.prediction import predict_step
from tests.small_store import build_small_store
from tests.training_runs import (
    assert_same_bits,
    furthest,
    host,
    quick_compiling,  # noqa: F401 - a fixture
    tiny_config,
    train,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(build_small_store(tmp_path_factory.mktemp("store") / "small"))


def model(**changes: Any) -> RJCMA:
    fields: dict[str, Any] = {"outputs": {"va": 2}, "streams": ("a", "b"), "window": 16}
    return RJCMA(**{**fields, "channels": {"a": (6,), "b": (6,)}, **changes})


@pytest.mark.slow
def test_a_second_run_traces_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A width that no other test has, since others may have built the program before.
    config = tiny_config(store.path, train={"epochs": 1}, model={"head_width": 11})
    traced, forward = [], step.forward

    def counted(*arguments: Any, **options: Any) -> Any:
        traced.append(options["train"])
        return forward(*arguments, **options)

    for module in (step, predict_step):
        monkeypatch.setattr(module, "forward", counted)
    first, _ = train(store, tmp_path / "first", config)
    assert set(traced) == {True, False}
    count = sum(traced)
    second, _ = train(store, tmp_path / "second", config)
    # Memory is estimated for each run, for which one replica is looked at without compiling.
    assert sum(traced) - count < count
    assert traced.count(False) == 1
    assert_same_bits(second.state.params, first.state.params)
    # Another dropout rate is another program.
    config["model"]["dropout"] = 0.3
    other, _ = train(store, tmp_path / "third", config)
    assert traced.count(False) == 2
    assert furthest(host(other.state.params), host(first.state.params)) > 0


def test_equal_arguments_give_the_same_program() -> None:
    @kept
    def build(*arguments: Any) -> list[Any]:
        return list(arguments)

    one = build(model(), Optimizer("adamw", 1.0), {"a": [1, 2]}, 0.5)
    assert build(model(), Optimizer("adamw", 1.0), {"a": [1, 2]}, 0.5) is one
    for others in (
        (model(dropout=0.123), Optimizer("adamw", 1.0), {"a": [1, 2]}, 0.5),
        (model(channels={"a": (6,), "b": (7,)}), Optimizer("adamw", 1.0), {"a": [1, 2]}, 0.5),
        (model(), Optimizer("adamw", 2.0), {"a": [1, 2]}, 0.5),
        (model(), Optimizer("adamw", 1.0), {"a": [1, 3]}, 0.5),
        (model(), Optimizer("adamw", 1.0), {"b": [1, 2]}, 0.5),
        (model(), Optimizer("adamw", 1.0), {"a": [1, 2]}, 0.25),
    ):
        assert build(*others) is not one
    assert build(1) is not build(True)
    assert build(1) is not build(1.0)
    assert build((1,)) is not build([1])
    # Which stream comes first decides the order of what is computed.
    assert build({"a": 1, "b": 2}) is not build({"b": 2, "a": 1})


def test_what_cannot_be_compared_is_built_anew() -> None:
    class Table(nn.Module):
        values: Any

    @dataclasses.dataclass(frozen=True)
    class Kept:
        values: Any

    @kept
    def build(*arguments: Any) -> list[Any]:
        return list(arguments)

    values = np.ones(3)
    for argument in (Table(values), Kept(values), {"a": values}):
        assert build(argument) is not build(argument)
        assert build(argument)[0] is argument


def test_few_programs_are_kept() -> None:
    @kept
    def build(number: int) -> list[int]:
        return [number]

    first = build(0)
    assert build(0) is first
    for number in range(1, 200):
        build(number)
    assert build(0) is not first
