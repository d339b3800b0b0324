"""Tests a few random corruptions; docs/faults.md has the full count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.faults.corruptions import GOOD, Case, Corruptions, table
from benchmarks.faults.damage import WAYS, damage
from benchmarks.faults.small_run import make, same_bits
from tests.training_runs import quick_compiling  # noqa: F401 - a fixture

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def corruptions(tmp_path_factory: pytest.TempPathFactory) -> Corruptions:
    base = tmp_path_factory.mktemp("faults")
    make(base / "golden")
    (base / "copies").mkdir()
    return Corruptions(base / "golden", base / "copies", seed=1, compute=False)


@pytest.mark.parametrize("start", [1, 21, 41])
def test_damage_is_told_clearly_or_has_no_effect(corruptions: Corruptions, start: int) -> None:
    cases = [corruptions.attempt(number) for number in range(start, start + 20)]
    bad = [case for case in cases if case.outcome not in GOOD]
    told = [f"{case.number} {case.file} {case.how}: {case.message}" for case in bad]
    assert not bad, "\n".join(told)
    assert sum(case.outcome == "clear error" for case in cases) >= 4


def test_a_run_that_is_not_damaged_reads_the_same(corruptions: Corruptions) -> None:
    outcome, message = corruptions._outcome(corruptions.folder, train=False)
    assert (outcome, message) == ("harmless", "")


def test_what_would_be_silent_is_seen() -> None:
    expected = {"a": np.array([0.0, np.nan]), "b": [1, "x"]}
    assert same_bits({"a": np.array([0.0, np.nan]), "b": [1, "x"]}, expected)
    assert not same_bits({"a": np.array([-0.0, np.nan]), "b": [1, "x"]}, expected)
    assert not same_bits({"a": np.array([0.0, np.nan]), "b": [1, "y"]}, expected)
    assert not same_bits({"a": np.array([0.0, np.nan]), "b": [1]}, expected)
    assert not same_bits({"a": np.float32([0.0, np.nan]), "b": [1, "x"]}, expected)


def test_every_damage_changes_the_copy_and_never_the_original(
    corruptions: Corruptions, tmp_path: Path
) -> None:
    def contents(folder: Path) -> dict[str, bytes]:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    before = contents(corruptions.folder)
    seen = set()
    for number in range(100):
        copy = tmp_path / str(number)
        done = damage(corruptions.folder, copy, np.random.default_rng(number))
        assert contents(copy) != before
        seen.add(done.how)
    assert contents(corruptions.folder) == before
    assert seen == set(WAYS)


def test_the_table_counts_every_case() -> None:
    cases = [
        Case(0, "shard", "f", "deleted", "clear error", "", 0.1),
        Case(1, "shard", "f", "deleted", "SILENT", "", 0.1),
        Case(2, "", "", "", "HANG", "", 60.0),
    ]
    lines = table(cases).splitlines()
    assert "| shard | 1 | 0 | 1 | 0 | 0 | 0 | 0 |" in lines
    assert lines[-1] == "| all | 1 | 0 | 1 | 0 | 0 | 1 | 0 |"
