"""Tests a few kills of ``benchmarks.faults.kills``, and that its comparison finds differences."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.faults.forks import Moment, Warm
from benchmarks.faults.killed_training import Kill, differences, draw_moment
from benchmarks.faults.kills import STORE, TRAINING, good, kills_of, table
from benchmarks.faults.soak import Sample, growth

# With it all kills are of one training.
SEED = 0


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    with Warm(tmp_path_factory.mktemp("warm")) as warm:
        yield warm


@pytest.mark.nightly
@pytest.mark.parametrize(("kind", "count"), [(TRAINING, 3), (STORE, 2)])
def test_what_is_killed_loses_nothing_and_ends_alike(
    warm: Warm, tmp_path: Path, kind: str, count: int
) -> None:
    kills = list(kills_of(kind, warm, tmp_path, SEED, count, short=True))
    assert len(kills) == count
    assert all(map(good, kills)), kills


@pytest.mark.slow
def test_a_command_that_ends_by_itself_is_not_killed(warm: Warm, tmp_path: Path) -> None:
    options = ["--size=tiny", "--tasks=nothing", f"--out={tmp_path / 'store'}"]
    command = warm.start("data.synthetic", *options)
    assert warm.kill_at(command, Moment("videos", 1, 0.0)) is None
    assert command.status == 2
    assert "--tasks" in command.log.read_text()
    assert [name for name, _ in command.entered()] == ["start-up"]
    with pytest.raises(RuntimeError, match="ended with status 2"):
        warm.run("data.synthetic", *options)


def test_one_changed_bit_is_a_difference() -> None:
    tree = {"params": {"w": np.float32([1, np.nan, 0.0])}, "step": 3}
    assert differences(tree, {"params": {"w": tree["params"]["w"].copy()}, "step": 3}) == []
    signed = {"params": {"w": np.float32([1, np.nan, -0.0])}, "step": 3}
    assert differences(signed, tree) == ["['params']['w']"]
    assert differences({**tree, "more": 1}, tree) == ["['more']"]
    assert differences({"params": tree["params"]}, tree) == ["['step']"]


def test_moments_lie_within_their_phase() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_moment(rng, "save", {"": 9.0, "save": 0.5}, 4) for _ in range(100)]
    assert {moment.times for moment in drawn} == {1, 2, 3, 4}
    assert all(0 <= moment.delay <= 0.5 for moment in drawn)
    assert draw_moment(rng, "", {"": 9.0}, 4).times == 1


def test_the_table_counts_what_was_lost() -> None:
    kills = [Kill(0, "step", 0, "", ""), Kill(1, "save", 40, "step 20 after step 40", "params")]
    assert [good(kill) for kill in kills] == [True, False]
    shown = table(TRAINING, kills)
    cells = [list(column.cells) for column in shown.columns]
    assert dict(zip(cells[0], zip(*cells[1:], strict=True), strict=True)) == {
        "start-up": ("0", "0", "0"),
        "step": ("1", "1", "0"),
        "validation": ("0", "0", "0"),
        "metrics": ("0", "0", "0"),
        "save": ("1", "0", "1"),
        "save, beside steps": ("0", "0", "0"),
        "report": ("0", "0", "0"),
        "all": ("2", "1", "1"),
    }


@pytest.mark.parametrize(
    ("mib", "opened", "steady"),
    [(0.0, 0, True), (1.5, 0, False), (-1.0, 0, True), (0.0, 40, False)],
)
def test_a_soak_tells_growth_from_noise(mib: float, opened: int, steady: bool) -> None:
    rng = np.random.default_rng(0)
    samples = [
        # The start-up, which is not judged, grows much.
        Sample(step / 100, step, rss, 10 + round(opened * step / 8000) + step // 100 % 3, 20)
        for step in range(0, 8001, 100)
        for rss in [300 + mib * step / 1000 + rng.normal() * 0.1 - 200 * (step < 2000)]
    ]
    found = growth(samples, 8000)
    assert abs(found.mib - mib) < 0.1
    assert found.steady is steady
    assert found.line().startswith("steady" if steady else "GROWS")
