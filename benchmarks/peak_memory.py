"""Measures the peak memory of training steps, each series of them in a process of its own.

``python -m benchmarks.peak_memory`` reads a JSON list of requests on stdin and answers each with
a line of JSON; ``measure_peaks`` calls it.

The peak is the size of train state and batch, by their shapes, plus the memory that a step takes
beyond them. On a CPU that is counted by the kernel as resident memory (/proc/self), in PyTorch on a
GPU by its allocator. JAX's allocator on a GPU counts from the start of the process and has no
reset, so its series must be in ascending order.
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
        case: the training.
    """

    framework: str
    case: Case


def measure_peaks(requests: Sequence[Request], *, timeout: float) -> list[float | Missing]:
    """Measures the MiB of each request; a failed one has the reason.

    Args:
        requests: the requests, in the order of measurement.
        timeout: the seconds for all of them together.
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
    # The unfinished line of a stopped process does not count.
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
    """Measures the MiB of one request, in this process.

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
    """Measures the MiB of an existing training.

    Args:
        training: the training, which takes a few steps.
        torch: the module ``torch``, for a training of PyTorch.
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
    """Returns the bytes of train state and batch."""
    if isinstance(training, EmojaxTraining):
        leaves = jax.tree.leaves((training.state, training.batch))
        return sum(leaf.nbytes for leaf in leaves)
    tensors = [*training.module.parameters(), *training.module.buffers()]
    tensors += [*training.streams.values(), *training.labels.values()]
    for moments in training.optimizer.state.values():
        tensors += [value for value in moments.values() if hasattr(value, "element_size")]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _jax_peak() -> int:
    """Returns JAX's peak in bytes; 0 if the device does not count it (CPU)."""
    stats: dict[str, Any] = jax.devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use", 0)


def _resident(field: str) -> int:
    """Returns a line of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {field} in /proc/self/status")


def return_freed_memory() -> None:
    """Returns freed memory, which the C library keeps for the next allocation, to the system."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return  # another C library: the freed memory that it keeps hides a part of the peak


if __name__ == "__main__":
    main()
