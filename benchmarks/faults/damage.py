"""Damages one file of a copied folder in one of several ways."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np


@dataclasses.dataclass(frozen=True)
class Damage:
    """The damage that was done to a copy.

    Attributes:
        kind: the kind of the file, see ``kind_of``.
        file: the path of the file in the copied folder.
        how: a key of ``WAYS``.
    """

    kind: str
    file: str
    how: str


def kind_of(path: Path) -> str:
    """Returns a short name for the content of a file; "" for files that no program reads."""
    parts = path.parts
    if parts[0] == "store":
        return "shard" if path.suffix == ".tfrecord" else path.name
    if parts[:2] != ("run", "checkpoints"):
        return ""
    inner = parts[3:]
    if inner[0] == "state" and inner[-2:-1] == ("d",):
        return "state, " + "/".join(inner[1:-1])  # the names of the files are random
    return "/".join(inner)


def damage(source: Path, copy: Path, rng: np.random.Generator) -> Damage:
    """Copies a folder with one file damaged; most other files are links to the originals.

    Args:
        source: the folder with ``store`` and ``run``.
        copy: the folder to make.
        rng: draws the file and the way; all kinds of files are equally likely.
    """
    shutil.copytree(source, copy, copy_function=_link)
    by_kind: dict[str, list[Path]] = {}
    for file in sorted(path for path in copy.rglob("*") if path.is_file()):
        kind = kind_of(file.relative_to(copy))
        if kind:
            by_kind.setdefault(kind, []).append(file)
    kind = str(rng.choice(sorted(by_kind)))
    file = by_kind[kind][rng.integers(len(by_kind[kind]))]
    before = file.read_bytes()
    # A real copy in place of the link, so that the original stays unchanged.
    file.unlink()
    file.write_bytes(before)
    part = file.relative_to(copy).parts[0]
    others = [path for paths in by_kind.values() for path in paths
              if path != file and path.relative_to(copy).parts[0] == part]  # fmt: skip
    while True:
        how = str(rng.choice(list(WAYS)))
        if how == "swapped with another":
            _swap(file, others[rng.integers(len(others))])
            break
        WAYS[how](file, rng)
        if not file.is_file() or file.read_bytes() != before:
            break
    return Damage(kind, str(file.relative_to(copy)), how)


def _link(source: str, target: str) -> None:
    """Links files that programs never change; copies those of a run that are written in place."""
    place = Path(target)
    fixed = {"store", "checkpoints"} & {*place.parts}
    (os.link if fixed else shutil.copy2)(source, target)


def _swap(file: Path, other: Path) -> None:
    third = file.with_name("third")
    file.rename(third)
    other.rename(file)
    third.rename(other)


def _flip(file: Path, rng: np.random.Generator, count: int = 1) -> None:
    data = bytearray(file.read_bytes())
    for position in rng.integers(len(data), size=count):
        data[position] ^= 1 << int(rng.integers(8))
    file.write_bytes(data)


def _overwrite(file: Path, rng: np.random.Generator) -> None:
    data = bytearray(file.read_bytes())
    data[int(rng.integers(len(data)))] = int(rng.integers(256))
    file.write_bytes(data)


def _block(data: bytearray, rng: np.random.Generator) -> slice:
    length = int(rng.integers(1, max(2, len(data) // 4)))
    start = int(rng.integers(len(data) - length + 1))
    return slice(start, start + length)


def _zero(file: Path, rng: np.random.Generator) -> None:
    data = bytearray(file.read_bytes())
    block = _block(data, rng)
    data[block] = bytes(block.stop - block.start)
    file.write_bytes(data)


def _noise(file: Path, rng: np.random.Generator) -> None:
    data = bytearray(file.read_bytes())
    block = _block(data, rng)
    data[block] = rng.bytes(block.stop - block.start)
    file.write_bytes(data)


def _truncate(file: Path, rng: np.random.Generator) -> None:
    os.truncate(file, int(rng.integers(file.stat().st_size)))


def _append(file: Path, rng: np.random.Generator) -> None:
    with file.open("ab") as opened:
        opened.write(rng.bytes(int(rng.integers(1, 200))))


def _swap_blocks(file: Path, rng: np.random.Generator) -> None:
    data = file.read_bytes()
    length = int(rng.integers(1, max(2, len(data) // 3)))
    first = int(rng.integers(max(1, len(data) - 2 * length)))
    second = int(rng.integers(first + length, max(first + length, len(data) - length) + 1))
    a, b = data[first : first + length], data[second : second + length]
    between = data[first + length : second]
    file.write_bytes(data[:first] + b + between + a + data[second + length :])


def _folder(file: Path, rng: np.random.Generator) -> None:
    file.unlink()
    file.mkdir()


WAYS: dict[str, Callable[[Path, np.random.Generator], None]] = {
    "bit flipped": _flip,
    "bits flipped": lambda file, rng: _flip(file, rng, int(rng.integers(2, 20))),
    "byte overwritten": _overwrite,
    "block zeroed": _zero,
    "block of noise": _noise,
    "cut off": _truncate,
    "garbage appended": _append,
    "deleted": lambda file, rng: file.unlink(),
    "swapped with another": lambda file, rng: None,
    "blocks swapped": _swap_blocks,
    "emptied": lambda file, rng: os.truncate(file, 0),
    "now a folder": _folder,
}
