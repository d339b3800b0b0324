"""Tests that the measurement of long videos calls real commands and reports their results."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import long_videos
from emojax.errors import InputError


@pytest.mark.nightly
def test_times_and_memory_are_those_of_the_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_videos, "_WAYS", long_videos._WAYS[-1:])
    (row,) = long_videos.measure(tmp_path, [720]).as_dict()["rows"]
    assert row["frames"] == 720
    assert row["speed"] == pytest.approx(24 / row["seconds"])
    assert row["peak"] > 100
    # Stores and runs are gone.
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("minutes", ["soon", "0", "-3", "nan", "inf"])
def test_lengths_are_minutes(minutes: str) -> None:
    with pytest.raises(InputError, match="does not have this length"):
        long_videos.frames_of(minutes)
