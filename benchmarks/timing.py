"""Times of several contenders in one run, interleaved, so that a drift of the machine cancels."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Contender:
    """Something to time.

    Attributes:
        name: in tables.
        step: starts one step (or ``steps``); may return before it is done.
        wait: returns when all steps are done.
        steps: training steps that one call of ``step`` makes.
    """

    name: str
    step: Callable[[], None]
    wait: Callable[[], None] = lambda: None
    steps: int = 1


@dataclasses.dataclass(frozen=True)
class Timing:
    """The times that ``interleaved`` measured of one contender.

    Attributes:
        seconds: of a step, one number a round.
        calls: of ``Contender.step`` in each round's block.
        failure: why there are no numbers; empty where there are.
    """

    seconds: tuple[float, ...] = ()
    calls: int = 0
    failure: str = ""

    @property
    def median(self) -> float | None:
        """Seconds of a step."""
        return float(np.median(self.seconds)) if self.seconds else None


@dataclasses.dataclass(frozen=True)
class Ratio:
    """Median and quartiles of the ratios of paired rounds."""

    low: float
    median: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}–{self.high:.2f})"

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return dataclasses.asdict(self)


def ratio(a: Timing, b: Timing) -> Ratio | None:
    """Time of ``a`` over time of ``b``, round by round; None where one has no numbers."""
    if not a.seconds or not b.seconds:
        return None
    paired = np.array(a.seconds) / np.array(b.seconds)
    low, median, high = np.quantile(paired, [0.25, 0.5, 0.75])
    return Ratio(float(low), float(median), float(high))


def told(error: BaseException) -> str:
    """One line about an exception, for a table's footnote."""
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

    Each is called twice first, which compiles it; one that raises there (or later) is left out of
    what follows and has a ``failure``.

    Args:
        contenders: with names of their own.
        seconds: for all rounds together, about; the least number of rounds is made in any case.
        block_seconds: a contender's block is as many calls as take about so long, at least one.
        rounds: least and greatest number.

    Returns:
        name -> timing.
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
            # The first step after compiling is often slow, and decides nothing.
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
    """Seconds of a call."""
    started = time.perf_counter()
    for _ in range(calls):
        contender.step()
    contender.wait()
    return (time.perf_counter() - started) / calls
