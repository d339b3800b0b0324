"""Kills commands at random moments (SIGKILL): no data may be lost, and the results stay the same.

    python -m benchmarks.faults.kills --count=50 --seed=0
    python -m benchmarks.faults.kills --what=store,evaluation --count=10

training    ``emojax.train`` is killed up to three times and started again until it ends. After
                each kill the newest complete checkpoint must open, with its checksums. In the end
                the arrays and descriptions in the checkpoints, metrics.csv except for times, and
                the scores must equal those of an undisturbed training to the bit, and no
                unfinished file may be left.
    store       ``data.synthetic`` is killed. The target must be missing or complete; if the build
                replaces a store, it must be the old or the new one. Built again, it must have the
                same checksum.
    evaluation  ``emojax.evaluate`` is killed. The run must still open, its checkpoints must be
                unchanged, and a second evaluation must give the same scores and predictions.

Some moments are drawn over the whole command, others within one of its phases, so that short phases
are killed, too. Every loss and every difference is listed, and the command then ends with status 1.
"""

from __future__ import annotations

import collections
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
from absl import app, flags, logging
from rich.table import Table

from benchmarks.faults.forks import Warm
from benchmarks.faults.killed_training import PHASES, Kill, KilledTrainings
from benchmarks.faults.killed_writing import (
    EVALUATION_PHASES,
    STORE_PHASES,
    KilledBuilds,
    KilledEvaluations,
)
from emojax.screen import console

TRAINING, STORE, EVALUATION = KINDS = ("training", "store", "evaluation")
# Kind of killed command -> the expected result of starting it again.
_AGAIN = {
    TRAINING: "resumed bit for bit",
    STORE: "built again alike",
    EVALUATION: "evaluated again alike",
}
_PHASES = {TRAINING: PHASES, STORE: STORE_PHASES, EVALUATION: EVALUATION_PHASES}


def kills_of(
    kind: str, warm: Warm, folder: Path, seed: int, count: int, *, short: bool = False
) -> Iterator[Kill]:
    """Kills commands of a kind.

    Args:
        kind: one of ``KINDS``.
        warm: the warm process, which forks the commands.
        folder: the folder of all kinds; each kind gets a folder in it.
        seed: the seed of all moments.
        count: the number of kills.
        short: see ``KilledTrainings``.
    """
    if kind == TRAINING:
        yield from KilledTrainings(warm, folder / "training", seed, short=short).kills(count)
    elif kind == STORE:
        yield from KilledBuilds(warm, folder / "store", seed).kills(count)
    else:
        reference = folder / "training" / "reference"
        if not reference.exists():
            reference = KilledTrainings(warm, folder / "training", seed, short=True).reference
        yield from KilledEvaluations(warm, reference, seed).kills(count)


def good(kill: Kill) -> bool:
    """Returns True if the kill caused no loss and no difference."""
    return not (kill.lost or kill.differs)


def table(kind: str, kills: Sequence[Kill]) -> Table:
    """Returns a table of kills by phase."""
    shown = Table(title=f"killed: {kind}", title_justify="left")
    shown.add_column("phase")
    for name in ("kills", _AGAIN[kind], "lost"):
        shown.add_column(name, justify="right")
    for phase in (*_PHASES[kind], "all"):
        of = [kill for kill in kills if phase in (kill.phase, "all")]
        alike, lost = sum(not kill.differs for kill in of), sum(bool(kill.lost) for kill in of)
        shown.add_row(phase, str(len(of)), str(alike), str(lost), end_section=False)
    return shown


def told(kind: str, kills: Iterator[Kill]) -> list[Kill]:
    """Returns all kills, or those before Ctrl-C; prints the harmful ones as they come."""
    found: list[Kill] = []
    last = time.monotonic()
    with contextlib.suppress(KeyboardInterrupt):
        for kill in kills:
            found.append(kill)
            if not good(kill):
                print(f"{kind} {kill.run}, killed in {kill.phase}: {kill.lost} {kill.differs}")
            if time.monotonic() - last > 30:
                print(f"{kind}: {len(found)} killed", file=sys.stderr)
                last = time.monotonic()
    return found


@contextlib.contextmanager
def prepared() -> Iterator[tuple[Warm, Path]]:
    """Yields the warm process, and a folder for all files."""
    jax.config.update("jax_platforms", "cpu")
    logging.set_verbosity(logging.FATAL)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        with Warm(folder / "warm") as warm:
            yield warm, folder


def main(argv: list[str]) -> int:
    """Prints the tables of kills; see the module."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]}")
    given, bad, started = flags.FLAGS, 0, time.monotonic()
    kinds = [kind for kind in KINDS if kind in given.what]
    if set(given.what) - set(KINDS) or not kinds:
        raise app.UsageError(f"--what: some of {', '.join(KINDS)}")
    with prepared() as (warm, folder):
        for kind in kinds:
            kills = told(kind, kills_of(kind, warm, folder, given.seed, given.count))
            console().print(table(kind, kills))
            fine = sum(map(good, kills))
            # Kills that an interruption left out count as bad.
            bad += given.count - fine
            commands = len(collections.Counter(kill.run for kill in kills))
            print(
                f"{fine} of {len(kills)} kills lost nothing and were {_AGAIN[kind]}, "
                f"in {commands} commands\n",
                flush=True,
            )
    print(f"{time.monotonic() - started:.0f} s")
    return int(bad > 0)


if __name__ == "__main__":
    flags.DEFINE_integer("count", 50, "Number of kills of each kind.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Seed of the moments.", lower_bound=0)
    flags.DEFINE_list("what", [TRAINING], f"Kinds of commands to kill: {', '.join(KINDS)}.")
    app.run(main)
