"""Python files of the user that define models, losses or scores.

Such a file is executed because the user named it: on the command line (``--register``), or as
``config.model.name`` of a configuration, which is a Python program itself. A place that stands in
a checkpoint is never executed, see ``emojax.models.model_class``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from emojax.errors import InputError
from emojax.models import is_place, register


def execute(place: str, field: str) -> None:
    """Executes a file, and registers its model if the place names one.

    Args:
        place: "path/to/file.py", whose code registers what it defines; or
            "path/to/file.py:Class", which registers this class under the whole text.
        field: the flag or key that gave the place, for errors.

    Raises:
        InputError: there is no such file or class, the file fails, or the class is not a model.
    """
    name, colon, wanted = place.rpartition(":") if is_place(place) else (place, "", "")
    path = Path(name)
    module = _run(path, field)
    if not colon:
        return
    model = getattr(module, wanted, None)
    if model is None:
        raise InputError(
            "The file does not define this class.",
            file=path,
            field=field,
            found=wanted,
            expected="the name of a Linen module in this file",
        )
    register(place)(model)


def _run(path: Path, field: str) -> ModuleType:
    if path.suffix != ".py" or not path.is_file():
        raise InputError(
            "This is not a Python file.",
            file=path,
            field=field,
            found="nothing" if not path.exists() else "something else",
            expected="the path of a file such as models/mine.py",
            remedy="relative paths count from the current folder",
        )
    # Dataclasses, which Linen modules are, look their module up by its name.
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    name = f"emojax_extension_{path.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except InputError as error:
        raise error.within(path, "mend the file") from error.__cause__
    except Exception as error:  # whatever a user's file does
        raise InputError(
            "The file fails when it is executed.",
            file=path,
            field=field,
            found=f"{type(error).__name__}: {error}",
            expected="a Python file that defines or registers models, losses or scores",
        ) from error
    return module
