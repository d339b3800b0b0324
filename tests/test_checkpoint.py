"""Tests checkpoints: their content, refusals, and other numbers of devices."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emojax.core.session import (
    Session,
    abstract_normalisation,
    build_session,
    fold_normalisation,
)
from emojax.core.step import Hyper, Learner, make_train_step
from emojax.datasets.pipeline import evaluation_batches, training_batches
from emojax.datasets.source import Store
from emojax.errors import InputError
from emojax.prediction.predict_step import make_predict_step
from emojax.prediction.trained_run import open_run
from emojax.rundir.checkpoint import Checkpoints
from emojax.specs import StreamSpec
from tests.small_store import STREAMS, build_small_store
from tests.training_runs import (
    assert_same_bits,
    furthest,
    host,
    metric_rows,
    one_device,
    quick_compiling,  # noqa: F401 - a fixture
    session_of,
    tiny_config,
    train,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(build_small_store(tmp_path_factory.mktemp("store") / "small"))


@pytest.fixture(scope="module")
def spread(store: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    """Returns two epochs on all 8 devices."""
    workdir = tmp_path_factory.mktemp("spread")
    config = tiny_config(store.path, train={"epochs": 2})
    return *train(store, workdir, config, devices=jax.devices()), workdir


@pytest.fixture
def workdir(spread: tuple[Any, Any, Path], tmp_path: Path) -> Path:
    """Returns a copy of that run, to go on with."""
    return Path(shutil.copytree(spread[2], tmp_path / "run"))


def abstract(session: Session) -> dict[str, Any]:
    return {
        "train": session.abstract_state(),
        "normalisation": abstract_normalisation(session.streams, len(session.folds.keys)),
    }


# -- what is kept ------------------------------------------------------------------------------


def test_the_latest_and_the_best_checkpoint_both_stay(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        for step, score in ((1, 0.1), (2, 0.9), (3, 0.3), (4, 0.2)):
            checkpoints.save(step, {"x": np.full(3, step)}, {"step": step}, score)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [2, 4]
        checkpoints.save(5, {"x": np.full(3, 5)}, {"step": 5}, -np.inf)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == [2, 5]
        assert checkpoints.meta() == (5, {"step": 5})
        assert checkpoints.meta(2) == (2, {"step": 2})


def test_reading_changes_nothing(workdir: Path) -> None:
    def files() -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in sorted(workdir.rglob("*")) if p.is_file()}

    before = files()
    open_run(workdir)
    assert files() == before


def test_a_run_opens_by_either_of_its_folders(spread: tuple[Any, Any, Path]) -> None:
    run, _, workdir = spread
    for folder in (workdir, str(workdir), workdir / "checkpoints"):
        opened = open_run(folder)
        assert opened.step == run.step == 10
        assert opened.workdir == workdir
    assert_same_bits(host(opened.best), host(run.state.best))


# -- devices -----------------------------------------------------------------------------------


class Gradients:
    """Stands in for Adam, whose steps blow differences of tiny gradients up: no step at all."""

    def update(self, grads: Any, opt_state: Any, *rest: Any) -> tuple[Any, Any]:
        return grads, opt_state


def gradients_and_outputs(store: Store, devices: list[jax.Device]) -> tuple[Any, Any, Any]:
    """Gradients and losses of a training batch with dropout, outputs of an evaluation batch."""
    config = tiny_config(store.path, data={"batch_size": 8})
    session = build_session(config, store.streams, devices)
    layout = session.layout
    shared = session.shared(session.samplers)
    videos = store.fold("0").train
    feed = training_batches(store, videos, session.window_spec, batch_size=8, seed=1)
    normalisation = layout.everywhere(
        fold_normalisation(store, session.folds.keys, session.streams)
    )
    state = session.init_state()
    weights = {"params": state.params, "model_state": state.model_state}
    predict = make_predict_step(session.model, session.shared(session.folds))
    (batch, *_) = evaluation_batches(store, videos, session.window_spec, batch_size=8)
    outputs = host(predict(weights, layout.batch(batch, grouped=False), normalisation))
    hyper = Hyper(
        learning_rate=layout.replicas(jnp.ones(2)),
        weight_decay=layout.replicas(jnp.zeros(2)),
        target_weights=layout.replicas(session.weights),
        active=layout.replicas(jnp.ones(2, bool)),
    )
    step = make_train_step(
        Learner(session.model, Gradients(), session.losses),  # type: ignore[arg-type]
        shared,
    )
    new, metrics = step(state, layout.batch(next(feed), grouped=False), normalisation, hyper)
    return host(new.params), host((metrics, new.model_state)), outputs


def test_eight_devices_give_the_gradients_losses_and_outputs_of_one(store: Store) -> None:
    """Absolute 1e-6 in float32, on gradients of up to about 1."""
    many = gradients_and_outputs(store, jax.devices())
    one = gradients_and_outputs(store, one_device())
    for found, expected in zip(many, one, strict=True):
        assert furthest(found, expected) <= 1e-6
    assert furthest(one[0], jax.tree.map(np.zeros_like, one[0])) > 1e-2


def test_eight_devices_are_used_and_keep_their_layout(spread: tuple[Any, Any, Path]) -> None:
    run, recorder, _ = spread
    assert dict(recorder.session.layout.mesh.shape) == {"replica": 2, "data": 4}
    for leaf in jax.tree.leaves(run.state):
        assert len(leaf.sharding.device_set) == 8
        # Half of the replicas on each half of the devices, not a copy of all on each.
        assert leaf.addressable_shards[0].data.shape[0] == 1
    # One program for all steps: no step's result came back laid out differently.
    assert recorder._step_fn._cache_size() == 1


def test_a_checkpoint_of_eight_devices_restores_on_one(
    store: Store, spread: tuple[Any, Any, Path], workdir: Path
) -> None:
    run, recorder, _ = spread
    session = session_of(store, recorder.session.config)
    with Checkpoints(workdir, read_only=True) as checkpoints:
        restored = checkpoints.restore(abstract(session))
    assert_same_bits(host(restored.state["train"]), host(run.state))
    for leaf in jax.tree.leaves(restored.state["train"]):
        assert leaf.sharding.device_set == set(one_device())
    # And training goes on there.
    config = tiny_config(store.path, train={"epochs": 3})
    longer, _ = train(store, workdir, config)
    assert longer.step == 15
    assert longer.history[:2] == run.history
    assert [row["step"] for row in metric_rows(workdir)] == ["5", "10", "15"]


# -- what is refused ---------------------------------------------------------------------------


def refused(error: InputError) -> dict[str, str]:
    """Returns the details of an error, which must be complete and fit on a screen."""
    assert set(error.details) == {"file", "field", "found", "expected", "remedy"}
    assert str(error).count("\n") < 20
    return error.details


@pytest.mark.parametrize(
    ("section", "key", "value", "saved"),
    [
        ("model", "head_width", 12, "8"),
        ("model", "channels", {"ir50": [6], "vggish": [7]}, "[6]"),
        ("train", "learning_rate", 1e-4, "0.003"),
        ("replicas", "seeds", [1], "[0]"),
        ("data", "stride", 8, "10"),
    ],
)
def test_a_workdir_of_another_configuration_is_refused_and_left_alone(
    store: Store, workdir: Path, section: str, key: str, value: Any, saved: str
) -> None:
    before = (workdir / "config.json").read_bytes()
    rows = metric_rows(workdir)
    config = tiny_config(store.path, train={"epochs": 2})
    config[section] |= {key: value}
    with pytest.raises(InputError) as caught:
        train(store, workdir, config)
    details = refused(caught.value)
    assert details["file"] == str(workdir)
    assert details["field"].startswith(f"config.{section}.{key}")
    assert saved in details["found"]
    assert "--overwrite" in details["remedy"]
    assert (workdir / "config.json").read_bytes() == before
    assert metric_rows(workdir) == rows


def test_a_run_does_not_go_on_with_other_data(workdir: Path, tmp_path: Path) -> None:
    # The same videos of the same lengths, with other features.
    streams = (StreamSpec("ir50", 8, "visual"), StreamSpec("vggish", 6, "audio", 39.0))
    other = Store(build_small_store(tmp_path / "other", streams=streams))
    with pytest.raises(InputError, match="other data") as caught:
        train(other, workdir, tiny_config(other.path, train={"epochs": 3}))
    assert refused(caught.value)["field"] == "data pipeline fingerprint"


def test_a_run_goes_on_with_the_same_data_somewhere_else(workdir: Path, tmp_path: Path) -> None:
    copied = Store(build_small_store(tmp_path / "moved"))
    longer, _ = train(copied, workdir, tiny_config(copied.path, train={"epochs": 3}))
    assert longer.step == 15


def test_a_checkpoint_of_another_model_is_refused(store: Store, workdir: Path) -> None:
    """As when the code of the model changes between training and evaluation."""
    config = tiny_config(store.path, model={"head_width": 12})
    with (
        Checkpoints(workdir, read_only=True) as checkpoints,
        pytest.raises(InputError, match="another model") as caught,
    ):
        checkpoints.restore(abstract(session_of(store, config)))
    details = refused(caught.value)
    assert details["file"].endswith("checkpoints/10")
    assert "head" in details["field"]
    assert "8" in details["found"]
    assert "12" in details["expected"]


def test_another_number_of_replicas_is_refused(store: Store, workdir: Path) -> None:
    config = tiny_config(store.path, replicas={"targets": ["valence"]})
    with (
        Checkpoints(workdir, read_only=True) as checkpoints,
        pytest.raises(InputError) as caught,
    ):
        checkpoints.restore(abstract(session_of(store, config)))
    refused(caught.value)


@pytest.mark.parametrize("there", [True, False])
def test_a_missing_checkpoint_is_refused_and_nothing_is_made(tmp_path: Path, there: bool) -> None:
    folder = tmp_path / "run"
    if there:
        folder.mkdir()
    with pytest.raises(InputError) as caught:
        open_run(folder)
    assert caught.value.details["file"] == str(folder)
    assert "train first" in caught.value.details["remedy"]
    assert folder.exists() == there
    assert not there or not list(folder.iterdir())


def test_a_missing_step_is_refused_with_those_that_are_there(spread: tuple[Any, Any, Path]) -> None:
    with pytest.raises(InputError) as caught:
        open_run(spread[2], step=3)
    details = refused(caught.value)
    assert "10" in details["found"]
    assert "3" in details["expected"]


@pytest.mark.parametrize("what", ["missing", "narrow"])
def test_a_store_that_does_not_fit_the_model_is_refused(
    spread: tuple[Any, Any, Path], tmp_path: Path, what: str
) -> None:
    streams = {
        "missing": STREAMS[:1],
        "narrow": (STREAMS[0], StreamSpec("vggish", 5, "audio", 40.0)),
    }[what]
    path = build_small_store(tmp_path / "other", streams=streams)
    with pytest.raises(InputError) as caught:
        open_run(spread[2]).open_store(str(path))
    details = refused(caught.value)
    assert details["file"] == str(path)
    assert "vggish" in details["field"] + details["found"]


@pytest.mark.parametrize("what", ["meta gone", "meta cut off", "state gone"])
def test_a_damaged_checkpoint_is_refused(workdir: Path, what: str) -> None:
    item, harm = what.split(" ", 1)
    folder = workdir / "checkpoints" / "10" / item
    if harm == "gone":
        shutil.rmtree(folder)
    else:
        file = folder / "metadata"
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InputError, match="damaged") as caught:
        open_run(workdir)
    assert refused(caught.value)["field"] == item
