"""Tests ``python -m emojax.analyse`` as a user calls it, and the errors of bad calls."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.forked_commands import run_forked, said
from tests.partial_model import two_runs  # noqa: F401 - a fixture
from tests.training_runs import quick_compiling  # noqa: F401 - a fixture

pytestmark = pytest.mark.slow

PREPARATION = """
import emojax.studies.study_pictures
import emojax.studies.run_comparison, emojax.studies.study_output
from emojax.models import register
from tests.partial_model import Partial

register("partial")(Partial)
"""

WRONG = {
    "no study": (["--checkpoint=RUN"], "nothing"),
    "misspelt": (["mising", "--checkpoint=RUN"], "did you mean missing?"),
    "useless flag": (["compare", "--checkpoint=RUN", "--trials=3"], "--trials"),
    "two runs": (["streams", "--checkpoint=RUN", "--checkpoint=OTHER"], "takes one run"),
    "twice": (["compare", "--checkpoint=RUN", "--checkpoint=RUN/checkpoints"], "named twice"),
    "alone": (["compare", "--checkpoint=RUN"], "two or more"),
    "percent": (["missing", "--checkpoint=RUN", "--percent=50,120"], "numbers from 0 to 100"),
    "pattern": (["missing", "--checkpoint=RUN", "--pattern=frame"], "did you mean frames?"),
    "nothing there": (["missing", "--checkpoint=RUN/none"], "none"),
}
RIGHT = {
    "missing": ["missing", "--checkpoint=RUN", "--percent=0,50,100", "--trials=2"],
    "streams": ["streams", "--checkpoint=RUN", "--shuffles=1", "--draws=20", "--by=modality"],
    "compare": [
        "compare",
        "--checkpoint=RUN",
        "--checkpoint=OTHER",
        "--draws=20",
        "--partition=test",
        "--out=RUN/elsewhere",
    ],
}


@pytest.fixture(scope="module")
def called(two_runs: Path) -> Path:  # noqa: F811
    """Returns a folder with what the command said, case by case; one process imports for all."""
    cases = {name: words for name, (words, _) in WRONG.items()} | RIGHT
    places = {"RUN": str(two_runs / "run"), "OTHER": str(two_runs / "other")}
    for name, words in cases.items():
        for place, path in places.items():
            words = [word.replace(place, path) for word in words]
        cases[name] = ["emojax.analyse", *words]
    return run_forked(two_runs, cases, columns=200, preparation=PREPARATION)


@pytest.mark.parametrize("name", WRONG)
def test_bad_calls_are_told_on_one_screen(called: Path, name: str) -> None:
    _, errors = said(called, name, 2)
    assert errors.startswith("error: ")
    assert WRONG[name][1] in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("name", "folder", "files"),
    [
        ("missing", "analysis/missing/validation", ["missing.png", "missing.csv", "trials.csv"]),
        ("streams", "analysis/streams/validation", ["streams.png", "streams.csv"]),
        ("compare", "elsewhere", ["compare.csv"]),
    ],
)
def test_studies_leave_tables_pictures_and_one_document(
    called: Path, name: str, folder: str, files: list[str]
) -> None:
    shown, _ = said(called, name)
    out = called / "run" / folder
    assert {*files, "study.json"} <= {path.name for path in out.iterdir()}
    document = json.loads((out / "study.json").read_text())
    assert (document["study"], document["store"]["name"]) == (name, "small")
    with (out / f"{name}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(document[name]) > 0
    assert "small" in shown
    assert str(out) in shown
    if name == "compare":
        assert "approx" in shown
        assert {"z", "z_p", "p", "low", "high", "z_p_dagger"} <= set(rows[0])
    if name == "missing":
        by_percent = {
            row["percent"]: float(row["mean"])
            for row in rows
            if (row["score"], row["missing"]) == ("ccc_valence", "visual")
        }
        assert list(by_percent) == ["0.0", "50.0", "100.0"]
        assert by_percent["0.0"] > by_percent["50.0"] > by_percent["100.0"]
        assert by_percent["100.0"] == pytest.approx(0.0, abs=1e-6)
