"""Resampling by timestamps against the same written out instant by instant."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.features.resampling import RESAMPLERS, linear, nearest, stretch, usual_step, window_mean
from tests.feature_samples import PTS_N, ROWS_ND, rows, source, video, write_own

CASES = settings(max_examples=40, deadline=None)


@st.composite
def streams(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n, m = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    pts_N = np.cumsum(rng.choice([0.0, 0.1, 0.25, 0.25, 3.0], n))
    target_M = rng.uniform(-1, 3) + np.cumsum(rng.choice([0.04, 0.25, 0.5], m))
    valid_N = rng.random(n) < 0.8
    rows_ND = (rng.normal(size=(n, 2)) * valid_N[:, None]).astype(np.float32)
    return rows_ND, pts_N, valid_N, target_M


@CASES
@given(streams())
def test_nearest(case: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]) -> None:
    rows_ND, pts_N, valid_N, target_M = case
    found_MD, found_M = nearest(*case)
    step = usual_step(pts_N, target_M)
    for t, row, valid in zip(target_M, found_MD, found_M, strict=True):
        gaps = np.abs(pts_N - t)
        close = np.flatnonzero(gaps == gaps.min())
        good = valid_N[close] & (gaps.min() <= step * (1 + 1e-6))
        assert valid in good
        assert any(np.array_equal(row, rows_ND[i]) for i in close) if valid else not row.any()


@CASES
@given(streams())
def test_window_mean(case: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]) -> None:
    rows_ND, pts_N, valid_N, target_M = case
    found_MD, found_M = window_mean(*case)
    for i, (row, valid) in enumerate(zip(found_MD, found_M, strict=True)):
        low, high = -np.inf, np.inf
        if len(target_M) > 1:
            before = target_M[max(i, 1)] - target_M[max(i, 1) - 1]
            after = target_M[min(i + 1, len(target_M) - 1)] - target_M[min(i, len(target_M) - 2)]
            low, high = target_M[i] - before / 2, target_M[i] + after / 2
        mine = valid_N & (pts_N >= low - 1e-9) & (pts_N <= high + 1e-9)
        edge = np.abs(pts_N[:, None] - [low, high]).min() < 1e-9 if np.isfinite(low) else False
        if edge:  # either side may have it
            continue
        assert valid == mine.any()
        expected = rows_ND[mine].astype(np.float64).mean(0) if mine.any() else np.zeros(2)
        np.testing.assert_allclose(row, expected, atol=1e-6)


@CASES
@given(streams())
def test_linear(case: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]) -> None:
    rows_ND, pts_N, valid_N, target_M = case
    found_MD, found_M = linear(*case)
    step = usual_step(pts_N, target_M)
    held_MD, held_M = nearest(*case)
    for i, t in enumerate(target_M):
        right = int(np.searchsorted(pts_N, t, side="right"))
        around = 0 < right < len(pts_N) and pts_N[right] - pts_N[right - 1] <= 2 * step
        if around and valid_N[right - 1] and valid_N[right]:
            w = (t - pts_N[right - 1]) / (pts_N[right] - pts_N[right - 1])
            expected = (1 - w) * rows_ND[right - 1] + w * rows_ND[right]
            assert found_M[i]
            np.testing.assert_allclose(found_MD[i], expected, atol=1e-5)
        else:
            assert found_M[i] == held_M[i]
            np.testing.assert_array_equal(found_MD[i], held_MD[i])


@pytest.mark.parametrize("method", RESAMPLERS)
def test_what_is_at_its_instants_already_stays(method: str) -> None:
    valid_N = np.arange(len(PTS_N)) % 3 > 0
    rows_ND = ROWS_ND * valid_N[:, None]
    found_ND, found_N = RESAMPLERS[method](rows_ND, PTS_N, valid_N, PTS_N)
    np.testing.assert_array_equal(found_N, valid_N)
    np.testing.assert_allclose(found_ND, rows_ND, atol=1e-6)


def test_stretching_is_torch_interpolation() -> None:
    torch = pytest.importorskip("torch")
    for n, m in ((4, 9), (9, 4), (7, 7), (1, 5), (100, 33)):
        x_ND = np.random.default_rng(n).normal(size=(n, 3)).astype(np.float32)
        x_1DN = torch.tensor(x_ND.T[None])
        for method in ("nearest", "linear"):
            expected = torch.nn.functional.interpolate(x_1DN, size=m, mode=method)[0].numpy().T
            found_MD, found_M = stretch(x_ND, np.ones(n, bool), m, method)
            np.testing.assert_allclose(found_MD, expected, atol=1e-4)  # float32 positions
            assert found_M.all()
    valid_N = np.array([True, False])
    for method in ("nearest", "linear"):
        _, found_M = stretch(np.ones((2, 1), np.float32), valid_N, 4, method)
        assert found_M[0]
        assert not found_M[-1]


def test_flags_resample_to_frames_or_to_a_rate(tmp_path: Path) -> None:
    flag = write_own(tmp_path / "x", ROWS_ND)
    fine_N = 0.4 + np.arange(45) / 125  # five rows a frame
    np.savez(tmp_path / "x/v-1.npz", rows=np.repeat(ROWS_ND, 5, axis=0), pts=fine_N - 0.016)
    to_frames = source(flag + ",resample=mean")
    assert to_frames.spec.rate is None
    found = rows(flag + ",resample=mean")
    np.testing.assert_array_equal(found.stream.pts_N, PTS_N)
    np.testing.assert_allclose(found.stream.rows_ND, ROWS_ND, atol=1e-6)
    assert found.how == "timestamps of the file, mean at the frames"
    slower = source(flag + ",resample=nearest,rate=12.5")
    assert slower.spec.rate == 12.5
    stream = slower.rows(video())
    assert stream is not None
    np.testing.assert_allclose(stream.stream.pts_N, 0.4 + np.arange(5) / 12.5)
    np.testing.assert_array_equal(stream.stream.rows_ND, ROWS_ND[::2])
    # A known stream is brought to its own rate.
    wide = np.ones((45, 65), np.float32)
    np.savez(tmp_path / "x/v-1.npz", rows=wide, pts=fine_N)
    known = source(f"compare_lld={tmp_path / 'x'},resample=linear")
    assert known.spec.rate == 100
