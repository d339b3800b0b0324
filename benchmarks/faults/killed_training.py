"""Kills trainings at random moments, continues them and compares them with an undisturbed one."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.faults.forks import Command, Moment, Warm
from benchmarks.faults.small_run import STREAMS, config, same_bits
from benchmarks.random_store import random_store
from emojax.core.session import Session, abstract_normalisation, build_session
from emojax.datasets.source import Store
from emojax.rundir.checkpoint import FOLDER, Checkpoints, saved_steps
from emojax.rundir.metric_log import METRICS_FILE, read_metrics
from emojax.rundir.workdir import SUMMARY_FILE

EPOCHS, EPOCH_STEPS = 5, 40
_SHORT = 3, 20
MOST = 3  # kills of one run
# The phases of kills. In "save" the loop waits; the rest of a save runs beside the next steps.
BESIDE = "save, beside steps"
PHASES = ("start-up", "step", "validation", "metrics", "save", BESIDE, "report")
# The phases to kill in, in turn; "" is any moment. Short phases occur more often.
_AIMS = (
    "",
    "step",
    "save",
    "validation",
    "",
    "metrics",
    "save",
    "start-up",
    "validation",
    "report",
)


@dataclasses.dataclass(frozen=True)
class Kill:
    """A kill and its outcome.

    Attributes:
        run: the number of the training.
        phase: the phase in which the process was killed.
        step: the step of the newest complete checkpoint just before the kill; 0 for none.
        lost: the fault in the checkpoints after the kill; "" for none.
        differs: the difference of the finished training from the reference; "" for none.
    """

    run: int
    phase: str
    step: int
    lost: str
    differs: str = ""


@dataclasses.dataclass(frozen=True)
class _Result:
    """The results of a training: step -> (arrays, JSON) of its checkpoints, and its numbers."""

    checkpoints: dict[int, tuple[Any, Any]]
    metrics: dict[int, dict[str, float]]
    summary: dict[str, Any]


class KilledTrainings:
    """Kills trainings.

    Args:
        warm: the warm process, which forks the commands.
        folder: the folder for the store and the runs.
        seed: the seed of all moments.
        short: if True, uses fewer epochs and steps, and omits the second undisturbed training,
            which is compared with the reference and times the phases.

    Raises:
        RuntimeError: two undisturbed trainings differ, so kills cannot be judged.
    """

    def __init__(self, warm: Warm, folder: Path, seed: int, *, short: bool = False) -> None:
        self._warm, self._folder = warm, folder
        self._rng = np.random.default_rng(seed)
        self._epochs, self._epoch_steps = _SHORT if short else (EPOCHS, EPOCH_STEPS)
        # Without the second training the time of a command with compiled programs is unknown.
        self._aims = 1 if short else 0
        folder.mkdir(parents=True, exist_ok=True)
        # Grain shuffles a few windows slowly, because it draws until a number is small enough.
        store = folder / "store"
        frames = {"frames": 1600, "videos_per_fold": 1}
        random_store(store, STREAMS, ["va"], folds=2, **frames).close()
        settings = config(store, self._epochs)
        settings["train"] |= {"epoch_steps": self._epoch_steps, "learning_rate": 0.01}
        (folder / "config.json").write_text(json.dumps(settings))
        with Store(store) as opened:
            self._session: Session = build_session(settings, opened.streams, jax.devices()[:1])
        self.reference = folder / "reference"
        timed = self._warm.run(*self._command(self.reference))
        self._expected = self._result(self.reference)
        if not short:
            # Its programs are compiled already, as those of all later trainings are.
            again = folder / "control"
            timed = self._warm.run(*self._command(again))
            differs = self._differs(again)
            if differs:
                raise RuntimeError(f"two undisturbed trainings differ in {differs}")
            shutil.rmtree(again)
        self._durations = durations(timed)

    def kills(self, count: int) -> Iterator[Kill]:
        """Yields this many kills, in as many trainings as needed."""
        made = run = 0
        while made < count:
            for kill in self._one(run, min(int(self._rng.integers(1, MOST + 1)), count - made)):
                made += 1
                yield kill
            run += 1

    def _one(self, run: int, most: int) -> list[Kill]:
        """Kills one training up to ``most`` times; it may end before."""
        workdir = self._folder / f"run-{run:03d}"
        kills: list[Kill] = []
        while len(kills) < most:
            command = self._warm.start(*self._command(workdir))
            newest = max(saved_steps(workdir), default=0)
            seen = self._warm.kill_at(command, self._moment(newest), lambda: saved_steps(workdir))
            if seen is None:
                break
            (steps,) = seen
            newest = max(steps, default=0)
            kills.append(
                Kill(run, self._phase(command, workdir), newest, self._lost(workdir, newest))
            )
        else:
            command = self._warm.start(*self._command(workdir))
            self._warm.wait(command)
        if command.status:
            said = command.log.read_text().strip().splitlines()[-1:]
            differs = f"it ended with status {command.status}: {''.join(said)[:200]}"
        else:
            differs = self._differs(workdir)
        if not differs:
            shutil.rmtree(workdir)
        return [dataclasses.replace(kill, differs=differs) for kill in kills]

    def _command(self, workdir: Path) -> tuple[str, ...]:
        reader = Path(__file__).with_name("json_config.py")
        settings = f"--config={reader}:{self._folder / 'config.json'}"
        return "emojax.train", settings, f"--workdir={workdir}"

    def _moment(self, newest: int) -> Moment:
        aim = _AIMS[self._aims % len(_AIMS)]
        self._aims += 1
        left = max(1, self._epochs - newest // self._epoch_steps)
        return draw_moment(self._rng, aim, self._durations, left)

    def _phase(self, command: Command, workdir: Path) -> str:
        entered = command.entered()
        phase = entered[-1][0] if entered else "start-up"
        # Orbax saves beside the next steps, in a folder with another name.
        unfinished = list((workdir / FOLDER).glob("*.orbax-checkpoint-tmp*"))
        if phase in ("step", "validation", "metrics") and unfinished:
            return BESIDE
        return "report" if phase == "prediction" else phase

    # -- what is there -------------------------------------------------------------------------

    def _lost(self, workdir: Path, newest: int) -> str:
        """Returns a fault in the checkpoints of a killed training, or ""."""
        if not newest and not saved_steps(workdir):
            return ""
        try:
            with Checkpoints(workdir, read_only=True) as checkpoints:
                step = checkpoints.steps()[-1]
                self._restored(checkpoints, step)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return "" if step >= newest else f"step {step} after step {newest} was saved"

    def _restored(self, checkpoints: Checkpoints, step: int) -> tuple[Any, Any]:
        session = self._session
        abstract = {
            "train": session.abstract_state(),
            "normalisation": abstract_normalisation(session.streams, len(session.folds.keys)),
        }
        found = checkpoints.restore(abstract, step)
        return jax.device_get(found.state), found.meta

    def _result(self, workdir: Path) -> _Result:
        with Checkpoints(workdir, read_only=True) as checkpoints:
            saved = {step: self._restored(checkpoints, step) for step in checkpoints.steps()}
        rows = {
            step: {name: value for name, value in row.items() if name != "seconds_training"}
            for step, row in read_metrics(workdir / METRICS_FILE).items()
        }
        summary = json.loads((workdir / SUMMARY_FILE).read_text())
        told = ("status", "exit_code", "step", "checkpoint_step", "scores")
        return _Result(saved, rows, {name: summary.get(name) for name in told})

    def _differs(self, workdir: Path) -> str:
        """Returns the differences between a finished training and the reference, or ""."""
        try:
            found, expected = self._result(workdir), self._expected
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        names = [
            f"{field.name}{where}"
            for field in dataclasses.fields(_Result)
            for where in differences(getattr(found, field.name), getattr(expected, field.name))
        ]
        names += [
            f"left over: {path.name}" for path in sorted(workdir.rglob("*")) if _unfinished(path)
        ]
        return ", ".join(names[:4])


def _unfinished(path: Path) -> bool:
    return "orbax-checkpoint-tmp" in path.name or ".partial-" in path.name


def differences(found: Any, expected: Any) -> list[str]:
    """Returns the paths in a tree of arrays and plain values that differ in any bit."""
    pairs = [dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (found, expected)]
    return [
        jax.tree_util.keystr(path)
        for path in dict.fromkeys([*pairs[0], *pairs[1]])
        if any(path not in pair for pair in pairs) or not same_bits(*(pair[path] for pair in pairs))
    ]


def durations(command: Command) -> dict[str, float]:
    """Returns the median seconds of each phase of an ended command; "" is the whole command."""
    entered = command.entered()
    spans: dict[str, list[float]] = {"": [entered[-1][1] - entered[0][1]]}
    for (name, begun), (_, ended) in itertools.pairwise(entered):
        spans.setdefault(name, []).append(ended - begun)
    # The end of the last phase is not known; it writes a report.
    spans.setdefault(entered[-1][0], []).append(0.5)
    return {name: float(np.median(values)) for name, values in spans.items()}


def draw_moment(
    rng: np.random.Generator, aim: str, lasting: dict[str, float], times: int
) -> Moment:
    """Draws a random moment within a phase.

    Args:
        rng: the random generator.
        aim: the phase; "" for the whole command.
        lasting: the seconds of each phase, see ``durations``.
        times: the greatest number of times that the phase is entered.
    """
    once = aim in ("", "start-up", "report")
    which = 1 if once else int(rng.integers(1, times + 1))
    return Moment(aim, which, float(rng.uniform(0, lasting.get(aim, 0.0))))
