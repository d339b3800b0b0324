"""Reads a .npz archive that others exported, and checks every array of it."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from pathlib import Path

import numpy as np

from emojax.errors import InputError


class NpzArrays:
    """The arrays of an npz file, checked one by one; pickled ones are refused.

    Args:
        path: the path of the file.
        about: name of the file in messages, such as "MELD export".

    Attributes:
        sha256: the sha256 of the file.

    Raises:
        InputError: the file cannot be read.
    """

    def __init__(self, path: Path, about: str) -> None:
        self._path, self._about = path, about
        self._arrays: dict[str, np.ndarray] = {}
        key = "npz archive"
        try:
            content = path.read_bytes()
            # From memory, because numpy leaves damaged files open.
            archive = np.load(io.BytesIO(content), allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("a single array")
            for key in archive.files:
                self._arrays[key] = archive[key]
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(
                f"The {about} cannot be read.",
                file=path,
                field=key,
                found=error,
                expected="a numpy .npz archive of plain arrays",
                remedy="copy the file again",
            ) from error
        self.sha256 = hashlib.sha256(content).hexdigest()

    def error(self, name: str, found: object, expected: object) -> InputError:
        """Returns the error about an array, with the file and a hint."""
        return InputError(
            f"An array of the {self._about} is wrong.",
            file=self._path,
            field=name,
            found=found,
            expected=expected,
            remedy="compare the file with the README beside it",
        )

    def floats(self, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
        """Returns a real array of this shape; None stands for any length."""
        array = self._get(name)
        fits = len(shape) == array.ndim and all(
            want is None or want == have for want, have in zip(shape, array.shape, strict=True)
        )
        if array.dtype.kind != "f" or not fits:
            wanted = ", ".join("any" if length is None else str(length) for length in shape)
            raise self.error(name, f"{array.dtype} {array.shape}", f"real numbers ({wanted})")
        return array

    def finite(self, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
        """Returns an array as ``floats`` does, without NaN or infinity."""
        array = self.floats(name, shape)
        if not np.isfinite(array).all():
            where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            raise self.error(name, f"NaN or infinity at {where}", "finite numbers")
        return array

    def integers(self, name: str, *, least: int, axes: int) -> np.ndarray:
        """Returns an integer array with ``axes`` axes, as int64, no number below ``least``."""
        array = self._get(name)
        if array.dtype.kind not in "iu" or array.ndim != axes:
            raise self.error(name, f"{array.dtype} {array.shape}", f"integers, {axes} axis")
        if array.size and array.min() < least:
            raise self.error(name, array.min(), f"at least {least}")
        return array.astype(np.int64)

    def booleans(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Returns a bool array of this shape."""
        array = self._get(name)
        if array.dtype != np.bool_ or array.shape != shape:
            raise self.error(name, f"{array.dtype} {array.shape}", f"bool {shape}")
        return array

    def texts(self, name: str) -> tuple[str, ...]:
        """Returns a list of strings."""
        array = self._get(name)
        if array.dtype.kind != "U" or array.ndim != 1:
            raise self.error(name, f"{array.dtype} {array.shape}", "texts, 1 axis")
        return tuple(str(text) for text in array)

    def _get(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            raise self.error(name, ", ".join(sorted(self._arrays)), f"an array named {name!r}")
        return self._arrays[name]
