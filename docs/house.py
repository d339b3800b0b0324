"""Draws docs/house.png, the packages of emojax and their imports, and prints docs/house.md's table.

    python docs/house.py                 # the table on standard output
    python docs/house.py --write         # docs/house.png and the table in docs/house.md

A package is a folder of ``emojax``, one of the two folders beside it, the vocabulary's files
together, or the commands (train.py and its like) together. An arrow means: imports.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOP = ("data", "configs")
# Where a package is drawn, from left to right; in the middle if it is not named.
COLUMNS = {
    "training": -0.33, "exchange": 0.33, "datasets": -0.33, "models": 0.2, "layers": 0.2,
    "commands": -0.33,
    "data": -0.33, "configs": 0.52, "published": 0.4,
}  # fmt: skip
# Files of emojax that all others may import; its other files are commands.
VOCABULARY = (
    "specs", "types", "errors", "config_schema", "config_reading", "config_files", "screen",
    "configuration", "differences", "shipped", "small", "file_writing",
)  # fmt: skip
MARK = "<!-- written by docs/house.py -->"


def sources(root: Path = ROOT) -> list[Path]:
    """Returns the Python files of emojax, data and configs."""
    return [path for top in ("emojax", *TOP) for path in sorted((root / top).rglob("*.py"))]


def imported_modules(path: Path, root: Path = ROOT) -> set[str]:
    """Returns every module of the project that a file imports, anywhere in it.

    Modules that are named as text for importlib ("emojax.models.rjcma:RJCMA") count as well.
    """
    package = path.relative_to(root).with_suffix("").parts[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*parents, *([node.module] if node.module else [])])
            # "from emojax import specs" names a module after the import.
            found |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant):
            named = re.fullmatch(r"((emojax|data|configs)(\.\w+)+):\w+", str(node.value))
            found |= {named[1]} if named else set()
    return found


def package_of(module: str, root: Path = ROOT) -> str | None:
    """Returns the package of a dotted module name, None for those of other projects."""
    head, *rest = module.split(".")
    if head in TOP:
        return head
    if head != "emojax" or not rest:
        return None
    if (root / "emojax" / rest[0]).is_dir():
        return rest[0]
    if rest[0] in VOCABULARY:
        return "vocabulary"
    return "train.py, ..." if (root / "emojax" / f"{rest[0]}.py").is_file() else None


def measure(root: Path = ROOT) -> tuple[dict[str, list[int]], dict[str, Counter[str]]]:
    """Returns package -> lines of each of its files, and package -> package -> imports."""
    lines: dict[str, list[int]] = defaultdict(list)
    arrows: dict[str, Counter[str]] = defaultdict(Counter)
    for path in sources(root):
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        package = package_of(module, root) or "api"  # emojax/__init__.py
        lines[package].append(len(path.read_text(encoding="utf-8").splitlines()))
        for other in {package_of(name, root) for name in imported_modules(path, root)}:
            if other is not None and other != package:
                arrows[package][other] += 1
    return dict(lines), dict(arrows)


def floors(arrows: dict[str, Counter[str]], packages: list[str]) -> dict[str, int]:
    """Returns the floor of each package: one above the highest that it imports.

    Raises:
        SystemExit: packages import each other in a circle.
    """
    found: dict[str, int] = {}

    def floor(package: str, above: tuple[str, ...] = ()) -> int:
        if package in above:
            sys.exit(f"a circle of imports: {' -> '.join([*above, package])}")
        if package not in found:
            below = [floor(other, (*above, package)) for other in arrows.get(package, ())]
            found[package] = max(below, default=-1) + 1
        return found[package]

    for package in packages:
        floor(package)
    return found


def table(lines: dict[str, list[int]], floor_of: dict[str, int]) -> str:
    """Returns the Markdown table of the packages, from the top floor down."""
    rows = ["| package | files | lines | largest file |", "| --- | ---: | ---: | ---: |"]
    for package in sorted(lines, key=lambda name: (-floor_of[name], name)):
        counts = lines[package]
        rows.append(f"| {package} | {len(counts)} | {sum(counts)} | {max(counts)} |")
    every = [count for counts in lines.values() for count in counts]
    rows.append(f"| **all** | {len(every)} | {sum(every)} | {max(every)} |")
    return "\n".join(rows)


def draw(
    lines: dict[str, list[int]],
    arrows: dict[str, Counter[str]],
    floor_of: dict[str, int],
    path: Path,
) -> None:
    """Draws the packages on their floors. Arrows that others imply are left out."""
    import matplotlib.pyplot as plt

    where = {package: (COLUMNS.get(package, 0.0), floor_of[package]) for package in lines}
    figure, axes = plt.subplots(figsize=(9, 8), layout="constrained")
    for package, others in arrows.items():
        for other in others:
            if _implied(arrows, package, other):
                continue
            (x, y), (x_below, y_below) = where[package], where[other]
            axes.annotate(
                "", xy=(x_below, y_below + 0.28), xytext=(x, y - 0.28),
                arrowprops={"arrowstyle": "-|>", "color": "0.6", "shrinkA": 0, "shrinkB": 0},
            )  # fmt: skip
    for package, (x, y) in where.items():
        axes.text(
            x, y, f"{package}\n{sum(lines[package]):,} lines", ha="center", va="center",
            fontsize=9,
            bbox={"boxstyle": "round,pad=0.4", "facecolor": "#eaf1f8", "edgecolor": "#3b6ea5"},
        )  # fmt: skip
    axes.set_xlim(-0.6, 0.6)
    axes.set_ylim(-0.6, max(floor_of.values()) + 0.6)
    axes.axis("off")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _implied(arrows: dict[str, Counter[str]], package: str, other: str) -> bool:
    """Tells whether another import of a package leads to the same place."""

    def reaches(start: str) -> bool:
        return start == other or any(reaches(below) for below in arrows.get(start, ()))

    return any(reaches(below) for below in arrows[package] if below != other)


def main() -> None:
    """Prints the table, or writes it and the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/house.md and house.png")
    parser.add_argument("--root", type=Path, default=ROOT, help="of another checkout")
    given = parser.parse_args()
    lines, arrows = measure(given.root)
    floor_of = floors(arrows, sorted(lines))
    text = table(lines, floor_of)
    if not given.write:
        print(text)
        return
    page = given.root / "docs" / "house.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(MARK)
    after = rest.partition(MARK)[2]
    page.write_text(f"{before}{MARK}\n\n{text}\n\n{MARK}{after}", encoding="utf-8")
    draw(lines, arrows, floor_of, given.root / "docs" / "house.png")


if __name__ == "__main__":
    main()
