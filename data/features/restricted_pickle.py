"""Numbers out of a pickle without unpickling: the file is read as data, and nothing in it runs.

Python's own ``pickle`` looks names up and calls what it finds, so that a pickle can do anything.
Here a small reader knows the instructions that numpy arrays, numbers, texts and plain containers
are made of (protocols 2 to 5). A name in the file is compared with a short list and never looked
up; anything else ends the reading. PEP 3154 and PEP 307 describe the format.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from emojax.errors import InputError

from .arrays import numeric_dtype

# Names that numpy arrays are made of -> what this reader makes of them.
_NAMES = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",  # bytes in protocol 2
    ("collections", "OrderedDict"): "dict",
}
for _core in ("numpy.core", "numpy._core"):
    _NAMES[_core + ".multiarray", "_reconstruct"] = "reconstruct"
    _NAMES[_core + ".multiarray", "scalar"] = "scalar"
    _NAMES[_core + ".numeric", "_frombuffer"] = "frombuffer"


class PickledArray:
    """An array that is being put together; ``array`` is None until the file gave its data."""

    def __init__(self, array: np.ndarray | None = None) -> None:
        self.array = array


class _Kind:
    """One of the values of ``_NAMES``, on the stack."""

    def __init__(self, kind: str) -> None:
        self.kind = kind


class _Dtype:
    """A dtype whose byte order a later instruction tells."""

    def __init__(self, descr: str) -> None:
        self.descr = descr

    def numpy(self) -> np.dtype:
        dtype = numeric_dtype(self.descr)
        if dtype is None:
            raise _RefusedError(f"dtype {self.descr[:20]!r}")
        return dtype


class _RefusedError(Exception):
    """Something that no plain features hold."""


_MARK = object()


def read_pickle(path: Path) -> Any:
    """What a pickle holds: dicts, lists, tuples, texts, numbers, bytes and ``PickledArray``.

    Raises:
        InputError: the file cannot be read, is damaged, or holds anything else. Nothing was run.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _refused(path, error.strerror) from error
    try:
        return _Reader(content).run()
    except _RefusedError as error:
        raise _refused(path, error) from error
    except (IndexError, KeyError, ValueError, TypeError, struct.error, OverflowError) as error:
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


