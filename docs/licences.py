"""Writes docs/licences.md: the licence of every locked package. ``make licences``.

Versions are those of requirements.lock; licences are what the packages installed here say of
themselves (``importlib.metadata``).
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, metadata, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]

# What packages write -> its SPDX name.
SAME = {
    "Apache Software License": "Apache-2.0",
    "Apache License": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "MIT License": "MIT",
    "BSD License": "BSD",
    "BSD 3-Clause License": "BSD-3-Clause",
    "3-Clause BSD License": "BSD-3-Clause",
    "Python Software Foundation License": "PSF-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
# Packages that say it in no usable form, or that install on other systems only; by their texts.
READ = {
    "colorama": "BSD-3-Clause",
    "cycler": "BSD-3-Clause",
    "grain": "Apache-2.0",
    "kiwisolver": "BSD-3-Clause",
    "matplotlib": "PSF-2.0 (matplotlib's own)",
    "nest-asyncio": "BSD-2-Clause",
    "pympi-ling": "MIT",
    "scipy": "BSD-3-Clause",
    "simple-parsing": "MIT",
    "uvloop": "MIT OR Apache-2.0",
}
# Licences that ask for more than naming their authors; a part of one is enough.
NOT_PERMISSIVE = re.compile(r"GPL|MPL|EPL|CDDL|EUPL")
# What that means here, for each package that has one.
MEANING = {
    "certifi": "root certificates of `requests`; used as it is",
    "crc32c": "a library of its own that is imported to check stores; nothing of it is in this "
    "repository, and anybody can put another version in its place",
    "hypothesis": "tests only; changes of its own files would have to be published",
    "pathspec": "reads ignore files for development tools",
    "tqdm": "progress bars of TensorFlow Datasets; used as it is",
}
HEAD = """# Licences

emojax is under Apache-2.0. This is what `requirements.lock` installs, made by `make licences`.
Kind: *direct* is named in `pyproject.toml`, *brought* comes with one of those, *development* serves
tests and checks only (or other systems than Linux). None of it is copied into this repository.

"""


def locked() -> dict[str, list[str]]:
    """Package -> its locked versions; there are two where Python 3.11 gets an older one."""
    pins: dict[str, list[str]] = {}
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines():
        if re.match(r"\w", line):
            pin = Requirement(line.rstrip("\\ "))
            name = canonicalize_name(pin.name)
            pins.setdefault(name, []).append(str(pin.specifier).removeprefix("=="))
    return pins


def licence(name: str) -> str:
    """Returns the licence in a package's metadata, under SPDX's name where ``SAME`` has one.

    Raises:
        KeyError: they say nothing of use, and ``READ`` has no entry.
    """
    if name in READ:
        return READ[name]
    try:
        found = metadata(name)
    except PackageNotFoundError:
        raise KeyError(name) from None
    said = found.get("License-Expression") or found.get("License") or ""
    if said and "\n" not in said.strip():
        return SAME.get(said.strip(), said.strip())
    # The last part of "License :: OSI Approved :: MIT License".
    classes = [text.split(" :: ")[-1] for text in found.get_all("Classifier") or []
               if text.startswith("License ::")]  # fmt: skip
    if len(classes) != 1:
        raise KeyError(name)
    return SAME[classes[0]]


def brought(wanted: Iterable[Requirement]) -> set[str]:
    """These packages and all that they require, as far as it is installed here."""
    todo = list(wanted)
    seen: set[tuple[str, str]] = set()
    while todo:
        one = todo.pop()
        for extra in ("", *one.extras):
            package = canonicalize_name(one.name), extra
            if package in seen:
                continue
            seen.add(package)
            try:
                needed = [Requirement(text) for text in requires(one.name) or []]
            except PackageNotFoundError:
                continue
            todo += [
                other
                for other in needed
                if other.marker is None or other.marker.evaluate({"extra": extra})
            ]
    return {name for name, _ in seen}


def page() -> str:
    """The whole document.

    Raises:
        KeyError: a package of which no licence is known, or no meaning of one that is not
            permissive.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [Requirement(text) for text in project["dependencies"]]
    direct, library = {canonicalize_name(one.name) for one in wanted}, brought(wanted)
    rows, restricted = [], []
    for name, versions in sorted(locked().items()):
        kind = "direct" if name in direct else "brought" if name in library else "development"
        said = licence(name)
        rows.append(f"| {name} | {', '.join(versions)} | {said} | {kind} |")
        if NOT_PERMISSIVE.search(said):
            restricted.append(f"- {name} ({said}, {kind}): {MEANING[name]}.")
    table = ["| package | version | licence | kind |", "| --- | --- | --- | --- |", *rows]
    notes = [
        "## Not permissive",
        "",
        *restricted,
        "- NumPy's and SciPy's wheels bring GCC's runtime libraries (GPL-3.0 with the GCC runtime",
        "  library exception, which allows it).",
        "- Not locked, and installed only if asked for: PyTorch (`[parity]`). `jax[cuda13]` and",
        "  `jax[cuda12]` bring NVIDIA's libraries and `jax[tpu]` brings libtpu, under NVIDIA's and",
        "  Google's own terms.",
    ]
    return HEAD + "\n".join([*table, "", *notes]) + "\n"


if __name__ == "__main__":
    try:
        (ROOT / "docs" / "licences.md").write_text(page(), encoding="utf-8")
    except KeyError as unknown:
        sys.exit(f"docs/licences.py: look up the licence of {unknown} and add it to READ, SAME or "
                 "MEANING")  # fmt: skip
