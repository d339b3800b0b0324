"""Tests a table of each family, from a tiny store to files, and a second call."""

from __future__ import annotations

import csv
import io
import json
import math
import types
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from absl import flags
from rich.console import Console

import emojax.tables
from emojax.commands.cli import Flags
from emojax.datasets.folds import official_and_blocks
from emojax.datasets.record import VideoRecord
from emojax.datasets.source import Store
from emojax.datasets.store import StoreWriter
from emojax.errors import InputError
from emojax.ops.tasks import TASK_OPS
from emojax.papers import table_runs
from emojax.papers.table_plan import Job, Recipes, plan
from emojax.papers.table_results import Cell, Line, Result
from emojax.papers.table_scores import measure
from emojax.papers.table_study import compare
from emojax.papers.table_writers import as_csv, as_json, draw, markdown, print_table
from emojax.prediction.predictor import concatenate, ensemble, read_annotations
from emojax.prediction.trained_run import open_run
from emojax.published import TABLES
from emojax.specs import STREAMS, TASKS, StreamSpec
from emojax.training.loop import Trainer
from tests.small_store import make_record
from tests.training_runs import quick_compiling  # noqa: F401

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
NAMES = (
    "vggface", "compare_lld", "fan", "deepspectrum", "openpose", "ir50", "vggish", "bert", "logmel",
    "eff", "affectnet8", "raf_db", "arcface", "wav2vec2_emotion",
)  # fmt: skip
LENGTHS = {"train": (70, 110, 60, 120, 80, 90), "validation": (100, 75), "test": (60, 90)}


def specs() -> list[StreamSpec]:
    return [StreamSpec(n, 6, STREAMS[n].modality, STREAMS[n].rate) for n in NAMES]


def build(path: Path, *, tested: bool = True) -> Path:
    """Returns all streams and tasks, a reference "optimum", and a builder that says "simulated"."""
    builder = {"command": "data.synthetic"}
    videos = []
    with StoreWriter(
        path, name="toy", streams=specs(), tasks=("va", "expr", "au"), builder=builder
    ) as writer:
        for partition, lengths in LENGTHS.items():
            for i, frames in enumerate(lengths):
                name = f"{partition}-{i}"
                record = make_record(
                    name, partition, num_frames=frames, seed=len(videos), streams=specs(),
                    tasks=("va", "expr", "au"),
                )  # fmt: skip
                fields: dict[str, Any] = dict(vars(record))
                fields["references"] = {"optimum": {"va": np.clip(record.labels["va"], -1, 1)}}
                if partition == "test" and not tested:
                    fields["labels"] = {
                        task: np.full_like(x, TASKS[task].ignore)
                        for task, x in record.labels.items()
                    }
                writer.add(VideoRecord(**fields))
                videos.append((name, name, partition))
        writer.finish(official_and_blocks(videos, k=6))
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("data") / "store")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: one)  # one program compiles faster than eight
    monkeypatch.setattr(emojax.tables, "use_compilation_cache", lambda: None)
    monkeypatch.setattr(jax, "clear_caches", lambda: None)
    monkeypatch.setenv("COLUMNS", "250")


def command(*arguments: str, store: Path, workdir: Path, seeds: int = 1) -> None:
    values = flags.FlagValues()
    emojax.tables.define_flags(Flags(values))
    words = values(
        ["tables", *arguments, f"--store={store}", f"--workdir={workdir}", "--budget=tiny",
         f"--seeds={seeds}", f"--configs={CONFIGS}"]
    )  # fmt: skip
    emojax.tables.main(values, *words[1:])


def document(workdir: Path, name: str) -> dict[str, Any]:
    return json.loads((workdir / "toy-tiny" / name / "TABLE.json").read_text())


def row_of(found: dict[str, Any], label: str) -> dict[str, Any]:
    (row,) = [row for row in found["rows"] if row["label"] == label]
    return row


# -- a table of each family ----------------------------------------------------------------------


