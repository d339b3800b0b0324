"""Decides which lines a command shows; every console and progress bar asks this module.

The level is that of Python's logger "emojax", so a program that uses the package as a library
sets it as it sets others: ``logging.getLogger("emojax").setLevel(logging.WARNING)``.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

from rich.console import Console

# Name -> the least important kind of line that is shown.
LEVELS = {
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
}
_LOGGER = logging.getLogger("emojax")
# The beginning of every warning that a command prints.
_WARNING = "warning:"


def set_level(name: str) -> None:
    """Shows lines from this level on; ``name`` is a key of ``LEVELS``."""
    _LOGGER.setLevel(LEVELS[name])


@contextlib.contextmanager
def level(name: str | None) -> Iterator[None]:
    """Shows lines from this level on within a block; None changes nothing."""
    before = _LOGGER.level
    if name is not None:
        set_level(name)
    try:
        yield
    finally:
        _LOGGER.setLevel(before)


def shown(line: str = "") -> bool:
    """Tells whether a line is shown at the current level."""
    kind = logging.WARNING if line.startswith(_WARNING) else logging.INFO
    return (_LOGGER.level or logging.INFO) <= kind


def console(*, stderr: bool = False, wide: bool = False, asked: bool = False) -> Console:
    """Returns a console that is silent if only warnings or errors are to be shown.

    Args:
        stderr: if True, writes to standard error instead of standard output.
        wide: if True, a file or a pipe gets long lines that are not folded.
        asked: if True, the output is the purpose of the command, so it is always shown.
    """
    quiet = not asked and not shown()
    plain = Console(stderr=stderr, quiet=quiet)
    if not wide or plain.is_terminal or os.environ.get("COLUMNS"):
        return plain
    return Console(stderr=stderr, quiet=quiet, width=200)


def say(line: object) -> None:
    """Prints one line on standard output, if the current level shows it."""
    if shown(str(line)):
        print(line)
