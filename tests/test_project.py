"""Tests the shipped files: the lock, the version and its changelog, the wheel."""

import re
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import emojax
from tests.wheels import build_wheel

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK_LINES = (ROOT / "requirements.lock").read_text().splitlines()
PINS = [Requirement(line.rstrip("\\ ")) for line in LOCK_LINES if re.match(r"\w", line)]


def pins_for(python: str) -> dict[str, Requirement]:
    """Returns package name -> its pin, on Linux with this Python."""
    place = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
    }
    chosen = [pin for pin in PINS if pin.marker is None or pin.marker.evaluate(place)]
    names = [canonicalize_name(pin.name) for pin in chosen]
    assert len(set(names)) == len(names), "a package is pinned twice"
    return dict(zip(names, chosen, strict=True))


def test_the_lock_names_no_address() -> None:
    # A pin, one of its hashes, or nothing: so no option, no host, no path, no account.
    pin = re.compile(r"[\w.-]+==[\w.!+-]+( ; [\w .<>='!()-]+)? \\")
    a_hash = re.compile(r"    --hash=sha256:[0-9a-f]{64}( \\)?")
    for number, line in enumerate(LOCK_LINES, 1):
        assert pin.fullmatch(line) or a_hash.fullmatch(line), f"line {number}: {line}"
    assert len(PINS) > 20


@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_the_lock_covers_the_requirements(python: str) -> None:
    pins = pins_for(python)
    for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]:
        wanted = Requirement(text)
        version = str(pins[canonicalize_name(wanted.name)].specifier).removeprefix("==")
        assert wanted.specifier.contains(version), f"{text}, but {version} is locked"


def test_the_lock_brings_no_other_framework() -> None:
    names = {canonicalize_name(pin.name) for pin in PINS}
    assert not names & {"torch", "tensorflow", "tensorflow-cpu", "keras"}


def test_every_locked_package_has_a_licence() -> None:
    """Names alone: a new version is no reason to write the table anew, a new package is."""
    table, notes = (ROOT / "docs" / "licences.md").read_text().split("## Not permissive")
    row = r"^\| ([\w.-]+) \| [\w., ]+ \| ([^|]+) \| (?:direct|brought|development) \|$"
    rows = re.findall(row, table, flags=re.MULTILINE)
    assert {name for name, _ in rows} == {canonicalize_name(pin.name) for pin in PINS}
    for name, licence in rows:
        assert (f"\n- {name} (" in notes) is bool(re.search("GPL|MPL", licence)), name


def test_the_changelog_knows_the_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    newest = re.search(r"^## \[(.+?)\](?: \((.+?)\))?", changelog, re.MULTILINE)
    assert newest is not None
    # What is not released yet says which version it will be.
    assert (newest[2] if newest[1] == "Unreleased" else newest[1]) == emojax.__version__


@pytest.mark.slow
def test_the_wheel_holds_emojax_alone(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    files = zipfile.ZipFile(build_wheel(tmp_path)).namelist()
    info = f"emojax-{emojax.__version__}.dist-info"
    assert {file.split("/")[0] for file in files} == {"emojax", info}
    expected = {
        f"{place}/{path.relative_to(ROOT / folder)}"
        for folder, place in {
            "emojax": "emojax", "data": "emojax/builders", "configs": "emojax/configs"
        }.items()
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".js", ".css", ".html", ".j2")
    }  # fmt: skip
    shipped = {file for file in files if file.startswith("emojax/")}
    assert shipped == expected, "a new package has to be listed in pyproject.toml, tool.setuptools"
    assert f"{info}/licenses/LICENSE" in files


def test_a_licence_text_goes_with_it() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
