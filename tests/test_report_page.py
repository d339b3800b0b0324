"""The interactive report: one file that holds everything, loads nothing and trusts no name."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emojax.datasets.source import Store
from emojax.errors import InputError
from emojax.ops.bootstrap import interval, paired_difference, resampled_scores
from emojax.ops.tasks import TASK_OPS
from emojax.reporting import page_series as report_series
from emojax.reporting.page import write_page
from emojax.reporting.page_runs import read_runs
from emojax.reporting.page_sections import percent, short_count
from emojax.reporting.page_series import extremes
from emojax.reporting.page_statistics import score_tables
from emojax.reporting.paper_differences import differences_from_paper
from emojax.reporting.timelines import assess_video, read_timelines
from emojax.specs import TASKS
from tests.report_reader import Page
from tests.reported_runs import evaluated_run, invented_run, invented_videos
from tests.small_store import build_small_store

ROOT = Path(__file__).parents[1]
DRAWS = 30
EVIL = "</script><script>alert(1)</script>&<img src=x onerror=alert(2)>\"'"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("report") / "store"
    return Store(build_small_store(path, tasks=("va", "expr", "au")))


@pytest.fixture(scope="module")
def run(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = evaluated_run(tmp_path_factory.mktemp("runs") / "first", store)
    study = workdir / "analysis" / "missing" / "validation"
    study.mkdir(parents=True)
    shutil.copy(next((workdir / "validation").glob("*.png")), study / "missing.png")
    return workdir


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    path = run / "report.html"
    write_page(path, read_runs([str(run)], "validation"), "validation", draws=DRAWS)
    return Page(path)


def decoded(code: str, facts: dict[str, Any], scale: float) -> np.ndarray:
    """Returns the numbers as the page's script reads them."""
    dtype = "<i2" if facts["bits"] == 16 else "u1"
    whole = np.frombuffer(base64.b64decode(code), dtype)
    return np.where(whole == facts["none"], np.nan, whole * scale)


