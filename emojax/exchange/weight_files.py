"""Reads and writes files of named tensors without pickle, and refuses damaged ones.

``.safetensors`` is written and read, ``.npz`` is only read. Neither can hold code, so a file of any
origin is safe to open. Files of PyTorch's own format can hold code, and are refused.
"""

from __future__ import annotations

import dataclasses
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from emojax.errors import InputError
from emojax.file_writing import replacing

# A header lists names and shapes. A larger one does not belong to a file of weights.
MAX_HEADER_BYTES = 32 * 2**20
# An archive of a few bytes can unpack to any size, so the size is limited.
MAX_UNPACKED_BYTES = 16 * 2**30
_PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")
_CONVERT = """convert it where PyTorch and safetensors are installed:
              import torch; from safetensors.torch import save_file
              save_file({{k: v.contiguous().clone() for k, v in torch.load({name!r}, \
map_location="cpu", weights_only=True).items()}}, {new!r})"""


@dataclasses.dataclass(frozen=True)
class TensorFile:
    """The content of a weight file.

    Attributes:
        path: the file.
        tensors: name -> array, in the file's order.
        metadata: key -> text; empty for formats without metadata.
    """

    path: Path
    tensors: dict[str, np.ndarray]
    metadata: dict[str, str]


def write_tensors(
    path: str | Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> int:
    """Writes a ``.safetensors`` file as a whole or not at all.

    Args:
        path: the file to write; its folder is created if needed.
        tensors: name -> array.
        metadata: key -> text.

    Returns:
        The file's size in bytes.

    Raises:
        InputError: the name does not end in ".safetensors", or the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors" or path.is_dir():
        raise InputError(
            "A file of weights must be named *.safetensors.",
            file=path,
            field="--out",
            found="a folder" if path.is_dir() else path.suffix or "no suffix",
            expected=".safetensors",
        )
    # safetensors writes the memory as it is, so it must be in C order. (``ascontiguousarray``
    # would turn scalars into vectors.)
    ordered = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            save_file(ordered, partial, metadata=dict(metadata))
    except (OSError, SafetensorError) as error:
        raise InputError(
            "The weights cannot be written.",
            file=path,
            found=str(error),
            remedy="choose another place with --out",
        ) from error
    return path.stat().st_size


def read_tensors(path: str | Path) -> TensorFile:
    """Reads a ``.safetensors`` or ``.npz`` file into memory.

    Raises:
        InputError: the file does not exist, has another format, or is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            "The file of weights does not exist.",
            file=path,
            found="a folder" if path.is_dir() else "nothing",
            expected="a .safetensors or .npz file",
        )
    if path.suffix in _PICKLED:
        raise InputError(
            "Files of this kind run code when they are opened, so emojax does not open them.",
            file=path,
            found=path.suffix,
            expected=".safetensors or .npz",
            remedy=_CONVERT.format(name=path.name, new=path.with_suffix(".safetensors").name),
        )
    readers = {".safetensors": _read_safetensors, ".npz": _read_npz}
    if path.suffix not in readers:
        raise InputError(
            "The ending of the file's name is not that of a format of weights.",
            file=path,
            found=path.suffix or "no suffix",
            expected=" or ".join(readers),
        )
    return readers[path.suffix](path)


def _read_safetensors(path: Path) -> TensorFile:
    size = path.stat().st_size
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if size < 8 or header > min(size - 8, MAX_HEADER_BYTES):
        raise InputError(
            "This is not a safetensors file, or its beginning is damaged.",
            file=path,
            field="header",
            found=f"a header of {header:,} bytes in a file of {size:,} bytes",
            expected=f"a header within the file, of {MAX_HEADER_BYTES:,} bytes at most",
            remedy="copy or export the file again",
        )
    name = "header"
    try:
        with safe_open(path, framework="numpy") as opened:
            metadata = opened.metadata() or {}
            tensors = {}
            for name in opened.keys():  # noqa: SIM118 - not a mapping
                tensors[name] = opened.get_tensor(name)
    # A dtype that NumPy lacks, such as bfloat16, raises TypeError or AttributeError.
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        raise _damaged(path, name, error, "float32, float16, float64 or integers") from error
    return TensorFile(path, tensors, metadata)


def _read_npz(path: Path) -> TensorFile:
    name = "archive"
    try:
        tensors = {}
        # NumPy does not close a file that it opened and could not read.
        with path.open("rb") as opened:
            _check_unpacked(opened)
            with np.load(opened, allow_pickle=False) as archive:
                for name in archive.files:
                    tensors[name] = archive[name]
    except (
        zipfile.BadZipFile, zlib.error, OSError, ValueError, EOFError, KeyError, AttributeError,
        # NumPy allocates the size that a header claims before it reads the data.
        MemoryError, OverflowError, NotImplementedError, RuntimeError,
    ) as error:  # fmt: skip
        raise _damaged(path, name, error, "plain numeric arrays, as np.savez writes") from error
    return TensorFile(path, tensors, {})


def _check_unpacked(opened: BinaryIO) -> None:
    with zipfile.ZipFile(opened) as archive:
        size = sum(member.file_size for member in archive.infolist())
        for member in archive.infolist():
            with archive.open(member) as array:
                _check_header(array, member)
    if size > MAX_UNPACKED_BYTES:
        raise ValueError(f"{size} bytes when unpacked, of {MAX_UNPACKED_BYTES} at most")
    opened.seek(0)


def _check_header(array: IO[bytes], member: zipfile.ZipInfo) -> None:
    """Refuses an array whose header claims more bytes than the file has."""
    version = np.lib.format.read_magic(array)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"NumPy's format {version}")
    shape, _, dtype = readers[version](array)
    if math.prod(shape) * dtype.itemsize > member.file_size:
        raise ValueError(f"an array of shape {shape} in {member.file_size} bytes")


def _damaged(path: Path, name: str, error: Exception, expected: str) -> InputError:
    return InputError(
        "The file of weights is damaged, or holds data of an unsupported kind.",
        file=path,
        field=name,
        found=str(error).strip().splitlines()[0][:200] if str(error) else type(error).__name__,
        expected=expected,
        remedy="copy or export the file again",
    )


def as_float32(file: TensorFile, name: str) -> np.ndarray:
    """Returns a tensor as float32.

    Raises:
        InputError: the tensor is not an array of real numbers, or a number is not finite.
    """
    array = file.tensors[name]
    if not np.issubdtype(array.dtype, np.floating):
        found = str(array.dtype)
    else:
        with np.errstate(over="ignore"):
            single: np.ndarray = array.astype(np.float32)
        if np.isfinite(single).all():
            return single
        found = f"{int((~np.isfinite(single)).sum())} numbers that are not finite"
    raise InputError(
        "A tensor holds invalid weights.",
        file=file.path,
        field=name,
        found=found,
        expected="finite real numbers",
    )
