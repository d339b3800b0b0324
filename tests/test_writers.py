"""Tests the numbers of a run: the table survives kills and resumes; TensorBoard reads all."""

import csv
import math
import subprocess
import sys
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from emojax.errors import InputError
from emojax.rundir.metric_log import RunWriter, read_metrics


def table(workdir: Path) -> list[list[str]]:
    with (workdir / "metrics.csv").open(newline="") as file:
        return list(csv.reader(file))


def test_the_table_is_wide_and_takes_new_columns(tmp_path: Path) -> None:
    with RunWriter(tmp_path) as writer:
        writer.scalars(10, {"train/loss": 0.5})
        writer.scalars(20, {"train/loss": 0.25})
        writer.scalars(20, {"validation/ccc": np.float32(0.75)})
        writer.scalars(30, {"validation/ccc": jnp.asarray(1.0)})
        writer.scalars(40, {})
    assert table(tmp_path) == [
        ["step", "train/loss", "validation/ccc"],
        ["10", "0.5", ""],
        ["20", "0.25", "0.75"],
        ["30", "", "1"],
    ]
    assert read_metrics(tmp_path / "metrics.csv")[20] == {
        "train/loss": 0.25,
        "validation/ccc": 0.75,
    }


def test_the_table_is_on_disk_before_the_writer_closes(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "new" / "run")
    writer.scalars(1, {"loss": 2.0})
    assert read_metrics(tmp_path / "new" / "run" / "metrics.csv") == {1: {"loss": 2.0}}
    writer.close()
    writer.close()


def test_resuming_drops_what_comes_after_the_checkpoint(tmp_path: Path) -> None:
    with RunWriter(tmp_path) as writer:
        for step in (10, 20, 30, 40):
            writer.scalars(step, {"loss": float(step)})
    with RunWriter(tmp_path, resume_step=20) as writer:
        assert list(read_metrics(tmp_path / "metrics.csv")) == [10, 20]
        writer.scalars(30, {"loss": -1.0})
    assert read_metrics(tmp_path / "metrics.csv") == {
        10: {"loss": 10.0},
        20: {"loss": 20.0},
        30: {"loss": -1.0},
    }


def test_a_fresh_run_begins_a_new_table(tmp_path: Path) -> None:
    with RunWriter(tmp_path) as writer:
        writer.scalars(10, {"loss": 1.0})
    with RunWriter(tmp_path):
        assert table(tmp_path) == [["step"]]


def test_resuming_without_a_table_begins_one(tmp_path: Path) -> None:
    with RunWriter(tmp_path, resume_step=100) as writer:
        writer.scalars(110, {"loss": 1.0})
    assert list(read_metrics(tmp_path / "metrics.csv")) == [110]


@hypothesis.given(
    st.lists(
        st.tuples(
            st.integers(0, 8),
            st.dictionaries(st.sampled_from("abc"), st.floats(width=32, allow_nan=False)),
        ),
        max_size=12,
    )
)
@hypothesis.settings(max_examples=30, deadline=None)
def test_any_order_of_writes_reads_back(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[int, dict[str, float]]]
) -> None:
    workdir = tmp_path_factory.mktemp("run")
    expected: dict[int, dict[str, float]] = {}
    with RunWriter(workdir) as writer:
        for step, values in writes:
            writer.scalars(step, values)
            if values:
                expected.setdefault(step, {}).update(values)
    found = read_metrics(workdir / "metrics.csv")
    as_float32 = {s: {n: float(np.float32(v)) for n, v in row.items()} for s, row in found.items()}
    assert as_float32 == expected


def test_not_a_number_stays_visible(tmp_path: Path) -> None:
    with RunWriter(tmp_path) as writer:
        writer.scalars(1, {"loss": float("nan")})
    assert math.isnan(read_metrics(tmp_path / "metrics.csv")[1]["loss"])


def test_a_vector_is_refused(tmp_path: Path) -> None:
    with RunWriter(tmp_path) as writer, pytest.raises(TypeError):
        writer.scalars(1, {"loss": np.ones(3)})


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", "header"),
        ("hello\n", "header"),
        ("step,loss\n1,zero\n", "line 2"),
        ("step,loss\n1\n", "line 2"),
        ("step,loss\n1,0.5\n,\n", "line 3"),
    ],
)
def test_a_bad_table_is_told(tmp_path: Path, text: str, field: str) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        RunWriter(tmp_path, resume_step=5)
    assert caught.value.details["file"] == str(path)
    assert caught.value.details["field"] == field


def test_a_line_cut_off_by_a_kill_never_counted(tmp_path: Path) -> None:
    for cut in ("", "2", "20,0.", "20,0.25"):
        (tmp_path / "metrics.csv").write_text("step,loss\n10,0.5\n" + cut)
        with RunWriter(tmp_path, resume_step=20) as writer:
            writer.scalars(21, {"loss": 1.0})
        assert read_metrics(tmp_path / "metrics.csv") == {10: {"loss": 0.5}, 21: {"loss": 1.0}}


def test_a_missing_table_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_metrics(tmp_path / "metrics.csv")


def test_tensorboard_reads_the_scalars_and_forgets_on_resume(tmp_path: Path) -> None:
    with RunWriter(tmp_path) as writer:
        writer.scalars(10, {"loss": 0.5, "ccc": 0.25})
    (first,) = tmp_path.glob("events.out.tfevents.*")
    values = {
        value.tag: (event.step, value.tensor.float_val[0])
        for event in EventFileLoader(str(first)).Load()
        for value in event.summary.value
    }
    assert values == {"loss": (10, 0.5), "ccc": (10, 0.25)}
    with RunWriter(tmp_path, resume_step=10):
        pass
    (second,) = set(tmp_path.glob("events.out.tfevents.*")) - {first}
    starts = [e.step for e in EventFileLoader(str(second)).Load() if e.HasField("session_log")]
    assert starts == [11]


def test_writing_needs_no_tensorflow() -> None:
    code = (
        "import sys, emojax.rundir.metric_log; "
        "assert not any(name.split('.')[0] in ('tensorflow', 'torch') for name in sys.modules)"
    )
    root = Path(__file__).resolve().parents[1]
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=root)
