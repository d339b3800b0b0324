"""``python -m emojax.submit`` as an entrant calls it; one process imports, and forks for each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from emojax.datasets.source import Store
from emojax.exchange.submission_check import check_submission
from emojax.exchange.submission_frames import header_of
from emojax.specs import TASKS
from tests.forked_commands import run_forked, said
from tests.small_store import build_small_store
from tests.test_submission import scores, template, write_csv
from tests.training_runs import (
    quick_compiling,  # noqa: F401 - a fixture
    tiny_config,
    train,
)

FRAMES = 23  # of the store's only test video
UNITS = TASKS["au"].labels

# Case -> words of what goes wrong; the others succeed.
FAILURES = {
    "no_source": ["exactly one", "none of them"],
    "two_sources": ["--checkpoint and --predictions"],
    "no_out": ["--out"],
    "template_for_edition_3": ["--template", "has no effect"],
    "another_task": ["does not predict this task", "expr", "va"],
    "missing_video": ["no predictions", "1 without: nobody", "--allow_missing"],
    "missing_without_length": ["number of frames", "nobody", "--template"],
    "broken": ["line 3", "1.5", "from -1 to 1"],
    "another_list": ["not those of the test list", "nobody"],
    "out_is_a_folder": ["--out", "a folder"],
    "files_in_the_way": ["without .txt files"],
}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder in which every case has been run."""
    folder = tmp_path_factory.mktemp("submit")
    path = build_small_store(
        folder / "store",
        lengths=(20, 22),
        validation_lengths=(20,),
        test_lengths=(FRAMES,),
        folds=1,
    )
    with Store(path) as store:
        train(store, folder / "run", tiny_config(path, train={"epochs": 1, "epoch_steps": 1}))
    rng = np.random.default_rng(0)
    write_csv(folder / "csv", "au", "a_left", rng.random((7, len(UNITS))))
    write_csv(folder / "csv", "au", "b", rng.random((3, len(UNITS))))
    scores(folder / "scores.json", "au")
    asked = [f"test-0/{i:05d}.jpg" for i in (*range(1, 11), *range(15, 31))]
    template(folder, asked)
    (folder / "more.txt").write_text((folder / "template.txt").read_text() + "nobody/00002.jpg\n")
    (folder / "list.txt").write_text("b\na_left\n")
    (folder / "longer.txt").write_text("b\na_left\nnobody\n")
    (folder / "broken.txt").write_text(
        ",".join(header_of("va")) + "\na/00001.jpg,0,0\na/00002.jpg,0,1.5\n"
    )
    # Flags with a trailing "@" are files of the folder.
    lines = {
        "predict": "emojax.predict --checkpoint=run@ --out=predicted@",
        "run": "--checkpoint=run@ --task=va --template=template.txt@ --out=run.txt@",
        "again": "--predictions=predicted@ --task=va --store=store@ --edition=5 --out=again.txt@",
        "valid": "--validate=run.txt@ --task=va --template=template.txt@",
        "valid_by_store": "--validate=again.txt@ --task=va --store=store@",
        "allowed": "--predictions=predicted@ --task=va --template=more.txt@ --allow_missing "
        "--out=allowed.txt@",
        "units": "--predictions=csv@ --task=au --test_list=list.txt@ --out=units.txt@",
        "tuned": "--predictions=csv@ --task=au --decisions=scores.json@ --out=tuned.txt@",
        "third": "--predictions=csv@ --task=au --edition=3 --out=third@",
        "third_valid": "--validate=third@ --task=au --edition=3 --test_list=list.txt@",
        "no_source": "--task=va --out=x.txt@",
        "two_sources": "--checkpoint=run@ --predictions=csv@ --task=va --out=x.txt@",
        "no_out": "--checkpoint=run@ --task=va",
        "template_for_edition_3": "--checkpoint=run@ --task=va --edition=3 --out=x@ "
        "--template=template.txt@",
        "another_task": "--checkpoint=run@ --task=expr --out=x.txt@",
        "missing_video": "--checkpoint=run@ --task=va --template=more.txt@ --out=x.txt@",
        "missing_without_length": "--predictions=csv@ --task=au --test_list=longer.txt@ "
        "--allow_missing --out=x.txt@",
        "broken": "--validate=broken.txt@ --task=va",
        "another_list": "--validate=units.txt@ --task=au --test_list=longer.txt@",
        "out_is_a_folder": "--checkpoint=run@ --task=va --out=csv@",
        "files_in_the_way": "--predictions=csv@ --task=au --edition=3 --out=third@",
    }
    cases = {}
    for name, line in lines.items():
        words = line if line.startswith("emojax.") else f"emojax.submit {line}"
        cases[name] = [
            f"{word.partition('=')[0]}={folder / word.partition('=')[2][:-1]}"
            if word.endswith("@")
            else word
            for word in words.split()
        ]
    return run_forked(folder, cases, columns=200)


