"""The parts of the report that need no script: scores, confusion matrices, data, configuration."""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from emojax.datasets.origin import is_simulated
from emojax.errors import InputError
from emojax.ops.tasks import TASK_OPS
from emojax.reporting.confusion import percent, short_count
from emojax.reporting.page_runs import ReportedRun, differing, flat
from emojax.reporting.page_statistics import Difference, Scored, ScoreTable, System
from emojax.scoring.fold_scores import (
    BASELINE,
    MEAN,
    OPTIMUM,
    OURS,
    POOLED,
    PROCESSED,
    SYSTEMS,
    TUNED,
)
from emojax.specs import TASKS


def text(value: object) -> str:
    """Anything as text that HTML shows as it is, also between quotes."""
    return html.escape(str(value))


def table(
    caption: str,
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    classes: str = "",
) -> str:
    """A table whose first column heads its rows. Cells are HTML already, the header is not."""
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in header)
    body = "\n".join(
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )  # fmt: skip
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{text(caption)}">'
        f'<table class="{classes}"><caption>{text(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>"
    )


def section(name: str, title: str, parts: Iterable[str]) -> str:
    """A part of the page; nothing if there is nothing in it."""
    body = "\n".join(parts)
    return f'<section id="{name}"><h2>{text(title)}</h2>\n{body}\n</section>' if body else ""


def folded(title: str, body: str) -> str:
    """What is shown on demand."""
    return f"<details><summary>{text(title)}</summary>\n{body}\n</details>"


def system_title(system: System, runs: Sequence[ReportedRun]) -> str:
    """A system's name; with its run's where there are several."""
    number, name = system
    return name if len(runs) == 1 else f"{runs[number].name}: {name}"


# -- data ------------------------------------------------------------------------------------


def data_part(runs: Sequence[ReportedRun]) -> list[str]:
    """What was scored, and where it is from; simulated data are said to be simulated."""
    simulated = [run for run in runs if is_simulated(run.data)]
    parts = []
    if simulated:
        which = "" if len(simulated) == len(runs) else ": " + ", ".join(r.name for r in simulated)
        parts.append(
            f'<p class="warning"><strong>Simulated data{text(which)}.</strong> '
            "Made by data.synthetic and measured on no one; no score here is one on Aff-Wild2.</p>"
        )
    keys = dict.fromkeys(key for run in runs for key in _data_rows(run))
    rows = [[text(key), *(text(_data_rows(run).get(key, "–")) for run in runs)] for key in keys]
    parts.append(table("Data", ["", *(run.name for run in runs)], rows, classes="words"))
    for run in runs:
        builder = flat(run.data.get("builder", {}))
        if builder:
            cells = [[text(key), text(value)] for key, value in builder.items()]
            title = "How the data were built" + (f": {run.name}" if len(runs) > 1 else "")
            parts.append(folded(title, table(title, ["", "value"], cells, classes="words")))
    return parts


def _data_rows(run: ReportedRun) -> dict[str, str]:
    data, builder = run.data, run.data.get("builder", {})
    rows = {
        "store": str(data.get("name", "")),
        "description": str(data.get("description", "")),
        "built by": str(builder.get("command", "unknown")),
    }
    if "preset" in builder:
        rows["preset"] = str(builder["preset"])
    rows["checksum"] = str(data.get("checksum", ""))
    for name, counts in data.get("counts", {}).get("partitions", {}).items():
        annotated = ", ".join(f"{n} for {task}" for task, n in counts["annotated"].items())
        sizes = f"{counts['videos']} videos, {counts['frames']} frames"
        rows[f"{name} partition"] = f"{sizes}; annotated: {annotated or 'none'}"
    rows["scored here"] = f"{run.document['partition']}: " + "; ".join(
        f"fold {fold}: {count} videos" for fold, count in data.get("scored_videos", {}).items()
    )
    rows["streams"] = "; ".join(
        f"{name} ({spec['modality']}, {spec['width']} wide, "
        + ("a row a frame" if spec["rate"] is None else f"{spec['rate']:g} Hz")
        + ")"
        for name, spec in data.get("streams", {}).items()
    )
    rows["replicas"] = ", ".join(data.get("replicas", ()))
    return rows


# -- scores ----------------------------------------------------------------------------------


def scores_part(
    tables: Sequence[ScoreTable], runs: Sequence[ReportedRun], partition: str
) -> list[str]:
    """Scores with intervals, differences from the reference, and single folds."""
    if not tables:
        return ["<p>None of these videos is annotated, so there are no scores.</p>"]
    several = any(max(found.num_videos.values()) > 1 for found in tables)
    parts = [
        "<p>In brackets: 95 % intervals, bootstrapped over videos (drawn with replacement, all "
        "their frames scored as one data set). They tell how much depends on which videos were "
        "scored, not on the seed of a training"
        + ("" if several else "; there are none for a single video")
        + ".</p>"
    ]
    for found in tables:
        parts += _score_tables(found, runs, partition)
    for run in runs:
        parts += _fold_tables(run, run.name if len(runs) > 1 else "")
    return parts


