"""A full disk and a kill leave whole rows of ``metrics.csv``, whole events, and a clear error."""

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from emojax.datasets.store import StoreWriter
from emojax.errors import MachineError
from emojax.rundir.metric_log import RunWriter, read_metrics
from tests.small_disk import mounted
from tests.small_store import STREAMS, make_record

ROOT = Path(__file__).resolve().parents[1]
# Writes rows until it is killed or they do not fit; tells each, or what went wrong.
_WRITING = """
import sys
from emojax.rundir.metric_log import RunWriter
from emojax.errors import MachineError
{preparation}
with RunWriter(sys.argv[1]) as writer:
    try:
        for step in range(1, 100000):
            writer.scalars(step, {{"loss": 1 / step, "ccc": step / 7}})
            print(step, flush=True)
    except MachineError as error:
        print(error.status, error.details["file"], error.details["found"], flush=True)
"""


def started(workdir: Path, preparation: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _WRITING.format(preparation=preparation), str(workdir)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def write(writer: RunWriter, steps: Iterable[int]) -> None:
    for step in steps:
        writer.scalars(step, {"loss": 1 / step, "ccc": step / 7})


def whole_rows(workdir: Path) -> int:
    """Counts the rows of the table, after checking that all are complete and right."""
    text = (workdir / "metrics.csv").read_text()
    assert text.endswith("\n")
    rows = list(csv.DictReader(text.splitlines()))
    assert [int(row["step"]) for row in rows] == [*range(1, len(rows) + 1)]
    for row in rows:
        step = int(row["step"])
        values = [float(row["loss"]), float(row["ccc"])]
        assert values == pytest.approx([1 / step, step / 7], rel=1e-8)
    return len(rows)


def whole_events(workdir: Path) -> int:
    """Counts the events; TensorBoard reads them to the end of the file."""
    (path,) = workdir.glob("events.out.tfevents.*")
    return sum(bool(event.step) for event in EventFileLoader(str(path)).Load())


def test_a_kill_leaves_whole_rows(tmp_path: Path) -> None:
    process = started(tmp_path)
    assert process.stdout is not None
    with process:
        for _ in range(40):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        told = 40 + len(process.stdout.read().splitlines())
    assert told <= whole_rows(tmp_path) <= told + 1
    assert told <= whole_events(tmp_path) <= told + 1


@pytest.mark.parametrize("limit", [700, 2000])
def test_what_does_not_fit_is_taken_back(tmp_path: Path, limit: int) -> None:
    process = started(
        tmp_path, f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    )
    output, _ = process.communicate(timeout=60)
    *steps, error = output.splitlines()
    assert process.returncode == 0
    assert error.startswith("74 ")
    # Events are larger than rows, so they meet the limit first.
    assert "events.out.tfevents" in error
    assert len(steps) == whole_events(tmp_path) == whole_rows(tmp_path) - 1 > 3


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Returns a file system of 64 KiB."""
    with mounted(tmp_path / "disk", "64k") as folder:
        yield folder


def test_a_disk_that_fills_up_under_a_run(small_disk: Path) -> None:
    with RunWriter(small_disk / "run") as writer:
        write(writer, range(1, 6))
        filler = small_disk / "filler"
        with pytest.raises(OSError, match="No space"):
            filler.write_bytes(bytes(1 << 20))
        with pytest.raises(MachineError, match="could not be written") as caught:
            write(writer, range(6, 1000))
        assert "free some space" in caught.value.details["remedy"]
        assert "last good checkpoint" in caught.value.details["remedy"]
    rows = whole_rows(small_disk / "run")
    assert 5 <= whole_events(small_disk / "run") <= rows
    # With space again, the same call goes on.
    filler.unlink()
    with RunWriter(small_disk / "run", resume_step=5) as writer:
        write(writer, [6])
    assert whole_rows(small_disk / "run") == 6


def test_a_disk_that_fills_up_under_a_builder(small_disk: Path) -> None:
    def build() -> None:
        with StoreWriter(
            small_disk / "store", name="large", streams=STREAMS, tasks=["va"]
        ) as writer:
            for i in range(100):
                writer.add(make_record(f"video-{i}", "train", num_frames=300, seed=i))

    with pytest.raises(MachineError, match=r"The store could not be written\.") as caught:
        build()
    assert caught.value.details["found"] == os.strerror(28)
    assert list(small_disk.iterdir()) == []


def test_a_read_only_disk_is_told(small_disk: Path) -> None:
    RunWriter(small_disk).close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(MachineError) as caught:
        RunWriter(small_disk, resume_step=0)
    assert caught.value.details["found"] == "Read-only file system"
    assert read_metrics(small_disk / "metrics.csv") == {}