@pytest.mark.slow
def test_recursions_on_fold_1_are_scored_as_evaluate_does(
    store: Path, workdir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("rjcma.3", "--only=l = 1")
    # Stopped by hand after the first epoch ...
    save = Trainer._save

    def interrupted(self: Trainer, *rest: Any) -> None:
        save(self, *rest)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            command(*arguments, store=store, workdir=workdir, seeds=2)
    assert "; begun" in capsys.readouterr().out
    assert not list(workdir.rglob(table_runs.FINISHED_FILE))
    # ... it goes on where it was ...
    command(*arguments, store=store, workdir=workdir, seeds=2)
    text = capsys.readouterr().out
    assert "4 models, fold 1" in text
    assert "; resumed" in text
    found = document(workdir, "rjcma.3")
    row = row_of(found, "l = 1")
    trained = open_run(row["run"])
    assert trained.step == 4
    assert (found["data"], found["simulated"], found["budget"]) == ("toy", True, "tiny")
    for words in ("SIMULATED DATA", "2 seeds", "budget tiny", "Aff-Wild2"):
        assert words in found["title"]
        assert words in " ".join(text.split())
    # ... and is scored as any run is.
    opened = Store(store)
    fold = opened.fold("1")
    predictions = trained.predict(opened, [list(fold.validation)])
    truth = read_annotations(opened, fold, fold.validation, "va")
    for seed in (0, 1):
        members = [r for r, one in enumerate(trained.session.replicas) if one.seed == seed]
        values_NC = concatenate(
            truth, ensemble(trained.session.weights, predictions, members), "va"
        )
        scores = TASK_OPS["va"].scores(values_NC, truth.labels_NK, truth.mask_NK)
        assert row["columns"]["Valence"]["values"][seed] == pytest.approx(scores["ccc_valence"])
        assert row["columns"]["Mean"]["values"][seed] == pytest.approx(scores["ccc_mean"])
    assert row["columns"]["Arousal"]["paper"] == 0.656
    assert row["columns"]["Valence"]["optimum"] > 0.9
    # All rows are scored on one fold, so its optimum is one row and no column.
    lines = (workdir / "toy-tiny" / "rjcma.3" / "TABLE.md").read_text().splitlines()
    (shared,) = [line for line in lines if "optimum of the simulation" in line]
    assert f"| {row['columns']['Valence']['optimum']:.3f} |" in shared
    assert not any("Valence, optimum" in line for line in lines)
    assert row_of(found, "l = 2")["columns"]["Valence"]["state"] == "not trained"
    # A second call trains nothing, nor does one that wants fewer seeds.
    monkeypatch.setattr(Trainer, "run", lambda self: pytest.fail("trained again"))
    for seeds in (2, 1):
        command(*arguments, store=store, workdir=workdir, seeds=seeds)
        assert "trained before" in capsys.readouterr().out
    assert document(workdir, "rjcma.3")["seeds"] == 1
    assert (workdir / "toy-tiny" / "rjcma.3" / "TABLE.png").stat().st_size > 1000


@pytest.mark.nightly
def test_exptrm_beside_its_baseline_and_with_missing_frames(store: Path, workdir: Path) -> None:
    command("exptrm.1", "--only=ExpTrm (V)", store=store, workdir=workdir)
    found = document(workdir, "exptrm.1")
    first, second = (row_of(found, label) for label in ("ExpTrm (V)", "VGGFace-RNN (V)"))
    tests = {test["column"]: test for test in found["comparisons"]}
    assert set(tests) == {"CCC-Va", "CCC-Ar"}
    for column, test in tests.items():
        gap = first["columns"][column]["mean"] - second["columns"][column]["mean"]
        assert test["difference"] == pytest.approx(gap)
        assert test["low"] <= test["high"]
        assert (test["fisher_p"] < 0.01) == first["columns"][column]["significant"]
    # The same training serves the row that lacks Aff-Wild, and says so.
    dynamic = row_of(found, "AffWildNet + Dynamic (V)")
    assert dynamic["run"] == second["run"]
    assert "ours without Aff-Wild" in dynamic["shown_as"]
    assert row_of(found, "NISL (V) [48]")["columns"]["CCC-Va"]["state"] == "published only"

    command("exptrm.missing", "--trials=2", store=store, workdir=workdir)
    found = document(workdir, "exptrm.missing")
    assert "2 trials for each share; the paper's are 10." in found["notes"]
    cells = [row_of(found, label)["columns"] for label in ("0%", "50%", "100%")]
    title = "CCC-Va, video missing"
    assert [len(cell[title]["values"]) for cell in cells] == [1, 2, 1]
    # Nothing missing is the same whichever modality it is missing of.
    assert cells[0][title]["mean"] == cells[0]["CCC-Va, audio missing"]["mean"]
    assert cells[2][title]["mean"] != cells[2]["CCC-Va, audio missing"]["mean"]
    assert (workdir / "toy-tiny" / "exptrm.missing" / "TABLE.png").is_file()


@pytest.mark.nightly
def test_emma_net_tells_the_stability_of_its_ticks(store: Path, workdir: Path) -> None:
    command("emma.length", "--only=6", store=store, workdir=workdir)
    columns = row_of(document(workdir, "emma.length"), "6")["columns"]
    utility = [columns[f"ECU, eps = {e:g}"]["mean"] for e in (0.05, 0.1, 0.2)]
    assert 0 <= utility[0] <= utility[1] <= utility[2] <= 100
    assert 0 <= columns["Avg(F1)"]["mean"] <= 100


@pytest.mark.nightly
def test_one_fold_of_a_table_of_six(
    store: Path, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command("multiscale.2", "--only=Fold-3", store=store, workdir=workdir)
    found = document(workdir, "multiscale.2")
    assert row_of(found, "Fold-3")["columns"]["P (eq. 16)"]["mean"] is not None
    assert row_of(found, "Fold-1")["columns"]["Valence"]["state"] == "not trained"
    assert row_of(found, "Baseline")["columns"]["Valence"]["paper"] == 0.24
    capsys.readouterr()


@pytest.mark.slow
def test_a_test_partition_without_annotations_gets_submissions(tmp_path: Path) -> None:
    store = build(tmp_path / "unlabelled", tested=False)
    command("tcn_transformer.4", store=store, workdir=tmp_path)
    found = document(tmp_path, "tcn_transformer.4")
    row = row_of(found, "Ours")
    assert row["columns"]["F1"]["state"] == "submission written"
    lines = (Path(row["run"]) / "submissions/test/fold_2_au.txt").read_text().splitlines()
    assert lines[0].startswith("image_location,AU1,")
    assert len(lines) == 1 + sum(LENGTHS["test"])
    assert any("emojax submit" in note for note in found["notes"])
    command("tcn_transformer.5", "--only=AU, validation, ours", "--dry_run", store=store,
            workdir=tmp_path)  # fmt: skip


@pytest.mark.slow
def test_a_leader_and_its_followers_on_both_partitions(store: Path, workdir: Path) -> None:
    command("rjcma.2", "--only=Zhang et al. [42]", store=store, workdir=workdir)
    columns = row_of(document(workdir, "rjcma.2"), "Zhang et al. [42]")["columns"]
    assert columns["Test Arousal"]["paper"] == 0.629
    values = [columns[f"{part} Valence"]["mean"] for part in ("Validation", "Test")]
    assert values[0] != values[1]


# -- without a training --------------------------------------------------------------------------


def result_of(name: str, values: dict[str, tuple[float, ...]]) -> Result:
    table = TABLES[name]
    lines = tuple(
        Line(
            row,
            row.label,
            tuple(
                Cell(
                    values.get(row.label, ()),
                    published=table.published(row, column),
                    state="" if row.label in values else "not trained",
                )
                for column in table.columns
            ),
        )
        for row in table.rows
    )
    return Result(table, "A title", lines, ("A note",), (), "toy", False, "paper", 3)


def test_files_agree_and_seeds_that_diverged_are_left_out(tmp_path: Path) -> None:
    result = result_of("rjcma.3", {"l = 1": (0.5, math.nan, 0.6), "l = 2": (0.4,)})
    text = markdown(result)
    assert text.startswith("# rjcma.3\n\nA title\n")
    assert "| l = 1 | 0.550 [0.500, 0.600] /2 | 0.568 |" in text
    assert "| l = 2 | 0.400 | 0.576 |" in text
    assert "| l = 3 | not trained | 0.585 |" in text
    assert text.rstrip().endswith("- A note")
    cell = json.loads(as_json(result))["rows"][0]["columns"]["Valence"]
    assert cell["values"] == [0.5, None, 0.6]
    lines = list(csv.DictReader(io.StringIO(as_csv(result))))
    assert len(lines) == 12
    assert (lines[0]["mean"], lines[0]["seeds"], lines[0]["simulated"]) == ("0.55", "2", "false")
    draw(tmp_path / "curve.png", result)
    assert (tmp_path / "curve.png").stat().st_size > 1000
    # Percent, with as many decimals as the paper gives.
    assert "| 28 |" in markdown(result_of("emma.2", {}))


def test_a_table_of_many_columns_fits_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    label = "Arousal, test, ours"
    print_table(result_of("tcn_transformer.5", {label: (0.5, 0.6)}), Console(width=150))
    lines = capsys.readouterr().out.splitlines()
    (at,) = [i for i, line in enumerate(lines) if label in line]
    assert lines[at].count("0.5500") == 5
    assert "(0.6325)" in lines[at + 1]
    assert max(map(len, lines)) <= 150


def test_widths_of_the_stores_streams(store: Path, tmp_path: Path) -> None:
    command("multiscale.1", store=store, workdir=tmp_path)
    columns = row_of(document(tmp_path, "multiscale.1"), "LogMel")["columns"]
    assert (columns["Dimension"]["mean"], columns["Dimension"]["paper"]) == (6, 128)


def finished(runs: Path, job: Job, folds: str, seeds: int, *, diverged: bool = False) -> Path:
    folder = runs / job.recipe.name / f"{folds}-{seeds}"
    folder.mkdir(parents=True)
    content = {"folds": [*folds], "seeds": [*range(seeds)], "seconds": 1.0, "diverged": diverged}
    (folder / table_runs.FINISHED_FILE).write_text(json.dumps(content))
    return folder


def test_a_run_of_more_folds_and_seeds_serves(tmp_path: Path) -> None:
    recipes = Recipes(CONFIGS, "tiny")
    table = TABLES["rjcma.1"]
    (job,) = plan(table, [table.row("Fold 3")], recipes, 2)
    assert table_runs.find_run(tmp_path, job) is None
    for folds, seeds in (("012", 3), ("3", 1)):
        finished(tmp_path, job, folds, seeds)
    assert table_runs.find_run(tmp_path, job) is None
    large = finished(tmp_path, job, "012345", 3)
    found = table_runs.find_run(tmp_path, job)
    assert found is not None
    assert found.folder == large
    small = finished(tmp_path, job, "03", 2)
    found = table_runs.find_run(tmp_path, job)
    assert found is not None
    assert found.folder == small


def test_a_row_that_diverged_says_so(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = Store(store)
    recipes = Recipes(CONFIGS, "tiny", opened.metadata["checksum"])
    table = TABLES["emma.fusion"]
    (job,) = plan(table, [table.row("additive")], recipes, 1)
    finished(tmp_path / "runs", job, "0", 1, diverged=True)
    command("emma.fusion", "--only=additive", store=store, workdir=tmp_path)
    assert "trained before" in capsys.readouterr().out
    row = row_of(document(tmp_path, "emma.fusion"), "additive")
    assert row["columns"]["Avg(F1)"]["state"] == "diverged"


def test_only_a_run_that_diverged_altogether_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise InputError("Training diverged.")

    nothing: Any = None
    monkeypatch.setattr(table_runs, "train_run", fails)
    monkeypatch.setattr(table_runs, "saved_steps", lambda folder: [3])
    for lost, expected in ((True, True), (False, None)):
        run = types.SimpleNamespace(lost_R=np.array([True, lost]))
        monkeypatch.setattr(table_runs, "open_run", lambda folder, run=run: run)
        if expected:
            assert table_runs._train(nothing, nothing, tmp_path)
        else:
            with pytest.raises(InputError):
                table_runs._train(nothing, nothing, tmp_path)


@pytest.mark.slow
def test_comparing_a_run_with_itself_finds_nothing(store: Path, workdir: Path) -> None:
    """Needs the run of the first test of this file, or makes it."""
    command("rjcma.3", "--only=l = 1", store=store, workdir=workdir, seeds=2)
    folder = Path(row_of(document(workdir, "rjcma.3"), "l = 1")["run"])
    run = table_runs.Run(folder, ("1",), (0, 1), 0.0, False)
    measured = measure(run, Store(store), "validation")
    for seed in (0, 1):
        states = measured.states("1", seed, "va")
        merged = states[0]
        for state in states[1:]:
            merged = merged.merge(state)
        scores = TASK_OPS["va"].summarise(merged)
        assert scores["ccc_valence"] == pytest.approx(measured.scores["1"][seed]["ccc_valence"])
    labels = ("a", "b", "Valence")
    test = compare(labels, measured, measured, "1", "va", "ccc_valence", (0, 1))
    assert test is not None
    assert (test.difference, test.low, test.high, test.p, test.mark) == (0, 0, 0, 1, "")
