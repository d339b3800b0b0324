"""Studies of trained runs: ``emojax analyse STUDY --checkpoint=RUN [--partition=test]``.

    missing     scores while more and more frames of a modality go missing (ExpTrm, section 5.3)
    streams     fall of the scores without a stream, and with another video's rows in its place
    mechanisms  fall of the scores without each mechanism of the model, and norms of parameters
    attention   what each attention of the model attends to, in one video: arrays and a picture
    compare     differences between two or more runs: Fisher's z and a bootstrap over videos
    lag         shift between labels and streams in each video of a store, without any run

Tables (CSV), ``study.json`` and pictures go to RUN/analysis/STUDY/PARTITION, those of ``lag`` to
STORE/analysis/lag.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from emojax.commands import cli
from emojax.core.devices import use_compilation_cache
from emojax.errors import InputError, closest
from emojax.ops.significance import LEVEL, dagger
from emojax.reporting.pictures import shown_scores
from emojax.studies.attention_maps import attention_maps, attention_table, video_labels
from emojax.studies.attention_pictures import plot_attention
from emojax.studies.lag_study import lag_study
from emojax.studies.mechanism_study import mechanism_study
from emojax.studies.mechanism_tables import mechanism_tables
from emojax.studies.missing_modality import (
    KEPT,
    PATTERNS,
    VALIDITY,
    MissingPlan,
    missing_modality,
)
from emojax.studies.run_comparison import compare_runs
from emojax.studies.stream_importance import stream_importance
from emojax.studies.study_data import StudiedRun, open_studied
from emojax.studies.study_output import StudyTable, print_tables, progress_bar, write_tables
from emojax.studies.study_pictures import (
    plot_importance,
    plot_mechanisms,
    plot_missing,
)


def define_flags(define: cli.Flags) -> None:
    """Defines the command's flags."""
    define.multi_string(
        "checkpoint", [], "The --workdir of a training run; several to compare; none for lag."
    )
    define.integer("step", None, "The saved step to open; the latest by default.")
    define.string("store", "", "Store to study on; the (first) training store by default.")
    define.enum(
        "partition", "validation", ["train", "validation", "test"], "Videos of the fold(s)."
    )
    define.string("out", "", "Folder; RUN/analysis/STUDY/PARTITION[-on-NAME] by default.")
    define.integer("seed", 0, "Seed of all random draws.", lower_bound=0)
    define.integer(
        "draws", 1000, "all but missing: draws of the bootstrap over videos.", lower_bound=1
    )
    define.enum(
        "by",
        None,
        ["modality", "stream"],
        "Unit that is left out: by default a modality in missing, a stream in streams.",
    )
    define.list(
        "percent",
        [str(10 * i) for i in range(11)],
        "missing: percentages of frames that go missing.",
    )
    define.integer("trials", 10, "missing: draws for each percentage.", lower_bound=1)
    define.list("pattern", list(PATTERNS), "missing: single frames, contiguous spans, or both.")
    define.list(
        "validity",
        [KEPT],
        "missing: kept (zeros at the model's input, masks left on, the paper's study), cleared "
        "(missing in the store, so that config.data.fill acts), or both.",
    )
    define.float("span", 2.0, "missing: mean length of a span in seconds.", lower_bound=0.0)
    define.string("video", "", "attention: the video; by default one of median length.")
    define.integer("replica", 0, "attention: the number of the replica.", lower_bound=0)
    define.float(
        "start", 0.0, "attention: the second at which the picture begins.", lower_bound=0.0
    )
    define.string("task", "", "lag: the task whose labels are compared; the store's first.")
    define.list("streams", [], "lag: the streams to compare with; all by default.")
    define.float("max_lag", 2.0, "lag: the largest shift to try, in seconds.", lower_bound=0.01)
    define.integer(
        "shuffles",
        5,
        "streams, mechanisms: number of other videos whose rows replace those of a video; 0 for "
        "none.",
        lower_bound=0,
    )


