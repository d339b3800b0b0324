"""Watches a long training from outside: memory, descriptors and threads must not grow.

    python -m benchmarks.faults.soak --steps=20000 --out=runs/soak

The smallest model trains in a process of its own and is validated and saved every 200 steps. Once
a second the process's resident memory, open descriptors and threads are read from /proc and written
to ``soak.csv`` and ``soak.png``. Start-up and the first quarter of the steps fill caches and heaps,
so growth is measured over the last three quarters: by a line fitted to the memory, and by the
descriptors at the end less those after the quarter. With growth the command ends with status 1.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import app, flags
from matplotlib.figure import Figure

from benchmarks.faults.small_run import STREAMS, config
from benchmarks.random_store import random_store
from emojax.errors import InputError
from emojax.rundir.metric_log import METRICS_FILE, read_metrics

ROOT = Path(__file__).resolve().parents[2]
EPOCH_STEPS = 200
# More than the noise of a full heap, less than any leak of an array in each epoch.
MOST_MIB = 1.0  # in 1,000 steps
# A pending save holds some descriptors; it is equally likely at both ends.
MOST_DESCRIPTORS = 8
_MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Sample:
    """The process at one moment.

    Attributes:
        seconds: the seconds since it was started.
        step: the step of its last validation.
        rss: the resident memory in MiB.
        descriptors: the number of open files, sockets and the like.
        threads: the number of threads.
    """

    seconds: float
    step: int
    rss: float
    descriptors: int
    threads: int


@dataclasses.dataclass(frozen=True)
class Growth:
    """The growth of a training's memory, files and threads over its last three quarters.

    Attributes:
        mib: the growth of resident memory in 1,000 steps in MiB, by a fitted line.
        descriptors: the median of the last eighth of the samples less that of the first eighth.
        threads: the same for threads.
        samples: the number of samples.
    """

    mib: float
    descriptors: float
    threads: float
    samples: int

    @property
    def steady(self) -> bool:
        """Returns True if neither memory nor descriptors grow."""
        return self.mib <= MOST_MIB and self.descriptors <= MOST_DESCRIPTORS

    def line(self) -> str:
        """Returns the verdict as one line of text."""
        verdict = "steady" if self.steady else "GROWS"
        return (
            f"{verdict}: {self.mib:+.3f} MiB of resident memory in 1,000 steps, "
            f"{self.descriptors:+.0f} descriptors, {self.threads:+.0f} threads "
            f"over the last three quarters ({self.samples} samples)"
        )


def sample(pid: int, started: float, metrics: Path) -> Sample | None:
    """Returns a sample of a process, or None if it has ended."""
    process = Path("/proc") / str(pid)
    try:
        pages = int((process / "statm").read_text().split()[1])
        descriptors = len(list((process / "fd").iterdir()))
        threads = len(list((process / "task").iterdir()))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    if not pages:  # ended, and not waited for
        return None
    rss = pages * os.sysconf("SC_PAGE_SIZE") / _MIB
    return Sample(time.monotonic() - started, _step(metrics), rss, descriptors, threads)


def _step(metrics: Path) -> int:
    try:
        return max(read_metrics(metrics), default=0)
    except InputError:
        return 0


def growth(samples: Sequence[Sample], steps: int) -> Growth:
    """Measures the growth of each resource.

    Args:
        samples: the samples in the order of time.
        steps: the number of steps of the whole training; later samples belong to the report.

    Raises:
        ValueError: there are fewer than 8 samples.
    """
    late = [one for one in samples if steps / 4 <= one.step < steps]
    if len(late) < 8:
        raise ValueError(f"{len(late)} samples are too few; take more --steps or a shorter --every")
    slope = np.polyfit([one.step for one in late], [one.rss for one in late], 1)[0]
    part = max(1, len(late) // 8)
    opened, threads = (
        float(np.median(numbers[-part:]) - np.median(numbers[:part]))
        for numbers in ([one.descriptors for one in late], [one.threads for one in late])
    )
    return Growth(float(slope) * 1000, opened, threads, len(late))


def train(out: Path, steps: int, every: float) -> list[Sample]:
    """Trains in a process and samples it until it ends, or until Ctrl-C.

    Args:
        out: an empty folder, for ``store``, ``run`` and ``train.log``.
        steps: the number of steps, a multiple of ``EPOCH_STEPS``.
        every: the seconds between two samples.

    Raises:
        RuntimeError: the training failed; the message has its output.
    """
    # Grain shuffles a few windows slowly, because it draws until a number is small enough.
    random_store(out / "store", STREAMS, ["va"], folds=2, frames=1600, videos_per_fold=4).close()
    settings = config(out / "store", epochs=steps // EPOCH_STEPS)
    settings["train"] |= {
        "epoch_steps": EPOCH_STEPS,
        "learning_rate": 1e-3,
        # The run must train to the end; its scores do not matter.
        "plateau_patience": steps,
        "stop_patience": steps,
    }
    (out / "config.json").write_text(json.dumps(settings, indent=1) + "\n")
    command = [sys.executable, "-m", "emojax.train"]
    command += [f"--config={ROOT / 'benchmarks/faults/json_config.py'}:{out / 'config.json'}"]
    command += [f"--workdir={out / 'run'}"]
    samples = []
    with (out / "train.log").open("w") as log:
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        started = time.monotonic()
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=environment
        )
        try:
            while process.poll() is None:
                found = sample(process.pid, started, out / "run" / METRICS_FILE)
                samples += [found] if found else []
                time.sleep(every)
        except KeyboardInterrupt:
            return samples
        finally:
            process.kill()
            process.wait()
    if process.returncode:
        said = (out / "train.log").read_text()[-2000:]
        raise RuntimeError(f"training ended with status {process.returncode}:\n{said}")
    return samples


def write_table(path: Path, samples: Sequence[Sample]) -> None:
    """Writes the samples as CSV."""
    names = [field.name for field in dataclasses.fields(Sample)]
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        for one in samples:
            writer.writerow([format(value, ".8g") for value in dataclasses.astuple(one)])


def plot(path: Path, samples: Sequence[Sample], steps: int) -> None:
    """Draws memory over the steps, and descriptors and threads below."""
    trained = [one for one in samples if 0 < one.step < steps]
    x = [one.step for one in trained]
    figure = Figure(figsize=(8, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    upper.plot(x, [one.rss for one in trained], color="#0072b2", linewidth=1)
    upper.set_ylabel("resident memory, MiB")
    upper.set_ylim(0, 1.1 * max(one.rss for one in trained))
    lower.plot(x, [one.descriptors for one in trained], color="#d55e00", label="descriptors")
    lower.plot(x, [one.threads for one in trained], color="#009e73", label="threads")
    lower.set_ylabel("open at once")
    lower.set_xlabel("training steps, with a validation and a checkpoint every 200")
    lower.set_ylim(bottom=0)
    lower.legend(loc="lower right", frameon=False, ncols=2)
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.axvspan(0, steps / 4, color="0.93", linewidth=0)
    upper.set_title("One training process (grey: not judged)", fontsize=10)
    figure.savefig(path, dpi=110)


def main(argv: list[str]) -> int:
    """Trains, writes the samples and prints the verdict; see the module."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]}")
    given = flags.FLAGS
    steps = max(1, round(given.steps / EPOCH_STEPS)) * EPOCH_STEPS
    out = Path(given.out).resolve()
    if out.exists() and any(out.iterdir()) and not (out / "config.json").is_file():
        raise app.UsageError(f"--out: {out} is not the folder of a soak; name a new folder")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    samples = train(out, steps, given.every)
    if samples[-1].step < steps:  # interrupted; the samples so far are judged
        steps = samples[-1].step
    write_table(out / "soak.csv", samples)
    plot(out / "soak.png", samples, steps)
    found = growth(samples, steps)
    first = next(one for one in samples if one.step >= steps / 4)
    last = [one for one in samples if one.step < steps][-1]
    print(f"{steps} steps, {steps // EPOCH_STEPS} validations and saves: {last.seconds:.0f} s")
    print("\n| after | resident memory, MiB | descriptors | threads |\n|---|---|---|---|")
    for one in (first, last):
        print(f"| {one.step} steps | {one.rss:.1f} | {one.descriptors} | {one.threads} |")
    print(f"\n{found.line()}")
    print(f"written: {out / 'soak.csv'}, {out / 'soak.png'}")
    return int(not found.steady)


if __name__ == "__main__":
    flags.DEFINE_integer(
        "steps", 20000, "Training steps, rounded to 200s.", lower_bound=EPOCH_STEPS
    )
    flags.DEFINE_float("every", 1.0, "Seconds between two samples.", lower_bound=0.01)
    flags.DEFINE_string("out", "runs/soak", "Folder for store, run, table and plot.")
    app.run(main)
