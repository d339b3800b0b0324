"""Writes a submission to ABAW: ``emojax submit --checkpoint=RUN --task=va --out=FILE``.

    emojax submit --predictions=FOLDER --task=au --template=TEMPLATE --out=FILE
    emojax submit --validate=FILE --task=au --template=TEMPLATE

The 5th to 8th edition take one file, with a row for each frame of the organisers' template. The
3rd edition (``--edition=3``) takes a .txt for each video. Every file is read back and compared.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table

from emojax.commands import cli
from emojax.core.devices import use_compilation_cache
from emojax.datasets.source import Store
from emojax.errors import InputError
from emojax.exchange.submission_check import check_annotations, check_submission
from emojax.exchange.submission_frames import (
    SUBMISSION_TASKS,
    FrameList,
    check_same_videos,
    every_frame,
    read_template,
    read_test_list,
    shortened,
)
from emojax.exchange.submission_writing import (
    Decision,
    VideoAnswer,
    answer,
    neutral,
    read_decision,
    read_prediction,
    read_predictions,
    summary,
    write_annotations,
    write_submission,
)
from emojax.prediction.predictor import Predictions, ensemble
from emojax.prediction.trained_run import open_run


def define_flags(define: cli.Flags) -> None:
    """Defines the command's flags."""
    define.enum("task", None, list(SUBMISSION_TASKS), "Task of the challenge.", required=True)
    define.string("checkpoint", "", "The --workdir of a training run.")
    define.integer("step", None, "The saved step to open; the latest by default.")
    define.string("fold", "", "Use only the replicas and decisions of this fold.")
    define.string("predictions", "", "Folder that emojax.predict wrote, instead of --checkpoint.")
    define.string("store", "", "Store with the videos; the training store by default.")
    define.enum(
        "partition",
        "test",
        ["train", "validation", "test"],
        "Videos of the store to submit, if neither a template nor a test list names them.",
    )
    define.string("template", "", "The organisers' file that lists all rows, in order.")
    define.string("test_list", "", "Text file with the name of one video in each line.")
    define.enum("edition", "8", ["3", "5", "6", "7", "8"], "Edition of the competition.")
    define.string(
        "decisions", "", "The scores.json of evaluate --decision=tuned: thresholds or offsets."
    )
    define.bool("allow_missing", False, "Give videos without predictions neutral values.")
    define.string("validate", "", "Only check this file (3rd edition: folder).")
    define.string("out", "", "File (3rd edition: folder) to write.")


@dataclasses.dataclass(frozen=True)
class _Source:
    """The predictions to submit: those of a run, or those in CSV files.

    Attributes:
        wanted: the videos to submit, in order.
        lengths: video -> number of frames, for the videos whose number is known.
        predicted: the videos that have predictions.
        predict: video -> (frames, C) decoded predictions, or None if there are none.
    """

    wanted: list[str]
    lengths: Mapping[str, int]
    predicted: Collection[str]
    predict: Callable[[str], np.ndarray | None]


def main(given: flags.FlagValues) -> None:
    """Fits predictions to the frames of the challenge, writes the submission and checks it."""
    console = cli.console()
    _check_flags(given)
    template, names = _asked(given)
    if given.validate:
        _validate(given, Path(given.validate), template, names, console)
        return
    task, out = given.task, Path(given.out)
    decision = None
    if given.decisions:
        decision = read_decision(given.decisions, task, given.fold)
    source = (_from_files if given.predictions else _from_run)(
        given, list(template.videos) if template else names
    )
    absent = [name for name in source.wanted if name not in source.predicted]
    _check_absent(given, absent, [] if template else [n for n in absent if n not in source.lengths])
    frames = template or every_frame({name: source.lengths[name] for name in source.wanted})
    values_NK, answers = answer(frames, source.predict, task, decision)
    if given.edition == "3":
        write_annotations(out, frames, task, values_NK)
        found = check_annotations(out, task, {name: one.asked for name, one in answers.items()})
        again_NK = np.concatenate([found[name] for name in frames.videos])
    else:
        write_submission(out, frames, task, values_NK)
        again_NK = check_submission(out, task, frames)[1]
    if not np.allclose(again_NK, values_NK, rtol=0, atol=1e-6):
        raise RuntimeError(f"{out} does not hold what was to be written")
    _report(given, answers, absent, decision, console)