def test_the_report_lists_where_the_run_differs_from_its_paper(page: Page, run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    entries = differences_from_paper(config)
    assert entries
    (table,) = [rows for rows in page.rows if rows[0][0] == "difference"]
    assert [row[:3] for row in table[1:]] == [
        [entry["text"], entry["where"], entry["kind"]] for entry in entries
    ]
    assert "train.learning_rate = 0.003" in {row[3] for row in table[1:]}


def test_a_report_of_runs_without_a_paper(tmp_path: Path) -> None:
    """A model that no paper describes, and a configuration of another version."""
    runs = [tmp_path / name for name in ("mine", "rjcma")]
    for workdir in runs:
        invented_run(workdir, invented_videos(["a", "b"]), store=workdir.name)
    write_page(
        tmp_path / "one.html", read_runs([str(runs[0])], "validation"), "validation", draws=1
    )
    assert "difference" not in {rows[0][0] for rows in Page(tmp_path / "one.html").rows}
    write_page(tmp_path / "both.html", read_runs([*map(str, runs)], "validation"), "validation",
               draws=1)  # fmt: skip
    (table,) = [rows for rows in Page(tmp_path / "both.html").rows if rows[0][0] == "difference"]
    assert "config.data" in table[1][0]


def test_the_page_loads_nothing_and_holds_each_part(page: Page) -> None:
    page.check_closed()
    sections = [attributes["id"] for attributes in page.all("section")]
    assert sections == [
        "scores", "timelines", "confusion", "curves", "studies", "data", "paper",
        "configuration",
    ]  # fmt: skip
    assert [a["href"] for a in page.all("a")] == [f"#{name}" for name in sections]
    assert len(page.all("img")) == 1
    # Not simulated by this package, as far as the store says.
    assert not [a for a in page.all("span") if a.get("class") == "badge simulated"]
    data = dict(row for row in page.table(part="data")[1:])
    assert data["store"] == "small"
    assert data["replicas"] == "1: all"


def test_an_evaluation_writes_the_same_page(page: Page, run: Path) -> None:
    written = Page(run / "validation" / "report.html")
    written.check_closed()
    assert written.data == page.data
    for task in ("va", "expr", "au"):
        tables = (one.table(part="scores", task=task, group="0") for one in (written, page))
        first, second = ([row[:2] for row in rows] for rows in tables)
        assert [row[0] for row in first] == [row[0] for row in second]
        assert [row[1][:5] for row in first] == [row[1][:5] for row in second]


def test_the_embedded_data_are_the_predictions(page: Page, run: Path) -> None:
    videos = read_timelines(run / "validation" / "timelines.npz")
    assert [video["name"] for video in page.data["videos"]] == [video.name for video in videos]
    for shown, video in zip(page.data["videos"], videos, strict=True):
        times = np.frombuffer(base64.b64decode(shown["t"]), "<f4")
        np.testing.assert_allclose(times, video.seconds_N, rtol=1e-6)
        assert set(shown["tasks"]) == {"va", "expr", "au"}
        for task, line in video.tasks.items():
            coded, facts = shown["tasks"][task], page.data["tasks"][task]
            step = 1 / 250 if facts["bits"] == 8 else 1 / 32000 * 3
            for c, label in enumerate(TASKS[task].labels):
                assert facts["labels"][c] == label
                values_N = decoded(coded["curves"]["0:model"][c], facts, coded["scale"])
                np.testing.assert_allclose(values_N, line.predictions["model"][:, c], atol=step)
                labels_N = decoded(coded["labels"][c], facts, coded["scale"])
                column = 0 if task == "expr" else c
                known_N = line.mask_NK[:, column]
                np.testing.assert_array_equal(np.isfinite(labels_N), known_N)
                expected_N = line.labels_NK[:, column]
                expected_N = expected_N == c if task == "expr" else expected_N
                np.testing.assert_allclose(labels_N[known_N], expected_N[known_N], atol=step)
            scores = assess_video(video, task, "model")[1]
            assert coded["scores"]["0:model"] == pytest.approx(scores, abs=1e-3)


def test_the_curves_are_those_of_the_metrics(page: Page) -> None:
    panels = {panel["title"]: panel for panel in page.data["panels"]}
    assert list(panels) == ["loss", "score", "learning rate"]
    assert {title: panel["log"] for title, panel in panels.items()} == {
        "loss": False, "score": False, "learning rate": True,
    }  # fmt: skip
    assert panels["score"]["axis"] == "CCC"
    (line,) = panels["loss"]["series"]
    assert (line["name"], line["x"], line["y"]) == ("all/loss", [5, 10, 15], [0.2, 0.1, 0.06667])
    rows = page.table(part="curves")
    assert rows[1] == ["all/loss", "loss", "0.200", "0.067", "0.200", "0.067"]


def test_scores_stand_beside_their_intervals(page: Page, run: Path) -> None:
    document = json.loads((run / "validation" / "scores.json").read_text())
    runs = read_runs([str(run)], "validation")
    videos = sorted(runs[0].videos, key=lambda video: video.name)
    tables = {table.task: table for table in score_tables(runs, DRAWS)}
    assert set(tables) == {"va", "expr", "au"}
    for task, table in tables.items():
        states = [assess_video(video, task, "model")[0] for video in videos]
        drawn = resampled_scores(task, states, draws=DRAWS)
        scores = document["folds"]["0"][task]["model"]
        assert table.names == list(scores)
        for name, value in scores.items():
            found = table.scores[0, "model"][name]
            low, high = interval(drawn[name])
            assert (found.value, found.low, found.high) == (value, low, high)
            of_class = name in TASK_OPS[task].details
            rows = page.table(part="details" if of_class else "scores", task=task, group="0")
            head = TASKS[task].labels[TASK_OPS[task].details.index(name)] if of_class else name
            (cell,) = [row[1] for row in rows if row[0].split()[0] == head]
            assert cell.split() == f"{value:.3f} [{low:.3f}, {high:.3f}]".split()


def test_confusions_are_counted_by_true_class(page: Page, run: Path) -> None:
    document = json.loads((run / "validation" / "scores.json").read_text())["confusion"]["expr"]
    rows = page.table(part="confusion", task="expr", system="model")
    assert rows[0][1:] == document["labels"]
    for row, label, counts in zip(
        rows[1:], document["labels"], document["counts"]["0"]["model"], strict=True
    ):
        total = sum(counts)
        assert row[0] == f"{label}{total}"
        assert row[1:] == [f"{percent(n / total)}{n}" if total else "–" for n in counts]


def test_percentages_and_counts_are_short_and_do_not_round_to_a_lie() -> None:
    assert [percent(x) for x in (0, 0.001, 0.01, 0.5, 0.999, 1)] == [
        "0%", "<1%", "1%", "50%", ">99%", "100%",
    ]  # fmt: skip
    counts = (0, 9999, 12_345, 123_456, 1_234_567, 234_567_890)
    assert [short_count(n) for n in counts] == ["0", "9999", "12.3k", "123k", "1.2M", "234M"]


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    workdir = invented_run(tmp_path / "a&<b>'", invented_videos([EVIL, "7"]), store=EVIL)
    (workdir / "config.json").write_text(json.dumps({"model": {"name": EVIL}, EVIL: EVIL}))
    (workdir / "metrics.csv").write_text('step,"</script><script>/loss"\n1,0.5\n')
    path = tmp_path / "page.html"
    write_page(path, read_runs([str(workdir)], "validation"), "validation", draws=DRAWS)
    page = Page(path)
    page.check_closed()
    assert page.data["videos"][0]["name"] == EVIL
    assert page.data["runs"] == ["a&<b>'"]
    assert page.data["panels"][0]["series"][0]["name"] == "</script><script>/loss"
    assert [EVIL, EVIL] in page.rows[-1]
    assert dict(page.table(part="data")[1:])["description"] == EVIL
    assert "alert" not in page.scripts[1]
    assert not page.all("img")


def test_simulated_data_say_so(tmp_path: Path) -> None:
    workdir = invented_run(tmp_path / "run", invented_videos(["7"]))
    file = workdir / "validation" / "scores.json"
    document = json.loads(file.read_text())
    document["data"]["builder"] = {"command": "data.synthetic", "preset": "switching"}
    file.write_text(json.dumps(document))
    path = tmp_path / "page.html"
    write_page(path, read_runs([str(workdir)], "validation"), "validation", draws=DRAWS)
    page = Page(path)
    (badge,) = [a for a in page.all("span") if "badge" in str(a.get("class"))]
    assert badge["class"] == "badge simulated"
    assert [a for a in page.all("p") if a.get("class") == "warning"]
    assert dict(page.table(part="data")[1:])["preset"] == "switching"
    # One video says nothing about others.
    assert all("[" not in row[1] for row in page.table(part="scores", task="va"))


def test_many_long_videos_stay_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_series, "TIMELINE_BYTES", 600_000)
    videos = invented_videos([str(n) for n in range(12)], frames=4000, tasks=("va", "au"))
    workdir = invented_run(tmp_path / "run", videos)
    runs = read_runs([str(workdir)], "validation")
    shown = report_series.timelines(runs)
    assert 500_000 < len(json.dumps(shown)) < 650_000
    assert all(200 < video["points"] < video["frames"] for video in shown)
    # No peak is lost.
    facts = report_series.task_facts(["va"])["va"]
    for video, drawn in zip(videos, shown, strict=True):
        line = drawn["tasks"]["va"]
        values = decoded(line["curves"]["0:model"][1], dict(facts), line["scale"])
        truth_N = video.tasks["va"].predictions["model"][:, 1]
        assert values.max() == pytest.approx(truth_N.max(), abs=1e-3)
        assert values.min() == pytest.approx(truth_N.min(), abs=1e-3)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.integers(1, 9), st.integers(0, 10**6))
