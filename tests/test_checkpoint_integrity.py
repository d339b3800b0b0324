"""Tests checksums of checkpoints, reports of damage, and checkpoints on a full disk."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.faults.small_run import make, session_of, train
from emojax.core.session import abstract_normalisation
from emojax.datasets.documents import canonical_checksum
from emojax.datasets.source import Store
from emojax.errors import InputError, MachineError
from emojax.prediction.trained_run import open_run
from emojax.rundir.checkpoint import Checkpoints
from emojax.rundir.checkpoint_document import DamagedError, check_arrays
from emojax.rundir.checksums import array_checksums, checksum
from tests.small_disk import mounted
from tests.training_runs import (
    assert_same_bits,
    quick_compiling,  # noqa: F401 - a fixture
    rewrite_meta,
)

pytestmark = pytest.mark.slow

DTYPES = (
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "float16", "bfloat16", "float32",
)  # fmt: skip


# -- checksums ---------------------------------------------------------------------------------


def random_array(dtype: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Any bits, NaNs among them."""
    kind = jnp.dtype(dtype)
    data = np.random.default_rng(seed).bytes(int(np.prod(shape)) * kind.itemsize)
    bits = np.frombuffer(data, np.uint8) & (1 if dtype == "bool" else 255)
    return bits.view(kind).reshape(shape)


def test_the_checksum_is_crc32c() -> None:
    """Against the check value of CRC-32C (RFC 3720) and an implementation bit by bit."""
    assert checksum(np.frombuffer(b"123456789", np.uint8)) == 0xE3069283
    for dtype in DTYPES:
        array = random_array(dtype, (3, 5))
        register = 0xFFFFFFFF
        for byte in array.tobytes():
            register ^= byte
            for _ in range(8):
                register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
        assert checksum(array) == register ^ 0xFFFFFFFF


@pytest.mark.parametrize("axes", [("x",), ("x", "y"), (None, "y"), (None, None)])
def test_the_checksum_does_not_depend_on_the_devices(axes: tuple[str | None, ...]) -> None:
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("x", "y"))
    array = random_array("float32", (8, 6, 5))
    spread = jax.device_put(array, NamedSharding(mesh, PartitionSpec(*axes)))
    found = array_checksums({"a": {"b": spread, "c": array}, "key": jax.random.key(1)})
    assert found["a/b"] == found["a/c"] == checksum(array)
    assert found["key"] == checksum(np.array(jax.random.key_data(jax.random.key(1))))


@settings(max_examples=50)
@given(st.data())
def test_a_flipped_bit_changes_the_checksum_and_so_do_swapped_elements(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(DTYPES))
    array = random_array(dtype, (3, 4, 5), seed=data.draw(st.integers(0, 99)))
    before = checksum(array)
    flipped = array.copy()
    bits = flipped.reshape(-1).view(np.uint8)
    bit = 0 if dtype == "bool" else data.draw(st.integers(0, 7))
    bits[data.draw(st.integers(0, len(bits) - 1))] ^= 1 << bit
    assert checksum(flipped) != before
    swapped = array.reshape(-1).copy()
    i, j = data.draw(st.integers(0, 59)), data.draw(st.integers(0, 59))
    swapped[[i, j]] = swapped[[j, i]]
    same = swapped.tobytes() == array.tobytes()
    assert (checksum(swapped.reshape(array.shape)) == before) == same


# -- damage ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    make(folder)
    return folder


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def restored(folder: Path, step: int | None = None) -> Any:
    with Store(folder / "store") as store:
        session = session_of(store)
    abstract = {
        "train": session.abstract_state(),
        "normalisation": abstract_normalisation(session.streams, len(session.folds.keys)),
    }
    with Checkpoints(folder / "run", read_only=True) as checkpoints:
        return checkpoints.restore(abstract, step)


def test_every_array_of_the_state_is_covered(trained: Path) -> None:
    checkpoint = restored(trained)
    file = trained / "run" / "checkpoints" / str(checkpoint.step) / "meta" / "metadata"
    arrays = json.loads(file.read_text())["checkpoint"]["arrays"]
    train_state = {k: v for k, v in vars(checkpoint.state["train"]).items() if v is not None}
    plain = {"train": train_state, "normalisation": checkpoint.state["normalisation"]}
    check_arrays(array_checksums(plain), arrays)
    for part in ("params", "opt_state", "best", "key", "step"):
        assert any(path.startswith(f"train/{part}") for path in arrays), part
    assert any(path.startswith("normalisation/") for path in arrays)
    leaves, structure = jax.tree.flatten(plain)
    rng = np.random.default_rng(0)
    for i, leaf in enumerate(leaves):
        bad = np.array(leaf)
        bits = bad.reshape(-1).view(np.uint8)
        bits[rng.integers(len(bits))] ^= 1 << int(rng.integers(8))
        found = array_checksums(structure.unflatten([*leaves[:i], bad, *leaves[i + 1 :]]))
        with pytest.raises(DamagedError, match="state, array"):
            check_arrays(found, arrays)


