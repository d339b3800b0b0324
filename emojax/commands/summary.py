"""The last line of a long command: its results and costs as JSON, for programs to read."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from emojax.ops.json_values import json_values

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

PREFIX = "summary: "


class Summary:
    """Collects the facts of one call of a command; ``text`` returns them as JSON.

    The clock starts when the object is made.

    Args:
        command: the command's name, as after ``python -m``.
    """

    def __init__(self, command: str) -> None:
        self._command = command
        self._started = time.monotonic()
        self._facts: dict[str, Any] = {}
        self._devices: Sequence[Any] = ()
        self._keep: Callable[[str], None] | None = None

    def tell(self, facts: Mapping[str, Any]) -> None:
        """Adds facts of the command; a later fact replaces an earlier one of the same name."""
        self._facts |= facts

    def use_devices(self, devices: Sequence[Any]) -> None:
        """Notes the ``jax.Device`` objects that the command computes on."""
        self._devices = tuple(devices)

    def keep(self, write: Callable[[str], None]) -> None:
        """Also passes the JSON to ``write`` when the command ends."""
        self._keep = write

    def end(self, status: str, exit_code: int, error: str | None) -> None:
        """Prints the line, and passes it on if ``keep`` was called.

        Args:
            status: "done", "stopped" or "failed".
            exit_code: the exit status of the process.
            error: one sentence that says what went wrong, or None.

        Raises:
            InputError: the function given to ``keep`` cannot write it. The line is printed before.
        """
        text = self.text(status, exit_code, error)
        print(f"{PREFIX}{text}", flush=True)
        if self._keep is not None:
            self._keep(text + "\n")

    def text(self, status: str, exit_code: int, error: str | None) -> str:
        """Returns the JSON on one line; the arguments are those of ``end``."""
        content = {
            "command": self._command,
            "status": status,
            "exit_code": exit_code,
            "error": error,
            "seconds": round(time.monotonic() - self._started, 3),
            "cpu_seconds": round(_cpu_seconds(), 3),
            "peak_memory_bytes": _peak_memory(),
            "devices": _about(self._devices),
            **self._facts,
        }
        return json.dumps(json_values(content), allow_nan=False)


def _cpu_seconds() -> float:
    """Returns the user and system time of the process and of its children that have ended."""
    if resource is None:
        return time.process_time()
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _peak_memory() -> int | None:
    """Returns the peak of the process's host memory in bytes; None where it is not known."""
    try:
        # The peak of this program alone; that of getrusage includes what the parent held at the
        # start.
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    except (OSError, ValueError, IndexError):
        pass
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts this number in bytes, other systems in KiB.
    return peak if sys.platform == "darwin" else 1024 * peak


def _about(devices: Sequence[Any]) -> dict[str, Any] | None:
    if not devices:
        return None
    peaks = []
    for device in devices:
        # Devices of other processes and CPUs have no statistics.
        stats = _memory_stats(device)
        if "peak_bytes_in_use" in stats:
            peaks.append(int(stats["peak_bytes_in_use"]))
    return {
        "kind": str(devices[0].device_kind),
        "count": len(devices),
        "peak_memory_bytes": max(peaks, default=None),
    }


def _memory_stats(device: Any) -> Mapping[str, Any]:
    try:
        return device.memory_stats() or {}
    except Exception:
        # A broken device must not prevent the summary.
        return {}


def path_text(path: str | Path) -> str:
    """Returns a path for a summary: absolute, so that it is valid in any folder."""
    return str(Path(path).absolute())
