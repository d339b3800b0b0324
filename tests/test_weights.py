"""Tests weight files: their export, their import, and the errors of bad files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from absl import flags
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import emojax.weights
from emojax.commands.cli import Flags
from emojax.core.session import fold_normalisation
from emojax.core.state import named_leaves
from emojax.datasets.source import Store
from emojax.errors import InputError
from emojax.exchange.run_weights import (
    export_replica,
    import_replicas,
    read_replica,
    variables_of,
    write_run,
)
from emojax.exchange.weight_files import MAX_HEADER_BYTES, read_tensors, write_tensors
from emojax.prediction.trained_run import TrainedRun, open_run
from tests.small_store import build_small_store
from tests.training_runs import (
    assert_same_bits,
    host,
    quick_compiling,  # noqa: F401 - a fixture
    session_of,
    tiny_config,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    """Trains a run of two folds and two targets, each with its own statistics and weights."""
    folder = tmp_path_factory.mktemp("weights")
    store = Store(build_small_store(folder / "store"))
    config = tiny_config(store.path, model={"variant": "upstream", "recursions": 1})
    config["replicas"] |= {"folds": ["0", "1"]}
    return made_up(store, folder / "run", config)


def made_up(store: Store, workdir: Path, config: dict[str, Any], **options: Any) -> TrainedRun:
    """Returns the run folder of a training that nobody had to wait for: random weights."""
    session = session_of(store, config)
    state = session.abstract_state()
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: rng.uniform(0.1, 0.6, leaf.shape).astype(np.float32),
        variables_of({"params": state.params, "model_state": state.model_state}),
    )
    place = {"name": store.name, "path": str(store.path), "checksum": store.metadata["checksum"]}
    normalisation = fold_normalisation(store, session.folds.keys, session.streams)
    return write_run(workdir, session, variables, normalisation, place, 5, **options)


@pytest.fixture(scope="module")
def exported(run: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("exported")
    paths = [folder / f"{r}.safetensors" for r in range(len(run.session.replicas))]
    for r, path in enumerate(paths):
        assert export_replica(run, r, path) == path.stat().st_size
    return paths


def command(*arguments: str) -> None:
    """Calls ``python -m emojax.weights`` without its process."""
    values = flags.FlagValues()
    emojax.weights.define_flags(Flags(values))
    emojax.weights.main(values, *values(["weights", *arguments])[1:])


# -- what a file holds ---------------------------------------------------------------------------


def test_a_file_holds_one_replica_and_all_that_is_needed(
    run: TrainedRun, exported: list[Path]
) -> None:
    r = 3
    tensors = load_file(exported[r])
    assert {array.dtype for array in tensors.values()} == {np.dtype(np.float32)}
    state = named_leaves({"params": run.best["params"], **run.best["model_state"]})
    statistics = {f"normalisation/{s}/{n}" for s in run.session.streams for n in ("mean", "std")}
    assert set(tensors) == set(state) | statistics
    assert "params/encoder_ir50/block_0/conv_0/direction" in tensors
    assert "batch_stats/norm_ir50/var" in tensors
    for name, leaf in state.items():
        np.testing.assert_array_equal(tensors[name], leaf[r])
    fold = run.session.folds.members_R[r]
    mean, std = (np.asarray(values)[fold] for values in run.normalisation["vggish"])
    np.testing.assert_array_equal(tensors["normalisation/vggish/mean"], mean)
    np.testing.assert_array_equal(tensors["normalisation/vggish/std"], std)
    with safe_open(exported[r], framework="numpy") as file:
        metadata = {key: json.loads(text) for key, text in file.metadata().items()}
    assert metadata["config"]["model"] == run.session.config.model
    # Where the store lay says nothing on another machine.
    assert metadata["config"]["data"]["store"] == ""
    assert run.store_path not in json.dumps(metadata)
    assert metadata["replica"] | {"fold": "1", "target": "arousal"} == metadata["replica"]
    assert metadata["streams"]["vggish"]["width"] == 6
    assert metadata["tasks"] == ["va"]


@pytest.mark.slow
def test_all_replicas_come_back_bit_for_bit(
    run: TrainedRun, exported: list[Path], tmp_path: Path
) -> None:
    # Whatever the order in which the files are named.
    files = [read_replica(path) for path in reversed(exported)]
    again = import_replicas(files, tmp_path / "again", run.store_path)
    order = [again.session.replicas.index(replica) for replica in run.session.replicas]
    assert sorted(order) == [0, 1, 2, 3]
    for r, theirs in enumerate(order):
        ours = {name: leaf[r] for name, leaf in named_leaves(host(run.best)).items()}
        assert_same_bits(
            {name: leaf[theirs] for name, leaf in named_leaves(host(again.best)).items()}, ours
        )
    store = run.open_store()
    assert again.trained_on(again.open_store())
    names = [video.name for video in store.videos]
    before, after = (one.predict(store, [names] * 2) for one in (run, again))
    for r, theirs in enumerate(order):
        assert_same_bits(after[theirs], before[r])


def test_one_replica_alone_predicts_as_it_did(
    run: TrainedRun, exported: list[Path], tmp_path: Path
) -> None:
    alone = import_replicas([read_replica(exported[2])], tmp_path / "alone")
    assert alone.session.names == ("valence",)
    assert [replica.fold for replica in alone.session.replicas] == ["1"]
    with pytest.raises(InputError, match="no store of its own") as caught:
        alone.open_store()
    assert "--store=STORE" in caught.value.details["remedy"]
    store = run.open_store()
    names = [store.videos[0].name, store.videos[3].name]
    # Compiled for one replica instead of four, sums may round otherwise.
    (found,) = alone.predict(store, [names])
    expected = run.predict(store, [names] * 2)[2]
    for name in names:
        np.testing.assert_allclose(found[name]["va"], expected[name]["va"], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_tasks_that_no_file_was_trained_for_are_left_out(tmp_path: Path) -> None:
    store = Store(build_small_store(tmp_path / "store", tasks=("va", "expr")))
    config = tiny_config(store.path, data={"tasks": ["va", "expr"]}, loss={"expr": "cross_entropy"})
    config["evaluation"]["selection"]["expr"] = "f1"
    config["replicas"] |= {"targets": ["va", "expr"]}
    run = made_up(store, tmp_path / "run", config)
    export_replica(run, 1, tmp_path / "expr.safetensors")
    alone = import_replicas([read_replica(tmp_path / "expr.safetensors")], tmp_path / "alone")
    assert alone.session.tasks == ("expr",)
    assert not [name for name in named_leaves(alone.best) if "head_va" in name]
    name = store.videos[0].name
    found = alone.predict(store, [[name]])[0][name]
    expected = run.predict(store, [[name]])[1][name]
    assert set(found) == {"expr"}
    np.testing.assert_allclose(found["expr"], expected["expr"], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_weights_of_temporary_heads_say_so(tmp_path: Path) -> None:
    store = Store(build_small_store(tmp_path / "store"))
    config = tiny_config(store.path)
    channels = {"ir50": [4], "vggish": [4]}
    config["model"] = {"name": "multiscale_tcn", "channels": channels, "kernel_sizes": [3]}
    stages = [{"objective": "branches", "epochs": 1}, {"objective": "outputs"}]
    config["train"] |= {"stages": stages, "releases": 0}
    config["replicas"]["targets"] = ["valence", "arousal"]
    flags_R = np.array([True, False])
    run = made_up(store, tmp_path / "run", config, branches_R=flags_R)
    np.testing.assert_array_equal(run.branches_R, flags_R)
    for r in range(2):
        export_replica(run, r, tmp_path / f"{r}.safetensors")
    files = [read_replica(tmp_path / f"{r}.safetensors") for r in range(2)]
    assert [file.branches for file in files] == [True, False]
    again = import_replicas(files, tmp_path / "again")
    np.testing.assert_array_equal(again.branches_R, flags_R)
    assert not again.lost_R.any()
    lost = dataclasses.replace(run, lost_R=flags_R)
    with pytest.raises(InputError, match="no trained weights") as caught:
        export_replica(lost, 0, tmp_path / "lost.safetensors")
    assert caught.value.details["field"] == "valence"


# -- the commands --------------------------------------------------------------------------------


@pytest.mark.slow
def test_commands_write_and_read_files(
    run: TrainedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    # A compilation cache is the user's, not a test's.
    monkeypatch.setattr(emojax.weights, "use_compilation_cache", lambda: None)
    where = [f"--checkpoint={run.workdir}", f"--out={tmp_path / 'w' / 'all.safetensors'}"]
    command("export", *where)
    files = sorted(path.name for path in (tmp_path / "w").iterdir())
    assert files == [f"all-{t}-fold-{f}.safetensors" for t in ("arousal", "valence") for f in "01"]
    command("import", f"--weights={tmp_path / 'w'}", f"--out={tmp_path / 'run'}")
    told = capsys.readouterr().out.replace("\n", " ")
    assert "4 replica(s) of rjcma" in told
    assert "--store=STORE" in told
    assert_same_bits(
        {name: leaf.shape for name, leaf in named_leaves(open_run(tmp_path / "run").best).items()},
        {name: leaf.shape for name, leaf in named_leaves(run.best).items()},
    )
    # One replica goes to the very file that was named.
    command("export", where[0], f"--out={tmp_path / 'one.safetensors'}", "--replica=valence fold 1")
    assert read_replica(tmp_path / "one.safetensors").replica.fold == "1"
    for wrong, words in (
        (["export", where[0], "--out=x.safetensors", "--replica=valence fold 7"], "did you mean"),
        (["export", where[0], f"--out={tmp_path / 'x.bin'}", "--replica=valence fold 1"], ".bin"),
        (["export", "--checkpoint=", "--out=x.safetensors"], "--checkpoint"),
        (["import", "--out=x"], "--weights"),
        (["exprt"], "did you mean export?"),
        ([], "nothing"),
    ):
        with pytest.raises(InputError) as caught:
            command(*wrong)
        assert words in str(caught.value), wrong
    command("layouts")
    told = capsys.readouterr().out
    assert "regressor1.weight" in told
    assert "encoder_{stream}" in told


def test_an_import_does_not_touch_what_is_there(
    run: TrainedRun, exported: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(InputError, match="folder of its own"):
        import_replicas([read_replica(exported[0])], tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


# -- files that are bad --------------------------------------------------------------------------


def edited(path: Path, new: Path, *, drop: str = "", **changes: Any) -> Path:
    """Returns a copy of a weight file with other tensors, and with other metadata."""
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    tensors = {name: array for name, array in load_file(path).items() if name != drop}
    metadata |= {key: json.dumps(value) for key, value in changes.pop("meta", {}).items()}
    tensors |= changes
    save_file(tensors, new, metadata=metadata)
    return new


BIAS = "params/head_va_valence/output/bias"


def bad_files(good: Path, other: Path, folder: Path) -> dict[str, list[Path]]:
    data = good.read_bytes()
    size = int.from_bytes(data[:8], "little")
    text = {
        "empty": b"",
        "truncated": data[:-5],
        "not_at_all": b"this is a text about weights, nothing more",
        "header_too_long": (MAX_HEADER_BYTES + 1).to_bytes(8, "little") + data[8:] * 3,
        "header_is_no_json": data[:8] + b"\x07" * size + data[8 + size :],
    }
    files = {}
    for name, content in text.items():
        files[name] = folder / f"{name}.safetensors"
        files[name].write_bytes(content)
    save_file({"w": np.zeros(3, np.float32)}, folder / "foreign.safetensors")
    files["foreign"] = folder / "foreign.safetensors"
    new = {name: folder / f"{name}.safetensors" for name in FAULTS}
    one = np.zeros((1,), np.float32)
    edited(good, new["missing"], drop=BIAS)
    edited(good, new["shape"], **{BIAS: np.zeros((2,), np.float32)})
    edited(good, new["extra"], **{"params/head_va_valence/output/more": one})
    edited(good, new["not_finite"], **{BIAS: np.full((1,), np.nan, np.float32)})
    edited(good, new["integers"], **{BIAS: np.zeros((1,), np.int32)})
    edited(good, new["deviation"], **{"normalisation/vggish/std": np.zeros(6, np.float32)})
    edited(good, new["format"], meta={"format": "emojax-weights-9"})
    edited(good, new["another_run"], meta={"step": 99})
    new["pickled"] = folder / "state.pth"
    new["no_suffix"] = folder / "weights"
    for path in (new["pickled"], new["no_suffix"]):
        path.write_bytes(b"PK\x03\x04")
    files = {name: [path] for name, path in (new | files).items()}
    files["another_run"].append(other)
    files["twice"] = [good, good]
    files["npz"] = [folder / "broken.npz"]
    files["npz"][0].write_bytes(b"PK\x03\x04 and no more")
    files["absent"] = [folder / "nowhere.safetensors"]
    return files


FAULTS: dict[str, tuple[str, ...]] = {
    "empty": ("header", "0 bytes"),
    "truncated": ("damaged", "header"),
    "not_at_all": ("header of", "bytes at most"),
    "header_too_long": ("header of 33,554,433 bytes",),
    "header_is_no_json": ("damaged", "header"),
    "foreign": ("not exported by emojax", "no 'format'", "import_torch"),
    "missing": (BIAS, "no such tensor", "shape (1,)"),
    "shape": (BIAS, "shape (2,)", "shape (1,)"),
    "extra": ("params/head_va_valence/output/more", "(1,)"),
    "not_finite": (BIAS, "1 numbers that are not finite"),
    "integers": (BIAS, "int32"),
    "deviation": ("normalisation/vggish/std", "above 0"),
    "format": ("emojax-weights-9", "emojax-weights-1"),
    "another_run": ("step", "different runs"),
    "twice": ("2 files, 1 different",),
    "npz": ("broken.npz", "damaged"),
    "absent": ("nowhere.safetensors", "nothing"),
    "pickled": ("run code", "save_file", "state.safetensors"),
    "no_suffix": ("no suffix", ".safetensors or .npz"),
}


@pytest.fixture(scope="module")
def bad(exported: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    return bad_files(exported[0], exported[1], tmp_path_factory.mktemp("bad"))


@pytest.mark.parametrize("name", FAULTS)
def test_bad_files_are_refused(name: str, bad: dict[str, list[Path]], tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        import_replicas([read_replica(path) for path in bad[name]], tmp_path / "run")
    message = str(caught.value)
    for words in FAULTS[name]:
        assert words in message
    assert name == "twice" or bad[name][0].name in message
    assert not (tmp_path / "run").exists()


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_tensors(tmp_path / "file" / "w.safetensors", {"a": np.ones(2)}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_order_in_memory_and_empty_shapes_survive(tmp_path: Path) -> None:
    """The format stores bytes as they lie, and a transposed view does not lie as it reads."""
    arrays = {
        "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "every_other": np.arange(8, dtype=np.float32)[::2],
        "scalar": np.float32(3.5),
        "none": np.zeros((0, 4), np.float32),
    }
    write_tensors(tmp_path / "w.safetensors", arrays, {"k": "v"})
    file = read_tensors(tmp_path / "w.safetensors")
    assert file.metadata == {"k": "v"}
    for name, array in arrays.items():
        assert file.tensors[name].shape == np.shape(array)
        np.testing.assert_array_equal(file.tensors[name], array)
    np.savez(tmp_path / "objects.npz", bad=np.array([{}], dtype=object))
    with pytest.raises(InputError, match="damaged") as caught:
        read_tensors(tmp_path / "objects.npz")
    assert caught.value.details["field"] == "bad"
