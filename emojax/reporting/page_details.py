"""The tables and pictures of the report that tell what was run: data, configuration, paper."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from emojax.errors import InputError
from emojax.reporting.page_runs import ReportedRun, differing, flat, read_json
from emojax.reporting.page_sections import NOTHING, Cell, Table
from emojax.reporting.paper_differences import causes, differences_from_paper
from emojax.reporting.pictures import shown_scores


def data_tables(runs: Sequence[ReportedRun]) -> list[Table]:
    """Describes the scored data, their source and their build."""
    of_runs = [_data_rows(run) for run in runs]
    keys = dict.fromkeys(key for rows in of_runs for key in rows)
    cells = [[key, *(rows.get(key, NOTHING) for rows in of_runs)] for key in keys]
    facts = {"part": "data"}
    parts = [Table("Data", ["", *(run.name for run in runs)], cells, kind="words", facts=facts)]
    for run in runs:
        builder = [list(pair) for pair in flat(run.data.get("builder", {})).items()]
        if builder:
            caption = "Build of the data" + (f": {run.name}" if len(runs) > 1 else "")
            parts.append(Table(caption, ["", "value"], builder, kind="words", folded=True))
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
    replicas = data.get("replicas", ())
    rows["replicas"] = f"{len(replicas)}: {', '.join(replicas)}" if replicas else NOTHING
    return rows


def configuration_tables(runs: Sequence[ReportedRun]) -> list[Table]:
    """Lists the differences between several runs, and each configuration as a whole."""
    parts = []
    if len(runs) > 1:
        rows = [
            [key, *map(_differing_cell, values)]
            for key, values in differing([run.config for run in runs]).items()
        ]
        header = ["key", *(run.name for run in runs)]
        facts = {"part": "differing"}
        parts = [Table("Differences", header, rows, kind="words", facts=facts)] if rows else []
    for run in runs:
        cells = [list(pair) for pair in flat(run.config).items()]
        caption = "Whole configuration" + (f": {run.name}" if len(runs) > 1 else "")
        parts.append(Table(caption, ["key", "value"], cells, kind="words", folded=True))
    return parts


def paper_tables(runs: Sequence[ReportedRun]) -> list[Table]:
    """Lists where each run differs from the paper of its system; runs of unlisted models have none.

    A configuration that this version cannot read is said to be so, for the rest of the report needs
    no such reading.
    """
    tables = []
    for run in runs:
        try:
            entries = differences_from_paper(run.config)
        except InputError as error:
            rows = [[f"The configuration cannot be compared: {error}", *[NOTHING] * 3]]
            entries = []
        else:
            if entries is None:
                continue
            rows = [
                [entry["text"], entry["where"], entry["kind"], causes(entry["because"])]
                for entry in entries
            ] or [["none known", *[NOTHING] * 3]]
        caption = "Differences" + (f": {run.name}" if len(runs) > 1 else "")
        header = ["difference", "where in the paper", "kind", "because"]
        facts = {"part": "paper", "run": run.name}
        title = f"{caption} ({len(entries)})"
        tables.append(Table(title, header, rows, kind="words", folded=True, facts=facts))
    return tables


def mechanism_tables(runs: Sequence[ReportedRun]) -> list[Table]:
    """Lists the effects of mechanisms that ``emojax analyse mechanisms`` has found, run by run.

    Raises:
        InputError: the study's file cannot be read.
    """
    tables = []
    for run in runs:
        folders = [path.parent for path in run.pictures if path.parent.parent.name == "mechanisms"]
        for folder in dict.fromkeys(folders):
            study = read_json(folder / "study.json", "make it again: emojax analyse mechanisms")
            found = study.get("mechanisms", [])
            names: dict[str, list[str]] = {}
            for row in found:
                names.setdefault(row["task"], []).append(row["score"])
            rows = [
                [
                    f"{row['mechanism']}, {row['score']}",
                    f"{row['how']}: {row['becomes']}",
                    *(_number(row[name]) for name in ("intact", "altered", "drop")),
                    f"{_number(row['low'])} to {_number(row['high'])}",
                    _seeds(row),
                ]
                for row in found
                if row["score"] in shown_scores(row["task"], names[row["task"]])
            ]
            header = [
                "mechanism", "what is altered", "as trained", "altered", "fall", "95 % interval",
                "fall by seed",
            ]  # fmt: skip
            caption = "Mechanisms" + (f": {run.name}" if len(runs) > 1 else "")
            facts = {"part": "mechanisms", "run": run.name}
            tables.append(Table(caption, header, rows, facts=facts))
    return tables


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


def _seeds(row: Mapping[str, Any]) -> str:
    if "least" not in row:
        return NOTHING
    return f"{_number(row['least'])} to {_number(row['greatest'])}"


def _differing_cell(value: str | None) -> str | Cell:
    return NOTHING if value is None else Cell(value, marked=True)


def embedded_pictures(runs: Sequence[ReportedRun]) -> dict[str, str]:
    """Reads the pictures of ``emojax.analyse``: title -> base64 text of a PNG.

    Raises:
        InputError: a picture cannot be read.
    """
    found = {}
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
                    remedy="make it again: emojax analyse",
                ) from error
            study, picture = path.parent.parent.name, path.stem.replace("_", " ")
            title = study if picture == study else f"{study}: {picture}"
            found[title + (f", {run.name}" if len(runs) > 1 else "")] = code
    return found
