"""Tests that a folder belongs to one run at a time, and that read-only folders are refused."""

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from emojax.errors import InputError, MachineError, machine_error, writing
from emojax.rundir.resume import discard_run
from emojax.rundir.workdir import LOCK_FILE, WorkdirLock, replace_text

ROOT = Path(__file__).parents[1]
# Locks the folder, says so, and waits to be killed or told to go on.
_HOLDING = """
import sys
from emojax.rundir.workdir import WorkdirLock
with WorkdirLock(sys.argv[1]):
    print("locked", flush=True)
    sys.stdin.read()
"""


def holder(workdir: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDING, str(workdir)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    return process


def end(process: subprocess.Popen[str], number: int | None = None) -> None:
    if number is not None:
        process.send_signal(number)
    process.communicate(timeout=60)


def test_a_second_run_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    first = holder(workdir)
    try:
        (workdir / "config.json").write_text("{}")
        with pytest.raises(InputError, match="Another run") as caught, WorkdirLock(workdir):
            pass
        assert f"process {first.pid}, since 20" in caught.value.details["found"]
        assert caught.value.details["file"] == str(workdir)
        assert caught.value.status == 2
        # --overwrite deletes nothing under a live run.
        with pytest.raises(InputError, match="Another run"):
            discard_run(workdir)
        assert (workdir / "config.json").is_file()
        assert json.loads((workdir / LOCK_FILE).read_text())["pid"] == first.pid
    finally:
        end(first)
    assert not (workdir / LOCK_FILE).exists()
    with WorkdirLock(workdir):
        discard_run(workdir)
        assert [path.name for path in workdir.iterdir()] == [LOCK_FILE]


def test_a_killed_run_leaves_no_lock_behind(tmp_path: Path) -> None:
    end(holder(tmp_path), signal.SIGKILL)
    assert (tmp_path / LOCK_FILE).is_file()
    # Nor does a file that was copied with the folder, or was cut off.
    for text in (None, "", '{"pid": 1, "host": "else'):
        if text is not None:
            (tmp_path / LOCK_FILE).write_text(text)
        with WorkdirLock(tmp_path):
            assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()


def in_a_program(code: str, *arguments: object) -> None:
    """Runs code in a process of its own, which has one thread and so may fork."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


_TWICE = """
import os, sys
from pathlib import Path
from emojax.rundir.workdir import WorkdirLock
from emojax.errors import InputError

workdir = Path(sys.argv[1])
with WorkdirLock(workdir):
    with WorkdirLock(workdir.parent / ".." / "a" / "run"):
        pass
    assert (workdir / ".lock").is_file()
    child = os.fork()
    if child == 0:
        try:
            with WorkdirLock(workdir):
                os._exit(1)
        except InputError:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (workdir / ".lock").is_file()
"""


def test_a_process_may_take_its_own_lock_again_and_its_fork_may_not(tmp_path: Path) -> None:
    in_a_program(_TWICE, tmp_path / "a" / "run")
    # It was made for nothing.
    assert list((tmp_path / "a").iterdir()) == []


_REFUSED = """
import os, sys
from pathlib import Path
from emojax.rundir.workdir import WorkdirLock
from emojax.errors import MachineError

# The superuser may write anywhere.
if os.geteuid() == 0:
    os.setuid(65534)
for workdir in (Path(sys.argv[1]), Path(sys.argv[1], "run")):
    try:
        with WorkdirLock(workdir):
            sys.exit("it may write there")
    except MachineError as error:
        assert error.status == 74
        assert error.details["found"] == "Permission denied"
        assert "choose another" in error.details["remedy"]
"""


def test_a_folder_without_permission_is_refused_at_once() -> None:
    # Not tmp_path, whose parents let nobody else in.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755 if os.geteuid() == 0 else 0o555)
        in_a_program(_REFUSED, folder)
        folder.chmod(0o755)


def test_failures_of_the_machine_are_told_from_others(tmp_path: Path) -> None:
    for number in (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.EFBIG):
        error = OSError(number, os.strerror(number), "somewhere")
        with (
            pytest.raises(MachineError, match=r"The table could not be written\.") as caught,
            writing(tmp_path / "table", "The table", kept="the rest is kept"),
        ):
            raise error
        assert caught.value.__cause__ is error
        assert caught.value.details["found"] == os.strerror(number)
        assert caught.value.details["remedy"].endswith("; the rest is kept")
    # As TensorStore says it, wrapped once more by Orbax.
    try:
        try:
            raise ValueError("UNKNOWN: [/x/y: pwrite failed: No space left on device]")
        except ValueError as inner:
            raise RuntimeError("the save failed") from inner
    except RuntimeError as outer:
        found = machine_error(outer, tmp_path, "The checkpoint")
    assert found is not None
    assert found.details["found"] == "No space left on device"
    # What is a bug, or bad input, stays what it is.
    for other in (FileNotFoundError(errno.ENOENT, "no such file"), ValueError("no number")):
        assert machine_error(other, None, "The table") is None
        with pytest.raises(type(other)), writing(None, "The table"):
            raise other
    with pytest.raises(InputError) as kept, writing(None, "The table"):
        raise InputError("Permission denied is a word of this input.")
    assert kept.value.status == 2


def test_a_small_file_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "summary.json"
    replace_text(path, "old", "The summary")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MachineError, match="The summary could not"):
        replace_text(path, "new", "The summary")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
