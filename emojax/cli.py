"""How every command starts: parse flags, run, and tell bad input apart from our bugs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from absl import app

from emojax.errors import InputError


def run(main: Callable[[], None]) -> None:
    """Parses absl flags and calls ``main``.

    ``InputError`` is printed on stderr without a traceback and ends the program with
    status 2; unknown flags end it with absl's usage message and status 1. Any other
    exception keeps its traceback, because it is a bug.
    """

    def checked(argv: Sequence[str]) -> None:
        try:
            if len(argv) > 1:
                raise InputError(
                    "This command takes only --flags.",
                    field="arguments",
                    found=" ".join(argv[1:]),
                    expected="--name=value",
                    remedy="run it with --help for the list of flags",
                )
            main()
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)

    app.run(checked)
