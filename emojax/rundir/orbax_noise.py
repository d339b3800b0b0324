"""Keeps the tracebacks that Orbax prints besides raising off the screen.

Orbax writes arrays in the background. When one cannot be written it raises, which
``checkpoint.py`` reports in a few lines; the threads of the other arrays print a traceback each,
also after the program has said what is wrong.
"""

from __future__ import annotations

import logging

_UNHEARD = "was never retrieved"


def silence() -> None:
    """Hides Orbax's own log of its failures from now on; its exceptions are still raised."""
    for name, shows in (("absl", _not_orbax), ("asyncio", _not_unheard)):
        logger = logging.getLogger(name)
        if shows not in logger.filters:
            logger.addFilter(shows)


def _not_orbax(record: logging.LogRecord) -> bool:
    """Returns False, which hides it, for an error that Orbax logs."""
    return record.levelno < logging.ERROR or "orbax" not in record.pathname


def _not_unheard(record: logging.LogRecord) -> bool:
    return _UNHEARD not in record.getMessage()
