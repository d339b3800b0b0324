"""Parses the flags of a command, explains them, and refuses wrong ones."""

from __future__ import annotations

import functools
import inspect
import re
import sys
import textwrap
import typing
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from emojax import screen
from emojax.config_schema import DataConfig
from emojax.core.stream_defaults import DEFAULT
from emojax.errors import InputError
from emojax.shipped import find_config

_CONFIG = "config"


class _ConfigByName(ConfigFileFlagParser):
    """Reads a configuration by its name or by its path."""

    def parse(self, path: str) -> Any:
        config = super().parse(find_config(path))
        if isinstance(config, ConfigDict):
            _add_stream_keys(config, sys.argv[1:])
            _follow_tasks(config, sys.argv[1:])
        return config


_STREAM_KEY = re.compile(rf"--?{_CONFIG}\.(?P<section>data|model)\.(?P<field>\w+)\.(?P<name>[^=]+)")


def _add_stream_keys(config: ConfigDict, words: Sequence[str]) -> None:
    """Gives a configuration the keys of streams that flags name, in place.

    ml_collections overrides keys that are there alone, and a file cannot know the names of a user's
    streams. The values only tell the type; the flags replace them.

    Args:
        config: the configuration of a file.
        words: the arguments of the command.
    """
    given = [word.partition("=") for word in words]
    named = [value for flag, _, value in given if flag.lstrip("-") == f"{_CONFIG}.data.streams"]
    of_file = config.get("data", {}).get("streams", ())
    streams = re.findall(r"[^\s,()'\"]+", named[-1]) if named else of_file
    kinds = typing.get_type_hints(DataConfig)
    for flag, _, _ in given:
        match = _STREAM_KEY.fullmatch(flag)
        if match is None or match["name"] not in (*streams, DEFAULT):
            continue
        section = config.get(match["section"], {})
        table = section.get(match["field"])
        if not isinstance(table, ConfigDict) or match["name"] in table:
            continue
        if match["section"] == "data":
            example = typing.get_args(kinds[match["field"]])[1]()
        elif len(table):
            example = next(iter(table.values()))
        else:
            continue
        with config.unlocked():
            table[match["name"]] = example


def _follow_tasks(config: ConfigDict, words: Sequence[str]) -> None:
    """Gives a configuration one model of all targets if flags name other tasks, in place.

    Its own targets are those of the file's tasks. Losses and selections of the new tasks are the
    defaults of their kind, unless the file or a flag has them.

    Args:
        config: the configuration of a file.
        words: the arguments of the command.
    """
    given = {word.partition("=")[0].lstrip("-"): word.partition("=")[2] for word in words}
    named = given.get(f"{_CONFIG}.data.tasks")
    if named is None or f"{_CONFIG}.replicas.targets" in given or "replicas" not in config:
        return
    if {*re.findall(r"\w+", named)} != {*config.data.tasks}:
        config.replicas.targets = ("all",)


class Flags:
    """Defines the flags of one command, as absl's ``DEFINE_string`` and its kin do.

    ``define.string("out", None, "Folder to write.", required=True)``

    Args:
        values: the absl object that receives the flags.
    """

    def __init__(self, values: flags.FlagValues) -> None:
        self._values = values
        self.string = functools.partial(flags.DEFINE_string, flag_values=values)
        self.integer = functools.partial(flags.DEFINE_integer, flag_values=values)
        self.float = functools.partial(flags.DEFINE_float, flag_values=values)
        self.bool = functools.partial(flags.DEFINE_bool, flag_values=values)
        self.enum = functools.partial(flags.DEFINE_enum, flag_values=values)
        self.list = functools.partial(flags.DEFINE_list, flag_values=values)
        self.multi_string = functools.partial(flags.DEFINE_multi_string, flag_values=values)

    def config(self, about: str, *, default: str | None = None, required: bool = False) -> None:
        """Defines ``--config``, whose keys ``--config.key=value`` overrides.

        Args:
            about: the text that ``--help`` shows.
            default: the name or path of the configuration to read without the flag, if any.
            required: if True, a call without the flag is refused.
        """
        path = find_config(default) if default else None
        config_flags.DEFINE_config_file(_CONFIG, path, about, flag_values=self._values)
        self._values[_CONFIG].parser = _ConfigByName(name=_CONFIG)
        if required:
            flags.mark_flag_as_required(_CONFIG, flag_values=self._values)


