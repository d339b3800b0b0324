"""How every command starts: parse flags, run, and tell bad input apart from our bugs."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags
from rich.console import Console

from emojax.errors import InputError


def run(main: Callable[..., None], *, arguments: bool = False) -> None:
    """Parses absl flags and calls ``main``.

    With ``arguments`` the words that are no flags are passed to ``main``; without, they are
    refused.

    ``InputError`` is printed on stderr without a traceback and ends the program with
    status 2, and so is a ``--config.key`` that the configuration does not have; unknown
    flags end it with absl's usage message and status 1. Any other exception keeps its
    traceback, because it is a bug.
    """

    def checked(argv: Sequence[str]) -> None:
        # Libraries log every file they touch; --verbosity brings that back.
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.ERROR)
        try:
            if len(argv) > 1 and not arguments:
                raise InputError(
                    "This command takes only --flags.",
                    field="arguments",
                    found=" ".join(argv[1:]),
                    expected="--name=value",
                    remedy="run it with --help for the list of flags",
                )
            main(*argv[1:] if arguments else ())
        except InputError as error:
            _stop(error)
        except KeyboardInterrupt:
            print(
                "interrupted; called again, training continues where it was",
                file=sys.stderr,
            )
            sys.stdout.flush()
            sys.stderr.flush()
            # Everything is closed by now, but readers and compilers may have threads under way
            # that abort an orderly end of the interpreter.
            os._exit(130)

    app.run(checked, flags_parser=_parse_flags)


def console() -> Console:
    """For tables: as wide as the terminal; a file or a pipe gets lines that need no folding."""
    plain = Console()
    return plain if plain.is_terminal or os.environ.get("COLUMNS") else Console(width=200)


def folder(flag: str, value: str) -> Path:
    """The folder a flag names, which need not exist yet.

    Raises:
        InputError: something that is not a folder is there.
    """
    path = Path(value)
    if path.exists() and not path.is_dir():
        raise InputError(
            "This is not a folder.",
            file=path,
            field=f"--{flag}",
            found="a file",
            expected="a folder, or nothing yet",
        )
    return path


def read_config(flag: str) -> ConfigDict:
    """The configuration that a flag names, with its overrides.

    Raises:
        InputError: the file cannot be read.
    """
    config: Any = flags.FLAGS[flag].value
    try:
        config.keys()
    except OSError as error:
        # config_flags keeps a file that cannot be read for the first use of its value.
        raise InputError(
            "The configuration cannot be read.",
            file=config_flags.get_config_filename(flags.FLAGS[flag]),
            field=f"--{flag}",
            found=str(error.__cause__ or error).splitlines()[-1].strip(),
            expected="a Python file that defines get_config(), as in configs/",
        ) from error
    return config


def _parse_flags(argv: list[str]) -> list[str]:
    """Parses flags; a configuration file is executed and overridden meanwhile."""
    try:
        return app.parse_flags_with_usage(argv)
    except InputError as error:
        _stop(error)
    except (AttributeError, KeyError) as error:
        wrong = _unknown_key(argv, str(error))
        if wrong is None:
            raise
        _stop(wrong)


def _unknown_key(argv: Sequence[str], message: str) -> InputError | None:
    """What ml_collections means by its AttributeError, if an override caused it."""
    # The suggestion may name another key that was given, and given rightly.
    suggestion = re.search(r'Did you mean "([^"]+)" instead of "([^"]+)"', message)
    complaint = f'"{suggestion[2]}"' if suggestion else message
    for argument in argv[1:]:
        flag, _, value = argument.partition("=")
        keys = flag.lstrip("-").split(".")[1:]
        named = [key for key in keys if re.search(rf"""["']{re.escape(key)}["']""", complaint)]
        if named or (keys and complaint.rstrip("\"'").endswith(".".join(keys))):
            return InputError(
                "The configuration has no such key.",
                field=flag,
                found=value,
                expected="a key that the file given as --config defines",
                remedy=f"did you mean {suggestion[1]!r}?"
                if suggestion
                else "look the key up in that file",
            )
    return None


def _stop(error: InputError) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