def printed(folder: Path, name: str) -> str:
    """Returns the output of a case, which must have succeeded."""
    return said(folder, name)[0]


@pytest.mark.slow
def test_a_run_answers_every_row_of_the_template(here: Path) -> None:
    text = printed(here, "run")
    assert "26 rows, 7 repeated, 4 predictions cut" in text
    assert [line.split()[1:10:2] for line in text.splitlines() if "│ test-0" in line] == [
        ["test-0", "26", str(FRAMES), "7", "4"]
    ]
    assert "sound, with the template: 1 videos, 26 rows" in printed(here, "valid")


@pytest.mark.slow
def test_files_of_predict_give_the_same_submission(here: Path) -> None:
    printed(here, "predict")
    assert f"1 videos, {FRAMES} rows" in printed(here, "again")
    assert f"1 videos, {FRAMES} rows" in printed(here, "valid_by_store")
    whole_N2 = check_submission(here / "again.txt", "va")[1]
    numbers_N, values_N2 = rows_of_the_template(here)
    # Files of predictions have five decimals.
    wanted_N2 = whole_N2[np.minimum(numbers_N, FRAMES) - 1]
    np.testing.assert_allclose(values_N2, wanted_N2, rtol=0, atol=1e-5)


def rows_of_the_template(here: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns frame numbers and values of the submission that was made for the template."""
    lines = [line.split(",") for line in (here / "run.txt").read_text().splitlines()[1:]]
    numbers = [int(cells[0].split("/")[1].removesuffix(".jpg")) for cells in lines]
    return np.array(numbers), np.array([[float(cell) for cell in cells[1:]] for cells in lines])


@pytest.mark.slow
def test_what_nobody_predicts_is_said_loudly(here: Path) -> None:
    text = printed(here, "allowed")
    assert "WARNING: 1 videos have no prediction" in text
    assert "nobody" in text
    last = (here / "allowed.txt").read_text().splitlines()[-1]
    assert last == "nobody/00002.jpg,0.0000000,0.0000000"


@pytest.mark.slow
def test_units_are_decided_at_a_half_or_as_tuned(here: Path) -> None:
    assert "at 0.5" in printed(here, "units")
    assert "tuned thresholds of the mean of 2 folds" in printed(here, "tuned")
    order, units = check_submission(here / "units.txt", "au")
    assert order.videos == ("b", "a_left")
    tuned = check_submission(here / "tuned.txt", "au")[1]
    assert tuned.sum() > units.sum()


@pytest.mark.slow
def test_the_third_edition_has_a_file_for_each_video(here: Path) -> None:
    assert "2 videos, 10 rows" in printed(here, "third")
    assert "2 files, 10 rows" in printed(here, "third_valid")
    assert sorted(path.name for path in (here / "third").iterdir()) == ["a_left.txt", "b.txt"]
    assert (here / "third" / "b.txt").read_text().splitlines()[0] == ",".join(UNITS)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAILURES)
def test_what_is_wrong_is_told_on_one_screen(here: Path, name: str) -> None:
    _, errors = said(here, name, 2)
    assert "Traceback" not in errors
    assert len(errors.splitlines()) <= 15
    for words in FAILURES[name]:
        assert words in errors
    assert not (here / "x.txt").exists()
