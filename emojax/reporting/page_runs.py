"""Runs as the report reads them, from the files that training and evaluation left."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emojax.config_reading import flatten
from emojax.errors import InputError
from emojax.ops.own_tasks import declare_tasks
from emojax.reporting.timelines import TIMELINES_FILE, VideoTimeline, read_timelines
from emojax.rundir.metric_log import METRICS_FILE, read_metrics
from emojax.scoring.fold_scores import POOLED

# Folder of a run in which emojax.analyse leaves STUDY/PARTITION/*.png.
ANALYSIS_FOLDER = "analysis"


@dataclasses.dataclass(frozen=True)
class ReportedRun:
    """One run, evaluated on one partition.

    Attributes:
        name: tells it apart from the other runs of the report.
        workdir: the folder of the run.
        config: the configuration of the run.
        document: its ``scores.json``.
        metrics: step -> metric name -> value; empty for a run that was not trained here.
        videos: the videos of all folds.
        pictures: PNG files of the studies that emojax.analyse made on the partition.
    """

    name: str
    workdir: Path
    config: dict[str, Any]
    document: dict[str, Any]
    metrics: dict[int, dict[str, float]]
    videos: list[VideoTimeline]
    pictures: list[Path]

    @property
    def data(self) -> dict[str, Any]:
        """Returns the entry of ``scores.json`` about the data."""
        return self.document["data"]

    @property
    def groups(self) -> dict[str, list[VideoTimeline]]:
        """Returns the sets of videos that are scored as one: all folds together, or else each fold.

        Folds are put together if no video is in two of them, because then each video was
        predicted by replicas that did not train on it.
        """
        folds: dict[str, list[VideoTimeline]] = {}
        for video in self.videos:
            folds.setdefault(video.fold, []).append(video)
        if len(folds) > 1 and len({video.name for video in self.videos}) == len(self.videos):
            return {POOLED: self.videos}
        return folds

    def scores(self, group: str, task: str) -> dict[str, dict[str, float]]:
        """Returns system -> score name -> value of a group of videos; NaN where JSON has null."""
        folds = self.document["all_folds"] if group == POOLED else self.document["folds"][group]
        return {
            system: {name: math.nan if x is None else x for name, x in by_name.items()}
            for system, by_name in folds.get(task, {}).items()
        }


def read_runs(workdirs: Sequence[str], partition: str) -> list[ReportedRun]:
    """Reads the files of training and evaluation in each folder.

    Args:
        workdirs: folders of runs.
        partition: which folder of each run: "validation", "test", or "validation-on-NAME".

    Raises:
        InputError: a folder is no run, is given twice, or was not evaluated on the partition.
    """
    paths = [Path(workdir) for workdir in workdirs]
    if not paths:
        raise InputError(
            "There is no run to report on.",
            field="arguments",
            found="nothing",
            expected="the folder of a run, or of several",
            remedy="emojax report RUN",
        )
    for path in paths:
        if sum(path.resolve() == other.resolve() for other in paths) > 1:
            raise InputError("A run is given twice.", file=path, expected="each run once")
    return [_read(path, name, partition) for path, name in zip(paths, _names(paths), strict=True)]


def _names(paths: Sequence[Path]) -> list[str]:
    """Names each run by its last folder, and by as many more as tell the runs apart."""
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(len(part) for part in parts)):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _read(workdir: Path, name: str, partition: str) -> ReportedRun:
    if not (workdir / "config.json").is_file():
        raise InputError(
            "This is not the folder of a run.",
            file=workdir,
            found="a folder without config.json" if workdir.is_dir() else "no folder",
            expected="the --workdir of a training",
            remedy="train first: emojax train --config=CONFIG --workdir=RUN",
        )
    folder = workdir / partition
    remedy = f"emojax evaluate --checkpoint={workdir} --partition={partition}"
    if not (folder / TIMELINES_FILE).is_file():
        evaluated = sorted(path.parent.name for path in workdir.glob(f"*/{TIMELINES_FILE}"))
        raise InputError(
            f"The run has no predictions of {partition!r}.",
            file=folder / TIMELINES_FILE,
            field="--partition",
            found=", ".join(evaluated) or "none",
            expected="a partition that was evaluated",
            remedy=remedy,
        )
    document = read_json(folder / "scores.json", remedy)
    for key in ("store", "data", "folds"):
        if not isinstance(document.get(key), str if key == "store" else dict):
            raise _unreadable(folder / "scores.json", f"no {key!r}", remedy)
    _declare(document, folder / "scores.json", remedy)
    metrics = workdir / METRICS_FILE
    run = ReportedRun(
        name=name,
        workdir=workdir,
        config=read_json(workdir / "config.json", "train the run again"),
        document=document,
        metrics=read_metrics(metrics) if metrics.is_file() else {},
        videos=read_timelines(folder / TIMELINES_FILE),
        pictures=study_pictures(workdir, partition),
    )
    if {video.fold for video in run.videos} != set(document["folds"]):
        raise _unreadable(folder / "scores.json", "other folds than in " + TIMELINES_FILE, remedy)
    return run


def _declare(document: dict[str, Any], path: Path, remedy: str) -> None:
    """Makes the tasks known that are not emojax's own."""
    try:
        declare_tasks(document.get("own_tasks", {}))
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise _unreadable(path, f"own_tasks: {error}"[:80], remedy) from error


def study_pictures(workdir: Path, partition: str) -> list[Path]:
    """Finds the pictures that ``emojax.analyse`` left of a partition."""
    return sorted((workdir / ANALYSIS_FOLDER).glob(f"*/{partition}/*.png"))


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """Reads a JSON object of a run; ``remedy`` is for the error.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(error), remedy) from error
    if not isinstance(document, dict):
        raise _unreadable(path, type(document).__name__, remedy)
    return document


def _unreadable(path: Path, found: str, remedy: str) -> InputError:
    return InputError(
        "A file of the run cannot be read.",
        file=path,
        found=found,
        expected="JSON as training and evaluation of this version write it",
        remedy=remedy,
    )


def flat(config: Mapping[str, Any]) -> dict[str, str]:
    """Turns a configuration into text by dotted key.

    >>> flat({"train": {"epochs": 3}})
    {'train.epochs': '3'}
    """
    return {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in flatten(config).items()
    }


def differing(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[str | None]]:
    """Compares configurations: dotted key -> value in each, where they are not all the same.

    The value is None where a configuration does not have the key.
    """
    rows = [flat(config) for config in configs]
    keys = dict.fromkeys(key for row in rows for key in row)
    values = {key: [row.get(key) for row in rows] for key in keys}
    return {key: found for key, found in values.items() if len(set(found)) > 1}
