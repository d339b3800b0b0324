"""Measures how small a shift of one video's labels ``emojax analyse lag`` finds.

    python -m benchmarks.lag_power --trials=8

For each level of signal a set of videos is simulated: labels wander slowly, and a stream of 16
columns shows them with noise. In each trial the labels of seven videos are shifted. Prints the
share of shifted videos that stand out, the root mean square error of the shift, and false alarms
among videos that are not shifted.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from absl import flags

from emojax.commands import cli
from emojax.datasets.lags import check_lags
from emojax.datasets.record import StreamRows, VideoRecord
from emojax.datasets.source import Store
from emojax.datasets.store import StoreWriter
from emojax.specs import StreamSpec

FPS, VIDEOS, FRAMES, WIDTH = 25.0, 30, 1500, 16
SHIFTS = (1, 2, 3, 5, 8, 12, 25)
# Deviation of the noise beside a signal of deviation 1 in each column.
NOISE = {"strong": 1.0, "medium": 4.0, "weak": 12.0}


def simulate(path: Path, noise: float, shifts: dict[int, int], seed: int) -> Store:
    """Writes a store in which some videos' labels are shifted.

    Args:
        path: the folder of the store.
        noise: deviation of the noise in each column.
        shifts: number of a video -> frames by which its labels are late.
        seed: the seed of the signals.
    """
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(2, WIDTH))
    with StoreWriter(
        path, name="lag", streams=[StreamSpec("x", WIDTH, "visual")], tasks=["va"]
    ) as writer:
        for video in range(VIDEOS):
            extra = 2 * max(map(abs, SHIFTS))
            signal = ornstein_uhlenbeck(FRAMES + extra, 2.0, rng)
            shift = extra // 2 - shifts.get(video, 0)
            shown = signal[extra // 2 : extra // 2 + FRAMES]
            labels = np.tanh(0.5 * signal[shift : shift + FRAMES])
            rows = shown @ mixing + noise * rng.normal(size=(FRAMES, WIDTH))
            pts = np.arange(FRAMES) / FPS
            data = StreamRows(rows.astype(np.float32), pts, np.ones(FRAMES, bool))
            name = f"v{video:03d}"
            writer.add(VideoRecord(name, name, "train", pts, {"x": data}, {"va": labels}))
        writer.finish([])
    return Store(path)


def ornstein_uhlenbeck(frames: int, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Draws two smooth signals of deviation 1 that forget in some ``seconds``."""
    keep = np.exp(-1 / (FPS * seconds))
    noise = rng.normal(size=(frames + 200, 2)) * np.sqrt(1 - keep**2)
    signal = np.zeros_like(noise)
    for i in range(1, len(noise)):
        signal[i] = keep * signal[i - 1] + noise[i]
    width = max(int(FPS * seconds / 5), 1)
    kernel = np.ones(width) / width
    smooth = np.stack([np.convolve(column, kernel, "same") for column in signal.T], axis=1)
    smooth = smooth[100:-100]
    return (smooth - smooth.mean(axis=0)) / smooth.std(axis=0)


def define_flags(define: cli.Flags) -> None:
    """Defines the command's flags."""
    define.integer("trials", 8, "Stores for each level of signal.", lower_bound=1)


def main(given: flags.FlagValues) -> None:
    """Simulates, checks, and prints a table."""
    console = cli.console()
    head = "".join(f" {shift:>9}" for shift in SHIFTS)
    console.print(f"{'signal':8} {'r':>5}{head} {'false alarms per 100':>22}", highlight=False)
    for level, noise in NOISE.items():
        hits, errors = {s: list[bool]() for s in SHIFTS}, {s: list[float]() for s in SHIFTS}
        alarms, sound, correlations = 0, 0, list[float]()
        for trial in range(given.trials):
            shifts = {2 + 3 * k: shift * (-1) ** (k + trial) for k, shift in enumerate(SHIFTS)}
            with tempfile.TemporaryDirectory() as folder:
                lags = check_lags(simulate(Path(folder) / "s", noise, shifts, trial), "va")
            for lag in lags:
                number = int(lag.video[1:])
                correlations.append(lag.best)
                if number in shifts:
                    shift = shifts[number]
                    off = (lag.seconds - lag.usual) * FPS
                    hits[abs(shift)].append(lag.stands_out)
                    errors[abs(shift)].append(off - shift)
                else:
                    sound += 1
                    alarms += lag.stands_out
        cells = "".join(
            f" {np.mean(hits[s]):>4.0%}/{np.sqrt(np.mean(np.square(errors[s]))):<4.1f}"
            for s in SHIFTS
        )
        rate = f"{100 * alarms / sound:.1f} ({alarms} of {sound})"
        console.print(
            f"{level:8} {np.median(correlations):>5.2f}{cells} {rate:>22}", highlight=False
        )
    console.print("columns: shift in frames; found / error in frames", highlight=False)


COMMAND = cli.Command(main, define_flags)

if __name__ == "__main__":
    COMMAND.run()
