"""The picture of confusion matrices: counts, and how each true class was decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emojax.ops.metrics import ConfusionCounts
from emojax.reporting.pictures import save_figure

_INK, _FAINT, _NOTHING = "#22262b", "#4a5058", "#eceff2"
_DPI = 110
_CELL_INCHES = 0.5
_LABEL_INCHES = 1.35
_TITLE_INCHES = 0.42
_LEGEND_INCHES = 0.8  # for class names below the matrix
_PANELS_A_ROW = 2


def plot_confusion(
    path: str | Path,
    *,
    title: str,
    labels: Sequence[str],
    counts: Mapping[str, np.ndarray],
) -> None:
    """Draws a confusion matrix for each system, side by side.

    A cell tells which share of its true class (its row) was decided so, in the colour and in
    figures, and how many frames that are. A class without a frame has an empty row.

    Args:
        path: PNG to write; folders are made.
        title: heads the picture.
        labels: C class names.
        counts: system -> (C, C) counts, row the true class.
    """
    columns = min(_PANELS_A_ROW, max(1, len(counts)))
    lines = -(-max(1, len(counts)) // columns)
    side = max(3.0, _CELL_INCHES * len(labels))
    width = columns * (side + _LABEL_INCHES + 0.25)
    height = 0.4 + lines * (side + _TITLE_INCHES + _LEGEND_INCHES)
    figure = Figure(figsize=(width, height), dpi=_DPI)
    figure.text(
        0.12 / width, 1 - 0.26 / height, title, fontsize=12, color=_INK, fontweight="bold",
        va="center",
    )  # fmt: skip
    for number, (system, counts_CC) in enumerate(counts.items()):
        line, column = divmod(number, columns)
        left = column * (side + _LABEL_INCHES + 0.25) + _LABEL_INCHES
        top = 0.4 + line * (side + _TITLE_INCHES + _LEGEND_INCHES) + _TITLE_INCHES
        box = (left / width, 1 - (top + side) / height, side / width, side / height)
        _panel(figure.add_axes(box), system, labels, np.asarray(counts_CC))
    save_figure(figure, path)


def _panel(axes: Axes, system: str, labels: Sequence[str], counts_CC: np.ndarray) -> None:
    total_C1 = counts_CC.sum(axis=1, keepdims=True)
    share_CC = counts_CC / np.maximum(total_C1, 1)
    axes.set_facecolor(_NOTHING)
    shown_CC = np.where(np.broadcast_to(total_C1 > 0, share_CC.shape), share_CC, np.nan)
    axes.imshow(shown_CC, cmap="Blues", vmin=0.0, vmax=1.0, interpolation="nearest", aspect="auto")
    for (row, column), count in np.ndenumerate(counts_CC):
        if total_C1[row, 0]:
            color = "white" if share_CC[row, column] > 0.64 else _INK
            # Cells that nothing fell into stay quiet.
            color = "#9aa1a9" if not count else color
            axes.text(
                column, row - 0.14, percent(share_CC[row, column]), ha="center", va="center",
                fontsize=9, color=color, fontweight="bold" if row == column else "normal",
            )  # fmt: skip
            axes.text(
                column, row + 0.24, short_count(int(count)), ha="center", va="center", fontsize=6.5,
                color=color,
            )  # fmt: skip
    ticks = range(len(labels))
    names = [
        f"{label} ({short_count(int(n))})" for label, n in zip(labels, total_C1[:, 0], strict=True)
    ]
    axes.set_yticks(ticks, names)
    axes.set_xticks(ticks, labels, rotation=35, ha="right", rotation_mode="anchor")
    axes.tick_params(length=0, labelsize=8.5, colors=_FAINT)
    axes.spines[:].set_visible(False)
    for edge in np.arange(0.5, len(labels) - 1):
        axes.axhline(edge, color="white", linewidth=1.2)
        axes.axvline(edge, color="white", linewidth=1.2)
    state = ConfusionCounts(counts_CC)
    axes.set_title(
        f"{system}: accuracy {float(state.accuracy()):.3f}, macro F1 {float(state.macro_f1()):.3f}",
        loc="left", fontsize=10, color=_INK,
    )  # fmt: skip
    # Above its labels, where it stays whatever their length.
    axes.text(
        -0.015, 1.012, "true class (frames)", transform=axes.transAxes, ha="right", va="bottom",
        fontsize=8, color=_FAINT,
    )  # fmt: skip
    axes.set_xlabel("decided", fontsize=9, color=_FAINT)


def percent(share: float) -> str:
    """A share of 1 as a whole percentage."""
    # Something that happened must not read as nothing, nor almost all as all.
    if 0 < share < 0.005:
        return "<1%"
    if 0.995 <= share < 1:
        return ">99%"
    return f"{share:.0%}"


def short_count(count: int) -> str:
    """At most five characters, so that it fits into a cell."""
    for size, unit in ((10**6, "M"), (10**3, "k")):
        if count >= 10 * size or (unit == "M" and count >= size):
            return f"{count / size:.1f}{unit}" if count < 100 * size else f"{count // size}{unit}"
    return str(count)
