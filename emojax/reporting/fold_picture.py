"""The picture of a cross-validation: each fold's score, its single seeds, optimum and baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emojax.reporting.pictures import DPI, EDGE, INK, save_figure, tidy

_BAR, _DOT = "#a8cbe6", "#1f5f8b"
_MARKS = ("#d1495b", "#8a8f98", "#c08a1e")
_PANEL_INCHES = 2.1


def plot_folds(
    path: str | Path,
    *,
    title: str,
    folds: Sequence[str],
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    seeds: Mapping[str, Sequence[Sequence[float]]],
    bar: str,
) -> None:
    """Draws one panel for each score: a bar for each fold, dots for its seeds, ticks for others.

    A dashed line shows the mean of the bars over folds. Values that are NaN are left out.

    Args:
        path: PNG to write; folders are made.
        title: heads the picture.
        folds: K names.
        panels: score -> system -> (K,) values.
        seeds: score -> for each fold the values of its single seeds.
        bar: the system that the bars are of; every panel has it.
    """
    width = max(5.5, 1.6 + 0.8 * len(folds))
    height = 0.9 + _PANEL_INCHES * max(1, len(panels))
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK, fontweight="bold")
    column = figure.subplots(max(1, len(panels)), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (score, systems) in zip(column, panels.items(), strict=False):
        _panel(axes, score, systems, seeds.get(score, ()), bar)
        axes.set_xticks(range(len(folds)), [f"fold {name}" for name in folds])
    if panels:
        handles: dict[str, Artist] = {}
        for axes in column:
            for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
                handles.setdefault(name, handle)
        figure.legend(
            list(handles.values()), list(handles), loc="outside lower center", ncols=3,
            frameon=False, fontsize=8.5,
        )  # fmt: skip
    save_figure(figure, path)


def _panel(
    axes: Axes,
    score: str,
    systems: Mapping[str, Sequence[float]],
    seeds: Sequence[Sequence[float]],
    bar: str,
) -> None:
    values_K = np.asarray(systems[bar], float)
    places_K = np.arange(len(values_K))
    axes.bar(places_K, np.nan_to_num(values_K), width=0.6, color=_BAR, label=f"{bar} (all seeds)")
    if np.isfinite(values_K).any():
        axes.axhline(
            float(np.nanmean(values_K)), color=_DOT, linewidth=0.9, linestyle="--",
            label="its mean over folds",
        )  # fmt: skip
    others = [system for system in systems if system != bar]
    for system, color in zip(others, _MARKS * len(others), strict=False):
        other_K = np.asarray(systems[system], float)
        known_K = np.isfinite(other_K)
        axes.hlines(
            other_K[known_K], places_K[known_K] - 0.36, places_K[known_K] + 0.36, colors=color,
            linewidth=2.0, label=system,
        )  # fmt: skip
    for place, single in zip(places_K, seeds, strict=False):
        spots = place + (np.linspace(-0.15, 0.15, len(single)) if len(single) > 1 else np.zeros(1))
        axes.plot(spots[: len(single)], single, "o", color=_DOT, markersize=4, label="single seeds")
    axes.set_ylabel(score, fontsize=9, color=INK)
    tidy(axes)
    axes.axhline(0.0, color=EDGE, linewidth=0.8)
