"""Pictures of single videos, annotated and predicted over time, and the style of all pictures.

Everything is drawn on ``Figure`` objects without pyplot, so there is no global state, no window
and no figure left open; several threads may draw at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from emojax.ops.metrics import concordance_correlation_coefficient
from emojax.ops.scores import split_score
from emojax.ops.tasks import TASK_OPS
from emojax.specs import TASKS

# The style of all pictures: text and axes in grey, systems and streams in these colours.
INK, FAINT, EDGE, GRID = "#22262b", "#4a5058", "#9aa1a9", "#eceff2"
COLORS = ("#2a7fb8", "#d1495b", "#4c9f70", "#c08a1e", "#7b5ea7", "#50a5b1", "#a0522d", "#8a8f98")
DPI = 110

_PREDICTED = "#d1495b"
_REFERENCES = ("#2a7fb8", "#8a8f98", "#c08a1e", "#5b8c5a")
_ACTIVE = "#f28e2b"
_MISSING = "#a9afb6"
_WIDTH_INCHES = 11.0
# More columns than the picture has pixels would only cost time.
_MAX_COLUMNS = 1000


def tidy(axes: Axes) -> None:
    """Gives axes the common style: two quiet spines, small ticks, the grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(EDGE)
    axes.tick_params(colors=FAINT, labelsize=9)
    axes.set_axisbelow(True)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Writes a PNG; folders are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Weak compression: 15 % more bytes for half the time.
    figure.savefig(path, format="png", facecolor="white", pil_kwargs={"compress_level": 3})


def _panels(heights: Sequence[float], *, left: float = 0.75) -> tuple[Figure, list[Axes]]:
    """Makes a figure with one panel below the other; sizes in inches, the time axis shared."""
    gap, bottom = 0.43, 0.5
    total = bottom + sum(heights) + gap * len(heights)
    figure = Figure(figsize=(_WIDTH_INCHES, total), dpi=DPI)
    axes: list[Axes] = []
    upper = total - gap
    for height in heights:
        box = (
            left / _WIDTH_INCHES,
            (upper - height) / total,
            (_WIDTH_INCHES - left - 0.2) / _WIDTH_INCHES,
            height / total,
        )
        axes.append(figure.add_axes(box, sharex=axes[0] if axes else None))
        upper -= height + gap
    for panel in axes:
        tidy(panel)
        panel.tick_params(labelbottom=panel is axes[-1])
    return figure, axes


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=11, color=INK, fontweight="bold")


def _legend(axes: Axes, columns: int) -> None:
    """Puts a legend above the panel's right end, where it never hides a curve."""
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 0.99),
        ncols=columns,
        frameon=False,
        fontsize=9,
        handlelength=1.6,
        columnspacing=1.2,
        borderaxespad=0.1,
    )


def _score_text(name: str, values_N: np.ndarray, annotated_N: np.ndarray, mask: np.ndarray) -> str:
    """Puts the CCC of this video behind the name, if any frame is annotated."""
    scored_N = mask & np.isfinite(values_N)
    if not scored_N.any():
        return name
    score = concordance_correlation_coefficient(
        np.asarray(values_N[scored_N], np.float64), np.asarray(annotated_N[scored_N], np.float64)
    )
    return f"{name} (CCC {float(score):.2f})"


def _with_gaps(values_N: np.ndarray, mask_N: np.ndarray) -> np.ndarray:
    # A line breaks at NaN: a gap in the annotation must not look like a straight annotation.
    return np.where(mask_N, values_N, np.nan)


