"""Pictures of studies: curves over missing frames, bars of importance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emojax.reporting.pictures import (
    COLORS,
    DPI,
    EDGE,
    FAINT,
    GRID,
    INK,
    save_figure,
    shown_scores,
    tidy,
)
from emojax.studies.mechanism_study import MechanismEffect
from emojax.studies.missing_modality import CurvePoint
from emojax.studies.stream_importance import Importance

# Inches.
_LEFT, _RIGHT, _HEADING, _ABOVE, _BELOW = 0.8, 0.25, 0.5, 0.3, 0.5


def _grid(
    heading: str, lines: int, columns: int, width: float, height: float, left: float = _LEFT
) -> tuple[Figure, list[list[Axes]]]:
    """Makes panels of ``width`` x ``height`` inches below a heading, line by line."""
    across = columns * (left + width) + _RIGHT
    down = _HEADING + lines * (_ABOVE + height + _BELOW)
    figure = Figure(figsize=(across, down), dpi=DPI)
    figure.text(
        0.15 / across, 1 - 0.25 / down, heading, fontsize=12, color=INK, fontweight="bold",
        va="center",
    )  # fmt: skip
    panels = []
    for line in range(lines):
        bottom = down - _HEADING - line * (_ABOVE + height + _BELOW) - _ABOVE - height
        boxes = [
            (
                (column * (left + width) + left) / across,
                bottom / down,
                width / across,
                height / down,
            )
            for column in range(columns)
        ]
        panels.append([figure.add_axes(box) for box in boxes])
    for panel in (panel for line_of in panels for panel in line_of):
        tidy(panel)
    return figure, panels


def _title(panel: Axes, text: str) -> None:
    panel.set_title(text, loc="left", fontsize=10, color=INK)


def plot_missing(path: str | Path, *, heading: str, points: Sequence[CurvePoint]) -> None:
    """Draws scores over the share of missing frames: mean over trials and one deviation around it.

    Each score has a line of panels, each way to go missing a panel, and each modality or stream a
    curve.

    Args:
        path: the PNG to write; its folder is created if needed.
        heading: the title above all panels.
        points: the points that ``missing_modality`` returns.
    """
    tasks = list(dict.fromkeys(point.task for point in points))
    names = {task: list(dict.fromkeys(p.score for p in points if p.task == task)) for task in tasks}
    lines = [(task, name) for task in tasks for name in shown_scores(task, names[task])]
    ways = list(dict.fromkeys((point.pattern, point.validity) for point in points))
    groups = list(dict.fromkeys(point.group for point in points))
    figure, panels = _grid(heading, len(lines), len(ways), 4.2, 2.3)
    for (task, name), line_of in zip(lines, panels, strict=True):
        of_line = [point for point in points if (point.task, point.score) == (task, name)]
        reach = [p.mean + sign * p.deviation for p in of_line for sign in (-1, 1)] + [0.0]
        margin = 0.05 * max(max(reach) - min(reach), 1e-3)
        for (pattern, validity), panel in zip(ways, line_of, strict=True):
            for number, group in enumerate(groups):
                curve = sorted(
                    (
                        p
                        for p in of_line
                        if (p.pattern, p.validity, p.group) == (pattern, validity, group)
                    ),
                    key=lambda p: p.share,
                )
                x = np.array([100 * point.share for point in curve])
                mean = np.array([point.mean for point in curve])
                band = np.array([point.deviation for point in curve])
                color = COLORS[number % len(COLORS)]
                panel.fill_between(x, mean - band, mean + band, color=color, alpha=0.2, linewidth=0)
                panel.plot(x, mean, color=color, linewidth=1.5, marker=".", label=group)
            panel.axhline(0.0, color="#c9ced4", linewidth=0.8, zorder=1)
            panel.grid(axis="y", color=GRID, linewidth=0.8)
            panel.set_ylim(min(reach) - margin, max(reach) + margin)
            panel.set_xlim(-2, 102)
            panel.set_xlabel(f"missing {pattern}, %, validity {validity}", fontsize=9, color=FAINT)
            panel.set_ylabel(name, fontsize=9.5, color=INK)
    _legend(panels[0][0])
    save_figure(figure, path)


def plot_importance(path: str | Path, *, heading: str, found: Sequence[Importance]) -> None:
    """Draws the fall of scores without each stream, with the interval of the bootstrap.

    Args:
        path: the PNG to write; its folder is created if needed.
        heading: the title above all panels.
        found: the falls that ``stream_importance`` returns.
    """
    _plot_falls(path, heading, [_Fall.of(row, row.group) for row in found])


def plot_mechanisms(path: str | Path, *, heading: str, found: Sequence[MechanismEffect]) -> None:
    """Draws the fall of scores without each mechanism, with the interval and a dot for each seed.

    Args:
        path: the PNG to write; its folder is created if needed.
        heading: the title above all panels.
        found: the falls that ``mechanism_study`` returns.
    """
    falls = [_Fall.of(row, row.mechanism, [a - b for a, b in row.seeds.values()]) for row in found]
    _plot_falls(path, heading, falls)


class _Fall(NamedTuple):
    """A bar: the fall of a score without a group, and the falls of single seeds."""

    task: str
    score: str
    group: str
    how: str
    intact: float
    drop: float
    low: float
    high: float
    seeds: Sequence[float]

    @classmethod
    def of(cls, row: Any, group: str, seeds: Sequence[float] = ()) -> _Fall:
        """Takes what a study found."""
        return cls(
            row.task, row.score, group, row.how, row.intact, row.drop, row.low, row.high, seeds
        )


def _plot_falls(path: str | Path, heading: str, found: Sequence[_Fall]) -> None:
    """Draws a panel for each score, in it a bar for each group and way."""
    tasks = list(dict.fromkeys(row.task for row in found))
    names = {task: list(dict.fromkeys(r.score for r in found if r.task == task)) for task in tasks}
    panels_of = [(task, name) for task in tasks for name in shown_scores(task, names[task])]
    groups = list(dict.fromkeys(row.group for row in found))
    hows = list(dict.fromkeys(row.how for row in found))
    left = 0.35 + 0.075 * max(len(group) for group in groups)
    height = max(1.0, 0.26 * len(groups) * len(hows) + 0.2)
    figure, panels = _grid(heading, len(panels_of), 1, 6.5, height, left)
    for (task, name), (panel,) in zip(panels_of, panels, strict=True):
        for number, how in enumerate(hows):
            rows = [r for r in found if (r.task, r.score, r.how) == (task, name, how)]
            drop = np.array([row.drop for row in rows])
            # A percentile interval need not hold the value itself, and is NaN for one video.
            arms = [drop - [row.low for row in rows], [row.high for row in rows] - drop]
            error = np.maximum(np.nan_to_num(np.array(arms)), 0.0)
            # Not every group need have been altered in every way.
            place = np.array([groups.index(row.group) for row in rows], float)
            place += (number - (len(hows) - 1) / 2) * 0.8 / len(hows)
            panel.barh(
                place, drop, 0.72 / len(hows), xerr=error, color=COLORS[number], label=how,
                error_kw={"ecolor": INK, "elinewidth": 1.0, "capsize": 2.5},
            )  # fmt: skip
            for at, row in zip(place, rows, strict=True):
                if len(row.seeds) > 1:
                    panel.plot(row.seeds, [at] * len(row.seeds), "o", color=INK, markersize=2.5)
        panel.axvline(0.0, color=EDGE, linewidth=0.8)
        panel.grid(axis="x", color=GRID, linewidth=0.8)
        panel.set_yticks(range(len(groups)), groups)
        panel.invert_yaxis()
        intact = next(row.intact for row in found if (row.task, row.score) == (task, name))
        panel.set_xlabel(f"fall of {name}, from {intact:.3f}", fontsize=9, color=FAINT)
    _legend(panels[0][0])
    save_figure(figure, path)


def _legend(panel: Axes) -> None:
    """Draws the legend above the panel's left end, where it hides no curve."""
    panel.legend(
        loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=8, frameon=False, fontsize=9,
        handlelength=1.4, columnspacing=1.2, borderaxespad=0.1,
    )  # fmt: skip
