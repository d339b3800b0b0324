"""Trains many systems on simulated data and compares them with the optimum.

    python -m benchmarks.studies --study=systems --workdir=runs/systems
    python -m benchmarks.studies --study=reliability --workdir=runs/reliability

Builds the stores it needs (``stores/study``) and trains every case; a second call continues an
interrupted study: what was trained and scored stays as it is. Writes ``table.md``, ``table.json``
and ``table.png`` into the workdir. Each seed is scored on its own. The table shows their mean and
spread, and the mean's share of the optimum. ``--study=fusion`` and ``--study=fusion_switching``
also replace every mechanism of every system, see ``emojax analyse mechanisms``.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from rich.console import Console

from benchmarks.study_cases import STORES, Case, Study
from benchmarks.study_effects import effects, effects_table, late_fusion
from benchmarks.study_list import STUDIES
from benchmarks.study_table import Row, draw, markdown, score
from data.synthetic import build, make_options
from emojax.commands import cli
from emojax.core.devices import use_compilation_cache
from emojax.rundir.metric_log import METRICS_FILE

_SCORES = "study.json"


def define_flags(define: cli.Flags) -> None:
    """Defines the command's flags."""
    define.enum("study", "systems", list(STUDIES), "Study to run.")
    define.string("workdir", None, "Folder of runs and results.", required=True)
    define.string("stores", "stores/study", "Folder of the simulated stores.")
    define.list("only", [], "Labels of cases to run; all by default.")
    define.string("size", "", "Size of the stores, instead of the study's.")
    define.integer("seeds", 0, "Number of seeds, instead of the study's.")
    define.list("partitions", ["validation", "test"], "Partitions to score.")
    define.multi_string("set", [], "A flag for every training, config.x=y.")


def main(given: flags.FlagValues) -> None:
    """Runs a study and prints its tables."""
    use_compilation_cache()
    study = STUDIES[given.study]
    workdir = cli.folder("workdir", given.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    console = cli.console()
    seeds = given.seeds or study.seeds
    for case in study.cases:
        if given.only and case.label not in given.only:
            continue
        run = workdir / case.folder
        store = _store(given, study, case, console)
        if not _trained(run):
            _train(given, case, store, run, seeds, console)
        if not _kept(run, given.partitions):
            _score(case, run, given.partitions, mechanisms=study.mechanisms)
    done = [case for case in study.cases if _kept(workdir / case.folder, given.partitions)]
    rows = [row for case in done for row in _rows(workdir / case.folder, given.partitions)]
    for label, members in study.late.items():
        if set(members) <= {case.label for case in done}:
            runs = [workdir / case.folder for case in study.cases if case.label in members]
            for partition in given.partitions:
                rows += late_fusion(label, runs, partition)
    table = markdown(rows, study.question)
    if study.mechanisms:
        found = {case.label: _read(workdir / case.folder)["effects"] for case in done}
        table += "\n" + effects_table(found, study.question)
    (workdir / "table.md").write_text(table)
    (workdir / "table.json").write_text(json.dumps([row.as_dict() for row in rows], indent=1))
    draw(workdir / "table.png", rows, study.question)
    console.print(table, markup=False, highlight=False)
    console.print(f"picture: {workdir / 'table.png'}", highlight=False)


def _score(case: Case, run: Path, partitions: Sequence[str], *, mechanisms: bool) -> None:
    """Keeps a case's scores, and the effects of its mechanisms, beside its run."""
    seconds = _seconds(run)
    rows = [row for partition in partitions for row in score(case, run, partition, seconds)]
    kept = {
        "partitions": list(partitions),
        "rows": [row.as_dict() for row in rows],
        "effects": effects(run, partitions[0]) if mechanisms else [],
    }
    (run / _SCORES).write_text(json.dumps(kept, indent=1))


def _read(run: Path) -> dict[str, Any]:
    """Returns what is kept of a case; nothing if it was not scored yet."""
    path = run / _SCORES
    return json.loads(path.read_text()) if path.is_file() else {"partitions": []}


def _kept(run: Path, partitions: Sequence[str]) -> bool:
    return set(partitions) <= set(_read(run)["partitions"])


def _rows(run: Path, partitions: Sequence[str]) -> list[Row]:
    rows = [Row.from_dict(row) for row in _read(run)["rows"]]
    return [row for row in rows if row.partition in partitions]


def _store(given: flags.FlagValues, study: Study, case: Case, console: Console) -> Path:
    """Returns the case's store; simulates it if it does not exist."""
    size = given.size or study.size
    train_videos = case.train_videos or study.videos.get("train")
    number = f"-{train_videos}" if train_videos else ""
    out = Path(given.stores) / f"{study.preset}-{size}{number}-{case.store}"
    if not (out / "dataset.json").is_file():
        console.print(f"simulating {out}", highlight=False)
        wanted = STORES[case.store]
        options = make_options(
            preset=study.preset,
            size=size,
            videos={**study.videos, "train": train_videos},
            min_seconds=study.seconds[0] if study.seconds else None,
            max_seconds=study.seconds[1] if study.seconds else None,
            streams=list(wanted.widths),
            tasks=wanted.tasks,
            widths=[f"{name}={width}" for name, width in wanted.widths.items()],
        )
        build(str(out), options, say=lambda line: None)
    return out


def _train(
    given: flags.FlagValues, case: Case, store: Path, run: Path, seeds: int, console: Console
) -> None:
    """Trains a case, or continues its training, in a process whose output stays visible."""
    command = [
        *(sys.executable, "-m", "emojax.train", f"--config={case.config}", f"--workdir={run}"),
        f"--config.data.store={store}",
        f"--config.replicas.seeds=({''.join(f'{seed},' for seed in range(seeds))})",
        *(f"--{setting}" for setting in (*case.overrides, *given.set)),
    ]
    console.print(" ".join(["python", *command[1:]]), markup=False, highlight=False)
    subprocess.run(command, check=True)


def _trained(run: Path) -> bool:
    """Tells whether a training has ended; it would only be evaluated again."""
    summary = run / "summary.json"
    return summary.is_file() and json.loads(summary.read_text())["status"] == "done"


def _seconds(run: Path) -> float:
    """Returns the seconds spent in training steps."""
    with (run / METRICS_FILE).open(newline="") as file:
        return sum(float(row["seconds_training"]) for row in csv.DictReader(file))


COMMAND = cli.Command(main, define_flags)

if __name__ == "__main__":
    COMMAND.run()
