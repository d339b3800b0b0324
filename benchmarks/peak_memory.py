"""Greatest memory of training steps, each series of them in a process of its own.

``python -m benchmarks.peak_memory`` reads a JSON list of requests on stdin and answers each with
a line of JSON; ``measure_peaks`` calls it.

What counts is the train state and the batch, by their shapes, and what a step takes above them:
on CPU as the kernel counts resident memory (/proc/self), in PyTorch on a GPU as its allocator
counts. JAX's allocator on a GPU counts from the start of the process and cannot be set back, so
there a series has to grow.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks.machine import allow_tf32, backend, import_torch, torch_device
from benchmarks.results import Missing
from benchmarks.timing import told
from benchmarks.torch_training import TorchTraining
from benchmarks.workload import Case, EmojaxTraining
from emojax.core.devices import use_compilation_cache

EMOJAX, TORCH = "emojax", "torch"
_MEBIBYTE = 1 << 20
_ANSWER = "peak: "


@dataclasses.dataclass(frozen=True)
class Request:
    """One measurement to make.

    Attributes:
        framework: ``EMOJAX`` or ``TORCH`` (eager).
        case: what is trained.
    """

    framework: str
    case: Case


def measure_peaks(requests: Sequence[Request], *, timeout: float) -> list[float | Missing]:
    """MiB of each request, or why it is not known.

    Args:
        requests: in the order to run in.
        timeout: seconds for all of them.
    """
    if not requests or timeout <= 0:
        return [Missing("out of time")] * len(requests)
    text = json.dumps([dataclasses.asdict(request) for request in requests])
    command = [sys.executable, "-m", "benchmarks.peak_memory"]
    root = Path(__file__).resolve().parents[1]
    reason = "out of time"
    output = ""
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=timeout, cwd=root
        )
        output = done.stdout
        errors = done.stderr.strip().splitlines()
        reason = f"the process ended with status {done.returncode}: {errors[-1:]}"[:160]
    except subprocess.TimeoutExpired as error:
        held = error.stdout or b""
        output = held.decode() if isinstance(held, bytes) else held
    # A line that a stopped process left unfinished is none.
    lines = [line for line in output.splitlines(keepends=True) if line.endswith("\n")]
    answers = [json.loads(line[len(_ANSWER) :]) for line in lines if line.startswith(_ANSWER)]
    found: list[float | Missing] = [
        Missing(answer) if isinstance(answer, str) else answer for answer in answers
    ]
    return found + [Missing(reason)] * (len(requests) - len(found))


def main() -> None:
    """Answers the requests on stdin."""
    use_compilation_cache()
    for fields in json.load(sys.stdin):
        case = Case(**fields["case"] | {"streams": tuple(fields["case"]["streams"])})
        answer: float | str
        try:
            answer = peak(Request(fields["framework"], case))
        except Exception as error:
            answer = told(error)
        print(_ANSWER + json.dumps(answer), flush=True)
        gc.collect()


def peak(request: Request) -> float:
    """MiB of one request, in this process.

    Raises:
        OSError: this system does not count resident memory in /proc.
        RuntimeError: an earlier peak hides this one (JAX on a GPU).
    """
    before = _jax_peak()
    ours = EmojaxTraining(request.case)
    if request.framework == EMOJAX:
        return peak_of(ours, before=before)
    torch = import_torch()
    allow_tf32(torch, True)
    theirs = TorchTraining(ours, torch)
    del ours
    return peak_of(theirs, torch)


def peak_of(
    training: EmojaxTraining | TorchTraining, torch: Any = None, *, before: int = 0
) -> float:
    """MiB of a training that is there.

    Args:
        training: takes a few steps.
        torch: the module, if it is PyTorch's.
        before: JAX's peak before the training was made.

    Raises:
        OSError: this system does not count resident memory in /proc.
        RuntimeError: an earlier peak hides this one (JAX on a GPU).
    """
    for _ in range(2):
        training.step()
    training.wait()
    gc.collect()
    if torch is None and backend() != "cpu":
        after = _jax_peak()
        if after <= before:
            raise RuntimeError("an earlier peak of the same process was higher")
        return after / _MEBIBYTE
    held = _held(training)
    if isinstance(training, TorchTraining):
        training.optimizer.zero_grad(set_to_none=True)
    cuda = torch is not None and torch_device(torch) == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        base = torch.cuda.memory_allocated()
    else:
        return_freed_memory()
        Path("/proc/self/clear_refs").write_text("5")
        base = _resident("VmRSS")
    for _ in range(2):
        training.step()
    training.wait()
    top = torch.cuda.max_memory_allocated() if cuda else _resident("VmHWM")
    return (held + top - base) / _MEBIBYTE


def _held(training: EmojaxTraining | TorchTraining) -> int:
    """Bytes of train state and batch."""
    if isinstance(training, EmojaxTraining):
        leaves = jax.tree.leaves((training.state, training.batch))
        return sum(leaf.nbytes for leaf in leaves)
    tensors = [*training.module.parameters(), *training.module.buffers()]
    tensors += [*training.streams.values(), *training.labels.values()]
    for moments in training.optimizer.state.values():
        tensors += [value for value in moments.values() if hasattr(value, "element_size")]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _jax_peak() -> int:
    """Bytes; 0 where the device does not count (CPU)."""
    stats: dict[str, Any] = jax.devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use", 0)


def _resident(field: str) -> int:
    """A line of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {field} in /proc/self/status")


def return_freed_memory() -> None:
    """Gives the system what was freed and kept for the next allocation."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return  # another C library: freed memory that it keeps hides some of the peak


if __name__ == "__main__":
    main()
