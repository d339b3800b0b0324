"""Training in stages: what the loss looks at, for how long, and which parameters stand still.

A stage is data, not a branch of the trainer. Which stage a replica is in is its number of
releases (``core.schedule``); the step receives the stage's objective and frozen parameters as
one flag per replica. Progressive release of parameter groups is a sequence of stages that
freeze less and less; training temporal branches before the whole network is a stage with the
objective "branches".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NoReturn

import jax
import numpy as np

from emojax.errors import InputError, closest

# "outputs": the loss of the model's outputs. "branches": the sum of the losses of the temporary
# heads in aux["branches"], whose mean is then also what is evaluated.
OBJECTIVES = ("outputs", "branches")


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of training.

    Attributes:
        objective: one of ``OBJECTIVES``.
        epochs: it lasts at most so many; 0: until the plateau is exhausted or early stopping
            acts, both of which end a stage with a number of epochs before its time, too.
        frozen: patterns ("encoder_*", "*/bias") over parameter paths joined by "/"; what they
            match is not updated.
    """

    objective: str = "outputs"
    epochs: int = 0
    frozen: tuple[str, ...] = ()


def parse_stages(rows: Any) -> tuple[Stage, ...]:
    """``config.train.stages`` as stages.

    Args:
        rows: a sequence of mappings with the fields of ``Stage``, each optional.

    Raises:
        InputError: not such a sequence, or a value that cannot be.
    """
    if not isinstance(rows, list | tuple):
        _refuse("config.train.stages", rows, "a sequence of mappings, one for each stage")
    return tuple(_parse(row, f"config.train.stages[{i}]") for i, row in enumerate(rows))


def _parse(row: Any, field: str) -> Stage:
    known = [member.name for member in dataclasses.fields(Stage)]
    if not isinstance(row, Mapping) and not hasattr(row, "items"):
        _refuse(field, row, "a mapping with some of " + ", ".join(known))
    values = dict(row.items())
    for key in values:
        if key not in known:
            _refuse(f"{field}.{key}", values[key], "one of " + ", ".join(known), key, known)
    stage = Stage(**values)
    if stage.objective not in OBJECTIVES:
        expected = "one of " + ", ".join(OBJECTIVES)
        _refuse(f"{field}.objective", stage.objective, expected, stage.objective, OBJECTIVES)
    if not isinstance(stage.epochs, int) or isinstance(stage.epochs, bool) or stage.epochs < 0:
        _refuse(f"{field}.epochs", stage.epochs, "a whole number, 0 for no limit")
    frozen = stage.frozen
    frozen = (frozen,) if isinstance(frozen, str) else frozen
    if not isinstance(frozen, list | tuple) or not all(isinstance(p, str) for p in frozen):
        _refuse(f"{field}.frozen", frozen, "patterns over parameter paths, such as 'encoder_*'")
    return dataclasses.replace(stage, frozen=tuple(frozen))


def _refuse(
    field: str, found: object, expected: str, word: object = "", known: Sequence[str] = ()
) -> NoReturn:
    raise InputError(
        "A training stage cannot be like this.",
        field=field,
        found=found,
        expected=expected,
        remedy=closest(word, known),
    )


def parameter_paths(params: Any) -> list[str]:
    """Paths of all parameters, joined by "/", in the order of ``jax.tree.leaves``."""
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
        InputError: as said.
    """
    paths = parameter_paths(params)
    modules = sorted({path.split("/")[0] for path in paths})
    for i, stage in enumerate(stages):
        field = f"config.train.stages[{i}].frozen"
        for pattern in stage.frozen:
            if not any(fnmatchcase(path, pattern) for path in paths):
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


def _matches(path: str, stage: Stage) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in stage.frozen)


def trainable(stages: Sequence[Stage], params: Any, stage_R: np.ndarray) -> Any | None:
    """Which parameters each replica trains now.

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
    """(R,) bool, whose objective is "branches" now; None if no stage has that objective."""
    flags = [stage.objective == "branches" for stage in stages]
    return np.array([flags[k] for k in stage_R]) if any(flags) else None
