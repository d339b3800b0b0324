"""Damages stores and checkpoints at random; each damage must be reported clearly or be harmless.

    python -m benchmarks.faults.corruptions --count=1000 --seed=0
    python -m benchmarks.faults.corruptions --seed=0 --only=17

A small store is written and a run is trained on it. Each corruption damages one file of a copy.
Then all that evaluation, prediction and a continued training read is read. Outcomes:

    clear error   an InputError of one screen
    harmless      all that was read is the same to the last bit; predictions are computed and
                  compared, too, and for every tenth of these also an epoch of training
    SILENT        something else was read, without an error
    TRACEBACK     any other exception
    CRASH, HANG, HUGE   the process ended, took over a minute, or 512 MiB more memory

The outcomes in capitals are bugs. They are listed with their numbers, and the command then ends
with status 1.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging

from benchmarks.faults.damage import damage
from benchmarks.faults.small_run import Reading, make, same_bits, session_of
from emojax.datasets.source import Store
from emojax.errors import InputError

GOOD = ("clear error", "harmless")
BAD = ("SILENT", "TRACEBACK", "CRASH", "HANG", "HUGE")
_SECONDS = 60.0
_MEMORY = 512 * 2**20
# The lines and characters of one screen.
_LINES, _CHARACTERS = 24, 2000
_TRAINED = 10  # one of this many harmless cases is also trained on


@dataclasses.dataclass(frozen=True)
class Case:
    """A corruption and its outcome.

    Attributes:
        number: the number, which together with the seed repeats the corruption.
        kind: the kind of the damaged file.
        file: the damaged file.
        how: the way in which it was damaged.
        outcome: one of ``GOOD`` or ``BAD``.
        message: the error, or a description of the difference.
        seconds: the time that the case took.
    """

    number: int
    kind: str
    file: str
    how: str
    outcome: str
    message: str
    seconds: float


class Corruptions:
    """Tries corruptions of a prepared folder.

    Args:
        folder: the folder with ``store`` and ``run``, see ``small_run.make``.
        scratch: the folder for copies.
        seed: the seed of all corruptions.
        compute: if True, also predicts from what was read, and trains on with every tenth.
    """

    def __init__(self, folder: Path, scratch: Path, seed: int, *, compute: bool = True) -> None:
        self.folder = folder
        self._compute = compute
        self._scratch = scratch
        self._seed = seed
        with Store(folder / "store") as store:
            self.reading = Reading(session_of(store))
        self._expected = {name: read(folder) for name, read in self._steps().items()}
        if compute:
            copy = scratch / "golden"
            shutil.copytree(folder, copy)
            self._expected["training"] = self.reading.training(copy)
            shutil.rmtree(copy)

    def _steps(self) -> dict[str, Callable[[Path], Any]]:
        reading = self.reading
        steps = {
            "store": reading.store,
            "evaluation": reading.evaluation,
            "resuming": reading.resuming,
        }
        return steps | ({"prediction": reading.prediction} if self._compute else {})

    def attempt(self, number: int) -> Case:
        """Damages a copy, reads it and returns the outcome."""
        rng = np.random.default_rng([self._seed, number])
        copy = self._scratch / f"case-{number}"
        started, before = time.monotonic(), _peak()
        try:
            done = damage(self.folder, copy, rng)
            outcome, message = self._outcome(copy, train=self._compute and number % _TRAINED == 0)
        finally:
            shutil.rmtree(copy, ignore_errors=True)
        if _peak() - before > _MEMORY:
            outcome, message = "HUGE", f"{(_peak() - before) >> 20} MiB; {message}"
        seconds = time.monotonic() - started
        return Case(number, done.kind, done.file, done.how, outcome, message, seconds)

    def _outcome(self, copy: Path, *, train: bool) -> tuple[str, str]:
        steps = self._steps()
        if train:
            steps["training"] = self.reading.training
        refused = ""
        for name, read in steps.items():
            if refused and name in ("prediction", "training"):
                continue
            outcome, message = self._read(name, read, copy)
            if outcome in BAD:
                return outcome, f"{name}: {message}"
            if outcome == "clear error":
                refused = refused or f"{name}: {message}"
        return ("clear error", refused) if refused else ("harmless", "")

    def _read(self, name: str, read: Callable[[Path], Any], copy: Path) -> tuple[str, str]:
        try:
            found = read(copy)
        except InputError as error:
            text = str(error)
            if text.count("\n") >= _LINES or len(text) > _CHARACTERS:
                return "TRACEBACK", f"an error of more than one screen: {text[:500]}"
            return "clear error", text
        except Exception:
            return "TRACEBACK", traceback.format_exc(limit=-6)
        if same_bits(found, self._expected[name]):
            return "harmless", ""
        return "SILENT", "what was read differs"


def _peak() -> int:
    """Returns the peak of the process's memory in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def attempt_all(folder: Path, scratch: Path, seed: int, numbers: Iterable[int]) -> Iterator[Case]:
    """Tries corruptions in another process, and restarts it if it hangs or ends."""
    waiting = list(numbers)
    while waiting:
        ours, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=_work, args=(folder, scratch, seed, waiting, theirs))
        process.start()
        theirs.close()
        patience = 10 * _SECONDS  # the first answer takes imports and programs to compile
        try:
            while waiting:
                ended = False
                if ours.poll(patience):
                    try:
                        case = ours.recv()
                    except EOFError:
                        ended = True
                    else:
                        waiting.remove(case.number)
                        patience = _SECONDS
                        yield case
                        continue
                number = waiting.pop(0)
                yield Case(number, "", "", "", "CRASH" if ended else "HANG", "", patience)
                break
        finally:
            process.kill()
            process.join()


