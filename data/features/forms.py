"""The forms in which features lie on disk, each read video by video into ``RawRows``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emojax.datasets.store_checks import check_known
from emojax.errors import InputError

from ..tabular.reading import PARQUET_ENDINGS, TEXT_ENDINGS
from .array_forms import (
    ArchiveFiles,
    ArrayFiles,
    Form,
    FrameFiles,
    HogFiles,
    MerbenchFiles,
    entries,
    holds_frames,
    zeros_missing,
)
from .options import FeatureOptions
from .restricted_pickle import PickledArray, read_pickle
from .rows import RawRows, as_rows, frames_from_numbers
from .table_form import ParquetTables, Tables

_PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".npy")
_FRAMES_LEVEL, _UTTERANCE_LEVEL = "-FRA", "-UTT"  # folders of MERBench


class Pickles(Form):
    """A pickle {VIDEO/00001.jpg: vector or tuple} or {VIDEO: {frame: vector}}."""

    options = frozenset({"key", "first", "missing", "offset", "reduce"})
    default_clock = "frame"

    def _find(self) -> dict[str, Path]:
        return dict.fromkeys(self._videos, self._options.path)

    @functools.cached_property
    def _videos(self) -> dict[str, dict[str | int, Any]]:
        """Returns video -> frame -> the pickle's value."""
        content = read_pickle(self._options.path)
        if type(content) is not dict or not content:
            raise self._error("pickle", type(content).__name__, "a dict with videos")
        videos: dict[str, dict[str | int, Any]] = {}
        for key, value in content.items():
            if type(key) is not str:
                raise self._error(f"key {str(key)[:40]}", type(key).__name__, "a video or image")
            if type(value) is dict:
                videos[key] = value
                continue
            folder, _, image = key.rpartition("/")
            videos.setdefault(folder.rpartition("/")[2], {})[image] = value
        return videos

    def read(self, video: str) -> RawRows:
        """Reads the rows of a video, see ``Form``."""
        frames = self._videos[video]
        if not frames:
            raise self._error(video, "no frames", "at least one")
        numbers = [self._number(video, key) for key in frames]
        if len({*numbers}) < len(numbers):
            raise self._error(video, "a frame twice", "each frame once")
        rows = [self._row(f"{video}, frame {key}", value) for key, value in frames.items()]
        if len({row.shape for row in rows}) > 1:
            raise self._error(video, "rows of several widths", "one width")
        order_N = np.argsort(numbers)
        # Every export numbers its images from 1; whole numbers may start anywhere.
        known = 1 if all(type(key) is str for key in frames) else None
        numbers_N = np.array(numbers, np.int64)[order_N]
        index_N = frames_from_numbers(numbers_N, self._options.first, known, self._options.path)
        return RawRows(np.stack(rows)[order_N], np.ones(len(rows), bool), index_N)

    def _number(self, video: str, key: object) -> int:
        stem = key
        if type(key) is str:
            suffix = next((end for end in _PICTURES if key.lower().endswith(end)), "")
            stem = key[: len(key) - len(suffix)]
            stem = int(stem) if stem.isascii() and stem.isdigit() and len(stem) < 10 else None
        if type(stem) is not int or abs(stem) >= 10**9:
            raise self._error(video, f"the frame {str(key)[:40]!r}", "a number or 00001.jpg")
        return stem

    def _row(self, where: str, value: Any) -> np.ndarray:
        key = self._options.key
        if type(value) in (tuple, list) and value and not _is_number(value[0]):
            if key and not (key.isascii() and key.isdigit() and int(key) < len(value)):
                raise self._error(where, f"{len(value)} elements", f"an element {key}")
            value = value[int(key or 0)]
        if type(value) is PickledArray and value.array is not None:
            array = value.array
        elif type(value) in (tuple, list) and value and all(map(_is_number, value)):
            array = np.array([float(number) if abs(number) < 1e300 else np.inf for number in value])
        else:
            raise self._error(where, type(value).__name__, "a vector of numbers")
        single = array.ndim > 1 and array.shape[0] == 1
        rows_ND = as_rows(
            array if single else array[None], self._options.reduce, self._options.path
        )
        return rows_ND[0]

    def _error(self, field: str, found: object, expected: str) -> InputError:
        return InputError(
            "A pickle of features is malformed.",
            file=self._options.path,
            field=field,
            found=found,
            expected=expected,
            remedy="{video/00001.jpg: vector or tuple} and {video: {frame: vector}} are read",
        )


def _in_container(name: str) -> Callable[[FeatureOptions], Form]:
    def opened(options: FeatureOptions) -> Form:
        # Their libraries take a second to import, which other forms need not wait for.
        from . import container_files

        return container_files.FORMS[name](options)

    return opened


