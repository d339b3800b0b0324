"""The numbers of an epoch as a row of ``metrics.csv`` and as a line for the user."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from emojax.core.schedule import ScheduleState
from emojax.core.session import Session
from emojax.ops.scores import is_error


@dataclasses.dataclass(frozen=True)
class EpochReport:
    """The numbers of one epoch.

    Attributes:
        session: the session of the training.
        step: steps taken so far.
        means: metric -> (R,) mean over the epoch's steps.
        rates_R: learning rates of its last step.
        scores_R: validation scores, higher is better.
        best_R: best of them so far.
        named: replica -> all its named scores, of those that trained.
        before: the schedule during the epoch.
        after: the schedule after it.
        released_R: (R,) bool, who enters another stage.
    """

    session: Session
    step: int
    means: Mapping[str, np.ndarray]
    rates_R: np.ndarray
    scores_R: np.ndarray
    best_R: np.ndarray
    named: Mapping[int, Mapping[str, float]]
    before: ScheduleState
    after: ScheduleState
    released_R: np.ndarray

    @property
    def selection(self) -> str:
        """Returns the name of the score that chooses the first task's best weights."""
        return self.session.config.evaluation.selection[self.session.tasks[0]]

    @property
    def _sign(self) -> int:
        # Selection turns the sign of errors; people read them as they are.
        return -1 if is_error(self.selection) else 1

    @property
    def score(self) -> float:
        """Averages the scores of the replicas, errors with their own sign."""
        return self._sign * finite_mean(self.scores_R)

    def row(self, seconds: float) -> dict[str, float]:
        """Makes column -> value of ``metrics.csv``, of the replicas that trained."""
        row: dict[str, float] = {}
        for r, name in enumerate(self.session.names):
            if not self.before.active[r]:
                continue
            row |= {f"{name}/{metric}": float(mean_R[r]) for metric, mean_R in self.means.items()}
            row[f"{name}/learning_rate"] = float(self.rates_R[r])
            row[f"{name}/best"] = float(self.best_R[r])
            if self.session.stages:
                row[f"{name}/stage"] = int(self.before.stage[r])
            row |= {f"{name}/{score}": value for score, value in self.named[r].items()}
        return row | {"seconds_training": seconds}

    def lines(self, total_steps: int) -> list[str]:
        """Says the scores in one line, and which replicas enter another stage."""
        scores_R, best_R = self._sign * self.scores_R, self._sign * self.best_R
        parts = [
            f"{name} {scores_R[r]:.3f} (best {best_R[r]:.3f})"
            for r, name in enumerate(self.session.names)
        ]
        count, still = len(parts), int(self.after.active.sum())
        trained = f"{still} of {count} replicas still trained"
        if count > 4:
            parts = [
                f"{trained if still < count else f'{count} replicas'}: mean {self.selection} "
                f"{finite_mean(scores_R):.3f}, mean best {finite_mean(best_R):.3f}"
            ]
        elif still < count:
            parts.append(f"({trained})")
        loss = finite_mean(self.means["loss"])
        line = f"step {self.step}/{total_steps}  loss {loss:.3f}  validation " + "  ".join(parts)
        stages, numbers = len(self.session.stages), self.after.stage
        return [line] + [
            f"{name} enters stage {numbers[r] + 1} of {stages}"
            for r, name in enumerate(self.session.names)
            if stages and self.released_R[r]
        ]


def finite_mean(values_R: Any) -> float:
    """Averages over the replicas that did not diverge; NaN if all did."""
    finite = np.isfinite(values_R)
    return float(np.mean(np.asarray(values_R)[finite])) if finite.any() else math.nan


def beginning(step: int, total: int, epoch_steps: int) -> str:
    """Returns one line about the steps to come, because the first numbers take a while.

    Args:
        step: the number of steps taken.
        total: steps of the whole training.
        epoch_steps: steps between two validations.
    """
    if step >= total:
        return f"all {total} steps were trained before"
    if step:
        return f"continues from step {step} of {total}, validated every {epoch_steps}"
    compiling = "the first one compiles, which may take minutes"
    return f"{total} steps, validated every {epoch_steps}; {compiling}"
