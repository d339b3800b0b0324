"""Tests of arrays in files of MATLAB, HDF5 and safetensors."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy import io as matlab

from tests.refusals import refused
from tests.table_samples import FPS, frames, rows, source

ROWS_ND = np.random.default_rng(1).normal(size=(8, 3)).astype(np.float32)


def _hdf5(path: Path, **arrays: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array


def _matlab_73(path: Path) -> None:
    with h5py.File(path, "w", userblock_size=512) as file:
        file["x"] = ROWS_ND.T
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file".ljust(512, b" "))


CONTAINERS = {
    "v.mat": lambda path: matlab.savemat(path, {"x": ROWS_ND.astype(np.float64)}),
    "new/v.mat": _matlab_73,
    "v.h5": lambda path: _hdf5(path, x=ROWS_ND),
    "v.hdf5": lambda path: _hdf5(path, features=ROWS_ND, other=np.zeros(3)),
    "v.safetensors": lambda path: save_file({"x": ROWS_ND}, path),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers_give_their_array(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    CONTAINERS[name](path)
    np.testing.assert_allclose(rows(path.parent, ",clock=frame").stream.rows_ND, ROWS_ND, rtol=1e-6)
    with refused(field="y"):
        source(path.parent, ",clock=frame,key=y")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3])
    with refused(file=path):
        source(path.parent, ",clock=frame")


def test_one_container_holds_several_videos(tmp_path: Path) -> None:
    save_file({"v": ROWS_ND, "w": -ROWS_ND}, tmp_path / "all.safetensors")
    with h5py.File(tmp_path / "all.h5", "w") as file:
        file["v"], file["w"] = ROWS_ND, -ROWS_ND
    with h5py.File(tmp_path / "all.csd", "w") as file:
        for video, sign in (("v", 1), ("w", -1)):
            group = file.create_group(f"COVAREP/data/{video}")
            group["features"] = sign * ROWS_ND
            group["intervals"] = np.arange(8)[:, None] * 0.04 + np.array([0, 0.04])
        file.create_group("COVAREP/metadata")["version"] = 1
    for name, clock in (("all.safetensors", "frame"), ("all.h5", "frame"), ("all.csd", "")):
        opened = source(tmp_path / name, f",clock={clock}" if clock else "")
        assert opened.videos() == ["v", "w"]
        found = opened.rows(frames("w", 8))
        assert found is not None
        np.testing.assert_array_equal(found.stream.rows_ND, -ROWS_ND)
        np.testing.assert_allclose(found.stream.pts_N, np.arange(8) / FPS)


def test_containers_do_not_lead_elsewhere(tmp_path: Path) -> None:
    _hdf5(tmp_path / "elsewhere.h5", x=ROWS_ND)
    folder = tmp_path / "f"
    folder.mkdir()
    with h5py.File(folder / "v.h5", "w") as file:
        file["x"] = h5py.ExternalLink("../elsewhere.h5", "x")
    with refused(field="x", found="another file"):
        source(folder, ",clock=frame")
    ROWS_ND.tofile(tmp_path / "raw.bin")
    with h5py.File(folder / "v.h5", "w") as file:
        file.create_dataset("x", (8, 3), "f4", external=[(str(tmp_path / "raw.bin"), 0, 96)])
    with refused(found="other files"):
        source(folder, ",clock=frame")


def test_a_batch_of_one_is_no_video_of_one_row(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", ROWS_ND[None])
    with refused(found="(1, 8, 3)", remedy="reduce=squeeze"):
        rows(tmp_path, ",clock=frame")
    squeezed = rows(tmp_path, ",clock=frame,reduce=squeeze")
    np.testing.assert_array_equal(squeezed.stream.rows_ND, ROWS_ND)
    assert any(
        "single row" in line for line in rows(tmp_path, ",clock=frame,reduce=flatten").warnings
    )
