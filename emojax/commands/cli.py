"""Starts and ends every command: levels of output, exit codes, the summary line."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging
from rich.console import Console

from emojax import screen
from emojax.commands.command_flags import Flags, parse_flags, read_config
from emojax.commands.summary import Summary, path_text
from emojax.errors import INTERRUPTED, InputError, Stopped, machine_error, writing

__all__ = [
    "Command", "Flags", "console", "folder", "keep_summary", "read_config",
    "run_in_processes", "say", "tell", "use_devices",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Process:
    """One of several processes of a run."""

    primary: bool
    lost: Callable[[BaseException], InputError | None]


# The summary of the command that runs now (None if it prints none), and its process in a run of
# several processes (None otherwise).
_SUMMARY: Summary | None = None
_PROCESS: _Process | None = None


@dataclasses.dataclass(frozen=True)
class Command:
    """A command: its function and its flags.

    Each run gets flags of its own, so that any number of commands can be imported into a process
    and called there, one after another.

    Attributes:
        main: the function of the command; called with the parsed flags, as ``main(given)``.
        define_flags: the function that defines the flags.
        arguments: if True, words that are not flags are passed to ``main``, as
            ``main(given, *words)``; otherwise they are refused.
        summary: the command's name in the summary line (see ``emojax.commands.summary``); None
            for commands without that line.
    """

    main: Callable[..., None]
    define_flags: Callable[[Flags], None]
    arguments: bool = False
    summary: str | None = None

    def run(self, argv: Sequence[str] | None = None) -> NoReturn:
        """Parses the flags, calls ``main`` and ends the process.

        The statuses are listed in ``emojax.errors``. ``InputError`` and its subclasses are printed
        on stderr without a traceback; so are unknown flags of the command and unknown keys of the
        configuration. Any other exception keeps its traceback, because it is a bug.

        Args:
            argv: the program's name and its arguments; those of the process by default.

        Raises:
            SystemExit: with the command's status. A training that was stopped ends the process at
                once instead.
        """
        global _SUMMARY
        _SUMMARY = Summary(self.summary) if self.summary else None
        before = sys.argv
        # Configurations read their overrides from sys.argv, and some libraries their flags.
        sys.argv = list(sys.argv if argv is None else argv)
        given = flags.FlagValues()

        def parse(argv: list[str]) -> list[str]:
            try:
                return parse_flags(given, self.define_flags, argv, self.main.__module__)
            except InputError as error:
                _stop(error)

        try:
            app.run(lambda words: self._checked(given, words), flags_parser=parse)
        finally:
            sys.argv = before

    def _checked(self, given: flags.FlagValues, argv: Sequence[str]) -> None:
        """Calls ``main`` and turns its exceptions into messages and statuses."""
        _set_level(given)
        try:
            if len(argv) > 1 and not self.arguments:
                raise InputError(
                    "This command takes only --flags.",
                    field="arguments",
                    found=" ".join(argv[1:]),
                    expected="--name=value",
                    remedy="run it with --help for the list of flags",
                )
            if given["register"].value:
                # Imported here because it imports JAX, which some commands do not need.
                from emojax.core.extensions import execute

                for place in given["register"].value:
                    execute(place, "--register")
            self.main(given, *argv[1:])
            sys.stdout.flush()
        except InputError as error:
            _stop(error)
        except Stopped as error:
            tell(step=error.step, workdir=path_text(error.workdir))
            if _is_primary():
                print(error, file=sys.stderr)
            _leave("stopped", error.status)
        except KeyboardInterrupt:
            print("interrupted; the same command continues the training", file=sys.stderr)
            _leave("stopped", INTERRUPTED)
        except OSError as error:
            failed = machine_error(error, error.filename, "A file", writes_alone=True)
            if failed is None:
                _end("failed", 1, repr(error))
                raise
            _stop(failed)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
            _end("failed" if code else "done", code, None)
            raise
        except BaseException as error:
            lost = _PROCESS.lost(error) if _PROCESS else None
            if lost is not None:
                _stop(lost)
            _end("failed", 1, repr(error))
            raise
        try:
            _end("done", 0, None)
        except InputError as error:
            _complain(error)
            sys.exit(error.status)


def run_in_processes(*, primary: bool, lost: Callable[[BaseException], InputError | None]) -> None:
    """Declares that this process is one of several of a run.

    Args:
        primary: True for the process that prints the run's output.
        lost: returns the error to report if an exception means that another process is gone,
            else None.
    """
    global _PROCESS
    _PROCESS = _Process(primary, lost)


def console(*, wide: bool = True, asked: bool = False) -> Console:
    """Returns a console for tables: as wide as the terminal; a file or a pipe gets long lines.

    Args:
        wide: if False, a file or a pipe gets lines of 80 columns.
        asked: see ``emojax.screen.console``.
    """
    return screen.console(wide=wide, asked=asked)


def tell(**facts: Any) -> None:
    """Adds facts to the summary line, if the command that runs now prints one."""
    if _SUMMARY is not None:
        _SUMMARY.tell(facts)


def say(line: object) -> None:
    """Prints one line on standard output, unless only warnings or errors are wanted."""
    screen.say(line)


def use_devices(devices: Iterable[Any]) -> None:
    """Notes the ``jax.Device`` objects of the command for the summary line."""
    if _SUMMARY is not None:
        _SUMMARY.use_devices(list(devices))


def keep_summary(write: Callable[[str], None]) -> None:
    """Also passes the summary's JSON to ``write`` when the command ends."""
    if _SUMMARY is not None:
        _SUMMARY.keep(write)