def plot_timeline(
    path: str | Path | None,
    *,
    title: str,
    seconds_N: np.ndarray,
    labels: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    references: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> Figure:
    """Draws annotated and predicted continuous labels of one video over time.

    One panel for each label. Spans without annotation are shaded and the line of the annotation
    stops there. The legend gives the CCC of this video alone (a video's CCC says little about
    the partition's, which is computed over all frames at once).

    Args:
        path: PNG to write, with its folders; None to write nothing.
        title: usually the video's name.
        seconds_N: (N,) time of each frame, seconds.
        labels: label name -> (annotated_N, predicted_N, mask_N); mask_N is False where there is
            no annotation; a prediction may be NaN where there is none.
        references: reference name ("optimum") -> label name -> (N,) its prediction, drawn thin.
    """
    references = references or {}
    figure, axes = _panels([1.75] * len(labels))
    for panel, (name, (annotated_N, predicted_N, mask_N)) in zip(axes, labels.items(), strict=True):
        mask_N = np.asarray(mask_N, bool)
        panel.fill_between(
            seconds_N, 0, 1, where=~mask_N, color=GRID, linewidth=0,
            transform=panel.get_xaxis_transform(), zorder=0,
        )  # fmt: skip
        panel.axhline(0.0, color="#c9ced4", linewidth=0.8, zorder=1)
        drawn = [_with_gaps(annotated_N, mask_N), np.asarray(predicted_N)]
        panel.plot(seconds_N, drawn[0], color=INK, linewidth=1.6, label="annotated")
        for row, (reference, by_label) in enumerate(references.items()):
            if name in by_label:
                values_N = np.asarray(by_label[name])
                drawn.append(values_N)
                panel.plot(
                    seconds_N, values_N, color=_REFERENCES[row % len(_REFERENCES)],
                    linewidth=0.9, linestyle=("--", ":")[row % 2],
                    label=_score_text(reference, values_N, annotated_N, mask_N),
                )  # fmt: skip
        panel.plot(
            seconds_N, predicted_N, color=_PREDICTED, linewidth=1.4, zorder=3,
            label=_score_text("predicted", np.asarray(predicted_N), annotated_N, mask_N),
        )  # fmt: skip
        _limit(panel, drawn)
        panel.set_ylabel(name, fontsize=10, color=INK)
        _legend(panel, columns=2 + len(references))
    _title(axes[0], title)
    _time_axis(axes[-1], seconds_N)
    if path is not None:
        save_figure(figure, path)
    return figure


def _limit(axes: Axes, drawn: Sequence[np.ndarray]) -> None:
    """Takes the scale of [-1, 1] where it fits, so that videos compare, else that of the values."""
    finite = np.concatenate([values[np.isfinite(values)] for values in drawn])
    if finite.size == 0 or np.abs(finite).max() <= 1.0:
        axes.set_ylim(-1.05, 1.05)
        axes.set_yticks([-1.0, -0.5, 0.0, 0.5, 1.0])
    else:
        margin = 0.05 * max(float(np.ptp(finite)), 1e-6)
        axes.set_ylim(float(finite.min()) - margin, float(finite.max()) + margin)


def _time_axis(axes: Axes, seconds_N: np.ndarray) -> None:
    end = float(seconds_N[-1]) if len(seconds_N) else 1.0
    start = float(seconds_N[0]) if len(seconds_N) else 0.0
    axes.set_xlim(start, end if end > start else start + 1.0)
    axes.set_xlabel("seconds", fontsize=10, color=INK)


def plot_probabilities(
    path: str | Path | None,
    *,
    title: str,
    seconds_N: np.ndarray,
    names: Sequence[str],
    probabilities_NC: np.ndarray,
    active_NC: np.ndarray,
    mask_NC: np.ndarray,
) -> Figure:
    """Draws predicted probabilities of classes or action units of one video over time.

    A heat map with one row for each name. The strip at the foot of a row is orange where the
    class is annotated, grey where there is no annotation.

    Args:
        path: PNG to write, with its folders; None to write nothing.
        title: usually the video's name.
        seconds_N: (N,) time of each frame, seconds, not decreasing.
        names: C row names.
        probabilities_NC: (N, C) in [0, 1]; NaN where there is no prediction.
        active_NC: (N, C) bool, True where the class or unit is annotated as present.
        mask_NC: (N, C) bool, False where there is no annotation.
    """
    num_names = len(names)
    figure, (axes,) = _panels([0.32 * num_names], left=1.0)
    if len(seconds_N):
        at = np.linspace(seconds_N[0], seconds_N[-1], min(len(seconds_N), _MAX_COLUMNS))
        frame_T = np.clip(np.searchsorted(seconds_N, at), 0, len(seconds_N) - 1)
        end = max(float(at[-1]), float(at[0]) + 1e-6)
        extent = (float(at[0]), end, num_names - 0.5, -0.5)
        heat = axes.imshow(
            probabilities_NC[frame_T].T, extent=extent, aspect="auto", interpolation="nearest",
            cmap="Blues", vmin=0.0, vmax=1.0,
        )  # fmt: skip
        axes.imshow(
            _strips(active_NC[frame_T].T, mask_NC[frame_T].T),
            extent=extent, aspect="auto", interpolation="nearest",
        )  # fmt: skip
        scale = figure.add_axes((0.80, 1.0 - 0.30 / figure.get_figheight(), 0.18, 0.02))
        figure.colorbar(heat, cax=scale, orientation="horizontal", ticks=[])
        figure.text(
            0.79, 1.0 - 0.26 / figure.get_figheight(), "probability 0 to 1", fontsize=9,
            ha="right", va="center", color=FAINT,
        )  # fmt: skip
        for right, text, color in ((0.54, "annotated", _ACTIVE), (0.65, "not annotated", _MISSING)):
            figure.text(
                right, 1.0 - 0.26 / figure.get_figheight(), text, fontsize=9, ha="right",
                va="center", color=color, fontweight="bold",
            )  # fmt: skip
    axes.set_yticks(range(num_names), names)
    for row in range(1, num_names):
        axes.axhline(row - 0.5, color="white", linewidth=1.5)
    _title(axes, title)
    _time_axis(axes, seconds_N)
    if path is not None:
        save_figure(figure, path)
    return figure


def _strips(active_CT: np.ndarray, mask_CT: np.ndarray) -> np.ndarray:
    """Makes an RGBA image, four lines a row: three clear ones and the strip of the annotation."""
    image = np.zeros((active_CT.shape[0], 4, active_CT.shape[1], 4), np.float32)
    image[:, 3][active_CT & mask_CT] = to_rgba(_ACTIVE)
    image[:, 3][~mask_CT] = to_rgba(_MISSING)
    return image.reshape(-1, active_CT.shape[1], 4)


# kind of task -> (labels_NK, number of names) -> (N, C) bool, what is annotated as present.
_PRESENT: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "categorical": lambda labels_N1, num_names: labels_N1 == np.arange(num_names)[None, :],
    "binary": lambda labels_NC, num_names: labels_NC > 0.5,
}


