"""Profiles a few training steps, to show where the time goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

# Dispatches before the profile begins, of which the first one compiles, and dispatches in it.
_WARM_UP = 3
_PROFILED = 5


class Profile:
    """Writes one profile of a training to a folder, with ``jax.profiler``.

    Attributes:
        running: True while it is under way.

    Args:
        folder: the folder of the profile; None profiles nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._seen = 0
        self.running = False

    def before_dispatch(self, pending: Any) -> None:
        """Starts or stops the profile; call it before every dispatch.

        Args:
            pending: arrays that the dispatch before computes.
        """
        if self.folder is None:
            return
        if self._seen == _WARM_UP:
            jax.block_until_ready(pending)
            options = jax.profiler.ProfileOptions()
            # What Python does is little, and would fill most of the file.
            options.python_tracer_level = 0
            jax.profiler.start_trace(
                self.folder, create_perfetto_trace=True, profiler_options=options
            )
            self.running = True
        elif self.running and self._seen == _WARM_UP + _PROFILED:
            self.stop(pending)
        self._seen += 1

    def stop(self, pending: Any = None) -> None:
        """Ends a profile under way, when ``pending`` is computed."""
        if self.running:
            jax.block_until_ready(pending)
            jax.profiler.stop_trace()
            self.running = False

    def lines(self) -> list[str]:
        """Says where the profile is, in lines for the user."""
        if self.folder is None:
            return []
        if self._seen <= _WARM_UP:
            return [
                f"no profile: it begins after {_WARM_UP} dispatches, and there were {self._seen}"
            ]
        traces = sorted(self.folder.rglob("perfetto_trace.json.gz"))
        return [
            f"profile:    {traces[-1] if traces else self.folder} (open it on ui.perfetto.dev)",
            f"or          tensorboard --logdir {self.folder} (with tensorboard-plugin-profile)",
        ]
