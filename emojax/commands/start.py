"""Starts a command that computes: joins the run's other processes, and keeps compiled programs."""

from __future__ import annotations

from emojax import screen
from emojax.commands import cli
from emojax.core.devices import (
    have_joined,
    is_primary,
    join_processes,
    lost_process,
    use_compilation_cache,
)


def start() -> None:
    """Joins the other processes of the run, if the environment names any.

    Processes other than the first print only errors.

    Raises:
        InputError: the processes do not find each other.
    """
    join_processes()
    use_compilation_cache()
    if have_joined():
        cli.run_in_processes(primary=is_primary(), lost=lost_process)
        if not is_primary():
            screen.set_level("error")
