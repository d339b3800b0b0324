"""Kills builds of stores and evaluations at random moments, and starts them again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.faults.forks import Command, Warm
from benchmarks.faults.killed_training import Kill, differences, draw_moment, durations
from emojax.datasets.source import Store
from emojax.datasets.store import DATASET_FILE
from emojax.prediction.trained_run import open_run
from emojax.rundir.checkpoint import FOLDER

STORE_PHASES = ("start-up", "videos", "documents", "rename", "end")
EVALUATION_PHASES = ("start-up", "prediction", "report")
_STORE_AIMS = ("videos", "documents", "rename", "", "rename")
_EVALUATION_AIMS = ("report", "prediction", "", "report", "start-up")
_OPTIONS = ("--size=tiny", "--tasks=va", "--streams=ir50", "--width=ir50=16", "--folds=2")


class KilledBuilds:
    """Kills ``data.synthetic``; every second build replaces a store of another seed.

    Args:
        warm: the warm process, which forks the commands.
        folder: the folder for the stores.
        seed: the seed of all moments.
    """

    def __init__(self, warm: Warm, folder: Path, seed: int) -> None:
        self._warm, self._folder = warm, folder
        self._rng = np.random.default_rng([seed, 1])
        folder.mkdir(parents=True, exist_ok=True)
        warm.run(*_build(folder / "new", 0))
        # The programs of the second build are compiled already, as those of all later builds are.
        self._durations = durations(warm.run(*_build(folder / "old", 1)))
        self._new, self._old = (_checksum(folder / name) for name in ("new", "old"))

    def kills(self, count: int) -> Iterator[Kill]:
        """Yields the kills of this many builds, each killed once."""
        made = number = 0
        while made < count:
            path = self._folder / f"store-{number:03d}" / "store"
            replaces = bool(number % 2)
            path.parent.mkdir()
            if replaces:
                shutil.copytree(self._folder / "old", path)
            aim = _STORE_AIMS[number % len(_STORE_AIMS)]
            command = self._warm.start(*_build(path, 0), "--overwrite")
            moment = draw_moment(self._rng, aim, self._durations, 1)
            if self._warm.kill_at(command, moment) is not None:
                made += 1
                lost = self._lost(path, replaces)
                yield Kill(number, _phase(command), 0, lost, self._again(path))
            shutil.rmtree(path.parent)
            number += 1

    def _lost(self, path: Path, replaces: bool) -> str:
        """Returns a fault in the files that a killed build left at its target, or ""."""
        allowed = {self._new, self._old} if replaces else {self._new}
        if not path.exists():
            # Between the two renames the old store is beside its place.
            kept = list(path.parent.glob("store.old-*"))
            if not replaces:
                return ""
            if not kept:
                return "neither the old store nor the new one exists"
            path, allowed = kept[0], {self._old}
        try:
            found = _checksum(path)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return "" if found in allowed else "the store is neither the old nor the new one"

    def _again(self, path: Path) -> str:
        """Runs the same command to its end and returns the difference, or ""."""
        try:
            self._warm.run(*_build(path, 0), "--overwrite")
            found = _checksum(path)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return "" if found == self._new else "checksum"


def _build(path: Path, seed: int) -> tuple[str, ...]:
    return "data.synthetic", f"--out={path}", f"--seed={seed}", *_OPTIONS


def _checksum(path: Path) -> str:
    """Returns the checksum of a store, after reading and checking all of it."""
    with Store(path, verify="all") as store:
        for video in range(len(store)):
            store.read(video)
    return str(json.loads((path / DATASET_FILE).read_text())["checksum"])


class KilledEvaluations:
    """Kills ``emojax.evaluate`` on one run.

    Args:
        warm: the warm process, which forks the commands.
        run: the folder of a trained run; reports are added to it.
        seed: the seed of all moments.
    """

    def __init__(self, warm: Warm, run: Path, seed: int) -> None:
        self._warm, self._run = warm, run
        self._rng = np.random.default_rng([seed, 2])
        self._before = _contents(run / FOLDER)
        timed = warm.run(*self._command("first"))
        self._expected = _numbers(run / "first")
        self._durations = durations(timed)

    def kills(self, count: int) -> Iterator[Kill]:
        """Yields the kills of this many evaluations, each killed once."""
        made = number = 0
        while made < count:
            name = f"report-{number:03d}"
            aim = _EVALUATION_AIMS[number % len(_EVALUATION_AIMS)]
            command = self._warm.start(*self._command(name))
            moment = draw_moment(self._rng, aim, self._durations, 1)
            if self._warm.kill_at(command, moment) is not None:
                made += 1
                yield Kill(number, _phase(command), 0, self._lost(), self._again(name))
            shutil.rmtree(self._run / name, ignore_errors=True)
            number += 1

    def _command(self, name: str) -> Sequence[str]:
        return "emojax.evaluate", f"--checkpoint={self._run}", f"--out={self._run / name}"

    def _lost(self) -> str:
        try:
            open_run(self._run)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return "" if _contents(self._run / FOLDER) == self._before else "the checkpoints changed"

    def _again(self, name: str) -> str:
        try:
            self._warm.run(*self._command(name))
            found = _numbers(self._run / name)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return ", ".join(differences(found, self._expected))


def _phase(command: Command) -> str:
    entered = command.entered()
    return entered[-1][0] if entered else "start-up"


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _numbers(report: Path) -> dict[str, Any]:
    """Returns the numbers of a report: its scores, those of each video, every predicted frame."""
    with np.load(report / "timelines.npz") as timelines:
        arrays = {name: np.array(timelines[name]) for name in timelines.files}
    scores = json.loads((report / "scores.json").read_text())
    names = sorted(str(path.relative_to(report)) for path in report.rglob("*") if path.is_file())
    table = (report / "per_video.csv").read_text()
    return {"scores": scores, "per_video": table, "timelines": arrays, "files": names}
