"""Tests the scripts of launch/: their output, their refusals, and the life of processes."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ("local", "multi_gpu", "slurm", "tpu_slice", "tpu_vm")
TRAIN = [
    "python", "-m", "emojax.train", "--config.data.store=/mnt/shared/stores/a",
    "--workdir=/mnt/shared/runs/a",
]  # fmt: skip
# What each script needs, as options and as variables.
OPTIONS = {"local": ["--processes=2"]}
_TPU = {"TPU_NAME": "mine", "TPU_ZONE": "us-central2-b", "REMOTE_DIR": "/home/me/emojax"}
VARIABLES = {
    "slurm": {"NODES": "2", "GPUS_PER_NODE": "4", "TIME_LIMIT": "12:00:00"},
    "tpu_vm": _TPU,
    "tpu_slice": _TPU | {"STORE": "/mnt/shared/stores/a", "WORKDIR": "/mnt/shared/runs/a"},
}
# Programs of other machines; here each writes down how it was called.
FOREIGN = ("gcloud", "nvidia-smi", "sbatch", "scontrol", "srun")


@pytest.fixture(autouse=True)
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts stand-ins first on PATH; the file that they write down their calls in."""
    calls, programs = tmp_path / "calls", tmp_path / "bin"
    programs.mkdir()
    for name in FOREIGN:
        stand_in(programs / name, f'echo {name} "$@" >> {shlex.quote(str(calls))}')
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    for name in {key for table in VARIABLES.values() for key in table}:
        monkeypatch.delenv(name, raising=False)
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    return calls


