"""Reads .npy and .npz files of plain numbers, and checks sizes before it allocates memory.

``numpy.load`` would evaluate the header and allocate whatever it declares. Here the header is
matched, and an array is made only if the file really holds as many bytes as it declares.
"""

from __future__ import annotations

import functools
import math
import re
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from emojax.errors import InputError

_MAGIC = b"\x93NUMPY"
_MAX_HEADER = 65536  # bytes; numpy itself writes about a hundred
_MAX_DEFLATION = 1040  # deflate packs 1032 to 1 at best; a higher ratio is a false size
_DESCR = re.compile(r"""['"]descr['"]\s*:\s*['"]([^'"]*)['"]""")
_ORDER = re.compile(r"""['"]fortran_order['"]\s*:\s*(True|False)""")
_SHAPE = re.compile(r"""['"]shape['"]\s*:\s*\(([0-9L,\s]*)\)""")
_PLAIN = re.compile(r"[<>|=]?([bui][1248]|f[248])|[<>|=]?\?")


@functools.lru_cache(maxsize=64)
def numeric_dtype(descr: str) -> np.dtype | None:
    """Returns the dtype of "<f4" and its like; None for anything but real numbers and bool."""
    if not _PLAIN.fullmatch(descr):
        return None
    try:
        return np.dtype(descr)
    except TypeError:  # such as "b8"
        return None


def read_npy(path: Path) -> np.ndarray:
    """Reads the array of a .npy file; the array is read-only.

    Raises:
        InputError: the file cannot be read, is no .npy file, is shorter or longer than its
            header declares, or holds anything but plain real numbers.
    """
    try:
        with path.open("rb") as file:
            return _array(file, path.stat().st_size, path, "array")
    except OSError as error:
        raise _unreadable(path, "array", error.strerror) from error


def read_npz(path: Path, name: str) -> np.ndarray:
    """Reads one array of a .npz file, see ``read_npy`` and ``npz_names``.

    Raises:
        InputError: also if the file has no such array, or its compression ratio is impossible.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _member(archive, path, name)
    except _ZIP_ERRORS as error:
        raise _unreadable(path, name, error) from error


def npz_names(path: Path) -> tuple[str, ...]:
    """Returns the names of the arrays of a .npz file.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except _ZIP_ERRORS as error:
        raise _unreadable(path, "npz archive", error) from error
    return tuple(name.removesuffix(".npy") for name in names)


_ZIP_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,  # encrypted
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
    OverflowError,
)


def _member(archive: zipfile.ZipFile, path: Path, name: str) -> np.ndarray:
    known = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
    if name not in known:
        raise InputError(
            "The archive has no array of this name.",
            file=path,
            field=name,
            found=", ".join(sorted(known)[:20]) or "no array",
            expected=f"an array named {name!r}",
            remedy="name the right one: key=NAME",
        )
    entry = known[name]
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _unreadable(path, name, f"compression method {entry.compress_type}")
    if entry.file_size > _MAX_DEFLATION * (entry.compress_size + 64):
        found = f"{entry.file_size} bytes in {entry.compress_size} compressed ones"
        raise _unreadable(path, name, found)
    with archive.open(entry) as file:
        return _array(file, entry.file_size, path, name)  # type: ignore[arg-type]


def _array(file: BinaryIO, size: int, path: Path, name: str) -> np.ndarray:
    """Reads header and data; ``size`` is that of both in bytes."""
    start = file.read(10)
    if len(start) < 10 or start[:6] != _MAGIC or start[6] not in (1, 2, 3):
        raise _unreadable(path, name, "no .npy header")
    length, used = int.from_bytes(start[8:10], "little"), 10
    if start[6] > 1:
        length, used = int.from_bytes(start[8:10] + file.read(2), "little"), 12
    if length > min(_MAX_HEADER, size):
        raise _unreadable(path, name, f"a header of {length} bytes")
    header = file.read(length).decode("latin-1")
    descr, order, shape = (rule.search(header) for rule in (_DESCR, _ORDER, _SHAPE))
    if not (descr and order and shape):
        found = "structured or object data" if "descr" in header else "a damaged header"
        raise _unreadable(path, name, found)
    dtype = numeric_dtype(descr[1])
    if dtype is None:
        found = "pickled objects" if "O" in descr[1] else f"dtype {descr[1][:20]}"
        raise _unreadable(path, name, found)
    try:
        lengths = tuple(int(n) for n in re.findall(r"\d+", shape[1]))
    except ValueError:  # more digits than Python converts
        lengths = (size,) * 2
    wanted = math.prod(lengths) * dtype.itemsize
    present = size - used - length
    if wanted != present or len(lengths) > 32:
        shown = str(lengths)[:60]
        raise _unreadable(path, name, f"{present} bytes for shape {shown} of {dtype}")
    data = file.read(wanted)
    if len(data) != wanted:
        raise _unreadable(path, name, f"{len(data)} of {wanted} bytes")
    array = np.frombuffer(data, dtype)
    return array.reshape(lengths, order="F" if order[1] == "True" else "C")


def _unreadable(path: Path, name: str, found: object) -> InputError:
    return InputError(
        "A feature file cannot be read.",
        file=path,
        field=name,
        found=str(found)[:200],
        expected="a complete numpy array of real numbers, no Python objects",
        remedy="write it again with numpy.save or numpy.savez, from an array of numbers",
    )