def _check_flags(given: flags.FlagValues) -> None:
    """Refuses flags that contradict one another.

    Raises:
        InputError: none or several of --checkpoint, --predictions and --validate are given, no
            place to write to is given, or a flag has no effect.
    """
    sources = ("checkpoint", "predictions", "validate")
    named = [f"--{name}" for name in sources if given[name].value]
    if len(named) != 1:
        raise InputError(
            "The command needs exactly one of these flags.",
            field=", ".join(f"--{name}" for name in sources),
            found=" and ".join(named) or "none of them",
            expected="one of them",
        )
    if not given.validate and not given.out:
        raise InputError(
            "The place to write the submission is missing.",
            field="--out",
            found="nothing",
            expected="a file, or a folder for --edition=3",
        )
    only_writing = ("out", "decisions", "allow_missing")
    idle = [f"--{name}" for name in only_writing if given.validate and given[name].value]
    idle += ["--template"] if given.edition == "3" and given.template else []
    fold_is_used = given.checkpoint or given.decisions
    idle += ["--fold"] if given.fold and not fold_is_used else []
    idle += ["--step"] if given.step is not None and not given.checkpoint else []
    if idle:
        raise InputError(
            "This flag has no effect in this call.",
            field=", ".join(idle),
            found=f"with --edition=3 or {named[0]}",
            expected="no such flag",
            remedy="leave it out; the 3rd edition has a file for each video of --test_list"
            if idle == ["--template"]
            else "leave it out",
        )
    out = Path(given.out)
    if given.out and (out.is_file() if given.edition == "3" else out.is_dir()):
        raise InputError(
            "The path of the submission is taken by something else.",
            file=out,
            field="--out",
            found="a file" if out.is_file() else "a folder",
            expected="a folder" if given.edition == "3" else "a file, or nothing yet",
        )
    if given.edition == "3" and any(out.glob("*.txt")) and given.out:
        raise InputError(
            "The folder already holds files that would count as a part of the submission.",
            file=out,
            field="--out",
            found=shortened([path.name for path in sorted(out.glob("*.txt"))]),
            expected="a folder without .txt files",
            remedy="choose another folder",
        )


def _asked(given: flags.FlagValues) -> tuple[FrameList | None, list[str] | None]:
    """Returns the template and the names of the test list; None for one that is not given."""
    template = read_template(given.template, given.task) if given.template else None
    names = read_test_list(given.test_list) if given.test_list else None
    if template is not None and names is not None:
        check_same_videos(template, names, given.template)
    return template, names


def _partition(given: flags.FlagValues, store: Store) -> list[str]:
    """Returns the names of the videos of ``--partition``.

    Raises:
        InputError: the partition is empty.
    """
    names = list(store.partitions[given.partition])
    if not names:
        raise InputError(
            f"The store has no {given.partition!r} videos.",
            file=store.path,
            field="--partition",
            found=given.partition,
            expected="one of " + ", ".join(k for k, v in store.partitions.items() if v),
        )
    return names


def _from_run(given: flags.FlagValues, asked: list[str] | None) -> _Source:
    """Returns the predictions of a run, for those of the videos that the store has.

    Raises:
        InputError: the run does not predict the task, or the store has none of the videos.
    """
    use_compilation_cache()
    run = open_run(given.checkpoint, given.step)
    if given.task not in run.session.tasks:
        raise InputError(
            "The run does not predict this task.",
            file=given.checkpoint,
            field="--task",
            found=given.task,
            expected=" or ".join(run.session.tasks),
        )
    members = [r for r, one in enumerate(run.session.replicas) if given.fold in ("", one.fold)]
    if not members:
        raise InputError(
            "The checkpoint has no replica of this fold.",
            field="--fold",
            found=given.fold,
            expected="one of " + ", ".join(map(str, run.session.folds.keys)),
        )
    store = run.open_store(given.store, labelled=False)
    lengths = {video.name: video.num_frames for video in store.videos}
    wanted = asked or _partition(given, store)
    known = [name for name in wanted if name in lengths]
    if not known:
        raise InputError(
            "The store has none of the videos to submit.",
            file=store.path,
            field="--store",
            found=shortened(list(lengths)),
            expected=shortened(wanted),
            remedy="build a store that holds the test videos, and name it with --store",
        )

    # Runs when the first video is predicted, so that missing videos are refused before.
    @functools.cache
    def predictions() -> Predictions:
        per_replica = run.predict(store, [known] * len(run.session.folds.keys))
        return ensemble(run.session.weights, per_replica, members)

    return _Source(wanted, lengths, known, lambda name: predictions().get(name, {}).get(given.task))