def _score_tables(found: ScoreTable, runs: Sequence[ReportedRun], partition: str) -> list[str]:
    systems, task = list(found.scores), found.task
    where = found.group if found.group == POOLED else f"fold {found.group}"
    details = TASK_OPS[task].details
    names = [name for name in found.names if name not in details]
    titles = [system_title(system, runs) for system in systems]
    counts = " and ".join(str(n) for n in dict.fromkeys(found.num_videos.values()))
    rows = [[text(n), *(scored(found.scores[s].get(n)) for s in systems)] for n in names]
    parts = [table(f"{task}, {partition}, {where}: {counts} videos", ["score", *titles], rows)]
    if found.differences:
        others = list(found.differences)
        rows = [
            [text(n), *(difference(found.differences[s].get(n)) for s in others)] for n in names
        ]
        parts.append(
            table(
                f"{task}, {where}: difference from {system_title(found.reference, runs)}, "
                "on the same draws of videos",
                ["score", *(system_title(system, runs) for system in others)],
                rows,
            )
        )
    left_out = [
        system_title(system, runs)
        for system in systems
        if system[1] == OURS and system != found.reference and system not in found.differences
    ]
    if left_out:
        parts.append(
            f"<p>Not compared: {text(', '.join(left_out))}, scored on other annotations.</p>"
        )
    if details:
        labels = dict(zip(details, TASKS[task].labels, strict=True))
        rows = [
            [text(labels[n]), *(bar(found.scores[s].get(n)) for s in systems)]
            for n in found.names
            if n in labels
        ]
        each = "class" if TASKS[task].kind == "categorical" else "unit"
        parts.append(table(f"{task}, {where}: F1 of each {each}", [each, *titles], rows))
    return parts


def _fold_tables(run: ReportedRun, name: str) -> list[str]:
    """Scores fold by fold and their mean, for a run of several folds."""
    folds = run.document["folds"]
    if len(folds) < 2:
        return []
    parts = []
    for task in dict.fromkeys(task for by_task in folds.values() for task in by_task):
        lines = {fold: by_task[task] for fold, by_task in folds.items() if task in by_task}
        lines |= {MEAN: run.document.get("mean_of_folds", {}).get(task, {})}
        systems = [s for s in SYSTEMS if any(s in by_system for by_system in lines.values())]
        rows = [
            [text(fold), text(score), *(number(by.get(s, {}).get(score)) for s in systems)]
            for fold, by in lines.items()
            for score in by.get(OURS, {})
            if score not in TASK_OPS[task].details
        ]
        title = f"{task}: fold by fold" + (f", {name}" if name else "")
        parts.append(folded(title, table(title, ["fold", "score", *systems], rows)))
    return parts


