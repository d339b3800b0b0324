"""Devices and processes: the mesh of replicas and data, and how trees are laid out on it.

A run may have several processes, one a host of a slice or of a cluster. They all run the same
program on the same values; only rows of batches are read by those alone whose devices compute them.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from emojax.errors import InputError, LostProcess


@dataclasses.dataclass(frozen=True)
class Layout:
    """A mesh with axes ``replica`` and ``data``, and the shardings used on it.

    Any number of devices runs the same program: R replicas are spread over the ``replica`` axis
    as far as R allows, and batches over the ``data`` axis as far as B allows. Devices that are left
    stand idle; where there are several processes, which must all take part, they repeat the others'
    work, along a third axis ``spare``.

    Attributes:
        mesh: the devices in use.
        devices: all there are, for more or fewer replicas.
        sizes: the sizes of the axes, where a configuration says so, see ``make_layout``.
    """

    mesh: Mesh
    devices: tuple[jax.Device, ...]
    sizes: tuple[int, int] = (0, 0)

    @property
    def shared(self) -> bool:
        """Returns True if some of the devices belong to other processes."""
        return any(self.elsewhere(device) for device in self.mesh.devices.flat)

    @property
    def replica_sharding(self) -> NamedSharding:
        """Returns the sharding of the train state."""
        return self._sharding("replica")

    @property
    def repeated(self) -> NamedSharding:
        """Returns the sharding of arrays that every device has in full."""
        return self._sharding()

    def replicas(self, tree: Any, *, steps: bool = False) -> Any:
        """Places a tree whose leaves lead with R, which an axis of steps may precede.

        As everything that is placed, it must be the same in each process, and a host's arrays, or
        lie on these devices already.
        """
        return self._place(tree, self._sharding(*[None] * steps, "replica"))

    def everywhere(self, tree: Any) -> Any:
        """Places a copy of a tree on each device."""
        return self._place(tree, self.repeated)

    def batch(self, batch: Any, *, grouped: bool, steps: bool = False) -> Any:
        """Places a batch: its B axis, which axes of steps and groups may precede, over ``data``."""
        return self._place(batch, self._sharding(*[None] * (grouped + steps), "data"))

    def rows(self, batch_size: int) -> range:
        """Returns the rows of a batch that this process's devices compute."""
        if not self.shared:
            return range(batch_size)
        of_device = self._sharding("data").addressable_devices_indices_map((batch_size,))
        bounds = [index[0].indices(batch_size)[:2] for index in of_device.values() if index]
        return range(min(start for start, _ in bounds), max(stop for _, stop in bounds))

    def batch_of_rows(self, rows: Any, batch_size: int, *, grouped: bool) -> Any:
        """Places a batch of which each process has its own ``rows``, and no others."""
        if not self.shared:
            return self.batch(rows, grouped=grouped)
        sharding = self._sharding(*[None] * grouped, "data")
        mine = self.rows(batch_size)

        def place(leaf: np.ndarray) -> jax.Array:
            shape = (*leaf.shape[:grouped], batch_size, *leaf.shape[grouped + 1 :])

            def part(index: tuple[slice, ...] | None) -> np.ndarray:
                assert index is not None, "a process is asked for its own parts alone"
                start, stop, _ = index[grouped].indices(batch_size)
                here = slice(start - mine.start, stop - mine.start)
                return leaf[(*index[:grouped], here, *index[grouped + 1 :])]

            return jax.make_array_from_callback(shape, sharding, part)

        return jax.tree.map(place, rows)

    def fetch(self, tree: Any) -> Any:
        """Fetches a tree from these devices as NumPy arrays, in full in every process.

        All processes have to call it, in the same order, for what other processes' devices hold.
        """
        if self.shared:
            tree = _moved(self.repeated)(tree)
        return jax.device_get(tree)

    def elsewhere(self, device: jax.Device) -> bool:
        """Returns True for a device of another process."""
        return device.process_index != jax.process_index()

    def _sharding(self, *axes: str | None) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(*axes))

    def _place(self, tree: Any, sharding: NamedSharding) -> Any:
        if not self.shared:
            return jax.device_put(tree, sharding)

        def place(leaf: Any) -> jax.Array:
            if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
                return _moved(sharding)(leaf)
            # Not device_put, which would compare what the processes have, leaf by leaf.
            leaf = np.asarray(leaf)
            return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

        return jax.tree.map(place, tree)


