"""Features in arrays: a file per video, a file per frame, and OpenFace's histograms."""

from __future__ import annotations

import abc
import dataclasses
import functools
import os
from pathlib import Path
from typing import ClassVar

import numpy as np

from emojax.datasets.store_checks import check_name
from emojax.errors import InputError

from .numpy_files import npz_names, read_npy, read_npz
from .openface_hog import read_hog
from .options import FeatureOptions
from .rows import RawRows, as_rows, count_of, frames_from_numbers


class Form(abc.ABC):
    """A form of one stream's feature files on disk.

    Attributes:
        options: those that make sense for the form, beside clock, width, modality and rate.
        default_clock: "" where nothing can be taken for granted.
    """

    options: ClassVar[frozenset[str]] = frozenset()
    default_clock: ClassVar[str] = ""

    def __init__(self, options: FeatureOptions) -> None:
        self._options = options

    @functools.cached_property
    def files(self) -> dict[str, Path]:
        """Returns video -> file or folder, sorted by name.

        Raises:
            InputError: nothing is there, or a name is none for a video.
        """
        found = dict(sorted(self._find().items()))
        for name, path in found.items():
            check_name(name, f"video of {self._options.flag}", path)
        if not found:
            raise InputError(
                "No features are there.",
                file=self._options.path,
                field=self._options.flag,
                found="no file of this form",
                expected=(type(self).__doc__ or "").splitlines()[0],
                remedy="correct the path, or declare another form=",
            )
        return found

    @abc.abstractmethod
    def read(self, video: str) -> RawRows:
        """Reads the rows of one of ``files``.

        Raises:
            InputError: its file is damaged or not of this form.
        """

    def clock(self) -> str:
        """Returns the clock of undeclared rows, or "" if one must be declared."""
        return self.default_clock

    @abc.abstractmethod
    def _find(self) -> dict[str, Path]:
        """Returns video -> file or folder, in any order."""

    def told(self) -> tuple[str, ...]:
        """Returns phrases about all files that the user must see."""
        return ()

    def _with_ending(self, *endings: str) -> dict[str, Path]:
        """Returns video -> file, for files with one of these endings, whatever their case.

        Raises:
            InputError: two files are named after one video.
        """
        found: dict[str, Path] = {}
        for path in entries(self._options.path):
            ending = next((end for end in endings if path.name.lower().endswith(end)), "")
            name = path.name[: -len(ending)] if ending else ""
            if name and found.setdefault(name, path) != path:
                raise InputError(
                    "Two files of features are named after one video.",
                    file=path,
                    field=self._options.flag,
                    found=f"{path.name} beside {found[name].name}",
                    expected="one file a video",
                    remedy="move one of them elsewhere, or rename it",
                )
        return found


class ArrayFiles(Form):
    """One VIDEO.npy a video, (rows, columns)."""

    options = frozenset({"reduce", "missing", "offset"})

    def _find(self) -> dict[str, Path]:
        return self._with_ending(".npy")

    def read(self, video: str) -> RawRows:
        """Reads the rows of a video, see ``Form``."""
        return self._rows(read_npy(self.files[video]), self.files[video])

    def _rows(self, array: np.ndarray, file: Path) -> RawRows:
        rows_ND = as_rows(array, self._options.reduce, file)
        told: tuple[str, ...] = ()
        if len(rows_ND) == 1 and array.ndim > 2 and array.shape[1] > 1:
            told = (f"an array of shape {array.shape} read as a single row",)
        return RawRows(rows_ND, np.ones(len(rows_ND), bool), notes=told, warnings=told)


class MerbenchFiles(ArrayFiles):
    """A folder MODEL-FRA with one VIDEO.npy a video; a row of zeros means: no face."""

    def _rows(self, array: np.ndarray, file: Path) -> RawRows:
        return zeros_missing(super()._rows(array, file))


class ArchiveFiles(ArrayFiles):
    """One VIDEO.npz a video: rows, pts and valid, or an array named by key=."""

    options = frozenset({"reduce", "missing", "offset", "key"})

    def clock(self) -> str:
        """Returns "pts" if the file has times."""
        first = next(iter(self.files.values()))
        return "pts" if self._timed(npz_names(first)) else ""

    def _find(self) -> dict[str, Path]:
        return self._with_ending(".npz")

    def _timed(self, names: tuple[str, ...]) -> bool:
        return not self._options.key and {"rows", "pts"} <= {*names}

    def read(self, video: str) -> RawRows:
        """Reads the rows of a video, see ``Form``."""
        file = self.files[video]
        names = npz_names(file)
        if self._timed(names):
            raw = self._rows(read_npz(file, "rows"), file)
            pts_N = _vector(read_npz(file, "pts"), "f", raw.found, file, "pts")
            valid_N = raw.valid_N
            if "valid" in names:
                valid_N = _vector(read_npz(file, "valid"), "b", raw.found, file, "valid")
            pts_N = pts_N.astype(np.float64)
            return dataclasses.replace(raw, valid_N=valid_N, pts_N=pts_N)
        only = names[0] if len(names) == 1 else "arr_0"
        return self._rows(read_npz(file, self._options.key or only), file)


