"""The JSON item of a checkpoint: its form on disk, and the checksums that it carries.

    {"format_version": 2,
     "checksum": CRC-32C of "checkpoint" in canonical form,
     "checkpoint": {"step": ..., "score": ..., "arrays": {path: checksum}, "meta": {...}}}

``meta`` is what a run says about itself. It lies below "checkpoint", so that a document whose
outer keys are damaged is not taken for one of the first format, which was ``meta`` alone and had
no checksums.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

from emojax.datasets.documents import canonical_checksum
from emojax.rundir.checksums import array_checksums

FORMAT_VERSION = 2
# What every version wrote; a document without them is not one of the first format either.
_FIRST_FORMAT = ("config", "streams", "replicas", "store", "fingerprint", "parameters")
# What evaluation or training reads, and as what.
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
        meta: what the run says about itself.
        score: that the step was saved with; None in the first format.
        arrays: path -> checksum; None in the first format.
    """

    meta: dict[str, Any]
    score: float | None
    arrays: dict[str, int] | None


class DamagedError(ValueError):
    """What is wrong with a document, for people: ``field``, ``found`` and ``expected``."""

    def __init__(self, field: str, found: object, expected: object) -> None:
        self.field, self.found, self.expected = field, found, expected
        super().__init__(f"{field}: found {found}, expected {expected}")


def make_document(step: int, state: Any, meta: Mapping[str, Any], score: float) -> dict[str, Any]:
    """The JSON item to save.

    Args:
        step: of the checkpoint.
        state: its arrays, in the form in which they are restored.
        meta: what JSON can say.
        score: of the step.
    """
    content = {
        "step": step,
        "score": score,
        "arrays": array_checksums(state),
        "meta": dict(meta),
    }
    # Through JSON and back, so that the checksum is of what reading will find.
    content = json.loads(json.dumps(content))
    return {
        "format_version": FORMAT_VERSION,
        "checksum": canonical_checksum(content),
        "checkpoint": content,
    }


def read_document(document: Any, step: int) -> Document:
    """Takes a JSON item apart.

    Args:
        document: what the file holds.
        step: of the folder that it lies in.

    Raises:
        DamagedError: it is not what ``make_document`` made for this step, nor of the first format.
    """
    if not isinstance(document, dict):
        raise DamagedError("meta", f"a {type(document).__name__}", "a mapping")
    if not {"format_version", "checksum", "checkpoint"} & document.keys():
        missing = [key for key in _FIRST_FORMAT if key not in document]
        if missing:
            raise DamagedError(missing[0], "nothing", "an entry of this name")
        _check_kinds(document)
        return Document(document, None, None)
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
    return Document(content["meta"], content["score"], content["arrays"])


def check_arrays(found: Any, arrays: Mapping[str, int]) -> None:
    """Refuses restored arrays that are not those that were saved, to the bit.

    Args:
        found: the restored state.
        arrays: path -> checksum, from the document.

    Raises:
        DamagedError: naming the first array that differs.
    """
    computed = array_checksums(found)
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
