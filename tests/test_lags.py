"""The lag check finds shifted labels and streams, with their sign, and nothing else."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import emojax.analyse
from benchmarks.lag_power import FPS, simulate
from data.builder import say_lags
from emojax.datasets.lags import Lag, _Curve, check_lags, lag_lines, parabola_peak
from emojax.datasets.memory_store import MemoryStore
from emojax.datasets.record import StreamRows, VideoRecord
from emojax.datasets.source import Store
from tests.refusals import refused


@pytest.fixture(name="store", scope="module")
def _store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return simulate(tmp_path_factory.mktemp("lag") / "s", 2.0, {3: 5, 11: -12}, seed=0)


def records(store: Store) -> list[VideoRecord]:
    return [store.read(i) for i in range(len(store))]


def memory(store: Store, videos: list[VideoRecord]) -> MemoryStore:
    return MemoryStore(videos, [*store.streams.values()], tasks=["va"])


def odd(lags: list[Lag]) -> dict[str, float]:
    return {lag.video: lag.seconds for lag in lags if lag.stands_out}


def test_shifted_labels_stand_out_with_their_sign(store: Store) -> None:
    found = odd(check_lags(store, "va"))
    assert {*found} == {"v003", "v011"}
    np.testing.assert_allclose(found["v003"], 5 / FPS, atol=0.6 / FPS)
    np.testing.assert_allclose(found["v011"], -12 / FPS, atol=0.6 / FPS)


def test_without_a_shift_nothing_stands_out(tmp_path: Path) -> None:
    for seed, noise in ((0, 1.0), (1, 4.0), (2, 12.0)):
        lags = check_lags(simulate(tmp_path / f"s{seed}", noise, {}, seed), "va")
        assert odd(lags) == {}
        assert len(lags) == 30


def test_a_lag_that_all_videos_have_is_the_usual_one(tmp_path: Path) -> None:
    """Annotators react late; that is no fault of a single video."""
    lags = check_lags(simulate(tmp_path / "s", 1.0, dict.fromkeys(range(30), 8), 0), "va")
    assert odd(lags) == {}
    np.testing.assert_allclose(lags[0].usual, 8 / FPS, atol=0.3 / FPS)


def test_frames_that_are_masked_do_not_matter(store: Store) -> None:
    rng = np.random.default_rng(0)
    videos = []
    for record in records(store):
        labels = record.labels["va"].copy()
        labels[rng.random(len(labels)) < 0.3] = -5.0
        labels[100:200] = -5.0
        data = record.streams["x"]
        valid_N = rng.random(len(labels)) > 0.3
        rows_ND = np.where(valid_N[:, None], data.rows_ND, 0)
        streams = {"x": StreamRows(rows_ND.astype(np.float32), data.pts_N, valid_N)}
        videos.append(dataclasses.replace(record, labels={"va": labels}, streams=streams))
    found = odd(check_lags(memory(store, videos), "va"))
    assert {*found} == {"v003", "v011"}


def test_what_cannot_tell_is_said(store: Store) -> None:
    videos = records(store)
    constant = np.full_like(videos[0].labels["va"], 0.25)
    videos[0] = dataclasses.replace(videos[0], labels={"va": constant})
    short = {"x": dataclasses.replace(videos[1].streams["x"])}
    videos[1] = dataclasses.replace(
        videos[1], pts_N=videos[1].pts_N[:60], labels={"va": videos[1].labels["va"][:60]},
        streams=short,
    )  # fmt: skip
    lags = check_lags(memory(store, videos), "va")
    silent = {lag.video for lag in lags if np.isnan(lag.seconds)}
    assert silent == {"v000", "v001"}
    assert any("2 videos cannot be told" in line for line in lag_lines(lags, "va"))


def test_correlations_are_those_of_the_shifted_arrays() -> None:
    rng = np.random.default_rng(0)
    p_NC, y_NC = rng.normal(size=(200, 2)), rng.normal(size=(200, 2))
    valid_N, known_NC = rng.random(200) > 0.2, rng.random((200, 2)) > 0.2
    curve = _Curve.of(p_NC, valid_N, y_NC, known_NC, 7, 0.2)
    assert curve is not None
    for shift, found in zip(range(-7, 8), curve.correlation(), strict=True):
        each = []
        for c in range(2):
            i = np.array([i for i in range(200) if 0 <= i + shift < 200
                          and valid_N[i] and known_NC[i + shift, c]])  # fmt: skip
            each.append(np.corrcoef(p_NC[i, c], y_NC[i + shift, c])[0, 1])
        np.testing.assert_allclose(found, np.mean(each), atol=1e-12)
    parabola = 1 - (np.arange(9) - 3.3) ** 2
    np.testing.assert_allclose(parabola_peak(parabola), 3.3)


def test_the_command_writes_its_files(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as done:
        emojax.analyse.COMMAND.run(["analyse", "lag", f"--store={store.path}", f"--out={out}"])
    assert not done.value.code
    assert "v003" in capsys.readouterr().out
    table = json.loads((out / "study.json").read_text())
    assert table["store"]["name"] == "lag"
    assert (out / "lag.csv").read_text().count("\n") == 31
    assert (out / "lag.png").stat().st_size > 5000


def test_builders_say_what_stands_out(store: Store) -> None:
    lines: list[str] = []
    say_lags(store.path, lines.append)
    assert sum("v003" in line or "v011" in line for line in lines) == 2


def test_wrong_questions_are_refused(store: Store) -> None:
    with refused(field="task", expected="va"):
        check_lags(store, "expr")
    with refused(field="stream", expected="x"):
        check_lags(store, "va", streams=["y"])
    with refused(found="3 labelled videos"):
        check_lags(memory(store, records(store)[:3]), "va")
