"""Training in stages: the loss, the length and the frozen parameters of each.

A stage is data, not a branch of the trainer. Which stage a replica is in is its number of
releases (``core.schedule``); the step receives the stage's objective and frozen parameters as
one flag per replica. Progressive release of parameter groups is a sequence of stages that
freeze less and less; training temporal branches before the whole network is a stage with the
objective "branches".
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import jax
import numpy as np

from emojax.config_schema import Stage
from emojax.errors import InputError


def parameter_paths(params: Any) -> list[str]:
    """Returns the paths of all parameters, joined by "/", in the order of ``jax.tree.leaves``."""
    return [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]


def check_frozen(stages: Sequence[Stage], params: Any) -> None:
    """Refuses patterns that match no parameter, and stages that leave none to train.

    Args:
        stages: the stages.
        params: a tree of parameters (or of their shapes).

    Raises:
        InputError: a pattern matches nothing, or a stage has nothing to train.
    """
    paths = parameter_paths(params)
    modules = sorted({path.split("/")[0] for path in paths})
    for i, stage in enumerate(stages):
        field = f"config.train.stages[{i}].frozen"
        for pattern in unmatched(stage.frozen, params):
            raise InputError(
                "A pattern of frozen parameters matches none.",
                field=field,
                found=pattern,
                expected="a pattern over paths such as " + ", ".join(paths[:3]),
                remedy=f"the model's parts are {', '.join(modules)}; '*' also matches '/'",
            )
        if all(_matches(path, stage) for path in paths):
            raise InputError(
                "A stage freezes every parameter.",
                field=field,
                found=", ".join(stage.frozen),
                expected="something left to train",
            )


def unmatched(patterns: Sequence[str], params: Any) -> list[str]:
    """Returns the patterns that match no path of a tree of parameters."""
    paths = parameter_paths(params)
    return [p for p in patterns if not any(fnmatchcase(path, p) for path in paths)]


def _matches(path: str, stage: Stage) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in stage.frozen)


def trainable(stages: Sequence[Stage], params: Any, stage_R: np.ndarray) -> Any | None:
    """Marks the parameters that each replica trains now.

    Args:
        stages: the stages; an empty sequence trains everything.
        params: a tree of parameters (or of their shapes).
        stage_R: (R,) the stage each replica is in.

    Returns:
        A tree of (R,) bool like ``params``; None if no stage freezes anything, so that such
        a training compiles to a program without selections.
    """
    if not any(stage.frozen for stage in stages):
        return None
    flags = [
        np.array([not _matches(path, stages[k]) for k in stage_R])
        for path in parameter_paths(params)
    ]
    return jax.tree.unflatten(jax.tree.structure(params), flags)


def on_branches(stages: Sequence[Stage], stage_R: np.ndarray) -> np.ndarray | None:
    """Returns (R,) bool, True where the objective is "branches"; None if it never is."""
    flags = [stage.objective == "branches" for stage in stages]
    return np.array([flags[k] for k in stage_R]) if any(flags) else None