class _Reader:
    """The stack machine. Every instruction takes at least a byte, which bounds all memory."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._table = _instructions(self)

    def run(self) -> Any:
        while True:
            code = self._take(1)[0]
            if code == 0x2E:  # STOP
                break
            step = self._table.get(code)
            if step is None:
                raise _RefusedError(f"instruction {bytes([code])!r} at byte {self._at - 1}")
            step()
        if len(self._stack) != 1 or self._stack[0] is _MARK:
            raise _RefusedError("a damaged pickle")
        return self._stack[0]

    # -- reading ---------------------------------------------------------------------------

    def _take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._content):
            raise _RefusedError(f"{len(self._content)} bytes, cut short")
        part = self._content[self._at : end]
        self._at = end
        return part

    def integer(self, size: int, *, signed: bool = False) -> int:
        return int.from_bytes(self._take(size), "little", signed=signed)

    def sized(self, size: int) -> bytes:
        """Bytes whose number precedes them in so many bytes."""
        return self._take(self.integer(size))

    def text(self, size: int) -> str:
        return self.sized(size).decode("utf-8", "surrogatepass")

    def number(self) -> float:
        return float(struct.unpack(">d", self._take(8))[0])

    def line(self) -> str:
        end = self._content.index(b"\n", self._at)
        return self._take(end + 1 - self._at)[:-1].decode()

    # -- the stack ---------------------------------------------------------------------------

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise _RefusedError("a damaged pickle")
        return value

    def mark(self) -> None:
        self._stack.append(_MARK)

    def to_mark(self) -> list[Any]:
        at = len(self._stack) - 1
        while self._stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise _RefusedError("a damaged pickle")
        values = self._stack[at + 1 :]
        del self._stack[at:]
        return values

    def pop_tuple(self, count: int) -> None:
        values = tuple(self._stack[-count:])
        if len(values) < count or _MARK in values:
            raise _RefusedError("a damaged pickle")
        self._stack[-count:] = [values]

    def put(self, number: int | None = None) -> None:
        self._memo[len(self._memo) if number is None else number] = self._stack[-1]

    def get(self, number: int) -> None:
        self.push(self._memo[number])

    def append(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise _RefusedError("a damaged pickle")
        target.extend(values)

    def set_items(self, values: list[Any]) -> None:
        target, keys = self._stack[-1], values[::2]
        plain = all(type(key) in (str, int, float) for key in keys)
        if type(target) is not dict or not plain or len(values) % 2:
            raise _RefusedError("a dict whose keys are neither texts nor numbers")
        target.update(zip(keys, values[1::2], strict=True))

    # -- numpy -------------------------------------------------------------------------------

    def name(self, module: Any, attribute: Any) -> None:
        if type(module) is not str or type(attribute) is not str:
            raise _RefusedError("a damaged pickle")
        kind = _NAMES.get((module, attribute))
        if kind is None:
            raise _RefusedError(f"the name {f'{module}.{attribute}'[:80]!r}")
        self.push(_Kind(kind))

    def named(self) -> None:
        attribute = self.pop()
        self.name(self.pop(), attribute)

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if type(function) is not _Kind or type(arguments) is not tuple:
            raise _RefusedError("a call of something")
        match function.kind, arguments:
            case "reconstruct", (_Kind(kind="ndarray"), tuple(), bytes() | str()):
                self.push(PickledArray())
            case "dtype", (str(descr), *_):
                self.push(_Dtype(descr))
            case "scalar", (_Dtype() as dtype, bytes(data)):
                self.push(_array(data, dtype, (), fortran=False)[()].item())
            case "frombuffer", (bytes() | bytearray() as data, _Dtype() as dtype, shape, order):
                self.push(PickledArray(_array(bytes(data), dtype, shape, fortran=order == "F")))
            case "encode", (str(text), "latin1"):
                self.push(text.encode("latin-1"))
            case "dict", ():
                self.push({})
            case _:
                raise _RefusedError(f"an unknown use of {function.kind}")

    def build(self) -> None:
        """Completes a dtype (its byte order) or an array (shape, dtype, order, data)."""
        state, target = self.pop(), self._stack[-1]
        match target, state:
            case _Dtype(), (3 | 4, "<" | ">" | "|" | "=" as order, None, None, None, *_):
                target.descr = order + target.descr.lstrip("<>|=")
            case PickledArray(), (1, shape, _Dtype() as dtype, bool(fortran), bytes(data)):
                target.array = _array(data, dtype, shape, fortran=fortran)
            case _:
                raise _RefusedError("an object with a state of its own")


def _array(data: bytes, dtype: _Dtype, shape: Any, *, fortran: bool) -> np.ndarray:
    """An array of exactly these bytes."""
    kind = dtype.numpy()
    lengths = shape if type(shape) is tuple else (shape,)
    if len(lengths) > 32 or not all(type(n) is int and n >= 0 for n in lengths):
        raise _RefusedError("an array without a shape")
    if math.prod(lengths) * kind.itemsize != len(data):
        raise _RefusedError(f"{len(data)} bytes for shape {str(lengths)[:60]} of {kind}")
    return np.frombuffer(data, kind).reshape(lengths, order="F" if fortran else "C")


def _instructions(r: _Reader) -> dict[int, Callable[[], None]]:
    """Instruction byte -> what it does."""
    table: dict[bytes, Callable[[], Any]] = {
        b"\x80": lambda: r.integer(1),  # protocol
        b"\x95": lambda: r.integer(8),  # frame: only a hint how much to read at once
        b"(": r.mark,
        b"0": r.pop,
        b"1": r.to_mark,
        b"N": lambda: r.push(None),
        b"\x88": lambda: r.push(True),
        b"\x89": lambda: r.push(False),
        b"J": lambda: r.push(r.integer(4, signed=True)),
        b"K": lambda: r.push(r.integer(1)),
        b"M": lambda: r.push(r.integer(2)),
        b"\x8a": lambda: r.push(int.from_bytes(r.sized(1), "little", signed=True)),
        b"G": lambda: r.push(r.number()),
        b"X": lambda: r.push(r.text(4)),
        b"\x8c": lambda: r.push(r.text(1)),
        b"\x8d": lambda: r.push(r.text(8)),
        b"B": lambda: r.push(r.sized(4)),
        b"C": lambda: r.push(r.sized(1)),
        b"\x8e": lambda: r.push(r.sized(8)),
        b"\x96": lambda: r.push(bytearray(r.sized(8))),
        b"}": lambda: r.push({}),
        b"]": lambda: r.push([]),
        b")": lambda: r.push(()),
        b"\x85": lambda: r.pop_tuple(1),
        b"\x86": lambda: r.pop_tuple(2),
        b"\x87": lambda: r.pop_tuple(3),
        b"t": lambda: r.push(tuple(r.to_mark())),
        b"a": lambda: r.append([r.pop()]),
        b"e": lambda: r.append(r.to_mark()),
        b"s": lambda: r.set_items(list(reversed([r.pop(), r.pop()]))),
        b"u": lambda: r.set_items(r.to_mark()),
        b"h": lambda: r.get(r.integer(1)),
        b"j": lambda: r.get(r.integer(4)),
        b"q": lambda: r.put(r.integer(1)),
        b"r": lambda: r.put(r.integer(4)),
        b"\x94": lambda: r.put(),
        b"c": lambda: r.name(r.line(), r.line()),
        b"\x93": r.named,
        b"R": r.reduce,
        b"b": r.build,
    }
    return {code[0]: step for code, step in table.items()}
