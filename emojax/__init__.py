"""emojax: emotion over time from pre-extracted audio, visual, text and pose features.

Open a trained run, give it the rows of a video, get valence and arousal by frame:

    import numpy as np
    import emojax
    run = emojax.open_run("runs/demo")
    rows = {name: np.zeros((250, width), "float32") for name, width in run.streams.items()}
    print(run.predict(rows, fps=25)[["time", "valence", "arousal"]])

``open_store``, ``write_store``, ``simulate`` and ``Video`` are about data, ``fit``,
``load_config`` and ``Run`` about training, ``differences_from_paper`` lists where a system differs
from its paper, ``plot`` draws and ``register`` adds a model; docs/python.md shows them. Bad input
raises ``InputError``. Names are imported when they are used, so that ``import emojax`` itself is
quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emojax.api.curves import plot
    from emojax.api.runs import Run, fit, open_run
    from emojax.api.videos import Video, open_store, simulate, write_store
    from emojax.config_files import load_config
    from emojax.errors import InputError
    from emojax.models import register
    from emojax.reporting.paper_differences import differences_from_paper

__version__ = "0.1.0"

__all__ = [
    "InputError",
    "Run",
    "Video",
    "differences_from_paper",
    "fit",
    "load_config",
    "open_run",
    "open_store",
    "plot",
    "register",
    "simulate",
    "write_store",
]

# Public name -> the module that has it.
_HOMES = {
    "InputError": "errors",
    "Run": "api.runs",
    "Video": "api.videos",
    "differences_from_paper": "reporting.paper_differences",
    "fit": "api.runs",
    "load_config": "config_files",
    "open_run": "api.runs",
    "open_store": "api.videos",
    "plot": "api.curves",
    "register": "models",
    "simulate": "api.videos",
    "write_store": "api.videos",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'emojax' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"emojax.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Lists the public names, imported or not."""
    return sorted({*globals(), *__all__})