_FEW_VIDEOS = 20
Progress = Callable[[int, int], None]


def _missing(
    given: flags.FlagValues, runs: Sequence[StudiedRun], folder: Path, progress: Progress
) -> list[StudyTable]:
    plan = MissingPlan(
        shares=tuple(x / 100 for x in _numbers("percent", given.percent, 0.0, 100.0)),
        trials=given.trials,
        patterns=_choices("pattern", given.pattern, tuple(PATTERNS)),
        validity=_choices("validity", given.validity, VALIDITY),
        stream_by=given.by or "modality",
        span_seconds=given.span,
        seed=given.seed,
    )
    points = missing_modality(runs[0], plan, progress)
    plot_missing(folder / "missing.png", heading=_heading(runs, "missing input"), points=points)
    rows = [
        {
            "task": point.task,
            "score": point.score,
            "missing": point.group,
            "pattern": point.pattern,
            "validity": point.validity,
            "percent": 100 * point.share,
            "trials": len(point.values),
            "mean": point.mean,
            "deviation": point.deviation,
            "least": min(point.values),
            "greatest": max(point.values),
        }
        for point in points
    ]
    columns = ("task", "score", "missing", "pattern", "validity")
    curves: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in _brief(rows):
        key = tuple(row[name] for name in columns)
        curve = curves.setdefault(key, dict(zip(columns, key, strict=True)))
        curve[f"{row['percent']:g} %"] = row["mean"]
    trials = [
        dict(zip(columns, (p.task, p.score, p.group, p.pattern, p.validity), strict=True))
        | {"percent": 100 * p.share, "trial": trial, "value": value}
        for p in points
        for trial, value in enumerate(p.values)
    ]
    caption = f"mean of {plan.trials} trials; spans of {plan.span_seconds:g} s on average"
    return [
        StudyTable("missing", _heading(runs, "missing"), rows, list(curves.values()), caption),
        StudyTable("trials", "", trials, []),
    ]


def _streams(
    given: flags.FlagValues, runs: Sequence[StudiedRun], folder: Path, progress: Progress
) -> list[StudyTable]:
    found = stream_importance(
        runs[0],
        progress,
        stream_by=given.by or "stream",
        shuffles=given.shuffles,
        draws=given.draws,
        seed=given.seed,
    )
    heading = _heading(runs, "without each stream")
    plot_importance(folder / "streams.png", heading=heading, found=found)
    rows = [dataclasses.asdict(row) for row in found]
    order = list(dict.fromkeys((row["task"], row["score"]) for row in rows))
    rows.sort(key=lambda row: order.index((row["task"], row["score"])))
    caption = f"low, high: 95 % interval of the drop; {_bootstrap(given, runs)}"
    return [StudyTable("streams", heading, rows, _brief(rows), caption)]


def _mechanisms(
    given: flags.FlagValues, runs: Sequence[StudiedRun], folder: Path, progress: Progress
) -> list[StudyTable]:
    found = mechanism_study(
        runs[0], progress, shuffles=given.shuffles, draws=given.draws, seed=given.seed
    )
    heading = _heading(runs, "without each mechanism")
    plot_mechanisms(folder / "mechanisms.png", heading=heading, found=found)
    return mechanism_tables(found, runs[0].run, heading, _bootstrap(given, runs))


def _attention(
    given: flags.FlagValues, runs: Sequence[StudiedRun], folder: Path, progress: Progress
) -> list[StudyTable]:
    (studied,) = runs
    session = studied.run.session
    if given.replica >= len(session.replicas):
        raise InputError(
            "The run has no such replica.",
            file=studied.run.workdir,
            field="--replica",
            found=given.replica,
            expected=f"0 to {len(session.replicas) - 1}: {', '.join(session.names)}",
        )
    maps = attention_maps(studied, given.video, given.replica)
    progress(1, 1)
    arrays: dict[str, Any] = {"ticks": maps.ticks, "seconds": maps.seconds, **maps.weights}
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "attention.npz", **arrays)
    plot_attention(
        folder / "attention.png",
        heading=f"{_heading(runs, 'attention')}, video {maps.video}",
        maps=maps,
        labels=video_labels(studied, maps),
        streams=tuple(session.model.streams),
        start=given.start,
    )
    return [attention_table(maps, _heading(runs, "attention"))]