def number(value: float | None) -> str:
    """Three decimals, or a dash."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"


def scored(score: Scored | None) -> str:
    """A score and its interval."""
    if score is None:
        return "–"
    if not math.isfinite(score.low):
        return number(score.value)
    ends = f"[{number(score.low)}, {number(score.high)}]"
    return f'{number(score.value)} <span class="interval">{ends}</span>'


def difference(found: Difference | None) -> str:
    """A difference with sign, its interval and p; in bold if the interval does not hold 0."""
    if found is None:
        return "–"
    if not math.isfinite(found.low):
        return f"{found.value:+.3f}"
    sure = found.low > 0 or found.high < 0
    value = f"<strong>{found.value:+.3f}</strong>" if sure else f"{found.value:+.3f}"
    p = "&lt; 0.01" if found.p < 0.01 else f"= {found.p:.2f}"
    ends = f"[{found.low:+.3f}, {found.high:+.3f}], p {p}"
    return f'{value} <span class="interval">{ends}</span>'


def bar(score: Scored | None) -> str:
    """A score in [0, 1] with its interval, and as a bar."""
    if score is None:
        return "–"
    width = round(100 * min(1.0, max(0.0, score.value)), 1) if math.isfinite(score.value) else 0
    return (
        f'<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="ground" width="100" height="8"></rect>'
        f'<rect width="{width:g}" height="8"></rect></svg> {scored(score)}'
    )


# -- confusion matrices ----------------------------------------------------------------------


def confusion_part(runs: Sequence[ReportedRun]) -> list[str]:
    """A matrix for each run, task with classes, group of videos and system."""
    parts = []
    for run in runs:
        for task, document in run.document.get("confusion", {}).items():
            for group in run.groups:
                where = group if group == POOLED else f"fold {group}"
                for system, counts in document["counts"].get(group, {}).items():
                    named = f"{run.name}, " if len(runs) > 1 else ""
                    parts.append(
                        _matrix(
                            f"{named}{task}, {where}: {system}",
                            document["labels"],
                            np.asarray(counts),
                        )
                    )
    return [f'<div class="matrices">{"".join(parts)}</div>'] if parts else []


def _matrix(caption: str, labels: Sequence[str], counts_CC: np.ndarray) -> str:
    total_C = counts_CC.sum(axis=1)
    rows = []
    for label, total, counts_C in zip(labels, total_C, counts_CC, strict=True):
        cells = []
        for count in counts_C:
            share = count / total if total else 0.0
            shade = f"h{round(10 * share)}" if total else "none"
            shown = f"{percent(share)}<small>{short_count(int(count))}</small>" if total else "–"
            cells.append(f'<td class="{shade}">{shown}</td>')
        head = f'<th scope="row">{text(label)}<small>{short_count(int(total))}</small></th>'
        rows.append(f"<tr>{head}{''.join(cells)}</tr>")
    heads = "".join(f'<th scope="col">{text(label)}</th>' for label in labels)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="confusion: {text(caption)}">'
        f'<table class="matrix"><caption>{text(caption)}</caption>'
        f'<thead><tr><th scope="col">true \\ decided</th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


# -- configuration and pictures --------------------------------------------------------------


def configuration_part(runs: Sequence[ReportedRun]) -> list[str]:
    """What differs between the runs, and each configuration as a whole."""
    parts = []
    if len(runs) > 1:
        rows = [
            [text(key), *map(_differing_cell, values)]
            for key, values in differing([run.config for run in runs]).items()
        ]
        header = ["key", *(run.name for run in runs)]
        parts.append(
            table("What differs", header, rows, classes="words")
            if rows
            else "<p>The configurations are the same.</p>"
        )
    for run in runs:
        cells = [[text(key), text(value)] for key, value in flat(run.config).items()]
        title = "Whole configuration" + (f": {run.name}" if len(runs) > 1 else "")
        parts.append(folded(title, table(title, ["key", "value"], cells, classes="words")))
    return parts


def _differing_cell(value: str | None) -> str:
    return "<em>not there</em>" if value is None else f"<mark>{text(value)}</mark>"


def pictures_part(runs: Sequence[ReportedRun]) -> list[str]:
    """The pictures of emojax.analyse, such as of missing modalities, embedded.

    Raises:
        InputError: a picture cannot be read.
    """
    parts = []
    for run in runs:
        for path in run.pictures:
            try:
                code = base64.b64encode(path.read_bytes()).decode("ascii")
            except OSError as error:
                raise InputError(
                    "A picture of the report cannot be read.",
                    file=path,
                    found=error.strerror,
                    expected="a PNG file",
                    remedy="make it again: python -m emojax.analyse",
                ) from error
            study, picture = path.parent.parent.name, path.stem.replace("_", " ")
            title = study if picture == study else f"{study}: {picture}"
            name = text(title + (f", {run.name}" if len(runs) > 1 else ""))
            parts.append(
                f'<figure><img alt="{name}" src="data:image/png;base64,{code}">'
                f"<figcaption>{name}</figcaption></figure>"
            )
    return parts


def glossary(tables: Sequence[ScoreTable]) -> list[str]:
    """What the names of the systems mean, of those that are there."""
    meanings: Mapping[str, str] = {
        OURS: "mean of the replicas that were trained for the target; every annotated frame "
        "counts once",
        TUNED: "decided with thresholds or offsets chosen for F1 on the training videos",
        PROCESSED: "the model's predictions, smoothed over time or clipped as asked for",
        OPTIMUM: "exact posterior of the simulation given every stream of the store: no model "
        "can be expected to do better",
        BASELINE: "linear regression on the model's own streams and training videos, smoothed "
        "over time",
    }
    there = {system for found in tables for _, system in found.scores}
    rows = [f"<dt>{text(s)}</dt><dd>{text(m)}</dd>" for s, m in meanings.items() if s in there]
    return [f"<dl>{''.join(rows)}</dl>"] if rows else []


def embedded_json(document: Mapping[str, Any]) -> str:
    """JSON that no name can break out of: no ``<``, ``>`` or ``&`` in it, and ASCII alone."""
    dense = json.dumps(document, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        dense = dense.replace(character, f"\\u{ord(character):04x}")
    return dense
