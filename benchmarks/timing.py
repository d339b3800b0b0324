"""Times several contenders in turns within one run, so that a drift of the machine cancels."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Contender:
    """A program to time.

    Attributes:
        name: the name in tables.
        step: starts one step (or ``steps``); it may return before the step ends.
        wait: returns when all steps have ended.
        steps: the number of training steps in one call of ``step``.
    """

    name: str
    step: Callable[[], None]
    wait: Callable[[], None] = lambda: None
    steps: int = 1


@dataclasses.dataclass(frozen=True)
class Timing:
    """The times of one contender, as ``interleaved`` measures them.

    Attributes:
        seconds: the seconds of a step, one number for each round.
        calls: the number of calls of ``Contender.step`` in each round's block.
        failure: the reason why there are no numbers; "" if there are.
    """

    seconds: tuple[float, ...] = ()
    calls: int = 0
    failure: str = ""

    @property
    def median(self) -> float | None:
        """Returns the median seconds of a step, or None without numbers."""
        return float(np.median(self.seconds)) if self.seconds else None


@dataclasses.dataclass(frozen=True)
class Ratio:
    """The median and quartiles of the ratios of paired rounds."""

    low: float
    median: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}–{self.high:.2f})"

    def as_dict(self) -> dict[str, float]:
        """Returns the ratio for JSON."""
        return dataclasses.asdict(self)


def ratio(a: Timing, b: Timing) -> Ratio | None:
    """Returns the time of ``a`` over that of ``b``, by rounds; None if one has no numbers."""
    if not a.seconds or not b.seconds:
        return None
    paired = np.array(a.seconds) / np.array(b.seconds)
    low, median, high = np.quantile(paired, [0.25, 0.5, 0.75])
    return Ratio(float(low), float(median), float(high))


def told(error: BaseException) -> str:
    """Returns one line about an exception, for a table's footnote."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:160]


def interleaved(
    contenders: Sequence[Contender],
    *,
    seconds: float,
    block_seconds: float = 0.25,
    rounds: tuple[int, int] = (3, 15),
) -> dict[str, Timing]:
    """Times every contender in every round, in an order that alternates.

    Each contender is called twice first, which compiles it. A contender that raises, then or
    later, is not called again and has a ``failure``.

    Args:
        contenders: the contenders, with distinct names.
        seconds: the approximate time of all rounds together; the least number of rounds is always
            made.
        block_seconds: the approximate time of a contender's calls in one round; at least one call
            is made.
        rounds: the least and the greatest number of rounds.

    Returns:
        Name -> timing.
    """
    failures: dict[str, str] = {}
    calls: dict[str, int] = {}
    total = 0.0
    alive = []
    for contender in contenders:
        try:
            _block(contender, 1)
            once = _block(contender, 1)
        except Exception as error:
            failures[contender.name] = told(error)
            continue
        if once < block_seconds:
            # The first step after compiling is often slow, so it is not used.
            once = min(once, _block(contender, 2))
        calls[contender.name] = max(1, round(block_seconds / max(once, 1e-6)))
        total += calls[contender.name] * once
        alive.append(contender)
    count = int(np.clip(seconds / max(total, 1e-6), *rounds))
    measured: dict[str, list[float]] = {contender.name: [] for contender in alive}
    for number in range(count):
        for contender in alive if number % 2 == 0 else alive[::-1]:
            if contender.name in failures:
                continue
            try:
                seconds_of_call = _block(contender, calls[contender.name])
                measured[contender.name].append(seconds_of_call / contender.steps)
            except Exception as error:
                failures[contender.name] = told(error)
    return {
        contender.name: Timing(failure=failures[contender.name])
        if contender.name in failures
        else Timing(tuple(measured[contender.name]), calls[contender.name])
        for contender in contenders
    }


def _block(contender: Contender, calls: int) -> float:
    """Returns the seconds of a call."""
    started = time.perf_counter()
    for _ in range(calls):
        contender.step()
    contender.wait()
    return (time.perf_counter() - started) / calls
