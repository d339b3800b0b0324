"""Tests the learning curves of the report: their choice, their panels and their scales."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from emojax.reporting.page import write_page
from emojax.reporting.page_runs import read_runs
from emojax.reporting.page_series import curve_panels
from tests.report_reader import Page
from tests.reported_runs import invented_run, invented_videos


def with_metrics(workdir: Path, columns: dict[str, float]) -> list[dict[str, Any]]:
    """Returns the panels of an invented run whose metrics.csv has these columns."""
    invented_run(workdir, invented_videos(["1"]))
    (workdir / "metrics.csv").write_text(
        f"step,{','.join(columns)}\n1,{','.join(map(str, columns.values()))}\n"
    )
    return curve_panels(read_runs([str(workdir)], "validation"))


def test_curves_find_their_panels_by_the_table_of_scores(tmp_path: Path) -> None:
    names = ["a/learning_rate", "a/gradient_norm", "seconds_training", "a/rmse_valence", "a/loss",
             "a/ccc_valence", "a/stage", "a/pearson_valence", "a/accuracy"]  # fmt: skip
    panels = with_metrics(tmp_path, dict.fromkeys(names, 0.5))
    assert [(p["title"], [line["name"] for line in p["series"]]) for p in panels] == [
        ("loss", ["a/loss"]),
        ("score", ["a/ccc_valence", "a/accuracy"]),
        ("error", ["a/rmse_valence"]),
        ("learning rate", ["a/learning_rate"]),
    ]
    # Nothing below 0 can be drawn on a logarithmic axis.
    assert panels[-1]["log"]
    assert not with_metrics(tmp_path / "none", {"a/learning_rate": 0.0})[-1]["log"]


@pytest.mark.parametrize(("folds", "shown", "waiting"), [(2, 6, 0), (6, 6, 12), (20, 20, 0)])
def test_of_many_curves_only_means_are_shown(
    tmp_path: Path, folds: int, shown: int, waiting: int
) -> None:
    parts = ("valence", "arousal", "mean")
    names = [f"fold {k}/ccc_{part}" for k in range(folds) for part in parts]
    (panel,) = with_metrics(tmp_path, dict.fromkeys(names, 0.5))
    by_shown = [line["shown"] for line in panel["series"]]
    assert (by_shown.count(True), by_shown.count(False)) == (shown, waiting)
    assert all(line["shown"] for line in panel["series"] if line["score"] == "ccc_mean")


def test_single_classes_alone_are_no_detail(tmp_path: Path) -> None:
    names = ["expr/f1_Fear", "expr/f1_macro", "AU12/f1_AU12"]
    (panel,) = with_metrics(tmp_path, dict.fromkeys(names, 0.5))
    assert [line["detail"] for line in panel["series"]] == [True, False, False]


def test_optimum_and_baseline_are_levels_of_the_curves(tmp_path: Path) -> None:
    videos = invented_videos(["1", "2"])
    for video in videos:
        line = video.tasks["va"]
        line.predictions["optimum"] = 0.5 * line.labels_NK
    workdir = invented_run(tmp_path, videos, systems=("model", "optimum"))
    (workdir / "metrics.csv").write_text("step,a/ccc_valence,a/loss\n1,0.25,0.5\n")
    path = tmp_path / "page.html"
    write_page(path, read_runs([str(workdir)], "validation"), "validation", draws=20)
    page = Page(path)
    score = json.loads((workdir / "validation" / "scores.json").read_text())["folds"]["0"]["va"]
    loss, curves = page.data["panels"]
    assert loss["levels"] == []
    (level,) = curves["levels"]
    assert (level["system"], level["score"]) == ("optimum", "ccc_valence")
    assert level["value"] == pytest.approx(score["optimum"]["ccc_valence"], abs=1e-4)
    # And a column tells the share of the optimum, but not of an error.
    rows = page.table(part="scores", task="va")
    assert rows[0] == ["score", "model", "optimum", "of optimum"]
    shares = {row[0].split()[0]: row[-1] for row in rows[1:]}
    share = score["model"]["ccc_valence"] / score["optimum"]["ccc_valence"]
    assert shares["ccc_valence"] == f"{share:.1%}"
    assert shares["rmse_valence"] == "–"
