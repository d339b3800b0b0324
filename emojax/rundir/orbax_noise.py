"""Keeps off the screen what Orbax says besides raising: tracebacks, and results that come late.

Orbax reads and writes arrays in the background. When one fails it raises, which ``checkpoint.py``
tells in a few lines; the threads and coroutines of the other arrays then print a traceback each,
also after the program has said what is wrong.
"""

from __future__ import annotations

import gc
import logging
import sys
import warnings
from typing import Any

_LATE = "Event loop is closed"
_UNHEARD = "was never retrieved"


def silence() -> None:
    """Hides such messages from now on; everything that is raised still is."""
    for name, shows in (("absl", _not_orbax), ("asyncio", _not_unheard)):
        logger = logging.getLogger(name)
        if shows not in logger.filters:
            logger.addFilter(shows)
    before = sys.unraisablehook
    if getattr(before, "__name__", "") == "without_late_results":
        return

    def without_late_results(unraisable: Any) -> None:
        if str(unraisable.exc_value) != _LATE:
            before(unraisable)

    sys.unraisablehook = without_late_results


def collect_unread() -> None:
    """Drops what a failed read left waiting, without the warnings that this brings.

    The exception and its frames must be gone already, because they hold it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


def _not_orbax(record: logging.LogRecord) -> bool:
    """False, which hides it, for what Orbax tells of its own failures."""
    return record.levelno < logging.ERROR or "orbax" not in record.pathname


def _not_unheard(record: logging.LogRecord) -> bool:
    return _UNHEARD not in record.getMessage()
