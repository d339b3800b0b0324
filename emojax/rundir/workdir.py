"""Locks a run's folder, and checks that it can be written to.

Two runs in one folder would overwrite each other's checkpoints and numbers. So a run holds the lock
``.lock`` from before its first write to its end. The kernel ties the lock to the open file: it ends
with the process, in whatever way that ends, and the file that a killed run leaves behind is not
locked. Reading commands (evaluate, predict, report) need no lock.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from emojax.core.devices import agree, is_primary
from emojax.errors import InputError, MachineError, writing
from emojax.file_writing import replacing

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = ".lock"
# The file with the summary line of the last training in the folder.
SUMMARY_FILE = "summary.json"
_UNTOUCHED = "what was saved there before is untouched"

# Locked folder -> [descriptor, number of holders]. A process may take its own lock again.
_HELD: dict[Path, list[int]] = {}


class WorkdirLock:
    """Locks a run's folder against other runs while its block lasts.

    The same process may take it again inside, as ``emojax.train`` and ``Trainer`` do. A process
    that is forked from this one does not hold it. On systems without ``fcntl`` (Windows) the folder
    is checked but not locked.

    Args:
        workdir: the folder; created if needed, and removed again if it is empty at the end.
        primary: True for the first process of a run, which holds the lock; False for the others.

    Raises:
        InputError: on entering, another run holds the lock.
        MachineError: on entering, the folder cannot be written to.
    """

    def __init__(self, workdir: str | Path, *, primary: bool = True) -> None:
        self.workdir = Path(workdir).resolve()
        self._primary = primary
        self._made = False

    def __enter__(self) -> Self:
        """Takes the lock; raises the errors that the class lists."""
        if not self._primary:
            return self
        held = _HELD.get(self.workdir)
        if held:
            held[1] += 1
            return self
        with writing(self.workdir, "The run's folder", kept=_UNTOUCHED):
            self._made = not self.workdir.exists()
            self.workdir.mkdir(parents=True, exist_ok=True)
            descriptor = self._open()
            try:
                _describe(descriptor)
            except OSError:
                self._release(descriptor)
                raise
        _HELD[self.workdir] = [descriptor, 1]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Releases the lock and removes its file."""
        held = _HELD.get(self.workdir)
        if held is None or not self._primary:
            return
        held[1] -= 1
        if not held[1]:
            del _HELD[self.workdir]
            self._release(held[0])

    def _open(self) -> int:
        """Opens and locks the lock file; returns its descriptor."""
        path = self.workdir / LOCK_FILE
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                if fcntl is not None:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = _read(descriptor)
                os.close(descriptor)
                raise _taken(self.workdir, holder) from None
            except OSError:
                # Some network file systems have no locks; the run goes on without one.
                return descriptor
            # The former holder may have removed the file between our opening and our locking it.
            if _same_file(descriptor, path):
                return descriptor
            os.close(descriptor)

    def _release(self, descriptor: int) -> None:
        path = self.workdir / LOCK_FILE
        # Removed while it is still locked, so it is never the lock of another run.
        if _same_file(descriptor, path):
            path.unlink(missing_ok=True)
        os.close(descriptor)
        if self._made and self.workdir.is_dir() and not any(self.workdir.iterdir()):
            self.workdir.rmdir()


@contextlib.contextmanager
def held(workdir: str | Path) -> Iterator[None]:
    """Locks a run's folder on its first process; the other processes wait for the lock.

    Args:
        workdir: the folder of the run.

    Raises:
        InputError: another run holds the lock; in the other processes: the first one failed.
        MachineError: the folder cannot be written to.
    """
    with contextlib.ExitStack() as opened:
        problem = None
        try:
            opened.enter_context(WorkdirLock(workdir, primary=is_primary()))
        except InputError as error:
            problem = error
        agree("--workdir", problem)
        yield


def empty_folder(workdir: Path) -> None:
    """Deletes the content of a run's folder, except for the lock, which the caller holds.

    Raises:
        InputError: another run holds the lock.
        MachineError: a file cannot be deleted.
    """
    with WorkdirLock(workdir), writing(workdir, "The run's folder"):
        for path in Path(workdir).iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != LOCK_FILE:
                path.unlink()


def replace_text(path: Path, text: str, what: str) -> None:
    """Writes a small file in one step: a kill leaves the old one or the new one.

    Args:
        path: the file.
        text: the whole content of the file.
        what: its name in a message, as in "The summary".

    Raises:
        MachineError: it cannot be written; the old one is still there.
    """
    with writing(path, what), replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _describe(descriptor: int) -> None:
    """Writes into the lock file which process holds it."""
    holder = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": " ".join(sys.argv),
    }
    line = (json.dumps(holder) + "\n").encode()
    os.ftruncate(descriptor, 0)
    if os.pwrite(descriptor, line, 0) < len(line):
        raise MachineError(
            "The run's folder could not be written.",
            found="a write that was cut short",
            expected="space left on the disk",
            remedy="free some space, or choose another --workdir",
        )


def _read(descriptor: int) -> dict[str, Any]:
    try:
        holder = json.loads(os.pread(descriptor, 1 << 16, 0))
    except ValueError:
        # The other run has locked the file but not written to it yet.
        return {}
    return holder if isinstance(holder, dict) else {}


def _taken(workdir: Path, holder: dict[str, Any]) -> InputError:
    known = "host {host}, process {pid}, since {since}: {command}"
    words = {name: holder.get(name, "unknown") for name in ("host", "pid", "since", "command")}
    return InputError(
        "Another run is active in this folder.",
        file=workdir,
        field="--workdir",
        found=known.format(**words),
        expected="one run at a time",
        remedy="wait for it, stop it (kill PID lets it save first), or choose another --workdir",
    )


def _forget() -> None:
    """Closes the locks in a forked process, which does not hold those of its parent."""
    for descriptor, _ in _HELD.values():
        os.close(descriptor)
    _HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
