"""Memory that was freed is used again without asking the system for it."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, threading
from emojax.training.host_memory import keep_freed_memory

if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit("unsupported")

def use():
    bytearray(2**26)

def in_a_thread():
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()

for _ in range(2):
    in_a_thread()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    in_a_thread()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc only")
def test_freed_memory_is_kept_for_every_thread() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, "keep"], capture_output=True, text=True, check=False
    )
    assert "unsupported" not in ran.stderr
    assert ran.returncode == 0, ran.stderr
    # Zeroed blocks of 64 MB are 16,384 pages; what threads need themselves is a few.
    assert int(ran.stdout) < 1000
