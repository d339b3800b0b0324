"""Nothing that is read can run code: no pickles, no shells, no names imported from files."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from emojax.errors import InputError
from emojax.models import model_class, model_names

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("emojax", "data", "configs", "benchmarks")
# The one module that may import pickle. It reads pickled features on request (--allow_pickle),
# scans the file first, and its Unpickler finds stand-ins of its own in place of every name.
RESTRICTED = "data/features/restricted_pickle.py"
PICKLING = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "joblib", "cloudpickle"}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
# They import modules of this project by names that they look up in a table first.
TABLES = {
    "emojax/__init__.py",
    "emojax/commands/verbs.py",
    "emojax/models/__init__.py",
    "emojax/shipped.py",
    "benchmarks/torch_models/__init__.py",
    "benchmarks/workload.py",
}
# Its option of this name opens data/features/restricted_pickle.py, not NumPy's.
OWN_OPTION = "parse_features"


def offences(tree: ast.AST) -> list[str]:
    """Returns the parts of a module that could run code from a file."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            names = []
        found += [f"import {name}" for name in names if name.split(".")[0] in PICKLING]
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if called in CALLS:
            found.append(called)
        if called == "importlib.import_module" and not isinstance(node.args[0], ast.Constant):
            found.append(called)
        if called != OWN_OPTION and keywords.get("allow_pickle", "False") != "False":
            found.append("allow_pickle")
        if keywords.get("shell", "False") != "False":
            found.append("shell")
        if called.endswith("yaml.load") or called == "yaml.unsafe_load":
            found.append(called)
        if called == "torch.load" and keywords.get("weights_only") != "True":
            found.append(called)
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_module_could_run_what_it_reads(folder: str) -> None:
    modules = sorted((ROOT / folder).rglob("*.py"))
    assert modules
    for path in modules:
        found = offences(ast.parse(path.read_text(encoding="utf-8")))
        name = path.relative_to(ROOT).as_posix()
        if name in TABLES or name == "benchmarks/spread_systems.py":  # looks up configs/ by SYSTEMS
            found = [what for what in found if what != "importlib.import_module"]
        if name == RESTRICTED:
            found = [what for what in found if what != "import pickle"]
        assert not found, f"{name}: {', '.join(found)}"


def test_the_module_that_imports_pickle_never_uses_its_own_names() -> None:
    tree = ast.parse((ROOT / RESTRICTED).read_text(encoding="utf-8"))
    used = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert {name for name in used if name.startswith("pickle.")} == {
        "pickle.Unpickler",
        "pickle.UnpicklingError",
    }
    (unpickler,) = [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and "pickle.Unpickler" in map(ast.unparse, node.bases)
    ]
    assert "find_class" in {node.name for node in unpickler.body if hasattr(node, "name")}
    assert "super().find_class" not in used


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=given)",
        "eval(text)",
        "os.system(text)",
        "subprocess.run(text, shell=True)",
        "yaml.load(text)",
        "torch.load(path)",
        "importlib.import_module(name)",
    ],
)
def test_what_it_looks_for_is_found(code: str) -> None:
    assert offences(ast.parse(code))
    harmless = "np.load(path, allow_pickle=False); torch.load(path, weights_only=True)"
    assert not offences(ast.parse(harmless))


def test_models_come_from_this_package() -> None:
    for name in model_names():
        assert model_class(name).__module__ == f"emojax.models.{name}"
    # Modules that are no models, and names that lead out of the folder.
    for name in (
        "checks",
        "torch_names",
        "torch_layouts",
        "..core.session",
        "rjcma.RJCMA",
        "os",
        "",
        "antigravity",
    ):
        with pytest.raises(InputError):
            model_class(name)