class FrameFiles(Form):
    """A folder VIDEO a video with 00001.npy and so on, a file per frame."""

    options = frozenset({"reduce", "missing", "first", "offset"})
    default_clock = "frame"

    def _find(self) -> dict[str, Path]:
        folders = [path for path in entries(self._options.path) if path.is_dir()]
        return {path.name: path for path in folders if holds_frames(path)}

    def read(self, video: str) -> RawRows:
        """Reads the rows of a video, see ``Form``."""
        folder = self.files[video]
        by_number: dict[int, Path] = {}
        for path in numbered(folder):
            number = int(path.stem)
            if number in by_number or number >= 10**9:
                raise InputError(
                    "Files of frames are not numbered as they should be.",
                    file=folder,
                    field=path.name,
                    found=f"a second file for frame {number}"
                    if number in by_number
                    else f"frame {number}",
                    expected="one file a frame, with a number below 1000000000",
                )
            by_number[number] = path
        numbers = sorted(by_number)
        rows = [self._row(by_number[number]) for number in numbers]
        for number, row in zip(numbers, rows, strict=True):
            if row.shape != rows[0].shape:
                raise InputError(
                    "Frames of features differ in width.",
                    file=by_number[number],
                    field="array",
                    found=f"{row.size} columns",
                    expected=f"{rows[0].size}, as in {by_number[numbers[0]].name}",
                )
        first = self._options.first
        index_N = frames_from_numbers(np.array(numbers, np.int64), first, 1, folder)
        return RawRows(np.stack(rows), np.ones(len(rows), bool), index_N)

    def _row(self, file: Path) -> np.ndarray:
        array = read_npy(file)
        # A vector, or one with a leading axis of 1, is one row either way.
        single = array.ndim > 1 and array.shape[0] == 1
        return as_rows(array if single else array[None], self._options.reduce, file)[0]


class HogFiles(Form):
    """One VIDEO.hog a video, as OpenFace 2 writes them, a row per frame."""

    options = frozenset({"missing", "offset"})
    default_clock = "frame"

    def _find(self) -> dict[str, Path]:
        return self._with_ending(".hog")

    def read(self, video: str) -> RawRows:
        """Reads the rows of a video, see ``Form``."""
        rows_ND, valid_N = read_hog(self.files[video])
        return RawRows(rows_ND, valid_N, notes=_lost(valid_N, "without face"))


def entries(folder: Path, suffix: str = "") -> list[Path]:
    """Lists the entries of a folder that end with ``suffix``, without hidden ones; or the file.

    Raises:
        InputError: the folder cannot be read.
    """
    if folder.is_file():
        return [folder]
    try:
        found = [path for path in folder.iterdir() if path.name.endswith(suffix)]
    except OSError as error:
        raise InputError(
            "A folder cannot be read.",
            file=folder,
            found=error.strerror,
            expected="a folder with features",
        ) from error
    return [path for path in found if not path.name.startswith(".")]


def holds_frames(folder: Path) -> bool:
    """Returns True if a folder has a file such as 00001.npy; stops at the first."""
    try:
        with os.scandir(folder) as found:
            return any(_is_frame(entry.name) for entry in found)
    except OSError:
        return False


def numbered(folder: Path) -> list[Path]:
    """Lists the files 00001.npy and so on of a folder."""
    return [path for path in entries(folder, ".npy") if _is_frame(path.name)]


def _is_frame(name: str) -> bool:
    stem = name.removesuffix(".npy")
    return stem != name and stem.isascii() and stem.isdigit()


def _vector(array: np.ndarray, kind: str, count: int, file: Path, name: str) -> np.ndarray:
    if array.dtype.kind != kind or array.shape != (count,):
        raise InputError(
            "An array beside the rows does not fit them.",
            file=file,
            field=name,
            found=f"{array.dtype} {array.shape}",
            expected=f"{'bool' if kind == 'b' else 'seconds, floating point,'} ({count},)",
        )
    return array


def zeros_missing(raw: RawRows) -> RawRows:
    """Returns the same rows, with rows of zeros not valid."""
    valid_N = raw.valid_N & raw.rows_ND.any(axis=1)
    notes = _lost(raw.valid_N & ~valid_N, "of zeros, taken as missing", lost=True)
    return dataclasses.replace(raw, valid_N=valid_N, notes=raw.notes + notes)


def _lost(flags_N: np.ndarray, what: str, *, lost: bool = False) -> tuple[str, ...]:
    count = int((flags_N if lost else ~flags_N).sum())
    return (f"{count_of(count, 'row')} {what}",) if count else ()
