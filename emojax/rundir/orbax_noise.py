"""Keeps off the screen what Orbax logs: warnings about its options, and failures it also raises.

Orbax writes arrays in the background. When one cannot be written it raises, which
``checkpoint.py`` reports in a few lines, and closes its event loop. The writes of the other arrays
then end in threads of their own, where each prints a traceback, also after the program has said
what is wrong. (Reads leave nothing behind, see ``stored_arrays.py``.)
"""

from __future__ import annotations

import logging
import sys
from typing import Any

_LATE = "Event loop is closed"
_UNHEARD = "was never retrieved"


def silence() -> None:
    """Hides such messages from now on; exceptions of Orbax are still raised."""
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


def _not_orbax(record: logging.LogRecord) -> bool:
    """Returns False, which hides it, for what Orbax logs.

    Errors are always hidden, because they are also raised. The rest is shown where emojax itself
    is to print debug messages. A notebook that opens a run reads none of it: there each opening
    would print three warnings that a reader of checkpoints writes none.
    """
    if "orbax" not in record.pathname:
        return True
    return record.levelno < logging.ERROR and logging.getLogger("emojax").isEnabledFor(
        logging.DEBUG
    )


def _not_unheard(record: logging.LogRecord) -> bool:
    return _UNHEARD not in record.getMessage()
