"""Makes configurations from a name or path: ``rjcma``, ``rjcma:demo``, ``configs/rjcma.py``."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from emojax.errors import InputError
from emojax.shipped import find_config


def load_config(name: str) -> Any:
    """Makes a configuration by name; the result may be changed before it is trained.

        >>> config = load_config("rjcma:demo")
        >>> config.train.epochs = 3

    Args:
        name: ``NAME`` or ``NAME:VARIANT`` of one of emojax's configurations, such as "rjcma:demo",
            or ``PATH.py[:VARIANT]`` of your own. A file of your own is run.

    Returns:
        An ``ml_collections.ConfigDict``.

    Raises:
        InputError: there is no such configuration, or its file cannot be read.
    """
    file, _, variant = find_config(name).partition(":")
    get_config = load_module(Path(file)).get_config
    return get_config(variant) if variant else get_config()


def load_module(file: Path) -> ModuleType:
    """Runs a configuration file and returns it as a module that has ``get_config``.

    Raises:
        InputError: the file cannot be read, or does not define ``get_config()``.
    """
    problem = "it defines no get_config()"
    try:
        spec = importlib.util.spec_from_file_location(f"emojax_config_{file.stem}", file)
        if spec is None or spec.loader is None:
            raise OSError("not a Python file")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if hasattr(module, "get_config"):
            return module
    except Exception as error:  # a user's file can raise anything
        problem = f"{type(error).__name__}: {error}"
    raise InputError(
        "The configuration cannot be read.",
        file=file,
        field="config",
        found=problem,
        expected="a Python file that defines get_config(), as in configs/",
    )
