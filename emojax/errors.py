"""Errors that are not bugs of emojax, and the exit status of a command for each.

    0    success
    1    wrong flags, reported by their parser; or a bug of emojax, with its traceback
    2    bad input: ``InputError``
    74   the machine failed and the input was right: ``MachineError``
    75   stopped by SIGTERM with everything saved; the same command continues: ``Stopped``
    76   another process of the run was lost: ``LostProcess``
    130  interrupted, as by Ctrl-C: ``Stopped``, or ``KeyboardInterrupt`` before training

``emojax.commands.cli`` turns exceptions into these. 74 and 75 are EX_IOERR and EX_TEMPFAIL
of sysexits.h.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

INTERRUPTED = 130

# Error numbers of a write for which the machine, not the input, is at fault. EFBIG is a limit
# on the size of files.
_MACHINE = (
    errno.ENOSPC,
    errno.EROFS,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EACCES,
    errno.EPERM,
)
# Those of them that more space resolves.
_SPACE = (errno.ENOSPC, errno.EDQUOT)
# Reading never raises these, so they always mean a failed write.
_WRITES_ALONE = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG)


def closest(word: object, known: Iterable[str]) -> str | None:
    """Returns a remedy that names the known word nearest to a misspelt one, or None."""
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f"did you mean {close[0]}?" if close else None


class InputError(Exception):
    """Bad input. The message says where it is, what was found, what was expected and what to do.

    Commands print it without a traceback and exit with its status. Any other exception that
    escapes is a bug of emojax and keeps its traceback.

    Attributes:
        status: the exit status of the command.

    Args:
        summary: one sentence that says what is wrong.
        file: the file or folder concerned, if any.
        field: the stream, label, option or record concerned, if any.
        found: the value or content that is there.
        expected: the value or content that should be there.
        remedy: an action of the user that resolves it.
    """

    status: ClassVar[int] = 2

    def __init__(
        self,
        summary: str,
        *,
        file: str | Path | None = None,
        field: str | None = None,
        found: object = None,
        expected: object = None,
        remedy: str | None = None,
    ) -> None:
        self.summary = summary
        rows = {
            "file": file,
            "field": field,
            "found": found,
            "expected": expected,
            "remedy": remedy,
        }
        self.details = {key: str(value) for key, value in rows.items() if value is not None}
        super().__init__(summary)

    def within(self, file: str | Path, remedy: str) -> InputError:
        """Returns this error with the file and, if it has no remedy of its own, with this one.

        It has this error's traceback and cause, so that ``raise error.within(...) from
        error.__cause__`` shows the message once.
        """
        details: dict[str, Any] = {"file": file, "remedy": remedy} | self.details
        return InputError(self.summary, **details).with_traceback(self.__traceback__)

    def __str__(self) -> str:
        """Returns the summary and one indented line for each detail that is known."""
        lines = [self.summary]
        lines += [f"  {key + ':':<10}{value}" for key, value in self.details.items()]
        return "\n".join(lines)


class MachineError(InputError):
    """A failure of the machine: a full disk, a read-only folder or a quota; the input is right.

    Takes the arguments of ``InputError``.
    """

    status = 74


class LostProcess(InputError):  # noqa: N818 - it is a process that was lost, not an error
    """The loss of another process of the run. Takes the arguments of ``InputError``."""

    status = 76


class Stopped(Exception):  # noqa: N818 - a request, not an error
    """The end of a run that was asked to stop, has saved everything and can be continued.

    Attributes:
        status: the exit status of the command: 75, or 130 for an interruption at the keyboard.

    Args:
        signal_name: the signal, such as "SIGTERM".
        step: the step that was saved.
        workdir: the folder of the run.
    """

    def __init__(self, signal_name: str, step: int, workdir: str | Path) -> None:
        self.signal_name = signal_name
        self.step = step
        self.workdir = Path(workdir)
        self.status = INTERRUPTED if signal_name == "SIGINT" else 75
        super().__init__(
            f"stopped by {signal_name} at step {step}, saved; the same command continues"
        )


def machine_error(
    error: BaseException,
    file: str | Path | None,
    what: str,
    *,
    kept: str = "",
    writes_alone: bool = False,
) -> MachineError | None:
    """Returns the error of a failed write if the machine is at fault, else None.

    Libraries that write (Orbax, TensorStore) put the system's message into exceptions of their
    own, so the text of the exception and of its causes is searched, too.

    Args:
        error: the exception that was caught.
        file: the file or folder that was written.
        what: its name in the message, such as "The checkpoint".
        kept: a phrase that says what is still safe on disk; added to the remedy.
        writes_alone: if True, ignores failures that reading can meet as well, such as a refused
            permission.
    """
    number = _errno(error, _WRITES_ALONE if writes_alone else _MACHINE)
    if number is None:
        return None
    if number in _SPACE:
        remedy = "free some space there, or choose another folder"
    elif number == errno.EFBIG:
        remedy = "raise the limit on the size of files (ulimit -f), or choose another folder"
    else:
        remedy = "make the folder writable, or choose another one"
    return MachineError(
        f"{what} could not be written.",
        file=file,
        found=os.strerror(number),
        expected="a writable folder with free space",
        remedy=f"{remedy}; {kept}" if kept else remedy,
    )


@contextlib.contextmanager
def writing(file: str | Path | None, what: str, *, kept: str = "") -> Iterator[None]:
    """Raises a failed write within its block as ``MachineError``; see ``machine_error``.

    Args:
        file: the file or folder that is written.
        what: its name in the message, such as "The checkpoint".
        kept: a phrase that says what is still safe on disk.

    Raises:
        MachineError: the machine is at fault. Other exceptions pass unchanged.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        failed = machine_error(error, file, what, kept=kept)
        if failed is None:
            raise
        raise failed from error


def _errno(error: BaseException, known: tuple[int, ...]) -> int | None:
    """Finds the known error number in an exception, its text or one of its causes."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, OSError) and cause.errno is not None:
            if cause.errno in known:
                return cause.errno
        else:
            text = str(cause)
            for number in known:
                if os.strerror(number) in text:
                    return number
        cause = cause.__cause__ or cause.__context__
    return None
