"""Compares runs on 1 and 8 devices, in 1 and 2 processes: ``python -m benchmarks.spread``.

    python -m benchmarks.spread --out=runs/spread
    python -m benchmarks.spread --out=runs/spread --systems=rjcma --optimised

Trains each of the five systems, narrow and on a small simulated store, by the usual command: on
one device, and in each of ``ARRANGEMENTS``, all of simulated CPU devices. Prints the differences of
losses, gradients, scores and predictions from those on one device, and writes OUT/spread.md after
each run. Ends with status 1 if a loss differs by more than 1e-5 of itself or a run fails.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from absl import flags

from benchmarks.results import Column, Missing, Table
from benchmarks.spread_gaps import TOLERANCE, gaps
from benchmarks.spread_systems import BATCH, EPOCH_STEPS, EPOCHS, SYSTEMS, WIDTH, streams
from emojax.commands import cli
from emojax.errors import InputError, closest
from emojax.rundir.workdir import SUMMARY_FILE

ROOT = Path(__file__).resolve().parents[1]
MARKDOWN_FILE = "spread.md"
# The error of a run whose processes started too far apart, as happens on busy machines.
_NOT_MET = "DEADLINE_EXCEEDED"
_SECONDS = 900


@dataclasses.dataclass(frozen=True)
class Arrangement:
    """Devices and processes of a run.

    Attributes:
        folder: the folder of the run, below that of the system.
        title: the title in the table.
        processes: the number of processes; several are started by ``launch/local.sh``.
        devices: the number of devices of each process.
        mesh: the number of devices along replica, data and spare.
        flags: further flags of the training.
        systems: the systems that are trained so; all by default.
        other_compilation: True for a run on one device that is compiled the other way: with XLA's
            optimisations if the others are without them, and the reverse. Its sums are the same
            but rounded differently.
    """

    folder: str
    title: str
    processes: int
    devices: int
    mesh: tuple[int, int, int]
    flags: tuple[str, ...] = ()
    systems: tuple[str, ...] = tuple(SYSTEMS)
    other_compilation: bool = False

    @property
    def total(self) -> int:
        """Returns the number of devices of all processes."""
        return self.processes * self.devices


_RESIDENT = ("--config.data.feed=resident", f"--config.train.steps_per_dispatch={EPOCH_STEPS}")
_ROWS_APART = ("--config.mesh.replica=1",)
REFERENCE = Arrangement("one", "1 process x 1 device", 1, 1, (1, 1, 1))
ARRANGEMENTS = (
    Arrangement("eight", "1 process x 8 devices", 1, 8, (2, 4, 1)),
    # Each process has one of the replicas.
    Arrangement("two_by_four", "2 processes x 4 devices", 2, 4, (2, 4, 1)),
    # Each process has half of the rows of a batch, for both replicas.
    Arrangement("two", "2 processes x 1 device", 2, 1, (1, 2, 1), _ROWS_APART),
    Arrangement(
        "two_by_four_resident", "2 processes x 4 devices, resident feed", 2, 4, (1, 4, 2),
        (*_RESIDENT, *_ROWS_APART), ("rjcma",),
    ),
    Arrangement(
        "eight_resident", "1 process x 8 devices, resident feed", 1, 8, (2, 4, 1),
        _RESIDENT, ("rjcma",),
    ),
    # The effect of rounding alone on parameters without a gradient, see docs/spread.md.
    Arrangement(
        "one_otherwise", "1 process x 1 device, compiled the other way", 1, 1, (1, 1, 1),
        systems=("tcn_transformer",), other_compilation=True,
    ),
)  # fmt: skip


def main(given: flags.FlagValues) -> None:
    """Trains, compares, prints and writes the table."""
    chosen = tuple(given.systems) or tuple(SYSTEMS)
    for system in chosen:
        if system not in SYSTEMS:
            raise InputError(
                "No system has this name.",
                field="--systems",
                found=system,
                expected="some of " + ", ".join(SYSTEMS),
                remedy=closest(system, SYSTEMS),
            )
    out = cli.folder("out", given.out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()) and not given.keep:
        raise InputError(
            "The folder of the runs is not empty.",
            file=out,
            field="--out",
            found="files",
            expected="an empty folder, or none",
            remedy="name another folder, or use the runs in this one with --keep",
        )
    table = _table(optimised=given.optimised)
    same, started = True, time.monotonic()
    for system in chosen:
        for row in _rows(given, out, system, started):
            same &= row.pop("same")
            table.add(**row)
            (out / MARKDOWN_FILE).write_text(table.markdown())
    table.show(cli.console(asked=True))
    if not same:
        sys.exit(1)


def _rows(
    given: flags.FlagValues, out: Path, system: str, started: float
) -> Iterator[dict[str, Any]]:
    """Yields the cells of each arrangement of a system; ``same`` is True if it agrees."""
    problem = _trained(given, out, system, REFERENCE, started)
    for arrangement in ARRANGEMENTS:
        if system not in arrangement.systems:
            continue
        row = {
            "system": system,
            "arrangement": arrangement.title,
            "mesh": " x ".join(str(size) for size in arrangement.mesh),
        }
        missing = problem or _trained(given, out, system, arrangement, started)
        if missing:
            numbers = ("first", "loss", "gradient", "score", "prediction")
            yield row | dict.fromkeys(numbers, missing) | {"same": False}
            continue
        found = gaps(*(out / system / one.folder for one in (REFERENCE, arrangement)))
        yield row | dataclasses.asdict(found) | {"same": found.same}


def _trained(
    given: flags.FlagValues, out: Path, system: str, arrangement: Arrangement, started: float
) -> Missing | None:
    """Trains a run that is not there yet; returns the reason if it fails."""
    workdir = out / system / arrangement.folder
    if _devices(workdir) == arrangement.total:
        return None
    if given.minutes and time.monotonic() - started > 60 * given.minutes:
        return Missing("not run: out of time, see --minutes")
    workdir.parent.mkdir(exist_ok=True)
    log = workdir.with_name(f"{workdir.name}.log")
    for _ in range(2):
        cli.say(f"{system}, {arrangement.title}")
        shutil.rmtree(workdir, ignore_errors=True)
        status = _run(
            _command(out, system, arrangement, workdir), _environment(given, out, arrangement), log
        )
        if status == 0 or _NOT_MET not in log.read_text():
            break
    if status:
        return Missing(f"{system}, {arrangement.title}: ended with status {status}, see {log.name}")
    if _devices(workdir) != arrangement.total:
        return Missing(f"{system}, {arrangement.title}: used {_devices(workdir)} devices")
    return None


def _run(command: list[str], environment: dict[str, str], log: Path) -> int:
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT
        )
        try:
            return process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            file.write(f"\nstopped after {_SECONDS} s\n")
        finally:
            # Not killed, because launch/local.sh must end the processes that it started.
            process.terminate()
            process.wait()
    return 124


def _devices(workdir: Path) -> int:
    """Returns the number of devices that a finished run used; 0 if there is no run."""
    file = workdir / SUMMARY_FILE
    told = json.loads(file.read_text()) if file.is_file() else {}
    return told["devices"]["count"] if told.get("status") == "done" else 0


def _command(out: Path, system: str, arrangement: Arrangement, workdir: Path) -> list[str]:
    command = [
        sys.executable, "-m", "emojax.train",
        f"--config=benchmarks/spread_systems.py:{system}",
        f"--config.data.store={_store(out)}",
        f"--workdir={workdir}",
        *arrangement.flags,
    ]  # fmt: skip
    if arrangement.processes == 1:
        return command
    launch = ["launch/local.sh", f"--processes={arrangement.processes}"]
    return [*launch, f"--devices_per_process={arrangement.devices}", "--", *command]


def _environment(given: flags.FlagValues, out: Path, arrangement: Arrangement) -> dict[str, str]:
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(arrangement.devices),
        "JAX_COMPILATION_CACHE_DIR": str(out / "compiled"),
        "MPLBACKEND": "Agg",
        "OMP_NUM_THREADS": "1",
    }
    if given.optimised == arrangement.other_compilation:
        # As in tests/conftest.py: a program compiles in an eighth of the time.
        quick = "--xla_cpu_parallel_codegen_split_count=1"
        if jax.__version_info__ < (0, 11):
            quick += " --xla_cpu_use_fusion_emitters=false"
        environment |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": quick}
    return environment


def _store(out: Path) -> Path:
    """Returns the store of all systems; builds it if it does not exist."""
    path, named = out / "store", streams()
    if not path.exists():
        command = [
            sys.executable, "-m", "data.synthetic", f"--out={path}", "--size=tiny",
            "--min_seconds=3", "--max_seconds=6", f"--streams={','.join(named)}",
            *(f"--width={name}={WIDTH}" for name in named),
        ]  # fmt: skip
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return path


def _table(*, optimised: bool) -> Table:
    return Table(
        "Largest differences from the run on one device",
        (
            Column("system", "system"),
            Column("arrangement", "run"),
            Column("mesh", "replica x data x spare"),
            Column("first", "loss of epoch 1, relative", 2),
            Column("loss", "loss, relative", 2),
            Column("gradient", "gradient norm, relative", 2),
            Column("score", "validation scores", 2),
            Column("prediction", "final predictions", 2),
        ),
        notes=[
            f"Two replicas, batches of {BATCH}, {EPOCHS} epochs of {EPOCH_STEPS} steps; over all "
            f"epochs and replicas. The loss has to agree to {TOLERANCE:.0e}.",
            f"Compiled with{'' if optimised else 'out'} XLA's optimisations"
            + ", and the other way in the row that is named so.",
        ],
    )


def define_flags(define: cli.Flags) -> None:
    """Defines the command's flags."""
    define.string("out", "runs/spread", "Empty folder for the runs and the table.")
    define.list("systems", [], "Some of " + ", ".join(SYSTEMS) + "; all by default.")
    define.bool("keep", False, "Keep the runs in OUT, and train only the missing ones.")
    define.float("minutes", 0.0, "Begin no training after this time; 0: no limit.")
    define.bool("optimised", False, "Compile with XLA's optimisations, which takes much longer.")


COMMAND = cli.Command(main, define_flags)

if __name__ == "__main__":
    COMMAND.run()
