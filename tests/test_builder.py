"""The parts that all builders share."""

import importlib
from pathlib import Path

import numpy as np
import pytest
from absl import flags

from data.builder import is_tenth, open_export, write_videos
from emojax.commands import cli
from emojax.datasets.folds import Fold
from emojax.datasets.source import Store
from emojax.datasets.store import StoreWriter
from tests.refusals import refused
from tests.store_samples import NAMES, RECORDS, SPECS, TASK_NAMES, check_same


@pytest.mark.parametrize("total", [1, 2, 7, 10, 11, 99, 100, 12345])
def test_progress_is_said_at_most_ten_times_and_at_the_end(total: int) -> None:
    said = [done for done in range(1, total + 1) if is_tenth(done, total)]
    assert said[-1] == total
    assert len(said) == min(total, 10)
    assert max(np.diff([0, *said])) <= -(-total // 10)


@pytest.mark.parametrize("name", ["synthetic", "aff_wild2", "import_features", "meld", "epic2023"])
def test_every_builder_takes_the_flags_of_a_store(name: str) -> None:
    module = importlib.import_module(f"data.{name}")
    values = flags.FlagValues()
    module.COMMAND.define_flags(cli.Flags(values))
    assert module.COMMAND.summary == f"data.{name}"
    assert {"out", "overwrite"} <= set(values)
    assert ("dtype" in values) == (name not in ("meld", "epic2023"))
    assert values["overwrite"].default is False


def test_an_export_is_found_in_its_folder_or_by_its_own_path(tmp_path: Path) -> None:
    with refused(file=tmp_path / "some.npz", expected="some.npz", remedy="--source"):
        open_export(tmp_path, "some.npz", "export")
    np.savez(tmp_path / "some.npz", x=np.arange(3))
    for source in (tmp_path, tmp_path / "some.npz"):
        assert open_export(source, "some.npz", "export").integers("x", least=0, axes=1).sum() == 3


def test_a_store_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    def writer(name: str) -> StoreWriter:
        return StoreWriter(tmp_path / name, name="tiny", streams=SPECS, tasks=TASK_NAMES)

    fold = Fold("0", tuple(NAMES[:1]), tuple(NAMES[1:2]))
    write_videos(writer("good"), iter(RECORDS[:2]), [fold])
    with Store(tmp_path / "good") as store:
        assert store.fold("0") == fold
        check_same(store.read(1), RECORDS[1])
    with refused(field=NAMES[0]):
        write_videos(writer("bad"), [RECORDS[0], RECORDS[0]], [])
    assert [path.name for path in tmp_path.iterdir()] == ["good"]
