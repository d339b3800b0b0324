"""Errors that are not our bugs, and the status that a command then ends with.

    0    done
    1    wrong flags, told by their parser; or a bug of ours, with its traceback
    2    bad input: ``InputError``
    74   the machine failed, and the input was right: ``MachineError``
    75   stopped by SIGTERM with everything saved, call again to continue: ``Stopped``
    76   another process of the run was lost: ``LostProcess``
    130  interrupted, as by Ctrl-C: ``Stopped``, or ``KeyboardInterrupt`` before training

``emojax.commands.cli`` is what turns exceptions into these. 74 and 75 are EX_IOERR and EX_TEMPFAIL
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

# What a write says when the machine, not the input, is at fault. EFBIG is a limit of the user's
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
# Of those, what can be helped by more space.
_SPACE = (errno.ENOSPC, errno.EDQUOT)
# Reading never meets these, so they need no word from who was writing.
_WRITES_ALONE = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG)


def closest(word: object, known: Iterable[str]) -> str | None:
    """A remedy that names the known word nearest to a misspelt one, or None."""
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f"did you mean {close[0]}?" if close else None


class InputError(Exception):
    """Bad input, told on one screen: where, what was found, what was expected, what to do.

    Entry points print it without a traceback and exit with its status; anything else that
    escapes is a bug of ours and keeps its traceback.

    Attributes:
        status: that the command ends with.

    Args:
        summary: one sentence.
        file: the file or folder concerned, if any.
        field: the stream, label, option or record concerned, if any.
        found: what is there.
        expected: what should be there.
        remedy: what the user can do about it.
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
        """The same, about this file and with this remedy where it tells none of its own."""
        details: dict[str, Any] = {"file": file, "remedy": remedy} | self.details
        return InputError(self.summary, **details)

    def __str__(self) -> str:
        """The summary and one indented line for each detail that is known."""
        lines = [self.summary]
        lines += [f"  {key + ':':<10}{value}" for key, value in self.details.items()]
        return "\n".join(lines)


class MachineError(InputError):
    """The disk is full, the folder read-only, a quota reached; nothing is wrong with the input.

    Takes what ``InputError`` takes.
    """

    status = 74


class LostProcess(InputError):  # noqa: N818 - it is a process that was lost, not an error
    """Another process of the same run ended or does not answer. Takes what ``InputError`` takes."""

    status = 76


class Stopped(Exception):  # noqa: N818 - somebody asked for it
    """A run was asked to stop, has saved everything and can be continued.

    Attributes:
        status: that the command ends with: 75, or 130 for an interruption at the keyboard.

    Args:
        signal_name: such as "SIGTERM".
        step: that was saved.
        workdir: where.
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

    Libraries that write (Orbax, TensorStore) put the system's words into exceptions of their
    own, so the text of the exception and of its causes is looked at, too.

    Args:
        error: that was caught.
        file: what was written.
        what: for people, as in "The checkpoint".
        kept: what the user need not fear for, added to the remedy.
        writes_alone: leaves out what reading may meet as well, such as a refused permission.
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
        expected="a folder that can be written to, with space left",
        remedy=f"{remedy}; {kept}" if kept else remedy,
    )


@contextlib.contextmanager
def writing(file: str | Path | None, what: str, *, kept: str = "") -> Iterator[None]:
    """Tells a failed write within its block as ``MachineError``; see ``machine_error``.

    Args:
        file: what is written.
        what: for people, as in "The checkpoint".
        kept: what the user need not fear for.

    Raises:
        MachineError: the machine is at fault. Other exceptions pass as they are.
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
