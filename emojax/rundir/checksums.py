"""Checksums of arrays, the same on any number of devices and processes.

A checkpoint's own files do not notice every flipped bit, so a checkpoint records the CRC-32C of
each of its arrays. It finds every change that spans at most 32 bits; any other change is missed
once in 2**32.
"""

from __future__ import annotations

from typing import Any

import crc32c
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

ALGORITHM = "crc32c"


def array_checksums(tree: Any) -> dict[str, int]:
    """Computes the checksum of every array in a tree.

    All processes must call it with the same tree, because an array that is spread over processes
    is gathered. One array is gathered at a time, which bounds the memory.

    Args:
        tree: JAX arrays, which may be spread over devices and processes, and NumPy arrays.

    Returns:
        Path of each array, its parts joined by "/" -> checksum below 2**32.
    """
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): checksum(_on_host(leaf))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def checksum(array: np.ndarray) -> int:
    """Returns the CRC-32C of an array's bytes, in C order and little-endian."""
    little = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
    return int(crc32c.crc32c(little.reshape(-1).view(np.uint8).data))


def _on_host(leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        if not leaf.is_fully_addressable:
            return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    return np.asarray(leaf)
