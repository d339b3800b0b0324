"""Checksums of arrays, computed where the arrays lie and the same wherever that is.

A checkpoint's own files do not notice every flipped bit, so a checkpoint says what its arrays
add up to. The checksum of an array is

    sum over its words i of mix(word_i xor (i + 1) * GOLDEN)      modulo 2**32

where the words are the array's bits in units of at most 32 and ``mix`` is the finaliser of
MurmurHash3 (Appleby 2011), which maps 32 bits to 32 bits one to one. So a change within one word
is always found, and any other change is missed once in 2**32. Sums of integers do not depend on
their order: any number of devices and processes, and NumPy, say the same.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

_GOLDEN = 0x9E3779B9
_MIX = ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1))
# NumPy's words at a time: its temporaries stay in the processor's cache.
_PART = 1 << 15
_PLACES = np.arange(1, _PART + 1, dtype=np.uint32) * np.uint32(_GOLDEN)


def array_checksums(tree: Any) -> dict[str, int]:
    """Path of every array in a tree, its parts joined by "/", -> its checksum.

    Args:
        tree: JAX arrays, which may be spread over devices and processes, and NumPy arrays.

    Returns:
        numbers below 2**32; 0 for an array without elements.

    Raises:
        TypeError: an array's elements are not of 1, 2, 4 or 8 whole bytes.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    spread = {
        name: leaf for name, (_, leaf) in zip(names, leaves, strict=True) if _on_devices(leaf)
    }
    found = device_checksums(spread)
    return {
        name: found[name] if name in spread else host_checksum(_plain(leaf))
        for name, (_, leaf) in zip(names, leaves, strict=True)
    }


def _on_devices(leaf: Any) -> bool:
    """Whether an array is read where it lies; the host's own memory needs no program."""
    if not isinstance(leaf, jax.Array):
        return False
    devices: Any = leaf.sharding.device_set
    on_host = all(device.platform == "cpu" for device in devices)
    return not (on_host and leaf.is_fully_addressable)


def _plain(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(leaf)
    return leaf


def device_checksums(arrays: Mapping[str, jax.Array]) -> dict[str, int]:
    """The checksums of arrays, computed on their devices, in one program.

    One for each would be many that wait for other processes at once, which on CPUs can end with
    all of them waiting.

    Args:
        arrays: name -> array, all on the same devices.

    Raises:
        TypeError: see ``array_checksums``.
    """
    if not arrays:
        return {}
    leaves = [_plain(leaf) for leaf in arrays.values()]
    for leaf in leaves:
        _check_dtype(leaf.dtype)
    meshes = [leaf.sharding.mesh for leaf in leaves if isinstance(leaf.sharding, NamedSharding)]
    sums = jax.device_get(_program(meshes[0] if meshes else None)(leaves))
    return {name: int(value) for name, value in zip(arrays, sums, strict=True)}


def device_checksum(leaf: jax.Array) -> int:
    """The checksum of one array, computed on its devices; see ``device_checksums``."""
    return device_checksums({"": leaf})[""]


@functools.lru_cache(maxsize=64)
def _program(mesh: Any) -> Any:
    if mesh is None:
        return jax.jit(_sums)
    return jax.jit(_sums, out_shardings=NamedSharding(mesh, PartitionSpec()))


def _sums(leaves: Sequence[jax.Array]) -> jax.Array:
    return jnp.stack([_sum_words(leaf) for leaf in leaves])


def _sum_words(leaf: jax.Array) -> jax.Array:
    if leaf.dtype == jnp.bool_:
        words = leaf.astype(jnp.uint32)
    else:
        bits = min(32, 8 * leaf.dtype.itemsize)
        # An element of 64 bits becomes an axis of two words, the lower one first.
        words = jax.lax.bitcast_convert_type(leaf, f"uint{bits}").astype(jnp.uint32)
    # Positions are counted axis by axis, because flattening would move a spread array.
    place = jnp.zeros(words.shape, jnp.uint32)
    for axis, length in enumerate(words.shape):
        steps = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        place = place * np.uint32(length & 0xFFFFFFFF) + steps
    mixed = words ^ ((place + np.uint32(1)) * np.uint32(_GOLDEN))
    for shift, factor in _MIX:
        mixed = (mixed ^ (mixed >> np.uint32(shift))) * np.uint32(factor)
    return jnp.sum(mixed, dtype=jnp.uint32)


def host_checksum(leaf: Any) -> int:
    """The checksum of an array, computed by NumPy.

    Raises:
        TypeError: see ``array_checksums``.
    """
    array = np.ascontiguousarray(leaf)
    _check_dtype(array.dtype)
    size = min(4, array.dtype.itemsize)
    words = array.reshape(-1).view(f"<u{size}")
    total, shifted = 0, np.empty(_PART, np.uint32)
    for start in range(0, len(words), _PART):
        part = words[start : start + _PART].astype(np.uint32)
        rest = shifted[: len(part)]
        # (start + i + 1) * GOLDEN
        part ^= np.add(_PLACES[: len(part)], np.uint32(start * _GOLDEN & 0xFFFFFFFF), out=rest)
        for shift, factor in _MIX:
            part ^= np.right_shift(part, np.uint32(shift), out=rest)
            if factor != 1:
                part *= np.uint32(factor)
        total += int(part.sum(dtype=np.uint64))
    return total & 0xFFFFFFFF


def _check_dtype(dtype: Any) -> None:
    # Types below a byte report a whole one.
    small = str(dtype) in ("int2", "uint2", "int4", "uint4", "float4_e2m1fn")
    complex_ = np.dtype(dtype).kind == "c"
    if small or complex_ or dtype.itemsize not in (1, 2, 4, 8):
        raise TypeError(f"no checksum of {dtype} arrays")
