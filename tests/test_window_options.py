"""Tests refused options of config.data, and the window specification of allowed ones."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
import pytest

from emojax.core.session import Session, build_session
from emojax.datasets.source import Store
from emojax.datasets.window_spec import WindowSpec
from emojax.errors import InputError
from tests.clocked_model import NAME, clocked_config, register
from tests.small_store import build_coded_store, small_config

RATES = {"slow": 6.0, "fast": 100.0}


@pytest.fixture(autouse=True)
def clocked_model(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("coded") / "store"
    return Store(build_coded_store(path, lengths=(40, 61), rates=RATES))


def session_of(store: Store, model: str = NAME, **data: Any) -> Session:
    config = clocked_config(store.path, **data)
    config["model"]["name"] = model
    if model == "rjcma":
        config["model"] = small_config(store.path)["model"]
        config["model"]["channels"] = {"frames": [4], "slow": [4], "fast": [4]}
    return build_session(config, store.streams, jax.devices()[:1])


# -- what cannot be ----------------------------------------------------------------------------

IMPOSSIBLE: list[tuple[dict[str, Any], str, str]] = [
    ({"fill": "neerest"}, "fill", "neerest"),
    ({"fill": None}, "fill", "None"),
    ({"scored": "center"}, "scored", "center"),
    ({"clock": -1.0}, "clock", "-1.0"),
    ({"clock": math.nan}, "clock", "nan"),
    ({"clock": math.inf}, "clock", "inf"),
    ({"clock": "6"}, "clock", "6"),
    ({"clock": True}, "clock", "True"),
    ({"context": {"slow": -1}}, "context.slow", "-1"),
    ({"context": {"slow": 1.5}}, "context.slow", "1.5"),
    ({"context": {"slow": True}}, "context.slow", "True"),
    ({"clock": 6.0, "rates": {"slow": 0.0}}, "rates.slow", "0.0"),
    ({"clock": 6.0, "rates": {"slow": -2.0}}, "rates.slow", "-2.0"),
    ({"clock": 6.0, "rates": {"slow": math.nan}}, "rates.slow", "nan"),
    ({"clock": 6.0, "rates": {"slow": "2"}}, "rates.slow", "2"),
    ({"window_count": "ceil"}, "window_count", "ceil"),
    (
        {"window_count": "floor", "align_end": True},
        "align_end",
        "True, with config.data.window_count floor",
    ),
    ({"unannotated": "dropped"}, "unannotated", "dropped"),
    (
        {"unannotated": "excluded", "clock": 6.0},
        "unannotated",
        "excluded, with a clock of 6 ticks a second",
    ),
    ({"rates": {"slow": 2.0}}, "clock", "0.0, with rates for slow"),
    (
        {"clock": 6.0, "rates": {"slow": 4.1}},
        "rates.slow",
        "4.1 Hz: a window of 12 ticks of 6 Hz holds 8.2 rows",
    ),
    (
        {"clock": 6.0, "rates": {"slow": 0.1}},
        "rates.slow",
        "0.1 Hz: a window of 12 ticks of 6 Hz holds 0.2 rows",
    ),
    ({"evaluation_stride": -1}, "evaluation_stride", "-1"),
    ({"evaluation_stride": 13}, "evaluation_stride", "13"),
    ({"evaluation_stride": 1.5}, "evaluation_stride", "1.5"),
    ({"window": 12.5}, "window", "12.5"),
    ({"stride": 6.5}, "stride", "6.5"),
    ({"stride": 0}, "stride", "0"),
    ({"stride": 13}, "stride", "stride 13, window 12"),
]


def check_screen(error: InputError, field: str, found: str) -> None:
    assert error.details["field"] == f"config.data.{field}"
    assert error.details["found"] == found
    assert error.details["expected"]
    lines = str(error).splitlines()
    assert len(lines) <= 6
    assert max(len(line) for line in lines) <= 130


@pytest.mark.parametrize(("options", "field", "found"), IMPOSSIBLE)
def test_impossible_options_are_refused_before_anything_is_built(
    store: Store, options: dict[str, Any], field: str, found: str
) -> None:
    with pytest.raises(InputError) as caught:
        session_of(store, **options)
    check_screen(caught.value, field, found)


@pytest.mark.parametrize(
    ("options", "field", "remedy"),
    [
        ({"clock": 6.0, "rates": {"slwo": 2.0}}, "rates.slwo", "did you mean slow?"),
        ({"context": {"fsat": 2}}, "context.fsat", "did you mean fast?"),
    ],
)
def test_misspelt_streams_are_refused_by_the_store(
    store: Store, options: dict[str, Any], field: str, remedy: str
) -> None:
    spec = WindowSpec(streams=("frames",), tasks=("va",), window=12, stride=6, **options)
    with pytest.raises(InputError) as caught:
        spec.check(store)
    check_screen(caught.value, field, field.split(".")[1])
    assert caught.value.details["remedy"] == remedy


def test_options_of_a_stream_that_is_left_out_do_no_harm(store: Store) -> None:
    spec = WindowSpec(
        streams=("frames",), tasks=("va",), window=12, stride=6, clock=6.0,
        rates={"slow": 4.1, "vggish": 5.0}, context={"fast": 3, "bert": 1},
    )  # fmt: skip
    spec.check(store)
    assert spec.lengths == {"frames": 12}


def test_a_rate_that_does_not_divide_says_which_would(store: Store) -> None:
    with pytest.raises(InputError) as caught:
        session_of(store, clock=6.0, rates={"slow": 4.1})
    expected = caught.value.details["expected"]
    assert "4 (8 rows) or 4.5 (9 rows)" in expected
    for rate, rows in ((4, 8), (4.5, 9)):
        spec = WindowSpec(("slow",), ("va",), 12, 6, clock=6.0, rates={"slow": rate})
        assert spec.lengths == {"slow": rows}


# -- what models are told ----------------------------------------------------------------------


def test_a_model_is_told_ticks_and_context_of_its_streams(store: Store) -> None:
    session = session_of(
        store, clock=6.0, rates={"slow": 2.0, "fast": 6.0, "bert": 3.0},
        context={"slow": 2, "fast": 0, "bert": 1},
    )  # fmt: skip
    model: Any = session.model
    assert dict(model.context) == {"slow": 2}
    assert dict(model.ticks) == {"frames": 1, "slow": 3, "fast": 1}
    assert session.window_spec.lengths == {"frames": 12, "slow": 8, "fast": 12}


def test_a_model_is_told_so_even_when_there_is_nothing_to_tell(store: Store) -> None:
    model: Any = session_of(store).model
    assert dict(model.context) == {}
    assert dict(model.ticks) == {"frames": 1, "slow": 1, "fast": 1}


def test_rows_of_broken_ticks_are_refused_for_a_model_that_counts_them(store: Store) -> None:
    for rate in (4.0, 12.0):
        with pytest.raises(InputError) as caught:
            session_of(store, clock=6.0, rates={"slow": rate})
        check_screen(caught.value, "rates.slow", f"{rate:g} Hz, {6 / rate:g} ticks a row")


@pytest.mark.parametrize(
    ("options", "field", "found"),
    [
        ({"clock": 6.0, "rates": {"slow": 2.0}}, "rates", "slow: 2"),
        ({"clock": 6.0, "rates": {"fast": 12.0, "slow": 6.0}}, "rates", "fast: 12"),
        ({"context": {"fast": 3, "slow": 0}}, "context", "fast: 3"),
    ],
)
def test_a_model_without_these_fields_refuses_such_streams(
    store: Store, options: dict[str, Any], field: str, found: str
) -> None:
    with pytest.raises(InputError, match="Model rjcma reads every stream") as caught:
        session_of(store, "rjcma", **options)
    check_screen(caught.value, field, found)


def test_a_model_without_these_fields_still_has_a_clock(store: Store) -> None:
    session = session_of(
        store, "rjcma", clock=6.0, rates={"slow": 6.0}, context={"slow": 0}, fill="nearest"
    )
    assert set(session.window_spec.lengths.values()) == {12}


def test_an_unknown_model_is_refused_by_name(store: Store) -> None:
    with pytest.raises(InputError, match="no model of this name"):
        session_of(store, "clokced", clock=6.0, rates={"slow": 2.0})


def test_weights_are_made_for_windows_of_these_lengths(store: Store) -> None:
    session = session_of(store, clock=6.0, rates={"slow": 2.0}, context={"slow": 2})
    shapes = jax.tree.map(np.shape, session.init_state().params)
    assert shapes == jax.tree.map(np.shape, session.abstract_state().params)
    assert jax.tree.leaves(session.init_state().params)
