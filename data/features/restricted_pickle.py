"""Reads numpy arrays, numbers, texts and plain containers from a pickle, and runs nothing in it.

A name in the file is looked up in ``_STAND_INS`` and nowhere else. What it finds there are objects
of this module without attributes, which build arrays from bytes of the file; numpy's own functions
would allocate any size that a file asks for.

An allow-list of names is not enough. Python's reader allocates 4 GiB for nine bytes that number a
memo entry, ends the process on a deeply nested tuple as a key of a dict, and hashes a key of 150
bytes for minutes. ``_scan`` refuses such files first, so that memory and time are bounded by the
size of the file.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from emojax.errors import InputError

from .numpy_files import numeric_dtype

_PUT = {"BINPUT", "LONG_BINPUT", "MEMOIZE"}
_GET = {"BINGET", "LONG_BINGET"}
# They leave the value on the stack that they store, or change by those above it.
_STAYS = _PUT | {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "BUILD"}
_ALLOWED = _STAYS | _GET | {
    "PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2",
    "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES",
    "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE",
    "TUPLE1", "TUPLE2", "TUPLE3", "GLOBAL", "STACK_GLOBAL", "REDUCE",
}  # fmt: skip


class PickledArray:
    """An array that the file builds; ``array`` is None until the file has given its data."""

    __slots__ = ("array",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, array: np.ndarray | None = None) -> None:
        self.array = array

    def __setstate__(self, state: Any) -> None:
        version, shape, dtype, fortran, data = state
        if version != 1 or type(fortran) is not bool or type(data) is not bytes:
            raise pickle.UnpicklingError("an array with an unknown state")
        self.array = _array(data, dtype, shape, "F" if fortran else "C")


class _Dtype:
    """A dtype of plain numbers; its byte order arrives as its state."""

    __slots__ = ("descr",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, descr: Any) -> None:
        self.descr = descr

    def __setstate__(self, state: Any) -> None:
        version, order, *others = state
        if version not in (3, 4) or others[:3] != [None] * 3 or order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("a dtype with an unknown state")
        self.descr = order + self.descr.lstrip("<>|=")


class _StandIn:
    """A function under a name that a file may use. It has no attributes that a file could set."""

    __slots__ = ("_call",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a state for a function")


def _ndarray(*_arguments: Any) -> None:
    raise pickle.UnpicklingError("a call of numpy.ndarray")


def _reconstruct(kind: Any, _shape: Any, _code: Any) -> PickledArray:
    if kind is not _STAND_INS["numpy", "ndarray"]:
        raise pickle.UnpicklingError("an array of an unknown class")
    return PickledArray()  # its shape and data follow as its state


def _dtype(descr: Any, *_flags: Any) -> _Dtype:
    # Names of plain dtypes are short, and numeric_dtype keeps what it is asked for.
    return _Dtype(descr[:20] if type(descr) is str else "")


def _scalar(dtype: Any, data: Any) -> Any:
    return _array(data, dtype, (), "C").item()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> PickledArray:
    return PickledArray(_array(data, dtype, shape, "F" if order == "F" else "C"))


def _ordered_dict() -> dict[Any, Any]:
    return {}


def _array(data: bytes | bytearray, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """Returns an array over exactly these bytes, without copying them."""
    kind = numeric_dtype(dtype.descr) if type(dtype) is _Dtype else None
    lengths = shape if type(shape) is tuple else (shape,)
    if kind is None or len(lengths) > 32 or not all(type(n) is int and n >= 0 for n in lengths):
        raise pickle.UnpicklingError("an array that is not of plain numbers")
    if math.prod(lengths) * kind.itemsize != len(data):
        raise pickle.UnpicklingError(f"{len(data)} bytes for shape {str(lengths)[:60]} of {kind}")
    return np.frombuffer(data, kind).reshape(lengths, order=order)


_STAND_INS = {
    ("numpy", "ndarray"): _StandIn(_ndarray),
    ("numpy", "dtype"): _StandIn(_dtype),
    ("collections", "OrderedDict"): _StandIn(_ordered_dict),
}
for _core in ("numpy.core", "numpy._core"):
    _STAND_INS[_core + ".multiarray", "_reconstruct"] = _StandIn(_reconstruct)
    _STAND_INS[_core + ".multiarray", "scalar"] = _StandIn(_scalar)
    _STAND_INS[_core + ".numeric", "_frombuffer"] = _StandIn(_frombuffer)


class _Unpickler(pickle.Unpickler):
    """Python's reader, which finds ``_STAND_INS`` and nothing else."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self._encode_most = len(content)

    def find_class(self, module: str, name: str) -> _StandIn:
        if (module, name) == ("_codecs", "encode"):  # bytes in protocol 2
            return _StandIn(self._encode)
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"the name {f'{module}.{name}'[:80]!r}")
        return _STAND_INS[module, name]

    def _encode(self, text: Any, encoding: Any) -> bytes:
        if type(text) is not str or encoding != "latin1":
            raise pickle.UnpicklingError("an unknown encoding")
        # A file may name one text many times, and each call makes a copy.
        self._encode_most -= len(text)
        if self._encode_most < 0:
            raise pickle.UnpicklingError("more encoded bytes than the file has")
        return text.encode("latin-1")