def _from_files(given: flags.FlagValues, asked: list[str] | None) -> _Source:
    """Returns the predictions in CSV files; a store, if named, gives the videos' lengths."""
    task = given.task
    files = read_predictions(given.predictions, task)
    lengths: dict[str, int] = {}
    wanted = asked or list(files)
    if given.store:
        store = Store(given.store)
        lengths = {video.name: video.num_frames for video in store.videos}
        wanted = asked or _partition(given, store)
    read = {name: read_prediction(files[name], task) for name in wanted if name in files}
    lengths = {name: len(values_NC) for name, values_NC in read.items()} | lengths
    return _Source(wanted, lengths, read, read.get)


def _check_absent(given: flags.FlagValues, absent: list[str], unknown: list[str]) -> None:
    """Refuses videos without predictions, unless ``--allow_missing`` gives them neutral values.

    Raises:
        InputError: a video has no predictions, or its number of frames is not known.
    """
    if absent and not given.allow_missing:
        raise InputError(
            "Videos of the test set have no predictions.",
            field="--store" if given.checkpoint else "--predictions",
            found=f"{len(absent)} without: {shortened(absent)}",
            expected="predictions of every video",
            remedy="predict them too, or give them neutral values with --allow_missing",
        )
    if unknown:
        raise InputError(
            "The number of frames of a video is not known.",
            field="--allow_missing",
            found=shortened(unknown),
            expected="videos of the store or of the template",
            remedy="give the organisers' --template",
        )


def _validate(
    given: flags.FlagValues,
    path: Path,
    template: FrameList | None,
    names: list[str] | None,
    console: Console,
) -> None:
    """Checks an existing submission against the template and the test list, if they are given."""
    task = given.task
    lengths: dict[str, int] = {}
    if given.store:
        store = Store(given.store)
        lengths = {video.name: video.num_frames for video in store.videos}
        names = names or (None if template else _partition(given, store))
    if given.edition == "3":
        found = check_annotations(path, task, {name: lengths.get(name) for name in names or ()})
        rows = sum(map(len, found.values()))
        console.print(f"sound: {len(found)} files, {rows} rows: {path}", highlight=False)
        return
    if template is None and names and all(name in lengths for name in names):
        template = every_frame({name: lengths[name] for name in names})
    frames, _ = check_submission(path, task, template)
    if names is not None and template is None and list(frames.videos) != names:
        other = sorted(set(frames.videos) ^ set(names))
        raise InputError(
            "The videos are not those of the test list.",
            file=path,
            field="--test_list",
            found=shortened(other) if other else "the same videos in another order",
            expected=f"the {len(names)} videos of the list, in its order",
        )
    against = "with the template" if given.template else "without a template"
    console.print(
        f"sound, {against}: {len(frames.videos)} videos, {len(frames)} rows: {path}",
        highlight=False,
    )


def _report(
    given: flags.FlagValues,
    answers: Mapping[str, VideoAnswer],
    absent: list[str],
    decision: Decision | None,
    console: Console,
) -> None:
    """Prints the fit of the predictions, and a table of the videos that did not fit."""
    table = Table(title="videos whose predictions did not fit", title_justify="left")
    columns = ("asked", "predicted", "repeated", "cut", "clipped")
    for name in ("video", *columns):
        table.add_column(name, justify="left" if name == "video" else "right")
    total = summary(answers)
    for name, one in {**answers, "all": total}.items():
        if one.repeated or one.cut or one.clipped or not one.predicted:
            table.add_row(name, *(str(getattr(one, column)) for column in columns))
    if table.row_count:
        console.print(table)
    if absent:
        console.print(
            f"WARNING: {len(absent)} videos have no prediction. Their "
            f"{sum(answers[name].asked for name in absent)} rows hold {neutral(given.task)}, "
            f"in place of predictions: {shortened(absent)}",
            style="bold red",
            highlight=False,
        )
    rule = "as predicted, within [-1, 1]" if given.task == "va" else "argmax"
    rule = "at 0.5" if given.task == "au" else rule
    console.print(
        f"{given.task}, edition {given.edition}: {len(answers)} videos, {total.asked} rows, "
        f"{total.repeated} repeated, {total.cut} predictions cut: {given.out}\n"
        f"values: {decision.about if decision else rule}; read again and sound",
        highlight=False,
    )


COMMAND = cli.Command(main, define_flags)

if __name__ == "__main__":
    COMMAND.run()
