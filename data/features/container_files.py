"""Features in files of MATLAB, HDF5 and safetensors, one a video or one of all videos."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
from safetensors import SafetensorError, safe_open
from scipy import io as matlab

from emojax.errors import InputError

from .array_forms import ArrayFiles
from .rows import RawRows

HDF5_ENDINGS = (".h5", ".hdf5", ".hdf", ".csd")
_MATLAB_73 = b"MATLAB 7.3"
_MOST_BYTES = 16 * 2**30
_USUAL = ("features", "rows", "data", "x")
_MATLAB_ERRORS = (
    OSError, ValueError, TypeError, KeyError, IndexError, NotImplementedError, EOFError,
    AttributeError, OverflowError, struct.error, zlib.error, matlab.matlab.MatReadError,
)  # fmt: skip


class Hdf5Files(ArrayFiles):
    """One VIDEO.h5 a video; or one file in which every video has an array or a group.

    ``key=`` names the array; a lone one or one named ``features`` is found. ``pts`` (n,) or
    ``intervals`` (n, 2) beside it, as in CMU's multimodal SDK, are seconds.
    """

    options = frozenset({"reduce", "missing", "offset", "key"})

    def clock(self) -> str:
        """Returns "pts" if the first video has times."""
        return "pts" if self._content(next(iter(self.files)))[1] is not None else ""

    def _find(self) -> dict[str, Path]:
        path = self._options.path
        if not path.is_file():
            return self._with_ending(*HDF5_ENDINGS)
        return dict.fromkeys(self._inside, path)

    @functools.cached_property
    def _inside(self) -> dict[str, str]:
        """Returns the videos of a file with several, and where they are in it."""
        path = self._options.path
        with _hdf5(path) as file:
            node = file
            # The group with the videos may lie in others: COVAREP/data in CMU's files.
            while not _arrays(node, path):
                groups = [name for name in node if _is_group(node, name, path)]
                inner = "data" if "data" in groups else groups[0] if len(groups) == 1 else ""
                if not inner or self._array_name(node[inner], path):
                    break
                node = node[inner]
            if _arrays(node, path) and self._is_one_video(node, path):
                return {path.stem: node.name}
            return {name: f"{node.name.rstrip('/')}/{name}" for name in node}

    def _is_one_video(self, node: h5py.Group, path: Path) -> bool:
        names = _arrays(node, path)
        return self._options.key in names or bool({"pts", "intervals", "features"} & {*names})

    def _array_name(self, node: h5py.Group, path: Path) -> str:
        """Returns the name of the array of features in a group, "" if none can be told."""
        names = [name for name in _arrays(node, path) if name not in ("pts", "intervals")]
        if self._options.key:
            return self._options.key if self._options.key in names else ""
        return names[0] if len(names) == 1 else next((n for n in _USUAL if n in names), "")

    def read(self, video: str) -> RawRows:
        """Reads the rows of a video, see ``Form``."""
        array, pts_N = self._content(video)
        raw = self._rows(array, self.files[video])
        if pts_N is not None and len(pts_N) != raw.found:
            raise _unfit(self.files[video], f"times of {video}", len(pts_N), f"{raw.found} times")
        return dataclasses.replace(raw, pts_N=pts_N)

    def _content(self, video: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns a video's array, and the seconds of its rows if the file has them."""
        path = self.files[video]
        several = self._options.path.is_file()
        with _hdf5(path) as file:
            node = file[self._inside[video]] if several else file
            if isinstance(node, h5py.Dataset):
                return _values(node, path), None
            while not _arrays(node, path) and len(node) == 1:
                node = node[next(iter(node))]
            name = self._array_name(node, path)
            if not name:
                known = ", ".join(_arrays(node, path)[:10]) or "no array of numbers"
                raise _unfit(path, self._options.key or "key", known, "the array of features")
            pts_N = None
            if "intervals" in node and node["intervals"].ndim == 2:
                pts_N = _values(node["intervals"], path).astype(np.float64)[:, 0]
            elif "pts" in node and node["pts"].ndim == 1:
                pts_N = _values(node["pts"], path).astype(np.float64)
            return _values(node[name], path), pts_N