def read_pickle(path: Path) -> Any:
    """Reads a pickle of dicts, lists, tuples, texts, numbers, bytes and ``PickledArray``.

    Args:
        path: the path of the file.

    Raises:
        InputError: the file cannot be read, is damaged, or holds anything else. Nothing was run.
    """
    try:
        content = path.read_bytes()
        _scan(content)
        return _Unpickler(content).load()
    except OSError as error:
        raise _refused(path, error.strerror) from error
    except pickle.UnpicklingError as error:
        raise _refused(path, error) from error
    except Exception as error:  # Python's documentation lists no complete set
        raise _refused(path, f"a damaged pickle ({type(error).__name__})") from error


def _refused(path: Path, found: object) -> InputError:
    return InputError(
        "A pickle cannot be read.",
        file=path,
        field="pickle",
        found=found,
        expected="numpy arrays of numbers, texts and plain containers; nothing was run",
        remedy="save the features with numpy.save, a file per video",
    )


def _scan(content: bytes) -> None:
    """Refuses unknown instructions, memo numbers beyond the file and tuples as keys.

    Follows the kinds of the values on the reader's stack with the help of ``pickletools``.
    """
    stack: list[pickletools.StackObject] = []
    marks: list[int] = []  # how long the stack was at each mark
    memo: dict[int, pickletools.StackObject] = {}
    for code, argument, at in pickletools.genops(content):
        if code.name not in _ALLOWED:
            raise pickle.UnpicklingError(f"instruction {code.name} at byte {at}")
        stays = code.name in _STAYS
        taken = 0 if code.name in _PUT else len(code.stack_before) - stays
        if pickletools.markobject in code.stack_before:
            taken = len(stack) - marks.pop()
        if len(stack) - (marks[-1] if marks else 0) < taken + stays:
            raise pickle.UnpicklingError(f"too few values at byte {at}")
        if code.name == "MARK":
            marks.append(len(stack))
        elif code.name in _GET:
            stack.append(memo[int(argument or 0)])
        elif code.name in _PUT:
            number = len(memo) if argument is None else int(argument)
            if number >= len(content):
                raise pickle.UnpicklingError(f"memo entry {number} in {len(content)} bytes")
            memo[number] = stack[-1]
        else:
            values = stack[len(stack) - taken :]
            if code.name in ("SETITEM", "SETITEMS") and pickletools.pytuple in values[::2]:
                raise pickle.UnpicklingError(f"a tuple as a key at byte {at}")
            del stack[len(stack) - taken :]
            if not stays:
                stack += code.stack_after
