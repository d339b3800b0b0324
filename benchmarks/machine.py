"""Describes the machine and measures its rate of matrix products."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp


def import_torch() -> Any:
    """Imports PyTorch and gives it the cores that this process may use.

    Raises:
        ImportError: PyTorch is not installed; the message has the remedy.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError("no PyTorch here; CONTRIBUTING.md says how to add it") from error
    torch.set_num_threads(num_cores())
    return torch


def num_cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def backend() -> str:
    """Returns the backend of JAX: "cpu", "gpu" or "tpu"."""
    return jax.default_backend()


def torch_device(torch: Any) -> str:
    """Returns PyTorch's device of the kind that JAX uses.

    Raises:
        RuntimeError: JAX has an accelerator that PyTorch does not see.
    """
    if backend() == "cpu":
        return "cpu"
    if backend() == "gpu" and torch.cuda.is_available():
        return "cuda"
    raise RuntimeError(f"PyTorch {torch.__version__} does not see the {backend()}")


def allow_tf32(torch: Any, allowed: bool) -> None:
    """Sets, in both frameworks, if float32 products may round their factors to TF32.

    By default JAX does so on GPUs that have TF32, PyTorch only in convolutions. Setting it in both
    makes them alike. CPUs do not have TF32.
    """
    jax.config.update("jax_default_matmul_precision", None if allowed else "highest")
    if torch is not None and torch.cuda.is_available():
        torch.backends.cuda.matmul.allow_tf32 = allowed
        torch.backends.cudnn.allow_tf32 = allowed
        torch.backends.cudnn.benchmark = True


def synchronise(torch: Any) -> Callable[[], None]:
    """Returns a function that waits for PyTorch's device."""
    return torch.cuda.synchronize if torch_device(torch) == "cuda" else lambda: None


def describe(command: str) -> dict[str, str]:
    """Returns machine, versions, date (UTC) and command, for the head of the results."""
    device = jax.devices()[0]
    versions = {"python": platform.python_version()}
    for name in ("jax", "jaxlib", "flax", "numpy", "torch"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "none"
    now = datetime.datetime.now(datetime.UTC)
    accelerator = "" if backend() == "cpu" else f"{len(jax.devices())} x {device.device_kind}, "
    return {
        "machine": f"{accelerator}{_processor()}, {num_cores()} cores, {platform.machine()}",
        "backend": backend(),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        # Load by other programs. It slows PyTorch most, whose threads wait for each other.
        "load before the run": f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "?",
        "date": now.strftime("%Y-%m-%d %H:%M UTC"),
        "command": command,
    }


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or "unknown processor"


# ---- Matmul rate -----------------------------------------------------------------------------


def matmul_rate(
    dtype: str, *, size: int, repeats: int = 7, torch: Any = None
) -> tuple[float, dict[str, float]]:
    """Measures the FLOP/s of a square matrix product in JAX and PyTorch.

    Args:
        dtype: "float32" or "bfloat16".
        size: n of (n, n) @ (n, n).
        repeats: the number of timed products in each framework, of which the median counts.
        torch: the module ``torch``, or None.

    Returns:
        The higher rate, and the rate of each framework.
    """
    flops = 2.0 * size**3
    a = jax.random.normal(jax.random.key(0), (size, size), jnp.dtype(dtype))
    multiply = jax.jit(jnp.matmul)
    rates = {"jax": flops / _median(lambda: jax.block_until_ready(multiply(a, a)), repeats)}
    if torch is not None:
        device = torch_device(torch)
        b = torch.randn(size, size, dtype=getattr(torch, dtype), device=device)
        wait = synchronise(torch)

        def product() -> None:
            torch.matmul(b, b)
            wait()

        rates["torch"] = flops / _median(product, repeats)
    return max(rates.values()), rates


def _median(call: Callable[[], Any], repeats: int) -> float:
    call()
    call()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return sorted(times)[repeats // 2]
