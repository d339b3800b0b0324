"""Reads the arrays of a checkpoint's ``state`` item from the files that Orbax wrote.

Orbax stores each array as Zarr (version 2) in one OCDBT database, under its path joined by ".".
TensorStore reads both. One array is read at a time and each read is waited for, so that a damaged
file ends in one exception and leaves nothing running. (Orbax reads all arrays at once in an event
loop; when one fails, it closes the loop before the other reads have ended, and their results then
raise in threads of their own.)
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorstore as ts

from emojax.rundir.checkpoint_document import DamagedError
from emojax.rundir.checksums import checksum


def read_arrays(folder: Path, abstract: Any) -> tuple[Any, dict[str, int]]:
    """Reads a tree of arrays and places each where it belongs.

    Args:
        folder: the item's folder.
        abstract: a leaf with ``shape`` and ``dtype`` for each array. One with a ``sharding`` is
            placed on its devices, one without stays in NumPy.

    Returns:
        The tree, and path (parts joined by "/") -> checksum of each array as it was stored.

    Raises:
        DamagedError: an array is missing, damaged, or of another shape or type.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(abstract)
    context = ts.Context()
    placed, checksums = [], {}
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        array = _read(folder, name, leaf, context)
        checksums[jax.tree_util.keystr(path, simple=True, separator="/")] = checksum(array)
        placed.append(_place(array, getattr(leaf, "sharding", None)))
    return jax.tree.unflatten(structure, placed), checksums


def _read(folder: Path, name: str, expected: Any, context: ts.Context) -> np.ndarray:
    spec = {
        "driver": "zarr",
        "kvstore": {
            "driver": "ocdbt",
            "base": {"driver": "file", "path": f"{folder}/"},
            "path": f"{name}/",
        },
        "recheck_cached_data": False,
        "recheck_cached_metadata": False,
    }
    try:
        stored = ts.open(spec, open=True, read=True, context=context).result()
        found = f"{stored.dtype.name}[{','.join(map(str, stored.shape))}]"
        wanted = f"{np.dtype(expected.dtype).name}[{','.join(map(str, expected.shape))}]"
        # A damaged description must not make the read allocate more than the array.
        chunk = math.prod(size or 1 for size in stored.chunk_layout.read_chunk.shape or ())
        if found != wanted or chunk > max(1, math.prod(expected.shape)):
            raise DamagedError(f"state, array {name}", found, wanted)
        return np.asarray(stored.read().result())
    except (DamagedError, MemoryError):
        raise
    # TensorStore has many ways to say what is wrong with a file.
    except Exception as error:
        text = str(error).strip().splitlines()
        found = text[0][:200] if text else type(error).__name__
        raise DamagedError("state", found, "what a training run saved") from error


def _place(array: np.ndarray, sharding: jax.sharding.Sharding | None) -> Any:
    if sharding is None:
        return array
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