def stand_in(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def called(script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "launch" / f"{script}.sh", *arguments],
        env=os.environ | variables, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def dry(script: str, *command: str) -> list[str]:
    """Returns the lines of a dry run."""
    options = OPTIONS.get(script, [])
    result = called(
        script, *options, "--dry-run", "--", *(command or TRAIN), **VARIABLES.get(script, {})
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def python(script: str, code: str) -> list[str]:
    return ["--", sys.executable, "-c", f"import os, signal, sys, time\n{code}"]


# -- of every script -------------------------------------------------------------------------------


def test_every_script_is_tested() -> None:
    found = {path.stem for path in (ROOT / "launch").glob("*.sh")} - {"common"}
    assert found == set(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_the_header(script: str) -> None:
    result = called(script, "--help")
    assert result.returncode == 0
    assert f"launch/{script}.sh" in result.stdout
    for name in ("--dry-run", *VARIABLES.get(script, {})):
        assert name in result.stdout
    assert "set -euo" not in result.stdout
    source = (ROOT / "launch" / f"{script}.sh").read_text()
    assert "set -euo pipefail" in source
    for option in re.findall(r"^    (--[\w-]+)(?:=\*)?\)", source, flags=re.MULTILINE):
        assert option in result.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_dry_run_prints_the_command_and_runs_nothing(script: str, foreign: Path) -> None:
    lines = dry(script)
    assert not foreign.exists()
    # Each line is one that a shell would take.
    for line in lines:
        assert line.startswith("#") or shlex.split(line)
    assert any("-m emojax.train" in line and TRAIN[-1] in line for line in lines)


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("arguments", [["--nodes=2", "--", "true"], ["--"], []])
def test_an_unknown_option_or_no_command_is_refused(script: str, arguments: list[str]) -> None:
    options = OPTIONS.get(script, [])
    result = called(script, *options, *arguments, **VARIABLES.get(script, {}))
    assert result.returncode == 2
    assert result.stderr.startswith(f"launch/{script}.sh: {(arguments or ['--'])[0]}: ")


_NEEDED = [(script, name) for script, table in VARIABLES.items() for name in table]


@pytest.mark.parametrize(("script", "name"), _NEEDED)
def test_a_missing_or_senseless_variable_is_named(script: str, name: str, foreign: Path) -> None:
    others = {key: value for key, value in VARIABLES[script].items() if key != name}
    # Any name is one, for a TPU.
    wrong = [{}] + [{name: "two words"}] * (name != "TPU_NAME")
    for variables in wrong:
        result = called(script, "--", *TRAIN, **others, **variables)
        assert result.returncode == 2
        first, meaning, example = result.stderr.splitlines()
        assert first.startswith(f"launch/{script}.sh: {name}: ")
        assert ("two words" in first) is bool(variables)
        assert meaning.startswith("  meaning: ")
        assert re.match(rf"  example: (export {name}=\S+|-- )", example)
    assert not foreign.exists()


def test_all_that_is_missing_is_named_at_once(foreign: Path) -> None:
    given = dict.fromkeys(VARIABLES["tpu_slice"], "")
    result = called("tpu_slice", "--", *TRAIN, **given)
    assert result.returncode == 2
    told = re.findall(r"^launch/tpu_slice.sh: (\S+): not set$", result.stderr, re.MULTILINE)
    assert sorted(told) == sorted(given)
    assert not foreign.exists()


def test_python_is_that_of_the_repository(tmp_path: Path) -> None:
    copy = tmp_path / "copy" / "launch"
    copy.mkdir(parents=True)
    for name in ("common.sh", "local.sh"):
        (copy / name).write_bytes((ROOT / "launch" / name).read_bytes())
    venv = copy.parent / ".venv" / "bin"
    venv.mkdir(parents=True)
    (venv / "python").symlink_to(sys.executable)
    arguments = ["bash", copy / "local.sh", "--processes=1", "--dry-run", "--"]
    for word, expected in (("python", str(venv / "python")), ("pythonic", "pythonic")):
        line = subprocess.run([*arguments, word], capture_output=True, text=True, check=True).stdout
        assert shlex.split(line)[-1] == expected


# -- several processes here ------------------------------------------------------------------------


def test_processes_know_each_other_and_are_told_apart() -> None:
    code = """names = ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID", "NUM_CPU_DEVICES")
print(*(os.environ["JAX_" + name] for name in names), os.environ["JAX_PLATFORMS"], flush=True)
print("no newline", end="", file=sys.stderr)"""
    arguments = ["--processes=2", "--devices_per_process=3", *python("local", code)]
    result = called("local", *arguments, JAX_PLATFORMS="cpu")
    assert result.returncode == 0, result.stderr
    lines = sorted(result.stdout.splitlines())
    (port,) = {re.search(r"127\.0\.0\.1:(\d+)", line)[1] for line in lines}
    assert 1024 < int(port) < 65536
    assert lines == [f"[{i}] 127.0.0.1:{port} 2 {i} 3 cpu" for i in (0, 1)]
    assert sorted(result.stderr.splitlines()) == ["[0] no newline", "[1] no newline"]


@pytest.mark.parametrize("option", ["--processes=0", "--processes=two", "--processes="])
def test_processes_are_a_number(option: str) -> None:
    result = called("local", option, "--", "true")
    assert result.returncode == 2
    assert "--processes: " in result.stderr


def test_a_process_that_fails_ends_the_others_after_a_while(tmp_path: Path) -> None:
    code = """if os.environ["JAX_PROCESS_ID"] == "1":
    sys.exit(3)
print("waiting", flush=True)
time.sleep(50)"""
    started = time.monotonic()
    result = called("local", "--processes=3", "--grace=1", *python("local", code))
    assert time.monotonic() - started < 40
    assert result.returncode == 3
    assert "process 1 ended with status 3" in result.stderr
    for i in (0, 2):
        assert f"process {i} still ran 1 s after process 1 had failed" in result.stderr
        assert f"process {i} was ended by SIGKILL" in result.stderr


def test_others_may_end_by_themselves_meanwhile() -> None:
    code = """i = int(os.environ["JAX_PROCESS_ID"])
time.sleep(0.5 * i)
print("end", flush=True)
sys.exit([7, 0, 5][i])"""
    result = called("local", "--processes=3", *python("local", code))
    assert result.returncode == 7
    assert sorted(result.stdout.splitlines()) == ["[0] end", "[1] end", "[2] end"]
    assert "still ran" not in result.stderr


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        # SIGTERM, upon which it ends what it has started.
        process.terminate()
        process.communicate(timeout=30)


def begin(started: list[subprocess.Popen[str]], *arguments: object) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [str(argument) for argument in arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    started.append(process)
    return process


# Says that it is ready, and ends with 75 when it is asked to stop.
SAVES = """def stop(*_):
    print("saved", flush=True)
    sys.exit(75)
signal.signal(getattr(signal, SIGNAL), stop)
print("ready", flush=True)
time.sleep(50)"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_goes_on_to_every_process(name: str, started: list) -> None:
    code = SAVES.replace("SIGNAL", repr(name))
    process = begin(started, ROOT / "launch" / "local.sh", "--processes=2", *python("local", code))
    assert sorted(process.stdout.readline() for _ in range(2)) == ["[0] ready\n", "[1] ready\n"]
    process.send_signal(getattr(signal, name))
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 75, errors
    assert sorted(output.splitlines()) == ["[0] saved", "[1] saved"]
    assert f"{name}: passed on to 2 process(es)" in errors


def test_a_killed_process_is_told(tmp_path: Path, started: list) -> None:
    pids = tmp_path / "pids"
    process = begin(
        started, ROOT / "launch" / "local.sh", "--processes=2", "--grace=0", f"--pids={pids}",
        *python("local", "print(os.getpid(), flush=True)\ntime.sleep(50)"),
    )  # fmt: skip
    told = dict(process.stdout.readline().split() for _ in range(2))
    numbers = pids.read_text().split()
    assert numbers == [told["[0]"], told["[1]"]]
    os.kill(int(numbers[1]), signal.SIGKILL)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGKILL
    assert "process 1 was ended by SIGKILL" in errors
    with pytest.raises(ProcessLookupError):
        os.kill(int(numbers[0]), 0)


# -- several GPUs ----------------------------------------------------------------------------------


@pytest.fixture
def two_gpus(tmp_path: Path) -> None:
    stand_in(tmp_path / "bin" / "nvidia-smi", "echo 0; echo 1")


@pytest.mark.usefixtures("two_gpus")
def test_gpus_are_chosen_and_have_to_be_there() -> None:
    show = python("multi_gpu", 'print(os.environ.get("CUDA_VISIBLE_DEVICES"))')
    for option, expected in ([], "None"), (["--gpus=1"], "1"), (["--gpus=1,0"], "1,0"):
        result = called("multi_gpu", *option, *show)
        assert (result.returncode, result.stdout) == (0, f"{expected}\n"), result.stderr
    for option in ("--gpus=0,2", "--gpus=", "--gpus=a"):
        result = called("multi_gpu", option, *show)
        assert result.returncode == 2
        assert "--gpus: found " in result.stderr


def test_without_a_driver_there_are_no_gpus(tmp_path: Path) -> None:
    (tmp_path / "bin" / "nvidia-smi").unlink()
    for tool in ("bash", "env", "dirname", "sed", "tr", "paste"):
        (tmp_path / "bin" / tool).symlink_to(str(shutil.which(tool)))
    result = called("multi_gpu", "--", "true", PATH=str(tmp_path / "bin"))
    assert result.returncode == 2
    assert "nvidia-smi: no such command" in result.stderr


@pytest.mark.usefixtures("two_gpus")
def test_a_stopped_command_is_called_again_if_asked(tmp_path: Path) -> None:
    tries = tmp_path / "tries"
    code = f"""tries = open({str(tries)!r}, "a+")
tries.write("x")
sys.exit(75 if tries.tell() < 3 else 4)"""
    assert called("multi_gpu", *python("multi_gpu", code)).returncode == 75
    result = called("multi_gpu", "--restart", *python("multi_gpu", code))
    assert result.returncode == 4
    assert result.stderr.count("started again") == 1
    assert tries.read_text() == "xxx"


@pytest.mark.usefixtures("two_gpus")
def test_who_stops_the_script_stops_the_command(started: list) -> None:
    code = SAVES.replace("SIGNAL", repr("SIGTERM"))
    process = begin(
        started, ROOT / "launch" / "multi_gpu.sh", "--restart", *python("multi_gpu", code)
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert (process.returncode, output) == (75, "saved\n")


# -- SLURM -----------------------------------------------------------------------------------------


def test_slurm_submits_itself(foreign: Path) -> None:
    result = called("slurm", "--", *TRAIN, **VARIABLES["slurm"])
    assert result.returncode == 0, result.stderr
    (submitted,) = foreign.read_text().splitlines()
    for option in ("--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4", "--time=12:00:00"):
        assert option in submitted
    assert submitted.endswith(f"{ROOT}/launch/slurm.sh -- {' '.join(TRAIN)}")
    asked = re.findall(r"^#SBATCH (\S+)", (ROOT / "launch" / "slurm.sh").read_text(), re.MULTILINE)
    assert {"--signal=TERM@120", "--requeue", "--open-mode=append"} <= set(asked)


@pytest.mark.parametrize(("status", "requeued"), [(0, False), (1, False), (75, True), (134, False)])
def test_a_stopped_job_goes_into_the_queue_again(
    tmp_path: Path, foreign: Path, status: int, requeued: bool
) -> None:
    """Within the job, where SLURM runs a copy of the script from a folder of its own."""
    calls = shlex.quote(str(foreign))
    stand_in(
        tmp_path / "bin" / "srun", f'echo srun $EMOJAX_PROCESSES "$@" >> {calls}; exit {status}'
    )
    copy = tmp_path / "slurm_script"
    copy.write_bytes((ROOT / "launch" / "slurm.sh").read_bytes())
    result = subprocess.run(
        ["bash", copy, "--", "train", "--workdir=a b"],
        env=os.environ | {"SLURM_JOB_ID": "17", "SLURM_SUBMIT_DIR": str(ROOT)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == status, result.stderr
    step, *rest = foreign.read_text().splitlines()
    assert step.startswith("srun auto ")
    assert step.endswith("train --workdir=a b")
    assert rest == ["scontrol requeue 17"] * requeued


# -- TPUs ------------------------------------------------------------------------------------------


def test_a_tpu_vm_gets_code_packages_and_the_command() -> None:
    lines = dry("tpu_vm")
    steps = [shlex.split(line) for line in lines if line.startswith("gcloud")]
    for words in steps:
        assert words[:4] == ["gcloud", "compute", "tpus", "tpu-vm"]
        assert {"--zone=us-central2-b", "--worker=0"} <= set(words)
        assert not any(word.startswith("--project") for word in words)
    assert [words[4] for words in steps] == ["ssh", "scp", "ssh", "ssh", "ssh", "ssh", "ssh"]
    _, copied, _, installed, ran, _, stopped = (" ".join(words) for words in steps)
    assert "mine:/home/me/emojax/emojax.tar.gz" in copied
    assert "--require-hashes -r requirements.lock" in installed
    assert '"jax[tpu]==$(' in installed
    assert ".venv/bin/python -m emojax.train" in ran
    assert "EMOJAX_PROCESSES" not in ran
    assert "kill -TERM" in stopped


def test_a_slice_is_checked_before_it_starts(tmp_path: Path, foreign: Path) -> None:
    lines = [line for line in dry("tpu_slice") if line.startswith("gcloud")]
    marked, checked, *_, ran, _, _ = lines
    assert "--worker=0" in marked
    assert "--worker=all" in checked
    assert "/mnt/shared/stores/a/dataset.json" in shlex.split(checked)[-1]
    assert "--worker=all" in ran
    assert "env EMOJAX_PROCESSES=auto .venv/bin/python" in ran
    # When a host does not see the store, nothing more happens.
    stand_in(
        tmp_path / "bin" / "gcloud",
        f'echo "$@" >> {shlex.quote(str(foreign))}; case "$*" in *dataset.json*) exit 3;; esac',
    )
    result = called("tpu_slice", "--", *TRAIN, **VARIABLES["tpu_slice"])
    assert result.returncode == 3
    assert len(foreign.read_text().splitlines()) == 2


def test_what_is_checked_is_what_the_command_uses() -> None:
    variables = VARIABLES["tpu_slice"]
    result = called("tpu_slice", "--", "python", "--workdir=/elsewhere", **variables)
    assert result.returncode == 2
    assert "STORE: " in result.stderr


def test_the_remote_lines_do_what_they_say(tmp_path: Path) -> None:
    """The lines for the TPU VM's shell start, log and stop a command in a local shell."""
    folder = tmp_path / "remote"
    folder.mkdir()
    program = tmp_path / "saves.py"
    code = SAVES.replace("SIGNAL", repr("SIGTERM")).replace("print(", "print(sys.argv[1], ")
    program.write_text(f"import signal, sys, time\n{code}")
    variables = _TPU | {"REMOTE_DIR": str(folder), "GCP_PROJECT": "p"}
    arguments = ["--skip_install", "--dry-run", "--", sys.executable, str(program), "it's $HOME"]
    lines = called("tpu_vm", *arguments, **variables).stdout.splitlines()
    steps = [shlex.split(line) for line in lines if not line.startswith("#")]
    assert all("--project=p" in words for words in steps)
    start, _, stop = (words[-1].removeprefix("--command=") for words in steps)
    log = folder / "run.log"
    subprocess.run(["bash", "-c", start], check=True, timeout=10)
    _wait_for(log, "it's $HOME ready")
    # A second one beside it would write the same files.
    again = subprocess.run(["bash", "-c", start], capture_output=True, text=True, check=False)
    assert again.returncode == 3
    assert "still runs" in again.stderr
    subprocess.run(["bash", "-c", stop], check=True, timeout=10)
    _wait_for(log, "ended with status 75")
    assert "it's $HOME saved" in log.read_text()


def _wait_for(path: Path, text: str) -> None:
    limit = time.monotonic() + 20
    while not (path.exists() and text in path.read_text()):
        assert time.monotonic() < limit, path.read_text() if path.exists() else "no log"
        time.sleep(0.05)
