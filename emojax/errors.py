"""The one exception that means "your input, not our bug"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


def closest(word: object, known: Iterable[str]) -> str | None:
    """A remedy that names the known word nearest to a misspelt one, or None."""
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f"did you mean {close[0]}?" if close else None


class InputError(Exception):
    """Bad input, told on one screen: where, what was found, what was expected, what to do.

    Entry points print it without a traceback and exit with status 2; anything else that
    escapes is a bug of ours and keeps its traceback.

    Args:
        summary: one sentence.
        file: the file or folder concerned, if any.
        field: the stream, label, option or record concerned, if any.
        found: what is there.
        expected: what should be there.
        remedy: what the user can do about it.
    """

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

    def __str__(self) -> str:
        """The summary and one indented line for each detail that is known."""
        lines = [self.summary]
        lines += [f"  {key + ':':<10}{value}" for key, value in self.details.items()]
        return "\n".join(lines)


class Stopped(Exception):  # noqa: N818 (nothing went wrong)
    """A training was asked to stop, and has saved where it stands.

    Args:
        signal_name: what asked for it, such as SIGTERM.
        step: of the newest checkpoint.
        workdir: of the run.
    """

    def __init__(self, signal_name: str, *, step: int, workdir: str | Path) -> None:
        self.signal_name, self.step, self.workdir = signal_name, step, workdir
        super().__init__(f"stopped by {signal_name} at step {step}, saved in {workdir}")
