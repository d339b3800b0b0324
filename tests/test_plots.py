"""Tests that pictures are written, show gaps as gaps, and work with real videos."""

import threading
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from emojax.reporting import pictures as plots
from emojax.specs import TASKS


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def near(image: np.ndarray, color: str, tolerance: int = 12) -> np.ndarray:
    """Returns True for pixels of about this colour."""
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return (np.abs(image - np.array(wanted)) <= tolerance).all(axis=-1)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Returns the figures that are saved, to look at what is in them."""
    figures: list[Figure] = []
    save = Figure.savefig

    def remember(self: Figure, *args: object, **kwargs: object) -> None:
        figures.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", remember)
    return figures


def video(num_frames: int = 300) -> dict[str, np.ndarray]:
    seconds_N = np.arange(num_frames) / 30
    labels_NK = np.stack([np.sin(seconds_N), np.cos(seconds_N)], axis=1)
    mask_NK = np.ones((num_frames, 2), bool)
    mask_NK[100:150] = False
    decoded_NC = 0.5 * labels_NK
    labels_NK[~mask_NK] = -5.0
    return {
        "seconds_N": seconds_N,
        "decoded_NC": decoded_NC,
        "labels_NK": labels_NK,
        "mask_NK": mask_NK,
    }


def test_gaps_stay_gaps_and_the_legend_tells_the_scores(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    arguments = video()
    arguments["decoded_NC"][200:220] = np.nan
    truth_NC = np.where(arguments["mask_NK"], arguments["labels_NK"], 0.0)
    plots.plot_video(
        tmp_path / "new" / "v.png",
        task="va",
        title="7-60-1920x1080_left",
        references={"optimum": truth_NC},
        **arguments,
    )
    valence, arousal = drawn[0].axes
    assert valence.get_title(loc="left") == "7-60-1920x1080_left"
    assert (valence.get_ylabel(), arousal.get_ylabel()) == ("valence", "arousal")
    lines = {line.get_label(): line.get_ydata() for line in valence.get_lines()}
    assert np.isnan(lines["annotated"][100:150]).all()
    assert np.isfinite(lines["annotated"]).sum() == 250
    texts = [text.get_text() for text in valence.get_legend().get_texts()]
    assert texts[:2] == ["annotated", "optimum (CCC 1.00)"]
    # The masked -5 would ruin it: half the amplitude gives 2 * .5 / (1 + .25) without a mean.
    assert texts[2].startswith("predicted (CCC 0.7")
    assert near(pixels(tmp_path / "new" / "v.png"), plots._PREDICTED).sum() > 100


@pytest.mark.parametrize("task", sorted(TASKS))
@pytest.mark.parametrize("num_frames", [0, 1, 2, 3000])
def test_every_task_and_length_has_a_picture(tmp_path: Path, task: str, num_frames: int) -> None:
    spec, rng = TASKS[task], np.random.default_rng(0)
    for name, annotated in (("some", rng.random((num_frames, spec.columns)) < 0.5), ("no", False)):
        path = tmp_path / f"{name}.png"
        plots.plot_video(
            path,
            task=task,
            title=name,
            seconds_N=np.arange(num_frames) / 25,
            decoded_NC=rng.random((num_frames, spec.outputs)).astype(np.float32),
            labels_NK=rng.integers(0, 2, (num_frames, spec.columns)).astype(np.float32),
            mask_NK=np.broadcast_to(annotated, (num_frames, spec.columns)),
        )
        assert pixels(path).shape[1] == 1210


def test_the_strip_is_orange_where_a_class_is_annotated(tmp_path: Path) -> None:
    seconds_N = np.arange(400) / 25
    labels_N1 = np.where(np.arange(400) < 200, 0.0, 7.0)[:, None]
    path = tmp_path / "expr.png"
    plots.plot_video(
        path,
        task="expr",
        title="",
        seconds_N=seconds_N,
        decoded_NC=np.full((400, 8), 0.125),
        labels_NK=labels_N1,
        mask_NK=(np.arange(400) >= 100)[:, None],
    )
    rows, columns = np.nonzero(near(pixels(path), plots._ACTIVE)[60:])
    left, right = columns.min(), columns.max()
    first, last = rows[columns < (left + right) / 3], rows[columns > (left + right) / 1.7]
    # Neutral is the first row, Other the last; the first quarter is not annotated.
    assert first.max() < last.min()
    assert (right - left) == pytest.approx(0.75 * (1188 - 110), abs=8)


def test_another_scale_than_one_is_shown_whole(tmp_path: Path, drawn: list[Figure]) -> None:
    arguments = video()
    arguments["labels_NK"] = np.where(arguments["mask_NK"], arguments["labels_NK"] * 4 + 5, -5.0)
    plots.plot_video(tmp_path / "v.png", task="va", title="", **arguments)
    low, high = drawn[0].axes[0].get_ylim()
    assert -1.5 < low < -0.5
    assert 9.0 < high < 10.0


def test_drawing_leaves_no_global_state_and_works_in_threads(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    arguments = video()
    failures: list[BaseException] = []

    def draw(name: str) -> None:
        try:
            plots.plot_video(tmp_path / f"{name}.png", task="va", title=name, **arguments)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=draw, args=(str(i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert dict(matplotlib.rcParams) == before
    assert len(list(tmp_path.glob("*.png"))) == 4
