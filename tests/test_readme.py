"""What README shows works as shown."""

import re
from pathlib import Path

import numpy as np
import pytest

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


def test_every_command_and_flag_exists() -> None:
    """Modules in README are in the tree and define the flags they are shown with."""
    commands = re.findall(r"python -m ([\w.]+)((?:\s+\\?\n?\s*--\S+)*)", README)
    assert len(commands) >= 6
    for module, arguments in commands:
        source = (ROOT / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8")
        defined = set(re.findall(r'DEFINE_\w+\(\s*"(\w+)"', source))
        for name in re.findall(r"--([\w.]+)", arguments):
            assert name.split(".")[0] in defined, f"{module} --{name}"


def test_every_variant_that_readme_names_is_one() -> None:
    from configs.rjcma import VARIANTS

    named = re.search(r"Variants follow a colon\s+\((.*?)\)", README, flags=re.DOTALL)
    assert named is not None
    found = {name.split(":")[-1] for name in re.findall(r"`([^`]+)`", named[1])}
    assert found == set(VARIANTS) - {""}
