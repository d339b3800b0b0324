"""Asks how well an attention can pick the one row that matches, if it knows what to look for.

    python -m benchmarks.matching

Marks are those of preset ``cross_cued``: Ornstein-Uhlenbeck processes in two streams, which show
one moment in different rows. The attention gets the best possible scores, the products of marks
times a factor, and fetches values from the other stream: with softmax (Vaswani et al. 2017), and
with tanh and no normalisation (eq. 2-7 of RJCMA). Prints the correlation of what is fetched with
the value at the matching row, at the best factor of each.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from absl import flags
from scipy.special import softmax

from data.simulation.presets import PRESETS
from emojax.commands import cli

RATE = 6.0  # rows per second
FACTORS = np.geomspace(1e-3, 10.0, 25)


def define_flags(define: cli.Flags) -> None:
    """Defines the command's flags."""
    define.integer("windows", 200, "Random windows.", lower_bound=2)
    define.integer("seed", 0, "Seed of all draws.", lower_bound=0)


def main(given: flags.FlagValues) -> None:
    """Prints a row for each window length."""
    print("| rows of a window | softmax | tanh |\n|---|---|---|")
    for rows in (60, 150, 300):
        rng = np.random.default_rng(given.seed)
        draws = [_window(rng, rows) for _ in range(given.windows)]
        best = [fetched(draws, weigh) for weigh in (_softmax, np.tanh)]
        print(f"| {rows} | {best[0]:.2f} | {best[1]:.2f} |")


def _softmax(scores_TS: np.ndarray) -> np.ndarray:
    weight_TS: np.ndarray = softmax(scores_TS, axis=-1)
    return weight_TS


def _window(rng: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns marks (T, M) and values (T,) of a window; rows of one moment have equal marks."""
    preset = PRESETS["cross_cued"]
    keep = np.exp(-1.0 / (RATE * preset.mark_tau))
    marks_TM = rng.normal(size=(rows, preset.marks))
    for t in range(1, rows):
        marks_TM[t] = keep * marks_TM[t - 1] + np.sqrt(1 - keep**2) * marks_TM[t]
    return marks_TM, rng.normal(size=rows)


def fetched(
    draws: list[tuple[np.ndarray, np.ndarray]], weigh: Callable[[np.ndarray], np.ndarray]
) -> float:
    """Returns the correlation of fetched and matching values, at the best factor of the scores."""
    found = []
    for factor in FACTORS:
        pairs = [(weigh(factor * m_TM @ m_TM.T) @ v_T, v_T) for m_TM, v_T in draws]
        got_N, wanted_N = (np.concatenate(side) for side in zip(*pairs, strict=True))
        found.append(float(np.corrcoef(got_N, wanted_N)[0, 1]))
    return max(found)


COMMAND = cli.Command(main, define_flags)

if __name__ == "__main__":
    COMMAND.run()
