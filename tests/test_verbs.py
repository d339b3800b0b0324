"""The command ``emojax``: verbs, --help, --version, configurations by name, many in a process."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from absl import flags

import emojax
from emojax import shipped
from emojax.commands.cli import Flags
from emojax.commands.verbs import VERBS, main
from emojax.errors import InputError
from tests.training_runs import subprocess_environment

ROOT = Path(__file__).resolve().parents[1]
# A default configuration is read when its flag is defined, in a way that Python 3.12 has no more.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=subprocess_environment() | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def called(*words: str) -> int | None:
    with pytest.raises(SystemExit) as end:
        main(["emojax", *words])
    assert isinstance(end.value.code, int | None)
    return end.value.code


def test_every_command_has_a_verb_and_its_flags_meet_no_other() -> None:
    """All are imported into this process, and each defines flags of its own."""
    defined = {}
    for name, verb in VERBS.items():
        values = flags.FlagValues()
        verb.command().define_flags(Flags(values))
        defined[name] = set(values)
    assert "checkpoint" in defined["evaluate"] & defined["predict"]
    assert "config" in defined["train"] & defined["crossval"]
    assert not {"checkpoint", "config", "out"} & set(flags.FLAGS)
    with_command = {
        (folder, path.stem)
        for folder in ("emojax", "data")
        for path in (ROOT / folder).glob("*.py")
        if re.search(r"^COMMAND = ", path.read_text(), re.MULTILINE)
    }
    assert {("data" if verb.builds else "emojax", verb.module) for verb in VERBS.values()} == (
        with_command
    )


def test_the_overview_tells_every_verb_and_needs_no_jax(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert called("--help") == 0
    text = capsys.readouterr().out
    lines = [line.split() for line in text.splitlines() if line.startswith("  ")]
    assert [line[0] for line in lines] == list(VERBS)
    assert all(len(line) > 2 for line in lines)
    done = python(
        "import sys\nfrom emojax.commands.verbs import main\n"
        "try:\n    main(['emojax', '--help'])\n"
        "except SystemExit:\n    print(sorted({'jax', 'flax', 'matplotlib'} & set(sys.modules)))"
    )
    assert done.stdout == text + "[]\n", done.stderr


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert called("--version") == 0
    assert capsys.readouterr().out.split() == ["emojax", emojax.__version__]


@pytest.mark.parametrize(("words", "named"), [(["evalaute"], "evaluate?"), ([], "--help")])
def test_a_wrong_verb_is_bad_input(
    words: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(*words) == InputError.status == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert named in errors
    assert errors.count("\n") <= 6


@pytest.mark.slow
def test_commands_run_one_after_another_in_one_process() -> None:
    """Also after one that failed; none sees the flags of another."""
    calls = (
        ["weights", "layouts", "--layout=lfan"],
        ["weights", "layouts", "--step=x"],
        ["report", "--help"],
        ["report", "nowhere", "--layout=lfan"],
        ["report", "nowhere"],
        ["systems", "segment_mlp:nothing"],
        ["weights", "layouts"],
    )
    done = python(
        "from emojax.commands.verbs import main\n"
        f"for words in {calls}:\n"
        "    try:\n        main(['emojax', *words])\n"
        "    except SystemExit as end:\n        print('status', end.code or 0, flush=True)"
    )
    statuses = [line.split()[1] for line in done.stdout.splitlines() if line[:6] == "status"]
    assert statuses == ["0", "2", "0", "2", "2", "2", "0"], done.stderr
    parts = done.stdout.split("status")
    assert "lfan" in parts[0]
    assert "rjcma" not in parts[0]
    assert "--draws" in parts[2]
    assert "rjcma" in parts[6]  # --layout of the first call is forgotten
    for field in ("--step", "--layout", "nowhere", "nothing"):
        assert field in done.stderr


def test_the_script_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, function = project["scripts"]["emojax"].partition(":")
    assert getattr(__import__(module, fromlist=[function]), function) is main


@pytest.mark.parametrize("variant", ["", ":demo"])
def test_a_configuration_is_found_by_name_or_path(
    variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped_file = ROOT / "configs" / "rjcma.py"
    own = tmp_path / "own.py"
    own.touch()
    monkeypatch.chdir(tmp_path)
    assert shipped.find_config(f"rjcma{variant}") == f"{shipped_file}{variant}"
    assert shipped.find_config(f"{shipped_file}{variant}") == f"{shipped_file}{variant}"
    assert shipped.find_config(f"own.py{variant}") == f"own.py{variant}"
    assert shipped.find_config(f"{own}{variant}") == f"{own}{variant}"
    assert shipped.config_argument(shipped_file, variant.strip(":")) == f"rjcma{variant}"
    assert shipped.config_argument(own, variant.strip(":")) == f"{own}{variant}"


@pytest.mark.parametrize("text", ["rjmca", "rjmca:demo", "configs/rjmca.py:demo"])
def test_a_wrong_configuration_names_the_closest(text: str) -> None:
    with pytest.raises(InputError) as error:
        shipped.find_config(text)
    assert error.value.details["field"] == "--config"
    assert error.value.details["found"]
    assert "rjcma?" in error.value.details["remedy"]
    assert "tcn_transformer" in error.value.details["expected"]


def test_the_flag_reads_by_name_and_takes_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["train", "--config=rjcma:demo", "--config.train.epochs=77"]
    monkeypatch.setattr(sys, "argv", words)
    values = flags.FlagValues()
    Flags(values).config("", required=True)
    values(words)
    assert values.config.model.name == "rjcma"
    assert values.config.train.epochs == 77
