"""Shows the progress of a training: a bar on a terminal, plain lines in a log file."""

from __future__ import annotations

import collections
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from emojax.screen import shown

# Updates that the speed is averaged over: enough to be calm, few enough to follow a change.
_SPEED_UPDATES = 30


class Speed:
    """Moving average of windows and steps a second.

    Times are seconds of any one clock. The first reading only starts the clock, so that
    compilation, which happens within the first step, does not count as slow training.
    """

    def __init__(self) -> None:
        self._readings: collections.deque[tuple[float, int, int]] = collections.deque(
            maxlen=_SPEED_UPDATES
        )
        self._windows = 0

    def add(self, now: float, step: int, windows: int) -> None:
        """Notes that at time ``now`` ``step`` was done, ``windows`` after the last note."""
        self._windows += windows
        self._readings.append((now, step, self._windows))

    def _rate(self, column: int) -> float | None:
        if len(self._readings) < 2:
            return None
        first, last = self._readings[0], self._readings[-1]
        seconds = last[0] - first[0]
        return (last[column] - first[column]) / seconds if seconds > 0 else None

    @property
    def windows_per_second(self) -> float | None:
        """Returns the windows trained on per second; None before two readings."""
        return self._rate(2)

    def seconds_left(self, steps_left: int) -> float | None:
        """Estimates the seconds that ``steps_left`` steps take; None while unknown."""
        rate = self._rate(1)
        return steps_left / rate if rate else None


def pace(steps: int, batch_size: int, seconds: float) -> dict[str, float | None]:
    """Computes the speed of a whole call, with compiling, validating and saving.

    Args:
        steps: done in this call.
        batch_size: windows in a batch, through which every replica goes.
        seconds: the time that it took.

    Returns:
        "steps_per_second" and "windows_per_second", None where nothing was trained.
    """
    rate = steps / seconds if steps and seconds > 0 else None
    return {
        "steps_per_second": rate,
        "windows_per_second": None if rate is None else rate * batch_size,
    }


def clock_text(seconds: float | None) -> str:
    """Formats seconds as ``m:ss`` or ``h:mm:ss``; ``-:--`` for None."""
    if seconds is None:
        return "-:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class _FieldColumn(ProgressColumn):
    """Shows one of the task's own text fields."""

    def __init__(self, field: str) -> None:
        super().__init__(table_column=Column(no_wrap=True, overflow="ellipsis"))
        self._field = field

    def render(self, task: Task) -> Text:
        return Text(str(task.fields.get(self._field, "")))


class TrainingProgress:
    """Steps, windows a second, the latest scalars and the time left, on standard error.

    On a terminal it is a live bar. Elsewhere (a log file, CI) it is silent but for the lines
    given to ``note``, so that a log stays short. Where only warnings or errors are shown (see
    ``emojax.screen``) there is no bar, and only such lines.

    Args:
        total_steps: steps of the whole run.
        start_step: steps done before, in a resumed run.
        stream: the stream to write to; standard error by default.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        total_steps: int,
        *,
        start_step: int = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._clock = clock
        self._total_steps = total_steps
        self._speed = Speed()
        self._scalars: dict[str, float] = {}
        self._bar: Progress | None = None
        if self._stream.isatty() and shown():
            self._bar = Progress(
                TextColumn("training"),
                BarColumn(bar_width=None, table_column=Column(max_width=20)),
                MofNCompleteColumn(),
                _FieldColumn("status"),
                console=Console(file=self._stream),
                refresh_per_second=4,
            )
            self._task = self._bar.add_task("", total=total_steps, completed=start_step)

    def update(self, step: int, windows: int, **scalars: float) -> None:
        """Shows that ``step`` steps are done.

        Args:
            step: training steps done in all.
            windows: windows trained on since the last update, over all replicas.
            **scalars: what to show (``loss=0.41, ccc=0.63``); each keeps its place and its
                last value until it is given again.
        """
        self._speed.add(self._clock(), step, windows)
        self._scalars.update({name: float(value) for name, value in scalars.items()})
        if self._bar is not None:
            self._bar.update(self._task, completed=step, status=self._status(step))

    def note(self, text: str) -> None:
        """Prints one line that stays, above the bar if there is one, if it is shown at all.

        A warning begins with "warning:".
        """
        if not shown(text):
            return
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self._stream, flush=True)

    def _status(self, step: int) -> str:
        rate = self._speed.windows_per_second
        parts = ["-" if rate is None else f"{rate:.0f}" if rate >= 10 else f"{rate:.1f}"]
        parts[0] += " windows/s"
        parts += [f"{clock_text(self._speed.seconds_left(self._total_steps - step))} left"]
        # Last, because a narrow terminal cuts the line there.
        parts += [f"{name} {value:.3f}" for name, value in self._scalars.items()]
        return "  ".join(parts)

    def __enter__(self) -> TrainingProgress:
        """Starts the bar; leaving the block stops it and leaves its last state on screen."""
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stops the bar, also on an exception, so that the terminal is usable again."""
        if self._bar is not None:
            self._bar.stop()
