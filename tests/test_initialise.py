"""Tests starting from another run's weights: the copied weights, their source, the messages."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from emojax.datasets.source import Store
from emojax.errors import InputError
from emojax.prediction.trained_run import TrainedRun, open_run
from emojax.training.initialise import initialise, open_source
from emojax.training.loop import Trainer
from tests.branch_model import branched, branched_config  # noqa: F401 - a fixture
from tests.small_store import build_small_store
from tests.training_runs import (
    assert_same_bits,
    host,
    one_device,
    quick_compiling,  # noqa: F401 - a fixture
    replica,
    rewrite_meta,
    session_of,
    tiny_config,
    train,
)

pytestmark = [pytest.mark.usefixtures("branched"), pytest.mark.slow]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("store")
    return Store(build_small_store(folder / "small", tasks=("va", "expr")))


@pytest.fixture(scope="module")
def source(
    store: Store,
    branched: None,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> TrainedRun:
    """Returns four replicas: two folds, valence and arousal."""
    workdir = tmp_path_factory.mktemp("source")
    replicas = {"folds": ["1", "2"]}
    train(store, workdir, branched_config(store.path, replicas=replicas, train={"epochs": 1}))
    return open_run(workdir)


def initialised(store: Store, source: TrainedRun, **sections: Any) -> tuple[Any, Any, Any]:
    session = session_of(store, branched_config(store.path, **sections))
    return session, *initialise(session.names, session.replicas, session.init_state(), source)


# -- what is taken -----------------------------------------------------------------------------


def test_all_weights_of_the_same_model_are_taken_as_they_are(
    store: Store, source: TrainedRun
) -> None:
    session, state, report = initialised(store, source, replicas={"folds": ["1", "2"]})
    best = host(source.best)
    assert_same_bits(host(state.params), best["params"])
    assert_same_bits(host(state.model_state), best["model_state"])
    assert_same_bits(host(state.best), best)
    assert state.ema is None
    assert (report.missing, report.reshaped, report.unused) == ((), (), ())
    assert any(path.startswith("batch_stats/") for path in report.taken)
    assert len(report.taken) == len(jax.tree.leaves(best))
    # Moments, keys and steps are the new run's own.
    fresh = session.init_state()
    for part in ("opt_state", "key", "step"):
        assert_same_bits(host(getattr(state, part)), host(getattr(fresh, part)))


def test_what_does_not_fit_keeps_its_initial_weights_and_is_listed(
    store: Store, source: TrainedRun
) -> None:
    session, state, report = initialised(
        store,
        source,
        data={"streams": ["vggish"], "tasks": ["va", "expr"]},
        replicas={"folds": ["1"], "targets": ["all"]},
        train={"ema": 0.9},
    )
    fresh = host(session.init_state().params)
    assert {path.split("/")[1] for path in report.missing} == {"head_expr", "branch_vggish_expr"}
    # Heads and statistics over one stream have another shape than those over two.
    assert {path.split("/")[1] for path in report.reshaped} == {"head_va", "norm"}
    assert {path.split("/")[1] for path in report.unused} == {"encoder_ir50", "branch_ir50_va"}
    assert {path.split("/")[1] for path in report.taken} == {
        "encoder_vggish", "branch_vggish_va", "head_va",
    }  # fmt: skip
    params = host(state.params)
    taken = replica(source.best["params"]["encoder_vggish"], 0)
    assert_same_bits(replica(params["encoder_vggish"], 0), taken)
    for name in ("head_expr", "norm"):
        assert_same_bits(params[name], fresh[name])
    # The bias of a head does not depend on the number of streams.
    assert_same_bits(params["head_va"]["kernel"], fresh["head_va"]["kernel"])
    np.testing.assert_array_equal(
        params["head_va"]["bias"][0], source.best["params"]["head_va"]["bias"][0]
    )
    assert_same_bits(host(state.ema), params)
    assert_same_bits(host(state.best["params"]), params)
    text = "\n".join(report.lines())
    total = len(report.taken) + len(report.missing) + len(report.reshaped)
    assert f"{len(report.taken)} of {total} arrays" in text
    for kind in ("not in the source: ", "of another shape there: ", "unused of the source: "):
        assert kind + "params/" in text or kind + "batch_stats/" in text
    assert "all from valence fold 1 (another target, the first there is)" in text


def test_each_replica_takes_the_weights_of_the_one_nearest_to_it(
    store: Store, source: TrainedRun
) -> None:
    replicas = {"folds": ["0", "2"], "targets": ["arousal", "va"]}
    _, state, report = initialised(store, source, replicas=replicas)
    kinds = {"arousal": "the same target", "va": "another target, the first there is"}
    assert report.sources == (
        ("arousal fold 0", "arousal fold 1", kinds["arousal"] + " of another fold"),
        ("va fold 0", "valence fold 1", kinds["va"]),
        ("arousal fold 2", "arousal fold 2", kinds["arousal"] + " and fold"),
        ("va fold 2", "valence fold 1", kinds["va"]),
    )
    # The source's replicas: valence and arousal of fold 1, then of fold 2.
    for r, index in enumerate((1, 0, 3, 0)):
        assert_same_bits(replica(host(state.params), r), replica(source.best["params"], index))


def test_replicas_that_diverged_are_passed_over(
    store: Store, source: TrainedRun, tmp_path: Path
) -> None:
    def with_lost(best_stage: list[int]) -> Path:
        workdir = tmp_path / "-".join(map(str, best_stage))
        shutil.copytree(source.workdir, workdir)
        rewrite_meta(workdir, 5, lambda meta: meta["schedule"].update({"best_stage": best_stage}))
        return workdir

    opened = open_source(str(with_lost([-1, 0, 0, 0])), tmp_path / "new")
    _, _, report = initialised(store, opened)
    assert [name for _, name, _ in report.sources] == ["valence fold 2", "arousal fold 1"]
    with pytest.raises(InputError, match="no trained weights") as caught:
        open_source(str(with_lost([-1] * 4)), tmp_path / "new")
    assert caught.value.details["field"] == "config.train.init_from"


# -- in a run ----------------------------------------------------------------------------------


def test_resuming_comes_before_initialising_and_needs_no_source(
    store: Store, source: TrainedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = Path(shutil.copytree(source.workdir, tmp_path / "source"))
    config = branched_config(
        store.path, train={"init_from": str(copied), "epochs": 2, "learning_rate": 1e-9}
    )
    run, _ = train(store, tmp_path / "run", config, stop_after=1)
    printed = capsys.readouterr().err
    assert f"initial weights from {copied}: " in printed
    assert "valence from valence fold 1 (the same target of another fold)" in printed
    # At this rate the weights are still those it began with.
    begun = replica(source.best["params"], 0)
    np.testing.assert_allclose(
        host(run.state.params)["encoder_ir50"]["kernel"][0],
        begun["encoder_ir50"]["kernel"],
        rtol=0,
        atol=1e-6,
    )
    shutil.rmtree(copied)
    resumed, _ = train(store, tmp_path / "run", config)
    assert resumed.step == 10
    assert "initial weights" not in capsys.readouterr().err
    opened = open_run(tmp_path / "run")
    assert opened.session.config.train.init_from == str(copied)
    opened.predict(store, [list(store.fold("0").validation)])


def test_a_source_that_is_missing_or_the_run_itself_is_refused_before_anything_is_lost(
    store: Store, source: TrainedRun, tmp_path: Path
) -> None:
    workdir = Path(shutil.copytree(source.workdir, tmp_path / "run"))
    session = session_of(
        store, branched_config(store.path, train={"init_from": str(tmp_path / "nowhere")})
    )
    for place, fresh in ((tmp_path / "new", False), (workdir, True)):
        with pytest.raises(InputError, match="no checkpoint"):
            Trainer(session, store, place, fresh=fresh)
    Trainer(session, store, workdir)  # resumes, so that nothing is opened
    itself = session_of(store, branched_config(store.path, train={"init_from": str(workdir)}))
    with pytest.raises(InputError, match="from itself") as caught:
        Trainer(itself, store, workdir, fresh=True)
    assert caught.value.details["field"] == "config.train.init_from"
    assert not (tmp_path / "new").exists()


def test_a_run_with_nothing_in_common_is_refused(
    store: Store, source: TrainedRun, tmp_path: Path
) -> None:
    config = tiny_config(store.path, train={"init_from": str(source.workdir)})
    session = session_of(store, config)
    assert session.layout.mesh.size == len(one_device())
    with pytest.raises(InputError, match="no parameter in common") as caught:
        initialise(session.names, session.replicas, session.init_state(), source)
    details = caught.value.details
    assert details["file"] == str(source.workdir)
    assert "params/" in details["found"]
    assert "params/" in details["expected"]
