"""Strict settings for every test: 8 simulated devices, no silent broadcasting, quick compiling.

Tests compile much and compute little. So XLA optimises nothing, and its newer emitters of fused
loops, which take most of the time, are off: a program compiles in an eighth of the time, and
says the same. ``OPTIMISED=1 make test`` compiles everything as users do; test_rjcma_parity.py
always does for a forward and backward pass of RJCMA.
"""

import atexit
import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator

os.environ.setdefault("MPLBACKEND", "Agg")
# Threads of BLAS and PyTorch wait for each other busily, which costs minutes beside other workers.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts something in the background makes it, and all that it starts, deaf to Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import hypothesis
import jax
import pytest

# Nothing that a test fits is found in the user's cache, or left there.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="emojax-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
if not os.environ.get("OPTIMISED"):
    jax.config.update("jax_disable_most_optimizations", True)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # for programs that tests start
    # XLA reads its flags with the first program. Those set already come last, and so they win.
    _QUICK = "--xla_cpu_parallel_codegen_split_count=1"
    # Newer versions have no other emitters, and end a process that asks for an unknown flag.
    if jax.__version_info__ < (0, 11):
        _QUICK += " --xla_cpu_use_fusion_emitters=false"
    os.environ["XLA_FLAGS"] = f"{_QUICK} {os.environ.get('XLA_FLAGS', '')}".strip()


@pytest.fixture(params=["float32", "float64"])
def precision(request: pytest.FixtureRequest) -> Iterator[str]:
    """Returns the dtype to compute in, which JAX has enabled as long as the test runs."""
    with jax.enable_x64(request.param == "float64"):
        yield request.param


def pytest_collection_finish() -> None:
    """Keeps the collector of garbage from looking through all that was imported."""
    gc.collect()
    gc.freeze()


# No deadline: the first example compiles. In CI the examples are the same in every run, so that
# a red run means a change, not luck; at the desk they differ and find more over time.
hypothesis.settings.register_profile(
    "emojax", deadline=None, derandomize=bool(os.environ.get("CI")), print_blob=True
)
hypothesis.settings.load_profile("emojax")
