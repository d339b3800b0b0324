"""Eight faults in one Aff-Wild2 tree are all named on one screen."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from data.aff_wild2 import Options, build
from data.builder import say_lags
from emojax.datasets.source import Store
from emojax.errors import InputError
from tests.annotation_files import write_annotation

FRAMES, FPS = 600, 30.0
VIDEOS = [f"{number}-30-1280x720" for number in range(1, 13)]


def write_tree(folder: Path) -> None:
    """Writes a sound tree: twelve videos with valence and arousal, face tables and sound."""
    rng = np.random.default_rng(0)
    for name in ("face", "sound"):
        (folder / name).mkdir(parents=True)
    for number, video in enumerate(VIDEOS):
        steps = rng.normal(size=(FRAMES, 2))
        smooth = np.stack([np.convolve(c, np.ones(20), "same") for c in steps.T], axis=1)
        labels = np.tanh(smooth / smooth.std())
        part = "validation" if number >= 10 else "train"
        write_annotation(folder / "annotations", "va", part, video, labels.astype(np.float32))
        x = labels @ rng.normal(size=(2, 3)) + 0.1 * rng.normal(size=(FRAMES, 3))
        write_table(folder / f"face/{video}.csv", x)
        sound = np.repeat(labels @ np.ones((2, 4)), 2, axis=0)
        sound += 0.1 * rng.normal(size=sound.shape)
        np.save(folder / f"sound/{video}.npy", sound.astype(np.float32))


def write_table(path: Path, x: np.ndarray, faces: int = 1) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["frame", " face_id", " timestamp", " confidence", " success", " a", " b", " c"]
        )
        for i, row in enumerate(x):
            for face in range(faces):
                values = [f"{value:.4f}" for value in row + 9 * face]
                writer.writerow([i + 1, face, f"{i / FPS:.3f}", 0.9, 1, *values])


def label_file(folder: Path, video: str) -> Path:
    (path,) = (folder / "annotations").rglob(f"{video}.txt")
    return path


def plant(folder: Path) -> dict[str, str]:
    """Plants one fault in each of eight videos; returns fault -> video."""
    kinds = ("swapped", "silent", "long", "empty", "faces", "rate", "gone", "late")
    by = dict(zip(kinds, VIDEOS, strict=False))
    path = label_file(folder, by["swapped"])
    path.write_text(path.read_text().replace("valence,arousal", "arousal,valence"))
    path = label_file(folder, by["silent"])
    path.write_text("valence,arousal\n" + "-5,-5\n" * FRAMES)
    sound = np.load(folder / f"sound/{by['long']}.npy")
    np.save(folder / f"sound/{by['long']}.npy", np.concatenate([sound, sound[:240]]))
    np.save(folder / f"sound/{by['empty']}.npy", np.zeros_like(sound))
    write_table(folder / f"face/{by['faces']}.csv", np.ones((FRAMES, 3)), faces=2)
    table = folder / f"face/{by['rate']}.csv"
    lines = [line.split(",") for line in table.read_text().splitlines()]
    for i, cells in enumerate(lines[1:]):
        cells[2] = f"{i / 25:.3f}"
    table.write_text("\n".join(",".join(cells) for cells in lines))
    (folder / f"sound/{by['gone']}.npy").unlink()
    path = label_file(folder, by["late"])
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *["-5,-5"] * 12, *rows[:-12]]))
    return by


def options(folder: Path, **changes: object) -> Options:
    features = (
        f"face={folder / 'face'},modality=visual",
        f"sound={folder / 'sound'},clock=fps:60,modality=audio",
    )
    return Options(folder / "annotations", features, folds="official", **changes)  # type: ignore[arg-type]


def test_eight_faults_are_named_on_one_screen(tmp_path: Path) -> None:
    write_tree(tmp_path)
    by = plant(tmp_path)
    lines: list[object] = []
    with pytest.raises(InputError):
        build(tmp_path / "store", options(tmp_path), say=lines.append)
    screen = [line for line in lines if isinstance(line, str)]
    for kind in ("swapped", "silent", "long", "empty", "faces", "rate", "gone"):
        assert any(by[kind] in line for line in screen), (kind, screen)
    assert len(screen) < 40
    assert not (tmp_path / "store").exists()

    # The eighth fault is seen beside the labels of sound videos, so the others are mended first.
    path = label_file(tmp_path, by["swapped"])
    swapped = np.loadtxt(path, delimiter=",", skiprows=1)
    table = tmp_path / f"face/{by['rate']}.csv"
    table.write_text((tmp_path / f"face/{VIDEOS[8]}.csv").read_text())
    lines.clear()
    build(
        tmp_path / "store",
        options(tmp_path, columns_by_name=True, max_missing=1, max_mismatch="50%"),
        say=lines.append,
    )
    store = Store(tmp_path / "store")
    read = store.read(store.index_of(by["swapped"])).labels["va"]
    np.testing.assert_allclose(read, swapped[:, ::-1], atol=1e-6)
    screen = [line for line in lines if isinstance(line, str)]
    for kind in ("silent", "long", "empty", "faces"):
        assert any(by[kind] in line for line in screen), (kind, screen)
    told: list[str] = []
    say_lags(store.path, told.append)
    assert any(by["late"] in line for line in told), told


def test_a_sound_tree_is_built_without_a_word(tmp_path: Path) -> None:
    write_tree(tmp_path)
    lines: list[object] = []
    build(tmp_path / "store", options(tmp_path), say=lines.append)
    assert not [line for line in lines if isinstance(line, str) and "warning" in line]
    told: list[str] = []
    say_lags(tmp_path / "store", told.append)
    assert all("no video stands out" in line for line in told), told