def test_extremes_are_those_of_each_bucket(frames: int, buckets: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values_N1 = rng.integers(-3, 4, (frames, 1)).astype(float)
    values_N1[rng.random(frames) < 0.3] = np.nan
    edges = np.linspace(0, frames, min(frames, buckets) + 1).round().astype(int)
    found = extremes(values_N1, edges).reshape(-1, 2)
    for pair, start, stop in zip(found, edges[:-1], edges[1:], strict=True):
        known = [x for x in values_N1[start:stop, 0] if np.isfinite(x)]
        if not known:
            assert np.isnan(pair).all()
            continue
        assert sorted(pair) == [min(known), max(known)]
        rising = known.index(min(known)) <= known.index(max(known))
        assert (pair[0] <= pair[1]) == (rising or min(known) == max(known))


def test_several_runs_are_compared_on_the_same_draws(
    run: Path, store: Store, tmp_path: Path
) -> None:
    second = evaluated_run(tmp_path / "second", store, tasks=("va",), seed=5, epochs=7)
    runs = read_runs([str(run), str(second)], "validation")
    tables = {table.task: table for table in score_tables(runs, DRAWS)}
    assert tables["va"].reference == (0, "model")
    states = [
        [
            assess_video(video, "va", "model")[0]
            for video in sorted(run.videos, key=lambda video: video.name)
        ]
        for run in runs
    ]
    expected = paired_difference("va", states[1], states[0], draws=DRAWS)
    for name, found in tables["va"].differences[1, "model"].items():
        wanted = expected[name]
        assert found.value == pytest.approx(wanted.difference, abs=1e-5)
        assert (found.low, found.high, found.p) == (wanted.low, wanted.high, wanted.p)
    assert (1, "model") not in tables["expr"].scores

    path = tmp_path / "both.html"
    write_page(path, runs, "validation", draws=DRAWS)
    page = Page(path)
    page.check_closed()
    header, *rows = page.table(part="differences", task="va", group="0")
    assert header == ["score", "second: model"]
    assert len(rows) == len(expected)
    # Only what differs is listed, and the folds' videos are drawn once, with both models.
    listed = dict(row[::2] for row in page.table(part="differing"))
    assert listed["train.epochs"] == "7"
    assert "train.optimizer" not in listed
    assert len(page.all("mark")) >= 2
    assert len(page.data["videos"]) == len(runs[0].videos) + len(runs[1].videos)
    assert {line["run"] for panel in page.data["panels"] for line in panel["series"]} == {0, 1}


def test_other_annotations_are_not_compared(tmp_path: Path) -> None:
    names = ["1", "2", "3"]
    for number, seed in enumerate((0, 0, 1)):
        invented_run(tmp_path / str(number), invented_videos(names, seed=seed))
    runs = read_runs([str(tmp_path / str(number)) for number in range(3)], "validation")
    (table,) = score_tables(runs, DRAWS)
    assert set(table.scores) == {(0, "model"), (1, "model"), (2, "model")}
    assert set(table.differences) == {(1, "model")}
    assert all(found.value == found.low == found.high == 0
               for found in table.differences[1, "model"].values())  # fmt: skip
    shown = report_series.timelines(runs)
    assert [sorted(v["tasks"]["va"]["curves"]) for v in shown] == [["0:model", "1:model"],
                                                                   ["2:model"]] * 3  # fmt: skip
    path = tmp_path / "page.html"
    write_page(path, runs, "validation", draws=DRAWS)
    assert len([a for a in Page(path).all("p") if a.get("class") == "warning"]) == 1


@pytest.mark.skipif(not shutil.which("chromium"), reason="there is no browser")
def test_a_browser_runs_the_script(page: Page, run: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
         f"--user-data-dir={tmp_path}", (run / "report.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout.count("<option value=") == len(page.data["tasks"]) + 3 + len(
        page.data["videos"]
    )
    lines = sum(len(panel["series"] + panel["levels"]) for panel in page.data["panels"])
    assert done.stdout.count('<path class="line') == lines
    assert re.search(r'aria-label="validation-\d, va, from [\d.]+ to [\d.]+ seconds', done.stdout)


# -- bad input -----------------------------------------------------------------------------------


def refused(*workdirs: object, partition: str = "validation") -> dict[str, str]:
    with pytest.raises(InputError) as caught:
        read_runs([str(workdir) for workdir in workdirs], partition)
    return caught.value.details


def test_what_is_no_run_is_told(tmp_path: Path) -> None:
    assert "emojax report" in refused()["remedy"]
    assert refused(tmp_path / "nowhere")["found"] == "no folder"
    details = refused(tmp_path)
    assert details["file"] == str(tmp_path)
    assert "config.json" in details["found"]
    run = invented_run(tmp_path / "run", invented_videos(["7"]))
    assert refused(run, run / ".." / "run")["expected"] == "each run once"
    details = refused(run, partition="test")
    assert details["found"] == "validation"
    assert details["remedy"].endswith(f"--checkpoint={run} --partition=test")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("validation/scores.json", b"{"),
        ("validation/scores.json", b"[]"),
        ("validation/scores.json", b'{"store": "s", "folds": {}}'),
        ("validation/scores.json", b'{"store": "s", "folds": {"9": {}}, "data": {}}'),
        ("validation/timelines.npz", b"PK\x03\x04"),
        ("validation/timelines.npz", b""),
        ("config.json", b"\xff\xfe"),
    ],
)
def test_damaged_files_are_told(tmp_path: Path, file: str, content: bytes) -> None:
    run = invented_run(tmp_path / "run", invented_videos(["7"]))
    (run / file).write_bytes(content)
    details = refused(run)
    assert details["file"].startswith(str(run))
    assert details["remedy"]


@pytest.mark.slow
def test_the_command_writes_the_page_or_says_why_not(tmp_path: Path) -> None:
    run = invented_run(tmp_path / "run", invented_videos(["1", "2"]))

    def call(*flags: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "emojax.report", *map(str, flags)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)

    done = call(run, "--draws=100")
    assert done.returncode == 0, done.stderr
    path = run / "report-validation.html"
    assert f"report: {path} (" in done.stdout
    Page(path).check_closed()
    done = call(run, f"--out={tmp_path}")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert f"--out={tmp_path / 'report.html'}" in done.stderr