FORMS: dict[str, Callable[[FeatureOptions], Form]] = {
    "npy": ArrayFiles,
    "npz": ArchiveFiles,
    "frames": FrameFiles,
    "csv": Tables,
    "parquet": ParquetTables,
    "hdf5": _in_container("hdf5"),
    "mat": _in_container("mat"),
    "safetensors": _in_container("safetensors"),
    "hog": HogFiles,
    "merbench": MerbenchFiles,
    "pickle": Pickles,
}
_ENDINGS: dict[str, tuple[str, ...]] = {
    "npy": (".npy",),
    "npz": (".npz",),
    "csv": TEXT_ENDINGS,
    "parquet": PARQUET_ENDINGS,
    "hdf5": (".h5", ".hdf5", ".hdf", ".csd"),
    "mat": (".mat",),
    "safetensors": (".safetensors",),
    "hog": (".hog",),
    "pickle": (".pkl", ".pickle"),
}
_FOLDERS_ONLY = ("frames", "merbench")
# Ending -> the way to a form that is read.
_CONVERSIONS = {
    (".xlsx", ".xls", ".ods"): "save the sheet as CSV",
    (".arff",): "let openSMILE write CSV: -csvoutput",
    (".feather", ".arrow"): "pandas.read_feather(FILE).to_parquet('VIDEO.parquet')",
    (".pt", ".pth", ".ckpt"): "safetensors.torch.save_file(state, 'VIDEO.safetensors'), or "
    "numpy.save('VIDEO.npy', tensor.numpy())",
    (".rds", ".rdata"): "in R: write.csv(x, 'VIDEO.csv', row.names=FALSE)",
    (".json", ".jsonl"): "pandas.read_json(FILE).to_csv('VIDEO.csv', index=False)",
    (".txt", ".dat"): "declare it if it is a table: form=csv",
}


def open_form(options: FeatureOptions, *, pickles: bool) -> Form:
    """Opens features in their declared form, or in the only one that fits the path.

    Args:
        options: the options of the flag.
        pickles: accept a pickle.

    Raises:
        InputError: nothing is there, the form is unknown, or pickles are not allowed.
    """
    path = options.path
    if not path.exists():
        raise InputError(
            "The features are not there.",
            file=path,
            field=options.flag,
            found="no such file or folder",
            expected="a folder with a file per video, or a file",
        )
    name = options.form or _detect(options)
    check_known([name], FORMS, "form", options.flag)
    if (name == "pickle" and path.is_dir()) or (name in _FOLDERS_ONLY and path.is_file()):
        raise InputError(
            "The form does not fit what is there.",
            file=path,
            field=options.flag,
            found="a file" if path.is_file() else "a folder",
            expected="a pickle" if name == "pickle" else "a folder with something for each video",
        )
    if name == "pickle" and not pickles:
        raise InputError(
            "Pickles are read only with --allow_pickle.",
            file=path,
            field=options.flag,
            found="a pickle",
            expected="arrays or tables",
            remedy="add --allow_pickle: numbers are read from it, nothing in it is run",
        )
    return FORMS[name](options)


def finish_rows(raw: RawRows, options: FeatureOptions) -> RawRows:
    """Marks rows of zeros as missing, if that was declared."""
    return zeros_missing(raw) if options.missing == "zeros" else raw


def _detect(options: FeatureOptions) -> str:
    path = options.path
    if path.name.endswith(_UTTERANCE_LEVEL):
        raise InputError(
            "One vector per video is no stream.",
            file=path,
            field=options.flag,
            found=f"a folder named *{_UTTERANCE_LEVEL}",
            expected=f"frame-level features, *{_FRAMES_LEVEL}",
            remedy="extract them with --feature_level=FRAME",
        )
    files = [entry.name.lower() for entry in entries(path) if entry.is_file()]
    found = [form for form, endings in _ENDINGS.items() if _any_ends(files, endings)]
    if path.is_dir() and "pickle" in found:
        found.remove("pickle")  # one file of all videos
    if found == ["npy"] and path.name.endswith(_FRAMES_LEVEL):
        return "merbench"
    if path.is_dir() and any(holds_frames(entry) for entry in entries(path) if entry.is_dir()):
        found.append("frames")
    if len(found) != 1:
        raise InputError(
            "The form of the features is unknown.",
            file=path,
            field=options.flag,
            found="files of several forms" if found else _unknown_files(path, files),
            expected=f"one of {', '.join(found or FORMS)}",
            remedy=f"declare it: form={found[0]}" if found else _conversion(path, files),
        )
    return found[0]


def _any_ends(files: Iterable[str], endings: tuple[str, ...]) -> bool:
    return any(file.endswith(endings) for file in files)


def _unknown_files(path: Path, files: Sequence[str]) -> str:
    if path.is_file():
        return f"a file named *{path.suffix}"
    return "no files that hold features" + "".join(f", but {file}" for file in files[:1])


def _conversion(path: Path, files: Sequence[str]) -> str:
    """Returns the way from files that are not read to a form that is."""
    for endings, way in _CONVERSIONS.items():
        if _any_ends(files, endings):
            return way
    if path.is_dir() and _any_ends(files, _ENDINGS["pickle"]):
        return "name the pickle itself, not its folder"
    return "correct the path, or write the features as .npy, .csv or .parquet"


def _is_number(value: object) -> bool:
    return type(value) in (int, float)
