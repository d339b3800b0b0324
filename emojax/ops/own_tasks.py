"""Tasks that are not emojax's own, such as dominance or pain, declared by the store that has them.

A declared task joins ``TASKS`` for the rest of the program, and with it ``TASK_OPS``, so that every
system trains and scores it by its kind. A store and a checkpoint carry the declaration. Stores are
also read by processes that have no use for JAX, so nothing here imports it.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from emojax.errors import InputError
from emojax.specs import TASKS, TaskSpec

_BUILT_IN = frozenset(TASKS)
_KINDS = ("continuous", "categorical", "binary")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_MOST_LABELS = 1000


def declare_task(spec: TaskSpec) -> None:
    """Makes a task known; one that is known already must be the same.

    Example:
        >>> declare_task(TaskSpec("pain", "binary", ("pain",), -1.0))
        >>> TASKS["pain"].outputs
        1

    Raises:
        InputError: the declaration is not allowed, or another task has this name.
    """
    _check(spec)
    known = TASKS.get(spec.name)
    if known is None:
        TASKS[spec.name] = spec
        return
    if known != spec:
        raise InputError(
            "Two tasks have one name.",
            field=f"task {spec.name}",
            found=f"{spec.kind}: {', '.join(spec.labels[:8])}",
            expected=f"{known.kind}: {', '.join(known.labels[:8])}, as it is known",
            remedy="give the task another name",
        )


def declare_tasks(rows: Mapping[str, Any]) -> None:
    """Makes the tasks of a document known, see ``described_tasks``.

    Raises:
        InputError: see ``declare_task``.
        TypeError, KeyError, AttributeError: the document is malformed.
    """
    for name, row in rows.items():
        labels = tuple(row["labels"])
        declare_task(TaskSpec(name, row["kind"], labels, float(row["ignore"])))


def described_tasks(tasks: Iterable[str]) -> dict[str, Any]:
    """Describes those of some tasks that are not emojax's own, as JSON values."""
    rows = {}
    for name in tasks:
        if name not in _BUILT_IN:
            row = dataclasses.asdict(TASKS[name])
            rows[name] = {key: row[key] for key in ("kind", "labels", "ignore")}
    return rows


def _check(spec: TaskSpec) -> None:
    labels = spec.labels
    plain = all(isinstance(label, str) and 0 < len(label) <= 80 for label in labels)
    wrong: tuple[object, str] | None = None
    if not isinstance(spec.name, str) or not _NAME.fullmatch(spec.name):
        wrong = spec.name, "a name of small letters, digits and underscores"
    elif spec.kind not in _KINDS:
        wrong = spec.kind, "kind " + ", ".join(_KINDS)
    elif not plain or not all(_is_name(label) for label in labels):
        wrong = labels, "labels of letters, digits, spaces, underscores, dots and hyphens"
    elif not 1 <= len(labels) <= _MOST_LABELS or len({*labels}) < len(labels):
        wrong = labels, f"1 to {_MOST_LABELS} distinct labels"
    elif spec.kind == "categorical" and len(labels) < 2:
        wrong = labels, "at least two classes"
    elif not math.isfinite(spec.ignore):
        wrong = spec.ignore, "a finite number for what is not annotated"
    if wrong is not None:
        raise InputError(
            "A task cannot be declared.",
            field=f"task {str(spec.name)[:60]}",
            found=str(wrong[0])[:200],
            expected=wrong[1],
        )


def _is_name(label: str) -> bool:
    return bool(re.fullmatch(r"\w[\w .+-]*", label))
