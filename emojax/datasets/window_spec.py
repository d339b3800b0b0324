"""The content and the clock of a window of a video: the options of config.data, checked.

A window counts *ticks*. Without a ``clock`` a tick is a video frame, at the frame's own time.
With one, ticks are ``clock`` a second: tick k is at ``pts[0] + k / clock``, where ``pts[0]`` is
the video's first frame. Ticks go on until every frame has one that is nearest to it, so there
are ``floor((pts[-1] - pts[0]) * clock + 1/2) + 1`` of them, and a video of one frame has one.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from emojax.config_reading import read
from emojax.config_schema import WindowConfig
from emojax.datasets.source import Store, VideoEntry
from emojax.errors import InputError, closest
from emojax.ops.windows import scored_bounds, window_starts
from emojax.specs import STREAMS

# Ticks by which times may be off before they count as earlier. Frames midway between two ticks
# are common (24 fps at 2 Hz), and the rounding of their times must not decide.
_TIE = 1e-6
# Tolerance of window x rate / clock, because rates are written in decimals.
_WHOLE = 1e-6


@dataclasses.dataclass(frozen=True)
class WindowSpec(WindowConfig):
    """The content of a window and the way windows are cut; its fields are ``WindowConfig``'s.

    A row of a stream with a rate of its own covers several ticks, or a part of one. Rows of
    ``context`` that lie outside the video are padding.
    """

    # -- time ----------------------------------------------------------------------------------

    def num_ticks(self, video: VideoEntry) -> int:
        """Returns the ticks of a video whose frames all count, from the store's index alone.

        ``ticks.count_ticks`` also knows videos with frames that ``unannotated`` excludes.
        """
        if not self.clock:
            return video.num_frames
        # The index holds the mean rate, and 0 for a single frame.
        seconds = (video.num_frames - 1) / video.fps if video.fps else 0.0
        return math.floor(seconds * self.clock + (0.5 + _TIE)) + 1

    def tick_pts(self, pts_N: np.ndarray, ticks: np.ndarray) -> np.ndarray:
        """Returns the seconds of ticks, which may be fractions, for these frame times."""
        return pts_N[0] + ticks / self.clock if self.clock else pts_N[ticks]

    def frame_ticks(self, pts_N: np.ndarray, num_ticks: int) -> np.ndarray:
        """Returns the tick whose prediction each frame takes, (N,) int64.

        The nearest one, the later of two equally near. With ``scored="last"``, which is for
        models that do not look ahead, the last one that has passed.
        """
        if not self.clock:
            return np.arange(len(pts_N))
        ahead = 0.0 if self.scored == "last" else 0.5
        held_N = np.floor((pts_N - pts_N[0]) * self.clock + (ahead + _TIE)).astype(np.int64)
        return np.minimum(held_N, num_ticks - 1)

    def starts(self, num_ticks: int, *, evaluation: bool = False) -> np.ndarray:
        """Returns the first ticks of a video's windows, see ``ops.windows.window_starts``."""
        stride = self._evaluation_stride if evaluation else self.stride
        return window_starts(
            num_ticks, self.window, stride, align_end=self.align_end, count=self.window_count
        )

    def scored_ticks(self, num_ticks: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns each evaluation window's first tick, and the first and end of those scored."""
        starts = self.starts(num_ticks, evaluation=True)
        stride = self._evaluation_stride
        return starts, *scored_bounds(starts, num_ticks, self.window, stride, self.scored)

    @property
    def _evaluation_stride(self) -> int:
        return self.evaluation_stride or self.stride

    # -- lengths -------------------------------------------------------------------------------

    @property
    def lengths(self) -> dict[str, int]:
        """Returns stream -> T_s, the rows of one window, context included.

        Raises:
            InputError: a rate does not divide.
        """
        return {name: self.rows(name) + 2 * self.context.get(name, 0) for name in self.streams}

    @property
    def ticks_per_row(self) -> dict[str, int]:
        """Returns stream -> ticks that a row covers; 1 for streams at the rate of the ticks.

        Raises:
            InputError: a stream has rows that do not cover a whole number of ticks.
        """
        for name in self.streams:
            if self.window % self.rows(name):
                raise InputError(
                    "The model needs rows that cover whole ticks.",
                    field=f"config.data.rates.{name}",
                    found=f"{self.rates[name]:g} Hz, {self.clock / self.rates[name]:g} ticks a row",
                    expected=f"config.data.clock ({self.clock:g} Hz) divided by a whole number",
                )
        return {name: self.window // self.rows(name) for name in self.streams}

    def rows(self, stream: str) -> int:
        """Returns the number of a stream's rows that cover a window, without context.

        Raises:
            InputError: they are not a whole number.
        """
        if not self.clock or stream not in self.rates:
            return self.window
        exact = self.window * self.rates[stream] / self.clock
        if exact > 0.5 and abs(exact - round(exact)) <= _WHOLE:
            return round(exact)
        near = sorted({max(1, math.floor(exact)), max(1, math.ceil(exact))})
        rates = " or ".join(f"{rows * self.clock / self.window:g} ({rows} rows)" for rows in near)
        raise InputError(
            f"A window holds no whole number of rows of stream {stream!r}.",
            field=f"config.data.rates.{stream}",
            found=f"{self.rates[stream]:g} Hz: a window of {self.window} ticks of "
            f"{self.clock:g} Hz holds {exact:g} rows",
            expected=f"window * rate / clock a whole number, for instance {rates}",
            remedy="change the rate, or config.data.window",
        )

    # -- checks --------------------------------------------------------------------------------

    def check(self, store: Store, *, labelled: bool = True) -> None:
        """Raises InputError when the store cannot serve these windows.

        Args:
            store: the store.
            labelled: the store must know the tasks; without, all labels are masked.
        """
        for kind, wanted, there in (
            ("stream", self.streams, tuple(store.streams)),
            ("task", self.tasks if labelled else (), store.tasks),
        ):
            for name in wanted:
                if name not in there:
                    raise InputError(
                        f"Store {store.name!r} has no {kind} {name!r}.",
                        file=store.path,
                        field=f"config.data.{kind}s",
                        found=name,
                        expected="one of " + ", ".join(there),
                        remedy=f"change config.data.{kind}s, or build the store with this {kind}",
                    )
        for option in ("resampling", "rates", "context"):
            for name in getattr(self, option):
                # Streams that are left out this time may be named; misspelt ones may not.
                if name not in {*store.streams, *STREAMS}:
                    raise InputError(
                        f"config.data.{option} names an unknown stream.",
                        field=f"config.data.{option}.{name}",
                        found=name,
                        expected="one of " + ", ".join(store.streams),
                        remedy=closest(name, store.streams),
                    )
        self.check_values()

    def check_values(self) -> None:
        """Raises InputError when options are not allowed, alone or together."""
        read(WindowConfig, vars(self), "config.data")
        if self.stride > self.window:
            raise InputError(
                "Windows would leave frames out.",
                field="config.data.stride",
                found=f"stride {self.stride}, window {self.window}",
                expected="1 <= stride <= window",
            )
        if self.evaluation_stride > self.window:
            raise InputError(
                "Windows would leave frames out of the evaluation.",
                field="config.data.evaluation_stride",
                found=self.evaluation_stride,
                expected=f"0 (as config.data.stride) to {self.window}, which is config.data.window",
            )
        if self.window_count == "floor" and self.align_end:
            raise InputError(
                "Windows beyond the end cannot also be aligned to the end.",
                field="config.data.align_end",
                found="True, with config.data.window_count floor",
                expected="False, or window_count cover",
                remedy="set config.data.align_end=False, or config.data.window_count=cover",
            )
        if self.unannotated == "excluded" and self.clock:
            raise InputError(
                "Frames can be excluded only where ticks are frames.",
                field="config.data.unannotated",
                found=f"excluded, with a clock of {self.clock:g} ticks a second",
                expected="masked, or config.data.clock 0",
                remedy="set config.data.unannotated=masked, or config.data.clock=0",
            )
        if self.rates and not self.clock:
            raise InputError(
                "Streams can have rates of their own only beside a clock.",
                field="config.data.clock",
                found=f"{self.clock}, with rates for " + ", ".join(self.rates),
                expected="ticks per second, above 0",
                remedy="set config.data.clock, or leave config.data.rates empty",
            )
        for name in self.streams:
            self.rows(name)