def test_a_flipped_bit_of_a_stored_array_is_told_with_the_array(copy: Path) -> None:
    """With compression in between, a bit of a file is seldom one of an array: found by trying."""
    step = open_run(copy / "run").step
    folder = copy / "run" / "checkpoints" / str(step) / "state"
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name == "d"]
    told = []
    for file in files:
        good = file.read_bytes()
        for position in range(len(good) // 3, len(good), max(1, len(good) // 3)):
            bad = bytearray(good)
            bad[position] ^= 4
            file.write_bytes(bad)
            try:
                open_run(copy / "run")
            except InputError as error:
                told.append(error.details["field"])
        file.write_bytes(good)
    assert any(field.startswith("state, array train/") for field in told)


@pytest.mark.parametrize("key", ["format_version", "checksum", "checkpoint"])
@pytest.mark.parametrize("how", ["renamed", "gone", "another"])
def test_no_damaged_key_makes_a_checkpoint_one_without_checksums(
    copy: Path, key: str, how: str
) -> None:
    step = open_run(copy / "run").step
    file = copy / "run" / "checkpoints" / str(step) / "meta" / "metadata"
    document = json.loads(file.read_text())
    value = document.pop(key)
    if how == "renamed":
        document[key[:-1] + "X"] = value
    elif how == "another":
        document[key] = [value]
    file.write_text(json.dumps(document))
    with pytest.raises(InputError, match="damaged"):
        open_run(copy / "run")


def test_arrays_with_checksums_of_another_algorithm_open_with_a_warning(
    copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As written before December 2026, without the name of the algorithm."""
    before = open_run(copy / "run")
    assert not [record for record in caplog.records if record.name == "emojax"]
    file = copy / "run" / "checkpoints" / str(before.step) / "meta" / "metadata"
    document = json.loads(file.read_text())
    content = document["checkpoint"]
    assert content.pop("algorithm") == "crc32c"
    content["arrays"] = dict.fromkeys(content["arrays"], 1)
    file.write_text(json.dumps(document))
    with pytest.raises(InputError, match="damaged"):
        open_run(copy / "run")
    file.write_text(json.dumps(document | {"checksum": canonical_checksum(content)}))
    after = open_run(copy / "run")
    told = [record for record in caplog.records if record.name == "emojax"]
    assert [record.levelname for record in told] == ["WARNING"]
    assert_same_bits(jax.device_get(after.best), jax.device_get(before.best))
    with Store(copy / "store") as store:
        train(store, copy / "run", epochs=4)


KEYS = ("config", "streams", "replicas", "store", "fingerprint", "parameters", "schedule")


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", [[1], "x", None, {"a": 1}, 3])
def test_what_is_of_another_kind_is_refused(copy: Path, key: str, value: Any) -> None:
    step = open_run(copy / "run").step
    rewrite_meta(copy / "run", step, lambda meta: meta.update({key: value}))
    if key == "replicas" and isinstance(value, list):
        return  # for people; the configuration says what they are
    if key == "fingerprint":
        with Store(copy / "store") as store, pytest.raises(InputError):
            train(store, copy / "run", epochs=4)
        return
    with pytest.raises(InputError) as caught:
        open_run(copy / "run")
    assert str(copy) in caught.value.details["file"]


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config["replicas"].update(seeds=[*range(20_000)]),
        lambda config: config["model"].update(name="os:system"),
        lambda config: config["model"].update(hidden="x"),
        lambda config: config["data"].update(window="x"),
        lambda config: config["data"].update(streams=3),
        lambda config: config["loss"].update(va=["ccc"]),
    ],
)
def test_a_forged_configuration_is_refused(
    copy: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    step = open_run(copy / "run").step
    rewrite_meta(copy / "run", step, lambda meta: change(meta["config"]))
    with pytest.raises(InputError):
        open_run(copy / "run")


# -- going on without a damaged one ------------------------------------------------------------


def test_a_damaged_latest_checkpoint_and_the_ways_on(trained: Path, copy: Path) -> None:
    first, latest = sorted(int(p.name) for p in (copy / "run" / "checkpoints").iterdir())
    with Store(trained / "store") as store:
        expected, _ = train(store, Path(shutil.copytree(trained / "run", copy / "whole")), epochs=4)
    folder = copy / "run" / "checkpoints" / str(latest)
    (folder / "meta" / "metadata").write_text("{}")
    with pytest.raises(InputError, match="damaged") as caught:
        open_run(copy / "run")
    assert f"--step={first}" in caught.value.details["remedy"]
    assert open_run(copy / "run", first).step == first
    with Store(copy / "store") as store:
        with pytest.raises(InputError, match="damaged") as caught:
            train(store, copy / "run", epochs=4)
        remedy = caught.value.details["remedy"]
        assert f"move the folder {folder}" in remedy
        assert f"continues from step {first}" in remedy
        shutil.rmtree(folder)
        state, _ = train(store, copy / "run", epochs=4)
    assert_same_bits(state, expected)


def test_a_step_that_is_no_folder_any_more_does_not_pass_for_none(copy: Path) -> None:
    latest = open_run(copy / "run").step
    folder = copy / "run" / "checkpoints" / str(latest)
    shutil.rmtree(folder)
    folder.write_text("")
    with pytest.raises(InputError, match="damaged"):
        open_run(copy / "run")
    with Store(copy / "store") as store, pytest.raises(InputError, match="damaged"):
        train(store, copy / "run", epochs=4)


def test_a_checkpoint_under_another_steps_name_is_refused(copy: Path) -> None:
    latest = open_run(copy / "run").step
    folder = copy / "run" / "checkpoints"
    (folder / str(latest)).rename(folder / "100")
    with pytest.raises(InputError, match="damaged") as caught:
        open_run(copy / "run")
    assert caught.value.details["field"] == "step"


# -- saves that fail ---------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Returns a file system of 2 MiB."""
    with mounted(tmp_path / "disk", "2m") as folder:
        yield folder


def fill(disk: Path, leave: int) -> Path:
    """Takes all space of a disk but so many bytes."""
    filler = disk / "filler"
    filler.write_bytes(bytes(max(0, shutil.disk_usage(disk).free - leave)))
    return filler


def test_a_full_disk_keeps_the_last_checkpoint_and_training_goes_on(
    trained: Path, small_disk: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained / "run", small_disk / "run")
    with Store(trained / "store") as store:
        whole = Path(shutil.copytree(trained / "run", tmp_path / "whole"))
        expected, _ = train(store, whole, epochs=5)
        before = open_run(small_disk / "run")
        filler = fill(small_disk, leave=40 * 2**10)
        with pytest.raises(MachineError, match="checkpoint could not be written") as caught:
            train(store, small_disk / "run", epochs=5)
        assert "last good checkpoint is kept" in caught.value.details["remedy"]
        assert caught.value.details["found"] == "No space left on device"
        after = open_run(small_disk / "run")
        assert after.step == before.step
        assert_same_bits(jax.device_get(after.best), jax.device_get(before.best))
        filler.unlink()
        state, _ = train(store, small_disk / "run", epochs=5)
    assert_same_bits(state, expected)
    names = [path.name for path in (small_disk / "run" / "checkpoints").iterdir()]
    assert all(name.isdigit() for name in names)


STATE = {"x": np.arange(50_000, dtype=np.float32) ** 2}


def test_a_background_failure_is_told_at_the_end(small_disk: Path) -> None:
    with Checkpoints(small_disk) as checkpoints:
        checkpoints.save(1, {"x": STATE["x"][:10]}, {}, 0.0)
    fill(small_disk, leave=60 * 2**10)
    with pytest.raises(MachineError), Checkpoints(small_disk) as checkpoints:
        checkpoints.save(2, STATE, {}, 1.0)
    with Checkpoints(small_disk, read_only=True) as checkpoints:
        assert checkpoints.steps() == [1]


def save_twice(checkpoints: Checkpoints) -> None:
    for step in (1, 2):
        checkpoints.save(step, STATE, {}, 0.0)


def test_a_background_failure_is_told_at_the_next_save(small_disk: Path) -> None:
    with Checkpoints(small_disk) as checkpoints:
        fill(small_disk, leave=60 * 2**10)
        with pytest.raises(MachineError):
            save_twice(checkpoints)
        (small_disk / "filler").unlink()
        checkpoints.save(3, STATE, {}, 0.0)
    with Checkpoints(small_disk, read_only=True) as checkpoints:
        assert checkpoints.steps() == [3]


def test_a_failed_save_does_not_hide_what_went_wrong_before(small_disk: Path) -> None:
    def fails() -> None:
        with Checkpoints(small_disk) as checkpoints:
            fill(small_disk, leave=60 * 2**10)
            checkpoints.save(1, STATE, {}, 0.0)
            raise ZeroDivisionError

    with pytest.raises((ZeroDivisionError, MachineError)) as caught:
        fails()
    # A save that fails at once is what went wrong first.
    assert caught.type in (ZeroDivisionError, MachineError)


def test_a_read_only_disk_is_told_and_can_be_evaluated(trained: Path, small_disk: Path) -> None:
    shutil.copytree(trained / "run", small_disk / "run")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert open_run(small_disk / "run").step
    with pytest.raises(MachineError), Checkpoints(small_disk / "other"):
        pass
