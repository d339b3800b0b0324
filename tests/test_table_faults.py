"""Random tables with planted faults never give wrong values without a word."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.faults.tables import FAULTS, TOOLS, arrived, make_case, verdict
from emojax.datasets.source import Store


@pytest.mark.parametrize(
    "seeds", [range(start, start + 40) for start in range(0, 160, 40)], ids=str
)
def test_tables_are_read_right_refused_or_told(seeds: range, tmp_path: Path) -> None:
    answers = {seed: verdict(make_case(seed), tmp_path / str(seed)) for seed in seeds}
    assert "silent" not in answers.values(), answers
    # An importer that refuses everything would pass, too.
    assert sum(answer == "right" for answer in answers.values()) > len(answers) / 2


@pytest.mark.nightly
def test_a_thousand_tables(tmp_path: Path) -> None:
    for seed in range(1000, 2000):
        assert verdict(make_case(seed), tmp_path / str(seed)) != "silent", seed


def test_wrong_values_would_be_seen(tmp_path: Path) -> None:
    """The check itself: what arrives for one table is not the truth of another."""
    seed = next(s for s in range(99) if verdict(make_case(s), tmp_path / f"{s}") == "right")
    record = Store(tmp_path / f"{seed}/s").read(0)
    case = make_case(seed)
    assert arrived(case, record)
    case.truth_ND = case.truth_ND[::-1]
    assert not arrived(case, record)


def test_every_fault_is_planted_somewhere() -> None:
    planted = {name for seed in range(400) for name in make_case(seed).faults}
    assert planted == {*FAULTS, *TOOLS}
