"""Reads configuration files and the variants that they offer."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from emojax.config_files import load_module
from emojax.core.session import Session, build_session
from emojax.differences import Difference, holding
from emojax.errors import InputError
from emojax.reporting.paper_differences import complete, differences_from_paper
from emojax.small import Small
from emojax.specs import StreamSpec


@dataclasses.dataclass(frozen=True)
class Variant:
    """One variant of one configuration file.

    Attributes:
        file: the configuration file.
        name: the name of the variant; "" for the one without a name.
        reference: the first line of the file's docstring.
        summary: the first line of the variant's docstring.
        make: makes the configuration.
        small: the file's ``SMALL``; None if it defines none.
        listed: the file's ``DIFFERENCES``; if it has none, those of the shipped configuration of
            the variant's model.
    """

    file: Path
    name: str
    reference: str
    summary: str
    make: Callable[[], Any]
    small: Small | None = None
    listed: Sequence[Difference] | None = None

    @property
    def title(self) -> str:
        """Returns the title in lists, such as "rjcma:upstream"."""
        return self.file.stem + (f":{self.name}" if self.name else "")

    def config(self) -> Any:
        """Makes the configuration; errors name the variant."""
        with self._named():
            return self.make()

    def session(self, streams: Mapping[str, StreamSpec]) -> Session:
        """Builds the session of the variant; errors name the variant."""
        with self._named():
            return build_session(self.make(), streams)

    def differences(self) -> list[dict[str, Any]] | None:
        """Lists where the variant differs from its paper; None if there is no list."""
        with self._named():
            config = self.make()
            if self.listed is None:
                return differences_from_paper(config)
            return holding(self.listed, complete(config))

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except InputError as error:
            details: dict[str, Any] = {k: v for k, v in error.details.items() if k != "file"}
            raise InputError(error.summary, file=f"{self.file}:{self.name}", **details) from error


def read_variants(file: Path) -> list[Variant]:
    """Reads the variants of a configuration file, in its order.

    Raises:
        InputError: the file cannot be read, or defines no configuration.
    """
    module = load_module(file)
    variants: Mapping[str, Callable[[], Any]] = getattr(module, "VARIANTS", {"": module.get_config})
    reference = _first_line(module)
    shared = getattr(module, "SMALL", None), getattr(module, "DIFFERENCES", None)
    # A partial's docstring is that of its class.
    return [
        Variant(file, name, reference, _first_line(getattr(make, "func", make)), make, *shared)
        for name, make in variants.items()
    ]


def discover(folder: Path) -> list[Variant]:
    """Reads the variants of all configuration files in a folder, in the order of their names.

    Raises:
        InputError: the folder has no configuration files.
    """
    files = sorted(file for file in folder.glob("*.py") if not file.name.startswith("_"))
    if not files:
        raise InputError(
            "The folder has no configurations.",
            file=folder,
            field="--configs",
            found="no Python files" if folder.is_dir() else "no folder",
            expected="a folder such as configs/",
            remedy="leave --configs out to use those of emojax",
        )
    return [variant for file in files for variant in read_variants(file)]


def _first_line(documented: Any) -> str:
    return next(iter((getattr(documented, "__doc__", None) or "").strip().splitlines()), "")
