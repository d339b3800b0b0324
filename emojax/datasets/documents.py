"""JSON files that know when they were damaged or edited, and how to replace a file atomically."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import crc32c

from emojax.errors import InputError

FORMAT_VERSION = 1


def write_document(path: Path, content: dict[str, Any]) -> None:
    """Writes ``content`` with the format's version and its checksum, and flushes it to disk.

    The checksum is CRC-32C over the content in canonical form (keys sorted, no spaces), so
    that re-indenting a file does not spoil it and changing any value does.
    """
    document = {"format_version": FORMAT_VERSION, "checksum": _checksum(content), **content}
    # One line per top-level entry: readable in a pager, and fast to write unlike indent=.
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in document.items()]
    with path.open("w", encoding="utf-8") as file:
        file.write("{\n" + ",\n".join(lines) + "\n}\n")
        file.flush()
        os.fsync(file.fileno())


def read_document(path: Path) -> dict[str, Any]:
    """Reads what ``write_document`` wrote.

    Returns:
        the content, with "checksum" (text) and without "format_version".

    Raises:
        InputError: the file is absent, is not JSON, has another version, or does not match its
            checksum.
    """
    remedy = "copy the store again or build it again"
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(
            "A file of the store cannot be read.",
            file=path,
            field="contents",
            found=error.strerror,
            expected="a readable file",
            remedy=remedy,
        ) from error
    except ValueError as error:
        raise InputError(
            "A file of the store is damaged.",
            file=path,
            field="contents",
            found=str(error),
            expected="JSON",
            remedy=remedy,
        ) from error
    if not isinstance(document, dict) or "format_version" not in document:
        raise InputError(
            "This is not a file of a store.",
            file=path,
            field="format_version",
            found="none",
            expected=FORMAT_VERSION,
            remedy="give the folder that a data builder wrote",
        )
    version = document.pop("format_version")
    if version != FORMAT_VERSION:
        raise InputError(
            "The store has a format that this version cannot read.",
            file=path,
            field="format_version",
            found=version,
            expected=FORMAT_VERSION,
            remedy="build the store again",
        )
    stored = document.pop("checksum", None)
    computed = _checksum(document)
    if stored != computed:
        raise InputError(
            "A file of the store is damaged or was edited.",
            file=path,
            field="checksum",
            found=computed,
            expected=stored or "a checksum",
            remedy=remedy,
        )
    return {"checksum": stored, **document}


def _checksum(content: dict[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return f"{crc32c.crc32c(canonical.encode()):08x}"
