"""Measures time and memory of predicting long videos: ``python -m benchmarks.long_videos``.

    python -m benchmarks.long_videos --out=build/long_videos
    python -m benchmarks.long_videos --minutes=1,10

Trains a model of each kind for one step, at the papers' widths. Calls ``emojax.predict`` for a
video of random numbers of each length, in a process of its own: in overlapping windows, and as one
sequence if the model allows it. Prints and writes a table of times and of the peak memory in each
process's summary line.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks.machine import describe
from benchmarks.random_store import random_store
from benchmarks.results import Column, Part, Table, write
from emojax.commands import cli
from emojax.commands.summary import PREFIX
from emojax.errors import InputError
from emojax.specs import STREAMS

# RJCMA and LFAN read the same.
_NAMES = ("ir50", "vggish", "bert")
_WAYS = (
    ("RJCMA, windows", "rjcma", ()),
    ("LFAN, windows", "lfan", ()),
    ("LFAN, one sequence", "lfan", ("--full_sequence",)),
)
_FPS = 30
# Enough for one step.
_TRAINING_FRAMES = 700


def define_flags(define: cli.Flags) -> None:
    """Defines the command's flags."""
    define.string("out", "build/long_videos", "Folder for the results.")
    define.list("minutes", ["6", "120"], "Lengths of the videos.")


def main(given: flags.FlagValues) -> None:
    """Measures, prints and writes the table."""
    lengths = [frames_of(text) for text in given.minutes]
    out = cli.folder("out", given.out)
    out.mkdir(parents=True, exist_ok=True)
    table = measure(out, lengths)
    table.show(cli.console())
    header = describe(" ".join(["python -m benchmarks.long_videos", *sys.argv[1:]]))
    write(out, header, [Part("long_videos", [table])])


def measure(out: Path, lengths: Sequence[int]) -> Table:
    """Measures every way of predicting, with a video of each length.

    Args:
        out: an existing folder, with room for two videos of each length meanwhile.
        lengths: the lengths of the videos in frames.
    """
    table = Table(
        "Predicting long videos, two replicas (valence, arousal)",
        (
            Column("way", "way"),
            Column("frames", "frames", 6),
            Column("video", "video, MiB"),
            Column("seconds", "s"),
            Column("speed", "times as fast as it plays"),
            Column("peak", "peak of the process, MiB", 4),
        ),
        notes=[
            "Widths, windows and overlaps of the papers; rows and weights are random.",
            "Seconds and peak are of the whole command: starting, compiling, predicting, writing.",
        ],
    )
    with tempfile.TemporaryDirectory(dir=out) as temporary:
        folder = Path(temporary)
        streams = {name: STREAMS[name] for name in _NAMES}
        random_store(folder / "training", streams, ["va"], folds=1, frames=_TRAINING_FRAMES)
        for frames in lengths:
            random_store(folder / str(frames), streams, ["va"], folds=1, frames=frames)
        trained: set[str] = set()
        for way, name, options in _WAYS:
            if name not in trained:
                _train(folder, name)
                trained.add(name)
            for frames in lengths:
                found = _predict(folder, name, frames, options)
                table.add(
                    way=way,
                    frames=frames,
                    video=_size(folder / str(frames)),
                    seconds=found["seconds"],
                    speed=frames / _FPS / found["seconds"],
                    peak=found["peak_memory_bytes"] / 2**20,
                )
    return table


def frames_of(minutes: str) -> int:
    """Returns the number of frames of a video of this many minutes.

    Raises:
        InputError: the text is not a number, or less than a second.
    """
    try:
        frames = round(float(minutes) * 60 * _FPS)
    except (ValueError, OverflowError):
        frames = 0
    if frames < _FPS:
        raise InputError(
            "A video does not have this length.",
            field="--minutes",
            found=minutes,
            expected="minutes, separated by commas, at least a second each",
        )
    return frames


def _train(folder: Path, name: str) -> None:
    _call(
        "emojax.train",
        f"--config=configs/{name}.py",
        f"--config.data.store={folder / 'training'}",
        f"--workdir={folder / name}",
        "--config.data.batch_size=2",
        "--config.train.epochs=1",
        "--config.train.epoch_steps=1",
        "--config.train.warmup_epochs=0",
    )


def _predict(folder: Path, name: str, frames: int, options: tuple[str, ...]) -> dict[str, Any]:
    return _call(
        "emojax.predict",
        f"--checkpoint={folder / name}",
        f"--store={folder / str(frames)}",
        "--videos=video-1-0",
        f"--out={folder / 'predictions'}",
        *options,
    )


def _call(module: str, *arguments: str) -> dict[str, Any]:
    """Runs a command and returns its summary.

    Raises:
        RuntimeError: the command failed.
    """
    print(f"  {module} {' '.join(arguments)}", file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{module} ended with status {done.returncode}:\n{done.stderr[-2000:]}")
    last = done.stdout.splitlines()[-1]
    summary: dict[str, Any] = json.loads(last.removeprefix(PREFIX))
    return summary


def _size(store: Path) -> float:
    """Returns the MiB of one video, in a store of two."""
    return sum(file.stat().st_size for file in store.rglob("*") if file.is_file()) / 2 / 2**20


COMMAND = cli.Command(main, define_flags)

if __name__ == "__main__":
    COMMAND.run()