def read_config(given: flags.FlagValues) -> ConfigDict:
    """Returns the configuration that ``--config`` names, with its overrides.

    Raises:
        InputError: the file cannot be read.
    """
    config: Any = given[_CONFIG].value
    try:
        config.keys()
    except OSError as error:
        # config_flags reports an unreadable file only at the first use of its value.
        raise InputError(
            "The configuration cannot be read.",
            file=config_flags.get_config_filename(given[_CONFIG]),
            field=f"--{_CONFIG}",
            found=str(error.__cause__ or error).splitlines()[-1].strip(),
            expected="a Python file that defines get_config(), as in configs/",
        ) from error
    return config


def parse_flags(
    given: flags.FlagValues,
    define_flags: Callable[[Flags], None],
    argv: list[str],
    module: str,
) -> list[str]:
    """Defines and parses a command's flags; executes and overrides a configuration meanwhile.

    The flags of libraries, such as ``--verbosity``, are accepted as well.

    Args:
        given: the absl object that receives the flags and their values.
        define_flags: the function that defines the command's flags.
        argv: the program's name and its arguments.
        module: the command's module, whose docstring ``--help`` shows.

    Returns:
        The program's name and the words that are not flags.

    Raises:
        InputError: a flag, its value, or an overridden key is wrong.
        SystemExit: ``--help`` was given; its text is printed.
    """
    define = Flags(given)
    define_flags(define)
    define.enum(
        "log_level",
        "info",
        list(screen.LEVELS),
        "Print errors only; also warnings; also progress and results; also the libraries' logs. "
        "The summary line of a long command is always printed.",
    )
    define.multi_string(
        "register",
        [],
        "Execute this Python file first; it can register models, losses and scores. With :CLASS "
        "after the path, register this model of the file. Can be repeated; see docs/extending.md.",
    )
    own = list(given)
    if any(word.lstrip("-") in ("help", "helpshort") for word in argv[1:]):
        print(_help(given, own, inspect.getdoc(sys.modules[module]) or ""))
        sys.exit(0)
    for flag in map(flags.FLAGS.__getitem__, list(flags.FLAGS)):
        if flag.name not in given:
            given[flag.name] = flag
    try:
        rest = given(argv)
    except flags.Error as error:
        raise _wrong_flag(argv, error) from error
    except (AttributeError, KeyError) as error:
        wrong = _unknown_key(argv, str(error))
        if wrong is None:
            raise
        raise wrong from error
    flags.FLAGS.mark_as_parsed()
    return rest


def _help(given: flags.FlagValues, names: Sequence[str], about: str) -> str:
    """Returns the description of a command and of its flags."""
    lines = [about, "", "flags:"]
    for name in names:
        flag = given[name]
        text = " ".join(str(flag.help).split())
        if flag.default not in (None, "", []):
            text += f" (default: {flag.default_as_str})"
        lines.append(f"  --{name}")
        lines += textwrap.wrap(text, 92, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def _wrong_flag(argv: Sequence[str], error: flags.Error) -> InputError:
    """Turns absl's error about a flag into an ``InputError``."""
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
        "A flag has a wrong value.",
        field=f"--{value[1]}" if value else "flags",
        found=value[2] if value else text,
        expected=_expected(value[3]) if value else "values as --help lists them",
        remedy=help_,
    )


# Absl's and Python's messages about the value of a flag -> the text under "expected".
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
    """Returns an error about the override that ml_collections refused, or None."""
    # The suggestion may contain another key that was given correctly.
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
