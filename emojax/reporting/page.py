"""The interactive report: one HTML file that loads nothing and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from emojax.datasets.origin import is_simulated
from emojax.reporting.page_runs import ReportedRun
from emojax.reporting.page_series import curve_panels, task_facts, timelines
from emojax.reporting.page_statistics import score_tables
from emojax.reporting.page_tables import (
    configuration_part,
    confusion_part,
    data_part,
    embedded_json,
    folded,
    glossary,
    number,
    pictures_part,
    scores_part,
    section,
    table,
    text,
)

_SCRIPT = Path(__file__).with_name("page.js")
_STYLE = Path(__file__).with_name("page.css")


def write_page(path: Path, runs: Sequence[ReportedRun], partition: str, *, draws: int) -> None:
    """Writes the report of one run or of several.

    All text is escaped, and a browser is told by a content security policy to run this page's
    script, known by its hash, and no other, and to load nothing. The file is written beside its
    name and renamed, so a kill leaves no half page.

    Args:
        path: the HTML file; folders are made.
        runs: at least one, all evaluated on the partition.
        partition: its name.
        draws: of the bootstrap, at least 1.

    Raises:
        InputError: a picture of a run cannot be read.
    """
    tables = score_tables(runs, draws)
    panels = curve_panels(runs)
    videos = timelines(runs)
    tasks = list(dict.fromkeys(task for video in videos for task in video["tasks"]))
    document = {
        "runs": [run.name for run in runs],
        "panels": panels,
        "tasks": task_facts(tasks),
        "videos": videos,
    }
    parts = {
        "scores": ("Scores", [*scores_part(tables, runs, partition), *glossary(tables)]),
        "timelines": ("Videos over time", [_TIMELINES] if tasks else []),
        "confusion": ("Confusion matrices", confusion_part(runs)),
        "curves": ("Training", _curves(panels, runs)),
        "studies": ("Studies", pictures_part(runs)),
        "data": ("Data", data_part(runs)),
        "configuration": ("Configuration", configuration_part(runs)),
    }
    title = f"{' and '.join(_models(runs))} on {', '.join(_stores(runs))}, {partition}"
    page = _page(title, runs, parts, embedded_json(document))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)


def _models(runs: Sequence[ReportedRun]) -> list[str]:
    names = (str(run.config.get("model", {}).get("name", run.name)) for run in runs)
    return list(dict.fromkeys(names))


def _stores(runs: Sequence[ReportedRun]) -> list[str]:
    return list(dict.fromkeys(run.document["store"] for run in runs))


def _page(
    title: str,
    runs: Sequence[ReportedRun],
    parts: dict[str, tuple[str, list[str]]],
    data: str,
) -> str:
    script, style = _SCRIPT.read_text(encoding="utf-8"), _STYLE.read_text(encoding="utf-8")
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"script-src {_hash(script)}; style-src {_hash(style)}"
    )
    there = {name: part for name, part in parts.items() if part[1]}
    links = "".join(f'<a href="#{name}">{text(part[0])}</a>' for name, part in there.items())
    origin = "simulated" if any(is_simulated(run.data) for run in runs) else "data"
    badges = "".join(
        f'<span class="badge {origin}">{"simulated: " if origin == "simulated" else "data: "}'
        f"{text(store)}</span>"
        for store in _stores(runs)
    )
    body = "\n".join(section(name, *part) for name, part in there.items())
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{text(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f"<header><h1>{text(title)}</h1><p>{badges}</p>\n"
        f'<nav aria-label="parts">{links}</nav></header>\n<main>\n'
        "<noscript><p>Curves and timelines are drawn by a script of this page, which this browser "
        f"does not run. All tables are complete.</p></noscript>\n{body}\n</main>\n"
        f'<script type="application/json" id="report-data">{data}</script>\n'
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def _hash(code: str) -> str:
    digest = hashlib.sha256(code.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _curves(panels: Sequence[dict], runs: Sequence[ReportedRun]) -> list[str]:
    """Where the curves are drawn, and their ends as a table."""
    if not panels:
        return []
    rows = []
    for panel in panels:
        for line in panel["series"]:
            known = [value for value in line["y"] if value is not None]
            ends = (known[0], min(known), max(known), known[-1]) if known else (None,) * 4
            title = line["name"]
            if len(runs) > 1:
                title = f"{runs[line['run']].name}: {title}"
            shown = [f"{x:.3g}" if panel["log"] and x is not None else number(x) for x in ends]
            rows.append([text(title), text(panel["title"]), *shown])
    header = ["series", "panel", "first", "lowest", "highest", "last"]
    return [
        '<div id="curve-panels"></div>',
        folded("Curves as a table", table("Curves", header, rows)),
    ]


_TIMELINES = """<div class="viewer" id="viewer" hidden>
<div class="chooser">
<label>Task <select id="task-choice"></select></label>
<label>Order <select id="order-choice">
<option value="worst">lowest score first</option>
<option value="best">highest score first</option>
<option value="name">by name</option>
</select></label>
<label for="video-choice">Video (<span id="video-count"></span>)</label>
<select id="video-choice" size="10"></select>
</div>
<div class="stage">
<p id="video-facts" aria-live="polite"></p>
<fieldset id="curve-choice"><legend>Shown</legend></fieldset>
<canvas id="timeline" tabindex="0" role="img" aria-describedby="timeline-help"></canvas>
<p id="readout" class="readout">&nbsp;</p>
<div class="buttons" role="group" aria-label="move in time">
<button type="button" data-move="left">&#9664; earlier</button>
<button type="button" data-move="in">zoom in</button>
<button type="button" data-move="out">zoom out</button>
<button type="button" data-move="all">whole video</button>
<button type="button" data-move="right">later &#9654;</button>
</div>
<p id="timeline-help" class="note">Drag to move, double-click or turn the wheel with Ctrl held to
zoom. Keys, with the picture in focus: arrows move, + and &minus; zoom, 0 shows the whole video,
comma and full stop move the reading line. Shaded: not annotated, and not scored.
A video's score is of its own frames; the score above is not their mean.</p>
</div>
</div>"""
