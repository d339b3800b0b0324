"""Replaces a file in one step, so that readers and kills see the old file or the new one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields the name of a temporary file, which replaces ``path`` when the block ends.

    The block writes and closes the file. If it raises, the file is deleted and ``path`` stays as
    it was::

        with replacing(folder / "scores.json") as partial:
            partial.write_text(text)

    Args:
        path: the file to replace or create; its folder exists.

    Raises:
        OSError: the file cannot be written.
    """
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
