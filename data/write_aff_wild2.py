r"""Writes a store in Aff-Wild2's own form on disk: annotation folders, test lists, feature files.

    emojax write-aff-wild2 --store=stores/demo --out=aff_wild2_demo

What comes out is what ``data.aff_wild2`` reads, and the command that reads it is printed: with
simulated data the whole way from annotation folders to a submission can be walked without the
licensed data set. Files:

    annotations/VA_Estimation_Challenge/Train_Set/<video>.txt ...   Validation_Set, other tasks
    test_lists/Valence_Arousal_Estimation_Challenge_test_set_release.txt ...
    templates/va.txt ...                                            test frames to answer
    timestamps/<video>.csv                                          seconds of every frame
    features/<stream>/...                                           see ``choose_form``

Labels of test videos are written as a ``Test_Set`` only with ``--test_labels``; the organisers
keep theirs.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import flags

from emojax.commands import cli
from emojax.commands.summary import path_text
from emojax.datasets.origin import SIMULATED_FILE, is_simulated
from emojax.datasets.record import StreamRows, VideoRecord
from emojax.datasets.source import Store
from emojax.datasets.store import store_facts
from emojax.errors import InputError
from emojax.specs import TASKS, StreamSpec, TaskSpec

from .annotations.challenge_files import CHALLENGES, SETS
from .builder import is_tenth

TEST_LISTS = {
    "va": "Valence_Arousal_Estimation_Challenge_test_set_release.txt",
    "expr": "Expression_Recognition_Challenge_test_set_release.txt",
    "au": "Action_Unit_Detection_Challenge_test_set_release.txt",
}
_SLOW = 10.0  # rows per second up to which a stream becomes a table
_DEFAULT_MISMATCH = 10  # of data.aff_wild2
_SIMULATED = (
    "These annotations and features were simulated by data.synthetic and written in the form of\n"
    "Aff-Wild2 by data.write_aff_wild2. No person was filmed. data.aff_wild2 looks for this file.\n"
)


@dataclasses.dataclass
class _Traits:
    """The traits that all videos' rows of a stream share; narrowed video by video."""

    locked: bool = True  # row i is at frame i
    regular: bool = True  # row i is at i / rate
    zeros_missing: bool = True  # rows are zero exactly where they are not valid
    most_off: int = 0  # rows more or fewer than frames
    empty: int = 0  # videos without a row, or without a valid one

    def narrow(self, rows: StreamRows, spec: StreamSpec, pts_N: np.ndarray) -> None:
        """Looks at one more video."""
        both = min(len(pts_N), len(rows.pts_N))
        self.locked &= spec.rate is None and bool(np.array_equal(rows.pts_N[:both], pts_N[:both]))
        nominal_N = np.arange(len(rows.pts_N)) / (spec.rate or np.nan)
        self.regular &= bool(np.allclose(rows.pts_N, nominal_N, rtol=0, atol=1e-9))
        self.zeros_missing &= bool(np.array_equal(rows.rows_ND.any(axis=1), rows.valid_N))
        self.most_off = max(self.most_off, abs(len(rows.pts_N) - len(pts_N)))
        self.empty += not rows.valid_N.any()


@dataclasses.dataclass(frozen=True)
class Form:
    """The form of a written stream: the writer of one video, and the options that declare it."""

    write: Callable[[Path, StreamRows], None]
    options: tuple[str, ...]


def choose_form(spec: StreamSpec, traits: _Traits, *, per_frame: bool) -> Form:
    """Chooses the form that tools of such a stream use, if it holds everything about the rows.

    - one row per frame: ``<video>.npy``, rows of zeros where nothing was found; or, if asked
      for, ``<video>/00001.npy``, no file where nothing was found;
    - up to 10 rows per second: ``<video>.csv`` with ``timestamp`` and ``success``;
    - other regular rates: ``<video>.npz`` with ``arr_0``;
    - anything else: ``<video>.npz`` with ``rows``, ``pts`` and ``valid``.

    Raises:
        InputError: files per frame are asked for, and rows are not at frames.
    """
    if per_frame:
        if not traits.locked:
            raise InputError(
                "A stream without a row per frame cannot be written frame by frame.",
                field="--per_frame",
                found=spec.name,
                expected="a stream whose rows have the frames' times",
            )
        return Form(_write_frames, ("form=frames", "clock=frame"))
    if traits.locked and traits.zeros_missing:
        return Form(_write_array, ("form=npy", "clock=frame", "missing=zeros"))
    if spec.rate is not None and spec.rate <= _SLOW:
        return Form(_write_table, ("form=csv", "clock=pts", "unit=s"))
    if spec.rate is not None and traits.regular and traits.zeros_missing:
        return Form(_write_archive, ("form=npz", f"clock=fps:{spec.rate:g}", "missing=zeros"))
    return Form(_write_everything, ("form=npz", "clock=pts"))


