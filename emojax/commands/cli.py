"""How every command starts and ends: flags, levels, exit codes, the summary line."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags
from rich.console import Console

from emojax import screen
from emojax.commands.summary import Summary, path_text
from emojax.errors import INTERRUPTED, InputError, Stopped, machine_error, writing

flags.DEFINE_enum(
    "log_level",
    "info",
    list(screen.LEVELS),
    "What is printed: errors alone, also warnings, also progress and results, or also what the "
    "libraries log. The summary line of a long command always is.",
)


@dataclasses.dataclass(frozen=True)
class _Process:
    """One of several of a run."""

    primary: bool
    lost: Callable[[BaseException], InputError | None]


# Of the command that runs now, if it is a long one, and if it has several processes.
_SUMMARY: Summary | None = None
_PROCESS: _Process | None = None


def run(main: Callable[..., None], *, arguments: bool = False, summary: str | None = None) -> None:
    """Parses absl flags and calls ``main``.

    With ``arguments`` the words that are no flags are passed to ``main``; without, they are
    refused. With ``summary``, the name of the command, its last line on standard output tells
    in JSON how it ended, see ``emojax.commands.summary``.

    How a command ends, and with which status, is told in ``emojax.errors``. ``InputError`` and
    its kin are printed on stderr without a traceback, and so are flags that the command, and a
    ``--config.key`` that the configuration, does not have. Any other exception keeps its
    traceback, because it is a bug.
    """
    global _SUMMARY
    _SUMMARY = Summary(summary) if summary else None

    def checked(argv: Sequence[str]) -> None:
        _set_level()
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
            sys.stdout.flush()
        except InputError as error:
            _stop(error)
        except Stopped as error:
            tell(step=error.step, workdir=path_text(error.workdir))
            if _is_primary():
                print(error, file=sys.stderr)
            _leave("stopped", error.status)
        except KeyboardInterrupt:
            print("interrupted; called again, training continues where it was", file=sys.stderr)
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

    app.run(checked, flags_parser=_parse_flags)


def run_in_processes(*, primary: bool, lost: Callable[[BaseException], InputError | None]) -> None:
    """Tells that this process is one of several of a run.

    Args:
        primary: whether it speaks for the run.
        lost: what an exception means, if it is that another process is gone.
    """
    global _PROCESS
    _PROCESS = _Process(primary, lost)


def console(*, wide: bool = True, asked: bool = False) -> Console:
    """For tables: as wide as the terminal; a file or a pipe gets lines that need no folding.

    Args:
        wide: without it a file or a pipe gets 80 columns.
        asked: see ``emojax.screen.console``.
    """
    return screen.console(wide=wide, asked=asked)


def tell(**facts: Any) -> None:
    """Adds facts to the summary line, if the command that runs now ends with one."""
    if _SUMMARY is not None:
        _SUMMARY.tell(facts)


def say(line: object) -> None:
    """Prints one line on standard output, unless only warnings or errors are wanted."""
    screen.say(line)


def use_devices(devices: Iterable[Any]) -> None:
    """Tells the summary line which ``jax.Device`` objects are used."""
    if _SUMMARY is not None:
        _SUMMARY.use_devices(list(devices))


def keep_summary(write: Callable[[str], None]) -> None:
    """Gives the summary's JSON to ``write`` as well, when the command ends."""
    if _SUMMARY is not None:
        _SUMMARY.keep(write)


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
        return flags.FLAGS(argv)
    except InputError as error:
        _stop(error)
    except flags.Error as error:
        _stop(_wrong_flag(argv, error))
    except (AttributeError, KeyError) as error:
        wrong = _unknown_key(argv, str(error))
        if wrong is None:
            raise
        _stop(wrong)


def _wrong_flag(argv: Sequence[str], error: flags.Error) -> InputError:
    """What absl found wrong with a flag, in the form of our errors."""
    help_ = "run it with --help for the list of flags"
    if isinstance(error, flags.UnrecognizedFlagError):
        name = error.flagname
        given = [word for word in argv[1:] if word.lstrip("-").partition("=")[0] == name]
        close = re.search(r"Did you mean: ([^, ?]+)", str(error))
        return InputError(
            "This command has no such flag.",
            field=f"--{name}",
            found=given[0] if given else name,
            expected="a flag of this command",
            remedy=f"did you mean --{close[1]}?" if close else help_,
        )
    text = str(error)
    absent = re.findall(r"Flag --(\S+) must have a value|^Missing value for flag --(\S+)$", text)
    if absent:
        return InputError(
            "The command needs a value.",
            field=", ".join(f"--{validated or parsed}" for validated, parsed in absent),
            found="none",
            expected="--name=value",
            remedy=help_,
        )
    value = re.fullmatch(r"flag --([^=]+)=(.*?): (.*)", text, re.DOTALL)
    return InputError(
        "A flag has a value that it cannot have.",
        field=f"--{value[1]}" if value else "flags",
        found=value[2] if value else text,
        expected=_expected(value[3]) if value else "values as --help tells",
        remedy=help_,
    )


# How absl and Python say what a flag's value should have been, and how we do.
_EXPECTED = {
    r"invalid literal for int\(\).*": "a whole number",
    r"could not convert string to float.*": "a number",
    r".*boolean.*": "true or false",
    r"value should be one of <(.*)>": r"one of \1",
}


def _expected(complaint: str) -> str:
    for pattern, text in _EXPECTED.items():
        if found := re.fullmatch(pattern, complaint, re.DOTALL):
            return found.expand(text).replace("|", ", ")
    return complaint


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


def _set_level() -> None:
    """Obeys ``--log_level``; absl's ``--verbosity`` decides about libraries where it is given."""
    level = str(flags.FLAGS["log_level"].value)
    screen.set_level(level)
    if level == "error":
        warnings.simplefilter("ignore")
    if level == "debug":
        # JAX reads the variable when it is imported, which may be behind us.
        os.environ.setdefault("JAX_LOG_COMPILES", "1")
        if "jax" in sys.modules:
            sys.modules["jax"].config.update("jax_log_compiles", True)
    if not flags.FLAGS["verbosity"].present:
        # Libraries log every file they touch.
        logging.set_verbosity(logging.DEBUG if level == "debug" else logging.ERROR)


def _stop(error: InputError) -> NoReturn:
    _complain(error)
    if _PROCESS is not None:
        # An orderly end would wait for the others, who may be waiting for this process.
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
    # Everything is closed by now, but readers and compilers may have threads under way that abort
    # an orderly end of the interpreter.
    os._exit(status)


def _complain(error: InputError) -> None:
    print(f"error: {error}", file=sys.stderr)


def _end(status: str, code: int, error: str | None) -> None:
    """Prints the summary, once, and on one process of a run.

    Raises:
        InputError: it cannot be written.
    """
    global _SUMMARY
    summary, _SUMMARY = _SUMMARY, None
    if summary is not None and _is_primary():
        with writing(None, "The summary"):
            summary.end(status, code, error)


def _is_primary() -> bool:
    """Whether this process speaks for its run."""
    return _PROCESS is None or _PROCESS.primary
