"""Clocks with planted faults are read right, refused or told: units, offsets, stretches, gaps."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.features.clock_checks import grouped_warnings
from data.features.feature_sources import FeatureRows, VideoFrames
from data.features.time_units import UNITS, proven_unit
from data.import_features import build, warnings_of
from emojax.datasets.source import Store
from emojax.datasets.transforms import resample
from tests.feature_samples import rows, source, write_csv, write_npy
from tests.refusals import refused


def frames(count: int, fps: float = 25.0) -> VideoFrames:
    return VideoFrames("v-1", "v-1", np.arange(count) / fps, np.ones(count, bool))


def read(folder: Path, times: np.ndarray, options: str, count: int) -> FeatureRows:
    write_csv(folder / "v-1.csv", ["timestamp", "f"], [[repr(float(t)), 1.0] for t in times])
    return rows(f"x={folder},modality=visual{options}", frames(count))


@settings(max_examples=80, deadline=None)
@given(
    unit=st.sampled_from(sorted(UNITS)),
    step=st.sampled_from([0.01, 0.04, 1 / 30, 0.2, 1.0, 5.0]),
    declared=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_unit_is_declared_or_proven_and_else_asked_for(
    unit: str, step: float, declared: bool, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = np.random.default_rng(seed)
    kept = np.unique(np.r_[0, 1, 2, rng.choice(60, 20)])
    times = kept * step
    options = f",unit={unit}" if declared else ""
    folder = tmp_path_factory.mktemp("units") / "x"
    count = int(times[-1] * 25) + 1
    if not declared and proven_unit(np.diff(times / UNITS[unit])) != unit:
        with refused(field="timestamp", remedy="unit="):
            read(folder, times / UNITS[unit], options, count)
        return
    found = read(folder, times / UNITS[unit], options, count)
    seen_N = found.stream.valid_N
    np.testing.assert_allclose(found.stream.pts_N[seen_N], times, atol=1e-6)
    assert (np.diff(found.stream.pts_N) >= 0).all()


def test_units_that_steps_prove() -> None:
    assert proven_unit(np.full(9, 0.04)) == "s"
    assert proven_unit(np.full(9, 250.0)) == "ms"
    assert proven_unit(np.full(9, 2e5)) == "us"
    for step in (1.0, 5.0, 33.3, 33333.0):
        assert not proven_unit(np.full(9, step))
    assert not proven_unit(np.zeros(0))


def test_one_unit_serves_the_whole_folder(tmp_path: Path) -> None:
    header = ["timestamp", "f"]
    write_csv(tmp_path / "x/a.csv", header, [[500, 7]])
    write_csv(tmp_path / "x/b.csv", header, [[250 * i, i] for i in range(40)])
    read_from = source(f"x={tmp_path / 'x'},modality=visual")
    assert read_from.span("a") == (None, 0.5)
    assert read_from.span("b") == (None, 9.75)


def test_wall_clocks_are_refused_with_the_offset_that_helps(tmp_path: Path) -> None:
    times = 1756400000 + np.arange(50) / 25
    with refused(file=tmp_path / "x/v-1.csv", found="wall clock", remedy="offset=-1756400000"):
        read(tmp_path / "x", times, "", 50)
    found = read(tmp_path / "x", times, ",offset=-1756400000s", 50)
    np.testing.assert_allclose(found.stream.pts_N, np.arange(50) / 25, atol=1e-6)


def test_a_stream_that_meets_no_frame_is_refused(tmp_path: Path) -> None:
    with refused(found="30", expected="0 and"):
        read(tmp_path / "x", 30 + np.arange(50) / 25, "", 50)


@settings(max_examples=60, deadline=None)
@given(stretch=st.floats(0.5, 2.0), seconds=st.integers(20, 60))
def test_sound_of_another_length_than_the_picture_is_told(
    stretch: float, seconds: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    count = round(seconds * stretch * 100)
    flag = write_npy(tmp_path_factory.mktemp("sound") / "x", np.ones((count, 2), np.float32))
    found = rows(flag.replace("clock=frame", "clock=hop:10ms"), frames(seconds * 25))
    difference = abs((count - 1) / 100 - (seconds - 0.04))
    if difference > 1.0:
        assert found.off == pytest.approx(difference * 25, abs=1)
        assert found.warnings
    else:
        assert found.off == 0


@pytest.mark.parametrize("fps", [25.0, 50.0])
def test_frame_numbers_and_timestamps_of_a_table_agree_with_the_frames(
    fps: float, tmp_path: Path
) -> None:
    header = ["frame", "face_id", "timestamp", "confidence", "success", "AU12_r"]
    lines = [[i + 1, 0, f"{i / 50:.3f}", 0.98, 1, 0.5] for i in range(500) if i % 7]
    write_csv(tmp_path / "x/v-1.csv", header, lines)
    flag = f"x={tmp_path / 'x'},modality=visual"
    if fps == 50:
        assert rows(flag, frames(500, fps)).stream.valid_N.sum() == len(lines)
        return
    with refused(found="50 frames/s", expected="25 frames/s", remedy="--fps"):
        rows(flag, frames(500, fps))


def test_an_import_tells_a_stream_with_few_rows(tmp_path: Path) -> None:
    flag = write_npy(tmp_path / "x", np.ones((300, 2), np.float32))
    lines = [[i / 5, i * i % 7] for i in [*range(10), 299]]
    write_csv(tmp_path / "y/v-1.csv", ["time", "f"], lines)
    sources = [source(flag), source(f"y={tmp_path / 'y'},modality=pose")]
    report = build(tmp_path / "s", sources, fps=5)
    (line,) = warnings_of(report)
    assert "y" in line
    assert report[1].valid == 11
    record = Store(tmp_path / "s").read(0)
    stream = record.streams["y"]
    _, seen_N = resample(stream.rows_ND, stream.pts_N, stream.valid_N, record.pts_N)
    np.testing.assert_array_equal(np.flatnonzero(seen_N), [*range(10), 299])


def test_a_declared_person_keeps_all_frames_of_the_video(tmp_path: Path) -> None:
    header = ["frame", "face_id", "confidence", "success", "AU12_r"]
    lines = [[i + 1, 0, 0.9, 1, i] for i in range(9)]
    lines += [[i + 1, 1, 0.8, 1, 100 + i] for i in range(3)]
    write_csv(tmp_path / "x/v-1.csv", header, lines)
    of = source(f"x={tmp_path / 'x'},modality=visual,face=1")
    assert of.span("v-1") == (9, None)
    found = of.rows(frames(9))
    assert found is not None
    np.testing.assert_array_equal(np.flatnonzero(found.stream.valid_N), [0, 1, 2])
    np.testing.assert_array_equal(found.stream.rows_ND[:3, 0], [100, 101, 102])
    assert found.warnings


def test_the_identity_seen_most_is_followed(tmp_path: Path) -> None:
    header = ["frame", "FaceScore", "AU12", "Identity"]
    lines = [[i, 0.8, i, "Ann"] for i in range(8)]
    lines += [[i, 0.99, 100 + i, "Bob"] for i in range(4, 9)]
    write_csv(tmp_path / "x/v-1.csv", header, lines)
    found = rows(f"x={tmp_path / 'x'},modality=visual", frames(9))
    np.testing.assert_array_equal(np.flatnonzero(found.stream.valid_N), np.arange(8))
    np.testing.assert_array_equal(found.stream.rows_ND[:8, 0], np.arange(8))
    assert found.warnings


def test_columns_that_are_empty_everywhere_are_named(tmp_path: Path) -> None:
    lines = [[0, 0.99, 0.1, "", ""], [1, 0.99, 0.2, "", ""]]
    header = ["frame", "FaceScore", "AU12", "Identity_1", "Identity_2"]
    write_csv(tmp_path / "x/v-1.csv", header, lines)
    with refused(field="Identity_1, Identity_2", remedy="columns=AU12"):
        rows(f"x={tmp_path / 'x'},modality=visual", frames(2))
    found = rows(f"x={tmp_path / 'x'},modality=visual,columns=AU12", frames(2))
    assert found.stream.valid_N.all()


def test_warnings_are_grouped_by_kind_with_the_worst_of_each() -> None:
    told = [("a", "s", ["ends 2 s early"]), ("b", "s", ["ends 9 s early", "no valid row"])]
    late, empty = grouped_warnings(told)
    assert "2 videos" in late
    assert "b: ends 9 s early" in late
    assert "b: no valid row" in empty


def test_rows_of_zeros_are_told(tmp_path: Path) -> None:
    flag = write_npy(tmp_path / "x", np.zeros((9, 2), np.float32))
    assert rows(flag, frames(9)).warnings
    write_npy(tmp_path / "x", np.ones((9, 2), np.float32))
    assert not rows(flag, frames(9)).warnings
