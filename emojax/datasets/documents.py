"""JSON files with a checksum, which shows when they were damaged or edited."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import crc32c

from emojax.errors import InputError

FORMAT_VERSION = 1
# JSON takes up to 30 times its size in memory. This is room for 100,000 videos, or for the
# statistics of 50 folds of ten streams of 2,000 columns.
MAX_BYTES = 64 * 2**20


def write_document(path: Path, content: dict[str, Any]) -> None:
    """Writes ``content`` with the format's version and its checksum, and flushes it to disk.

    The checksum is CRC-32C over the content in canonical form (keys sorted, no spaces), so
    that re-indenting a file does not spoil it and changing any value does.

    Raises:
        InputError: it would be larger than ``read_document`` reads.
    """
    checksum = canonical_checksum(content)
    document = {"format_version": FORMAT_VERSION, "checksum": checksum, **content}
    # One line per top-level entry: readable in a pager, and fast to write unlike indent=.
    lines = [
        f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}"
        for key, value in document.items()
    ]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    if len(text) > MAX_BYTES:  # json writes ASCII alone
        raise InputError(
            "A file of the store would be too large to be read again.",
            file=path,
            field="size",
            found=f"{len(text)} bytes",
            expected=f"at most {MAX_BYTES} bytes",
            remedy="build several stores",
        )
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def read_document(path: Path) -> dict[str, Any]:
    """Reads a document that ``write_document`` wrote.

    Returns:
        the content, with "checksum" (text) and without "format_version".

    Raises:
        InputError: the file is absent, is not JSON, has another version, or does not match its
            checksum.
    """
    remedy = "copy the store again or build it again"
    try:
        # Reading a pipe would wait, and reading a device would never end.
        size = path.stat().st_size if path.is_file() else None
        if size is not None and size <= MAX_BYTES:
            document = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except OSError as error:
        raise InputError(
            "A file of the store cannot be read.",
            file=path,
            field="contents",
            found=error.strerror,
            expected="a readable file",
            remedy=remedy,
        ) from error
    # Deeply nested brackets reach the interpreter's recursion limit.
    except (ValueError, RecursionError) as error:
        raise InputError(
            "A file of the store is damaged.",
            file=path,
            field="contents",
            found=str(error)[:200],
            expected="JSON",
            remedy=remedy,
        ) from error
    if size is None or size > MAX_BYTES:
        raise InputError(
            "A file of the store cannot be read.",
            file=path,
            field="contents",
            found="no file" if size is None else f"{size} bytes",
            expected=f"a file of at most {MAX_BYTES} bytes",
            remedy=remedy,
        )
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
            found=repr(version)[:200],
            expected=FORMAT_VERSION,
            remedy="build the store again",
        )
    stored = document.pop("checksum", None)
    computed = canonical_checksum(document)
    if stored != computed:
        raise InputError(
            "A file of the store is damaged or was edited.",
            file=path,
            field="checksum",
            found=computed,
            expected=str(stored)[:200] if stored else "a checksum",
            remedy=remedy,
        )
    return {"checksum": stored, **document}


def canonical_checksum(content: Any) -> str:
    """Returns the CRC-32C of JSON content with sorted keys and no spaces, 8 hexadecimal digits."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return f"{crc32c.crc32c(canonical.encode()):08x}"


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")
