"""The command ``emojax``: its verbs are the package's commands and builders.

A verb's module is imported when the verb is called, so that ``emojax --help`` needs no JAX.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

import emojax
from emojax.commands.cli import Command
from emojax.errors import InputError, closest
from emojax.shipped import builder


@dataclasses.dataclass(frozen=True)
class Verb:
    """One verb.

    Attributes:
        module: the name of the module in emojax or among its builders.
        about: one line for ``emojax --help``.
        builds: True if the module is a builder.
    """

    module: str
    about: str
    builds: bool = False

    def command(self) -> Command:
        """Imports the module and returns its command."""
        if self.builds:
            return builder(self.module).COMMAND
        return importlib.import_module(f"emojax.{self.module}").COMMAND


VERBS = {
    "simulate": Verb("synthetic", "build a store of simulated videos", builds=True),
    "import-features": Verb("import_features", "build a store of feature files", builds=True),
    "aff-wild2": Verb("aff_wild2", "build a store of Aff-Wild2", builds=True),
    "write-aff-wild2": Verb(
        "write_aff_wild2", "write a store as files in Aff-Wild2's form", builds=True
    ),
    "meld": Verb("meld", "build a store of MELD", builds=True),
    "epic2023": Verb("epic2023", "build a store of EPiC-2023", builds=True),
    "tfds": Verb("tfds", "write a store as a TensorFlow Datasets data set", builds=True),
    "train": Verb("train", "train a system, or continue a run"),
    "crossval": Verb("crossval", "train and score every fold of a store"),
    "crossval-epic2023": Verb("epic2023", "train and score every fold of EPiC-2023"),
    "evaluate": Verb("evaluate", "score a trained run"),
    "predict": Verb("predict", "write a trained run's predictions as CSV files"),
    "submit": Verb("submit", "write or check a submission to ABAW"),
    "report": Verb("report", "write an interactive HTML page of trained runs"),
    "analyse": Verb("analyse", "study trained runs: missing input, streams, comparison"),
    "tables": Verb("tables", "train and print the tables of the papers"),
    "systems": Verb("systems", "list every system that can be trained"),
    "weights": Verb("weights", "export and import weights"),
}


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs the command that the first argument names, and ends the process with its status.

    Args:
        argv: the program's name and its arguments; those of the process by default.
    """
    words = list(sys.argv if argv is None else argv)[1:]
    if words[:1] == ["--version"]:
        print(f"emojax {emojax.__version__}")
        sys.exit(0)
    if words[:1] in (["--help"], ["-h"], ["help"]):
        print(overview())
        sys.exit(0)
    if not words or words[0] not in VERBS:
        error = _unknown(words)
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.status)
    verb = words[0]
    VERBS[verb].command().run([f"emojax {verb}", *words[1:]])


def overview() -> str:
    """Returns the text of ``emojax --help``."""
    width = max(map(len, VERBS))
    lines = [f"  {name:<{width}}  {verb.about}" for name, verb in VERBS.items()]
    return "\n".join(
        ["emojax VERB --flag=value ...", "", *lines, "", "emojax VERB --help lists a verb's flags."]
    )


def _unknown(words: Sequence[str]) -> InputError:
    return InputError(
        "emojax has no such verb." if words else "A verb is missing.",
        field="verb",
        found=words[0] if words else "nothing",
        expected="one of " + ", ".join(VERBS),
        remedy=(closest(words[0], VERBS) if words else None) or "see emojax --help",
    )
