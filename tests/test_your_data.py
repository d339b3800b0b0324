"""Every command of docs/your_data.md runs as printed, on small files of each form."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from emojax.commands.verbs import VERBS
from emojax.datasets.source import Store
from tests.registering import own_tasks_forgotten

DOCS = Path(__file__).resolve().parents[1] / "docs/your_data.md"
FRAMES, FPS = 60, 25.0
VIDEOS = ("a", "b", "c", "d", "e", "f")


def commands(verb: str) -> list[list[str]]:
    """Returns the words of each command of the page that begins with this verb."""
    text = DOCS.read_text(encoding="utf-8").replace("\\\n", " ")
    return [shlex.split(line)[2:] for line in re.findall(rf"^ +(emojax {verb} .*)$", text, re.M)]


@pytest.fixture(autouse=True)
def _forgotten_tasks() -> Iterator[None]:
    with own_tasks_forgotten():
        yield


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes files of every form that the page names."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    tables: list[pd.DataFrame] = []
    seconds = np.arange(FRAMES) / FPS
    names = ("openface", "pyfeat", "libreface", "opensmile", "mediapipe", "arrays", "wav2vec2",
             "ratings")  # fmt: skip
    for name in names:
        (folder / name).mkdir()
    ratings: list[dict[str, object]] = []
    with h5py.File(folder / "COVAREP.csd", "w") as cmu:
        for number, video in enumerate(VIDEOS):
            wave = np.sin(seconds * 3 + number)
            x = wave[:, None] + 0.3 * rng.normal(size=(FRAMES, 3))
            aus = {f"AU{i:02d}": x[:, i] for i in range(3)}
            pd.DataFrame(
                {"frame": np.arange(1, FRAMES + 1), " timestamp": seconds, " success": 1,
                 **{f" {name}_r": values for name, values in aus.items()}, " pose_Rx": x[:, 0]}
            ).to_csv(folder / f"openface/{video}.csv", index=False)  # fmt: skip
            pd.DataFrame(
                {"FaceScore": 0.9, **aus, "input": f"{video}.mp4", "frame": np.arange(FRAMES)}
            ).to_csv(folder / f"pyfeat/{video}.csv")
            pd.DataFrame(
                {"frame_time_in_ms": 1000 * seconds, "frame_idx": np.arange(FRAMES),
                 **{f"au_{i}": x[:, i] for i in range(3)}}
            ).to_csv(folder / f"libreface/{video}.csv", index=False)  # fmt: skip
            pd.DataFrame(
                {"file": f"{video}.wav", "start": pd.to_timedelta(seconds, unit="s"),
                 "end": pd.to_timedelta(seconds + 0.06, unit="s"), "Loudness": x[:, 0]}
            ).to_csv(folder / f"opensmile/{video}.csv", index=False)  # fmt: skip
            pd.DataFrame({"frame": np.arange(FRAMES), "jawOpen": x[:, 0]}).to_parquet(
                folder / f"mediapipe/{video}.parquet"
            )
            np.save(folder / f"arrays/{video}.npy", x)
            np.save(folder / f"wav2vec2/{video}.npy", np.repeat(x, 2, axis=0))
            (folder / "frames" / video).mkdir(parents=True)
            for i, row in enumerate(x):
                np.save(folder / f"frames/{video}/{i + 1:05d}.npy", row)
            tables.append(pd.DataFrame({"video": video, "frame": np.arange(FRAMES), **aus}))
            group = cmu.create_group(f"COVAREP/data/{video}")
            group["features"] = x
            group["intervals"] = np.stack([seconds, seconds + 1 / FPS], axis=1)
            pd.DataFrame(
                {"frame": np.arange(FRAMES), "valence": 0.9 * wave, "arousal": -0.9 * wave}
            ).to_csv(folder / f"ratings/{video}.csv", index=False)
            ratings += [
                {"video": video, "frame": i, "dominance": 5 + 4 * wave[i],
                 "level": ("low", "mid", "high")[int(np.clip(1.5 * (wave[i] + 1), 0, 2))]}
                for i in range(FRAMES)
            ]  # fmt: skip
    pd.concat(tables).to_csv(folder / "all.csv", index=False)
    pd.DataFrame(ratings).to_csv(folder / "dominance.csv", index=False)
    people = [f"p{number // 2}" for number in range(len(VIDEOS))]
    pd.DataFrame({"video": VIDEOS, "person": people}).to_csv(folder / "videos.csv", index=False)
    return folder


def test_the_page_has_its_commands() -> None:
    assert len(commands("import-features")) == 12
    assert len(commands("train")) == 2


@pytest.mark.parametrize("number", range(12))
def test_an_import_of_the_page(
    number: int, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    words = commands("import-features")[number]
    out = next(word for word in words if word.startswith("--out=")).removeprefix("--out=")
    with pytest.raises(SystemExit) as done:
        VERBS["import-features"].command().run(["import-features", *words])
    assert not done.value.code, capsys.readouterr().err
    store = Store(folder / out, verify="all")
    assert [video.name for video in store.videos] == list(VIDEOS)
    assert all(abs(video.num_frames - FRAMES) <= 1 for video in store.videos)
    (stream,) = store.streams
    truth = np.load(folder / "arrays/c.npy")
    rows = store.read(2).streams[stream].rows_ND
    np.testing.assert_allclose(rows[: len(truth)][::10, 0][0], truth[0, 0], atol=2e-3)
    if number >= 10:
        assert store.folds
        for fold in store.folds.values():
            assert fold.train
            assert fold.validation


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
@pytest.mark.parametrize("number", range(2))
def test_a_training_of_the_page_starts(
    number: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one step, since the commands train as the papers do."""
    monkeypatch.chdir(folder)
    words = commands("import-features")[10 + number]
    with pytest.raises(SystemExit):
        VERBS["import-features"].command().run(["import-features", *words, "--overwrite"])
    short = {"train.epochs": 1, "train.epoch_steps": 1, "data.window": 24, "data.stride": 24,
             "data.evaluation_stride": 24, "data.batch_size": 4}  # fmt: skip
    flags = [f"--config.{key}={value}" for key, value in short.items()]
    argv = ["train", *commands("train")[number], *flags, f"--workdir=RUN{number}"]
    monkeypatch.setattr("sys.argv", argv)
    with pytest.raises(SystemExit) as done:
        VERBS["train"].command().run(argv)
    assert not done.value.code


def test_the_lag_command_of_the_page(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    words = commands("import-features")[10]
    with pytest.raises(SystemExit):
        VERBS["import-features"].command().run(["import-features", *words, "--overwrite"])
    (line,) = commands("analyse")
    with pytest.raises(SystemExit) as done:
        VERBS["analyse"].command().run(["analyse", *line])
    assert not done.value.code
