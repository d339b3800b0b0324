"""Runs commands as forks of one warm process, so that only the first has the cost of a start.

``Warm`` starts ``python -m benchmarks.faults.forks`` as that process. It imports the modules that
commands import, uses no device, and runs each command in a fork, as ``python -m`` would. A command
logs its phases: a line with the phase and the time whenever it enters another one. So the phase of
a killed process is known, and a kill can wait for a phase.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import runpy
import selectors
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

ROOT = Path(__file__).resolve().parents[2]
# Compiled as in tests/conftest.py: an eighth of the time, and the same in every process.
_QUICK = {
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "XLA_FLAGS": "--xla_cpu_parallel_codegen_split_count=1",
    "OMP_NUM_THREADS": "1",
    "MPLBACKEND": "Agg",
}
PATIENCE = 300.0  # seconds; the longest time of a step of a command


@dataclasses.dataclass(frozen=True)
class Moment:
    """The moment of a kill.

    Attributes:
        phase: the phase to wait for; "" for the beginning of the command.
        times: the number of times that the phase must be entered.
        delay: the seconds to wait after that.
    """

    phase: str
    times: int
    delay: float


@dataclasses.dataclass
class Command:
    """A command that runs or has ended.

    Attributes:
        pid: the number of its process.
        log: the file with its output.
        phases: the file with lines of (phase, seconds of the monotonic clock).
        status: the exit status after the end; a negative one is the signal that ended it.
    """

    pid: int
    log: Path
    phases: Path
    status: int | None = None

    def entered(self) -> list[tuple[str, float]]:
        """Returns the phases so far, in order, and the times at which they were entered."""
        lines = self.phases.read_text().splitlines(keepends=True)
        pairs = [line.rstrip("\n").rsplit(" ", 1) for line in lines if line.endswith("\n")]
        return [(name, float(at)) for name, at in pairs]


class Warm:
    """The warm process, a context manager. It runs one command at a time.

    Args:
        folder: the folder for compiled programs, logs and phases.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self._command: Command | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Warm:
        """Starts the process."""
        environment = os.environ | _QUICK
        environment["JAX_COMPILATION_CACHE_DIR"] = str(self._folder / "compiled")
        environment["PYTHONPATH"] = str(ROOT)
        # Newer versions lack this flag, and end a process that has an unknown flag.
        if jax.__version_info__ < (0, 11):
            environment["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.faults.forks"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self._answers = selectors.DefaultSelector()
        assert self._process.stdout is not None
        self._answers.register(self._process.stdout, selectors.EVENT_READ)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the process, and a command that is still running."""
        if self._command is not None and self._command.status is None:
            os.kill(self._command.pid, signal.SIGKILL)
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._answers.close()

    def start(self, module: str, *arguments: str) -> Command:
        """Starts ``python -m module arguments``; the command before must have ended."""
        name = f"{self._count:03d}-{module}"
        self._count += 1
        log, phases = self._folder / f"{name}.log", self._folder / f"{name}.phases"
        phases.touch()
        request = {"argv": [module, *arguments], "log": str(log), "phases": str(phases)}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        pid = self._answer(PATIENCE)
        assert pid is not None, "the warm process does not answer"
        self._command = Command(pid, log, phases)
        return self._command

    def wait(self, command: Command, seconds: float = PATIENCE) -> bool:
        """Waits for a command's end; returns True if it came and ``command.status`` is set."""
        if command.status is None:
            command.status = self._answer(seconds)
        return command.status is not None

    def run(self, module: str, *arguments: str) -> Command:
        """Runs a command to its end.

        Raises:
            RuntimeError: the command took too long or failed.
        """
        command = self.start(module, *arguments)
        if not self.wait(command):
            os.kill(command.pid, signal.SIGKILL)
            self.wait(command)
        if command.status:
            said = command.log.read_text()[-3000:]
            raise RuntimeError(f"{module} ended with status {command.status}:\n{said}")
        return command

    def kill_at(
        self, command: Command, moment: Moment, before: Callable[[], Any] = lambda: None
    ) -> Any | None:
        """Kills a command (SIGKILL) at a moment.

        Args:
            command: a running command.
            moment: the moment of the kill.
            before: called just before the kill.

        Returns:
            The result of ``before`` in a tuple; None if the command ended by itself.

        Raises:
            RuntimeError: the command reached neither the moment nor its end in time.
        """
        started, seen = time.monotonic(), 0
        while moment.phase and seen < moment.times:
            # A short wait, because some phases are short.
            if self.wait(command, 0.001):
                return None
            seen = sum(name == moment.phase for name, _ in command.entered())
            if time.monotonic() - started > PATIENCE:
                os.kill(command.pid, signal.SIGKILL)
                raise RuntimeError(f"{moment} did not come: {command.log.read_text()[-2000:]}")
        if self.wait(command, moment.delay):
            return None
        found = before()
        # The warm process has not waited for the fork yet, so its number is not reused.
        os.kill(command.pid, signal.SIGKILL)
        self.wait(command)
        return None if command.status == 0 else (found,)

    def _answer(self, seconds: float) -> int | None:
        if not self._answers.select(seconds):
            return None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the warm process has ended")
        return int(line)


# -- in the warm process ---------------------------------------------------------------------------


class _Phases:
    """The log of the phases that a command enters."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        self.now = ""

    def enter(self, phase: str) -> None:
        if phase != self.now:
            self.now = phase
            os.write(self._descriptor, f"{phase} {time.monotonic():.6f}\n".encode())

    def on_call(self, owner: Any, name: str, phase: str, *, after: str = "") -> None:
        """Logs the calls of a function as a phase, and optionally another phase after them."""
        function = getattr(owner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            self.enter(phase)
            result = function(*arguments, **options)
            if after:
                self.enter(after)
            return result

        setattr(owner, name, call)


def _watch(phases: _Phases) -> None:
    """Makes training, evaluation and building log their phases, without other changes."""
    from emojax.datasets.store import StoreWriter
    from emojax.prediction.trained_run import TrainedRun
    from emojax.reporting import results_folder as results
    from emojax.training.loop import Trainer
    from emojax.training.progress import TrainingProgress

    phases.on_call(Trainer, "_scores", "validation")
    phases.on_call(Trainer, "_observe", "metrics")
    phases.on_call(Trainer, "_write", "save")
    phases.on_call(Trainer, "run", "start-up", after="report")
    train_epoch, update = Trainer._train_epoch, TrainingProgress.update

    def trained(self: Any, *arguments: Any) -> Any:
        # Compiling before the first step of a process belongs to the start-up.
        if phases.now == "save":
            phases.enter("step")
        return train_epoch(self, *arguments)

    def updated(self: Any, step: int, windows: int, **scalars: float) -> None:
        if windows:
            phases.enter("step")
        update(self, step, windows, **scalars)

    Trainer._train_epoch = trained  # type: ignore[method-assign,assignment]
    TrainingProgress.update = updated  # type: ignore[method-assign]
    phases.on_call(TrainedRun, "predict", "prediction")
    phases.on_call(results, "write_results", "report")
    phases.on_call(StoreWriter, "add", "videos")
    phases.on_call(StoreWriter, "finish", "documents", after="end")
    phases.on_call(StoreWriter, "_publish", "rename")


def _import() -> None:
    """Imports the modules that commands import; the commands' own modules run as __main__."""
    import emojax.commands.start
    import emojax.prediction.trained_run
    import emojax.reporting.fold_picture
    import emojax.reporting.results_folder
    import emojax.scoring.evaluation
    import emojax.training.loop

    # So that programs that compile in less than half a second are cached, too.
    emojax.commands.start.use_compilation_cache = lambda: None


def _child(request: dict[str, Any]) -> None:
    for stream, path in ((0, os.devnull), (1, request["log"]), (2, request["log"])):
        how = os.O_RDONLY if stream == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND
        os.dup2(os.open(path, how), stream)
    phases = _Phases(request["phases"])
    phases.enter("start-up")
    _watch(phases)
    sys.argv = list(request["argv"])
    code: Any = 0
    try:
        runpy.run_module(request["argv"][0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # An orderly exit of the interpreter costs more than some of these commands.
    os._exit(code if isinstance(code, int) else int(code is not None))


def _serve(requests: Any) -> None:
    """Runs the requested commands, one after another."""
    answers = os.dup(1)
    _import()
    gc.freeze()
    ended = 0
    for line in iter(requests.readline, ""):
        if ended:
            # Waited for only now, so that its number was not given to another process.
            os.waitpid(ended, 0)
        ended = os.fork()
        if ended == 0:
            os.close(answers)
            _child(json.loads(line))
        os.write(answers, f"{ended}\n".encode())
        how = os.waitid(os.P_PID, ended, os.WEXITED | os.WNOWAIT)
        assert how is not None
        status = how.si_status if how.si_code == os.CLD_EXITED else -how.si_status
        os.write(answers, f"{status}\n".encode())


def main(arguments: Sequence[str]) -> int:
    """Runs the warm process, which reads requests from its input."""
    assert not arguments, "for Warm alone"
    _serve(sys.stdin)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
