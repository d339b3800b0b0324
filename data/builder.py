"""The parts that the builders of stores share: flags, the file of an export, the last lines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from emojax.commands import cli
from emojax.datasets.folds import Fold
from emojax.datasets.lags import check_lags, lag_lines
from emojax.datasets.record import StreamRows, VideoRecord
from emojax.datasets.source import Store
from emojax.datasets.store import StoreWriter, store_facts
from emojax.errors import InputError
from emojax.specs import TASKS

from .exported_arrays import NpzArrays
from .features.feature_sources import FeatureSource
from .features.rounding import MOST_LOST, ConstantColumns, Rounding


def define_store_flags(define: cli.Flags, *, dtype: bool = True) -> None:
    """Defines the flags of the store to build: ``--out``, ``--overwrite`` and ``--dtype``.

    Args:
        define: the flags of the command.
        dtype: the type of stored features can be chosen.
    """
    define.string("out", None, "Folder of the store to build.", required=True)
    define.bool("overwrite", False, "Replace a store that is there already.")
    if dtype:
        define.string("dtype", "float16", "float16 where it is enough; or float32.")


def define_export_flags(define: cli.Flags, file: str, seed: str) -> None:
    """Defines the flags of a builder that reads one exported file.

    Args:
        define: the flags of the command.
        file: name of the exported file.
        seed: the meaning of ``--seed``.
    """
    define.string("source", None, f"Folder that holds {file}.", required=True)
    define.integer("seed", 0, seed)
    define_store_flags(define, dtype=False)


def open_export(source: str | Path, file: str, about: str) -> NpzArrays:
    """Opens an exported file.

    Args:
        source: the folder with the file, or the file.
        file: name of the file in the folder.
        about: name of the export in messages, such as "MELD export".

    Raises:
        InputError: the file is missing or damaged.
    """
    path = Path(source)
    path = path / file if path.is_dir() else path
    if not path.is_file():
        raise InputError(
            f"The {about} is not there.",
            file=path,
            found="no such file",
            expected=file,
            remedy="give the folder that holds it as --source",
        )
    return NpzArrays(path, about)


class Precision:
    """Chooses the dtype of each stream, and checks afterwards that its columns tell something.

    float16 is kept where it costs less than a tenth of each column's deviation.

    Args:
        sources: the streams of the store.
        dtype: "float16" or "float32", the store's.

    Attributes:
        wide: streams that are stored as float32 although the store's dtype is float16.
    """

    def __init__(self, sources: Sequence[FeatureSource], dtype: str) -> None:
        self._lines: list[str] = []
        self.wide: list[str] = []
        narrow = sources if dtype == "float16" else ()
        for source in narrow:
            column, lost = source.rounding().lost()
            if lost > MOST_LOST:
                self.wide.append(source.spec.name)
                how = "cannot hold" if np.isinf(lost) else f"rounds by {lost:.0%} of its deviation"
                self._lines.append(
                    f"note: {source.spec.name} is stored as float32: float16 {how} column {column}"
                )
        names = [source.spec.name for source in narrow if source.spec.name not in self.wide]
        self._rounding = {name: Rounding() for name in names}
        self._constant = {source.spec.name: ConstantColumns() for source in sources}

    def add(self, streams: Mapping[str, StreamRows]) -> None:
        """Counts the rows of one video that is written."""
        for name, constant in self._constant.items():
            constant.add(streams[name].rows_ND[streams[name].valid_N])
        for name, rounding in self._rounding.items():
            stream = streams[name]
            if stream.rows_ND.dtype != np.float16:
                rounding.add(stream.rows_ND[stream.valid_N])

    def lines(self) -> list[str]:
        """Returns lines for the user."""
        lines = list(self._lines)
        for name, constant in self._constant.items():
            found = constant.found()
            if found:
                shown = ", ".join(map(str, [*found][:8])) + ", ..." * (len(found) > 8)
                value = "zero" if not any(found.values()) else "constant"
                lines.append(
                    f"warning: {name}: columns that are {value} in all videos: {shown} "
                    f"({len(found)} columns, counted from 0)"
                )
        for name, rounding in self._rounding.items():
            column, lost = rounding.lost()
            if lost > MOST_LOST:
                lines.append(
                    f"warning: {name}: float16 rounds column {column} by {lost:.0%} of its "
                    "deviation; build the store again with --dtype=float32"
                )
        return lines


def define_lag_flag(define: cli.Flags) -> None:
    """Defines ``--check_lag``."""
    define.bool("check_lag", False, "Afterwards, look for videos whose labels are shifted.")


def say_lags(out: str | Path, say: Callable[[str], None]) -> None:
    """Says which videos of a finished store have shifted labels or streams, for each task."""
    store = Store(out)
    for task in store.tasks:
        try:
            lags = check_lags(store, task)
        except InputError as error:  # too few labels; the store itself is sound
            say(f"note: lags of {task} were not checked: {error.details['found']}")
            continue
        lines = lag_lines(lags, task) or [f"lags of {task}: no video stands out"]
        for line in lines:
            say(line)


def write_videos(writer: StoreWriter, videos: Iterable[VideoRecord], folds: Sequence[Fold]) -> None:
    """Writes a whole store: all videos, then the folds.

    Raises:
        InputError: a video or a fold does not fit the store.
    """
    with writer:
        for video in videos:
            writer.add(video)
        writer.finish(folds)


def is_tenth(done: int, total: int) -> bool:
    """Returns True about every tenth of the work and at its end, when progress is reported."""
    return done == total or done * 10 // total > (done - 1) * 10 // total


def fold_table(
    folds: Sequence[Fold], shares: dict[str, dict[str, dict[str, list[float]]]]
) -> Table:
    """Returns a table of every fold's videos and of the class shares of its validation videos."""
    title = "Folds in videos" + ", and class shares of the validation frames" * bool(shares)
    table = Table("fold", "train", "validation", "test", title=title)
    for task in shares:
        for label in TASKS[task].labels:
            table.add_column(label, justify="right")
    for fold in folds:
        cells = [fold.name, *(str(len(part)) for part in (fold.train, fold.validation, fold.test))]
        for task, by_fold in shares.items():
            found = by_fold[fold.name]["validation"]
            cells += [f"{share:.1%}" for share in found] or ["-"] * len(TASKS[task].labels)
        table.add_row(*cells)
    return table


def report_store(out: str) -> None:
    """Adds the store's size to the summary line and prints where the store is."""
    cli.tell(**store_facts(out))
    cli.say(f"store: {out}")
