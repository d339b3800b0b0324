"""Models and tasks that are registered for the length of a test."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from flax import linen as nn

from emojax import models
from emojax.ops.tasks import TASK_OPS
from emojax.specs import TASKS


@contextlib.contextmanager
def registered(name: str, model: type[nn.Module]) -> Iterator[None]:
    """Registers a model, and forgets it afterwards."""
    models.register(name)(model)
    try:
        yield
    finally:
        forget(name)


def forget(name: str) -> None:
    """Forgets a registered model."""
    del models._REGISTERED[name]


@contextlib.contextmanager
def own_tasks_forgotten() -> Iterator[None]:
    """Forgets the tasks that are declared meanwhile."""
    before = {*TASKS}
    try:
        yield
    finally:
        for name in {*TASKS} - before:
            del TASKS[name]
            TASK_OPS.pop(name, None)
