"""Devices: the mesh of replicas and data, and how trees are laid out on it."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from emojax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Layout:
    """A mesh with axes ``replica`` and ``data``, and the shardings used on it.

    Any number of devices runs the same program: R replicas are spread over the ``replica``
    axis as far as R allows, and batches over the ``data`` axis as far as B allows.

    Attributes:
        mesh: the devices in use.
        devices: all there are, for more or fewer replicas.
    """

    mesh: Mesh
    devices: tuple[jax.Device, ...]

    def replicas(self, tree: Any, *, steps: bool = False) -> Any:
        """Places a tree whose leaves lead with R, which an axis of steps may precede."""
        axes = PartitionSpec(None, "replica") if steps else PartitionSpec("replica")
        return jax.device_put(tree, NamedSharding(self.mesh, axes))

    def everywhere(self, tree: Any) -> Any:
        """Places a copy of a tree on each device."""
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec()))

    def batch(self, batch: Any, *, grouped: bool, steps: bool = False) -> Any:
        """Places a batch: its B axis, which axes of steps and groups may precede, over ``data``."""
        axes = PartitionSpec(*[None] * (grouped + steps), "data")
        return jax.device_put(batch, NamedSharding(self.mesh, axes))

    @property
    def replica_sharding(self) -> NamedSharding:
        """The sharding of the train state."""
        return NamedSharding(self.mesh, PartitionSpec("replica"))


def make_layout(
    num_replicas: int, batch_size: int, devices: Sequence[jax.Device] | None = None
) -> Layout:
    """Chooses the mesh: as many devices as R and B divide into, replicas first."""
    devices = list(devices or jax.devices())
    across_replicas = math.gcd(num_replicas, len(devices))
    across_data = math.gcd(batch_size, len(devices) // across_replicas)
    grid = np.array(devices[: across_replicas * across_data])
    # Auto axes: the Explicit default of jax.make_mesh breaks flax's Dropout.
    mesh = Mesh(
        grid.reshape(across_replicas, across_data),
        ("replica", "data"),
        axis_types=(AxisType.Auto, AxisType.Auto),
    )
    return Layout(mesh, tuple(devices))


def host_layout() -> Layout:
    """The host's memory, for what does not fit on the devices.

    Raises:
        InputError: JAX was started without its CPU backend.
    """
    try:
        return make_layout(1, 1, jax.local_devices(backend="cpu")[:1])
    except RuntimeError as error:
        raise InputError(
            "The replicas' state has to wait in the host's memory, which JAX may not use.",
            field="JAX_PLATFORMS",
            found=os.environ.get("JAX_PLATFORMS", "nothing"),
            expected="also cpu, such as JAX_PLATFORMS=cuda,cpu",
            remedy="add it, or train fewer replicas at once",
        ) from error


def use_compilation_cache() -> None:
    """Keeps compiled programs between runs, so that the second run starts at once.

    The folder is ``JAX_COMPILATION_CACHE_DIR`` if set, else ``~/.cache/emojax/compiled``.
    """
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        folder = Path.home() / ".cache" / "emojax" / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