def _compare(
    given: flags.FlagValues, runs: Sequence[StudiedRun], folder: Path, progress: Progress
) -> list[StudyTable]:
    found = compare_runs(runs, progress, draws=given.draws, seed=given.seed)
    rows = []
    for one in found:
        row = dataclasses.asdict(one)
        marks = ["" if p is None else dagger(p) for p in (one.z_p, one.p)]
        row |= {"z_p_dagger": marks[0], "p_dagger": marks[1]}
        rows.append(row)
    shown = [
        {
            "task": row["task"],
            "score": row["score"],
            row["first"]: row["value"],
            "other run": row["second"],
            "its score": row["other"],
            "difference": row["difference"],
            "low": row["low"],
            "high": row["high"],
            "p (bootstrap)": _p_text(row["p"], row["p_dagger"]),
            "z (approx.)": row["z"],
            "p of z (approx.)": _p_text(row["z_p"], row["z_p_dagger"]),
        }
        for row in rows
    ]
    caption = (
        f"† p < {LEVEL:g}. low, high, p: {_bootstrap(given, runs)}. "
        "z: Fisher's, approximate: it is meant for Pearson's r of independent frames, and "
        "neighbouring frames are nearly the same."
    )
    return [StudyTable("compare", _heading(runs[:1], "comparison"), rows, shown, caption)]


@dataclasses.dataclass(frozen=True)
class _Study:
    """A study: its function, if it is of runs; the flags that not all have; the number of runs."""

    function: (
        Callable[[flags.FlagValues, Sequence[StudiedRun], Path, Progress], list[StudyTable]] | None
    )
    options: tuple[str, ...] = ()
    several: bool = False


STUDIES: dict[str, _Study] = {
    "missing": _Study(_missing, ("seed", "by", "percent", "trials", "pattern", "validity", "span")),
    "streams": _Study(_streams, ("seed", "by", "shuffles", "draws")),
    "mechanisms": _Study(_mechanisms, ("seed", "shuffles", "draws")),
    "attention": _Study(_attention, ("video", "replica", "start")),
    "compare": _Study(_compare, ("seed", "draws"), several=True),
    "lag": _Study(None, ("seed", "task", "streams", "max_lag")),
}


def main(given: flags.FlagValues, *words: str) -> None:
    """Runs one study, prints its tables and writes its files."""
    name, study = _chosen(given, words)
    if study.function is None:
        _lag(given)
        return
    use_compilation_cache()
    runs = open_studied(given.checkpoint, given.step, given.store, given.partition)
    first, store = runs[0], runs[0].store
    place = first.partition
    if not first.run.trained_on(store):
        place += f"-on-{Path(store.path).name}"
    default = first.run.workdir / "analysis" / name / place
    folder = cli.folder("out", given.out or str(default))
    with progress_bar(name) as progress:
        tables = study.function(given, runs, folder, progress)
    facts = {
        "study": name,
        "checkpoints": {
            one.name: {"step": one.run.step, "folder": str(one.run.workdir)} for one in runs
        },
        "store": {"name": store.name, "checksum": store.metadata["checksum"]},
        "partition": first.partition,
        "options": {option: given[option].value for option in study.options},
    }
    write_tables(folder, facts, tables)
    console = cli.console()
    print_tables(tables, console)
    console.print(f"files: {folder}", highlight=False)