def write(
    store: Store,
    out: str | Path,
    *,
    per_frame: Sequence[str] = (),
    test_labels: bool = False,
    say: Callable[[str], None] = print,
) -> list[str]:
    """Writes the store's videos, see above.

    Args:
        store: with tasks of Aff-Wild2; streams of any kind.
        out: folder to create.
        per_frame: streams to write as a file per frame.
        test_labels: write the labels of test videos as well.
        say: called with lines of progress.

    Returns:
        the arguments of ``data.aff_wild2`` that read everything back, without ``--out``.

    Raises:
        InputError: the folder is there already, or the store has labels that Aff-Wild2's form
            cannot hold.
    """
    out = Path(out)
    _check(store, out, per_frame)
    traits = {name: _Traits() for name in store.streams}
    for i in range(len(store)):
        record = store.read(i)
        for name, spec in store.streams.items():
            traits[name].narrow(record.streams[name], spec, record.pts_N)
    forms = {
        name: choose_form(spec, traits[name], per_frame=name in per_frame)
        for name, spec in store.streams.items()
    }
    for i in range(len(store)):
        _write_video(store.read(i), out, store.tasks, forms, test_labels)
        if is_tenth(i + 1, len(store)):
            say(f"written: {i + 1} of {len(store)} videos")
    if is_simulated(store.metadata):
        (out / "annotations" / SIMULATED_FILE).write_text(_SIMULATED, encoding="utf-8")
    arguments = [f"--annotations={out / 'annotations'}", f"--tasks={','.join(store.tasks)}"]
    if store.partitions["test"]:
        arguments += _write_tests(store, out)
    arguments.append(f"--timestamps={out / 'timestamps'}")
    for name, spec in store.streams.items():
        parts = [f"{name}={out / 'features' / name}", *forms[name].options]
        parts += [f"width={spec.width}", f"modality={spec.modality}"]
        parts += [f"rate={spec.rate:g}"] if spec.rate is not None else []
        arguments.append("--features=" + ",".join(parts))
    folds = len(store.folds)
    arguments.append(f"--folds={f'blocks:{folds}' if folds > 1 else 'official'}")
    arguments.append(f"--dtype={store.dtype}")
    most_off = max(trait.most_off if trait.locked else 0 for trait in traits.values())
    if most_off > _DEFAULT_MISMATCH:
        arguments.append(f"--max_mismatch={most_off}")
    empty = sum(trait.empty for trait in traits.values())
    return arguments + ([f"--max_missing={empty}"] if empty else [])


def _write_tests(store: Store, out: Path) -> list[str]:
    """Writes test lists and ``emojax.submit``'s templates; returns the lists' arguments."""
    names = store.partitions["test"]
    frames = {name: store.videos[store.index_of(name)].num_frames for name in names}
    arguments = []
    for task in store.tasks:
        path = out / "test_lists" / TEST_LISTS[task]
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(names) + "\n", encoding="utf-8")
        arguments.append(f"--test_list={path}")
        labels = TASKS[task].labels
        template = out / "templates" / f"{task}.txt"
        template.parent.mkdir(exist_ok=True)
        with template.open("w", encoding="utf-8") as file:
            file.write(",".join(["image_location", *labels]) + "\n")
            for name, count in frames.items():
                blank = "," * len(labels)
                file.writelines(f"{name}/{i:05d}.jpg{blank}\n" for i in range(1, count + 1))
    return arguments


