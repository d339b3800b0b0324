"""Tests of float16 where it is enough and float32 where it is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.features.feature_sources import parse_features
from data.features.rounding import Rounding
from data.import_features import build
from emojax.datasets.source import Store


@given(
    level=st.floats(-1e4, 1e4),
    scale=st.floats(1e-4, 1e2),
    seed=st.integers(0, 99),
    parts=st.integers(1, 4),
)
@settings(max_examples=60, deadline=None)
def test_the_share_that_rounding_costs(level: float, scale: float, seed: int, parts: int) -> None:
    values = level + scale * np.random.default_rng(seed).normal(size=(60, 3)) * [1.0, 0.1, 10.0]
    rounding = Rounding()
    for part in np.array_split(values, parts):
        rounding.add(part)
    error = values.astype(np.float16).astype(np.float64) - values
    expected = np.sqrt(np.mean(error**2, 0)) / values.std(0)
    column, lost = rounding.lost()
    assert column == expected.argmax()
    np.testing.assert_allclose(lost, expected.max(), rtol=1e-3)


def test_what_tells_nothing_loses_nothing() -> None:
    rounding = Rounding()
    assert rounding.lost() == (0, 0.0)
    rounding.add(np.full((9, 2), 0.1))
    assert rounding.lost()[1] == 0.0
    rounding.add(np.array([[0.1, 1e5]]))
    assert rounding.lost() == (1, np.inf)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_stream_that_float16_would_round_is_stored_as_float32(dtype: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = 1500 + 0.6 * np.sin(np.arange(300) / 10)[:, None]
    (tmp_path / "lmk").mkdir()
    (tmp_path / "deep").mkdir()
    (tmp_path / "huge").mkdir()
    for name in ("a", "b"):
        np.save(tmp_path / f"lmk/{name}.npy", pixels)
        np.save(tmp_path / f"deep/{name}.npy", rng.normal(size=(300, 4)))
        np.save(tmp_path / f"huge/{name}.npy", 1e6 * rng.normal(size=(300, 2)))
    flags = [f"{name}={tmp_path / name},clock=frame,modality=visual" for name in ("lmk", "deep")]
    flags.append(f"huge={tmp_path / 'huge'},clock=frame,modality=visual")
    lines: list[object] = []
    build(tmp_path / "s", parse_features(flags), fps=30, dtype=dtype, say=lines.append)
    store = Store(tmp_path / "s", verify="all")
    kinds = {name: kind.name for name, kind in store.row_dtypes.items()}
    assert kinds == {"lmk": "float32", "deep": dtype, "huge": "float32"}
    told = [line for line in map(str, lines) if "float16" in line]
    assert len(told) == (2 if dtype == "float16" else 0)
    for name in store.streams:
        assert store.read(1).streams[name].rows_ND.dtype == store.row_dtypes[name]
    np.testing.assert_allclose(store.read(1).streams["lmk"].rows_ND, pixels, rtol=1e-7)
    stored = (tmp_path / "s/dataset.json").read_text()
    assert ('"dtypes"' in stored) == (dtype == "float16")


@pytest.mark.parametrize("value", [0.0, 2.5])
def test_columns_that_never_change_are_told(value: float, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        rows = rng.normal(size=(30, 4))
        rows[:, [1, 3]] = value
        rows[5] = np.nan
        np.save(tmp_path / f"x/{name}.npy", rows)
    flag = f"x={tmp_path / 'x'},clock=frame,modality=visual"
    lines: list[object] = []
    build(tmp_path / "s", parse_features([flag]), fps=30, say=lines.append)
    (line,) = [line for line in map(str, lines) if "in all videos" in line]
    assert "1, 3" in line
    assert ("zero" in line) == (value == 0)
