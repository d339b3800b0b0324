"""Feature files in every form that users bring, written from the same rows."""

from __future__ import annotations

import csv
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data.features.feature_sources import FeatureRows, FeatureSource, VideoFrames, parse_features

FRAMES, WIDTH, FPS = 9, 4, 25.0
PTS_N = 0.4 + np.arange(FRAMES) / FPS  # not from 0, as in some videos
ROWS_ND = np.random.default_rng(0).normal(1, 1, (FRAMES, WIDTH)).astype(np.float32)


def video(name: str = "v-1", annotated: list[int] | None = None) -> VideoFrames:
    annotated_N = np.zeros(FRAMES, bool)
    annotated_N[range(FRAMES) if annotated is None else annotated] = True
    return VideoFrames(name, name.removesuffix("_left").removesuffix("_right"), PTS_N, annotated_N)


def source(flag: str, *, allow_pickle: bool = False) -> FeatureSource:
    (only,) = parse_features([flag], allow_pickle=allow_pickle)
    return only


def rows(flag: str, of: VideoFrames | None = None, *, allow_pickle: bool = False) -> FeatureRows:
    found = source(flag, allow_pickle=allow_pickle).rows(of or video())
    assert found is not None
    return found


def write_npy(folder: Path, rows_ND: np.ndarray, name: str = "v-1") -> str:
    folder.mkdir(exist_ok=True)
    np.save(folder / f"{name}.npy", rows_ND)
    return f"x={folder},clock=frame,modality=visual"


def write_npz(folder: Path, rows_ND: np.ndarray, name: str = "v-1") -> str:
    folder.mkdir(exist_ok=True)
    np.savez_compressed(folder / f"{name}.npz", rows_ND)
    return f"x={folder},clock=frame,modality=visual"


def write_own(folder: Path, rows_ND: np.ndarray, name: str = "v-1") -> str:
    folder.mkdir(exist_ok=True)
    pts_N = 0.4 + np.arange(len(rows_ND)) / FPS
    valid_N = np.ones(len(rows_ND), bool)
    np.savez(folder / f"{name}.npz", rows=rows_ND, pts=pts_N, valid=valid_N)
    return f"x={folder},modality=visual"


def write_frames(folder: Path, rows_ND: np.ndarray, name: str = "v-1") -> str:
    (folder / name).mkdir(parents=True, exist_ok=True)
    for i, row in enumerate(rows_ND):
        np.save(folder / name / f"{i + 1:05d}.npy", row)
    return f"x={folder},modality=visual"


def write_merbench(folder: Path, rows_ND: np.ndarray, name: str = "v-1") -> str:
    return write_npy(folder.with_name(folder.name + "-FRA"), rows_ND, name)


def write_csv(path: Path, header: list[str], lines: list[list[object]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *lines])
    return path


def write_openface(folder: Path, rows_ND: np.ndarray, name: str = "v-1") -> str:
    names = [f"AU{i:02d}_r" for i in range(rows_ND.shape[1])]
    header = ["frame", " face_id", " timestamp", " confidence", " success"]
    header += [f" {name}" for name in [*names, "AU45_c"]]
    lines = [
        [i + 1, 0, i / FPS, 0.9, 1, *map(repr, map(float, row)), 0] for i, row in enumerate(rows_ND)
    ]
    write_csv(folder / f"{name}.csv", header, lines)
    return f"x={folder},columns=AU*_r,modality=visual"


def write_pyfeat(folder: Path, rows_ND: np.ndarray, name: str = "v-1") -> str:
    header = ["", "FaceScore", *(f"AU{i:02d}" for i in range(rows_ND.shape[1])), "frame", "input"]
    lines = [[i, 0.99, *map(float, row), i, "v-1.mp4"] for i, row in enumerate(rows_ND)]
    write_csv(folder / f"{name}.csv", header, lines)
    return f"x={folder},modality=visual"


def write_libreface(folder: Path, rows_ND: np.ndarray, name: str = "v-1") -> str:
    header = ["frame_time_in_ms", "frame_idx", *(f"au_{i}" for i in range(rows_ND.shape[1]))]
    lines = [[1000 * i / FPS, i, *map(float, row)] for i, row in enumerate(rows_ND)]
    write_csv(folder / f"{name}.csv", header, lines)
    return f"x={folder},modality=visual"


def write_muse(folder: Path, rows_ND: np.ndarray, name: str = "v-1") -> str:
    header = ["timestamp", "segment_id", *(f"f{i}" for i in range(rows_ND.shape[1]))]
    lines = [[400 + 40 * i, 1 + i // 5, *map(float, row)] for i, row in enumerate(rows_ND)]
    write_csv(folder / f"{name}.csv", header, lines)
    return f"x={folder},modality=audio"


def write_hog(folder: Path, rows_ND: np.ndarray, name: str = "v-1") -> str:
    folder.mkdir(exist_ok=True)
    head = struct.pack("<iii", rows_ND.shape[1] // 2, 2, 1)
    frames = [head + struct.pack("<f", 1.0) + row.astype("<f4").tobytes() for row in rows_ND]
    (folder / f"{name}.hog").write_bytes(b"".join(frames))
    return f"x={folder},modality=visual"


def write_image_pickle(folder: Path, rows_ND: np.ndarray, name: str = "v-1") -> str:
    folder.mkdir(exist_ok=True)
    content = {
        f"{name}/{i + 1:05d}.jpg": (row, np.zeros(8, np.float32)) for i, row in enumerate(rows_ND)
    }
    (folder / "all.pkl").write_bytes(pickle.dumps(content))
    return f"x={folder / 'all.pkl'},modality=visual"


def write_video_pickle(folder: Path, rows_ND: np.ndarray, name: str = "v-1") -> str:
    folder.mkdir(exist_ok=True)
    content = {name: dict(enumerate(rows_ND))}
    (folder / "all.pkl").write_bytes(pickle.dumps(content, protocol=2))
    return f"x={folder / 'all.pkl'},modality=visual"


# Form -> what writes it and returns the flag that reads it.
WRITERS: dict[str, Callable[..., str]] = {
    "npy": write_npy,
    "npz": write_npz,
    "own": write_own,
    "frames": write_frames,
    "merbench": write_merbench,
    "openface": write_openface,
    "pyfeat": write_pyfeat,
    "libreface": write_libreface,
    "muse": write_muse,
    "hog": write_hog,
    "image_pickle": write_image_pickle,
    "video_pickle": write_video_pickle,
}


def header_of(descr: object, shape: object) -> bytes:
    """Returns a .npy header that may declare anything."""
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def report_of(store: Path) -> dict[str, dict[str, object]]:
    return json.loads((store / "import.json").read_text(encoding="utf-8"))["videos"]
