"""Trains all folds of EPiC-2023: ``emojax crossval-epic2023 --store=... --workdir=...``.

Trains every fold and seed of the configuration in one program, or continues an interrupted run.
Predicts each fold's test recordings with the mean over its seeds. Prints the official RMSE of
each scenario beside that of the twelve teams, the training mean and median, and the linear
baseline.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table

from emojax.commands import cli
from emojax.commands.summary import path_text
from emojax.core.devices import use_compilation_cache
from emojax.datasets.folds import Fold
from emojax.datasets.source import Store
from emojax.errors import InputError
from emojax.ops.epic import SCENARIOS, TEAMS, official_rmse
from emojax.prediction.predictor import Predictions
from emojax.rundir.workdir import replace_text
from emojax.scoring.evaluation import BASELINE, OURS, evaluate_run
from emojax.specs import TASKS
from emojax.training.host_memory import keep_freed_memory
from emojax.training.train_run import Training, open_training, train_run


def define_flags(define: cli.Flags) -> None:
    """Defines the command's flags."""
    define.config(
        "Configuration; folds are named s2_0, s3_0, s4_0 ...",
        default="segment_mlp",
    )
    define.string("store", "", "Store of data.epic2023; the configuration's by default.")
    define.string("workdir", None, "Folder of the run.", required=True)


# scenario -> (valence, arousal)
Row = dict[str, tuple[float, float]]


def main(given: flags.FlagValues) -> None:
    """Trains and predicts, and prints and saves the table of scores."""
    use_compilation_cache()
    keep_freed_memory()
    config = cli.read_config(given)
    if given.store:
        config.data.store = given.store
    session, store = open_training(config)
    workdir = cli.folder("workdir", given.workdir)
    console = cli.console()
    cli.use_devices(session.layout.mesh.devices.flat)
    cli.tell(workdir=path_text(workdir))
    console.print(
        f"{config.model.name} on {store.name}: {len(session.replicas)} replicas "
        f"({len(session.folds.keys)} folds) in one program",
        highlight=False,
    )
    folds = {name: store.fold(name) for name in session.folds.keys}
    for name, fold in folds.items():
        if _scenario(name) not in SCENARIOS or fold.scored_frames is None:
            raise InputError(
                "The fold is not one of EPiC-2023.",
                file=store.path,
                field="config.replicas.folds",
                found=name,
                expected="folds s2_0 .. s4_1 of a store that data.epic2023 built",
            )
    with train_run(session, store, workdir) as training:
        _report(training, store, folds, console)


def _report(training: Training, store: Store, folds: Mapping[str, Fold], console: Console) -> None:
    """Scores the trained run; prints and writes the table."""
    cli.tell(**training.facts())
    results = evaluate_run(training.run, store, "test")
    by_fold: dict[str, dict[str, Predictions]] = {
        system: {result.fold: result.predictions[system] for result in results}
        for system in (OURS, BASELINE)
    }
    for name, level in (("training mean", np.mean), ("training median", np.median)):
        by_fold[name] = {
            result.fold: _constant(store, result.names, folds[result.fold], level)
            for result in results
        }
    rows = {system: scenario_scores(store, predicted) for system, predicted in by_fold.items()}
    cli.tell(
        checkpoint_step=training.run.step,
        rmse={
            scenario: dict(zip(TASKS["va"].labels, pair, strict=True))
            for scenario, pair in rows[OURS].items()
        },
    )
    _print(rows, console)
    path = training.run.workdir / "epic2023.json"
    replace_text(path, json.dumps(rows, indent=1) + "\n", "The table")
    console.print(f"scores: {path}", highlight=False)


def scenario_scores(store: Store, predictions: Mapping[str, Predictions]) -> Row:
    """Returns the official (valence, arousal) RMSE of each scenario whose folds were predicted.

    Args:
        store: the EPiC-2023 store.
        predictions: fold -> predictions of its test recordings.
    """
    row: Row = {}
    for scenario in SCENARIOS:
        folds = [name for name in predictions if _scenario(name) == scenario]
        if not folds:
            continue
        predicted: dict[str, Sequence[np.ndarray]] = {}
        rated: dict[str, Sequence[np.ndarray]] = {}
        for name in folds:
            videos = predictions[name]
            predicted[name] = [by_task["va"] for by_task in videos.values()]
            rated[name] = [store.read(store.index_of(video)).labels["va"] for video in videos]
        scored = store.fold(folds[0]).scored_frames
        assert scored is not None
        valence, arousal = official_rmse(predicted, rated, scored)
        row[scenario] = (float(valence), float(arousal))
    return row


def _scenario(fold: str) -> str:
    return fold.split("_")[0]


def _constant(
    store: Store, videos: Sequence[str], fold: Fold, level: Callable[..., np.ndarray]
) -> Predictions:
    """Predicts the mean or median of a fold's known labels for every frame."""
    known = [store.read(store.index_of(n)).labels["va"] for n in (*fold.train, *fold.validation)]
    labels_NC = np.concatenate(known).astype(np.float64)
    value_C = level(labels_NC[TASKS["va"].annotated(labels_NC)[:, 0]], axis=0)
    frames = {name: store.videos[store.index_of(name)].num_frames for name in videos}
    return {name: {"va": np.tile(value_C, (count, 1))} for name, count in frames.items()}


def _print(rows: Mapping[str, Row], console: Console) -> None:
    """Prints all rows, ordered by the sum of scenario 2's valence and arousal."""
    scenarios = [name for name in SCENARIOS if name in rows[OURS]]
    everything: dict[str, Row] = {**TEAMS, **{f"emojax: {name}": row for name, row in rows.items()}}
    title = "EPiC-2023, official RMSE (valence / arousal), lower is better; teams as published"
    table = Table(title=title, title_justify="left")
    table.add_column("team")
    for name in scenarios:
        table.add_column(f"{name}: {SCENARIOS[name]}", justify="right")
    for team, row in sorted(everything.items(), key=lambda item: sum(item[1][scenarios[0]])):
        cells = [f"{row[name][0]:.3f} / {row[name][1]:.3f}" for name in scenarios]
        table.add_row(team, *cells, style="bold" if team == f"emojax: {OURS}" else None)
    console.print(table)
    for name in scenarios:
        ranks = [
            1 + sum(team[name][column] < rows[OURS][name][column] for team in TEAMS.values())
            for column in (0, 1)
        ]
        console.print(
            f"{name}: valence would rank {ranks[0]} and arousal {ranks[1]} among "
            f"{len(TEAMS)} teams",
            highlight=False,
        )


COMMAND = cli.Command(main, define_flags, summary="emojax.epic2023")

if __name__ == "__main__":
    COMMAND.run()