def _lag(given: flags.FlagValues) -> None:
    """Runs the study of a store's lags, which needs no trained run."""
    folder = cli.folder("out", given.out or str(Path(given.store) / "analysis" / "lag"))
    with progress_bar("lag") as progress:
        found = lag_study(
            given.store, given.task, streams=given.streams, max_seconds=given.max_lag,
            seed=given.seed, picture=folder / "lag.png", progress=progress,
        )  # fmt: skip
    write_tables(folder, found.facts, found.tables)
    console = cli.console()
    print_tables(found.tables, console)
    for line in found.lines:
        cli.say(line)
    console.print(f"files: {folder}", highlight=False)


def _chosen(given: flags.FlagValues, words: Sequence[str]) -> tuple[str, _Study]:
    """Returns the study that is named; refuses flags that it does not use."""
    if len(words) != 1 or words[0] not in STUDIES:
        raise InputError(
            "Name one study.",
            field="STUDY",
            found=" ".join(words) or "nothing",
            expected="one of " + ", ".join(STUDIES),
            remedy=closest(words[0], STUDIES) if len(words) == 1 else None,
        )
    (name,) = words
    study = STUDIES[name]
    if bool(given.checkpoint) != (study.function is not None):
        raise InputError(
            f"The study {name!r} is of a {'trained run' if study.function else 'store'}.",
            field="--checkpoint",
            found=", ".join(given.checkpoint) or "nothing",
            expected="the --workdir of a training run" if study.function else "--store alone",
        )
    optional = {option for each in STUDIES.values() for option in each.options}
    for option in sorted(optional - set(study.options)):
        if given[option].present:
            users = [other for other, each in STUDIES.items() if option in each.options]
            raise InputError(
                f"The study {name!r} does not use this flag.",
                field=f"--{option}",
                found=given[option].value,
                expected="no value; the flag belongs to " + ", ".join(users),
            )
    if len(given.checkpoint) > 1 and not study.several:
        raise InputError(
            f"The study {name!r} takes one run.",
            field="--checkpoint",
            found=", ".join(given.checkpoint),
            expected="one run; several serve "
            + ", ".join(k for k, s in STUDIES.items() if s.several),
        )
    return name, study


def _heading(runs: Sequence[StudiedRun], what: str) -> str:
    names = ", ".join(one.name for one in runs)
    return f"{names} on {runs[0].store.name}, {runs[0].partition}: {what}"


def _bootstrap(given: flags.FlagValues, runs: Sequence[StudiedRun]) -> str:
    count = (
        min(map(len, runs[0].videos)) if not runs[0].together() else sum(map(len, runs[0].videos))
    )
    few = ", few enough for intervals to be too narrow" if count < _FEW_VIDEOS else ""
    return f"paired bootstrap over {count} videos{few}, {given.draws} draws"


def _brief(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the rows of the scores that pictures show."""
    names: dict[str, list[str]] = {}
    for row in rows:
        names.setdefault(row["task"], []).append(row["score"])
    return [row for row in rows if row["score"] in shown_scores(row["task"], names[row["task"]])]


def _p_text(p: float | None, mark: str) -> str | None:
    if p is None or p != p:
        return None
    return f"{p:.3f}{mark}" if p >= 0.001 else f"<0.001{mark}"


def _numbers(flag: str, words: Sequence[str], low: float, high: float) -> list[float]:
    """Returns the distinct numbers of a list flag, in ascending order."""
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    if not numbers or not all(low <= number <= high for number in numbers):
        raise InputError(
            "The study does not take these numbers.",
            field=f"--{flag}",
            found=",".join(words) or "nothing",
            expected=f"numbers from {low:g} to {high:g}, separated by commas",
        )
    return sorted(set(numbers))


def _choices(flag: str, words: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Returns the distinct words of a list flag, in the order of ``known``."""
    for word in words:
        if word not in known:
            raise InputError(
                "The flag does not have this choice.",
                field=f"--{flag}",
                found=word,
                expected="some of " + ", ".join(known),
                remedy=closest(word, known),
            )
    return tuple(word for word in known if word in words) or tuple(known[:1])


COMMAND = cli.Command(main, define_flags, arguments=True)

if __name__ == "__main__":
    COMMAND.run()