def _moved(sharding: NamedSharding) -> Any:
    return jax.jit(_same, out_shardings=sharding)


def _same(tree: Any) -> Any:
    return tree


def make_layout(
    num_replicas: int,
    batch_size: int,
    devices: Sequence[jax.Device] | None = None,
    *,
    sizes: tuple[int, int] = (0, 0),
) -> Layout:
    """Chooses the mesh: as many devices as R and B divide into, replicas first.

    Args:
        num_replicas: R.
        batch_size: B.
        devices: the devices to choose from; all by default.
        sizes: devices along ``replica`` and ``data`` at most, ``config.mesh``; 0 for as many as
            there are. Fewer are used where they divide R or B no further.
    """
    devices = list(devices or jax.devices())
    most_replicas, most_data = (size or len(devices) for size in sizes)
    across_replicas = _most(num_replicas, len(devices), most_replicas)
    across_data = _most(batch_size, len(devices) // across_replicas, most_data)
    axes = {"replica": across_replicas, "data": across_data}
    if len({device.process_index for device in devices}) > 1:
        axes["spare"] = len(devices) // (across_replicas * across_data)
    grid = np.array(devices[: math.prod(axes.values())]).reshape(*axes.values())
    # Auto axes: the Explicit default of jax.make_mesh breaks flax's Dropout.
    mesh = Mesh(grid, tuple(axes), axis_types=(AxisType.Auto,) * len(axes))
    return Layout(mesh, tuple(devices), sizes)


def _most(count: int, devices: int, limit: int) -> int:
    """Returns the most devices, up to ``limit``, that divide both a count and the devices."""
    common = math.gcd(count, devices)
    return max(size for size in range(1, min(common, limit) + 1) if common % size == 0)


def layout_lines(layout: Layout, num_replicas: int, batch_size: int) -> list[str]:
    """Says which devices stand idle, in lines for the user; none if all have work."""
    across_replicas, across_data, *spare = layout.mesh.devices.shape
    idle = len(layout.devices) - across_replicas * across_data
    if not idle:
        return []
    what = "repeat the others' work" if spare else "stand idle"
    return [
        f"{idle} of {len(layout.devices)} devices {what}: {num_replicas} replicas go over "
        f"{across_replicas}, batches of {batch_size} over {across_data} "
        "(a multiple of the devices as config.data.batch_size uses them all)"
    ]


# -- processes -----------------------------------------------------------------------------------

# What tells a process which of how many it is; the names are JAX's own.
_COORDINATOR, _COUNT, _NUMBER = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
# "auto" where JAX can find that out by itself: TPU slices, SLURM, Open MPI.
_PROCESSES = "EMOJAX_PROCESSES"


def join_processes(environment: Mapping[str, str] | None = None) -> None:
    """Joins the other processes of a run, if the environment names any.

    To be called before anything else is asked of JAX. With ``EMOJAX_PROCESSES=auto`` JAX finds
    the others by itself (TPU slices, SLURM, Open MPI); otherwise ``JAX_COORDINATOR_ADDRESS``
    (host:port of process 0), ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID`` say so. Without them, or
    with a single process, nothing happens.

    Args:
        environment: the variables; the program's own by default.

    Raises:
        InputError: a variable is missing or not allowed, or the other processes do not come.
    """
    given = os.environ if environment is None else environment
    how = given.get(_PROCESSES, "")
    if how not in ("", "auto"):
        raise _wrong(_PROCESSES, how, "auto, or nothing")
    if how == "auto":
        _join()
        return
    missing = [name for name in (_COORDINATOR, _COUNT, _NUMBER) if not given.get(name)]
    if len(missing) == 3:
        return
    if missing:
        raise _wrong(missing[0], "nothing", f"a value, beside the other two of {_COORDINATOR}, ...")
    for name in (_COUNT, _NUMBER):
        if not given[name].isdecimal():
            raise _wrong(name, given[name], "a whole number")
    count, number = int(given[_COUNT]), int(given[_NUMBER])
    if number >= count:
        raise _wrong(_NUMBER, number, f"a number from 0 to {count - 1}, as {_COUNT} is {count}")
    if not given[_COORDINATOR].rpartition(":")[2].isdecimal():
        raise _wrong(_COORDINATOR, given[_COORDINATOR], "host:port of process 0")
    if count > 1:
        _join(coordinator_address=given[_COORDINATOR], num_processes=count, process_id=number)


def _join(**options: Any) -> None:
    # It would take SIGTERM for itself; see interruption.py, which does without it.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(**options)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            "The processes of the run did not find each other.",
            field=f"{_COORDINATOR}, {_COUNT}, {_NUMBER}, or {_PROCESSES}=auto",
            found=str(error).strip().splitlines()[0][:200],
            expected="every process started with the same address and count, and its own number",
            remedy="start them by a script of launch/, and see that they reach process 0's port",
        ) from error
    # On CPUs processes have to meet for the first time within half a minute.
    wait_for_all("the start")


