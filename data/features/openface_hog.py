"""OpenFace's .hog files: a histogram of oriented gradients per frame, in binary.

Each frame is int32 columns, rows and channels, a float32 that is positive where a face was
found, and columns x rows x channels float32; all little-endian, all frames alike.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from emojax.errors import InputError

_HEADER = 16  # bytes
_LARGEST = 4096  # columns, rows or channels


def read_hog(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads rows (n, columns x rows x channels) float32, and (n,) bool where a face was found.

    Raises:
        InputError: the file cannot be read, is cut short, or frames differ in size.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _damaged(path, error.strerror, "a file that can be read") from error
    if len(content) < _HEADER:
        raise _damaged(path, f"{len(content)} bytes", "at least one frame")
    shape = tuple(int(n) for n in np.frombuffer(content, "<i4", 3))
    if not all(1 <= length <= _LARGEST for length in shape):
        raise _damaged(path, f"a frame of {shape}", f"columns, rows, channels of 1 to {_LARGEST}")
    width = shape[0] * shape[1] * shape[2]
    size = _HEADER + 4 * width
    if len(content) % size:
        expected = f"a multiple of {size} bytes, for frames of {shape}"
        raise _damaged(path, f"{len(content)} bytes", expected)
    frames = np.frombuffer(content, [("shape", "<i4", 3), ("face", "<f4"), ("row", "<f4", width)])
    if (frames["shape"] != shape).any():
        number = int(np.flatnonzero((frames["shape"] != shape).any(axis=1))[0])
        raise _damaged(path, f"frame {number}: {frames['shape'][number]}", f"{shape} as in frame 0")
    return frames["row"], frames["face"] > 0


def _damaged(path: Path, found: object, expected: str) -> InputError:
    return InputError(
        "A .hog file is damaged.",
        file=path,
        field="frames",
        found=found,
        expected=expected,
        remedy="run OpenFace again, or copy the file again",
    )
