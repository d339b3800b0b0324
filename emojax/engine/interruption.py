"""Stopping a training on request: SIGTERM and Ctrl-C let it save before it ends.

Clusters and clouds send SIGTERM some time before they take a machine away. The training then ends
the step under way, saves where it stands within the epoch, and leaves. Where there are several
processes, JAX's coordination service tells all of them when one has got the signal, and makes them
stop at the same step.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import jax
from jax.experimental import multihost_utils


class StopRequest:
    """Whether somebody wants the training to stop. Use in a ``with``, from the main thread.

    Inside it, SIGTERM and the first SIGINT (Ctrl-C) are requests; a second Ctrl-C interrupts at
    once. In another thread than the main one there are no requests.

    Attributes:
        seen: whether ``requested`` has said so.
        name: of the signal, once there is one.
    """

    def __init__(self) -> None:
        self.seen = False
        self.name = ""
        self._asked = 0
        self._before: dict[signal.Signals, Any] = {}

    def requested(self) -> bool:
        """Whether to stop. All processes have to ask equally often, and get the same answer."""
        several = jax.process_count() > 1
        if several and not self.seen:
            # SIGTERM is caught by JAX then, from which the other processes hear of it.
            self.seen = multihost_utils.reached_preemption_sync_point(self._asked)
            self.name = "SIGTERM" if self.seen else ""
            self._asked += 1
        elif not several:
            self.seen = bool(self.name)
        return self.seen

    def check(self) -> None:
        """Raises ``StopTraining`` if a stop is requested."""
        if self.requested():
            raise StopTraining

    def __enter__(self) -> StopRequest:
        """Takes the signals over."""
        if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
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
            signal.signal(number, handler)
        self._before = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.name and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name
        again = "; Ctrl-C again interrupts at once" if number == signal.SIGINT else ""
        # Not print, whose buffer the signal may have interrupted.
        os.write(2, f"{self.name}: stopping after this step, to save{again}\n".encode())


class StopTraining(Exception):  # noqa: N818
    """A stop was requested in the middle of a validation, which begins anew when resumed."""
