"""Tests the papers' tables as data, the plans made from them, and the command's refusals."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from absl import flags

import emojax.tables
from data.synthetic import make_options
from emojax.commands.cli import Flags
from emojax.config_reading import as_plain
from emojax.core.session import build_session
from emojax.datasets.folds import parse_scheme
from emojax.datasets.source import Store
from emojax.errors import InputError
from emojax.ops.tasks import TASK_OPS
from emojax.papers.budgets import BUDGETS, PAPER, SMALL, TINY
from emojax.papers.table_plan import Recipes, places, plan
from emojax.papers.table_scores import task_of
from emojax.published import TABLES
from emojax.published.schema import PaperTable
from emojax.specs import STREAMS
from tests.small_store import build_small_store

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
NAMES = [
    "exptrm.1", "exptrm.missing", "emma.1", "emma.2", "emma.fusion", "emma.length", "rjcma.1",
    "rjcma.2", "rjcma.3", "rjcma.4", "multiscale.1", "multiscale.2",
    *(f"tcn_transformer.{number}" for number in range(1, 9)),
]  # fmt: skip


def trained(table: PaperTable) -> list:
    return [row for row in table.rows if row.training]


@pytest.fixture(scope="module")
def recipes() -> dict[str, Recipes]:
    return {budget: Recipes(CONFIGS, budget) for budget in BUDGETS}


# -- the data ------------------------------------------------------------------------------------


def test_every_table_of_the_papers_is_there() -> None:
    assert list(TABLES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_tables_are_well_formed(name: str, recipes: dict[str, Recipes]) -> None:
    table = TABLES[name]
    titles = [column.title for column in table.columns]
    published = [column for column in table.columns if column.published]
    assert len(set(titles)) == len(titles)
    assert len({row.label for row in table.rows}) == len(table.rows)
    _, number = parse_scheme(table.scheme)
    for row in table.rows:
        assert len(row.published) in (0, len(published)), row.label
        assert len(row.facts) == len(table.facts), row.label
        assert row.ours or any(value is not None for value in row.published), row.label
        assert set(row.daggers) <= set(titles)
        assert bool(row.daggers) <= bool(row.versus)
        assert not row.versus or table.row(row.versus).training
        assert not row.stream or row.stream in STREAMS
        assert (row.x is not None) == bool(table.curve), row.label
    for row, one in places(table, trained(table)):
        config = recipes[PAPER](row).config
        task = task_of(config)
        known = {*TASK_OPS[task].score_names, "ecu_0.05", "ecu_0.1", "ecu_0.2"}
        # A score of another task leaves the cell empty; a misspelt one would be of none.
        everything = {n for ops in TASK_OPS.values() for n in ops.score_names} | known
        assert set(one.scores) <= everything
        assert 0 <= int(one.fold) < number
        assert one.partition in ("validation", "test")
        assert not one.missing or one.missing in config["data"]["streams"]
    for row in trained(table):
        task = task_of(recipes[PAPER](row).config)
        assert any(
            set(one.scores) & {*TASK_OPS[task].score_names} for _, one in places(table, [row])
        ), row.label


@pytest.mark.parametrize("budget", BUDGETS)
def test_every_training_can_be_built(budget: str, recipes: dict[str, Recipes]) -> None:
    built: set[str] = set()
    for table in TABLES.values():
        for row in trained(table):
            recipe = recipes[budget](row)
            if recipe.name not in built:
                built.add(recipe.name)
                session = build_session(recipe.config, STREAMS, jax.devices()[:1])
                assert session.tasks == (task_of(recipe.config),)
    # A budget must not make two rows the same training: 2000 and 4096 units stay apart.
    assert len(built) == 56


# Table, row and column -> the paper's number, typed anew from the papers.
PUBLISHED = {
    ("exptrm.1", "RNN (A)", "CCC-Ar"): 0.168,
    ("exptrm.1", "M3T (A+V) [49]", "CCC-Ar"): 0.550,
    ("exptrm.1", "ExpTrm (A+V)", "CCC-Va"): 0.396,
    ("emma.1", "Split4", "Anger"): 28,
    ("emma.1", "Split5", "Avg(F1)"): 35.5,
    ("emma.2", "attention fusion", "Acc"): 49.2,
    ("emma.2", "only video", "Sadness"): 75,
    ("emma.fusion", "gating", "Avg(F1)"): 35.2,
    ("rjcma.1", "Fold 3", "Arousal"): 0.647,
    ("rjcma.2", "Zhang et al. [42]", "Test Valence"): 0.552,
    ("rjcma.2", "Praveen et al. [23]*", "Validation Arousal"): 0.639,
    ("rjcma.3", "l = 4", "Mean"): 0.615,
    ("rjcma.4", "SUN-CE [64]", "Valence"): 0.5355,
    ("multiscale.1", "IResNet-50", "Dimension"): 512,
    ("multiscale.2", "Fold-4", "Valence"): 0.6045,
    ("tcn_transformer.1", "AU", "F1-score"): 0.5248,
    ("tcn_transformer.2", "CBCR", "CCC-A"): 0.6299,
    ("tcn_transformer.3", "Wall Lab", "F1"): 0.2913,
    ("tcn_transformer.4", "USC IHP", "F1"): 0.4292,
    ("tcn_transformer.5", "Arousal, test, ours", "Fold 2"): 0.6325,
    ("tcn_transformer.5", "AU, validation, baseline", "Fold 0"): 0.39,
    ("tcn_transformer.6", "Eff, ArcFace, AffectNet8, RAF-DB", "Arousal"): 0.6613,
    ("tcn_transformer.7", "Eff, AffectNet8 + Wav2Vec2-emotion", "F1-score"): 0.4028,
    ("tcn_transformer.8", "Eff", "F1-score"): 0.5118,
}


@pytest.mark.parametrize(("name", "label", "title"), PUBLISHED)
def test_published_numbers(name: str, label: str, title: str) -> None:
    table = TABLES[name]
    (column,) = [column for column in table.columns if column.title == title]
    assert table.published(table.row(label), column) == PUBLISHED[name, label, title]


def test_published_means_agree_where_the_papers_do() -> None:
    """Typing errors show in a mean that is not one; where the paper errs, its table says so."""
    errs = {("rjcma.1", "Fold 4"), ("rjcma.3", "l = 1"), ("rjcma.3", "l = 2")}
    means = (("rjcma.1", 2, 1e-3), ("rjcma.3", 2, 1e-3), ("rjcma.4", 2, 1e-4),
             ("tcn_transformer.2", 0, 1e-3))  # fmt: skip
    found = set()
    for name, at, tolerance in means:
        for row in TABLES[name].rows:
            values = [value for value in row.published if value is not None]
            mean = values.pop(at)
            if abs(np.mean(values) - mean) > tolerance:
                found.add((name, row.label))
    assert found == errs
    for name in ("emma.1", "emma.2"):
        for row in TABLES[name].rows:
            *classes, _, mean = [value or 0.0 for value in row.published]
            if abs(np.mean(classes) - mean) > 0.15:
                found.add((name, row.label))
    assert found - errs == {
        ("emma.1", "Split2"), ("emma.2", "only video"), ("emma.2", "concat fusion"),
    }  # fmt: skip


def test_rows_of_other_peoples_systems_are_only_published() -> None:
    counts = {
        name: sum(not row.ours for row in table.rows)
        for name, table in TABLES.items()
        if not all(row.ours for row in table.rows)
    }
    assert counts == {
        "exptrm.1": 2, "rjcma.2": 3, "rjcma.4": 10, "multiscale.2": 1, "tcn_transformer.2": 10,
        "tcn_transformer.3": 13, "tcn_transformer.4": 12, "tcn_transformer.5": 8,
    }  # fmt: skip


# -- plans ---------------------------------------------------------------------------------------


def test_equal_rows_are_one_training_and_tables_share_them(recipes: dict[str, Recipes]) -> None:
    make = recipes[PAPER]
    table = TABLES["exptrm.1"]
    assert make(table.row("AffWildNet + Dynamic (V)")) != make(table.row("RNN (A)"))
    jobs = plan(table, trained(table), make, 2)
    assert len(jobs) == 7
    assert jobs[2].rows == ("AffWildNet + Dynamic (V)", "VGGFace-RNN (V)")
    # Started from another run it is another training.
    started = Recipes(CONFIGS, PAPER, init_from={"AffWildNet + Dynamic (V)": "runs/aff_wild"})
    assert len(plan(table, trained(table), started, 2)) == 8
    (job,) = plan(TABLES["rjcma.1"], trained(TABLES["rjcma.1"]), make, 2)
    assert job.folds == ("0", "1", "2", "3", "4", "5")
    assert job.replicas == 6 * 2 * 2
    same = {
        make(TABLES[name].row(label)).name
        for name, label in (("rjcma.1", "Fold 2"), ("rjcma.2", "RJCMA (Ours)"),
                            ("rjcma.3", "l = 3"), ("rjcma.4", "RJCMA (Ours)"))
    }  # fmt: skip
    assert same == {job.recipe.name}
    # Other data, another training.
    assert Recipes(CONFIGS, PAPER, "12ab")(TABLES["rjcma.1"].rows[0]).name != job.recipe.name


def test_budgets_shorten_and_narrow(recipes: dict[str, Recipes]) -> None:
    row = TABLES["exptrm.1"].row("AffWildNet + Static (V) (2000) [47]")
    hidden = [recipes[b](row).config["model"]["hidden"]["vggface"] for b in (PAPER, SMALL, TINY)]
    assert hidden == [2000, 125, 7]
    row = TABLES["rjcma.3"].row("l = 4")
    for budget, levels in ((SMALL, 4), (TINY, 1)):
        config = recipes[budget](row).config
        assert config["model"]["recursions"] == 4
        assert len(config["model"]["channels"]["ir50"]) == levels
        assert config["train"]["decay"] == "cosine"
    assert recipes[PAPER](row).overrides == {}


def parsed(command: str) -> Any:
    words = shlex.split(command)
    assert words[:2] == ["emojax", "train"]
    values = flags.FlagValues()
    Flags(values).config("")
    Flags(values).string("workdir", None, "")
    sys.argv = ["train", *words[2:]]
    values(sys.argv)
    return values["config"].value


# ml_collections loads configurations in a way that Python 3.12 no longer has.
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_dry_run_prints_commands_that_train_the_same(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", [])  # what flags of configurations are read from
    names = ("exptrm.1", "emma.length", "rjcma.2", "multiscale.2", "tcn_transformer.5")
    command(*names, "--dry_run", "--budget=tiny", f"--workdir={tmp_path}", "--seeds=2")
    lines = capsys.readouterr().out.splitlines()
    commands = [line for line in lines if line.startswith("emojax train")]
    assert len(commands) == 7 + 5 + 6 + 1 + 3
    assert sum(line.startswith("# a store: emojax simulate") for line in lines) == 5
    for wanted in ("rjcma:jca", "emma_net:t18", "multiscale_tcn:folds", "tcn_transformer:folds_au"):
        (text,) = [line for line in commands if f"--config={wanted} " in line]
        (job,) = [
            job
            for name in names
            for job in plan(TABLES[name], trained(TABLES[name]), Recipes(CONFIGS, TINY), 2)
            if job.recipe.training.config == wanted
        ]
        assert as_plain(parsed(text)) == job.recipe.with_replicas("STORE", job.folds, 2)
    assert not any(tmp_path.iterdir())


# -- the command ---------------------------------------------------------------------------------


def command(*arguments: str) -> None:
    values = flags.FlagValues()
    emojax.tables.define_flags(Flags(values))
    words = values(["tables", *arguments, f"--configs={CONFIGS}"])[1:]
    emojax.tables.main(values, *words)


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emojax.tables, "use_compilation_cache", lambda: None)
    monkeypatch.setenv("COLUMNS", "220")


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    command("--list")
    text = capsys.readouterr().out
    for name in NAMES:
        (line,) = [line for line in text.splitlines() if f" {name} " in line]
        if name == "rjcma.2":
            cells = [cell.strip() for cell in line.split("│")[1:-1]]
            assert cells[2:] == ["validation, test", "0", "6", "11", "6", "3"]


def test_a_store_that_lacks_something_is_refused_with_the_command_for_one(tmp_path: Path) -> None:
    store = build_small_store(tmp_path / "store", folds=1)
    for name, budget, missing in (
        ("rjcma.3", SMALL, "no stream bert; no fold 1"),
        ("exptrm.missing", PAPER, "no streams vggface, compare_lld"),
        ("emma.1", TINY, "no stream fan; no task expr; no folds 1, 2, 3, 4, 5"),
        ("tcn_transformer.5", TINY, "no tasks expr, au"),
    ):
        with pytest.raises(InputError) as caught:
            command(name, f"--store={store}", f"--budget={budget}", f"--workdir={tmp_path}")
        found, remedy = caught.value.details["found"], caught.value.details["remedy"]
        assert missing in found
        assert name in str(caught.value)
        words = shlex.split(re.search(r"emojax simulate .*", remedy)[0])[2:]  # type: ignore[index]
        given = [word.removeprefix("--").split("=", 1) for word in words]
        widths = [value for key, value in given if key == "width"]
        named = {key: value for key, value in given if key != "width"}
        options = make_options(
            size=named["size"],
            videos={"train": int(named["train_videos"])} if "train_videos" in named else None,
            streams=named["streams"].split(","),
            tasks=named["tasks"].split(","),
            widths=widths,
            folds=named["folds"],
        )
        recipes = Recipes(CONFIGS, budget)
        wanted = [recipes(row).config["data"] for row in trained(TABLES[name])]
        assert {s.name for s in options.streams} == {s for data in wanted for s in data["streams"]}
        assert set(options.tasks) == {task for data in wanted for task in data["tasks"]}
    Store(store).close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "nothing"),
        (("rjcma.3", "--all"), "--all and rjcma.3"),
        (("rjmca.3",), "did you mean rjcma.3"),
        (("rjcma.3", "--only=l = 5"), "l = 5"),
        (("exptrm.1", "--only=NISL (V) [48]"), "only published"),
        (("exptrm.1", "--init_from=runs/a"), "ROW=RUN"),
        (("rjcma.3", "--store=/nowhere"), "There is no store here"),
    ],
)
def test_what_is_not_clear_is_refused(arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(InputError) as caught:
        command(*arguments)
    assert words in str(caught.value)
