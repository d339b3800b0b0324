"""The study of lags: tables and a picture of ``datasets.lags.check_lags`` for a store."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from emojax.datasets.lags import Lag, check_lags, lag_lines
from emojax.datasets.source import Store
from emojax.errors import InputError
from emojax.reporting.pictures import COLORS, DPI, EDGE, FAINT, GRID, INK, save_figure, tidy
from emojax.studies.study_output import StudyTable

_SHOWN = 15
_NAMED = 10


@dataclasses.dataclass(frozen=True)
class LagStudy:
    """The result of a study of lags: facts and tables for files, and lines for the user."""

    facts: dict[str, Any]
    tables: list[StudyTable]
    lines: list[str]


def lag_study(
    path: str,
    task: str,
    *,
    streams: Sequence[str],
    max_seconds: float,
    seed: int,
    picture: Path,
    progress: Callable[[int, int], None],
) -> LagStudy:
    """Studies the lags of a store, see ``datasets.lags``, and draws them.

    Args:
        path: the folder of the store.
        task: whose labels are compared; "" for the store's first.
        streams: the streams to compare with; all if there are none.
        max_seconds: the largest lag that is tried.
        seed: the seed of all draws.
        picture: the PNG to write.
        progress: called with how much is done, and of how much.

    Raises:
        InputError: there is no store, or it has too few labels.
    """
    if not path:
        raise InputError(
            "The study of lags needs a store.",
            field="--store",
            found="nothing",
            expected="the folder of a store with labels",
        )
    store = Store(path)
    if not store.tasks:
        raise InputError(
            "The store has no labels.",
            file=store.path,
            field="tasks",
            found="no task",
            expected="labels, from which a lag is read",
        )
    task = task or store.tasks[0]
    lags = check_lags(
        store, task, streams=streams, max_seconds=max_seconds, seed=seed, progress=progress
    )
    picture.parent.mkdir(parents=True, exist_ok=True)
    plot_lags(picture, heading=f"{store.name}: lag of {task}", lags=lags)
    odd = len({lag.video for lag in lags if lag.stands_out})
    total = len({lag.video for lag in lags})
    facts = {
        "study": "lag",
        "store": {"name": store.name, "checksum": store.metadata["checksum"]},
        "options": {"task": task, "max_lag": max_seconds, "seed": seed},
        "stand_out": odd,
    }
    tables = lag_tables(lags, f"{store.name}: lag of {task} behind each stream")
    return LagStudy(facts, tables, [*lag_lines(lags, task), f"{odd} of {total} videos stand out"])


def lag_tables(lags: Sequence[Lag], heading: str) -> list[StudyTable]:
    """Returns the table of all lags, of which the screen shows those that stand out first."""
    rows: list[dict[str, Any]] = [dataclasses.asdict(lag) for lag in lags]
    shown = [
        {
            "video": lag.video,
            "stream": lag.stream,
            "lag (s)": f"{lag.seconds:+.2f} +- {lag.error:.2f}",
            "usual (s)": f"{lag.usual:+.2f}",
            "r there": lag.best,
            "r at usual": lag.correlation,
            "stands out": "yes" if lag.stands_out else "",
        }
        for lag in lags
        if not np.isnan(lag.seconds)
    ][:_SHOWN]
    caption = (
        "positive: labels come later than the stream; usual: the median of all videos; r: "
        "correlation of the labels with a ridge regression fitted on other videos"
    )
    return [StudyTable("lag", heading, rows, shown, caption)]


def plot_lags(path: str | Path, *, heading: str, lags: Sequence[Lag]) -> None:
    """Draws the lag of each video with its error, a panel for each stream.

    Args:
        path: the PNG to write.
        heading: the title.
        lags: the lags of one task.
    """
    streams = list(dict.fromkeys(lag.stream for lag in lags))
    videos = sorted({lag.video for lag in lags})
    figure = Figure(figsize=(8.0, 0.6 + 2.3 * len(streams)), dpi=DPI)
    figure.text(0.02, 1 - 0.2 / figure.get_figheight(), heading, fontsize=12, color=INK,
                fontweight="bold", va="center")  # fmt: skip
    panels = figure.subplots(len(streams), 1, sharex=True, squeeze=False)[:, 0]
    for panel, stream in zip(panels, streams, strict=True):
        tidy(panel)
        of_stream = {lag.video: lag for lag in lags if lag.stream == stream}
        for number, out in enumerate((False, True)):
            chosen = [
                (i, of_stream[name])
                for i, name in enumerate(videos)
                if name in of_stream
                and of_stream[name].stands_out == out
                and not np.isnan(of_stream[name].seconds)
            ]
            panel.errorbar(
                [i for i, _ in chosen], [lag.seconds for _, lag in chosen],
                yerr=[2 * lag.error for _, lag in chosen], fmt="o", markersize=3.5,
                color=COLORS[number], elinewidth=1.0,
                label="stands out" if out else "as usual",
            )  # fmt: skip
            for i, lag in chosen[: _NAMED * out]:
                panel.annotate(
                    lag.video[:24], (i, lag.seconds), xytext=(6, 0), textcoords="offset points",
                    fontsize=8, color=INK, va="center",
                )  # fmt: skip
        panel.axhline(next(iter(of_stream.values())).usual, color=EDGE, linewidth=0.8)
        panel.grid(axis="y", color=GRID, linewidth=0.8)
        panel.set_ylabel("lag (s)", fontsize=9, color=FAINT)
        panel.set_title(stream, loc="left", fontsize=10, color=INK)
    panels[0].legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False,
                     fontsize=9)  # fmt: skip
    panels[-1].set_xlabel(
        "videos in the order of their names; arms are two standard errors; positive: labels late",
        fontsize=9, color=FAINT,
    )  # fmt: skip
    figure.subplots_adjust(
        left=0.09, right=0.98, bottom=0.55 / figure.get_figheight(),
        top=1 - 0.65 / figure.get_figheight(), hspace=0.3,
    )  # fmt: skip
    save_figure(figure, path)
