"""Many commands at the price of one: a process imports once and forks for each of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.training_runs import subprocess_environment

ROOT = Path(__file__).parents[1]

# Imports what the commands import, but not their modules, which run as __main__. A
# command that ends in an orderly way leaves at once: taking an interpreter apart costs more than
# most of these commands do.
_FORKING = """
import gc, json, os, runpy, sys
import emojax.commands.cli, emojax.scoring.evaluation, emojax.training.loop
import emojax.prediction.trained_run
import emojax.reporting.fold_picture, emojax.reporting.results_folder
{preparation}

folder = sys.argv[1]
gc.freeze()
for name, (module, *flags) in json.load(open(os.path.join(folder, "cases.json"))).items():
    child = os.fork()
    if child == 0:
        for stream in (1, 2):
            path = os.path.join(folder, f"{{name}}.{{stream}}")
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
        sys.argv = [module, *flags]
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            if not isinstance(end.code, int | None):
                raise
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code or 0)
        sys.exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    open(os.path.join(folder, f"{{name}}.status"), "w").write(str(status))
"""


def run_forked(
    folder: Path,
    cases: Mapping[str, Sequence[str]],
    *,
    columns: int | None = None,
    preparation: str = "",
) -> Path:
    """Runs all cases, one after another, as ``python -m`` would, and returns the folder.

    Args:
        folder: where the output NAME.1, the errors NAME.2 and NAME.status of each case go.
        cases: name -> module and flags.
        columns: width of the terminal; None leaves it open.
        preparation: Python that is run after the imports and before the cases.
    """
    folder.mkdir(exist_ok=True)
    (folder / "cases.json").write_text(json.dumps(cases))
    width = {} if columns is None else {"COLUMNS": str(columns)}
    done = subprocess.run(
        [sys.executable, "-c", _FORKING.format(preparation=preparation), str(folder)],
        env=subprocess_environment() | {"PYTHONPATH": str(ROOT)} | width,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return folder


def said(folder: Path, name: str, status: int = 0) -> tuple[str, str]:
    """Returns output and errors of a case, which must have ended with this status."""
    output, errors = ((folder / f"{name}.{stream}").read_text() for stream in (1, 2))
    assert int((folder / f"{name}.status").read_text()) == status, errors[-3000:]
    return output, errors
