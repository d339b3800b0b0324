"""Tests that the examples of README work as shown."""

import importlib
import re
from pathlib import Path

import numpy as np
import pytest
from absl import flags

from emojax.commands.cli import Flags
from emojax.commands.verbs import VERBS
from emojax.datasets.source import Store

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_store_example_writes_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    store = Store(tmp_path / "stores" / "mine")
    assert [video.num_frames for video in store.videos] == [900, 900, 900]
    assert store.streams["ir50"].width == 512
    assert np.isfinite(store.statistics("0")["ir50"][0]).all()


# A default configuration is read when its flag is defined.
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_every_command_and_flag_exists() -> None:
    """Modules in README are in the tree and define the flags they are shown with."""
    commands = re.findall(
        r"(?:python -m ([\w.]+)|^ *emojax ([\w-]+))((?:\s+\\?\n?\s*--\S+)*)", README, re.MULTILINE
    )
    assert len(commands) >= 6
    for module, verb, arguments in commands:
        command = VERBS[verb].command() if verb else importlib.import_module(module).COMMAND
        defined = flags.FlagValues()
        command.define_flags(Flags(defined))
        for name in re.findall(r"--([\w.]+)", arguments):
            assert name.split(".")[0] in defined, f"{module}{verb} --{name}"


def test_every_config_and_variant_that_readme_names_is_one() -> None:
    files = {path.name for path in (ROOT / "configs").glob("[!_]*.py")}
    assert set(re.findall(r"`(\w+\.py)`", README)) <= files
    named = re.findall(r"configs/(\w+)\.py:([\w+]+)", README)
    assert len(named) >= 5
    for name, variant in named:
        assert variant in importlib.import_module(f"configs.{name}").VARIANTS, (name, variant)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("[!_]*.py")), ids=lambda p: p.stem)
def test_configs_tell_their_variants(path: Path) -> None:
    """A docstring names every variant, but for those made from a table ("+" between streams)."""
    module = importlib.import_module(f"configs.{path.stem}")
    told = set(re.findall(r"\w+", module.__doc__))
    expected = {
        name
        for name in getattr(module, "VARIANTS", {})
        if name and not name.startswith(("va_", "expr_", "au_"))
    }
    assert expected <= told, sorted(expected - told)