def _check(store: Store, out: Path, per_frame: Sequence[str]) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(
            "The folder is in use.",
            file=out,
            field="--out",
            found="something that is there already",
            expected="a new or empty folder",
        )
    if "," in str(out):
        raise InputError(
            "A path with a comma cannot be given to --features.",
            file=out,
            field="--out",
            expected="a path without commas",
        )
    for name in per_frame:
        if name not in store.streams:
            raise InputError(
                "The store has no such stream.",
                file=store.path,
                field="--per_frame",
                found=name,
                expected=", ".join(store.streams),
            )
    for task in store.tasks:
        if task not in CHALLENGES:
            raise InputError(
                "Aff-Wild2 has no such task.",
                file=store.path,
                field="tasks",
                found=task,
                expected=", ".join(CHALLENGES),
            )


def _write_video(
    record: VideoRecord,
    out: Path,
    tasks: Sequence[str],
    forms: dict[str, Form],
    test_labels: bool,
) -> None:
    if record.partition != "test" or test_labels:
        for task in tasks:
            spec = TASKS[task]
            labels_NK = record.labels.get(task)
            if labels_NK is None:
                labels_NK = np.full((record.num_frames, spec.columns), spec.ignore, np.float32)
            _check_scale(record.name, labels_NK, spec)
            folder = out / "annotations" / CHALLENGES[task][0] / SETS[record.partition]
            lines = [",".join(f"{value:.9g}" for value in row) for row in labels_NK.tolist()]
            _write_lines(folder / f"{record.name}.txt", [",".join(spec.labels), *lines])
    times = [repr(seconds) for seconds in record.pts_N.tolist()]
    _write_lines(out / "timestamps" / f"{record.name}.csv", ["pts", *times])
    for name, form in forms.items():
        folder = out / "features" / name
        folder.mkdir(parents=True, exist_ok=True)
        if record.streams[name].valid_N.any():
            form.write(folder / record.name, record.streams[name])


def _check_scale(video: str, labels_NK: np.ndarray, spec: TaskSpec) -> None:
    given = labels_NK[labels_NK != np.float32(spec.ignore)]
    if spec.kind == "continuous" and given.size and np.abs(given).max() > 1:
        raise InputError(
            "Labels are not on Aff-Wild2's scale.",
            field=f"labels {spec.name} of {video}",
            found=f"{given[np.abs(given).argmax()]:g}",
            expected="-1 to 1",
        )


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_array(stem: Path, rows: StreamRows) -> None:
    np.save(f"{stem}.npy", rows.rows_ND)


def _write_frames(stem: Path, rows: StreamRows) -> None:
    stem.mkdir()
    for i in np.flatnonzero(rows.valid_N):
        np.save(stem / f"{i + 1:05d}.npy", rows.rows_ND[i])


def _write_table(stem: Path, rows: StreamRows) -> None:
    names = [f"f{i:04d}" for i in range(rows.rows_ND.shape[1])]
    lines = [",".join(["timestamp", "success", *names])]
    for seconds, found, row in zip(
        rows.pts_N.tolist(), rows.valid_N.tolist(), rows.rows_ND.tolist(), strict=True
    ):
        lines.append(",".join([repr(seconds), str(int(found)), *(f"{x:.9g}" for x in row)]))
    _write_lines(Path(f"{stem}.csv"), lines)


def _write_archive(stem: Path, rows: StreamRows) -> None:
    np.savez(f"{stem}.npz", rows.rows_ND)


def _write_everything(stem: Path, rows: StreamRows) -> None:
    np.savez(f"{stem}.npz", rows=rows.rows_ND, pts=rows.pts_N, valid=rows.valid_N)


def define_flags(define: cli.Flags) -> None:
    """Defines the command's flags."""
    define.string("store", None, "Folder of the store to write out.", required=True)
    define.string("out", None, "Folder to create.", required=True)
    define.list("per_frame", [], "Streams to write as a file per frame.")
    define.bool("test_labels", False, "Write a Test_Set with the test videos' labels.")


def main(given: flags.FlagValues) -> None:
    """Writes the store that the flags name and prints how to read it back."""
    with Store(given.store) as store:
        arguments = write(
            store, given.out, per_frame=given.per_frame, test_labels=given.test_labels
        )
    lines = ["emojax aff-wild2", *map(shlex.quote, arguments)]
    lines.append(shlex.quote(f"--out={given.store}-from-files"))
    cli.tell(**store_facts(given.store) | {"out": path_text(given.out)})
    cli.say("read it back with:\n\n" + " \\\n  ".join(lines))


COMMAND = cli.Command(main, define_flags, summary="data.write_aff_wild2")

if __name__ == "__main__":
    COMMAND.run()