def _work(folder: Path, scratch: Path, seed: int, numbers: list[int], answers: Connection) -> None:
    _quiet(folder.parent)
    # Hides the output of Orbax and of trainings; only the returned cases count.
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    corruptions = Corruptions(folder, scratch, seed)
    for number in numbers:
        answers.send(corruptions.attempt(number))


def _quiet(cache: Path) -> None:
    logging.set_verbosity(logging.FATAL)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_compilation_cache_dir", str(cache / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def table(cases: Iterable[Case]) -> str:
    """Returns a table of kinds of files by outcomes, in Markdown."""
    counts: dict[str, collections.Counter[str]] = {}
    for case in cases:
        counts.setdefault(case.kind or "unknown", collections.Counter())[case.outcome] += 1
    total = sum(counts.values(), collections.Counter())
    columns = [*GOOD, *BAD]
    lines = ["| damaged file | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for kind, row in [*sorted(counts.items()), ("all", total)]:
        lines.append(f"| {kind} | " + " | ".join(str(row[name]) for name in columns) + " |")
    return "\n".join(lines)


def run(count: int, seed: int, only: int | None) -> list[Case]:
    """Makes the store and the run; prints and returns the outcome of each corruption."""
    numbers = [only] if only is not None else list(range(count))
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        scratch = base / "copies"
        scratch.mkdir()
        _quiet(base)
        with contextlib.redirect_stdout(sys.stderr):
            make(base / "golden")
        before = _contents(base / "golden")
        cases = []
        for case in attempt_all(base / "golden", scratch, seed, numbers):
            cases.append(case)
            if case.outcome in BAD or only is not None:
                print(f"{case.number}: {case.outcome}, {case.file} {case.how}\n{case.message}")
            if len(cases) % 100 == 0:
                print(f"{len(cases)} of {len(numbers)} done", file=sys.stderr)
        if _contents(base / "golden") != before:
            raise AssertionError("reading changed the files that it read")
    return cases


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def main(argv: list[str]) -> int:
    """Prints the table of outcomes; see the module."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]}")
    cases = run(flags.FLAGS.count, flags.FLAGS.seed, flags.FLAGS.only)
    print(table(cases))
    slowest = max(case.seconds for case in cases)
    good = sum(case.outcome in GOOD for case in cases)
    print(
        f"\n{good} of {len(cases)} are clear errors or harmless; the slowest took {slowest:.1f} s"
    )
    return int(good < len(cases))


if __name__ == "__main__":
    flags.DEFINE_integer("count", 1000, "Number of corruptions.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Seed of all corruptions.", lower_bound=0)
    flags.DEFINE_integer("only", None, "Repeats the corruption of this number.", lower_bound=0)
    app.run(main)
