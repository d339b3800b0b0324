"""Finds the configurations that come with emojax and the builders that write stores.

An installed emojax holds them as ``emojax.configs`` and ``emojax.builders``. In a checkout they are
the folders ``configs/`` and ``data/`` beside ``emojax/``.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from emojax.errors import InputError, closest

_PACKAGE = Path(__file__).resolve().parent
_CHECKOUT = _PACKAGE.parent if (_PACKAGE.parent / "pyproject.toml").is_file() else None
_BUILDERS = "emojax.builders"


def config_folder() -> Path:
    """Returns the folder of the configurations that come with emojax."""
    return (_CHECKOUT or _PACKAGE) / "configs"


def config_names() -> list[str]:
    """Returns the names of the configurations that come with emojax: "rjcma" and so on."""
    return sorted(path.stem for path in config_folder().glob("[!_]*.py"))


def find_config(text: str) -> str:
    """Returns the path of a configuration that is named or given by its path.

    Args:
        text: a name such as "rjcma", or the path of a Python file; a variant may follow, as in
            "rjcma:demo" or "own.py:small".

    Returns:
        The path, with the variant if there was one.

    Raises:
        InputError: no configuration has this name, and no file has this path.
    """
    file, colon, variant = text.partition(":")
    if file in config_names():
        return f"{config_folder() / file}.py{colon}{variant}"
    if Path(file).is_file():
        return text
    raise InputError(
        "The configuration cannot be read.",
        file=file,
        field="--config",
        found="no file, and no configuration of this name",
        expected=f"one of {', '.join(config_names())}, or the path of a Python file",
        remedy=closest(Path(file).stem, config_names()),
    )


def config_argument(file: Path, variant: str) -> str:
    """Returns the shortest value of ``--config`` that names a variant of a file."""
    known = file.resolve().parent == config_folder()
    return (file.stem if known else str(file)) + (f":{variant}" if variant else "")


def builder(name: str) -> ModuleType:
    """Imports a builder, such as "synthetic", as a module of ``emojax.builders``."""
    if _CHECKOUT is not None and _BUILDERS not in sys.modules:
        folder = _CHECKOUT / "data"
        spec = importlib.util.spec_from_file_location(
            _BUILDERS, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None
        assert spec.loader is not None
        sys.modules[_BUILDERS] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[_BUILDERS])
    return importlib.import_module(f"{_BUILDERS}.{name}")
