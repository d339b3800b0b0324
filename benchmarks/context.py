"""The shared state of the benchmark's parts: options, PyTorch, sizes, measured rates, clock."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.machine import backend, import_torch, matmul_rate
from benchmarks.results import Missing
from benchmarks.timing import told
from benchmarks.workload import Case

# The sizes that the scaling part varies.
AXES = ("T", "B", "R", "streams")

# The sizes of --quick: every part of the papers' models, narrow, on few and short windows.
QUICK: dict[str, Case] = {
    "rjcma": Case(
        "rjcma",
        window=60,
        batch=4,
        model={
            "channels": {"ir50": (64, 32), "vggish": (32, 32), "bert": (64, 32)},
            "recursions": 1,
        },
    ),
    "exptrm": Case(
        "exptrm",
        window=30,
        batch=4,
        model={"width": 64, "attention_heads": 4, "hidden": 128, "layers": 1},
    ),
    "emma_net": Case("emma_net", window=36, batch=4, model={"layers": 1, "width": 64}),
    "multiscale_tcn": Case(
        "multiscale_tcn",
        window=60,
        batch=4,
        model={"channels": {"ir50": (32, 32), "vggish": (32, 32), "logmel": (32, 32)}},
    ),
    "tcn_transformer": Case(
        "tcn_transformer",
        window=60,
        batch=4,
        model={
            "layers": 1,
            "channels": {
                "eff": (64, 32),
                "affectnet8": (32, 32),
                "raf_db": (32, 32),
                "wav2vec2_emotion": (32, 32),
            },
            "feed_forward": 128,
        },
    ),
    "recurrent_baselines": Case(
        "recurrent_baselines",
        window=30,
        batch=4,
        model={
            "hidden": {"vggface": 128},
            "recurrent": {"vggface": (64,), "compare_lld": (64,)},
            "fused": (64,),
        },
    ),
}


@dataclasses.dataclass
class Context:
    """The options and the shared measurements of the parts.

    Attributes:
        systems: the systems to compare.
        out: the folder for pictures.
        quick: if True, uses small sizes and few rounds.
        dtype: the precision of the computation.
        compile_mode: the mode of ``torch.compile``; "" leaves it out.
        minutes: the time after which no measurement begins; 0 for no limit.
        axes: the sizes of the scaling part, some of ``AXES``.
        share: the share of the minutes after which the present part begins no measurement.
        say: prints a line of progress.
    """

    systems: tuple[str, ...]
    out: Path
    quick: bool = False
    dtype: str = "float32"
    compile_mode: str = "default"
    minutes: float = 0.0
    axes: tuple[str, ...] = AXES
    share: float = 1.0
    say: Callable[[str], None] = lambda line: None
    started: float = dataclasses.field(default_factory=time.monotonic)

    def case(self, system: str, **changes: Any) -> Case:
        """Returns a system at the paper's sizes, or at the small ones."""
        case = QUICK.get(system, Case(system)) if self.quick else Case(system)
        return dataclasses.replace(case, dtype=self.dtype, **changes)

    @functools.cached_property
    def torch(self) -> Any | Missing:
        """Returns PyTorch, or the reason why it is missing."""
        try:
            return import_torch()
        except ImportError as error:
            return Missing(str(error))

    @property
    def torch_or_none(self) -> Any | None:
        """Returns PyTorch, or None if it is missing."""
        return None if isinstance(self.torch, Missing) else self.torch

    def rate(self, dtype: str) -> float | Missing:
        """Returns the FLOP/s of a matrix product, measured once in this run."""
        return self._rates(dtype)[0]

    def rate_by_framework(self, dtype: str) -> dict[str, float]:
        """Returns the FLOP/s of a matrix product in each framework."""
        return self._rates(dtype)[1]

    @functools.cached_property
    def _rates(self) -> Callable[[str], tuple[float | Missing, dict[str, float]]]:
        @functools.cache
        def measure(dtype: str) -> tuple[float | Missing, dict[str, float]]:
            size = 8192 if backend() != "cpu" else 1024 if self.quick else 2048
            try:
                return matmul_rate(dtype, size=size, torch=self.torch_or_none)
            except Exception as error:
                return Missing(told(error)), {}

        return measure

    @property
    def sizes(self) -> str:
        """Returns the name of the sizes, for titles."""
        return "reduced sizes (--quick)" if self.quick else "the papers' sizes"

    @property
    def left(self) -> float:
        """Returns the seconds until no measurement begins any more."""
        if not self.minutes:
            return float("inf")
        return 60 * self.minutes * self.share - (time.monotonic() - self.started)

    @property
    def out_of_time(self) -> Missing | None:
        """Returns a note if a measurement would begin too late, else None."""
        return Missing(f"out of time (--minutes={self.minutes:g})") if self.left <= 0 else None
