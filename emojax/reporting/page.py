"""The report: one HTML file that loads nothing and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from emojax.datasets.origin import is_simulated
from emojax.reporting.page_details import (
    configuration_tables,
    data_tables,
    embedded_pictures,
    mechanism_tables,
    paper_tables,
)
from emojax.reporting.page_runs import ReportedRun
from emojax.reporting.page_sections import (
    NOTHING,
    Table,
    confusion_matrices,
    glossary,
    not_compared,
    score_sections,
    system_title,
)
from emojax.reporting.page_series import curve_panels, task_facts, timelines
from emojax.reporting.page_statistics import DRAWS, FEW_VIDEOS, score_tables
from emojax.rundir.workdir import replace_text


def write_page(
    path: Path, runs: Sequence[ReportedRun], partition: str, *, draws: int = DRAWS
) -> None:
    """Writes the report of one run, or of several that are compared.

    All text is escaped, and a content security policy tells the browser to load nothing and to
    run only this page's script, which it knows by its hash.

    Args:
        path: the HTML file; folders are made.
        runs: at least one, all evaluated on the partition.
        partition: the name of the partition.
        draws: the number of draws of the bootstrap, at least 1.

    Raises:
        InputError: a picture of a run cannot be read.
        MachineError: the file cannot be written; a former one is still there.
    """
    context = page_context(runs, partition, draws)
    page = _environment().get_template("page.html.j2").render(context)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, page, "The report")


def page_context(runs: Sequence[ReportedRun], partition: str, draws: int) -> dict[str, Any]:
    """Collects what the template fills in; arguments as of ``write_page``.

    Of these, "document" is what the page's script reads, as JSON.
    """
    tables, panels, videos = score_tables(runs, draws), curve_panels(runs), timelines(runs)
    tasks = list(dict.fromkeys(task for video in videos for task in video["tasks"]))
    matrices, pictures = confusion_matrices(runs), embedded_pictures(runs)
    configuration, paper = configuration_tables(runs), paper_tables(runs)
    headings = {
        "scores": "Scores",
        "timelines": "Videos over time" if tasks else "",
        "confusion": "Confusion matrices" if matrices else "",
        "curves": "Training" if panels else "",
        "studies": "Studies" if pictures else "",
        "data": "Data",
        "paper": "Where this differs from the paper" if paper else "",
        "configuration": "Configuration",
    }
    models = dict.fromkeys(str(run.config.get("model", {}).get("name", run.name)) for run in runs)
    stores = list(dict.fromkeys(run.document["store"] for run in runs))
    script, style = _read("page.js"), _read("page.css")
    return {
        "title": f"{' and '.join(models)} on {', '.join(stores)}, {partition}",
        "policy": "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"script-src {_hash(script)}; style-src {_hash(style)}",
        "script": script,
        "style": style,
        "stores": stores,
        "simulated": [run.name for run in runs if is_simulated(run.data)],
        "several": len(runs),
        "sections": headings,
        "scores": score_sections(tables, runs, partition),
        "most_videos": max((n for t in tables for n in t.num_videos.values()), default=0),
        "few_videos": FEW_VIDEOS,
        "not_compared": not_compared(tables, runs),
        "glossary": glossary(tables),
        "matrices": matrices,
        "curves": _curve_table(panels, runs),
        "pictures": pictures,
        "mechanisms": mechanism_tables(runs),
        "data": data_tables(runs),
        "paper": paper,
        "configuration": configuration,
        "same_configuration": len(runs) > 1 and all(table.folded for table in configuration),
        "document": {
            "runs": [run.name for run in runs],
            "panels": panels,
            "tasks": task_facts(tasks),
            "videos": videos,
        },
    }


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_read),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment


def _read(name: str) -> str:
    """Reads a file that is installed beside this module."""
    return resources.files("emojax.reporting").joinpath(name).read_text(encoding="utf-8")


def _hash(code: str) -> str:
    digest = hashlib.sha256(code.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _curve_table(panels: Sequence[dict[str, Any]], runs: Sequence[ReportedRun]) -> Table:
    """Lists the ends of the learning curves, for readers without the script."""
    rows = []
    for panel in panels:
        for line in panel["series"]:
            known = [value for value in line["y"] if value is not None]
            ends = (known[0], min(known), max(known), known[-1]) if known else ()
            shown = [f"{x:.3g}" if panel["log"] else f"{x:.3f}" for x in ends] or [NOTHING] * 4
            rows.append([system_title((line["run"], line["name"]), runs), panel["title"], *shown])
    header = ["series", "panel", "first", "lowest", "highest", "last"]
    facts = {"part": "curves"}
    return Table("Curves as a table", header, rows, folded=True, facts=facts)