def folder(flag: str, value: str) -> Path:
    """Returns the folder that a flag names. It need not exist yet.

    Raises:
        InputError: the path exists and is not a folder.
    """
    path = Path(value)
    if path.exists() and not path.is_dir():
        raise InputError(
            "The path is not a folder.",
            file=path,
            field=f"--{flag}",
            found="a file",
            expected="a folder, or nothing yet",
        )
    return path


def _set_level(given: flags.FlagValues) -> None:
    """Applies ``--log_level``; absl's ``--verbosity``, if given, sets the level of libraries."""
    level = str(given["log_level"].value)
    screen.set_level(level)
    if level == "error":
        warnings.simplefilter("ignore")
    if level == "debug":
        # JAX reads the variable when it is imported, which may have happened already.
        os.environ.setdefault("JAX_LOG_COMPILES", "1")
        if "jax" in sys.modules:
            sys.modules["jax"].config.update("jax_log_compiles", True)
    if not given["verbosity"].present:
        # Libraries log every file they touch.
        logging.set_verbosity(logging.DEBUG if level == "debug" else logging.ERROR)


def _stop(error: InputError) -> NoReturn:
    _complain(error)
    if _PROCESS is not None:
        # An orderly exit would wait for the other processes, which may wait for this one.
        _leave("failed", error.status, error.summary)
    with contextlib.suppress(InputError):
        _end("failed", error.status, error.summary)
    sys.exit(error.status)


def _leave(how: str, status: int, summary: str | None = None) -> NoReturn:
    """Ends a command at once."""
    with contextlib.suppress(InputError):
        _end(how, status, summary)
    sys.stdout.flush()
    sys.stderr.flush()
    # All files are closed by now, but threads of readers and compilers may still run and abort an
    # orderly exit of the interpreter.
    os._exit(status)


def _complain(error: InputError) -> None:
    print(f"error: {error}", file=sys.stderr)


def _end(status: str, code: int, error: str | None) -> None:
    """Prints the summary once, on the primary process of the run.

    Raises:
        InputError: the summary cannot be written.
    """
    global _SUMMARY
    summary, _SUMMARY = _SUMMARY, None
    if summary is not None and _is_primary():
        with writing(None, "The summary"):
            summary.end(status, code, error)


def _is_primary() -> bool:
    """Returns True if this process prints the run's output."""
    return _PROCESS is None or _PROCESS.primary
