"""Stops a training on request: after SIGTERM or Ctrl-C it saves, then ends.

Clusters and clouds send SIGTERM some time before they take a machine away. The training then ends
the step under way, saves where it stands within the epoch, and leaves. Where there are several
processes, they vote with every step, so that all of them stop at the same one when one has got the
signal. (JAX's own ``reached_preemption_sync_point`` counts steps of one kind, and Orbax asks it
with its own; asked between batches of a validation as well, it never agrees. So it is off.)
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

_NAMES = {0: "", 1: "SIGINT", 2: "SIGTERM"}


class StopRequest:
    """Records requests to stop the training; a context manager for the main thread.

    Within its block, SIGTERM and the first SIGINT (Ctrl-C) are requests; a second Ctrl-C interrupts
    at once. Outside the main thread there are no requests.

    Attributes:
        seen: True once ``requested`` has returned True.
        name: the name of the signal, once there is one.
    """

    def __init__(self) -> None:
        self.seen = False
        self.name = ""
        self._votes: _Votes | None = None
        self._before: dict[signal.Signals, Any] = {}

    def requested(self) -> bool:
        """Returns True to stop. All processes must ask equally often, and get the same answer."""
        if self._votes is not None and not self.seen:
            name = self._votes.cast(self.name)
            self.seen, self.name = bool(name), name or self.name
        elif self._votes is None:
            self.seen = bool(self.name)
        return self.seen

    def check(self) -> None:
        """Raises ``StopTraining`` if a stop is requested."""
        if self.requested():
            raise StopTraining

    def __enter__(self) -> StopRequest:
        """Takes the signals over, and forgets the requests of an earlier ``with``."""
        self.seen, self.name = False, ""
        self._votes = _Votes() if jax.process_count() > 1 else None
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Gives the signals back."""
        for number, handler in self._before.items():
            # A handler that Python did not set cannot be given back; JAX has one in C++.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.name and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name
        again = "; Ctrl-C again interrupts at once" if number == signal.SIGINT else ""
        # Not print, whose buffer the signal may have interrupted.
        os.write(2, f"{self.name}: stopping after this step, to save{again}\n".encode())


class _Votes:
    """Shares the signals that processes have received; an answer is that of the vote before.

    By then the vote before is over, so no process waits for the others at each step.
    """

    def __init__(self) -> None:
        mesh = Mesh(np.array(jax.devices()), ("device",), axis_types=(AxisType.Auto,))
        self._each = NamedSharding(mesh, PartitionSpec("device"))
        self._count = mesh.size
        self._most = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._last: jax.Array | None = None

    def cast(self, name: str) -> str:
        """Votes for a signal, or for none; returns that of the vote before, of any process."""
        number = next(number for number, known in _NAMES.items() if known == name)

        def mine(index: tuple[slice, ...] | None) -> np.ndarray:
            return np.full(1, number, np.int32)

        last, self._last = (
            self._last,
            self._most(jax.make_array_from_callback((self._count,), self._each, mine)),
        )
        return "" if last is None else _NAMES[int(last)]


class StopTraining(Exception):  # noqa: N818
    """A stop was requested in the middle of a validation, which begins anew when resumed."""
