"""The JSON item of a checkpoint: its form on disk, and the checksums that it carries.

    {"format_version": 2,
     "checksum": CRC-32C of "checkpoint" in canonical form,
     "checkpoint": {"step": ..., "score": ..., "algorithm": "crc32c",
                    "arrays": {path: checksum}, "meta": {...}}}

``meta`` describes the run. "algorithm" names the checksums of the arrays; it lies below
"checkpoint", so that damage to it is found. Checkpoints written before December 2026 lack it:
their arrays' checksums are of another kind, which this version does not compute.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

from emojax.datasets.documents import canonical_checksum
from emojax.ops.own_tasks import declare_tasks
from emojax.rundir.checksums import ALGORITHM, array_checksums

FORMAT_VERSION = 2
# Entry of ``meta`` that evaluation or training reads -> its type.
_KINDS = {
    "config": dict,
    "streams": dict,
    "tasks": list,
    "replicas": list,
    "store": dict,
    "fingerprint": str,
    "parameters": dict,
    "schedule": dict,
    "iterators": list,
    "history": list,
}


@dataclasses.dataclass(frozen=True)
class Document:
    """A checkpoint's JSON item, checked.

    Attributes:
        meta: the description of the run.
        score: the score that the step was saved with.
        arrays: path -> checksum; None if the checksums are of another algorithm.
    """

    meta: dict[str, Any]
    score: float
    arrays: dict[str, int] | None


class DamagedError(ValueError):
    """Damage to a document: the ``field``, what was ``found`` there and what was ``expected``."""

    def __init__(self, field: str, found: object, expected: object) -> None:
        self.field, self.found, self.expected = field, found, expected
        super().__init__(f"{field}: found {found}, expected {expected}")


def make_document(step: int, state: Any, meta: Mapping[str, Any], score: float) -> dict[str, Any]:
    """Builds the JSON item to save.

    Args:
        step: the checkpoint's step.
        state: the checkpoint's arrays, in the form in which they are restored.
        meta: the description of the run, of JSON values.
        score: the step's score.
    """
    content = {
        "step": step,
        "score": score,
        "algorithm": ALGORITHM,
        "arrays": array_checksums(state),
        "meta": dict(meta),
    }
    # JSON changes some values, such as tuples; the checksum is of the values that are read.
    content = json.loads(json.dumps(content))
    return {
        "format_version": FORMAT_VERSION,
        "checksum": canonical_checksum(content),
        "checkpoint": content,
    }


def read_document(document: Any, step: int) -> Document:
    """Checks a JSON item, takes it apart, and makes the run's own tasks known.

    Args:
        document: the content of the file.
        step: the step that the file's folder is named after.

    Raises:
        InputError: a task of the run has the name of another task.
        DamagedError: the document differs from the one that ``make_document`` built for this step.
    """
    if not isinstance(document, dict):
        raise DamagedError("meta", f"a {type(document).__name__}", "a mapping")
    version = document.get("format_version")
    if version != FORMAT_VERSION:
        raise DamagedError("format_version", repr(version)[:80], FORMAT_VERSION)
    content = document.get("checkpoint")
    computed = canonical_checksum(content)
    if document.get("checksum") != computed:
        raise DamagedError("checksum of meta", computed, str(document.get("checksum"))[:80])
    checks: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
        ("step", lambda value: value == step, f"step {step}, as its folder is called"),
        ("score", lambda value: isinstance(value, float), "a number"),
        ("arrays", lambda value: isinstance(value, dict), "a mapping"),
        ("meta", lambda value: isinstance(value, dict), "a mapping"),
    )
    if not isinstance(content, dict):
        raise DamagedError("checkpoint", f"a {type(content).__name__}", "a mapping")
    for key, good, expected in checks:
        value = content.get(key)
        if not good(value):
            raise DamagedError(key, repr(value)[:80], expected)
    _check_kinds(content["meta"])
    try:
        declare_tasks(content["meta"].get("own_tasks", {}))
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise DamagedError("meta, own_tasks", str(error)[:80], "tasks as they were") from error
    arrays = content["arrays"] if content.get("algorithm") == ALGORITHM else None
    return Document(content["meta"], content["score"], arrays)


def check_arrays(computed: Mapping[str, int], arrays: Mapping[str, int]) -> None:
    """Checks that the arrays that were read are, bit for bit, those that were saved.

    Args:
        computed: path -> checksum of each array that was read.
        arrays: path -> checksum, from the document.

    Raises:
        DamagedError: some arrays differ; it names the first.
    """
    different = [path for path in computed.keys() | arrays.keys()
                 if computed.get(path) != arrays.get(path)]  # fmt: skip
    if different:
        path = min(different)
        more = f", and {len(different) - 1} more arrays" if len(different) > 1 else ""
        raise DamagedError(
            f"state, array {path}{more}",
            f"checksum {_hex(computed.get(path))}",
            f"checksum {_hex(arrays.get(path))}",
        )


def _hex(value: Any) -> str:
    return f"{value:08x}" if isinstance(value, int) else "none"


def _check_kinds(meta: Mapping[str, Any]) -> None:
    for key, kind in _KINDS.items():
        if key in meta and not isinstance(meta[key], kind):
            raise DamagedError(
                f"meta, {key}", f"a {type(meta[key]).__name__}", f"a {kind.__name__}"
            )
