"""The peak of memory in a summary is that of the command alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_TOLD = """
import json
from emojax.commands.summary import Summary
print(json.loads(Summary("x").text("done", 0, None))["peak_memory_bytes"])
"""
# A process that holds much starts the one that tells.
_PARENT = """
import subprocess, sys
held = bytearray(400_000_000)
held[::4096] = bytes(len(held[::4096]))
print(subprocess.run([sys.executable, "-c", sys.argv[1]], capture_output=True, text=True).stdout)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="elsewhere nobody else tells")
def test_what_the_starting_process_holds_does_not_count() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PARENT, _TOLD], capture_output=True, text=True, check=True
    )
    assert 5e6 < int(done.stdout) < 200e6