def plot_video(
    path: str | Path | None,
    *,
    task: str,
    title: str,
    seconds_N: np.ndarray,
    decoded_NC: np.ndarray,
    labels_NK: np.ndarray,
    mask_NK: np.ndarray,
    references: Mapping[str, np.ndarray] | None = None,
) -> Figure:
    """Draws the picture that suits a task, for one video: curves, or a heat map.

    Args:
        path: PNG to write, with its folders; None to write nothing.
        task: name of a row of ``TASKS``.
        title: usually the video's name.
        seconds_N: (N,) time of each frame, seconds.
        decoded_NC: (N, C) decoded predictions (values or probabilities); NaN where uncovered.
        labels_NK: (N, columns) as stored; anything where masked.
        mask_NK: (N, columns) bool, False where there is no annotation.
        references: reference name ("optimum") -> (N, C); drawn for continuous tasks only.

    Raises:
        KeyError: there is no such task.
    """
    names, kind = TASKS[task].labels, TASKS[task].kind
    mask_NK = np.asarray(mask_NK, bool)
    if kind in _PRESENT:
        return plot_probabilities(
            path, title=title, seconds_N=seconds_N, names=names, probabilities_NC=decoded_NC,
            active_NC=_PRESENT[kind](labels_NK, len(names)),
            mask_NC=np.broadcast_to(mask_NK, (len(labels_NK), len(names))),
        )  # fmt: skip
    columns = list(enumerate(names))
    return plot_timeline(
        path,
        title=title,
        seconds_N=seconds_N,
        labels={name: (labels_NK[:, i], decoded_NC[:, i], mask_NK[:, i]) for i, name in columns},
        references={
            reference: {name: values_NC[:, i] for i, name in columns}
            for reference, values_NC in (references or {}).items()
        },
    )


def shown_scores(task: str, names: Sequence[str]) -> list[str]:
    """Chooses the scores of a picture: the CCC of each dimension, else the task's primary one."""
    ops = TASK_OPS[task]
    each = [f"{split_score(ops.primary)[0]}_{label}" for label in TASKS[task].labels]
    found = [name for name in each if name in names and name not in ops.details]
    return found or [name for name in (ops.primary,) if name in names] or [*names][:1]
