"""Commands killed at random moments (SIGKILL): nothing may be lost, and the end is as without.

    python -m benchmarks.faults.kills --count=50 --seed=0
    python -m benchmarks.faults.kills --what=store,evaluation --count=10

training    ``emojax.train`` is killed up to three times and started again until it is done. After
            each kill the newest checkpoint that was whole before has to open, with its checksums.
            In the end all arrays of the checkpoints, what they say about the run, metrics.csv but
            for the time it took, and the scores equal those of a training that nobody killed, to
            the bit, and no unfinished file is left over.
store       ``data.synthetic`` is killed. The target is not there or whole, or, where it replaces
            a store, that one or the new one. Built again it has the same checksum.
evaluation  ``emojax.evaluate`` is killed. The run still opens, no byte of its checkpoints has
            changed, and evaluated again it gives the same scores and the same predictions.

Moments are drawn, some over the whole command and some within a phase of it, so that short phases
are met, too. A phase is what the process was in when it died. Whatever is lost or differs is
listed and makes the command end with status 1.
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
# What is expected of a started command, by what was killed.
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
        kind: of ``KINDS``.
        warm: forks the commands.
        folder: of all kinds alike; gets a folder of each.
        seed: of all moments.
        count: of kills.
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
    """True if nothing was lost and the end was the same."""
    return not (kill.lost or kill.differs)


def table(kind: str, kills: Sequence[Kill]) -> Table:
    """Kills by phase."""
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
    """All of the kills, or those before Ctrl-C; those that did harm are printed as they come."""
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
    """The warm process, and a folder for all that is made."""
    jax.config.update("jax_platforms", "cpu")
    logging.set_verbosity(logging.FATAL)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        with Warm(folder / "warm") as warm:
            yield warm, folder


def main(argv: list[str]) -> int:
    """Prints the tables; see the module."""
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
            # Those that an interruption left out count as well.
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
    flags.DEFINE_integer("count", 50, "How many kills of each kind.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of the moments.", lower_bound=0)
    flags.DEFINE_list("what", [TRAINING], f"What to kill: {', '.join(KINDS)}.")
    app.run(main)
