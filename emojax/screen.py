"""Decides which lines a command shows; every console and progress bar asks here.

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
# How a line that tells of a danger begins, here and in all that is printed.
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
    """A console that is silent where nothing but warnings or errors is wanted.

    Args:
        stderr: standard error instead of standard output.
        wide: a file or a pipe gets lines that need no folding.
        asked: what it shows is what the command was asked for, so it is never silent.
    """
    quiet = not asked and not shown()
    plain = Console(stderr=stderr, quiet=quiet)
    if not wide or plain.is_terminal or os.environ.get("COLUMNS"):
        return plain
    return Console(stderr=stderr, quiet=quiet, width=200)


def say(line: object) -> None:
    """Prints one line on standard output, if it is shown."""
    if shown(str(line)):
        print(line)
