"""Tests that the report shows what ``emojax.analyse mechanisms`` found in the run's folder."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from emojax.datasets.source import Store
from emojax.reporting.page import write_page
from emojax.reporting.page_runs import read_runs
from tests.forked_commands import run_forked, said
from tests.report_reader import Page
from tests.reported_runs import invented_run, invented_videos
from tests.small_store import build_small_store
from tests.training_runs import quick_compiling, tiny_config, train  # noqa: F401 - a fixture

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with a run that was trained, studied and reported by the commands."""
    folder = tmp_path_factory.mktemp("mechanisms")
    store = Store(build_small_store(folder / "store"))
    config = tiny_config(store.path, replicas={"seeds": [0, 1]}, train={"epochs": 1})
    train(store, folder / "run", config)
    run = str(folder / "run")
    study = ["mechanisms", f"--checkpoint={run}", "--shuffles=1", "--draws=20"]
    cases = {
        "evaluate": ["emojax.evaluate", f"--checkpoint={run}"],
        "analyse": ["emojax.analyse", *study],
        "report": ["emojax.report", run],
    }
    run_forked(folder, cases)
    for name in cases:
        said(folder, name)
    return folder / "run"


def test_the_report_shows_the_study_of_mechanisms(studied: Path) -> None:
    study = studied / "analysis" / "mechanisms" / "validation"
    found = json.loads((study / "study.json").read_text())["mechanisms"]
    shown = [row for row in found if row["score"] in ("ccc_valence", "ccc_arousal")]
    assert {(row["mechanism"], row["how"]) for row in shown} == {
        ("attention", "replaced"),
        ("attention", "shuffled"),
    }
    page = Page(studied / "report-validation.html")
    page.check_closed()
    header, *cells = page.table(part="mechanisms", run="run")
    assert len(cells) == len(shown)
    for row, expected in zip(cells, shown, strict=True):
        by_name = dict(zip(header, row, strict=True))
        assert by_name["mechanism"] == f"{expected['mechanism']}, {expected['score']}"
        assert by_name["what is altered"].startswith(expected["how"])
        numbers = [by_name[name] for name in ("as trained", "altered", "fall")]
        assert numbers == [f"{expected[name]:.3f}" for name in ("intact", "altered", "drop")]
        for name, ends in (
            ("95 % interval", ("low", "high")),
            ("fall by seed", ("least", "greatest")),
        ):
            assert by_name[name] == " to ".join(f"{expected[end]:.3f}" for end in ends)
    (picture,) = page.all("img")
    code = str(picture["src"]).removeprefix("data:image/png;base64,")
    assert base64.b64decode(code) == (study / "mechanisms.png").read_bytes()


def test_a_run_without_the_study_has_no_such_table(studied: Path, tmp_path: Path) -> None:
    other = invented_run(tmp_path / "other", invented_videos(["validation-0"]), store="small")
    write_page(
        tmp_path / "both.html", read_runs([str(studied), str(other)], "validation"), "validation",
        draws=1,
    )  # fmt: skip
    tables = [
        one
        for one in Page(tmp_path / "both.html").all("table")
        if one.get("data-part") == "mechanisms"
    ]
    assert [one["data-run"] for one in tables] == ["run"]
