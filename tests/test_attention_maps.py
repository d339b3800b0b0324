"""Tests what ``emojax analyse attention`` collects, joins and writes."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from emojax import analyse
from emojax.datasets.source import Store
from emojax.errors import InputError
from emojax.studies.attention_maps import AttentionMaps, attention_maps, video_labels
from emojax.studies.study_data import StudiedRun, open_studied
from tests.small_store import build_small_store
from tests.test_mechanisms_live import SYSTEMS as SYSTEMS_CHANGES
from tests.test_mechanisms_live import trained
from tests.training_runs import quick_compiling  # noqa: F401 - a fixture

# System -> names of its maps, and whether rows sum to one.
SYSTEMS: dict[str, tuple[set[str], bool]] = {
    "tcn_transformer": ({"transformer/layer_0/attention"}, True),
    "emma_net": ({"fusion/attention_ir50", "fusion/attention_vggish"}, True),
    "lfan": ({"attention"}, True),
    "rjcma": (
        {f"recursion_{i}/correlation_{s}" for i in (0, 1) for s in ("ir50", "vggish")},
        False,
    ),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(build_small_store(tmp_path_factory.mktemp("store") / "small"))


@pytest.fixture(scope="module")
def runs(store: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {system: tmp_path_factory.mktemp("runs") / system for system in SYSTEMS}
    for system, folder in folders.items():
        trained(store, folder, system, epochs=1, epoch_steps=3)
    return folders


def opened(folder: Path) -> StudiedRun:
    return open_studied([str(folder)], None, "", "validation")[0]


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_maps_are_those_of_the_prediction(runs: dict[str, Path], system: str) -> None:
    studied = opened(runs[system])
    maps = attention_maps(studied, "validation-1")
    names, sums_to_one = SYSTEMS[system]
    assert set(maps.weights) == names
    assert (maps.signed == set()) == sums_to_one
    real_WT = maps.ticks >= 0
    assert real_WT.any()
    assert not real_WT.all(), "the last window has padding"
    for x in maps.weights.values():
        if sums_to_one:
            total = x.sum(axis=-1)  # (W, T), with heads (W, H, T), between streams (W, T, H, S)
            total = total if x.ndim != 4 else total.mean(axis=1)
            np.testing.assert_allclose(total[real_WT], 1.0, atol=1e-5)
        if x.ndim < 5 and sums_to_one:
            np.testing.assert_array_equal(np.moveaxis(x, -1, 1)[~real_WT], 0.0)
    # Collecting changes no prediction.
    (predicted,) = studied.run.predict(studied.store, [["validation-1"]])
    one_NC = predicted["validation-1"]["va"]
    count_N, total_NC = np.zeros(len(one_NC)), np.zeros_like(one_NC)
    np.add.at(count_N, maps.ticks[real_WT], 1)
    np.add.at(total_NC, maps.ticks[real_WT], maps.predictions["va"][real_WT])
    np.testing.assert_allclose(total_NC / count_N[:, None], one_NC, atol=1e-5)
    # Annotations stand at the rows of the maps.
    record = studied.store.read(studied.store.index_of("validation-1"))
    label_WTC = video_labels(studied, maps)["va"]
    expected_NC = np.where(record.labels["va"] == -5, np.nan, record.labels["va"])
    np.testing.assert_allclose(label_WTC[real_WT], expected_NC[maps.ticks[real_WT]])


def test_windows_are_joined_on_the_ticks_of_the_video() -> None:
    """Two windows of four ticks that overlap by two, over keys of two ticks each."""
    first, second = np.zeros((4, 2)), np.zeros((4, 2))
    first[0, 1], first[3, 0], second[1, 1], second[0, 0] = 1.0, 0.5, 1.0, 0.2
    ticks = np.array([[3, 4, 5, 6], [5, 6, 7, -1]])
    maps = AttentionMaps(
        video="v",
        weights={"soft": np.stack([first, second])},
        signed=frozenset(),
        ticks=ticks,
        seconds=np.where(ticks >= 0, ticks / 10, np.nan),
        predictions={},
    )
    whole_NN, seconds_N = maps.whole("soft")
    np.testing.assert_allclose(seconds_N, [0.3, 0.4, 0.5, 0.6, 0.7])
    expected_NN = np.zeros((5, 5))
    expected_NN[0, 2:4] = 0.5  # the key of ticks 5 and 6, shared between them; one window
    expected_NN[3, 0:2] = 0.25
    expected_NN[3, 4] = 0.5  # the key of ticks 7 and beyond
    expected_NN[2, 2:4] = 0.05  # the mean of both windows
    expected_NN[[0, 0, 1, 1, 4, 4], [4, 4, 4, 4, 0, 1]] = np.nan  # in no window together
    expected_NN[[0, 1, 4], [4, 4, 0]] = np.nan
    np.testing.assert_allclose(whole_NN, expected_NN)


def call(*flags: str) -> int:
    with pytest.raises(SystemExit) as ended:
        analyse.COMMAND.run(["emojax.analyse", "attention", *flags])
    return int(ended.value.code or 0)


@pytest.mark.slow
def test_the_command_writes_arrays_and_a_picture(runs: dict[str, Path], tmp_path: Path) -> None:
    assert call(f"--checkpoint={runs['rjcma']}", f"--out={tmp_path}", "--video=validation-0") == 0
    with np.load(tmp_path / "attention.npz") as arrays:
        assert set(arrays) == SYSTEMS["rjcma"][0] | {"ticks", "seconds"}
        assert arrays["seconds"].shape == arrays["ticks"].shape
    assert matplotlib.image.imread(tmp_path / "attention.png").std() > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--video=validation-7", "--replica=3"])
def test_what_is_not_there_is_refused(runs: dict[str, Path], tmp_path: Path, flag: str) -> None:
    assert call(f"--checkpoint={runs['lfan']}", f"--out={tmp_path}", flag) == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_model_without_attention_is_refused(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        SYSTEMS_CHANGES, "emma_net", {**SYSTEMS_CHANGES["emma_net"], "model.fusion": "concat"}
    )
    trained(store, tmp_path, "emma_net", epochs=1, epoch_steps=1)
    with pytest.raises(InputError):
        attention_maps(opened(tmp_path), "")
