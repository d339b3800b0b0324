"""Tests the estimate of a training's memory before compilation, and the plans made from it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from emojax.core.session import Session, build_session
from emojax.core.step import Hyper, make_train_step
from emojax.datasets.resident import load_resident, resident_bytes
from emojax.datasets.source import Store
from emojax.errors import InputError
from emojax.training import memory_plan
from emojax.training.feeds import feed_lines, fold_videos, open_feed, wanted_bytes
from emojax.training.memory_plan import (
    abstract_batch,
    bytes_text,
    device_limit,
    footprint,
    needed_bytes,
    plan_lines,
    plan_memory,
    tree_bytes,
)
from emojax.training.profiling import Profile
from tests.branch_model import branched, branched_config  # noqa: F401 - a fixture
from tests.small_store import build_small_store
from tests.training_runs import session_of

pytestmark = [pytest.mark.usefixtures("branched"), pytest.mark.slow]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(build_small_store(tmp_path_factory.mktemp("store") / "small"))


def seeds(store: Store, count: int, devices: int = 1, **train: Any) -> Session:
    """Returns so many replicas of three samplers."""
    replicas = {"targets": ["valence"], "folds": ["0", "1", "2"], "seeds": [*range(count // 3)]}
    config = branched_config(store.path, replicas=replicas, train=train)
    return build_session(config, store.streams, jax.devices()[:devices])


# -- one replica ---------------------------------------------------------------------------------


def test_a_footprint_says_what_arrays_and_compiled_programs_take(store: Store) -> None:
    """XLA may keep less than was traced, but not more, nor much less."""
    config = branched_config(
        store.path,
        data={"batch_size": 64, "window": 64, "stride": 64},
        replicas={"targets": ["valence"]},
    )
    session = session_of(store, config)
    found = footprint(session)
    assert found.state == tree_bytes(session.init_state())
    batch = abstract_batch(session.streams, session.window_spec, session.batch_size)
    feed = open_feed(session, store, resident=False)
    read = next(feed.iterators[0])
    assert jax.tree.map(lambda x: (x.shape, x.dtype), batch) == jax.tree.map(
        lambda x: (x.shape, x.dtype), read
    )
    assert found.batch == tree_bytes(read)

    def of(*shape: int, dtype: Any = np.float32) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype)

    weights = {"va": of(1, 2)}
    hyper = Hyper(of(1), of(1), weights, of(1, dtype=bool))  # type: ignore[arg-type]
    normalisation = {
        name: (of(stream.width), of(stream.width)) for name, stream in session.streams.items()
    }
    step = make_train_step(session.learner, session.shared(session.samplers))
    compiled = step.lower(session.abstract_state(), batch, normalisation, hyper).compile()  # type: ignore[attr-defined]
    temporary = compiled.memory_analysis().temp_size_in_bytes
    assert 0.4 < temporary / (found.kept + 2 * found.params) < 1.0
    # Without a look at the model it is an upper bound.
    assert footprint(session, trace=False).kept > 2 * found.kept


def test_what_backward_keeps_grows_with_the_batch(store: Store) -> None:
    small, large = (
        footprint(session_of(store, branched_config(store.path, data={"batch_size": size})))
        for size in (8, 32)
    )
    assert large.batch == 4 * small.batch
    assert large.kept == pytest.approx(4 * small.kept, rel=0.15)
    assert (large.state, large.params) == (small.state, small.params)


def test_every_objective_can_be_looked_at(store: Store) -> None:
    stages = [{"objective": "branches", "epochs": 1}, {"frozen": ["encoder_*"]}]
    options = {"stages": stages, "ema": 0.9, "releases": 0}
    session = session_of(store, branched_config(store.path, train=options))
    plain = session_of(store, branched_config(store.path))
    assert footprint(session).kept > 0
    assert footprint(session).state == footprint(plain).state + footprint(plain).params


# -- plans ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("devices", [1, 8])
def test_what_is_planned_fits_and_more_memory_is_never_worse(store: Store, devices: int) -> None:
    session = seeds(store, 12, devices)
    of_one = footprint(session)
    least = needed_bytes(of_one, session, 1)
    most = needed_bytes(of_one, session, 12)
    sizes = []
    for limit in np.linspace(least, most, 6).astype(int).tolist():
        limited = seeds(store, 12, devices, memory_limit=limit)
        plan = plan_memory(limited)
        assert plan.fits
        assert plan.limit == limit
        assert needed_bytes(of_one, limited, plan.most) <= limit
        sizes.append(plan.most)
        (line, *_) = plan_lines(plan, 12) or [""]
        assert ("take turns" in line) == (plan.most < 12)
    assert sizes == sorted(sizes)
    assert sizes[-1] == 12
    plan = plan_memory(seeds(store, 12, devices, memory_limit=1000))
    assert (plan.most, plan.fits) == (1, False)
    (line,) = plan_lines(plan, 12)
    assert line.startswith("warning: one replica alone may not fit")
    assert "batch_size" in line


def test_fewer_replicas_train_at_once_where_that_is_asked_for(store: Store) -> None:
    plan = plan_memory(seeds(store, 12, replicas_at_once=5), resident=100)
    # Three groups, none fuller than another.
    assert (plan.most, plan.resident, plan.fits) == (4, True, True)
    (line,) = plan_lines(plan, 12)
    assert line.startswith("12 replicas take turns in each epoch, at most 4 at once")
    assert "replicas_at_once" in line
    plan = plan_memory(seeds(store, 12, replicas_at_once=50))
    assert (plan.most, plan_lines(plan, 12)) == (12, [])
    # Memory has the last word.
    session = seeds(store, 12)
    of_one = footprint(session)
    limit = needed_bytes(of_one, session, 2)
    plan = plan_memory(seeds(store, 12, replicas_at_once=5, memory_limit=limit))
    assert plan.most == 2
    assert "would need about" in plan_lines(plan, 12)[0]


def test_large_replicas_take_turns_on_a_cpu(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    session = seeds(store, 12)
    rows = tree_bytes(
        abstract_batch(session.streams, session.window_spec, session.batch_size).streams
    )
    monkeypatch.setattr(memory_plan, "_LARGE_BATCH_ON_CPU", rows)
    assert plan_memory(session).most == 12
    monkeypatch.setattr(memory_plan, "_LARGE_BATCH_ON_CPU", rows - 1)
    assert plan_memory(session).most == 1
    assert plan_memory(seeds(store, 12, replicas_at_once=12)).most == 12
    # Of several devices, each has one.
    spread = seeds(store, 12, devices=8)
    assert plan_memory(spread).most == spread.layout.mesh.devices.shape[0] > 1


def test_the_limit_is_the_devices_own_or_that_of_the_machine(store: Store) -> None:
    session = seeds(store, 3)
    assert device_limit(session.layout, 12345) == 12345
    machine = device_limit(session.layout)
    assert 2**24 < machine < 2**50
    devices = np.array([SimpleNamespace(memory_stats=lambda: {"bytes_limit": 1000})])
    layout: Any = SimpleNamespace(mesh=SimpleNamespace(devices=devices))
    assert device_limit(layout) == 900
    assert [bytes_text(n) for n in (0, 999, 1000, 123_456_789, 80e9)] == [
        "0 bytes", "999 bytes", "1 kB", "123 MB", "80 GB",
    ]  # fmt: skip


# -- resident data -------------------------------------------------------------------------------


def test_data_stay_on_disk_where_memory_is_short(store: Store) -> None:
    def feed_of(**sections: Any) -> tuple[Any, list[str]]:
        session = session_of(store, branched_config(store.path, **sections))
        wanted, reason = wanted_bytes(session, store)
        plan = plan_memory(session, resident=wanted)
        assert plan.most == 2
        feed = open_feed(session, store, resident=plan.resident)
        return feed, feed_lines(feed, session.config.train.steps_per_dispatch, wanted, reason)

    session = session_of(store, branched_config(store.path))
    videos = fold_videos(store, session.folds.keys)
    data = resident_bytes(store, videos, session.window_spec)
    assert data == tree_bytes(load_resident(store, videos, session.window_spec))
    needed = needed_bytes(footprint(session), session, 2)
    resident = {"data": {"feed": "resident"}}
    feed, lines = feed_of(**resident, train={"memory_limit": needed + data})
    assert feed.steps == 1
    assert "gathered on the device" in lines[0]
    many = {"memory_limit": needed + data - 1, "steps_per_dispatch": 4}
    feed, lines = feed_of(**resident, train=many)
    assert feed.resident(session.layout) is None
    assert "do not fit on the device" in lines[0]
    assert "steps_per_dispatch" in lines[1]
    # On a CPU they are read from disk unless somebody wants it otherwise, and nothing is said.
    feed, lines = feed_of()
    assert feed.resident(session.layout) is None
    assert lines == []


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("data", "feed", "disk"),
        ("train", "memory_limit", -1),
        ("train", "memory_limit", 0.5),
        ("train", "replicas_at_once", -1),
        ("train", "steps_per_dispatch", True),
        ("train", "steps_per_dispatch", -2),
    ],
)
def test_settings_that_cannot_be_are_refused(
    store: Store, section: str, key: str, value: Any
) -> None:
    with pytest.raises(InputError) as caught:
        session_of(store, branched_config(store.path, **{section: {key: value}}))
    assert caught.value.details["field"] == f"config.{section}.{key}"


# -- profiles ------------------------------------------------------------------------------------


def test_a_profile_is_of_a_few_steps_after_the_first_ones(tmp_path: Path) -> None:
    step = jax.jit(lambda x: x + 1)

    def profiled(folder: Path | None, steps: int) -> tuple[list[int], list[str]]:
        profile, x, during = Profile(folder), np.zeros(3, np.float32), []
        for number in range(steps):
            profile.before_dispatch(x)
            during += [number] if profile.running else []
            x = step(x)
        profile.stop(x)
        assert not profile.running
        return during, profile.lines()

    assert profiled(None, 20) == ([], [])
    steps, lines = profiled(tmp_path / "profile", 20)
    assert steps == [3, 4, 5, 6, 7]
    (trace,) = (tmp_path / "profile").rglob("perfetto_trace.json.gz")
    assert str(trace) in lines[0]
    assert "tensorboard --logdir" in lines[1]
    # Fewer steps than it takes to begin are no profile, and one that is cut short is one.
    steps, lines = profiled(tmp_path / "none", 3)
    assert steps == []
    assert "no profile" in lines[0]
    assert not (tmp_path / "none").exists()
    assert profiled(tmp_path / "short", 5)[0] == [3, 4]
