"""Fits of the linear baseline that are kept on disk: the same to the bit, or fitted again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emojax.datasets.documents import read_document, write_document
from emojax.datasets.source import Store
from emojax.scoring import baseline_cache
from emojax.scoring.baseline import RidgeBaseline, fit_ridge
from emojax.scoring.baseline_cache import cached_ridge
from tests.test_baseline import BOTH, build, least, make_record, score, standard


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return build(tmp_path_factory.mktemp("ridge") / "store", standard())


def fits_of(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Returns the folds that are fitted from now on, in order."""
    fitted: list[str] = []

    def counted(store: Store, fold: str, *arguments: Any, **options: Any) -> RidgeBaseline:
        fitted.append(fold)
        return fit_ridge(store, fold, *arguments, **options)

    monkeypatch.setattr(baseline_cache, "fit_ridge", counted)
    return fitted


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "emojax" / "baselines"


def assert_same_fit(found: RidgeBaseline, expected: RidgeBaseline) -> None:
    """Equal to the bit, in every field."""
    for field in dataclasses.fields(RidgeBaseline):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(a, dict):
            assert a.keys() == b.keys()
            a, b = (np.concatenate([np.ravel(x) for x in part.values()]) for part in (a, b))
        np.testing.assert_array_equal(a, b, err_msg=field.name, strict=isinstance(b, np.ndarray))


def test_a_fit_is_done_once_and_read_back_to_the_bit(
    store: Store, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fitted = fits_of(monkeypatch)
    expected = fit_ridge(store, "0", BOTH, "va")
    for _ in range(2):
        assert_same_fit(cached_ridge(store, "0", BOTH, "va"), expected)
    assert fitted == ["0"]
    # Another copy of the same data is the same store; anything else is another fit.
    assert_same_fit(cached_ridge(build(tmp_path / "t", standard()), "0", BOTH, "va"), expected)
    assert fitted == ["0"]
    cached_ridge(store, "0", BOTH[:1], "va")
    cached_ridge(store, "0", BOTH[::-1], "va")
    records = standard()
    records[3].labels["va"][:] *= 0.5
    cached_ridge(build(tmp_path / "s", records), "0", BOTH, "va")
    assert len(fitted) == len(list(cache.iterdir())) == 4


def test_a_score_that_was_not_validated_is_kept_as_such(tmp_path: Path, cache: Path) -> None:
    records = [
        make_record(name, seed=seed, source="a") for seed, name in enumerate(("a_left", "a_right"))
    ]
    store = build(tmp_path / "s", records)
    for _ in range(2):
        assert np.isnan(cached_ridge(store, "0", BOTH, "va").score_C).all()
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("how", ["flipped", "cut off", "empty", "of another fit", "of old code"])
def test_a_damaged_file_is_fitted_again(
    store: Store, cache: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    fitted = fits_of(monkeypatch)
    expected = cached_ridge(store, "0", BOTH, "va")
    (file,) = cache.iterdir()
    good = file.read_bytes()
    content = read_document(file)
    del content["checksum"]
    if how == "flipped":
        place = good.index(b"intercept_C") + 20
        bad = good[:place] + (b"1" if good[place : place + 1] != b"1" else b"2") + good[place + 1 :]
        file.write_bytes(bad)
    elif how == "of another fit":
        write_document(file, content | {"key": "0" * 64})
    elif how == "of old code":
        del content["fit"]["gain_C"]
        write_document(file, content)
    else:
        file.write_bytes(b"" if how == "empty" else good[: len(good) // 2])
    assert_same_fit(cached_ridge(store, "0", BOTH, "va"), expected)
    assert fitted == ["0", "0"]
    assert file.read_bytes() == good


def test_a_folder_that_cannot_be_made_costs_a_fit_and_no_more(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    fitted = fits_of(monkeypatch)
    for _ in range(2):
        cached_ridge(store, "0", BOTH, "va")
    assert fitted == ["0", "0"]
    assert (tmp_path / "file").read_text() == "in the way"


def test_the_fit_has_the_numbers_that_it_had(store: Store) -> None:
    """Written down before fits were kept on disk."""
    fit = fit_ridge(store, "0", BOTH, "va")
    scores = score(store, fit, "va")
    assert scores["ccc_valence"] == pytest.approx(0.9628004614102809, abs=1e-9)
    assert scores["ccc_arousal"] == pytest.approx(0.9657543734756135, abs=1e-9)
    assert scores["rmse_valence"] == pytest.approx(0.12670284219573835, abs=1e-9)
    np.testing.assert_allclose(fit.penalty_C, [1e-3, 1e-3])
    np.testing.assert_allclose(fit.width_C, [1.0, 1.0])
    np.testing.assert_allclose(fit.gain_C, [1.9153875760280912, 1.695718380975073], rtol=1e-9)
    np.testing.assert_allclose(fit.score_C, [0.9261830255437272, 0.9689842938201145], rtol=1e-9)
    scores = score(store, least(fit), "va")
    assert scores["ccc_valence"] == pytest.approx(0.968649029687883, abs=1e-9)
    assert scores["rmse_arousal"] == pytest.approx(0.11308684252054589, abs=1e-9)
