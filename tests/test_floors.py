"""Tests the structure of the project: imports only go down, and each part keeps its purpose."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs import house

ROOT = Path(__file__).resolve().parents[1]
# "About 400", with some room where a file is a list of cases.
MAX_LINES = {"tests": 450}
DEFAULT_MAX_LINES = 420

# Part -> the parts it may import. A part is a folder or a file of emojax, or a top-level folder.
VOCABULARY = {"specs", "types", "errors", "config_schema", "config_reading", "file_writing"}
VOCABULARY |= {"differences"}
BELOW_MODELS = VOCABULARY | {"ops", "layers"}
DATASETS = VOCABULARY | {"ops", "datasets"}
CORE = BELOW_MODELS | {"models", "datasets", "core"}
RUNDIR = CORE | {"rundir", "__init__"}
PREDICTION = RUNDIR | {"prediction", "screen"}
TRAINING = PREDICTION | {"training"}
SCORING = PREDICTION | {"scoring"}
REPORTING = SCORING | {"reporting", "config_files", "shipped"}
EXCHANGE = PREDICTION | {"exchange"}
STUDIES = REPORTING | {"studies"}
API = REPORTING | TRAINING | EXCHANGE | {"api"}
PAPERS = STUDIES | TRAINING | EXCHANGE
PAPERS |= {"papers", "published", "small"}
ALLOWED = {
    "__init__": VOCABULARY | {"api", "config_files", "models", "reporting"},  # when used
    "specs": VOCABULARY,
    "types": VOCABULARY,
    "errors": VOCABULARY,
    "file_writing": VOCABULARY,
    "differences": VOCABULARY,
    "config_schema": VOCABULARY,
    "config_reading": VOCABULARY,
    "config_files": VOCABULARY | {"shipped"},
    "configuration": VOCABULARY,
    "small": VOCABULARY,
    "screen": VOCABULARY,
    "shipped": VOCABULARY,
    "ops": VOCABULARY | {"ops"},
    "layers": BELOW_MODELS,
    "published": VOCABULARY | {"published"},
    "models": BELOW_MODELS | {"models"},
    "datasets": DATASETS,
    "core": CORE,
    "rundir": RUNDIR,
    "prediction": PREDICTION,
    "training": TRAINING,
    "scoring": SCORING,
    "reporting": REPORTING,
    "exchange": EXCHANGE,
    "api": API,
    "studies": STUDIES,
    "papers": PAPERS,
    "commands": CORE | {"__init__", "screen", "shipped", "commands"},
    "data": DATASETS | {"commands", "screen", "data", "__init__"},
    "configs": VOCABULARY | {"configuration", "configs", "published", "small"},
}
# train, evaluate, predict and what joins them: flags and wiring, which nothing else imports.
ENTRY_POINTS = PAPERS | API | {"commands"}

# The same name on purpose: a model and its configs, and the data set of which one command builds a
# store and on which another trains.
SAME_NAME = [{"data.epic2023", "emojax.epic2023"}] + [
    {f"emojax.models.{path.stem}", f"configs.{path.stem}"}
    for path in sorted((ROOT / "configs").glob("*.py"))
    if path.stem != "__init__" and (ROOT / "emojax" / "models" / path.name).is_file()
]

PURE = ("ops", "layers", "models")
IMPURE_MODULES = {
    "absl", "argparse", "datetime", "io", "logging", "os", "pathlib", "random", "shutil", "socket",
    "subprocess", "sys", "tempfile", "threading", "time",
}  # fmt: skip


def sources(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in found if not any(part.startswith(".") for part in path.parts[:-1])]


def part_of(module: str) -> str | None:
    """Returns the part of the house that a dotted module name lies in; None outside the house."""
    head, *rest = module.split(".")
    if head == "emojax":
        return rest[0] if rest else "__init__"
    return head if head in ("data", "configs") else None


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def parts_imported(path: Path) -> set[str]:
    """Returns the parts of the house that a file imports; a name of emojax itself is "__init__"."""
    found: set[str] = set()
    for module in house.imported_modules(path, ROOT):
        part = part_of(module)
        if part is None:
            continue
        known = (ROOT / "emojax" / part).is_dir() or (ROOT / "emojax" / f"{part}.py").is_file()
        found.add(part if known or part in ("data", "configs") else "__init__")
    return found


@pytest.mark.parametrize("path", sources("emojax", "data", "configs"), ids=module_of)
def test_imports_only_go_down(path: Path) -> None:
    part = part_of(module_of(path))
    assert part is not None
    allowed = ALLOWED.get(part, ENTRY_POINTS)
    above = parts_imported(path) - allowed - {part}
    assert not above, f"{path.relative_to(ROOT)} may not import {sorted(above)}"


def test_every_folder_has_a_rule() -> None:
    folders = {path.parent.name for path in (ROOT / "emojax").glob("*/__init__.py")}
    assert folders <= set(ALLOWED)


def test_the_rules_see_what_they_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A checker that finds nothing passes as well, so check the checker.
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    file = tmp_path / "emojax" / "models" / "some.py"
    for name in ("core", "datasets", "layers", "models"):
        (tmp_path / "emojax" / name).mkdir(parents=True)
    file.write_text(
        "from emojax import layers\nfrom .. import core\nfrom . import other\n"
        "def late():\n    import emojax.datasets.store\n    import data.synthetic\n"
        "TABLE = {'x': 'configs.rjcma:Config'}\n"
    )
    assert parts_imported(file) == {"layers", "core", "models", "datasets", "data", "configs"}


@pytest.mark.parametrize("path", sources("emojax", "configs", "launch"), ids=module_of)
def test_nothing_imports_the_builders(path: Path) -> None:
    assert "data" not in {module.split(".")[0] for module in house.imported_modules(path, ROOT)}


@pytest.mark.parametrize("path", sources(*(f"emojax/{part}" for part in PURE)), ids=module_of)
def test_no_io_clock_flags_or_globals_below_core(path: Path) -> None:
    heads = {module.split(".")[0] for module in house.imported_modules(path, ROOT)}
    assert not heads & IMPURE_MODULES
    for node in ast.walk(tree_of(path)):
        assert not isinstance(node, ast.Global | ast.Nonlocal), f"line {node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("open", "print", "input"), f"line {node.lineno}"


@pytest.mark.parametrize("path", sources("emojax", "data", "configs"), ids=module_of)
def test_no_foreign_framework_and_no_pickle(path: Path) -> None:
    heads = {module.split(".")[0] for module in house.imported_modules(path, ROOT)}
    if module_of(path) == "data.features.restricted_pickle":  # see tests/test_no_code_in_files.py
        heads -= {"pickle"}
    assert not heads & {"tensorflow", "torch", "pickle", "dill", "cloudpickle", "joblib"}
    for node in ast.walk(tree_of(path)):
        # The option of parse_features opens data/features/restricted_pickle.py, not NumPy's reader.
        if isinstance(node, ast.Call) and ast.unparse(node.func) != "parse_features":
            allowed = [k.value for k in node.keywords if k.arg == "allow_pickle"]
            assert all(isinstance(v, ast.Constant) and v.value is False for v in allowed)


@pytest.mark.parametrize("path", sources("emojax", "data", "configs"), ids=module_of)
def test_public_names_tell_what_they_are(path: Path) -> None:
    tree = tree_of(path)
    assert ast.get_docstring(tree) or not tree.body, "the module has no docstring"
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        assert ast.get_docstring(node), f"{node.name} has no docstring"
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            untyped = [argument.arg for argument in arguments if argument.annotation is None]
            assert not untyped, f"{node.name}: {untyped} have no type"
            assert node.returns is not None, f"{node.name} tells no return type"


def test_files_stay_short_and_have_a_purpose() -> None:
    long: dict[str, int] = {}
    for path in sources("emojax", "data", "configs", "tests", "benchmarks", "launch"):
        assert path.stem not in ("utils", "util", "helpers", "misc", "common"), path
        length = len(path.read_text(encoding="utf-8").splitlines())
        if length > MAX_LINES.get(path.relative_to(ROOT).parts[0], DEFAULT_MAX_LINES):
            long[module_of(path)] = length
    assert not long, f"too long, in lines: {long}"


def test_docstrings_state_and_do_not_ask() -> None:
    asks = re.compile(r"(What|How|Whether|Which|Where|When|Who)\b")
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    wrong, seen = [], 0
    for path in sources("emojax", "data", "configs", "benchmarks"):
        for node in ast.walk(tree_of(path)):
            text = ast.get_docstring(node) if isinstance(node, kinds) else None
            first = text.splitlines()[0] if text else ""
            seen += bool(text)
            if text and (asks.match(first) or not first.endswith((".", ":"))):
                wrong.append(f"{path.relative_to(ROOT)}: {first}")
    assert not wrong
    assert seen > 1000  # a checker that finds nothing passes as well


def test_no_file_can_be_taken_for_another() -> None:
    files: dict[str, list[str]] = {}
    for path in sources("emojax", "data", "configs"):
        # record.py and records.py are one name to a reader.
        files.setdefault(path.stem.replace("_", "").rstrip("s"), []).append(module_of(path))
    files.pop("init")
    twice = {name: found for name, found in files.items() if len(found) > 1}
    unexpected = {name: found for name, found in twice.items() if set(found) not in SAME_NAME}
    assert not unexpected
    assert set(twice["epic2023"]) == SAME_NAME[0]  # a checker that finds nothing passes as well


def test_the_page_about_the_house_names_every_package() -> None:
    lines, arrows = house.measure(ROOT)
    assert house.floors(arrows, sorted(lines))["train.py, ..."] > 0  # and there is no circle
    text = (ROOT / "docs" / "house.md").read_text(encoding="utf-8")
    named = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert set(lines) <= set(named)


def test_stores_and_builders_need_no_jax() -> None:
    """Building and reading stores imports neither JAX nor what only some files need."""
    code = (
        "import sys, emojax.datasets.source, data.import_features\n"
        "print(sorted({'jax', 'h5py', 'pyarrow', 'scipy.io'} & {*sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
