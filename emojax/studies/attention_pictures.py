"""Draws what each attention of a model attends to, over time and streams."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from emojax.specs import TASKS
from emojax.studies.attention_maps import AttentionMaps

# Seconds that a picture shows; longer videos would hide what single frames attend to.
SHOWN_SECONDS = 30.0


def plot_attention(
    path: str | Path,
    *,
    heading: str,
    maps: AttentionMaps,
    labels: dict[str, np.ndarray],
    streams: tuple[str, ...],
    start: float = 0.0,
) -> None:
    """Draws the curves of the video, and below them a panel for each attention.

    Args:
        path: the PNG to write; its folder is created if needed.
        heading: the title above all panels.
        maps: of one video.
        labels: task -> (W, T, columns) at the rows of ``maps``, NaN where not annotated.
        streams: the model's streams, in its order.
        start: the second at which the picture begins.
    """
    ends = start, min(start + SHOWN_SECONDS, float(np.nanmax(maps.seconds)))
    names = [*maps.of_time(), *maps.of_streams()]
    columns = min(2, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(6.2 * columns, 2.4 + 5.0 * rows), layout="constrained")
    grid = figure.add_gridspec(rows + 1, columns, height_ratios=[1.6, *([4.4] * rows)])
    curves = figure.add_subplot(grid[0, :])
    _curves(curves, maps, labels)
    curves.set_xlim(*ends)
    for number, name in enumerate(names):
        panel = figure.add_subplot(grid[1 + number // columns, number % columns])
        if name in maps.of_time():
            _map(figure, panel, maps, name, ends)
        else:
            _shares(panel, maps, name, streams)
            panel.set_xlim(*ends)
        panel.set_title(name, fontsize=9, loc="left")
    figure.suptitle(heading, fontsize=11)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _joined(maps: AttentionMaps, values_WTC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Averages rows of overlapping windows; returns seconds (N,) and values (N, C)."""
    known = maps.ticks >= 0
    ticks = maps.ticks[known]
    order, index, count = np.unique(ticks, return_inverse=True, return_counts=True)
    seconds = np.zeros(len(order))
    seconds[index] = maps.seconds[known]
    total = np.zeros((len(order), values_WTC.shape[-1]))
    np.add.at(total, index, values_WTC[known])
    return seconds, total / count[:, None]


def _curves(panel: Any, maps: AttentionMaps, labels: dict[str, np.ndarray]) -> None:
    task = next(iter(maps.predictions))
    seconds_N, found_NC = _joined(maps, maps.predictions[task])
    shown = TASKS[task].labels if TASKS[task].kind == "continuous" else TASKS[task].labels[:3]
    for c, label in enumerate(shown):
        line = panel.plot(seconds_N, found_NC[:, c], label=f"{label}, predicted")
        if task in labels and labels[task].shape[-1] == found_NC.shape[1]:
            known_NC = _joined(maps, labels[task])[1]
            panel.plot(seconds_N, known_NC[:, c], ":", color=line[0].get_color(), label="annotated")
    panel.set_xlabel("seconds", fontsize=8)
    panel.grid(color="#e3e6ea")
    panel.legend(fontsize=7, ncols=2 * len(shown), loc="lower center", bbox_to_anchor=(0.5, 1.0))


def _map(
    figure: Figure, panel: Any, maps: AttentionMaps, name: str, ends: tuple[float, float]
) -> None:
    whole_NN, seconds_N = maps.whole(name)
    kept_N = (seconds_N >= ends[0]) & (seconds_N <= ends[1])
    part_NN = whole_NN[np.ix_(kept_N, kept_N)]
    signed = name in maps.signed
    high = float(np.nanpercentile(np.abs(part_NN), 99.5)) if np.isfinite(part_NN).any() else 1.0
    image = panel.imshow(
        part_NN,
        origin="lower",
        extent=(*ends, *ends),
        cmap="RdBu_r" if signed else "magma_r",
        vmin=-high if signed else 0.0,
        vmax=high or 1.0,
        interpolation="nearest",
        aspect="auto",
    )
    panel.set_xlabel("seconds attended to", fontsize=8)
    panel.set_ylabel("seconds predicted", fontsize=8)
    what = "correlation" if signed else "weight (a row sums to 1)"
    figure.colorbar(image, ax=panel, label=what, shrink=0.8)


def _shares(panel: Any, maps: AttentionMaps, name: str, streams: tuple[str, ...]) -> None:
    """Draws how much each stream of a frame weighs, averaged over the streams that ask."""
    seconds_N, share_NS = _joined(maps, maps.of_streams()[name].mean(axis=-2))
    for s, stream in enumerate(streams):
        panel.plot(seconds_N, share_NS[:, s], label=stream)
    panel.set_xlabel("seconds", fontsize=8)
    panel.set_ylabel("weight of the stream", fontsize=8)
    panel.set_ylim(0.0, 1.0)
    panel.grid(color="#e3e6ea")
    panel.legend(fontsize=8)