def _wrong(name: str, found: object, expected: str) -> InputError:
    return InputError(
        "The environment does not say which process of a run this is.",
        field=name,
        found=found,
        expected=expected,
        remedy="start the processes by a script of launch/, or unset these variables",
    )


def have_joined() -> bool:
    """Returns True if this process is one of several of a run; starts no devices."""
    return jax.distributed.is_initialized()


# What JAX says when a process that it computes with is gone: on CPUs, on GPUs, and anywhere.
_LOST = (
    "gloo",
    "nccl",
    "coordination service",
    "coordinationservice",
    "heartbeat",
    "socket closed",
)


def lost_process(error: BaseException) -> LostProcess | None:
    """Translates an exception of JAX which means that another process is gone; else None."""
    if not have_joined() or not isinstance(error, jax.errors.JaxRuntimeError):
        return None
    text = str(error).strip()
    if not any(word in text.lower() for word in _LOST):
        return None
    return LostProcess(
        "Another process of the run ended, or does not answer.",
        field=f"process {jax.process_index()} of {jax.process_count()}",
        found=text.splitlines()[0][:200],
        expected="all processes, to the end of the run",
        remedy="see what the others say last, and start all of them again: the run continues from "
        "its last checkpoint",
    )


def is_primary() -> bool:
    """Returns True for the process that writes for the run: the first or the only one."""
    return jax.process_index() == 0


def agree(name: str, problem: BaseException | None = None) -> None:
    """Waits until all processes are here, and stops them all if the first one has a problem.

    For what process 0 does alone, such as writing: the others must not go on without it.

    Args:
        name: the name of this place in the program.
        problem: the problem of process 0; the others' is not looked at.

    Raises:
        BaseException: ``problem``, in process 0.
        InputError: process 0 had one, in the others.
    """
    if jax.process_count() > 1:
        sound = multihost_utils.broadcast_one_to_all(np.asarray(problem is None))
        if not is_primary() and not sound:
            raise InputError(
                "Process 0 of the run stopped.",
                field=name,
                found=f"an error there; this is process {jax.process_index()}",
                expected="no error",
                remedy="see what process 0 says",
            )
    if problem is not None:
        raise problem


def from_primary(number: int) -> int:
    """Returns the first process's number, below 2**62, in all processes."""
    if jax.process_count() == 1:
        return number
    halves = np.array([number >> 31, number & 0x7FFFFFFF], np.int32)
    high, low = multihost_utils.broadcast_one_to_all(halves)
    return int(high) << 31 | int(low)


def wait_for_all(name: str) -> None:
    """Waits until all processes are here, however long one of them takes.

    A process that ends early would be taken for lost.
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def start_devices() -> None:
    """Starts the devices that ``JAX_PLATFORMS`` asks for, or those that JAX finds.

    Raises:
        InputError: JAX cannot start them; a fault of the machine, not of a run or a store.
    """
    try:
        jax.process_index()
    # JAX raises a bare AssertionError where a GPU is asked for and its plugin is not installed.
    except (RuntimeError, AssertionError) as error:
        text = str(error).strip()
        asked = os.environ.get("JAX_PLATFORMS", "")
        raise InputError(
            "JAX cannot start the devices of this machine.",
            field="JAX_PLATFORMS",
            found=f"{asked or 'nothing'}: {text.splitlines()[0][:200] if text else 'not here'}",
            expected="a kind of device that is here and for which JAX is installed, such as cpu",
            remedy="unset JAX_PLATFORMS, or install JAX for these devices: pip install "
            '"jax[cuda12]" or "jax[tpu]"',
        ) from error


def use_compilation_cache() -> None:
    """Starts the devices, and keeps compiled programs so that the second run starts at once.

    The folder is ``JAX_COMPILATION_CACHE_DIR`` if set, else ``~/.cache/emojax/compiled``.

    Raises:
        InputError: see ``start_devices``.
    """
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        folder = Path.home() / ".cache" / "emojax" / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    start_devices()