class MatlabFiles(ArrayFiles):
    """One VIDEO.mat a video with a matrix of (rows, columns), the only one or that of key=."""

    options = frozenset({"reduce", "missing", "offset", "key"})

    def _find(self) -> dict[str, Path]:
        return self._with_ending(".mat")

    def read(self, video: str) -> RawRows:
        """Reads the rows of a video, see ``Form``."""
        path = self.files[video]
        with path.open("rb") as file:
            if file.read(len(_MATLAB_73)) == _MATLAB_73:
                return self._rows(self._read_73(path), path)
        try:
            shapes = {name: shape for name, shape, _ in matlab.whosmat(path)}
            name = self._name({n: s for n, s in shapes.items() if math.prod(s) > 1}, path)
            if math.prod(shapes[name]) * 8 > _MOST_BYTES:
                raise _unfit(path, name, shapes[name], "a matrix of one video")
            array = matlab.loadmat(path, variable_names=[name])[name]
        except _MATLAB_ERRORS as error:
            found = f"{type(error).__name__}: {error}"[:200]
            remedy = "copy the file again, or write it again"
            raise _unfit(path, "contents", found, "a file of MATLAB", remedy) from error
        return self._rows(_numbers(np.asarray(array), path, name), path)

    def _read_73(self, path: Path) -> np.ndarray:
        with _hdf5(path) as file:
            shapes = {name: file[name].shape for name in _arrays(file, path)}
            # HDF5 has the axes of MATLAB's matrices the other way round.
            return _values(file[self._name(shapes, path)], path).T

    def _name(self, shapes: dict[str, tuple[int, ...]], path: Path) -> str:
        key = self._options.key or (next(iter(shapes)) if len(shapes) == 1 else "")
        if key not in shapes:
            raise _unfit(
                path, key or "key", ", ".join([*shapes][:10]) or "no matrix", "the name of a matrix"
            )
        return key


class SafetensorsFiles(ArrayFiles):
    """One VIDEO.safetensors a video; or one file with a tensor for each video."""

    options = frozenset({"reduce", "missing", "offset", "key"})

    def _find(self) -> dict[str, Path]:
        path = self._options.path
        if not path.is_file() or self._options.key:
            return self._with_ending(".safetensors")
        names = self._names(path)
        return {path.stem: path} if len(names) == 1 else dict.fromkeys(names, path)

    def _names(self, path: Path) -> list[str]:
        with _safetensors(path) as file:
            return list(file.keys())

    def read(self, video: str) -> RawRows:
        """Reads the rows of a video, see ``Form``."""
        path = self.files[video]
        names = self._names(path)
        key = self._options.key or (names[0] if len(names) == 1 else video)
        if key not in names:
            raise _unfit(path, self._options.key or "key", ", ".join(names[:10]), "a tensor's name")
        with _safetensors(path) as file:
            try:
                array = file.get_tensor(key)
            except (TypeError, AttributeError) as error:  # bfloat16 is no type of NumPy
                remedy = "save it as float32: tensor.float()"
                raise _unfit(path, key, str(error)[:100], "real numbers", remedy) from error
        return self._rows(_numbers(array, path, key), path)


FORMS = {"hdf5": Hdf5Files, "mat": MatlabFiles, "safetensors": SafetensorsFiles}


@contextlib.contextmanager
def _hdf5(path: Path) -> Iterator[h5py.File]:
    try:
        with h5py.File(path, "r") as file:
            yield file
    except InputError:
        raise
    except (OSError, KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        found, remedy = str(error)[:200], "copy the file again, or write it again"
        raise _unfit(path, "contents", found, "a sound HDF5 file", remedy) from error


@contextlib.contextmanager
def _safetensors(path: Path) -> Iterator[safe_open]:
    try:
        with safe_open(path, "numpy") as file:
            yield file
    except (SafetensorError, OSError) as error:
        found, remedy = str(error)[:200], "copy the file again, or write it again"
        raise _unfit(path, "contents", found, "a sound safetensors file", remedy) from error


def _is_group(node: h5py.Group, name: str, path: Path) -> bool:
    if isinstance(node.get(name, getlink=True), h5py.ExternalLink):
        raise _unfit(path, name, "a link to another file", "arrays in this file")
    return isinstance(node.get(name), h5py.Group)


def _arrays(node: h5py.Group, path: Path) -> list[str]:
    """Lists the arrays of numbers of a group that have rows."""
    return [
        name
        for name in node
        if not _is_group(node, name, path)
        and isinstance(node[name], h5py.Dataset)
        and node[name].ndim > 0
        and node[name].dtype.kind in "fiub"
    ]


def _values(array: h5py.Dataset, path: Path) -> np.ndarray:
    """Reads an array that lies in the file itself.

    Raises:
        InputError: it refers to other files, or is too large.
    """
    if array.external or array.is_virtual:
        raise _unfit(path, array.name, "data in other files", "arrays in this file")
    if array.size * array.dtype.itemsize > _MOST_BYTES:
        raise _unfit(path, array.name, f"shape {array.shape}", "an array of one video")
    return _numbers(array[()], path, array.name)


def _numbers(array: np.ndarray, path: Path, name: str) -> np.ndarray:
    if array.dtype.kind not in "fiub":
        raise _unfit(path, name, f"dtype {array.dtype}", "real numbers")
    return array


def _unfit(
    path: Path, field: str, found: object, expected: str, remedy: str = "name the array: key=NAME"
) -> InputError:
    return InputError(
        "A file of features cannot be read.",
        file=path,
        field=field,
        found=found,
        expected=expected,
        remedy=remedy,
    )
